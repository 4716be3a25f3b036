//! What is known of one shape on every node, kept up to date from the nodes' changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::cost::{Cost, Known};
use super::coupled::Lately;
use super::pricing::{Asked, Pricing};
use super::topology::{Keys, Topologies, Topology, Values};
use crate::scheduling::filter::room_for;
use crate::scheduling::node::NodeState;
use crate::scheduling::nodes::{NodeIx, Nodes};
use crate::scheduling::pod::Shape;

/// How many nodes all classes together know of, about 120 bytes each.
const MAX_ENTRIES: usize = 1 << 20;
/// What a class takes beside what it knows of nodes, as so many of those.
const OWN_ENTRIES: usize = 64;
/// Ways to divide the nodes into domains that are kept for one shape.
const MAX_GROUPINGS: usize = 8;

/// A node with room for a pod of the class; the best one first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) cost: Cost,
    pub(super) name: Arc<str>,
    pub(super) ix: NodeIx,
}

/// A candidate and how many pods it takes; never none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    copies: u32,
    candidate: Candidate,
}

/// Nodes with room, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Domain {
    /// How many pods they take in all.
    pub(super) room: u64,
    pub(super) candidates: BTreeSet<Candidate>,
}

impl Domain {
    fn add(&mut self, slot: &Slot) {
        self.room += u64::from(slot.copies);
        self.candidates.insert(slot.candidate.clone());
    }

    fn remove(&mut self, slot: &Slot) {
        self.room -= u64::from(slot.copies);
        self.candidates.remove(&slot.candidate);
    }
}

/// The nodes with room by the domain that they are in; nodes outside of the required ones are left out.
#[derive(Clone, Debug, Default)]
struct Grouping {
    of_node: Vec<Option<Values>>,
    domains: BTreeMap<Values, Domain>,
}

impl Grouping {
    fn of(class: &Class, keys: &Keys, nodes: &Nodes, topology: &mut Topology) -> Self {
        let mut known: HashMap<Values, (Vec<Candidate>, u64)> = HashMap::new();
        let mut of_node = vec![None; class.slots.len()];
        for candidate in &class.all.candidates {
            let ix = candidate.ix;
            let Some(values) = state(nodes, ix).and_then(|state| topology.values(keys, ix, state)) else { continue };
            of_node[ix.index()] = Some(Arc::clone(values));
            if !known.contains_key(values) {
                known.insert(Arc::clone(values), (Vec::new(), 0));
            }
            if let Some((candidates, room)) = known.get_mut(values) {
                candidates.push(candidate.clone());
                *room += u64::from(class.copies(ix));
            }
        }
        let domain = |(candidates, room): (Vec<_>, u64)| Domain { room, candidates: candidates.into_iter().collect() };
        Self { of_node, domains: known.into_iter().map(|(values, domain_of)| (values, domain(domain_of))).collect() }
    }

    fn update(&mut self, ix: NodeIx, values: Option<&Values>, before: Option<&Slot>, now: Option<&Slot>) {
        let index = ix.index();
        if self.of_node.len() <= index {
            self.of_node.resize(index + 1, None);
        }
        let values = values.filter(|_| now.is_some());
        if self.of_node[index].as_ref() == values && before == now {
            return;
        }
        let was = self.of_node[index].take();
        if let Some(slot) = before
            && let Some(values) = &was
            && let Some(domain) = self.domains.get_mut(values)
        {
            domain.remove(slot);
        }
        if let Some(slot) = now
            && let Some(values) = values
        {
            self.of_node[index] = Some(Arc::clone(values));
            self.domains.entry(Arc::clone(values)).or_default().add(slot);
        }
        if let Some(values) = was
            && self.domains.get(&values).is_some_and(|domain| domain.candidates.is_empty())
        {
            self.domains.remove(&values);
        }
    }
}

fn state(nodes: &Nodes, ix: NodeIx) -> Option<&Arc<NodeState>> {
    nodes.room(ix)?.state.as_ref()
}

/// What is known of one shape on every node.
#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    shape: Arc<Shape>,
    asked: Asked,
    /// The version of the nodes that the rest is true of.
    version: Option<u64>,
    /// The version of the prices that all nodes have but those that are due.
    priced: u64,
    /// Nodes whose price is an old one, or not known.
    due: BTreeSet<NodeIx>,
    slots: Vec<Option<Slot>>,
    all: Domain,
    groupings: BTreeMap<Keys, Grouping>,
    used: u64,
}

impl Class {
    fn new(shape: &Arc<Shape>) -> Self {
        Self { shape: Arc::clone(shape), ..Self::default() }
    }

