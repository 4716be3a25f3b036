//! What happens to members whose Site the hub does not hear any more.

// Kubernetes says the unit in the name of a field.
#![allow(clippy::struct_field_names)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens when a Site goes away.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Disconnection {
    /// Default: Replace for Pods; Restart for Torch and Ray with a checkpoint store, Fail without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<DisconnectionPolicy>,
    /// How soon, counted from the Site's last granted lease.
    #[serde(default)]
    pub times: DisconnectionTimes,
}

/// What happens to a Cluster when members are lost with their Site. Default: Replace for Pods; Restart for Torch and
/// Ray with a checkpoint store, Fail without one.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum DisconnectionPolicy {
    /// Only lost members move, the others run on.
    Replace,
    /// All members start again from their checkpoint.
    Restart,
    /// The Cluster fails.
    Fail,
    /// Members run on while their Site is cut off, and are placed again elsewhere when its fence has expired: for a while
    /// a rank may run twice. For independent members of services only.
    Autonomous,
}

/// Times since the last granted lease of a Site; each is more than the one before.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[x_kube(
    validation = Rule::new("self.killSeconds > self.stopSeconds")
        .message("killSeconds must be more than stopSeconds")
        .field_path(".killSeconds"),
    validation = Rule::new("self.fenceSeconds > self.killSeconds")
        .message("fenceSeconds must be more than killSeconds")
        .field_path(".fenceSeconds")
)]
#[serde(rename_all = "camelCase")]
pub struct DisconnectionTimes {
    /// The Site asks members to stop.
    #[serde(default = "default_stop")]
    #[schemars(range(min = 3, max = 3_600))]
    pub stop_seconds: i32,
    /// The Site kills them.
    #[serde(default = "default_kill")]
    #[schemars(range(min = 4, max = 7_199))]
    pub kill_seconds: i32,
    /// The hub counts them as stopped and may replace them.
    #[serde(default = "default_fence")]
    #[schemars(range(min = 5, max = 7_200))]
    pub fence_seconds: i32,
}

fn default_stop() -> i32 {
    60
}
fn default_kill() -> i32 {
    90
}
fn default_fence() -> i32 {
    120
}

impl Default for DisconnectionTimes {
    fn default() -> Self {
        Self { stop_seconds: default_stop(), kill_seconds: default_kill(), fence_seconds: default_fence() }
    }
}
