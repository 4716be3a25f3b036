//! Who would have to go for a gang to fit.
//!
//! Victims go whole: a gang that loses one member would run on for nothing. Of all sets of victims that make the gang
//! fit, one of least [`Cost`] is looked for: exactly where there are few candidates, by a greedy search with exchanges
//! otherwise.

mod cost;
mod counting;
mod general;
mod select;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use cost::Cost;

use super::decide::{Assignment, Decider, GangRequest};
use super::nodes::{Nodes, OccupantId};
use cost::Costs;

/// What is evicted as a whole: a gang, or a pod without one.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Priority of its pods.
    pub priority: i32,
    /// Its pods.
    pub pods: Vec<Evictee>,
    /// When it started, since the Unix epoch.
    pub started: Duration,
}

/// A pod of a [`Unit`].
#[derive(Clone, Debug)]
pub struct Evictee {
    /// Who.
    pub id: OccupantId,
    /// Budgets that its eviction counts for, as indices.
    pub budgets: Vec<usize>,
}

/// How many pods of a `PodDisruptionBudget` may be evicted now without violating it.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Pods.
    pub allowed: u32,
}

/// Who is to go, and what that makes room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// Indices of the units, ascending.
    pub units: Vec<usize>,
    /// Where the gang goes once they are gone.
    pub assignment: Assignment,
    /// What it costs.
    pub cost: Cost,
}

/// Chooses among `units`, all of which may be evicted for this gang, the ones whose room it needs. A gang that can
/// live with fewer members gets no more than these from others.
///
/// `None` when it would not fit without all of them either. `nodes` are left as they were.
pub fn preempt(
    decider: &mut Decider,
    nodes: &mut Nodes,
    request: &GangRequest,
    units: &[Unit],
    budgets: &[Budget],
) -> Option<Preemption> {
    let mut request = request.clone();
    request.members.truncate(request.minimum);
    let costs = Costs::new(units, budgets);
    let chosen = if counting::is_countable(nodes, &request) {
        counting::choose(nodes, &request, units, &costs)?
    } else {
        general::choose(decider, nodes, &request, units, &costs)?
    };
    let ids = chosen.iter().flat_map(|unit| &units[*unit].pods).map(|pod| pod.id);
    let aside: Vec<_> = ids.filter_map(|id| nodes.set_aside(id)).collect();
    let assignment = decider.assign(nodes, &request);
    for pod in aside {
        nodes.put_back(pod);
    }
    let cost = costs.of(&chosen);
    Some(Preemption { units: chosen, assignment: assignment?, cost })
}