    /// How many pods the node takes.
    pub(super) fn copies(&self, ix: NodeIx) -> u32 {
        self.slots.get(ix.index()).and_then(Option::as_ref).map_or(0, |slot| slot.copies)
    }

    /// Every node with room.
    pub(super) fn all(&self) -> &Domain {
        &self.all
    }

    /// The domains with room, by their values. Of no keys, and of keys that were not asked for, there are none.
    pub(super) fn domains(&self, keys: &Keys) -> impl Iterator<Item = (&Values, &Domain)> {
        self.groupings.get(keys).into_iter().flat_map(|grouping| &grouping.domains)
    }

    /// The domain of a node with room.
    pub(super) fn domain_of(&self, keys: &Keys, ix: NodeIx) -> Option<&Values> {
        self.groupings.get(keys)?.of_node.get(ix.index())?.as_ref()
    }

    fn entries(&self) -> usize {
        (OWN_ENTRIES + self.slots.len()) * (1 + self.groupings.len())
    }

    fn catch_up(&mut self, nodes: &Nodes, topologies: &mut Topologies, seen: &mut Seen, pricing: &mut Pricing) {
        // So many changes are looked at faster all at once.
        let few = |version: &u64| nodes.version() - version <= self.slots.len() as u64;
        match self.version.filter(few).and_then(|version| nodes.changed_since(version)) {
            Some(changed) => {
                seen.start();
                for ix in changed {
                    if seen.first(ix) {
                        self.update(nodes, topologies, pricing, ix);
                    }
                }
            }
            None => self.rebuild(nodes, topologies, pricing),
        }
        self.version = Some(nodes.version());
        // Who only wants to know how much room there is does not need the order.
        if pricing.is_open() {
            if self.priced != pricing.version() {
                self.price_all(nodes, topologies, pricing);
            }
            self.price_due(nodes, pricing);
        }
    }

    fn slot(&mut self, nodes: &Nodes, ix: NodeIx, pricing: &mut Pricing) -> Option<Slot> {
        let (state, room) = nodes.node(ix)?;
        let copies = room_for(nodes, ix, &self.shape);
        if copies == 0 {
            return None;
        }
        let cost = Cost::of(state, &room.used, &self.shape, &self.asked, pricing);
        if cost.price == Known::NotYet {
            self.due.insert(ix);
        }
        Some(Slot { copies, candidate: Candidate { cost, name: Arc::clone(&room.name), ix } })
    }

    fn rebuild(&mut self, nodes: &Nodes, topologies: &mut Topologies, pricing: &mut Pricing) {
        self.slots.clear();
        self.due.clear();
        self.asked = pricing.asked(&self.shape);
        self.priced = pricing.version();
        for (ix, _, _) in nodes.iter() {
            let slot = self.slot(nodes, ix, pricing);
            *self.slot_mut(ix) = slot;
        }
        self.arrange(nodes, topologies, nodes.iter().map(|(ix, _, _)| ix));
    }

    /// Puts all slots in order. `by_name` are the nodes, so that most of the order is there already.
    fn arrange(&mut self, nodes: &Nodes, topologies: &mut Topologies, by_name: impl Iterator<Item = NodeIx>) {
        let slots: Vec<&Slot> = by_name.filter_map(|ix| self.slots.get(ix.index())?.as_ref()).collect();
        self.all.room = slots.iter().map(|slot| u64::from(slot.copies)).sum();
        self.all.candidates = slots.into_iter().map(|slot| slot.candidate.clone()).collect();
        for keys in self.groupings.keys().cloned().collect::<Vec<_>>() {
            self.group(nodes, topologies, keys);
        }
    }

    /// Prices are others than before: finds them where that is quick, and notes where it is not.
    fn price_all(&mut self, nodes: &Nodes, topologies: &mut Topologies, pricing: &mut Pricing) {
        self.asked = pricing.asked(&self.shape);
        self.priced = pricing.version();
        self.due.clear();
        let mut moved = Vec::new();
        for Slot { candidate, .. } in self.slots.iter().flatten() {
            let Some((state, room)) = nodes.node(candidate.ix) else { continue };
            let cost = Cost::of(state, &room.used, &self.shape, &self.asked, pricing);
            if cost.price == Known::NotYet {
                self.due.insert(candidate.ix);
            } else if cost != candidate.cost {
                moved.push((candidate.ix, cost));
            }
        }
        // So many are arranged faster all at once.
        if moved.len() > self.all.candidates.len() / 8 {
            for (ix, cost) in moved {
                if let Some(slot) = self.slot_mut(ix) {
                    slot.candidate.cost = cost;
                }
            }
            self.arrange(nodes, topologies, nodes.iter().map(|(ix, _, _)| ix));
        } else {
            for (ix, cost) in moved {
                self.move_to(ix, cost);
            }
        }
    }

