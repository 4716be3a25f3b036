//! Whether a node suits a shape, whoever else is there: the filters that look at one node only.

use super::amounts::{Amounts, is_device};
use super::node::{Effect, NodeState, Taint};
use super::nodes::{NodeIx, Nodes};
use super::pod::Shape;

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

/// The first resource that is short on the node, devices before all else.
#[must_use]
pub fn short(node: &NodeState, used: &Amounts, requests: &Amounts) -> Option<Why> {
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
