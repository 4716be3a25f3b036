//! Which domains, and which nodes in them, the pods of one shape get.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::class::{Candidate, Class, Domain};
use super::topology::Keys;
use crate::scheduling::node::NodeState;
use crate::scheduling::nodes::NodeIx;

/// A domain of all keys, the smallest that there is.
#[derive(Clone, Debug)]
struct Leaf<'a> {
    values: &'a [Option<Arc<str>>],
    domain: &'a Domain,
    /// Pods that still can go there.
    room: u64,
    /// Pods of the gang that are there already.
    there: u64,
}

/// A domain of the required keys: the pods of a gang are all in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group<'a> {
    /// Values of the required keys.
    pub(super) values: &'a [Option<Arc<str>>],
    /// Pods that can go there in all.
    pub(super) room: u64,
    leaves: Range<usize>,
}

/// Where pods of one class can go: not on closed nodes, and in no domain but the one of [`View::within`].
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    class: &'a Class,
    keys: &'a Keys,
    closed: &'a BTreeSet<NodeIx>,
    /// By their values, so that those which agree in the first ones are neighbours.
    leaves: Vec<Leaf<'a>>,
}

impl<'a> View<'a> {
    pub(super) fn new(class: &'a Class, keys: &'a Keys, closed: &'a BTreeSet<NodeIx>) -> Self {
        let leaf = |values, domain: &'a Domain| Leaf { values, domain, room: domain.room, there: 0 };
        let leaves = if keys.labels.is_empty() {
            vec![leaf(&[][..], class.all())]
        } else {
            class.domains(keys).map(|(values, domain)| leaf(&values[..], domain)).collect()
        };
        let mut view = Self { class, keys, closed, leaves };
        for ix in closed {
            view.take(*ix, class.copies(*ix));
        }
        view
    }

    /// Only the domain of these values of the required keys.
    pub(super) fn within(mut self, values: &[Option<Arc<str>>]) -> Self {
        self.leaves.retain(|leaf| leaf.values.starts_with(values));
        self
    }

    /// How many pods a node takes; none where it is closed or outside of every domain.
    pub(super) fn copies(&self, ix: NodeIx) -> u32 {
        if self.closed.contains(&ix) || self.leaf_of(ix).is_none() { 0 } else { self.class.copies(ix) }
    }

    fn leaf_of(&self, ix: NodeIx) -> Option<usize> {
        if self.keys.labels.is_empty() {
            return (self.class.copies(ix) > 0).then_some(0);
        }
        let values = self.class.domain_of(self.keys, ix)?;
        self.leaves.binary_search_by(|leaf| leaf.values.cmp(values)).ok()
    }

    fn take(&mut self, ix: NodeIx, copies: u32) -> Option<usize> {
        let at = self.leaf_of(ix)?;
        let leaf = &mut self.leaves[at];
        leaf.room = leaf.room.saturating_sub(u64::from(copies));
        Some(at)
    }

    /// Notes that a pod of the gang is on a node, of which the class knows already.
    pub(super) fn note(&mut self, node: &NodeState) {
        let keys = self.keys;
        let at = self.leaves.binary_search_by(|leaf| leaf.values.iter().map(Option::as_deref).cmp(keys.value(node)));
        if let Ok(at) = at {
            self.leaves[at].there += 1;
        }
    }

    /// Every open node with room, the best first; the nodes of the preferred domains that `count` pods would be spread
    /// over come before the others.
    pub(super) fn ranked(&self, count: u64) -> Vec<NodeIx> {
        let mut takes = Vec::new();
        spread(&self.leaves, 0, self.keys.required, count, &mut takes);
        takes.sort_unstable();
        let is_chosen = |at: &usize| takes.binary_search_by_key(at, |(leaf, _)| *leaf).is_ok();
        let (first, others): (Vec<usize>, Vec<usize>) = (0..self.leaves.len()).partition(is_chosen);
        let leaves = first.into_iter().chain(others).map(|leaf| &self.leaves[leaf]);
        let nodes = leaves.flat_map(|leaf| &leaf.domain.candidates).map(|candidate| candidate.ix);
        nodes.filter(|ix| !self.closed.contains(ix)).collect()
    }

    /// Whether a node with room is in a domain.
    pub(super) fn is_in(&self, group: &Group<'_>, ix: NodeIx) -> bool {
        self.leaf_of(ix).is_some_and(|leaf| group.leaves.contains(&leaf))
    }

