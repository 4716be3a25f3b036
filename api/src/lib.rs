//! The Kubernetes types of Atoll, group `atoll.dev`, version `v1alpha1`.
//!
//! Types only: what a field means, how it is validated by the API server, and the names that several
//! processes must agree on. No client, no decision.
//!
//! Manifests are generated from here by `crdgen` into `crds/`.

// Clippy takes `type_` of one printer column and of the next for a repetition.
#![allow(clippy::duplicated_attributes)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cluster;
pub mod cluster_slice;
pub mod cluster_status;
pub mod conditions;
pub mod crd;
pub mod disconnection;
pub mod gang;
pub mod gpu_model;
pub mod gpu_node;
pub mod hub_ca;
pub mod names;
mod rules;
pub mod site;
pub mod site_policy;
pub mod supplier;
pub mod template;

pub use cluster::{
    Checkpoint, Cluster, ClusterSpec, ClusterType, GpuRequest, Members, Placement, Price, Selection, Span, Trust,
    Workload,
};
pub use cluster_slice::{
    ClusterSlice, ClusterSliceSpec, ClusterSliceStatus, MemberPhase, MemberStatus, Rendezvous, ReservationPhase,
    SliceMember, SlicePhase,
};
pub use cluster_status::{ClusterStatus, PlacedNode, PlacedSite, PlacementStatus};
pub use disconnection::{Disconnection, DisconnectionPolicy, DisconnectionTimes};
pub use gang::{
    Gang, GangMember, GangMode, GangNode, GangPhase, GangShape, GangSpec, GangStatus, GangTopology, TopologyMode,
};
pub use gpu_model::{GpuModel, GpuModelSpec, GpuModelStatus, Vendor};
pub use gpu_node::{
    DeviceBus, DeviceHealth, DeviceHolder, DeviceLink, DeviceReason, GpuDevice, GpuNode, GpuNodeSpec, GpuNodeStatus,
    NodeFence,
};
pub use site::{Availability, FencedCluster, Site, SiteSession, SiteSpec, SiteStatus};
pub use site_policy::{
    ImageRules, MemberCaps, NetworkRules, PresentMembers, SitePolicy, SitePolicySpec, SitePolicyStatus,
};
pub use supplier::{Supplier, SupplierSpec, SupplierStatus};
pub use template::{MemberTemplate, MemberTemplateSpec};

/// The API group of every kind of Atoll.
pub const GROUP: &str = "atoll.dev";
/// The served version.
pub const VERSION: &str = "v1alpha1";
