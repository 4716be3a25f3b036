//! `GPUModel`: a catalogue entry. The catalogue that comes with Atoll is `catalogue/gpumodels.yaml`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Workload;
use crate::rules;

/// A model of GPU: H100-SXM5-80GB, RTX 4090, M3 Ultra.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "GPUModel",
    root = "GpuModel",
    plural = "gpumodels",
    shortname = "gpum",
    category = "atoll",
    status = "GpuModelStatus",
    derive = "PartialEq",
    doc = "A model of GPU, by the names that nodes report for it.",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name must be at most 63 characters, so that gpu.models can name it"),
    printcolumn(name = "Vendor", type_ = "string", json_path = ".spec.vendor"),
    printcolumn(name = "Family", type_ = "string", json_path = ".spec.family"),
    printcolumn(name = "Memory", type_ = "integer", json_path = ".spec.memoryMib"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpus"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.freeGpus"),
    printcolumn(name = "USD/h", type_ = "string", json_path = ".spec.referencePrice")
)]
#[serde(rename_all = "camelCase")]
pub struct GpuModelSpec {
    /// Name for people, such as "NVIDIA H100 80GB HBM3 (SXM5)".
    #[schemars(length(min = 1, max = 128))]
    pub display_name: String,
    /// Who makes it.
    pub vendor: Vendor,
    /// Generation, such as "hopper" or "apple-m3".
    #[schemars(length(min = 1, max = 63), regex(pattern = rules::NAME))]
    pub family: String,
    /// Product names that NVML and GPU Feature Discovery report for it ("NVIDIA H100 80GB HBM3",
    /// "NVIDIA-H100-80GB-HBM3"); matched without regard to case, blanks and dashes alike.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub aliases: Vec<String>,
    /// MiB of memory that it is sold with. A GPU that reports up to 10 % less, as drivers keep some for themselves, counts
    /// with this, any other with what it reports. Models that share an alias are told apart by it.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub memory_mib: i64,
    /// Dense half-precision throughput relative to an RTX 4090's 1,000; see the catalogue for sources.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub compute_score: i64,
    /// What it suits.
    #[schemars(length(min = 1, max = 6))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub workloads: Vec<Workload>,
    /// USDC per GPU and hour where a node names no price, a decimal.
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::price("referencePrice"))]
    pub reference_price: String,
}

/// Who makes a GPU.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// NVIDIA.
    #[serde(rename = "NVIDIA")]
    Nvidia,
    /// Apple.
    Apple,
}

/// What the network has of a model, at the last transition.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuModelStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// GPUs in the network.
    #[serde(default)]
    pub gpus: i32,
    /// Of these, free.
    #[serde(default)]
    pub free_gpus: i32,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
