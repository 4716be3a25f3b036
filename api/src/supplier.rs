//! `Supplier`: who owns Sites and is paid.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Who owns Sites and is paid.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "Supplier",
    category = "atoll",
    status = "SupplierStatus",
    derive = "PartialEq",
    doc = "Who owns Sites and is paid.",
    printcolumn(name = "Name", type_ = "string", json_path = ".spec.displayName"),
    printcolumn(name = "Sites", type_ = "integer", json_path = ".status.sites"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpus"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SupplierSpec {
    /// Name for people.
    #[schemars(length(min = 1, max = 128))]
    pub display_name: String,
    /// Where to reach them: an e-mail address or a URL. Who joined by a wallet alone has none until the hub's operators know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^[^@ ]+@[^@ ]+$') || self.matches('^https?://[^ ]+$')")
        .message("contact must be an e-mail address or a URL"))]
    pub contact: Option<String>,
    /// Solana address that is paid, base58.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9A-HJ-NP-Za-km-z]{32,44}$')")
        .message("wallet must be a Solana address: 32 to 44 characters of base58"))]
    pub wallet: Option<String>,
    /// True: all its Sites are suspended: their sessions end, nothing is placed there, and none joins or renews.
    #[serde(default)]
    pub suspended: bool,
}

/// What a supplier brings.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SupplierStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Joined Sites.
    #[serde(default)]
    pub sites: i32,
    /// GPUs of these Sites.
    #[serde(default)]
    pub gpus: i32,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
