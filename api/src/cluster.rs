//! `Cluster`: what a tenant asks for.

// Kubernetes says the unit in the name of a field.
#![allow(clippy::struct_field_names)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster_status::ClusterStatus;
use crate::disconnection::Disconnection;
use crate::rules;
use crate::template::MemberTemplate;

/// So many members with such GPUs, under such conditions.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "atoll.dev",
    version = "v1alpha1",
    kind = "Cluster",
    namespaced,
    shortname = "gpuc",
    category = "atoll",
    status = "ClusterStatus",
    derive = "PartialEq",
    doc = "A set of members with GPUs on one or more Sites.",
    validation = Rule::new(
        "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
    )
    .message("metadata.name must be at most 40 lower case letters, digits and inner dashes, starting with a letter"),
    validation = Rule::new(
        "self.spec.type == 'Pods' || !has(oldSelf.status) || !has(oldSelf.status.placement) || \
         self.spec.members.count == oldSelf.spec.members.count"
    )
    .message("spec.members.count of a Torch or Ray Cluster cannot be changed while it is placed; suspend it first")
    .reason(Reason::FieldValueForbidden)
    .field_path(".spec.members.count"),
    validation = rules::frozen_while_placed("type"),
    validation = rules::frozen_while_placed("workload"),
    validation = rules::frozen_while_placed("members.min"),
    validation = rules::frozen_while_placed("members.gpus"),
    validation = rules::frozen_while_placed("gpu"),
    validation = rules::frozen_while_placed("placement"),
    validation = rules::frozen_while_placed("duration"),
    validation = rules::frozen_while_placed("disconnection"),
    validation = rules::frozen_while_placed("backoffLimit"),
    validation = rules::frozen_while_placed("ttlSecondsAfterFinished"),
    validation = rules::frozen_while_placed("checkpoint"),
    validation = rules::frozen_while_placed("template"),
    scale(
        spec_replicas_path = ".spec.members.count",
        status_replicas_path = ".status.total",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.readyMembers"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".status.gpus"),
    printcolumn(name = "Where", type_ = "string", json_path = ".status.location"),
    printcolumn(name = "USD/h", type_ = "string", json_path = ".status.pricePerHour"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[x_kube(
    validation = Rule::new("self.type == 'Pods' || !has(self.placement.span) || self.placement.span == 'Site'")
        .message("placement.span must be Site for Torch and Ray: their members share one network")
        .field_path(".placement.span"),
    validation = Rule::new("self.type == 'Pods' || !has(self.members.min)")
        .message("members.min is for Pods only: Torch and Ray are of fixed size")
        .field_path(".members.min"),
    validation = Rule::new(
        "self.type == 'Pods' || !has(self.disconnection.policy) || self.disconnection.policy != 'Replace'"
    )
    .message("disconnection.policy Replace is for Pods only: Torch and Ray are of fixed size, use Restart or Fail")
    .field_path(".disconnection.policy"),
    validation = Rule::new(
        "self.type != 'Pods' || !has(self.disconnection.policy) || self.disconnection.policy != 'Restart'"
    )
    .message("disconnection.policy Restart is for Torch and Ray only: use Replace or Fail for independent members")
    .field_path(".disconnection.policy"),
    validation = Rule::new(
        "!has(self.disconnection.policy) || self.disconnection.policy != 'Restart' || has(self.checkpoint)"
    )
    .message("disconnection.policy Restart needs checkpoint.store: members start again from what they keep there")
    .field_path(".disconnection.policy"),
    validation = Rule::new(
        "!has(self.disconnection.policy) || self.disconnection.policy != 'Autonomous' || \
         (self.type == 'Pods' && self.workload in ['Inference', 'Validator', 'Sequencer'])"
    )
    .message(
        "disconnection.policy Autonomous is for Pods with workload Inference, Validator or Sequencer: a rank may run twice"
    )
    .field_path(".disconnection.policy"),
    validation = Rule::new(
        "self.template.spec.terminationGracePeriodSeconds < \
         self.disconnection.times.killSeconds - self.disconnection.times.stopSeconds"
    )
    .message(
        "template.spec.terminationGracePeriodSeconds must be less than disconnection.times.killSeconds - stopSeconds"
    )
    .field_path(".template.spec.terminationGracePeriodSeconds")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// How members find each other.
    #[serde(rename = "type")]
    pub type_: ClusterType,
    /// What the members do. Decides which GPUs suit, see `GPUModel.spec.workloads`.
    #[serde(default)]
    pub workload: Workload,
    /// How many members, and how many GPUs each.
    pub members: Members,
    /// Which GPUs will do. Empty: any NVIDIA or Apple GPU that suits the workload.
    #[serde(default)]
    pub gpu: GpuRequest,
    /// Where the members may be.
    #[serde(default)]
    pub placement: Placement,
    /// What the tenant is willing to pay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// How long the Cluster runs once all its members are Ready; it is Complete then. Hours, minutes and seconds,
    /// such as "72h" or "1h30m".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(
        "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self.matches('[1-9]') && \
         duration(self) <= duration('87600h')"
    )
        .message("duration must be hours, minutes and seconds, above 0 and at most 87600h, such as \"1h30m\""))]
    pub duration: Option<String>,
    /// What happens when a Site goes away.
    #[serde(default)]
    pub disconnection: Disconnection,
    /// Higher is placed earlier; equal ones by age.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// True: hold no GPUs until it is false again.
    #[serde(default)]
    pub suspend: bool,
    /// How many failures the Cluster survives; with one more it is Failed. Of Pods each member that fails counts; a Torch
    /// or Ray gang counts once each time it has to start again, however many of its members fail together. Members that
    /// are lost with their Site, or that the Site evicts, do not count.
    #[serde(default = "default_backoff_limit")]
    #[schemars(range(min = 0, max = 1000))]
    pub backoff_limit: i32,
    /// Delete the Cluster so many seconds after it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i32>,
    /// Where members keep what lets them start again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// The pod that every member runs.
    pub template: MemberTemplate,
}

