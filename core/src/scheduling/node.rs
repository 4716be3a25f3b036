//! Nodes as the API server shows them.

use std::collections::BTreeMap;

use super::amounts::Amounts;

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// New pods are kept away.
    NoSchedule,
    /// New pods are kept away, running ones are evicted.
    NoExecute,
    /// New pods go elsewhere when they can.
    PreferNoSchedule,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, possibly empty.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

/// One node as the API server shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Name.
    pub name: String,
    /// What pods may take in all, [`super::RESOURCE_PODS`] included.
    pub allocatable: Amounts,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints of every effect.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// Why nothing may be put here although no taint says so: it is being deleted, or its amounts cannot be read.
    pub unusable: bool,
    /// How many volumes of a CSI driver may be attached; drivers without an entry have no limit. From its `CSINode`.
    pub volume_limits: BTreeMap<String, u32>,
}
