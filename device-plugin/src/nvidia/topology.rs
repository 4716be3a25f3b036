//! How near GPUs are to each other.

use atoll_nvml::{NvLinkPeer, Topology};

use crate::backend::{Bus, DeviceId, Link};

/// A GPU and the far ends of its active links.
pub(super) struct Node {
    pub id: DeviceId,
    pub pci_address: String,
    pub peers: Vec<NvLinkPeer>,
}

/// The links of each GPU to each other one, in the order of the GPUs. `bus` says the way between two by their places.
pub(super) fn links(nodes: &[Node], mut bus: impl FnMut(usize, usize) -> Bus) -> Vec<Vec<Link>> {
    let mut all: Vec<Vec<Link>> = nodes.iter().map(|_| Vec::with_capacity(nodes.len().saturating_sub(1))).collect();
    for (first, a) in nodes.iter().enumerate() {
        for (second, b) in nodes.iter().enumerate().skip(first + 1) {
            let (nvlinks, bus) = (between(a, b), bus(first, second));
            all[first].push(Link { to: b.id.clone(), nvlinks, bus });
            all[second].push(Link { to: a.id.clone(), nvlinks, bus });
        }
    }
    // What was pushed while the other one was first came earlier, and so stands in the order of the GPUs.
    all
}

/// Direct links, and through switches as many as the one with fewer has: any two ports of a switch are joined.
fn between(a: &Node, b: &Node) -> u32 {
    let direct = a.peers.iter().filter(|peer| matches!(peer, NvLinkPeer::Gpu(pci) if *pci == b.pci_address)).count();
    let switched = |node: &Node| node.peers.iter().filter(|peer| **peer == NvLinkPeer::Switch).count();
    u32::try_from(direct + switched(a).min(switched(b))).unwrap_or(u32::MAX)
}

impl From<Topology> for Bus {
    fn from(topology: Topology) -> Self {
        match topology {
            Topology::Internal => Self::Internal,
            Topology::Single => Self::Single,
            Topology::Multiple => Self::Multiple,
            Topology::HostBridge => Self::HostBridge,
            Topology::Node => Self::Node,
            Topology::System => Self::System,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, peers: Vec<NvLinkPeer>) -> Node {
        Node { id: name.into(), pci_address: format!("00000000:{name}:00.0"), peers }
    }

    fn to(name: &str) -> NvLinkPeer {
        NvLinkPeer::Gpu(format!("00000000:{name}:00.0"))
    }

    #[test]
    fn links_are_counted_for_each_pair_and_the_same_from_both_sides() {
        let nodes = [
            node("A", vec![to("B"), to("B"), to("C")]),
            node("B", vec![to("A"), to("A"), NvLinkPeer::Other]),
            node("C", vec![to("A")]),
        ];
        let links = links(&nodes, |a, b| if a + b == 1 { Bus::Single } else { Bus::System });
        let counts = |place: usize| links[place].iter().map(|link| (&*link.to, link.nvlinks)).collect::<Vec<_>>();
        assert_eq!(counts(0), [("B", 2), ("C", 1)]);
        assert_eq!(counts(1), [("A", 2), ("C", 0)]);
        assert_eq!(counts(2), [("A", 1), ("B", 0)]);
        assert_eq!((links[0][0].bus, links[1][0].bus, links[2][1].bus), (Bus::Single, Bus::Single, Bus::System));
    }

    #[test]
    fn through_a_switch_two_gpus_have_as_many_links_as_the_one_with_fewer() {
        let nodes =
            [node("A", vec![NvLinkPeer::Switch; 18]), node("B", vec![NvLinkPeer::Switch; 17]), node("C", vec![])];
        let links = links(&nodes, |_, _| Bus::Node);
        assert_eq!((links[0][0].nvlinks, links[1][0].nvlinks, links[0][1].nvlinks), (17, 17, 0));
    }
}
