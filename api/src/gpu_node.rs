//! `GPUNode`: one machine with GPUs. The hub's copy is named `<site>.<node>` and written by the gateway.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::rules;

/// One machine with GPUs.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "GPUNode",
    root = "GpuNode",
    plural = "gpunodes",
    shortname = "gpun",
    category = "atoll",
    status = "GpuNodeStatus",
    derive = "PartialEq",
    doc = "One machine with GPUs. The hub's copy is named after its Site and its Node.",
    printcolumn(name = "Site", type_ = "string", json_path = ".status.site"),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.model"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.allocatable"),
    printcolumn(name = "Others", type_ = "integer", json_path = ".status.usedByOthers"),
    printcolumn(name = "USD/h", type_ = "string", json_path = ".spec.pricePerGpuHour"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GpuNodeSpec {
    /// USDC per GPU and hour, a decimal with at most 6 places; absent: the model's reference price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::price("pricePerGpuHour"))]
    pub price_per_gpu_hour: Option<String>,
    /// True: nothing new is placed here.
    #[serde(default)]
    pub unschedulable: bool,
}

/// What the Site reports. No field changes without news.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuNodeStatus {
    /// Name of the Site.
    #[serde(default)]
    pub site: String,
    /// Name of the Node at its Site.
    #[serde(default)]
    pub node: String,
    /// Name of the `GPUModel`; empty: not in the catalogue, so never placed on.
    #[serde(default)]
    pub model: String,
    /// The product name that the node reports.
    #[serde(default)]
    pub product: String,
    /// MiB of memory of each GPU.
    #[serde(default)]
    pub memory_mib: i64,
    /// GPUs that the Site offers.
    #[serde(default)]
    pub allocatable: i32,
    /// Of these, in use by pods that are not Atoll's.
    #[serde(default)]
    pub used_by_others: i32,
    /// The Node is Ready and schedulable.
    #[serde(default)]
    pub ready: bool,
    /// Version of the GPU driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}
