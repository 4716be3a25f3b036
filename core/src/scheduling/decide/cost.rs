//! Which of the nodes that have room is taken first. Everything else here only asks for the order.

use super::pricing::{Asked, Pricing};
use crate::packing::Price;
use crate::scheduling::amounts::{Amounts, is_device};
use crate::scheduling::filter::preference;
use crate::scheduling::node::NodeState;
use crate::scheduling::pod::Shape;

/// What a node costs a pod of one shape; the cheapest is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// How little it is what the pod prefers.
    dislike: i64,
    /// Free devices that the price says nothing of, in thousandths: a pod should not fill up a node with free devices
    /// that it does not ask for.
    others: i64,
    /// What the pod's placement there does to the GPUs that others can use.
    pub(super) price: Known,
    /// What is free of the CPU, for a pod without devices, in thousandths: whole nodes stay free for those that need
    /// them.
    cores: i64,
}

/// A price, or that nobody had the time to find it: then the node comes after the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Known {
    /// The price.
    Price(Price),
    /// Still to be found.
    NotYet,
}

impl Cost {
    /// What this node costs one pod of the shape, given what is taken there.
    pub(super) fn of(node: &NodeState, used: &Amounts, shape: &Shape, asked: &Asked, pricing: &mut Pricing) -> Self {
        let free = |resource: &str, allocatable: i128| narrow(allocatable - used.get(resource));
        let judged = asked.device(node);
        let others = node
            .allocatable
            .iter()
            .filter(|(resource, _)| {
                is_device(resource) && Some(*resource) != judged && shape.requests.get(resource) == 0
            })
            .map(|(resource, milli)| free(resource, milli).max(0))
            .sum();
        Self {
            dislike: -preference(node, shape),
            others,
            price: pricing.price(node, used, asked).map_or(Known::NotYet, Known::Price),
            cores: if asked.has_device() { 0 } else { free("cpu", node.allocatable.get("cpu")) },
        }
    }
}

pub(super) fn narrow(milli: i128) -> i64 {
    i64::try_from(milli).unwrap_or(if milli < 0 { i64::MIN } else { i64::MAX })
}
