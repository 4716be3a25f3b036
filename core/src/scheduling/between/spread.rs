//! Pods that go evenly over domains.

use super::super::filter::Why;
use super::super::nodes::{NodeIx, Nodes, Occupant, Stage};
use super::super::pod::{Coupling, Identity, Shape, Spread};
use super::super::selector::Selector;
use super::domains::{Map, Tally};

/// What the fullest domain of a preferred constraint costs against the emptiest one, in points of the score.
const FULLEST: i64 = 200;

/// How evenly the pods that one constraint is about are spread.
#[derive(Clone, Debug)]
struct Evenness {
    /// Place of the constraint among the pod's.
    at: usize,
    counts_itself: bool,
    /// Nodes that count, by number.
    counted: Vec<bool>,
    tally: Tally,
}

/// How evenly pods are spread, by the constraints of one pod.
#[derive(Clone, Debug)]
pub(super) struct Spreading {
    required: Vec<Evenness>,
    preferred: Vec<Evenness>,
}

impl Spreading {
    /// Nobody counted yet.
    pub(super) fn new(nodes: &Nodes, map: &mut Map, shape: &Shape) -> Self {
        let mut of = |required: bool| {
            let all =
                shape.coupling.spread.iter().enumerate().filter(|(_, constraint)| constraint.required == required);
            let mut all: Vec<_> = all.map(|(at, constraint)| Evenness::new(nodes, map, at, constraint)).collect();
            count_nodes(&mut all, nodes, map, shape);
            all
        };
        Self { required: of(true), preferred: of(false) }
    }

    /// Says who the pod is.
    pub(super) fn meet(&mut self, coupling: &Coupling, identity: &Identity) {
        for evenness in &mut self.required {
            evenness.counts_itself = coupling.spread[evenness.at].pods.matches(&identity.labels);
        }
    }

    /// Counts someone of the pod's own namespace on a node.
    pub(super) fn count(&mut self, map: &Map, coupling: &Coupling, ix: NodeIx, occupant: &Occupant, by: i64) {
        if occupant.stage == Stage::Terminating {
            return;
        }
        for evenness in self.required.iter_mut().chain(&mut self.preferred) {
            // A selector without requirements matches the pod itself and yet counts nobody, as in Kubernetes.
            let pods = &coupling.spread[evenness.at].pods;
            let counts = matches!(pods, Selector::All(all) if !all.is_empty())
                && evenness.counted.get(ix.index()) == Some(&true)
                && pods.matches(&occupant.identity.labels);
            if counts {
                evenness.tally.change_at(map, ix, by);
            }
        }
    }

    pub(super) fn why_not(&self, map: &Map, coupling: &Coupling, ix: NodeIx) -> Option<Why> {
        self.required.iter().find_map(|evenness| {
            let constraint = &coupling.spread[evenness.at];
            let Some(domain) = map.domain(evenness.tally.key(), ix) else {
                return Some(Why::NoDomain(constraint.topology_key.clone()));
            };
            let domains = i64::try_from(evenness.tally.domains()).unwrap_or(i64::MAX);
            let least = if domains < i64::from(constraint.min_domains) { 0 } else { evenness.tally.least() };
            let skew = evenness.tally.count(domain) + i64::from(evenness.counts_itself) - least;
            (skew > i64::from(constraint.max_skew)).then_some(Why::Uneven)
        })
    }

    /// Less the fuller the node's domain is between the emptiest and the fullest; a node without a domain is as a
    /// fullest one.
    pub(super) fn score(&self, map: &Map, ix: NodeIx) -> i64 {
        let cost = |Evenness { tally, .. }: &Evenness| {
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

impl Evenness {
    fn new(nodes: &Nodes, map: &mut Map, at: usize, constraint: &Spread) -> Self {
        let key = map.key(nodes, &constraint.topology_key);
        Self { at, counts_itself: false, counted: Vec::new(), tally: Tally::of_none(map, key) }
    }
}

/// Finds the nodes that count: those with every label of the constraints, and, as each constraint wants it, with
/// matching affinity and tolerated taints.
fn count_nodes(all: &mut [Evenness], nodes: &Nodes, map: &Map, shape: &Shape) {
    let constraint = |evenness: &Evenness| &shape.coupling.spread[evenness.at];
    if all.is_empty() {
        return;
    }
    let affinity = all.iter().any(|evenness| constraint(evenness).honor_affinity);
    let taints = all.iter().any(|evenness| constraint(evenness).honor_taints);
    for (ix, node, _) in nodes.iter() {
        if all.iter().any(|evenness| map.domain(evenness.tally.key(), ix).is_none()) {
            continue;
        }
        let selected = !affinity || shape.selects(node);
        let tolerated = !taints || shape.untolerated(node).is_none();
        for evenness in &mut *all {
            let Spread { honor_affinity, honor_taints, .. } = constraint(evenness);
            if (*honor_affinity && !selected) || (*honor_taints && !tolerated) {
                continue;
            }
            if evenness.counted.len() <= ix.index() {
                evenness.counted.resize(ix.index() + 1, false);
            }
            evenness.counted[ix.index()] = true;
            if let Some(domain) = map.domain(evenness.tally.key(), ix) {
                evenness.tally.open(domain);
            }
        }
    }
}
