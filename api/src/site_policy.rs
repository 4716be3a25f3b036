//! `SitePolicy`: on Sites only; what a supplier lets members do on its machines. The supplier writes the spec, the Site's
//! agent the status.

// Kubernetes says the unit in the name of a field.
#![allow(clippy::struct_field_names)]

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;
use crate::site::Availability;

/// How long a drain waits when the policy does not say: seconds.
pub const DEFAULT_DRAIN_SECONDS: i32 = 300;

/// What a supplier lets members do on its own machines. The one named "default" in the agent's namespace counts; without it
/// every field has its default.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "SitePolicy",
    plural = "sitepolicies",
    namespaced,
    category = "atoll",
    status = "SitePolicyStatus",
    derive = "PartialEq",
    doc = "What a supplier lets members do on its own machines; on Sites only, the one named \"default\".",
    validation = Rule::new("self.metadata.name == 'default'")
        .message("metadata.name must be \"default\": a Site has one policy"),
    printcolumn(name = "Availability", type_ = "string", json_path = ".spec.availability"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.members.running"),
    printcolumn(name = "Leaving", type_ = "integer", json_path = ".status.members.leaving"),
    printcolumn(name = "Applied", type_ = "string", json_path = ".status.conditions[?(@.type==\"Applied\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SitePolicySpec {
    /// Whether members may come, stay, or are to go.
    #[serde(default)]
    pub availability: Availability,
    /// So many seconds after Draining was seen, members that are still there are stopped, with their grace.
    #[serde(default = "default_drain")]
    #[schemars(range(min = 0, max = 86_400))]
    pub drain_seconds: i32,
    /// Which images members may run.
    #[serde(default)]
    pub images: ImageRules,
    /// How much members may take.
    #[serde(default)]
    pub members: MemberCaps,
    /// What members may reach.
    #[serde(default)]
    pub network: NetworkRules,
}

fn default_drain() -> i32 {
    DEFAULT_DRAIN_SECONDS
}

impl Default for SitePolicySpec {
    fn default() -> Self {
        Self {
            availability: Availability::default(),
            drain_seconds: DEFAULT_DRAIN_SECONDS,
            images: ImageRules::default(),
            members: MemberCaps::default(),
            network: NetworkRules::default(),
        }
    }
}

/// Which images members may run. Others are refused before anything of the member is made.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImageRules {
    /// True: images are named by their digest, `…@sha256:…`, so that what runs is what was looked at.
    #[serde(default)]
    pub require_digest: bool,
    /// Where images may come from: a registry's host, or a path in one, such as "docker.io/library" or
    /// "registry.example:5000/team". Empty: from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 255),
            regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$")
        )
    )]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(r, r.matches('^(localhost|[^/]*[.:][^/]*)(/|$)'))").message(
            "images.registries must begin with a host, such as \"registry.example\" or \"docker.io/library\""
        )
    )]
    pub registries: Vec<String>,
}

/// How much members may take. What asks for more is refused; a container without a limit for what is capped gets one.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberCaps {
    /// Members that may be on the Site at once; absent: as many as there are GPUs for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max: Option<i32>,
    /// CPUs of each member, all its containers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-int-or-string" = true, "pattern" = rules::QUANTITY, "maxLength" = 32))]
    #[x_kube(validation = rules::above_zero("members.cpu"))]
    pub cpu: Option<Quantity>,
    /// Memory of each member, all its containers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-int-or-string" = true, "pattern" = rules::QUANTITY, "maxLength" = 32))]
    #[x_kube(validation = rules::above_zero("members.memory"))]
    pub memory: Option<Quantity>,
    /// The node's disk for each member: its scratch volumes, logs, and what it writes into its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-int-or-string" = true, "pattern" = rules::QUANTITY, "maxLength" = 32))]
    #[x_kube(validation = rules::above_zero("members.ephemeralStorage"))]
    pub ephemeral_storage: Option<Quantity>,
}

/// What members may reach besides each other and the Site's DNS. Kept by the Site's network plugin, if it knows
/// `NetworkPolicy`s.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRules {
    /// True: members may reach public addresses. Private and link-local ones, and a few more that are never a tenant's
    /// business, are left out.
    #[serde(default = "default_internet")]
    pub internet: bool,
    /// Addresses of the supplier's own network that members may reach, as CIDRs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 49)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = rules::cidrs("network.allow", 0))]
    pub allow: Vec<String>,
    /// Public addresses that members may not reach although `internet` is true, as CIDRs: those of the supplier's own
    /// machines, for example.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 49)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = rules::cidrs("network.deny", 1))]
    pub deny: Vec<String>,
}

fn default_internet() -> bool {
    true
}

impl Default for NetworkRules {
    fn default() -> Self {
        Self { internet: true, allow: Vec::new(), deny: Vec::new() }
    }
}

/// What the Site's agent made of the policy.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SitePolicyStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions; types in `conditions::site_policy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// When the agent first saw the present drain; `drainSeconds` count from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_since: Option<Time>,
    /// Members on the Site.
    #[serde(default)]
    pub members: PresentMembers,
}

/// Members on a Site.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PresentMembers {
    /// Those that hold GPUs and are not being stopped.
    #[serde(default)]
    pub running: i32,
    /// Those that are being stopped.
    #[serde(default)]
    pub leaving: i32,
}
