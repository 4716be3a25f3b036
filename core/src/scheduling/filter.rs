//! The filters that look at one node only, as kube-scheduler's default plugins decide them.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::amounts::{Amounts, is_device};
use super::node::{Effect, NodeState, Taint};
use super::nodes::{NodeIx, Nodes, Occupant};
use super::pod::Shape;

/// The taint that stands for `spec.unschedulable`; who tolerates it may be put on a cordoned node.
static UNSCHEDULABLE: LazyLock<Taint> = LazyLock::new(|| Taint {
    key: "node.kubernetes.io/unschedulable".to_owned(),
    value: String::new(),
    effect: Effect::NoSchedule,
});
/// What one preference of weight 1 for the node counts, in points of [`preference`].
const PER_WEIGHT: i64 = 2;
/// What one taint that is to be avoided costs, in points of [`preference`]: more than a preference of weight 100.
const PER_TAINT: i64 = 300;

/// Why a node is out for a pod: the first filter that said no.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It is being deleted, or its amounts cannot be read.
    Unusable,
    /// Cordoned.
    Cordoned,
    /// A taint that is not tolerated.
    Tainted(Taint),
    /// Labels that do not match the node selector or affinity.
    NotSelected,
    /// Another pod has one of the ports.
    PortTaken,
    /// It never has that much of this resource.
    TooSmall(String),
    /// It has that much of this resource, and too little of it is free.
    InUse(String),
    /// A volume cannot be reached from there.
    VolumeElsewhere,
    /// A volume is in use by another pod.
    VolumeTaken,
    /// No more volumes of this driver can be attached.
    TooManyVolumes(String),
    /// Too few pods that the pod must run beside.
    NotBeside,
    /// The pod does not go beside one that is there.
    Repels,
    /// A pod that is there lets this one not come near.
    Repelled,
    /// A spread constraint would be broken.
    Uneven,
    /// It lacks a label that names its domain.
    NoDomain(String),
    /// It is outside of the domain that was chosen for the gang.
    OutsideDomain,
}

/// Why a shape can never be on the node, whoever is there; `None`: it suits.
#[must_use]
pub fn suits(node: &NodeState, shape: &Shape) -> Option<Why> {
    admits(node, shape).or_else(|| reaches(node, shape))
}

/// How many more pods of the shape the node takes, given who is there, as far as one node tells.
///
/// That many can be put there one after the other until [`why_not`] objects. Nothing is allocated unless volumes are
/// to be counted.
#[must_use]
pub fn room_for(nodes: &Nodes, ix: NodeIx, shape: &Shape) -> u32 {
    let Some((node, room)) = nodes.node(ix) else { return 0 };
    if node.unusable || barred(node, shape) {
        return 0;
    }
    let copies = room.used.copies(&node.allocatable, &shape.requests);
    if copies == 0
        || shape.untolerated(node).is_some()
        || !shape.selects(node)
        || !shape.volumes.reachable_from(node)
        || port_taken(nodes, ix, shape)
        || volume_taken(nodes, ix, shape)
        || too_many_volumes(nodes, ix, node, shape).is_some()
    {
        return 0;
    }
    let alone = !shape.host_ports.is_empty() || shape.volumes.exclusive.iter().any(|volume| volume.clashes(volume));
    if alone { 1 } else { copies }
}

/// Why the node takes no pod of the shape now, as far as one node tells: the first filter that says no.
#[must_use]
pub fn why_not(nodes: &Nodes, ix: NodeIx, shape: &Shape) -> Option<Why> {
    let Some((node, room)) = nodes.node(ix) else { return Some(Why::Unusable) };
    admits(node, shape)
        .or_else(|| port_taken(nodes, ix, shape).then_some(Why::PortTaken))
        .or_else(|| short(node, &room.used, &shape.requests))
        .or_else(|| volume_taken(nodes, ix, shape).then_some(Why::VolumeTaken))
        .or_else(|| too_many_volumes(nodes, ix, node, shape).map(|driver| Why::TooManyVolumes(driver.to_owned())))
        .or_else(|| reaches(node, shape))
}