    /// Finds some of the prices that are due.
    fn price_due(&mut self, nodes: &Nodes, pricing: &mut Pricing) {
        while pricing.is_open()
            && let Some(ix) = self.due.pop_first()
        {
            if self.copies(ix) == 0 {
                continue;
            }
            let Some((state, room)) = nodes.node(ix) else { continue };
            let cost = Cost::of(state, &room.used, &self.shape, &self.asked, pricing);
            self.move_to(ix, cost);
        }
    }

    /// The cost of a node with room is another.
    fn move_to(&mut self, ix: NodeIx, cost: Cost) {
        let Some(before) = self.slot_mut(ix).take() else { return };
        let mut now = before.clone();
        now.candidate.cost = cost;
        self.all.remove(&before);
        self.all.add(&now);
        for grouping in self.groupings.values_mut() {
            let values = grouping.of_node.get(ix.index()).cloned().flatten();
            grouping.update(ix, values.as_ref(), Some(&before), Some(&now));
        }
        *self.slot_mut(ix) = Some(now);
    }

    fn group(&mut self, nodes: &Nodes, topologies: &mut Topologies, keys: Keys) {
        let grouping = Grouping::of(self, &keys, nodes, topologies.of(&keys));
        self.groupings.insert(keys, grouping);
    }

    fn slot_mut(&mut self, ix: NodeIx) -> &mut Option<Slot> {
        if self.slots.len() <= ix.index() {
            self.slots.resize(ix.index() + 1, None);
        }
        &mut self.slots[ix.index()]
    }

    fn update(&mut self, nodes: &Nodes, topologies: &mut Topologies, pricing: &mut Pricing, ix: NodeIx) {
        let now = self.slot(nodes, ix, pricing);
        let before = self.slot_mut(ix).take();
        if before != now {
            if let Some(slot) = &before {
                self.all.remove(slot);
            }
            if let Some(slot) = &now {
                self.all.add(slot);
            }
        }
        // Labels may have changed even where the room has not.
        for (keys, grouping) in &mut self.groupings {
            let values = state(nodes, ix).and_then(|state| topologies.of(keys).values(keys, ix, state));
            grouping.update(ix, values, before.as_ref(), now.as_ref());
        }
        *self.slot_mut(ix) = now;
    }
}

/// The classes that were asked for lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    /// For the shapes that are placed one by one.
    pub(super) around: Lately,
    pub(super) pricing: Pricing,
    by_shape: HashMap<Arc<Shape>, Class>,
    topologies: Topologies,
    clock: u64,
    seen: Seen,
}

impl Classes {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_shape.len()
    }

    /// What is known of the shape now, by these domains among others.
    pub(super) fn get(&mut self, nodes: &Nodes, shape: &Arc<Shape>, keys: &Keys) -> &Class {
        self.clock += 1;
        let Self { pricing, by_shape, topologies, clock, seen, .. } = self;
        if !by_shape.contains_key(shape) {
            make_room(by_shape, nodes);
        }
        let class = by_shape.entry(Arc::clone(shape)).or_insert_with(|| Class::new(shape));
        class.used = *clock;
        class.catch_up(nodes, topologies, seen, pricing);
        if !keys.labels.is_empty() && !class.groupings.contains_key(keys) {
            if class.groupings.len() >= MAX_GROUPINGS {
                class.groupings.clear();
            }
            class.group(nodes, topologies, keys.clone());
        }
        class
    }
}

/// Forgets the classes that were not asked for the longest, a quarter at a time.
fn make_room(by_shape: &mut HashMap<Arc<Shape>, Class>, nodes: &Nodes) {
    let entries: usize = by_shape.values().map(Class::entries).sum();
    let (_, known_nodes) = nodes.iter().size_hint();
    if entries + known_nodes.unwrap_or(0) <= MAX_ENTRIES {
        return;
    }
    let mut uses: Vec<u64> = by_shape.values().map(|class| class.used).collect();
    uses.sort_unstable();
    let oldest_kept = uses.get(uses.len().div_ceil(4)).copied().unwrap_or(u64::MAX);
    by_shape.retain(|_, class| class.used >= oldest_kept);
}

/// Which nodes were looked at already on one way through the changes.
#[derive(Clone, Debug, Default)]
struct Seen {
    pass: u64,
    at: Vec<u64>,
}

impl Seen {
    fn start(&mut self) {
        self.pass += 1;
    }

    fn first(&mut self, ix: NodeIx) -> bool {
        if self.at.len() <= ix.index() {
            self.at.resize(ix.index() + 1, 0);
        }
        std::mem::replace(&mut self.at[ix.index()], self.pass) != self.pass
    }
}
