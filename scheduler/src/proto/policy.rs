//! Disruption budgets (`policy/v1`).

use std::collections::BTreeMap;

use super::meta::{LabelSelector, ObjectMeta, Time};

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodDisruptionBudget {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<PodDisruptionBudgetSpec>,
    #[prost(message, optional, tag = "3")]
    pub status: Option<PodDisruptionBudgetStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodDisruptionBudgetSpec {
    #[prost(message, optional, tag = "2")]
    pub selector: Option<LabelSelector>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodDisruptionBudgetStatus {
    #[prost(btree_map = "string, message", tag = "2")]
    pub disrupted_pods: BTreeMap<String, Time>,
    #[prost(int32, tag = "3")]
    pub disruptions_allowed: i32,
}
