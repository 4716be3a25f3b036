//! Nodes kept for a large gang that would otherwise wait for ever, and who may use them meanwhile.
//!
//! This is EASY backfilling (Lifka, "The ANL/IBM SP scheduling system", 1995): one gang, the first in the queue, gets a
//! promise; everybody else may pass it as long as the promise stands.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::decide::{Assignment, Decider, GangRequest};
use super::nodes::{Aside, NodeIx, Nodes, OccupantId};

/// Someone who takes room that will be free one day.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Who.
    pub id: OccupantId,
    /// When it ends at the latest, since the Unix epoch; `None`: one day.
    pub at: Option<Duration>,
}

/// Nodes that are kept for a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Names of the nodes.
    pub nodes: BTreeSet<Arc<str>>,
    /// When the gang will fit there at the latest; `None` where somebody's end is not known.
    pub at: Option<Duration>,
}

impl Reservation {
    /// Whether someone who runs for `duration` from `now` on is gone when the gang needs the nodes.
    #[must_use]
    pub fn lets_pass(&self, now: Duration, duration: Option<Duration>) -> bool {
        self.at.zip(duration).is_some_and(|(at, duration)| now + duration <= at)
    }
}

/// Chooses the nodes where the gang will fit first, once those end who end: by the earliest time where ends are known,
/// else where the fewest are in the way.
///
/// `None` when it would not fit on the nodes without all of them. `nodes` are left as they were.
pub fn reserve(
    decider: &mut Decider,
    nodes: &mut Nodes,
    request: &GangRequest,
    endings: &[Ending],
) -> Option<Reservation> {
    let mut known: Vec<(Duration, OccupantId)> = endings.iter().filter_map(|e| Some((e.at?, e.id))).collect();
    known.sort_unstable();
    let groups: Vec<Vec<OccupantId>> = known.iter().map(|(_, id)| vec![*id]).collect();
    if let Some((count, assignment)) = fewest(decider, nodes, request, &[], &groups) {
        let at = count.checked_sub(1).and_then(|last| known.get(last)).map(|(at, _)| *at);
        return Some(Reservation { nodes: names(&assignment), at: Some(at.unwrap_or_default()) });
    }
    let known: Vec<OccupantId> = known.into_iter().map(|(_, id)| id).collect();
    let groups = by_node(nodes, endings);
    let (_, assignment) = fewest(decider, nodes, request, &known, &groups)?;
    Some(Reservation { nodes: names(&assignment), at: None })
}

fn names(assignment: &Assignment) -> BTreeSet<Arc<str>> {
    assignment.nodes.iter().flatten().cloned().collect()
}

/// Those whose end is not known, node by node, the node with the fewest first.
fn by_node(nodes: &Nodes, endings: &[Ending]) -> Vec<Vec<OccupantId>> {
    let mut groups: BTreeMap<NodeIx, Vec<OccupantId>> = BTreeMap::new();
    for ending in endings.iter().filter(|ending| ending.at.is_none()) {
        if let Some((ix, _)) = nodes.occupant(ending.id) {
            groups.entry(ix).or_default().push(ending.id);
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(ix, ids)| (ids.len(), *ix));
    groups.into_iter().map(|(_, ids)| ids).collect()
}

/// The fewest of these groups, from the first on, without which the gang fits, and where. More room never makes a gang
/// of amounts fit worse, so bisection finds it; a gang with wishes about other pods may get more than the fewest.
fn fewest(
    decider: &mut Decider,
    nodes: &mut Nodes,
    request: &GangRequest,
    gone: &[OccupantId],
    groups: &[Vec<OccupantId>],
) -> Option<(usize, Assignment)> {
    let gone: Vec<Aside> = gone.iter().filter_map(|id| nodes.set_aside(*id)).collect();
    let mut aside: Vec<Vec<Aside>> = Vec::new();
    let (mut low, mut high) = (0, groups.len());
    let mut found = None;
    // Everyone first: without that there is nothing to look for.
    let mut at = high;
    loop {
        while aside.len() > at {
            for pod in aside.pop().into_iter().flatten() {
                nodes.put_back(pod);
            }
        }
        while aside.len() < at {
            aside.push(groups[aside.len()].iter().filter_map(|id| nodes.set_aside(*id)).collect());
        }
        match decider.assign(nodes, request) {
            Some(assignment) => {
                found = Some((at, assignment));
                high = at;
            }
            None if found.is_none() => break,
            None => low = at + 1,
        }
        if low >= high {
            break;
        }
        at = low.midpoint(high);
    }
    for pod in gone.into_iter().chain(aside.into_iter().flatten()) {
        nodes.put_back(pod);
    }
    found
}
