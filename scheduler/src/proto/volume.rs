//! Volumes of pods, their claims, and how many of them a node may attach.

use super::meta::ObjectMeta;
use super::node::NodeSelector;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Volume {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub volume_source: Option<VolumeSource>,
}

/// Of the sources only those that bind a pod to nodes, or count on them; boxed because most volumes have none of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeSource {
    #[prost(message, optional, boxed, tag = "3")]
    pub gce_persistent_disk: Option<Box<GcePersistentDisk>>,
    #[prost(message, optional, boxed, tag = "4")]
    pub aws_elastic_block_store: Option<Box<DiskById>>,
    #[prost(message, optional, boxed, tag = "8")]
    pub iscsi: Option<Box<Iscsi>>,
    #[prost(message, optional, boxed, tag = "10")]
    pub persistent_volume_claim: Option<Box<PersistentVolumeClaimSource>>,
    #[prost(message, optional, boxed, tag = "11")]
    pub rbd: Option<Box<Rbd>>,
    #[prost(message, optional, boxed, tag = "13")]
    pub cinder: Option<Box<DiskById>>,
    #[prost(message, optional, boxed, tag = "22")]
    pub azure_disk: Option<Box<AzureDisk>>,
    #[prost(message, optional, boxed, tag = "24")]
    pub portworx_volume: Option<Box<DiskById>>,
    #[prost(message, optional, tag = "29")]
    pub ephemeral: Option<Ephemeral>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GcePersistentDisk {
    #[prost(string, tag = "1")]
    pub pd_name: String,
    #[prost(bool, tag = "4")]
    pub read_only: bool,
}

/// The disks whose first field is their id: AWS EBS, Cinder, Portworx, vSphere.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiskById {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AzureDisk {
    #[prost(string, tag = "2")]
    pub disk_uri: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Iscsi {
    #[prost(string, tag = "2")]
    pub iqn: String,
    #[prost(bool, tag = "6")]
    pub read_only: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Rbd {
    #[prost(string, repeated, tag = "1")]
    pub monitors: Vec<String>,
    #[prost(string, tag = "2")]
    pub image: String,
    #[prost(string, tag = "4")]
    pub pool: String,
    #[prost(bool, tag = "8")]
    pub read_only: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PersistentVolumeClaimSource {
    #[prost(string, tag = "1")]
    pub claim_name: String,
}

/// A claim that is made for the pod; its name follows from those of pod and volume.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Ephemeral {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PersistentVolumeClaim {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<PersistentVolumeClaimSpec>,
    #[prost(message, optional, tag = "3")]
    pub status: Option<PersistentVolumeClaimStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PersistentVolumeClaimSpec {
    #[prost(string, repeated, tag = "1")]
    pub access_modes: Vec<String>,
    #[prost(string, tag = "3")]
    pub volume_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PersistentVolumeClaimStatus {
    #[prost(string, tag = "1")]
    pub phase: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PersistentVolume {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<PersistentVolumeSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PersistentVolumeSpec {
    #[prost(message, optional, tag = "2")]
    pub persistent_volume_source: Option<PersistentVolumeSource>,
    #[prost(message, optional, tag = "9")]
    pub node_affinity: Option<VolumeNodeAffinity>,
}

/// Of the sources only those that count against a node's limits.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PersistentVolumeSource {
    #[prost(message, optional, tag = "1")]
    pub gce_persistent_disk: Option<GcePersistentDisk>,
    #[prost(message, optional, tag = "2")]
    pub aws_elastic_block_store: Option<DiskById>,
    #[prost(message, optional, tag = "8")]
    pub cinder: Option<DiskById>,
    #[prost(message, optional, tag = "16")]
    pub azure_disk: Option<AzureDisk>,
    #[prost(message, optional, tag = "18")]
    pub portworx_volume: Option<DiskById>,
    #[prost(message, optional, tag = "22")]
    pub csi: Option<CsiPersistentVolume>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CsiPersistentVolume {
    #[prost(string, tag = "1")]
    pub driver: String,
    #[prost(string, tag = "2")]
    pub volume_handle: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeNodeAffinity {
    #[prost(message, optional, tag = "1")]
    pub required: Option<NodeSelector>,
}

/// `storage.k8s.io/v1`
#[derive(Clone, PartialEq, prost::Message)]
pub struct CsiNode {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<CsiNodeSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CsiNodeSpec {
    #[prost(message, repeated, tag = "1")]
    pub drivers: Vec<CsiNodeDriver>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CsiNodeDriver {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "4")]
    pub allocatable: Option<VolumeNodeResources>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct VolumeNodeResources {
    #[prost(int32, optional, tag = "1")]
    pub count: Option<i32>,
}
