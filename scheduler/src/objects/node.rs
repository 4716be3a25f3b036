//! Nodes.

use atoll_core::gang::{NodeState, Taint};
use k8s_openapi::api::core::v1::Node;

use super::{amounts, effect};

/// What of a Node matters to a decision; heartbeats do not show in it.
///
/// A node that is being deleted takes no pods, nor does one whose amounts cannot be read.
#[must_use]
pub fn node_state(node: &Node) -> NodeState {
    let spec = node.spec.as_ref();
    let status = node.status.as_ref();
    let allocatable = amounts(status.and_then(|s| s.allocatable.as_ref()));
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    let taints = spec
        .and_then(|s| s.taints.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|taint| {
            let value = taint.value.clone().unwrap_or_default();
            Some(Taint { key: taint.key.clone(), value, effect: effect(&taint.effect)? })
        })
        .collect();
    NodeState {
        name: node.metadata.name.clone().unwrap_or_default(),
        ready: ready && allocatable.is_ok() && node.metadata.deletion_timestamp.is_none(),
        allocatable: allocatable.unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints,
        unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
    }
}
