//! `Site`: one supplier's Kubernetes cluster, joined to the hub. The gateway writes it at the join and at transitions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Trust;
use crate::rules;

/// One supplier's Kubernetes cluster, named by the hash of its key.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "Site",
    category = "atoll",
    status = "SiteStatus",
    derive = "PartialEq",
    doc = "One supplier's Kubernetes cluster, joined to the hub.",
    printcolumn(name = "Display", type_ = "string", json_path = ".spec.displayName"),
    printcolumn(name = "Supplier", type_ = "string", json_path = ".spec.supplier"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region"),
    printcolumn(name = "Trust", type_ = "string", json_path = ".spec.trust"),
    printcolumn(
        name = "Connected",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Connected\")].status"
    ),
    printcolumn(name = "Availability", type_ = "string", json_path = ".status.availability"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpus"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.freeGpus"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SiteSpec {
    /// Name of the Supplier that is paid.
    #[schemars(length(min = 1, max = 253), regex(pattern = rules::NAME))]
    pub supplier: String,
    /// A name for people, chosen at the join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub display_name: Option<String>,
    /// Region, such as "eu-west".
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::region("region"))]
    pub region: String,
    /// How far it is trusted; only the hub's operators raise it.
    #[serde(default)]
    pub trust: Trust,
    /// True: its session ends, nothing is placed there.
    #[serde(default)]
    pub suspended: bool,
    /// True: it joined by a wallet's signature alone. It is seen and measured, and nothing is placed there until it is
    /// promoted.
    #[serde(default)]
    pub quarantined: bool,
}

/// What a supplier wants of its own Site.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum Availability {
    /// Members may come.
    #[default]
    Accepting,
    /// Members stay, none comes.
    Paused,
    /// Members are to move away; what is still there after the supplier's own deadline is stopped.
    Draining,
}

/// Members that count as stopped although their Site never said so.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct FencedCluster {
    /// UID of the Cluster.
    pub cluster_uid: String,
    /// Its members of this and lower incarnations. Slices of such epochs are not delivered to the Site any more.
    pub epoch: i64,
}

/// What the hub knows of a Site. `session` and the Connected condition are the gateway's, the counts the operator's.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions; types in `conditions::site`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The newest session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SiteSession>,
    /// Nodes with GPUs.
    #[serde(default)]
    pub nodes: i32,
    /// GPUs that the Site offers.
    #[serde(default)]
    pub gpus: i32,
    /// Of these, not placed by the hub and not in use by others, at the last transition.
    #[serde(default)]
    pub free_gpus: i32,
    /// What its supplier wants, as the agent said last. Absent: Accepting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<Availability>,
    /// Written by the operator before it replaces members of a lost Site, on the resourceVersion at which it saw the Site
    /// lost: a session that began meanwhile makes that write fail. An entry stays until the Cluster has no slice of such an
    /// epoch there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["clusterUid".into()]))]
    pub fenced: Vec<FencedCluster>,
}

/// A session of a Site's agent with a gateway.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SiteSession {
    /// Grows with every session of the Site.
    pub number: i64,
    /// Name of the gateway's Lease.
    pub gateway: String,
    /// The agent's boot id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// When the gateway last granted a lease, written only when the session is lost; fences count from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_grant: Option<Time>,
    /// How long before it wrote that the gateway last granted a lease, by its boot-time clock: the operator counts fences
    /// from so long before it first saw this, so that clocks of machines are not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_grant_age_milliseconds: Option<i64>,
}
