//! `Cluster.status`: written by the operator's Cluster controller alone, always with a resourceVersion.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::disconnection::DisconnectionTimes;

/// What became of a Cluster.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for people: Pending, Starting, Running, Degraded, Suspended, Complete, Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Conditions; types in `conditions::cluster`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Highest epoch ever used, so that none is used twice.
    #[serde(default)]
    pub epoch: i64,
    /// Term of the leader that wrote this status; the API server refuses one that is over.
    #[serde(default)]
    pub term: i64,
    /// The commit: which GPUs are taken. Absent when none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementStatus>,
    /// Ready members.
    #[serde(default)]
    pub ready: i32,
    /// Placed members.
    #[serde(default)]
    pub total: i32,
    /// "ready/total", for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_members: Option<String>,
    /// GPUs placed.
    #[serde(default)]
    pub gpus: i32,
    /// USDC per hour for all GPUs placed, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<String>,
    /// Where it runs, for people: a Site, or "3 Sites".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Address of rank 0 for Torch and Ray, inside its Site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Failures since the Cluster was made, counted as `spec.backoffLimit` says.
    #[serde(default)]
    pub failures: i32,
    /// When all members were Ready for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the Cluster ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Why it is where it is, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Label selector of members, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// The commit of a placement.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlacementStatus {
    /// Epoch of this commit; members placed by it have this incarnation.
    pub epoch: i64,
    /// Term of the leader that committed. Where two commits overlap the higher term wins.
    pub term: i64,
    /// When, by the leader's clock; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<Time>,
    /// GPUs of each member.
    pub gpus: i32,
    /// Fence times that hold for these members.
    pub fence: DisconnectionTimes,
    /// Grouped by Site. Atomic: one writer, and per-entry ownership would triple the object's size.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub sites: Vec<PlacedSite>,
}

/// Members on one Site.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlacedSite {
    /// Name of the Site.
    pub site: String,
    /// Price that was agreed, USDC per GPU and hour, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// Nodes with their members.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub nodes: Vec<PlacedNode>,
}

/// Members of consecutive ranks on one node. Short names: there may be 10,000 of these in one object.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct PlacedNode {
    /// Name of the Node at its Site.
    pub name: String,
    /// First rank.
    pub rank: i32,
    /// How many ranks.
    pub count: i32,
    /// Incarnation of these members: the epoch that placed them.
    pub incarnation: i64,
}
