//! `ClusterSlice`: the members of one Cluster on one Site; the operator writes the spec, the gateway the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::ClusterType;
use crate::disconnection::DisconnectionTimes;
use crate::rules;
use crate::template::MemberTemplate;

/// The most members of one slice; larger shares of a Site are several slices.
pub const MAX_SLICE_MEMBERS: usize = 500;

/// The members of one Cluster on one Site.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "ClusterSlice",
    namespaced,
    category = "atoll",
    status = "ClusterSliceStatus",
    derive = "PartialEq",
    doc = "The members of one Cluster on one Site; written by the operator and the gateways, never by tenants.",
    selectable = ".spec.site",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Site", type_ = "string", json_path = ".spec.site"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".spec.epoch"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".spec.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSliceSpec {
    /// Name of the Site.
    #[schemars(length(min = 1, max = 253), regex(pattern = rules::NAME))]
    #[x_kube(validation = rules::immutable("site"))]
    pub site: String,
    /// Name of the Cluster.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = rules::immutable("cluster"))]
    pub cluster: String,
    /// UID of the Cluster.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rules::immutable("clusterUid"))]
    pub cluster_uid: String,
    /// Epoch of the commit that this slice follows.
    #[schemars(range(min = 1))]
    pub epoch: i64,
    /// Term of the leader that wrote this; the API server refuses one that is over.
    #[schemars(range(min = 0))]
    pub term: i64,
    /// Reserve: hold the capacity of members whose incarnation is `epoch`. Run: start them.
    pub phase: SlicePhase,
    /// How members find each other.
    #[serde(rename = "type")]
    pub type_: ClusterType,
    /// The members, in order of rank.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 500))]
    pub members: Vec<SliceMember>,
    /// GPUs of each member.
    #[schemars(range(min = 1, max = 16))]
    pub gpus: i32,
    /// What members need to know of the whole Cluster to find each other.
    pub rendezvous: Rendezvous,
    /// When members stop without a lease.
    pub fence: DisconnectionTimes,
    /// True: members run on without a lease.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub autonomous: bool,
    /// Where members keep their checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_store: Option<String>,
    /// The pod that every member runs.
    pub template: MemberTemplate,
}

/// What the Site is to do with the new members of a slice.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum SlicePhase {
    /// Hold the capacity.
    Reserve,
    /// Start the members.
    Run,
}

/// One member.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct SliceMember {
    /// Rank in the Cluster, from 0.
    pub rank: i32,
    /// The Node at the Site that the hub chose.
    pub node: String,
    /// The epoch that placed it.
    pub incarnation: i64,
}

/// What members need to know of the whole Cluster to find each other.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rendezvous {
    /// Members of the whole Cluster.
    pub world_size: i32,
    /// Incarnation of rank 0, whose pod the others look for.
    pub leader_incarnation: i64,
}

/// What the Site says.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSliceStatus {
    /// Number of the Site's session in which it was said. What an older session said is not written over it.
    #[serde(default)]
    pub session: i64,
    /// Epoch of the spec that this status answers.
    #[serde(default)]
    pub observed_epoch: i64,
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whether the capacity of the new members is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<ReservationPhase>,
    /// Why not; constants in `conditions::member_reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Every member that the Site holds or has seen end; a member that is gone and not in the spec is not listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub members: Vec<MemberStatus>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Whether the capacity of the new members is held.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum ReservationPhase {
    /// Not decided yet.
    Pending,
    /// Held, or bound already.
    Reserved,
    /// Not to be had; `reason` says why.
    Refused,
}

/// What became of a member.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Rank in the Cluster.
    pub rank: i32,
    /// Incarnation that this says something about.
    pub incarnation: i64,
    /// Where it stands.
    pub phase: MemberPhase,
    /// The Node that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Address of its pod inside the Site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Why; constants in `conditions::member_reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum MemberPhase {
    /// Not started yet.
    Pending,
    /// Started, not Ready yet.
    Starting,
    /// Running and Ready.
    Ready,
    /// Being stopped: it still holds its GPUs.
    Stopping,
    /// Ended well; holds no GPUs.
    Succeeded,
    /// Ended badly; holds no GPUs.
    Failed,
    /// Gone without its own doing (evicted, stopped by its fence); holds no GPUs.
    Lost,
}

impl MemberPhase {
    /// Whether the member has ended and holds no GPUs any more.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Lost => true,
            Self::Pending | Self::Starting | Self::Ready | Self::Stopping => false,
        }
    }
}
