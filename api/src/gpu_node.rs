//! `GPUNode`: one machine with GPUs. A Site's own is named after its Node and written by the device plugin there; the
//! hub's copy is named `<site>.<node>`, labelled with its Site, and written by the gateway.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// The most bytes of `status.devices` in the hub's copy, as JSON, so that the copy stays below 2 KiB without its metadata.
pub const HUB_DEVICES_BYTES: usize = 1_024;

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
    printcolumn(name = "Unhealthy", type_ = "integer", json_path = ".status.unhealthy"),
    printcolumn(name = "Others", type_ = "integer", json_path = ".status.usedByOthers"),
    printcolumn(name = "Fence", type_ = "string", json_path = ".status.fence", priority = 1),
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
    /// Name of the Site; in the hub's copy only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
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
    /// GPUs and instances that may not be given out now, and that `allocatable` does not count.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub unhealthy: i32,
    /// Of `allocatable`, in use by pods that are not Atoll's; in the hub's copy only.
    #[serde(default)]
    pub used_by_others: i32,
    /// The Node is Ready and schedulable; in the hub's copy only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
    /// What stops members there when the hub is not heard; in the hub's copy only. Absent: `ApiOnly`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<NodeFence>,
    /// Version of the GPU driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// GPUs, and where one is divided its instances in place of it. The hub's copy names those that are not Healthy first,
    /// and as many of the others as fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 256))]
    pub devices: Vec<GpuDevice>,
    /// Conditions of a Site's own; types in `conditions::gpu_node`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What stops members of a node when the hub is not heard.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum NodeFence {
    /// A watchdog on the node: it needs nobody else.
    Watchdog,
    /// The agent, through the Site's API server: members of a node that is cut off from that may run on.
    ApiOnly,
}

/// A GPU, or an instance of a divided one. Fields that say "Site only" are not in the hub's copy.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuDevice {
    /// UUID, as the driver gives it.
    #[schemars(length(min = 1, max = 64))]
    pub uuid: String,
    /// Number of the GPU on its node as the driver counts. Site only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i32>,
    /// Whether it may be given out.
    #[serde(default, skip_serializing_if = "DeviceHealth::is_healthy")]
    pub health: DeviceHealth,
    /// Why it is not Healthy, the gravest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 8))]
    pub reasons: Vec<DeviceReason>,
    /// When `health` and the codes of `reasons` became what they are. Site only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Product, where it is another than the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 192))]
    pub product: Option<String>,
    /// MiB of memory, where it is another than the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<i64>,
    /// Profile of an instance, such as "1g.10gb".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub profile: Option<String>,
    /// The extended resource that the kubelet counts it under. Site only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub resource: Option<String>,
    /// How many containers may share it at once, where that is more than one. Site only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub replicas: Option<i32>,
    /// NUMA node that it is attached to. Site only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa: Option<i32>,
    /// How near the other GPUs of the node are; equally near ones in one entry. Site only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 64))]
    pub links: Vec<DeviceLink>,
    /// Pods that hold it, while it is Unhealthy. Site only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(length(max = 64))]
    pub holders: Vec<DeviceHolder>,
}

/// Whether a device may be given out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceHealth {
    /// It may.
    #[default]
    Healthy,
    /// It may, and somebody should look at it.
    Degraded,
    /// It may not.
    Unhealthy,
}

impl DeviceHealth {
    /// Nothing is wrong.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub const fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy)
    }
}

/// Why a device is not Healthy.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct DeviceReason {
    /// A word that docs/troubleshooting.md explains.
    #[schemars(length(min = 1, max = 64))]
    pub code: String,
    /// What happened and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
}

/// How near other GPUs are.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct DeviceLink {
    /// Their numbers, as in `index`.
    #[schemars(length(max = 64))]
    pub to: Vec<i32>,
    /// `NVLink`s to each of them; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlinks: Option<i32>,
    /// The way over the bus.
    pub bus: DeviceBus,
}

/// The way between two GPUs over the bus, nearest first.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceBus {
    /// Both on one board.
    Internal,
    /// Through one PCI Express switch.
    Single,
    /// Through several PCI Express switches.
    Multiple,
    /// Through one host bridge.
    HostBridge,
    /// Within a NUMA node.
    Node,
    /// Across NUMA nodes.
    System,
}

/// A pod that holds a device.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct DeviceHolder {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Its UID, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
}
