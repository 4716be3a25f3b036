//! Which of the nodes that have room is taken first. Everything else here only asks for the order.

use crate::scheduling::amounts::{Amounts, is_device};
use crate::scheduling::filter::preference;
use crate::scheduling::node::NodeState;
use crate::scheduling::pod::Shape;

/// What a node costs a pod of one shape; the cheapest is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// How little it is what the pod prefers.
    dislike: i64,
    /// Free devices that the shape does not ask for, in thousandths: a pod without a GPU should not fill up a node
    /// with free ones.
    waste: i64,
    /// What is free of the device that the shape asks for (else of the CPU), in thousandths: whole nodes stay free
    /// for the pods that need them.
    free: i64,
}

/// What this node costs one pod of the shape, given what is taken there.
pub(super) fn cost(node: &NodeState, used: &Amounts, shape: &Shape) -> Cost {
    let free = |resource: &str, allocatable: i128| allocatable - used.get(resource);
    let waste = node
        .allocatable
        .iter()
        .filter(|(resource, _)| is_device(resource) && shape.requests.get(resource) == 0)
        .map(|(resource, milli)| free(resource, milli).max(0))
        .sum();
    let asked = shape.requests.device().unwrap_or("cpu");
    Cost {
        dislike: -preference(node, shape),
        waste: narrow(waste),
        free: narrow(free(asked, node.allocatable.get(asked))),
    }
}

fn narrow(milli: i128) -> i64 {
    i64::try_from(milli).unwrap_or(if milli < 0 { i64::MIN } else { i64::MAX })
}
