//! Pods that go, or do not go, beside others.

use super::super::filter::Why;
use super::super::nodes::{NodeIx, Nodes, Occupant, Stage};
use super::super::pod::{Coupling, Identity, PodTerm};
use super::domains::{Map, Tally};

/// What one preference of weight 1 for the neighbours counts at most, in points of the score.
const PER_WEIGHT: i64 = 2;

/// Where those are whom a pod wants near it or not, and those who do not want it near them.
#[derive(Clone, Debug)]
pub(super) struct Company<'a> {
    /// For each required term, where pods are that match all of them: one pod has to satisfy them together.
    affinity: Vec<(&'a PodTerm, Tally)>,
    /// It matches all its own required terms, so it may be the first of its kind.
    fits_itself: bool,
    anti_affinity: Vec<(&'a PodTerm, Tally)>,
    preferred: Vec<(i32, &'a PodTerm, Tally)>,
    /// Where pods are whose required anti-affinity is about this one; one tally for each label.
    repelled: Vec<Tally>,
}

impl<'a> Company<'a> {
    /// Nobody counted yet.
    pub(super) fn new(nodes: &Nodes, map: &mut Map, coupling: &'a Coupling) -> Self {
        let mut tally = |term: &PodTerm| {
            let key = map.key(nodes, &term.topology_key);
            Tally::of_all(map, key)
        };
        Self {
            affinity: coupling.affinity.iter().map(|term| (term, tally(term))).collect(),
            fits_itself: false,
            anti_affinity: coupling.anti_affinity.iter().map(|term| (term, tally(term))).collect(),
            preferred: coupling.preferred.iter().map(|(weight, term)| (*weight, term, tally(term))).collect(),
            repelled: Vec::new(),
        }
    }

    /// Whether nobody has to be counted.
    pub(super) fn is_indifferent(&self) -> bool {
        self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred.is_empty()
    }

    /// Says who the pod is, and looks at who repels it.
    pub(super) fn meet(&mut self, nodes: &Nodes, map: &mut Map, identity: &Identity) {
        self.fits_itself = self.affinity.iter().all(|(term, _)| term.matches(identity));
        self.repelled.clear();
        if nodes.repelling_shapes().any(|shape| shape.coupling.repels(identity)) {
            for (ix, occupant) in nodes.repelling() {
                self.count_repelling(nodes, map, ix, occupant, identity, 1);
            }
        }
    }

    /// Counts someone on a node for what the pod asks.
    pub(super) fn count(&mut self, map: &Map, ix: NodeIx, occupant: &Occupant, by: i64) {
        let who = &occupant.identity;
        // Someone who is still to come may not come: nobody can rely on it.
        if occupant.stage != Stage::Coming && self.affinity.iter().all(|(term, _)| term.matches(who)) {
            for (_, tally) in &mut self.affinity {
                tally.change_at(map, ix, by);
            }
        }
        let preferred = self.preferred.iter_mut().map(|(_, term, tally)| (&**term, tally));
        let anti_affinity = self.anti_affinity.iter_mut().map(|(term, tally)| (&**term, tally));
        for (term, tally) in anti_affinity.chain(preferred) {
            if term.matches(who) {
                tally.change_at(map, ix, by);
            }
        }
    }

    /// Counts someone on a node for what that one asks of the pod.
    pub(super) fn count_repelling(
        &mut self,
        nodes: &Nodes,
        map: &mut Map,
        ix: NodeIx,
        occupant: &Occupant,
        identity: &Identity,
        by: i64,
    ) {
        for term in occupant.shape.coupling.anti_affinity.iter().filter(|term| term.matches(identity)) {
            let key = map.key(nodes, &term.topology_key);
            let at = self.repelled.iter().position(|tally| tally.key() == key).unwrap_or_else(|| {
                self.repelled.push(Tally::of_all(map, key));
                self.repelled.len() - 1
            });
            self.repelled[at].change_at(map, ix, by);
        }
    }

    pub(super) fn why_not(&self, map: &Map, ix: NodeIx) -> Option<Why> {
        let mut beside = true;
        for (term, tally) in &self.affinity {
            let Some(domain) = map.domain(tally.key(), ix) else {
                return Some(Why::NoDomain(term.topology_key.clone()));
            };
            beside &= tally.count(domain) > 0;
        }
        let first_of_its_kind = || self.fits_itself && self.affinity.iter().all(|(_, tally)| tally.most() == 0);
        if !beside && !first_of_its_kind() {
            return Some(Why::NotBeside);
        }
        if self.anti_affinity.iter().any(|(_, tally)| tally.count_at(map, ix) > 0) {
            return Some(Why::Repels);
        }
        self.repelled.iter().any(|tally| tally.count_at(map, ix) > 0).then_some(Why::Repelled)
    }

    /// Of each preferred term as much as the node's domain has of what the fullest one has.
    pub(super) fn score(&self, map: &Map, ix: NodeIx) -> i64 {
        let share = |weight: i32, tally: &Tally| match tally.most() {
            0 => 0,
            most => PER_WEIGHT * i64::from(weight) * tally.count_at(map, ix) / most,
        };
        self.preferred.iter().map(|(weight, _, tally)| share(*weight, tally)).sum()
    }
}
