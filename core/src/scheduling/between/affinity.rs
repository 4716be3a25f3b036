//! Pods that go, or do not go, beside others.

use super::super::filter::Why;
use super::super::nodes::{NodeIx, Nodes, Occupant, Stage};
use super::super::pod::{Coupling, Identity, PodTerm};
use super::domains::{Map, Tally};

/// What one preference of weight 1 for the neighbours counts at most, in points of the score.
const PER_WEIGHT: i64 = 2;

/// Where those are whom a pod wants near it or not, and those who do not want it near them.
///
/// The tallies are those of the terms of the pod's coupling, in their order.
#[derive(Clone, Debug)]
pub(super) struct Company {
    /// For each required term, where pods are that match all of them: one pod has to satisfy them together.
    affinity: Vec<Tally>,
    /// It matches all its own required terms, so it may be the first of its kind.
    fits_itself: bool,
    anti_affinity: Vec<Tally>,
    preferred: Vec<Tally>,
    /// Where pods are whose required anti-affinity is about this one; one tally for each label.
    repelled: Vec<Tally>,
}

impl Company {
    /// Nobody counted yet.
    pub(super) fn new(nodes: &Nodes, map: &mut Map, coupling: &Coupling) -> Self {
        let mut tally = |term: &PodTerm| {
            let key = map.key(nodes, &term.topology_key);
            Tally::of_all(map, key)
        };
        Self {
            affinity: coupling.affinity.iter().map(&mut tally).collect(),
            fits_itself: false,
            anti_affinity: coupling.anti_affinity.iter().map(&mut tally).collect(),
            preferred: coupling.preferred.iter().map(|(_, term)| tally(term)).collect(),
            repelled: Vec::new(),
        }
    }

    /// Says who the pod is.
    pub(super) fn recognise(&mut self, coupling: &Coupling, identity: &Identity) {
        self.fits_itself = coupling.affinity.iter().all(|term| term.matches(identity));
    }

    /// Says who the pod is, and looks at who repels it.
    pub(super) fn meet(&mut self, nodes: &Nodes, map: &mut Map, coupling: &Coupling, identity: &Identity) {
        self.recognise(coupling, identity);
        self.repelled.clear();
        if nodes.repelling_shapes().any(|shape| shape.coupling.repels(identity)) {
            for (ix, occupant) in nodes.repelling() {
                self.count_repelling(nodes, map, ix, occupant, identity, 1);
            }
        }
    }

    /// Counts someone on a node for what the pod asks.
    pub(super) fn count(&mut self, map: &Map, coupling: &Coupling, ix: NodeIx, occupant: &Occupant, by: i64) {
        let who = &occupant.identity;
        // Someone who is still to come may not come: nobody can rely on it.
        if occupant.stage != Stage::Coming && coupling.affinity.iter().all(|term| term.matches(who)) {
            for tally in &mut self.affinity {
                tally.change_at(map, ix, by);
            }
        }
        let anti_affinity = coupling.anti_affinity.iter().zip(&mut self.anti_affinity);
        let preferred = coupling.preferred.iter().map(|(_, term)| term).zip(&mut self.preferred);
        for (_, tally) in anti_affinity.chain(preferred).filter(|(term, _)| term.matches(who)) {
            tally.change_at(map, ix, by);
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

    pub(super) fn why_not(&self, map: &Map, coupling: &Coupling, ix: NodeIx) -> Option<Why> {
        let mut beside = true;
        for (term, tally) in coupling.affinity.iter().zip(&self.affinity) {
            let Some(domain) = map.domain(tally.key(), ix) else {
                return Some(Why::NoDomain(term.topology_key.clone()));
            };
            beside &= tally.count(domain) > 0;
        }
        let first_of_its_kind = || self.fits_itself && self.affinity.iter().all(|tally| tally.most() == 0);
        if !beside && !first_of_its_kind() {
            return Some(Why::NotBeside);
        }
        if self.anti_affinity.iter().any(|tally| tally.count_at(map, ix) > 0) {
            return Some(Why::Repels);
        }
        self.repelled.iter().any(|tally| tally.count_at(map, ix) > 0).then_some(Why::Repelled)
    }

    /// Of each preferred term as much as the node's domain has of what the fullest one has.
    pub(super) fn score(&self, map: &Map, coupling: &Coupling, ix: NodeIx) -> i64 {
        let share = |weight: i32, tally: &Tally| match tally.most() {
            0 => 0,
            most => PER_WEIGHT * i64::from(weight) * tally.count_at(map, ix) / most,
        };
        coupling.preferred.iter().zip(&self.preferred).map(|((weight, _), tally)| share(*weight, tally)).sum()
    }
}
