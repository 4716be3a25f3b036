//! The filters that look beyond one node, as kube-scheduler's default plugins decide them: pod affinity and
//! anti-affinity, topology spread, volumes that only one pod of the cluster may use.

mod affinity;
mod domains;
mod spread;
#[cfg(test)]
mod tests;

use super::filter::{self, Why, preference};
use super::nodes::{NodeIx, Nodes, Occupant};
use super::pod::{Identity, Shape};
use affinity::Company;
use domains::Map;
use spread::Spreading;

/// Whether the pod's node depends on who is on other nodes, so that [`filter::room_for`] does not tell all.
///
/// What others merely prefer of the pod does not count.
#[must_use]
pub fn is_coupled(nodes: &Nodes, shape: &Shape, identity: &Identity) -> bool {
    !shape.coupling.is_none()
        || shape.volumes.exclusive.iter().any(|volume| volume.anywhere)
        || nodes.repelling_shapes().any(|other| other.coupling.repels(identity))
}

/// Why the node takes no such pod now: every filter, the first that says no.
///
/// Who asks about several nodes for one pod makes its [`Surroundings`] once instead.
#[must_use]
pub fn fits(nodes: &Nodes, ix: NodeIx, shape: &Shape, identity: &Identity) -> Option<Why> {
    filter::why_not(nodes, ix, shape).or_else(|| Surroundings::new(nodes, shape, identity).why_not(nodes, ix))
}

/// Who is where, as far as it matters to one pod.
///
/// Counts everyone once; then a node is judged by looking up a few numbers. True as long as no node comes, goes or
/// changes and everyone who comes and goes is told by [`Surroundings::add`] and [`Surroundings::remove`].
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    shape: &'a Shape,
    identity: &'a Identity,
    map: Map,
    company: Company<'a>,
    spreading: Spreading<'a>,
    /// How many use a volume that the pod must have for itself.
    volume_users: i64,
}

impl<'a> Surroundings<'a> {
    /// Looks at everyone for a pod of this shape and identity.
    #[must_use]
    pub fn new(nodes: &Nodes, shape: &'a Shape, identity: &'a Identity) -> Self {
        let mut map = Map::default();
        let mut company = Company::new(nodes, &mut map, &shape.coupling);
        company.meet(nodes, &mut map, identity);
        let spreading = Spreading::new(nodes, &mut map, shape, identity);
        let mut all = Self { shape, identity, map, company, spreading, volume_users: 0 };
        let indifferent = all.company.is_indifferent()
            && all.spreading.is_indifferent()
            && !shape.volumes.exclusive.iter().any(|volume| volume.anywhere);
        if !indifferent {
            for (ix, occupant) in nodes.all_occupants() {
                all.count(ix, occupant, 1);
            }
        }
        all
    }

    /// Turns to another pod of the same shape. Who was added in between must be among the nodes' occupants by now.
    ///
    /// Costs as many steps as there are occupants who repel others, if the namespace stays the same.
    pub fn turn_to(&mut self, nodes: &Nodes, identity: &'a Identity) {
        if identity.namespace == self.identity.namespace {
            self.identity = identity;
            self.company.meet(nodes, &mut self.map, identity);
            self.spreading.meet(identity);
        } else {
            *self = Self::new(nodes, self.shape, identity);
        }
    }

    /// Someone came to a node.
    pub fn add(&mut self, nodes: &Nodes, ix: NodeIx, occupant: &Occupant) {
        self.count(ix, occupant, 1);
        self.company.count_repelling(nodes, &mut self.map, ix, occupant, self.identity, 1);
    }

    /// Someone left a node.
    pub fn remove(&mut self, nodes: &Nodes, ix: NodeIx, occupant: &Occupant) {
        self.count(ix, occupant, -1);
        self.company.count_repelling(nodes, &mut self.map, ix, occupant, self.identity, -1);
    }

    /// Why the pod cannot go to this node, as far as others tell; [`filter::why_not`] tells the rest.
    #[must_use]
    pub fn why_not(&self, nodes: &Nodes, ix: NodeIx) -> Option<Why> {
        if nodes.node(ix).is_none() {
            Some(Why::Unusable)
        } else if self.volume_users > 0 {
            Some(Why::VolumeTaken)
        } else {
            self.spreading.why_not(&self.map, ix).or_else(|| self.company.why_not(&self.map, ix))
        }
    }

    /// How well the node suits what the pod prefers of nodes and of other pods, in points; higher is better.
    ///
    /// [`preference`], and twice the weight of each preferred term about pods times the part that the node's domain
    /// has of what the fullest one has, less up to 200 for each preferred spread constraint.
    #[must_use]
    pub fn score(&self, nodes: &Nodes, ix: NodeIx) -> i64 {
        let own = nodes.node(ix).map_or(0, |(node, _)| preference(node, self.shape));
        own + self.company.score(&self.map, ix) + self.spreading.score(&self.map, ix)
    }

    fn count(&mut self, ix: NodeIx, occupant: &Occupant, by: i64) {
        self.company.count(&self.map, ix, occupant, by);
        self.spreading.count(&self.map, ix, occupant, by);
        let mut mine = self.shape.volumes.exclusive.iter().filter(|volume| volume.anywhere);
        if mine.any(|volume| occupant.shape.volumes.exclusive.iter().any(|theirs| theirs.id == volume.id)) {
            self.volume_users += by;
        }
    }
}
