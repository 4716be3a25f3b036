//! Gangs as Kubernetes itself has them (`scheduling.k8s.io/v1beta1`).

use super::meta::ObjectMeta;

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodGroup {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<PodGroupSpec>,
    #[prost(message, optional, tag = "3")]
    pub status: Option<PodGroupStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodGroupSpec {
    #[prost(string, optional, tag = "1")]
    pub parent_composite_pod_group_name: Option<String>,
    #[prost(message, optional, tag = "3")]
    pub scheduling_policy: Option<PodGroupSchedulingPolicy>,
    #[prost(message, optional, tag = "4")]
    pub scheduling_constraints: Option<PodGroupSchedulingConstraints>,
    #[prost(message, repeated, tag = "5")]
    pub resource_claims: Vec<PodGroupResourceClaim>,
    #[prost(message, optional, tag = "6")]
    pub disruption_mode: Option<DisruptionMode>,
    #[prost(int32, optional, tag = "8")]
    pub priority: Option<i32>,
    #[prost(string, optional, tag = "9")]
    pub preemption_policy: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodGroupSchedulingPolicy {
    #[prost(message, optional, tag = "1")]
    pub basic: Option<Empty>,
    #[prost(message, optional, tag = "2")]
    pub gang: Option<GangSchedulingPolicy>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct GangSchedulingPolicy {
    #[prost(int32, tag = "1")]
    pub min_count: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodGroupSchedulingConstraints {
    #[prost(message, repeated, tag = "1")]
    pub topology: Vec<TopologyConstraint>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TopologyConstraint {
    #[prost(string, tag = "1")]
    pub key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodGroupResourceClaim {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DisruptionMode {
    #[prost(message, optional, tag = "1")]
    pub single: Option<Empty>,
    #[prost(message, optional, tag = "2")]
    pub all: Option<Empty>,
}

/// A message whose presence says it all.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodGroupStatus {
    #[prost(message, repeated, tag = "1")]
    pub conditions: Vec<Condition>,
}

/// `meta/v1` Condition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Condition {
    #[prost(string, tag = "1")]
    pub r#type: String,
    #[prost(string, tag = "2")]
    pub status: String,
    #[prost(string, tag = "5")]
    pub reason: String,
    #[prost(string, tag = "6")]
    pub message: String,
}
