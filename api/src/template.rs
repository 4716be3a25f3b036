//! The pod of a member: a bounded allow-list with `PodTemplateSpec`'s field names.
//!
//! Fields that would let a tenant harm a supplier's machine are declared and refused by rule, so that a
//! manifest with one of them is refused with a message instead of losing the field silently.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Probe;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::rules;

/// The pod of a member.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberTemplate {
    /// Labels and annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MemberMetadata>,
    /// What the pods run.
    pub spec: MemberTemplateSpec,
}

/// Labels and annotations.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberMetadata {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = json!({"type": "string", "maxLength": 63, "pattern": rules::LABEL_VALUE})
    ))]
    #[x_kube(
        validation = rules::label_keys("template.metadata.labels"),
        validation = rules::free_keys("template.metadata.labels")
    )]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = json!({"type": "string", "maxLength": 4096})
    ))]
    #[x_kube(
        validation = rules::label_keys("template.metadata.annotations"),
        validation = rules::free_keys("template.metadata.annotations")
    )]
    pub annotations: BTreeMap<String, String>,
}

/// What a member's pod runs.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(
    validation = Rule::new(
        "!has(self.initContainers) || !self.initContainers.exists(i, self.containers.exists(c, c.name == i.name))"
    )
    .message("initContainers must not share a name with containers")
    .reason(Reason::FieldValueDuplicate)
    .field_path(".initContainers"),
    validation = Rule::new(
        "self.containers.all(c, !has(c.volumeMounts) || \
         c.volumeMounts.all(m, has(self.volumes) && self.volumes.exists(v, v.name == m.name)))"
    )
    .message("containers.volumeMounts must name one of volumes")
    .field_path(".containers"),
    validation = Rule::new(
        "!has(self.initContainers) || self.initContainers.all(c, !has(c.volumeMounts) || \
         c.volumeMounts.all(m, has(self.volumes) && self.volumes.exists(v, v.name == m.name)))"
    )
    .message("initContainers.volumeMounts must name one of volumes")
    .field_path(".initContainers")
)]
#[serde(rename_all = "camelCase")]
pub struct MemberTemplateSpec {
    /// Containers; the first one gets the member's GPUs.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub containers: Vec<Container>,
    /// Containers that run before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub init_containers: Vec<Container>,
    /// Scratch volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub volumes: Vec<Volume>,
    /// What happens when a container ends. Never: the member ends with its containers.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// Seconds between the request to stop and the kill; less than `disconnection.times` leave between the two.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 0, max = 3_600))]
    pub termination_grace_period_seconds: i32,
    /// Refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::not_true("hostNetwork is not allowed: members have a network of their own"))]
    pub host_network: Option<bool>,
    /// Refused.
    #[serde(rename = "hostPID", default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::not_true("hostPID is not allowed: members do not see the host's processes"))]
    pub host_pid: Option<bool>,
    /// Refused.
    #[serde(rename = "hostIPC", default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::not_true("hostIPC is not allowed: members do not share memory with the host"))]
    pub host_ipc: Option<bool>,
    /// Refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::empty("serviceAccountName is not allowed: members do not reach their Site's API"))]
    pub service_account_name: Option<String>,
    /// Refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::not_true(
        "automountServiceAccountToken is not allowed: members do not reach their Site's API"
    ))]
    pub automount_service_account_token: Option<bool>,
    /// Refused: nodes are chosen by `gpu` and `placement`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::empty("nodeName is not allowed: nodes are chosen by gpu and placement"))]
    pub node_name: Option<String>,
}

fn default_grace() -> i32 {
    20
}

/// What happens when a container ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum RestartPolicy {
    /// The member ends with its containers.
    #[default]
    Never,
    /// Failed containers start again on the same node.
    OnFailure,
}

/// One container.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(
    validation = rules::probe_without_host("readinessProbe"),
    validation = rules::probe_without_host("livenessProbe"),
    validation = rules::probe_without_host("startupProbe")
)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Name, unique in the pod.
    #[schemars(length(max = 63), regex(pattern = rules::DNS_LABEL))]
    pub name: String,
    /// Image.
    #[schemars(length(min = 1, max = 500), regex(pattern = r"^\S+$"))]
    pub image: String,
    /// When to pull the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Entrypoint; absent: the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 16_384)))]
    pub command: Vec<String>,
    /// Arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 16_384)))]
    pub args: Vec<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub working_dir: Option<String>,
    /// Environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,
    /// Ports, for documentation and probes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ports: Vec<ContainerPort>,
    /// CPU and memory; GPUs come from `members.gpus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Mounts of `volumes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["mountPath".into()]))]
    pub volume_mounts: Vec<VolumeMount>,
    /// Decides when the member is Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Decides when the container is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// Holds the other probes back until the container has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,
    /// Users and file systems; anything that widens rights is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
}

