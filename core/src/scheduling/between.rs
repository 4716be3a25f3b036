//! The filters that look beyond one node, as kube-scheduler's default plugins decide them: pod affinity and
//! anti-affinity, topology spread, volumes that only one pod of the cluster may use.

mod affinity;
mod domains;
mod spread;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::filter::{self, Why, preference};
use super::nodes::{Change, NodeIx, Nodes, Occupant};
use super::pod::{Identity, PodTerm, Shape};
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
pub fn fits(nodes: &Nodes, ix: NodeIx, shape: &Arc<Shape>, identity: &Arc<Identity>) -> Option<Why> {
    filter::why_not(nodes, ix, shape).or_else(|| Surroundings::new(nodes, shape, identity).why_not(nodes, ix))
}

/// Who is where, as far as it matters to one pod.
///
/// Counts everyone once; then a node is judged by looking up a few numbers. [`Surroundings::follow`] brings the counts
/// up to date by what changed since, so that they are kept from one pod of a shape to the next. One belongs to one
/// [`Nodes`].
#[derive(Clone, Debug)]
pub struct Surroundings {
    shape: Arc<Shape>,
    identity: Arc<Identity>,
    /// The version of the nodes that the rest is true of.
    version: u64,
    map: Map,
    company: Company,
    spreading: Spreading,
    /// How many use a volume that the pod must have for itself.
    volume_users: i64,
}

impl Surroundings {
    /// Looks at everyone for a pod of this shape and identity.
    #[must_use]
    pub fn new(nodes: &Nodes, shape: &Arc<Shape>, identity: &Arc<Identity>) -> Self {
        let mut map = Map::default();
        let mut company = Company::new(nodes, &mut map, &shape.coupling);
        company.meet(nodes, &mut map, &shape.coupling, identity);
        let mut spreading = Spreading::new(nodes, &mut map, shape);
        spreading.meet(&shape.coupling, identity);
        let (shape, identity) = (Arc::clone(shape), Arc::clone(identity));
        let mut all = Self { shape, identity, version: nodes.version(), map, company, spreading, volume_users: 0 };
        let exclusive = all.shape.volumes.exclusive.iter().any(|volume| volume.anywhere);
        if exclusive || !all.shape.coupling.is_none() {
            for (ix, occupant) in nodes.all_occupants() {
                all.count(ix, occupant, 1);
            }
        }
        all
    }

    /// Whether these are of pods of this shape in this namespace, so that [`Surroundings::turn_to`] costs little.
    #[must_use]
    pub fn are_of(&self, shape: &Arc<Shape>, identity: &Identity) -> bool {
        Arc::ptr_eq(&self.shape, shape) && self.identity.namespace == identity.namespace
    }

    /// Takes note of what changed.
    ///
    /// Costs a few steps for each change; counts everyone again where a node's labels or taints changed, or where the
    /// last time is too long ago.
    pub fn follow(&mut self, nodes: &Nodes) {
        let changes = nodes.changes_since(self.version);
        let changes =
            changes.filter(|all| !all.clone().any(|change| matches!(change, Change::Node { looks: true, .. })));
        let Some(changes) = changes else {
            *self = Self::new(nodes, &self.shape, &self.identity);
            return;
        };
        for change in changes {
            match change {
                Change::Came(ix, occupant) => self.moved(nodes, *ix, occupant, 1),
                Change::Left(ix, occupant) => self.moved(nodes, *ix, occupant, -1),
                Change::Node { .. } => {}
            }
        }
        self.version = nodes.version();
    }

    /// [`Surroundings::follow`], and turns to another pod of the same shape.
    ///
    /// Looks again at everyone who repels others, if some of them do not mind only one of the two pods; counts everyone
    /// again for a pod of another namespace.
    pub fn turn_to(&mut self, nodes: &Nodes, identity: &Arc<Identity>) {
        if identity.namespace != self.identity.namespace {
            *self = Self::new(nodes, &self.shape, identity);
            return;
        }
        self.follow(nodes);
        let before = std::mem::replace(&mut self.identity, Arc::clone(identity));
        if before.labels == identity.labels && before.namespace_labels == identity.namespace_labels {
            return;
        }
        let minds = |term: &PodTerm| term.matches(&before) != term.matches(identity);
        if nodes.repelling_shapes().any(|shape| shape.coupling.anti_affinity.iter().any(minds)) {
            self.company.meet(nodes, &mut self.map, &self.shape.coupling, identity);
        } else {
            self.company.recognise(&self.shape.coupling, identity);
        }
        self.spreading.meet(&self.shape.coupling, identity);
    }

    /// Why the pod cannot go to this node, as far as others tell; [`filter::why_not`] tells the rest.
    #[must_use]
    pub fn why_not(&self, nodes: &Nodes, ix: NodeIx) -> Option<Why> {
        debug_assert_eq!(self.version, nodes.version(), "the surroundings follow the nodes");
        if nodes.node(ix).is_none() {
            Some(Why::Unusable)
        } else if self.volume_users > 0 {
            Some(Why::VolumeTaken)
        } else {
            let coupling = &self.shape.coupling;
            self.spreading.why_not(&self.map, coupling, ix).or_else(|| self.company.why_not(&self.map, coupling, ix))
        }
    }

    /// How well the node suits what the pod prefers of nodes and of other pods, in points; higher is better.
    ///
    /// [`preference`], and twice the weight of each preferred term about pods times the part that the node's domain
    /// has of what the fullest one has, less up to 200 for each preferred spread constraint.
    #[must_use]
    pub fn score(&self, nodes: &Nodes, ix: NodeIx) -> i64 {
        let own = nodes.node(ix).map_or(0, |(node, _)| preference(node, &self.shape));
        own + self.company.score(&self.map, &self.shape.coupling, ix) + self.spreading.score(&self.map, ix)
    }

    fn moved(&mut self, nodes: &Nodes, ix: NodeIx, occupant: &Occupant, by: i64) {
        self.count(ix, occupant, by);
        self.company.count_repelling(nodes, &mut self.map, ix, occupant, &self.identity, by);
    }

    /// Counts someone for what the pod asks.
    fn count(&mut self, ix: NodeIx, occupant: &Occupant, by: i64) {
        let coupling = &self.shape.coupling;
        self.company.count(&self.map, coupling, ix, occupant, by);
        if occupant.identity.namespace == self.identity.namespace {
            self.spreading.count(&self.map, coupling, ix, occupant, by);
        }
        let mut mine = self.shape.volumes.exclusive.iter().filter(|volume| volume.anywhere);
        if mine.any(|volume| occupant.shape.volumes.exclusive.iter().any(|theirs| theirs.id == volume.id)) {
            self.volume_users += by;
        }
    }
}
