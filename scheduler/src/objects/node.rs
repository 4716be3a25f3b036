//! Nodes.

use std::collections::BTreeMap;

use atoll_core::scheduling::{Effect, NodeState, Taint};

use super::affinity::effect;
use super::quantities::allocatable;
use crate::proto::{CsiNode, Node};

/// Taint of a node whose kubelet says that it is not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node whose kubelet says nothing.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// What of a Node matters to a decision; heartbeats do not show in it. Its volume limits come from its `CSINode`, see
/// [`volume_limits`].
///
/// Nothing can be put on a node that is being deleted, nor on one whose amounts cannot be read. A node that is not
/// ready is tainted by a controller, after a while or, where that does not run, never; here it counts as tainted at
/// once.
#[must_use]
pub fn node_state(node: Node) -> NodeState {
    let meta = node.metadata.unwrap_or_default();
    let spec = node.spec.unwrap_or_default();
    let status = node.status.unwrap_or_default();
    let allocatable = allocatable(&status.allocatable);
    let taint = |key: String, value: String, effect| Taint { key, value, effect };
    let mut taints: Vec<Taint> =
        spec.taints.into_iter().filter_map(|t| Some(taint(t.key, t.value, effect(&t.effect)?))).collect();
    let missing = match status.conditions.iter().find(|c| c.r#type == "Ready").map_or("", |c| &c.status) {
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    if let Some(missing) = missing
        && !taints.iter().any(|t| t.key == missing && t.effect == Effect::NoSchedule)
    {
        taints.push(taint(missing.to_owned(), String::new(), Effect::NoSchedule));
    }
    NodeState {
        name: meta.name,
        unusable: allocatable.is_err() || meta.deletion_timestamp.is_some(),
        allocatable: allocatable.unwrap_or_default(),
        labels: meta.labels,
        taints,
        unschedulable: spec.unschedulable,
        volume_limits: BTreeMap::new(),
    }
}

/// Name of the node, and how many volumes of each CSI driver it may attach; drivers without a limit are not named.
#[must_use]
pub fn volume_limits(node: CsiNode) -> (String, BTreeMap<String, u32>) {
    let limits = node.spec.unwrap_or_default().drivers.into_iter().filter_map(|driver| {
        let most = driver.allocatable?.count?;
        Some((driver.name, u32::try_from(most).unwrap_or(0)))
    });
    (node.metadata.unwrap_or_default().name, limits.collect())
}
