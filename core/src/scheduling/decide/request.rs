//! What is asked, and what is answered.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::topology::Keys;
use crate::scheduling::nodes::{NodeIx, Nodes};
use crate::scheduling::pod::{Identity, Shape};

/// A member that has no node yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRequest {
    /// What its pod asks for.
    pub shape: Arc<Shape>,
    /// Who its pod is to others' affinities.
    pub identity: Arc<Identity>,
    /// The node to take if it fits: held for it already, or chosen by the hub.
    pub node: Option<String>,
}

/// A level of the topology.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level {
    /// Node label whose values are the domains.
    pub key: String,
    /// All members are in one domain, or not placed at all; else they are in as few as can be.
    pub required: bool,
}

/// Members that get a node each, or none.
///
/// What this gang holds already must not count in the [`Nodes`] that it is decided on, and members that are bound
/// are not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GangRequest {
    /// The members, by rank.
    pub members: Vec<MemberRequest>,
    /// The fewest members that may be placed, at least one; the number of members where the gang cannot be smaller. The
    /// first ones are placed, as many as fit.
    pub minimum: usize,
    /// Where they are together, coarse levels first.
    pub topology: Vec<Level>,
    /// Nodes that are reserved for others.
    pub closed: Arc<BTreeSet<NodeIx>>,
}

impl GangRequest {
    /// The fewest members that have to be placed.
    pub(super) fn least(&self) -> usize {
        self.minimum.max(1).min(self.members.len())
    }
}

/// A node for each member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Names of nodes, in the order of the request's members. `None` for the last ones, where a gang is placed smaller
    /// than it wishes.
    pub nodes: Vec<Option<Arc<str>>>,
}

impl Assignment {
    pub(super) fn of(nodes: &Nodes, chosen: &[Option<NodeIx>]) -> Self {
        let name = |ix: NodeIx| nodes.room(ix).map(|room| Arc::clone(&room.name));
        Self { nodes: chosen.iter().map(|ix| ix.and_then(name)).collect() }
    }
}

impl Keys {
    pub(super) fn of(topology: &[Level]) -> Self {
        let mut keys = Self::default();
        for required in [true, false] {
            for level in topology.iter().filter(|level| level.required == required) {
                if !keys.labels.contains(&level.key) {
                    keys.labels.push(level.key.clone());
                }
            }
            if required {
                keys.required = keys.labels.len();
            }
        }
        keys
    }
}

/// The distinct shapes of a request, and which one each member has.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    pub(super) shapes: Vec<Arc<Shape>>,
    pub(super) of_member: Vec<usize>,
}

impl Kinds {
    pub(super) fn of(members: &[MemberRequest]) -> Self {
        let mut kinds = Self { shapes: Vec::new(), of_member: Vec::with_capacity(members.len()) };
        let mut known: HashMap<&Shape, usize> = HashMap::new();
        let mut last: Option<(&Arc<Shape>, usize)> = None;
        for member in members {
            let kind = match last {
                Some((shape, kind)) if Arc::ptr_eq(shape, &member.shape) => kind,
                _ => *known.entry(&member.shape).or_insert_with(|| {
                    kinds.shapes.push(Arc::clone(&member.shape));
                    kinds.shapes.len() - 1
                }),
            };
            last = Some((&member.shape, kind));
            kinds.of_member.push(kind);
        }
        kinds
    }

    /// How many of the first `count` members have each shape.
    pub(super) fn counts(&self, count: usize) -> Vec<u64> {
        let mut counts = vec![0; self.shapes.len()];
        for kind in self.of_member.iter().take(count) {
            counts[*kind] += 1;
        }
        counts
    }

    /// Kinds, the hardest to place first.
    pub(super) fn by_size(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shapes.len()).collect();
        order.sort_by_key(|kind| {
            let requests = &self.shapes[*kind].requests;
            Reverse((requests.device().map_or(0, |d| requests.get(d)), requests.get("cpu"), requests.get("memory")))
        });
        order
    }
}
