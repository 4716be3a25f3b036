//! The parts of Kubernetes' protobuf that a scheduler reads and writes.
//!
//! Kubernetes serves its own types in protobuf, which costs API server and reader a fraction of what JSON costs. Of each
//! message only the fields that are looked at are here, with the tags of `k8s.io/api` 1.37 and `k8s.io/apimachinery`;
//! the others are skipped over. Fields that are pointers there, and whose absence means something, are `Option`s.
//! Everything else that is absent is empty, as for Kubernetes itself.
#![allow(missing_docs, reason = "messages and fields are Kubernetes' own and named as in its API reference")]

mod binding;
mod envelope;
mod meta;
mod node;
mod pod;
mod podgroup;
mod policy;
mod volume;

pub use binding::{Binding, ObjectReference};
pub use envelope::{
    CONTENT_TYPE, CONTENT_TYPE_WATCH, EnvelopeError, ListPage, RawExtension, Status, StatusCause, StatusDetails,
    TypeMeta, Unknown, WatchEvent, decode, open, wrap,
};
pub use meta::{
    Amount, Entry, LabelSelector, LabelSelectorRequirement, ListMeta, Namespace, ObjectMeta, OwnerReference, Quantity,
    Time,
};
pub use node::{
    Node, NodeCondition, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, NodeSpec, NodeStatus, Taint,
};
pub use pod::{
    Affinity, Container, ContainerPort, ContainerRestartRule, ContainerStatus, NodeAffinity, Pod, PodAffinity,
    PodAffinityTerm, PodCondition, PodResourceClaim, PodSchedulingGate, PodSchedulingGroup, PodSpec, PodStatus,
    PreferredSchedulingTerm, ResourceClaim, ResourceRequirements, Toleration, TopologySpreadConstraint, VolumeMount,
    WeightedPodAffinityTerm,
};
pub use podgroup::{
    Condition, DisruptionMode, Empty, GangSchedulingPolicy, PodGroup, PodGroupResourceClaim,
    PodGroupSchedulingConstraints, PodGroupSchedulingPolicy, PodGroupSpec, PodGroupStatus, TopologyConstraint,
};
pub use policy::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
pub use volume::{
    AzureDisk, CsiNode, CsiNodeDriver, CsiNodeSpec, CsiPersistentVolume, DiskById, Ephemeral, GcePersistentDisk, Iscsi,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSource, PersistentVolumeClaimSpec,
    PersistentVolumeClaimStatus, PersistentVolumeSource, PersistentVolumeSpec, Rbd, Volume, VolumeNodeAffinity,
    VolumeNodeResources, VolumeSource,
};
