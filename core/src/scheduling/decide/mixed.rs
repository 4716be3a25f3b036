//! Gangs of several shapes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::trial::{Place, Trial};
use crate::scheduling::filter::room_for;
use crate::scheduling::nodes::NodeIx;

/// How many placements of one member are tried before a gang of several shapes is given up. Gangs of one shape, the
/// usual ones, are decided exactly without trying.
const MAX_TRIES: u32 = 20_000;

/// Puts the first `count` members. False when no way was found; some may be put then.
pub(super) fn place(trial: &mut Trial<'_>, count: usize) -> bool {
    let mut places = trial.places(count);
    let greedy = |trial: &mut Trial<'_>, place: &Place| {
        [false, true].into_iter().any(|scarce_first| {
            trial.clear();
            greedy(trial, place, count, scarce_first)
        })
    };
    // Most gangs fit at once: only when the first one fails, it is worth while to look which domains are too small.
    if places.first().is_some_and(|place| greedy(trial, place)) {
        return true;
    }
    trial.clear();
    let first = places.first().cloned();
    places.retain(|place| is_enough(trial, place, count));
    let mut tries = MAX_TRIES;
    for place in places.iter().filter(|place| Some(*place) != first.as_ref()) {
        tries = tries.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        if tries > 0 && greedy(trial, place) {
            return true;
        }
    }
    let mut tries = MAX_TRIES;
    places.iter().any(|place| {
        trial.clear();
        search(trial, place, count, &mut tries)
    })
}

/// Whether the nodes of a domain have as much of each resource free as the first `count` members take in all.
fn is_enough(trial: &mut Trial<'_>, place: &Place, count: usize) -> bool {
    let mut asked: BTreeMap<&str, i128> = BTreeMap::new();
    for (shape, count) in trial.kinds.shapes.iter().zip(trial.kinds.counts(count)) {
        for (resource, milli) in shape.requests.iter() {
            *asked.entry(resource).or_default() += milli * i128::from(count);
        }
    }
    let mut possible = BTreeSet::new();
    for kind in 0..trial.kinds.shapes.len() {
        possible.extend(trial.view(kind, place).ranked(0));
    }
    for (state, room) in possible.into_iter().filter_map(|ix| trial.nodes.node(ix)) {
        for (resource, asked) in &mut asked {
            *asked -= (state.allocatable.get(resource) - room.used.get(resource)).max(0);
        }
    }
    asked.values().all(|asked| *asked <= 0)
}

/// First the members that name a node, then shape by shape, the hardest or the scarcest first.
fn greedy(trial: &mut Trial<'_>, place: &Place, count: usize, scarce_first: bool) -> bool {
    for member in 0..count {
        if let Some(ix) = trial.wish(member, place) {
            trial.put(member, ix);
        }
    }
    let mut order = trial.kinds.by_size();
    if scarce_first {
        order.sort_by_cached_key(|kind| {
            let room: u64 = trial.view(*kind, place).groups().iter().map(|group| group.room).sum();
            room.saturating_sub(trial.waiting(*kind, count).len() as u64)
        });
    }
    for kind in order {
        let waiting = trial.waiting(kind, count);
        let wanted = waiting.len() as u64;
        if wanted == 0 {
            continue;
        }
        let mut view = trial.view(kind, place);
        let Some(group) = view.groups().into_iter().find(|group| group.room >= wanted) else { return false };
        let nodes = view.fill(&group, wanted, &[]);
        for (member, ix) in waiting.into_iter().zip(nodes) {
            trial.put(member, ix);
        }
    }
    true
}

/// Looks for nodes for members of several shapes, without regard to the nodes that they name.
fn search(trial: &mut Trial<'_>, place: &Place, count: usize, tries: &mut u32) -> bool {
    let candidates: Vec<Vec<NodeIx>> =
        (0..trial.kinds.shapes.len()).map(|kind| trial.view(kind, place).ranked(count as u64)).collect();
    // The fewest choices first: what cannot be had is found out early.
    let mut kinds: Vec<usize> = trial.kinds.by_size();
    kinds.sort_by_key(|kind| candidates[*kind].len());
    let order: Vec<usize> = kinds.into_iter().flat_map(|kind| trial.waiting(kind, count)).collect();
    let mut choice: Vec<usize> = Vec::with_capacity(order.len());
    let mut from = 0;
    while choice.len() < order.len() {
        let member = order[choice.len()];
        let kind = trial.kinds.of_member[member];
        let shape = Arc::clone(&trial.kinds.shapes[kind]);
        let mut next = from;
        while candidates[kind].get(next).is_some_and(|ix| room_for(trial.nodes, *ix, &shape) == 0) {
            next += 1;
            *tries = tries.saturating_sub(1);
        }
        *tries = tries.saturating_sub(1);
        if *tries == 0 {
            return false;
        }
        if let Some(ix) = candidates[kind].get(next) {
            trial.put(member, *ix);
            choice.push(next);
            // Members of one shape are alike, so only ascending choices are looked at.
            let alike = order.get(choice.len()).is_some_and(|member| trial.kinds.of_member[*member] == kind);
            from = if alike { next } else { 0 };
        } else {
            let Some(last) = choice.pop() else { return false };
            trial.take_back(order[choice.len()]);
            from = last + 1;
        }
    }
    keep_named(trial, count);
    true
}

/// Swaps nodes among members of one shape, so that as many as possible get the node that they name.
fn keep_named(trial: &mut Trial<'_>, count: usize) {
    let named: Vec<Option<NodeIx>> = trial.request.members[..count]
        .iter()
        .map(|member| member.node.as_deref().and_then(|name| trial.nodes.ix(name)))
        .collect();
    for member in 0..count {
        let wish = named[member];
        if wish.is_none() || wish == trial.node_of(member) {
            continue;
        }
        let kind = trial.kinds.of_member[member];
        let other = (0..count).find(|other| {
            trial.kinds.of_member[*other] == kind && trial.node_of(*other) == wish && named[*other] != wish
        });
        if let (Some(other), Some(mine), Some(theirs)) = (other, trial.node_of(member), wish) {
            trial.take_back(member);
            trial.take_back(other);
            trial.put(member, theirs);
            trial.put(other, mine);
        }
    }
}