    /// The domains of the required keys that have room; without any such key there is one, of everything.
    pub(super) fn groups(&self) -> Vec<Group<'a>> {
        let required = self.keys.required;
        let mut groups: Vec<Group<'a>> = Vec::new();
        for (index, leaf) in self.leaves.iter().enumerate() {
            let values = &leaf.values[..required];
            match groups.last_mut() {
                Some(group) if group.values == values => {
                    group.room += leaf.room;
                    group.leaves.end = index + 1;
                }
                _ => groups.push(Group { values, room: leaf.room, leaves: index..index + 1 }),
            }
        }
        groups
    }

    /// The best domain for `count` pods that has room for them: most of the wished nodes in it, then fewest preferred
    /// domains, then least room to spare, then by name.
    pub(super) fn choose(&self, groups: &[Group<'a>], count: u64, wishes: &[NodeIx]) -> Option<Group<'a>> {
        let fitting = || groups.iter().filter(|group| group.room >= count);
        if fitting().nth(1).is_none() {
            return fitting().next().cloned();
        }
        let leaves: Vec<usize> = wishes.iter().filter_map(|ix| self.leaf_of(*ix)).collect();
        let granted = |group: &Group<'_>| leaves.iter().filter(|leaf| group.leaves.contains(leaf)).count();
        let splits = |group: &Group<'_>| splits(&self.leaves[group.leaves.clone()], self.keys.required, count);
        fitting().min_by_key(|group| (Reverse(granted(group)), splits(group), group.room)).cloned()
    }

    /// A node for each of `count` pods in one domain that has room for them, neighbours in the topology next to each
    /// other. `fixed` are the nodes of pods that come on top; they were found to have room.
    pub(super) fn fill(&mut self, group: &Group<'a>, count: u64, fixed: &[NodeIx]) -> Vec<NodeIx> {
        for ix in fixed {
            if let Some(at) = self.take(*ix, 1) {
                self.leaves[at].there += 1;
            }
        }
        let mut fixed = fixed.to_vec();
        fixed.sort_unstable();
        let mut takes = Vec::new();
        spread(&self.leaves[group.leaves.clone()], group.leaves.start, self.keys.required, count, &mut takes);
        takes.sort_unstable();
        let mut nodes = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        for (leaf, mut left) in takes {
            // First beside the fixed ones.
            let beside = |candidate: &&Candidate| fixed.binary_search(&candidate.ix).is_ok();
            let candidates = &self.leaves[leaf].domain.candidates;
            let first = candidates.iter().take(if fixed.is_empty() { 0 } else { usize::MAX }).filter(beside);
            for Candidate { ix, .. } in first.chain(candidates.iter().filter(|candidate| !beside(candidate))) {
                if left == 0 {
                    break;
                }
                if self.closed.contains(ix) {
                    continue;
                }
                let fixed_here = fixed.partition_point(|f| f <= ix) - fixed.partition_point(|f| f < ix);
                let copies = u64::from(self.class.copies(*ix)).saturating_sub(fixed_here as u64).min(left);
                nodes.extend((0..copies).map(|_| *ix));
                left -= copies;
            }
        }
        nodes
    }
}

/// Neighbouring leaves of one value of a key.
struct Part {
    leaves: Range<usize>,
    room: u64,
    there: u64,
    /// They lack the label: not known to be near each other.
    nowhere: bool,
}

/// Shares `count` pods out to the leaves, which agree in the keys before `level`, so that they are in as few domains
/// of the remaining keys as can be: in those first where some of the gang are already, in the tightest one that takes
/// all of the rest, else in the largest ones.
fn spread(leaves: &[Leaf<'_>], offset: usize, level: usize, count: u64, takes: &mut Vec<(usize, u64)>) {
    if count == 0 {
        return;
    }
    if leaves.first().is_none_or(|leaf| leaf.values.len() == level) {
        takes.push((offset, count));
        return;
    }
    let mut parts: Vec<Part> = Vec::new();
    for (index, leaf) in leaves.iter().enumerate() {
        match parts.last_mut() {
            Some(part) if leaves[part.leaves.start].values[level] == leaf.values[level] => {
                part.leaves.end = index + 1;
                part.room += leaf.room;
                part.there += leaf.there;
            }
            _ => parts.push(Part {
                leaves: index..index + 1,
                room: leaf.room,
                there: leaf.there,
                nowhere: leaf.values[level].is_none(),
            }),
        }
    }
    parts.retain(|part| part.room > 0);
    parts.sort_by_key(|part| (part.there == 0, part.nowhere, Reverse(part.room)));
    let mut left = count;
    for (at, largest) in parts.iter().enumerate() {
        let alike = |part: &&Part| (part.there == 0, part.nowhere) == (largest.there == 0, largest.nowhere);
        let part = if largest.room < left {
            largest
        } else {
            // The last one: the tightest of those that take the rest, but first what spreads it least.
            let fitting = parts[at..].iter().take_while(|part| alike(part) && part.room >= left);
            let finer = |part: &Part| splits(&leaves[part.leaves.clone()], level + 1, left);
            fitting.min_by_key(|part| (finer(part), part.room, part.leaves.start)).unwrap_or(largest)
        };
        let here = left.min(part.room);
        spread(&leaves[part.leaves.clone()], offset + part.leaves.start, level + 1, here, takes);
        left -= here;
        if left == 0 {
            break;
        }
    }
}

/// How many domains of each key from `level` on `count` pods would be spread over.
fn splits(leaves: &[Leaf<'_>], level: usize, count: u64) -> Vec<usize> {
    let depth = leaves.first().map_or(level, |leaf| leaf.values.len());
    if level >= depth {
        return Vec::new();
    }
    let mut takes = Vec::new();
    spread(leaves, 0, level, count, &mut takes);
    (level..depth)
        .map(|key| takes.iter().map(|(leaf, _)| &leaves[*leaf].values[level..=key]).collect::<BTreeSet<_>>().len())
        .collect()
}
