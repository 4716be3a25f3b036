//! The nodes of a Site and who is on each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::amounts::Amounts;
use super::node::NodeState;
use super::pod::{Identity, Shape};

/// How many changes are remembered. A reader that fell behind further starts over.
const LOG_LENGTH: usize = 1 << 14;

/// Number of a node in [`Nodes`], as long as something is known of it; given again to another one afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIx(u32);

impl NodeIx {
    /// As an index into a table of nodes.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One [`Occupant`] of a node; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OccupantId(u64);

/// How a pod is on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Bound, or about to be by us.
    Bound,
    /// Bound and being deleted: takes its room still, and spread constraints count it no more.
    Terminating,
    /// Its room is kept for it: held by us, or nominated by another scheduler. Nobody's affinity is satisfied by it.
    Coming,
}

/// Someone who takes room on a node.
#[derive(Clone, Debug)]
pub struct Occupant {
    /// What it takes and asks.
    pub shape: Arc<Shape>,
    /// Who it is to others' affinities.
    pub identity: Arc<Identity>,
    /// How it is there.
    pub stage: Stage,
}

/// Someone who was taken off for a while.
#[derive(Debug)]
#[must_use = "who is set aside must be put back"]
pub struct Aside {
    id: OccupantId,
    node: NodeIx,
    occupant: Occupant,
}

impl Aside {
    /// Where it was.
    #[must_use]
    pub fn node(&self) -> NodeIx {
        self.node
    }
}

/// One change, as it is remembered.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A node came, went or changed.
    Node {
        /// Which.
        ix: NodeIx,
        /// Its labels or taints are others than before.
        looks: bool,
    },
    /// Someone came to a node.
    Came(NodeIx, Occupant),
    /// Someone left a node.
    Left(NodeIx, Occupant),
}

impl Change {
    fn node(&self) -> NodeIx {
        match self {
            Self::Node { ix, .. } | Self::Came(ix, _) | Self::Left(ix, _) => *ix,
        }
    }
}

#[derive(Clone, Debug)]
struct Place {
    node: NodeIx,
    occupant: Occupant,
}

/// A node and what is taken on it.
#[derive(Clone, Debug)]
pub struct Room {
    /// Its name.
    pub name: Arc<str>,
    /// The node as the API server shows it; `None` for one that only pods name.
    pub state: Option<Arc<NodeState>>,
    /// What its occupants take.
    pub used: Amounts,
    occupants: BTreeSet<OccupantId>,
}

/// The nodes of a Site and who is on each.
///
/// Occupants are kept for nodes that are not known (yet), so that pods and nodes may arrive in any order. Every change
/// of a node is numbered, so that whoever derives something from the nodes looks at changed ones only.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    rooms: Vec<Option<Room>>,
    vacant: Vec<NodeIx>,
    by_name: BTreeMap<Arc<str>, NodeIx>,
    places: BTreeMap<OccupantId, Place>,
    next: u64,
    /// Occupants that keep others away by required anti-affinity.
    repelling: BTreeSet<OccupantId>,
    /// Their shapes, by address, with how many of them there are.
    repelling_shapes: BTreeMap<usize, (Arc<Shape>, usize)>,
    log: VecDeque<Change>,
    /// Number of the first entry of `log`.
    logged_from: u64,
}

impl Nodes {
    /// Adds or replaces a node; who is on it stays. False when nothing changed.
    pub fn set(&mut self, state: NodeState) -> bool {
        let ix = self.ix_or_new(&state.name);
        let Some(room) = self.rooms[ix.index()].as_mut() else { return false };
        if room.state.as_deref() == Some(&state) {
            return false;
        }
        let looks = room.state.as_ref().is_none_or(|old| old.labels != state.labels || old.taints != state.taints);
        room.state = Some(Arc::new(state));
        self.changed(Change::Node { ix, looks });
        true
    }

