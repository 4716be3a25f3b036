//! Gangs of several shapes, or with wishes about other pods, ports or volumes: every question is a decision.

use std::collections::{BTreeSet, HashMap};

use super::cost::Costs;
use super::select::{Effort, Ground, select};
use super::{Decider, GangRequest, Nodes, Unit};
use crate::scheduling::nodes::{Aside, NodeIx};

/// Decisions that one preemption may take. When they are used up, nobody else is spared: more go than need to, and the
/// gang still fits.
const DECISIONS: usize = 256;
/// Every set of so many units is looked at.
const EXACT: usize = 6;

/// Victims for such a gang. Only those on the nodes that a decision without all of them takes are looked at closely.
pub(super) fn choose(
    decider: &mut Decider,
    nodes: &mut Nodes,
    request: &GangRequest,
    units: &[Unit],
    costs: &Costs<'_>,
) -> Option<Vec<usize>> {
    let mut ground = Deciding { decider, nodes, request, units, aside: HashMap::new(), left: DECISIONS };
    let result = ground.choose(costs);
    ground.restore_everyone();
    result
}

struct Deciding<'a> {
    decider: &'a mut Decider,
    nodes: &'a mut Nodes,
    request: &'a GangRequest,
    units: &'a [Unit],
    aside: HashMap<usize, Vec<Aside>>,
    left: usize,
}

impl Deciding<'_> {
    fn choose(&mut self, costs: &Costs<'_>) -> Option<Vec<usize>> {
        let all: Vec<usize> = (0..self.units.len()).collect();
        let effort = Effort { exact: EXACT, exchanges: 0 };
        if all.len() <= EXACT {
            return select(self, self.units, &all, costs, effort).map(|(victims, _)| victims);
        }
        // The lowest priorities first, as far up as it takes.
        let mut priorities: Vec<i32> = self.units.iter().map(|unit| unit.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let mut taken = None;
        for priority in priorities {
            for unit in all.iter().filter(|unit| self.units[**unit].priority == priority) {
                self.evict(*unit);
            }
            self.left = self.left.checked_sub(1)?;
            if let Some(assignment) = self.decider.assign(self.nodes, self.request) {
                taken = Some(assignment);
                break;
            }
        }
        let taken: BTreeSet<NodeIx> = taken?.nodes.iter().flatten().filter_map(|name| self.nodes.ix(name)).collect();
        let evicted: Vec<usize> = all.iter().copied().filter(|unit| self.aside.contains_key(unit)).collect();
        let (near, far): (Vec<usize>, Vec<usize>) = evicted.iter().partition(|unit| {
            self.aside.get(unit).is_some_and(|pods| pods.iter().any(|pod| taken.contains(&pod.node())))
        });
        for unit in &far {
            self.restore(*unit);
        }
        // With wishes about other pods someone far away may be in the way too.
        let candidates = if self.fits() { near } else { evicted };
        for unit in &candidates {
            self.restore(*unit);
        }
        select(self, self.units, &candidates, costs, effort).map(|(victims, _)| victims)
    }

    fn restore_everyone(&mut self) {
        for pod in self.aside.drain().flat_map(|(_, pods)| pods) {
            self.nodes.put_back(pod);
        }
    }
}

impl Ground for Deciding<'_> {
    fn fits(&mut self) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        self.decider.assign(self.nodes, self.request).is_some()
    }

    fn evict(&mut self, unit: usize) {
        if self.aside.contains_key(&unit) {
            return;
        }
        let pods = &self.units[unit].pods;
        let aside = pods.iter().filter_map(|pod| self.nodes.set_aside(pod.id)).collect();
        self.aside.insert(unit, aside);
    }

    fn restore(&mut self, unit: usize) {
        for pod in self.aside.remove(&unit).into_iter().flatten() {
            self.nodes.put_back(pod);
        }
    }

    fn loss(&self, _: usize) -> Option<u64> {
        None
    }

    fn neighbours(&self, _: usize) -> Vec<usize> {
        Vec::new()
    }
}
