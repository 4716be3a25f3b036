//! Members put on the nodes for a try, and taken off again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::class::Classes;
use super::domains::View;
use super::request::{Assignment, GangRequest, Kinds};
use super::topology::Keys;
use crate::scheduling::filter::room_for;
use crate::scheduling::nodes::{NodeIx, Nodes, Occupant, OccupantId, Stage};

/// Values of the required keys, which name the domain that a gang is tried in.
pub(super) type Place = Vec<Option<Arc<str>>>;

/// A gang that is tried member by member, on the nodes themselves.
pub(super) struct Trial<'a> {
    pub(super) classes: &'a mut Classes,
    pub(super) nodes: &'a mut Nodes,
    pub(super) request: &'a GangRequest,
    pub(super) kinds: &'a Kinds,
    pub(super) keys: &'a Keys,
    put: Vec<Option<(NodeIx, OccupantId)>>,
}

impl<'a> Trial<'a> {
    pub(super) fn new(
        classes: &'a mut Classes,
        nodes: &'a mut Nodes,
        request: &'a GangRequest,
        kinds: &'a Kinds,
        keys: &'a Keys,
    ) -> Self {
        Self { classes, nodes, request, kinds, keys, put: vec![None; request.members.len()] }
    }

    /// The largest number of first members, at least the minimum, that `place` finds nodes for, supposing that fewer
    /// are never harder to place. `place` puts the first `count` members and says whether it could.
    pub(super) fn most(&mut self, place: impl Fn(&mut Self, usize) -> bool) -> Option<Assignment> {
        let mut too_many = self.request.members.len();
        let whole = self.attempt(&place, too_many);
        if whole.is_some() || self.request.least() >= too_many {
            return whole;
        }
        let mut fits = self.request.least();
        let mut best = self.attempt(&place, fits)?;
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            match self.attempt(&place, middle) {
                Some(found) => (fits, best) = (middle, found),
                None => too_many = middle,
            }
        }
        Some(best)
    }

    fn attempt(&mut self, place: impl Fn(&mut Self, usize) -> bool, count: usize) -> Option<Assignment> {
        let placed = place(self, count);
        let chosen = self.clear();
        placed.then(|| Assignment::of(self.nodes, &chosen))
    }

    /// Takes everyone off again; says where they were.
    pub(super) fn clear(&mut self) -> Vec<Option<NodeIx>> {
        let chosen = self.put.iter().map(|put| put.map(|(ix, _)| ix)).collect();
        for (_, id) in self.put.iter_mut().filter_map(Option::take) {
            self.nodes.take_off(id);
        }
        chosen
    }

    /// Puts a member on a node.
    pub(super) fn put(&mut self, member: usize, ix: NodeIx) {
        let request = &self.request.members[member];
        let occupant = Occupant {
            shape: Arc::clone(&request.shape),
            identity: Arc::clone(&request.identity),
            stage: Stage::Bound,
        };
        self.put[member] = Some((ix, self.nodes.put_at(ix, occupant)));
    }

    /// Takes a member off again.
    pub(super) fn take_back(&mut self, member: usize) {
        if let Some((_, id)) = self.put[member].take() {
            self.nodes.take_off(id);
        }
    }

    /// The node of a member that is put.
    pub(super) fn node_of(&self, member: usize) -> Option<NodeIx> {
        self.put[member].map(|(ix, _)| ix)
    }

    /// Members of one shape among the first `count` that are not put.
    pub(super) fn waiting(&self, kind: usize, count: usize) -> Vec<usize> {
        (0..count).filter(|member| self.kinds.of_member[*member] == kind && self.put[*member].is_none()).collect()
    }

    /// What there is for one shape now in one domain.
    pub(super) fn view(&mut self, kind: usize, place: &[Option<Arc<str>>]) -> View<'_> {
        let class = self.classes.get(self.nodes, &self.kinds.shapes[kind], self.keys);
        let mut view = View::new(class, self.keys, &self.request.closed).within(place);
        if self.keys.labels.len() > self.keys.required {
            for (ix, _) in self.put.iter().flatten() {
                if let Some((state, _)) = self.nodes.node(*ix) {
                    view.note(state);
                }
            }
        }
        view
    }

    /// The node that a member names, if it is open, in the domain, and has room as far as it alone tells.
    pub(super) fn wish(&self, member: usize, place: &[Option<Arc<str>>]) -> Option<NodeIx> {
        let request = &self.request.members[member];
        let ix = self.nodes.ix(request.node.as_deref()?)?;
        let allowed = !self.request.closed.contains(&ix)
            && self.is_within(ix, place)
            && room_for(self.nodes, ix, &request.shape) > 0;
        allowed.then_some(ix)
    }

    /// Whether a node is in the domain.
    pub(super) fn is_within(&self, ix: NodeIx, place: &[Option<Arc<str>>]) -> bool {
        self.nodes
            .node(ix)
            .is_some_and(|(state, _)| self.keys.value(state).take(place.len()).eq(place.iter().map(Option::as_deref)))
    }

    /// The domains of which each has room for the members of each shape among the first `count`, if it were alone:
    /// first those of most nodes that members name, then the tightest, then by name. Without required levels there is
    /// one, of everything.
    pub(super) fn places(&mut self, count: usize) -> Vec<Place> {
        let wanted = self.kinds.counts(count);
        let mut rooms: BTreeMap<Place, Vec<u64>> = BTreeMap::new();
        let order: Vec<usize> = self.kinds.by_size().into_iter().filter(|kind| wanted[*kind] > 0).collect();
        for (at, kind) in order.iter().enumerate() {
            for group in self.view(*kind, &[]).groups().iter().filter(|group| group.room >= wanted[*kind]) {
                if at == 0 {
                    rooms.insert(group.values.to_vec(), vec![group.room]);
                } else if let Some(rooms) = rooms.get_mut(group.values)
                    && rooms.len() == at
                {
                    rooms.push(group.room);
                }
            }
        }
        rooms.retain(|_, rooms| rooms.len() == order.len());
        let mut named: BTreeMap<Place, usize> = BTreeMap::new();
        if rooms.len() > 1 {
            for member in &self.request.members[..count] {
                if let Some((state, _)) =
                    member.node.as_deref().and_then(|name| self.nodes.ix(name)).and_then(|ix| self.nodes.node(ix))
                {
                    let place = self.keys.value(state).take(self.keys.required).map(|value| value.map(Arc::from));
                    *named.entry(place.collect()).or_default() += 1;
                }
            }
        }
        let mut places: Vec<(Place, Vec<u64>)> = rooms.into_iter().collect();
        places.sort_by_cached_key(|(place, rooms)| (Reverse(named.get(place).copied().unwrap_or(0)), rooms.clone()));
        places.into_iter().map(|(place, _)| place).collect()
    }
}