/// When to pull an image.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum ImagePullPolicy {
    /// At each start.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Never.
    Never,
}

/// An environment variable. Names that Atoll sets itself are refused.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name.
    #[schemars(length(max = 128), regex(pattern = "^[-._a-zA-Z][-._a-zA-Z0-9]*$"))]
    #[x_kube(validation = Rule::new(
        "!(self in ['MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE', 'NODE_RANK', 'RAY_ADDRESS']) && \
         !self.startsWith('ATOLL_')"
    )
    .message("env must not set MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE, NODE_RANK, RAY_ADDRESS, ATOLL_*: Atoll does")
    .reason(Reason::FieldValueForbidden))]
    pub name: String,
    /// Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16_384))]
    pub value: Option<String>,
}

/// A port that a container listens on.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 15), regex(pattern = rules::DNS_LABEL))]
    pub name: Option<String>,
    /// Port.
    #[schemars(range(min = 1, max = 65_535))]
    pub container_port: i32,
    /// TCP or UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = json!(["TCP", "UDP"])))]
    pub protocol: Option<String>,
    /// Refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == 0")
        .message("hostPort is not allowed: members have a network of their own")
        .reason(Reason::FieldValueForbidden))]
    pub host_port: Option<i32>,
}

/// CPU and memory of a container.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new(
        "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || \
         quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)"
    )
    .message("resources.requests must not be above resources.limits")
    .field_path(".requests"))]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What is set aside: "cpu", "memory", "ephemeral-storage".
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 3, "additionalProperties" = quantity_schema()))]
    #[x_kube(validation = rules::plain_resources("resources.requests"))]
    pub requests: BTreeMap<String, Quantity>,
    /// What may not be exceeded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 3, "additionalProperties" = quantity_schema()))]
    #[x_kube(validation = rules::plain_resources("resources.limits"))]
    pub limits: BTreeMap<String, Quantity>,
}

fn quantity_schema() -> serde_json::Value {
    json!({"x-kubernetes-int-or-string": true, "pattern": rules::QUANTITY, "maxLength": 32})
}

/// A volume that lives as long as its pod.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.hostPath)")
        .message("hostPath is not allowed: members do not see the host's files")
        .reason(Reason::FieldValueForbidden)
        .field_path(".hostPath"),
    validation = Rule::new("has(self.emptyDir) || has(self.hostPath)")
        .message("emptyDir is required: members have scratch volumes only, data is kept in a store of the tenant's")
        .reason(Reason::FieldValueRequired)
        .field_path(".emptyDir")
)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Name, unique in the pod.
    #[schemars(length(max = 63), regex(pattern = rules::DNS_LABEL))]
    pub name: String,
    /// Scratch space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    /// Refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPath>,
}

/// Scratch space.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDir {
    /// "Memory" for tmpfs (`/dev/shm`), absent for the node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = json!(["", "Memory"])))]
    pub medium: Option<String>,
    /// Most that may be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = rules::QUANTITY, "maxLength" = 32))]
    pub size_limit: Option<Quantity>,
}

/// A path of the node; always refused.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostPath {
    /// The path.
    #[schemars(length(max = 512))]
    pub path: String,
}

/// A mount of a volume.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// Name of the volume.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Where.
    #[schemars(length(max = 512), regex(pattern = "^/[^:]*$"))]
    pub mount_path: String,
    /// True: cannot be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Folder inside the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')")
        .message("subPath must be a relative path without .."))]
    pub sub_path: Option<String>,
}

/// Users and file systems of a container.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// User id, not 0. Absent: 65532.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1")
        .message("runAsUser must not be 0: members do not run as root"))]
    pub run_as_user: Option<i64>,
    /// Group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub run_as_group: Option<i64>,
    /// True: the image cannot be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
    /// Refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::not_true("privileged is not allowed"))]
    pub privileged: Option<bool>,
    /// Refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::not_true("allowPrivilegeEscalation is not allowed"))]
    pub allow_privilege_escalation: Option<bool>,
    /// Refused unless it only drops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
}

/// Linux capabilities.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    #[x_kube(validation = Rule::new("size(self) == 0")
        .message("capabilities.add is not allowed: members run without capabilities")
        .reason(Reason::FieldValueForbidden))]
    pub add: Vec<String>,
    /// Capabilities to drop; all of them are dropped anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub drop: Vec<String>,
}
