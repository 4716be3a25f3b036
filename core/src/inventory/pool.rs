//! Nodes of one Site that are alike, counted and indexed by their free GPUs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::sync::Arc;

use super::node::{Node, Offer};

/// Nodes and their GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Nodes.
    pub nodes: u64,
    /// GPUs that these offer, free or not.
    pub gpus: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.nodes += other.nodes;
        self.gpus += other.gpus;
    }
}

impl Tally {
    fn add(&mut self, gpus: u32) {
        self.nodes += 1;
        self.gpus += u64::from(gpus);
    }

    fn take(&mut self, gpus: u32) {
        self.nodes -= 1;
        self.gpus -= u64::from(gpus);
    }
}

/// Nodes of one Site that are alike.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// All of them.
    pub(crate) all: Tally,
    /// Those that are not usable.
    pub(crate) unusable: Tally,
    /// Usable ones that the Site refused lately.
    pub(crate) blocked: Tally,
    /// Free GPUs of usable nodes, blocked ones too.
    pub(crate) free: u64,
    /// Usable nodes that are not blocked and have free GPUs, by how many.
    pub(crate) offered: BTreeMap<u32, BTreeSet<Arc<str>>>,
}

impl Pool {
    pub(super) fn add(&mut self, node: &Node, offer: &Offer) {
        self.all.add(offer.allocatable);
        let free = node.free();
        if !offer.usable {
            self.unusable.add(offer.allocatable);
            return;
        }
        self.free += u64::from(free);
        if node.blocked.is_some() {
            self.blocked.add(offer.allocatable);
        } else if free > 0 {
            self.offered.entry(free).or_default().insert(Arc::clone(&node.name));
        }
    }

    /// Undoes [`Pool::add`]; the node must not have changed since.
    pub(super) fn take(&mut self, node: &Node, offer: &Offer) {
        self.all.take(offer.allocatable);
        let free = node.free();
        if !offer.usable {
            self.unusable.take(offer.allocatable);
            return;
        }
        self.free -= u64::from(free);
        if node.blocked.is_some() {
            self.blocked.take(offer.allocatable);
        } else if let Some(names) = self.offered.get_mut(&free) {
            names.remove(&node.name);
            if names.is_empty() {
                self.offered.remove(&free);
            }
        }
    }

    /// Members of so many GPUs each that fit now.
    pub(crate) fn members(&self, gpus_per_member: u32) -> u64 {
        let from = gpus_per_member.max(1);
        self.offered.range(from..).map(|(free, names)| u64::from(free / from) * names.len() as u64).sum()
    }

    /// GPUs that are offered now.
    pub(crate) fn offered_gpus(&self) -> u64 {
        self.offered.iter().map(|(free, names)| u64::from(*free) * names.len() as u64).sum()
    }

    /// Most GPUs that are offered now on one node.
    pub(crate) fn largest_node(&self) -> u32 {
        self.offered.last_key_value().map_or(0, |(free, _)| *free)
    }
}