/// How well the node suits what the shape prefers of nodes, whoever is there, in points; higher is better.
///
/// Twice the weight of each preferred term that matches, less 300 for each `PreferNoSchedule` taint that is not
/// tolerated, so that one such taint is worse than any one preference is good.
#[must_use]
pub fn preference(node: &NodeState, shape: &Shape) -> i64 {
    let preferred = shape.preferred_nodes.iter().filter(|(_, term)| term.matches(node));
    let avoided =
        node.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule && !shape.tolerates(taint));
    preferred.map(|(weight, _)| PER_WEIGHT * i64::from(*weight)).sum::<i64>() - avoided.map(|_| PER_TAINT).sum::<i64>()
}

fn admits(node: &NodeState, shape: &Shape) -> Option<Why> {
    if node.unusable {
        Some(Why::Unusable)
    } else if barred(node, shape) {
        Some(Why::Cordoned)
    } else if let Some(taint) = shape.untolerated(node) {
        Some(Why::Tainted(taint.clone()))
    } else if !shape.selects(node) {
        Some(Why::NotSelected)
    } else {
        None
    }
}

fn reaches(node: &NodeState, shape: &Shape) -> Option<Why> {
    (!shape.volumes.reachable_from(node)).then_some(Why::VolumeElsewhere)
}

/// Cordoned, and the pod does not tolerate that.
fn barred(node: &NodeState, shape: &Shape) -> bool {
    node.unschedulable && !shape.tolerates(&UNSCHEDULABLE)
}

fn any_occupant(nodes: &Nodes, ix: NodeIx, mut clashes: impl FnMut(&Occupant) -> bool) -> bool {
    nodes.occupants(ix).any(|(_, occupant)| clashes(occupant))
}

fn port_taken(nodes: &Nodes, ix: NodeIx, shape: &Shape) -> bool {
    let mine = &shape.host_ports;
    !mine.is_empty()
        && any_occupant(nodes, ix, |other| {
            other.shape.host_ports.iter().any(|theirs| mine.iter().any(|port| port.clashes(theirs)))
        })
}

fn volume_taken(nodes: &Nodes, ix: NodeIx, shape: &Shape) -> bool {
    let mine = &shape.volumes.exclusive;
    !mine.is_empty()
        && any_occupant(nodes, ix, |other| {
            other.shape.volumes.exclusive.iter().any(|theirs| mine.iter().any(|volume| volume.clashes(theirs)))
        })
}

/// The first driver that cannot attach what the shape's volumes need beyond those that are attached for others. A
/// volume counts once, whoever uses it.
fn too_many_volumes<'a>(nodes: &Nodes, ix: NodeIx, node: &NodeState, shape: &'a Shape) -> Option<&'a str> {
    shape.volumes.attached.iter().find_map(|(driver, mine)| {
        let limit = usize::try_from(*node.volume_limits.get(driver)?).unwrap_or(usize::MAX);
        let there: BTreeSet<&str> = nodes
            .occupants(ix)
            .filter_map(|(_, other)| other.shape.volumes.attached.get(driver))
            .flatten()
            .map(String::as_str)
            .collect();
        let more = mine.iter().filter(|volume| !there.contains(volume.as_str())).count();
        (more > 0 && there.len() + more > limit).then_some(driver.as_str())
    })
}

/// The first resource that is short on the node, devices before all else.
pub(super) fn short(node: &NodeState, used: &Amounts, requests: &Amounts) -> Option<Why> {
    let lacking = |resource: &str, milli: i128| {
        let allocatable = node.allocatable.get(resource);
        if milli > allocatable {
            Some(Why::TooSmall(resource.to_owned()))
        } else if milli > 0 && milli > allocatable - used.get(resource) {
            Some(Why::InUse(resource.to_owned()))
        } else {
            None
        }
    };
    let devices = requests.iter().filter(|(r, _)| is_device(r));
    let rest = requests.iter().filter(|(r, _)| !is_device(r));
    devices.chain(rest).find_map(|(resource, milli)| lacking(resource, milli))
}

#[cfg(test)]
mod tests;
