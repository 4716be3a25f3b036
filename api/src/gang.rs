//! `Gang`: on Sites only; stands between a Site's agent (spec) and its scheduler (status).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Members that are bound all together or not at all.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "Gang",
    namespaced,
    category = "atoll",
    status = "GangStatus",
    derive = "PartialEq",
    doc = "Members that a Site binds all together or not at all; stands between its agent and its scheduler.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GangSpec {
    /// Hold: keep the capacity free for the members. Run: bind their pods.
    pub mode: GangMode,
    /// Pods of the members: what each asks for.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(min = 1, max = 16))]
    pub shapes: Vec<GangShape>,
    /// The members.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 500))]
    pub members: Vec<GangMember>,
    /// Parts of the Site that the members are to share, coarse to fine: zone, rack, island of fast links.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 8))]
    pub topology: Vec<GangTopology>,
}

/// A part of the Site that the members are to share.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GangTopology {
    /// Node label whose values name the parts.
    #[schemars(length(min = 1, max = 316))]
    pub key: String,
    /// Whether the gang waits for it.
    pub mode: TopologyMode,
}

/// Whether a gang waits for its topology.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum TopologyMode {
    /// All members share one value, or none is bound.
    Required,
    /// They share one value where that can be had.
    Preferred,
}

/// What the scheduler is to do.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum GangMode {
    /// Keep the capacity free for members that have no pod yet.
    Hold,
    /// Bind the members' pods.
    Run,
}

/// What a member's pod asks for.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GangShape {
    /// Sum over containers, init peaks included: "cpu", "memory", "nvidia.com/gpu".
    pub requests: BTreeMap<String, Quantity>,
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the member tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

/// One member of a gang.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GangMember {
    /// Name of its pod in the gang's namespace.
    pub pod: String,
    /// Rank in the Cluster.
    pub rank: i32,
    /// Index into `shapes`.
    #[serde(default)]
    pub shape: i32,
    /// The node that the hub chose; taken when it still fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// What became of a gang.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GangStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<GangPhase>,
    /// Why; constants in `conditions::member_reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In words: what was asked, what was free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// A hold that is not followed by Run is released then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_until: Option<Time>,
    /// Nodes of held or bound members. A member that is named here and whose pod is gone was lost, it is not new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub nodes: Vec<GangNode>,
}

/// Where a gang stands.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum GangPhase {
    /// Not decided yet.
    Pending,
    /// Every member's capacity is held.
    Reserved,
    /// Every member is bound.
    Bound,
    /// Not to be had; nothing is held for members without a pod.
    Refused,
}

/// The node of a held or bound member.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GangNode {
    /// Name of the member's pod.
    pub pod: String,
    /// Name of the Node.
    pub node: String,
}