fn default_backoff_limit() -> i32 {
    6
}

/// How members find each other.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum ClusterType {
    /// Independent pods.
    Pods,
    /// `torchrun`'s environment: `MASTER_ADDR`, `MASTER_PORT`, `RANK`, `WORLD_SIZE`, `NODE_RANK`.
    Torch,
    /// A Ray head on rank 0, workers pointed at it by `RAY_ADDRESS`.
    Ray,
}

/// What the members do.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Long-running training.
    #[default]
    Training,
    /// Serving a model.
    Inference,
    /// Work without a deadline.
    Batch,
    /// A chain's validator.
    Validator,
    /// Zero-knowledge proofs.
    ZkProver,
    /// A rollup's sequencer.
    Sequencer,
}

/// How many members, and how many GPUs each.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("!has(self.min) || self.min <= self.count")
    .message("members.min must not be above members.count")
    .field_path(".min"))]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// Wanted members.
    #[schemars(range(min = 1, max = 10_000))]
    pub count: i32,
    /// Fewest members that are worth running; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub min: Option<i32>,
    /// GPUs of each member, all on one node.
    #[serde(default = "default_gpus")]
    #[schemars(range(min = 1, max = 16))]
    pub gpus: i32,
}

fn default_gpus() -> i32 {
    1
}

/// Which GPUs will do: one that matches `models` or `families` (either, when both are given) and has the memory.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuRequest {
    /// Names of `GPUModel`s, such as "h100-sxm5-80gb".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63), regex(pattern = rules::NAME)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub models: Vec<String>,
    /// Families of `GPUModel`s, such as "hopper".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63), regex(pattern = rules::NAME)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub families: Vec<String>,
    /// Least memory of each GPU, such as "24Gi". A GPU counts with what it is sold with, see `GPUModel.spec.memoryMib`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9][0-9]{0,8}(M|G|T|Mi|Gi|Ti)$')")
        .message("gpu.memory must be a whole amount of memory, such as \"24Gi\" or \"80G\""))]
    pub memory: Option<String>,
}

/// Where the members may be.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// How far apart members may be. Torch and Ray: Site is the default and the only value; Pods: Any by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// Regions of Sites.
    #[serde(default)]
    #[x_kube(validation = Rule::new(
        "(!has(self.__in__) || self.__in__.all(r, r.matches('^[a-z0-9]+(-[a-z0-9]+)*$'))) && \
         (!has(self.notIn) || self.notIn.all(r, r.matches('^[a-z0-9]+(-[a-z0-9]+)*$')))"
    )
    .message("placement.regions must be words of lower case letters and digits joined by dashes, such as \"eu-west\""))]
    pub regions: Selection,
    /// Least trust of Sites.
    #[serde(default)]
    pub min_trust: Trust,
    /// Suppliers of Sites.
    #[serde(default)]
    pub suppliers: Selection,
}

/// Names to choose from and names to leave out.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("!has(self.__in__) || !has(self.notIn) || !self.__in__.exists(n, n in self.notIn)")
    .message("in and notIn must not name the same")
    .field_path(".notIn"))]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// Only these; empty: all.
    #[serde(rename = "in", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63), regex(pattern = rules::NAME)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub in_: Vec<String>,
    /// None of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63), regex(pattern = rules::NAME)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub not_in: Vec<String>,
}

/// How far apart members may be. Torch and Ray: Site is the default and the only value; Pods: Any by default.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum Span {
    /// All on one Site.
    Site,
    /// On Sites of one region.
    Region,
    /// Anywhere.
    Any,
}

/// How far a Site is trusted, in rising order.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trust {
    /// Anybody's machine.
    #[default]
    Untrusted,
    /// A data center with a contract.
    Contracted,
    /// Hardware that attests what it runs.
    Attested,
}

/// What the tenant is willing to pay.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Price {
    /// Most for a GPU and hour, in USDC: a decimal with at most 6 places, such as "2.50".
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::price("price.maxPerGpuHour"))]
    pub max_per_gpu_hour: String,
}

/// Where members keep what lets them start again.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// URL of a store that outlives Sites, handed to members as `ATOLL_CHECKPOINT_STORE`.
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^(s3|gs|az|https|http)://[^/\\s]+(/\\S*)?$')")
        .message("checkpoint.store must be a URL with s3, gs, az, https or http, such as \"s3://checkpoints/run-7\""))]
    pub store: String,
}
