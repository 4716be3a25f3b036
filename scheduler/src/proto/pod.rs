//! Pods, as far as their placement goes.
//!
//! What is only compared stays where it was read from ([`Bytes`]), what is kept is a `String`: most of the time that
//! decoding takes goes into finding room for strings.

use std::collections::BTreeMap;

use prost::bytes::Bytes;

use super::meta::{Amount, LabelSelector, ObjectMeta, Time};
use super::node::{NodeSelector, NodeSelectorTerm};
use super::volume::Volume;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Pod {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<PodSpec>,
    #[prost(message, optional, tag = "3")]
    pub status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSpec {
    #[prost(message, repeated, tag = "1")]
    pub volumes: Vec<Volume>,
    #[prost(message, repeated, tag = "2")]
    pub containers: Vec<Container>,
    #[prost(int64, optional, tag = "5")]
    pub active_deadline_seconds: Option<i64>,
    #[prost(btree_map = "string, string", tag = "7")]
    pub node_selector: BTreeMap<String, String>,
    #[prost(string, tag = "10")]
    pub node_name: String,
    #[prost(bool, tag = "11")]
    pub host_network: bool,
    #[prost(message, optional, tag = "18")]
    pub affinity: Option<Affinity>,
    #[prost(bytes = "bytes", tag = "19")]
    pub scheduler_name: Bytes,
    #[prost(message, repeated, tag = "20")]
    pub init_containers: Vec<Container>,
    #[prost(message, repeated, tag = "22")]
    pub tolerations: Vec<Toleration>,
    #[prost(int32, optional, tag = "25")]
    pub priority: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "31")]
    pub preemption_policy: Option<Bytes>,
    #[prost(message, repeated, tag = "32")]
    pub overhead: Vec<Amount>,
    #[prost(message, repeated, tag = "33")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    #[prost(bool, optional, tag = "37")]
    pub host_users: Option<bool>,
    #[prost(message, repeated, tag = "38")]
    pub scheduling_gates: Vec<PodSchedulingGate>,
    #[prost(message, repeated, tag = "39")]
    pub resource_claims: Vec<PodResourceClaim>,
    #[prost(message, optional, tag = "40")]
    pub resources: Option<ResourceRequirements>,
    #[prost(message, optional, tag = "43")]
    pub scheduling_group: Option<PodSchedulingGroup>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodStatus {
    #[prost(bytes = "bytes", tag = "1")]
    pub phase: Bytes,
    #[prost(message, repeated, tag = "2")]
    pub conditions: Vec<PodCondition>,
    #[prost(message, optional, tag = "7")]
    pub start_time: Option<Time>,
    #[prost(message, repeated, tag = "8")]
    pub container_statuses: Vec<ContainerStatus>,
    #[prost(message, repeated, tag = "10")]
    pub init_container_statuses: Vec<ContainerStatus>,
    #[prost(string, tag = "11")]
    pub nominated_node_name: String,
    #[prost(message, repeated, tag = "19")]
    pub allocated_resources: Vec<Amount>,
    #[prost(message, optional, tag = "20")]
    pub resources: Option<ResourceRequirements>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodCondition {
    #[prost(bytes = "bytes", tag = "1")]
    pub r#type: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub status: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub reason: Bytes,
    #[prost(string, tag = "6")]
    pub message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    #[prost(message, repeated, tag = "6")]
    pub ports: Vec<ContainerPort>,
    #[prost(message, optional, tag = "8")]
    pub resources: Option<ResourceRequirements>,
    #[prost(message, repeated, tag = "9")]
    pub volume_mounts: Vec<VolumeMount>,
    #[prost(bytes = "bytes", optional, tag = "24")]
    pub restart_policy: Option<Bytes>,
    #[prost(message, repeated, tag = "25")]
    pub restart_policy_rules: Vec<ContainerRestartRule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerPort {
    #[prost(int32, tag = "2")]
    pub host_port: i32,
    #[prost(string, tag = "4")]
    pub protocol: String,
    #[prost(string, tag = "5")]
    pub host_ip: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeMount {
    #[prost(string, repeated, tag = "8")]
    pub bind_mount_options: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerRestartRule {
    #[prost(string, tag = "1")]
    pub action: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceRequirements {
    #[prost(message, repeated, tag = "2")]
    pub requests: Vec<Amount>,
    #[prost(message, repeated, tag = "3")]
    pub claims: Vec<ResourceClaim>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceClaim {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerStatus {
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    #[prost(message, repeated, tag = "10")]
    pub allocated_resources: Vec<Amount>,
    #[prost(message, optional, tag = "11")]
    pub resources: Option<ResourceRequirements>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Toleration {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub operator: String,
    #[prost(string, tag = "3")]
    pub value: String,
    #[prost(string, tag = "4")]
    pub effect: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Affinity {
    #[prost(message, optional, tag = "1")]
    pub node_affinity: Option<NodeAffinity>,
    #[prost(message, optional, tag = "2")]
    pub pod_affinity: Option<PodAffinity>,
    #[prost(message, optional, tag = "3")]
    pub pod_anti_affinity: Option<PodAffinity>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeAffinity {
    /// `requiredDuringSchedulingIgnoredDuringExecution`
    #[prost(message, optional, tag = "1")]
    pub required: Option<NodeSelector>,
    /// `preferredDuringSchedulingIgnoredDuringExecution`
    #[prost(message, repeated, tag = "2")]
    pub preferred: Vec<PreferredSchedulingTerm>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PreferredSchedulingTerm {
    #[prost(int32, tag = "1")]
    pub weight: i32,
    #[prost(message, optional, tag = "2")]
    pub preference: Option<NodeSelectorTerm>,
}

/// `PodAffinity` and `PodAntiAffinity`, which have the same fields.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodAffinity {
    /// `requiredDuringSchedulingIgnoredDuringExecution`
    #[prost(message, repeated, tag = "1")]
    pub required: Vec<PodAffinityTerm>,
    /// `preferredDuringSchedulingIgnoredDuringExecution`
    #[prost(message, repeated, tag = "2")]
    pub preferred: Vec<WeightedPodAffinityTerm>,
}

/// Its label keys to match need no reading: the API server has added them to the selector.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodAffinityTerm {
    #[prost(message, optional, tag = "1")]
    pub label_selector: Option<LabelSelector>,
    #[prost(string, repeated, tag = "2")]
    pub namespaces: Vec<String>,
    #[prost(string, tag = "3")]
    pub topology_key: String,
    #[prost(message, optional, tag = "4")]
    pub namespace_selector: Option<LabelSelector>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WeightedPodAffinityTerm {
    #[prost(int32, tag = "1")]
    pub weight: i32,
    #[prost(message, optional, tag = "2")]
    pub pod_affinity_term: Option<PodAffinityTerm>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TopologySpreadConstraint {
    #[prost(int32, tag = "1")]
    pub max_skew: i32,
    #[prost(string, tag = "2")]
    pub topology_key: String,
    #[prost(string, tag = "3")]
    pub when_unsatisfiable: String,
    #[prost(message, optional, tag = "4")]
    pub label_selector: Option<LabelSelector>,
    #[prost(int32, optional, tag = "5")]
    pub min_domains: Option<i32>,
    #[prost(string, optional, tag = "6")]
    pub node_affinity_policy: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub node_taints_policy: Option<String>,
    #[prost(string, repeated, tag = "8")]
    pub match_label_keys: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSchedulingGate {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSchedulingGroup {
    #[prost(string, optional, tag = "1")]
    pub pod_group_name: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodResourceClaim {
    #[prost(string, tag = "1")]
    pub name: String,
}
