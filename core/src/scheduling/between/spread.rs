//! Pods that go evenly over domains.

use super::super::filter::Why;
use super::super::nodes::{NodeIx, Nodes, Occupant, Stage};
use super::super::pod::{Identity, Shape, Spread};
use super::super::selector::Selector;
use super::domains::{Map, Tally};

/// What the fullest domain of a preferred constraint costs against the emptiest one, in points of the score.
const FULLEST: i64 = 200;

/// How evenly the pods that one constraint is about are spread.
#[derive(Clone, Debug)]
struct Evenness<'a> {
    constraint: &'a Spread,
    counts_itself: bool,
    /// Nodes that count, by number.
    counted: Vec<bool>,
    tally: Tally,
}

/// The spread constraints of a pod.
#[derive(Clone, Debug)]
pub(super) struct Spreading<'a> {
    namespace: &'a str,
    required: Vec<Evenness<'a>>,
    preferred: Vec<Evenness<'a>>,
}

impl<'a> Spreading<'a> {
    /// Nobody counted yet.
    pub(super) fn new(nodes: &Nodes, map: &mut Map, shape: &'a Shape, identity: &'a Identity) -> Self {
        let mut of = |required: bool| -> Vec<_> {
            let constraints = shape.coupling.spread.iter().filter(|constraint| constraint.required == required);
            let mut all: Vec<_> = constraints.map(|constraint| Evenness::new(nodes, map, constraint)).collect();
            count_nodes(&mut all, nodes, map, shape);
            all
        };
        let mut spreading = Self { namespace: &identity.namespace, required: of(true), preferred: of(false) };
        spreading.meet(identity);
        spreading
    }

    /// Whether nobody has to be counted.
    pub(super) fn is_indifferent(&self) -> bool {
        self.required.is_empty() && self.preferred.is_empty()
    }

    /// Says who the pod is, in the same namespace.
    pub(super) fn meet(&mut self, identity: &Identity) {
        for evenness in &mut self.required {
            evenness.counts_itself = evenness.constraint.pods.matches(&identity.labels);
        }
    }

    /// Counts someone on a node.
    pub(super) fn count(&mut self, map: &Map, ix: NodeIx, occupant: &Occupant, by: i64) {
        if occupant.stage == Stage::Terminating || occupant.identity.namespace != self.namespace {
            return;
        }
        for evenness in self.required.iter_mut().chain(&mut self.preferred) {
            evenness.count(map, ix, occupant, by);
        }
    }

    pub(super) fn why_not(&self, map: &Map, ix: NodeIx) -> Option<Why> {
        self.required.iter().find_map(|evenness| {
            let constraint = evenness.constraint;
            let Some(domain) = map.domain(evenness.tally.key(), ix) else {
                return Some(Why::NoDomain(constraint.topology_key.clone()));
            };
            let enough = i64::try_from(evenness.tally.domains()).unwrap_or(i64::MAX);
            let least = if enough < i64::from(constraint.min_domains) { 0 } else { evenness.tally.least() };
            let skew = evenness.tally.count(domain) + i64::from(evenness.counts_itself) - least;
            (skew > i64::from(constraint.max_skew)).then_some(Why::Uneven)
        })
    }

    /// Less the fuller the node's domain is between the emptiest and the fullest; a node without a domain is as a
    /// fullest one.
    pub(super) fn score(&self, map: &Map, ix: NodeIx) -> i64 {
        let cost = |Evenness { tally, .. }: &Evenness<'_>| {
            let (least, most) = (tally.least(), tally.most());
            match map.domain(tally.key(), ix) {
                None => FULLEST,
                Some(_) if most == least => 0,
                Some(domain) => FULLEST * (tally.count(domain) - least).max(0) / (most - least),
            }
        };
        -self.preferred.iter().map(cost).sum::<i64>()
    }
}

impl<'a> Evenness<'a> {
    fn new(nodes: &Nodes, map: &mut Map, constraint: &'a Spread) -> Self {
        let key = map.key(nodes, &constraint.topology_key);
        Self { constraint, counts_itself: false, counted: Vec::new(), tally: Tally::of_none(map, key) }
    }

    fn count(&mut self, map: &Map, ix: NodeIx, occupant: &Occupant, by: i64) {
        // A selector without requirements matches the pod itself and yet counts nobody, as in Kubernetes.
        let counts = matches!(&self.constraint.pods, Selector::All(all) if !all.is_empty());
        if counts
            && self.counted.get(ix.index()) == Some(&true)
            && self.constraint.pods.matches(&occupant.identity.labels)
        {
            self.tally.change_at(map, ix, by);
        }
    }
}

/// Finds the nodes that count: those with every label of the constraints, and, as each constraint wants it, with
/// matching affinity and tolerated taints.
fn count_nodes(all: &mut [Evenness<'_>], nodes: &Nodes, map: &Map, shape: &Shape) {
    if all.is_empty() {
        return;
    }
    let affinity = all.iter().any(|evenness| evenness.constraint.honor_affinity);
    let taints = all.iter().any(|evenness| evenness.constraint.honor_taints);
    for (ix, node, _) in nodes.iter() {
        if all.iter().any(|evenness| map.domain(evenness.tally.key(), ix).is_none()) {
            continue;
        }
        let selected = !affinity || shape.selects(node);
        let tolerated = !taints || shape.untolerated(node).is_none();
        for Evenness { constraint, counted, tally, .. } in &mut *all {
            if (constraint.honor_affinity && !selected) || (constraint.honor_taints && !tolerated) {
                continue;
            }
            if counted.len() <= ix.index() {
                counted.resize(ix.index() + 1, false);
            }
            counted[ix.index()] = true;
            if let Some(domain) = map.domain(tally.key(), ix) {
                tally.open(domain);
            }
        }
    }
}