    /// Forgets a node; who is on it stays until it is taken off. False when there was none.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(ix) = self.by_name.get(name).copied() else { return false };
        let known = self.rooms[ix.index()].as_mut().is_some_and(|room| room.state.take().is_some());
        self.changed(Change::Node { ix, looks: known });
        self.forget_if_empty(ix);
        known
    }

    /// Puts someone on a node.
    pub fn put(&mut self, node: &str, occupant: Occupant) -> OccupantId {
        let ix = self.ix_or_new(node);
        self.put_at(ix, occupant)
    }

    /// [`Nodes::put`] on a node of known number.
    pub fn put_at(&mut self, ix: NodeIx, occupant: Occupant) -> OccupantId {
        self.next += 1;
        let id = OccupantId(self.next);
        self.insert(id, ix, occupant);
        id
    }

    fn insert(&mut self, id: OccupantId, ix: NodeIx, occupant: Occupant) {
        if let Some(room) = self.rooms[ix.index()].as_mut() {
            room.used.add(&occupant.shape.requests);
            room.occupants.insert(id);
        }
        if !occupant.shape.coupling.anti_affinity.is_empty() {
            self.repelling.insert(id);
            let address = Arc::as_ptr(&occupant.shape).addr();
            self.repelling_shapes.entry(address).or_insert_with(|| (Arc::clone(&occupant.shape), 0)).1 += 1;
        }
        self.changed(Change::Came(ix, occupant.clone()));
        self.places.insert(id, Place { node: ix, occupant });
    }

    /// Takes someone off again.
    pub fn take_off(&mut self, id: OccupantId) -> Option<Occupant> {
        let Place { node, occupant } = self.places.remove(&id)?;
        if self.repelling.remove(&id) {
            let address = Arc::as_ptr(&occupant.shape).addr();
            if let Some((_, count)) = self.repelling_shapes.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.repelling_shapes.remove(&address);
                }
            }
        }
        if let Some(room) = self.rooms[node.index()].as_mut() {
            room.used.subtract(&occupant.shape.requests);
            room.occupants.remove(&id);
        }
        self.changed(Change::Left(node, occupant.clone()));
        self.forget_if_empty(node);
        Some(occupant)
    }

    /// Takes someone off who is to come back by [`Nodes::put_back`] under the same id: to see what would be without.
    pub fn set_aside(&mut self, id: OccupantId) -> Option<Aside> {
        let node = self.places.get(&id)?.node;
        // A node that nobody knows may be forgotten with its last occupant; there is nothing to see on it either.
        self.room(node)?.state.as_ref()?;
        let occupant = self.take_off(id)?;
        Some(Aside { id, node, occupant })
    }

    /// Undoes [`Nodes::set_aside`].
    pub fn put_back(&mut self, aside: Aside) {
        self.insert(aside.id, aside.node, aside.occupant);
    }

    /// The node's number.
    #[must_use]
    pub fn ix(&self, name: &str) -> Option<NodeIx> {
        self.by_name.get(name).copied()
    }

    /// A node by its number.
    #[must_use]
    pub fn room(&self, ix: NodeIx) -> Option<&Room> {
        self.rooms.get(ix.index())?.as_ref()
    }

    /// A known node by its number.
    #[must_use]
    pub fn node(&self, ix: NodeIx) -> Option<(&NodeState, &Room)> {
        let room = self.room(ix)?;
        Some((room.state.as_deref()?, room))
    }

    /// The node of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&NodeState> {
        self.node(self.ix(name)?).map(|(state, _)| state)
    }

    /// What is taken on the node of this name.
    #[must_use]
    pub fn used(&self, name: &str) -> Amounts {
        self.ix(name).and_then(|ix| self.room(ix)).map(|room| room.used.clone()).unwrap_or_default()
    }

    /// Every known node, by name.
    pub fn iter(&self) -> impl Iterator<Item = (NodeIx, &NodeState, &Room)> {
        self.by_name.values().filter_map(|ix| self.node(*ix).map(|(state, room)| (*ix, state, room)))
    }

    /// Everyone on a node.
    pub fn occupants(&self, ix: NodeIx) -> impl Iterator<Item = (OccupantId, &Occupant)> {
        self.room(ix)
            .into_iter()
            .flat_map(|room| &room.occupants)
            .filter_map(|id| self.places.get(id).map(|place| (*id, &place.occupant)))
    }

    /// Someone, and the node.
    #[must_use]
    pub fn occupant(&self, id: OccupantId) -> Option<(NodeIx, &Occupant)> {
        self.places.get(&id).map(|place| (place.node, &place.occupant))
    }

    /// Everyone, with the node.
    pub fn all_occupants(&self) -> impl Iterator<Item = (NodeIx, &Occupant)> {
        self.places.values().map(|place| (place.node, &place.occupant))
    }

    /// Everyone who keeps others away by required anti-affinity, with the node.
    pub fn repelling(&self) -> impl Iterator<Item = (NodeIx, &Occupant)> {
        self.repelling.iter().filter_map(|id| self.occupant(*id))
    }

    /// The shapes of everyone who keeps others away by required anti-affinity; each once where equal shapes are shared.
    pub fn repelling_shapes(&self) -> impl Iterator<Item = &Shape> {
        self.repelling_shapes.values().map(|(shape, _)| &**shape)
    }

    /// The number of the latest change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.logged_from + self.log.len() as u64
    }

    /// The nodes that changed since `version`, some more than once; `None` when that is too long ago to be known.
    #[must_use]
    pub fn changed_since(&self, version: u64) -> Option<impl Iterator<Item = NodeIx>> {
        Some(self.changes_since(version)?.map(Change::node))
    }

    /// The changes since `version`, the oldest first; `None` when that is too long ago to be known.
    pub(super) fn changes_since(&self, version: u64) -> Option<impl Iterator<Item = &Change> + Clone> {
        let skip = usize::try_from(version.checked_sub(self.logged_from)?).ok()?;
        Some(self.log.range(skip.min(self.log.len())..))
    }

    fn ix_or_new(&mut self, name: &str) -> NodeIx {
        if let Some(ix) = self.by_name.get(name) {
            return *ix;
        }
        let name: Arc<str> = Arc::from(name);
        let room = Room { name: Arc::clone(&name), state: None, used: Amounts::default(), occupants: BTreeSet::new() };
        let ix = self.vacant.pop().unwrap_or_else(|| {
            self.rooms.push(None);
            NodeIx(u32::try_from(self.rooms.len() - 1).unwrap_or(u32::MAX))
        });
        self.rooms[ix.index()] = Some(room);
        self.by_name.insert(name, ix);
        ix
    }

    fn forget_if_empty(&mut self, ix: NodeIx) {
        let slot = &mut self.rooms[ix.index()];
        if let Some(room) = slot.take_if(|room| room.state.is_none() && room.occupants.is_empty()) {
            self.by_name.remove(&room.name);
            self.vacant.push(ix);
        }
    }

    fn changed(&mut self, change: Change) {
        if self.log.len() == LOG_LENGTH {
            self.log.pop_front();
            self.logged_from += 1;
        }
        self.log.push_back(change);
    }
}
