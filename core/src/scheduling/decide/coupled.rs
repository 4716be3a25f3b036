//! Gangs of which a member's node depends on who is on other nodes: member by member, each where it is best off.

use std::sync::Arc;

use super::domain_name;
use super::no_domain;
use super::trial::{Place, Trial};
use crate::scheduling::between::Surroundings;
use crate::scheduling::filter::{Why, room_for, why_not};
use crate::scheduling::nodes::{NodeIx, Nodes};
use crate::scheduling::pod::{Identity, Shape};
use crate::scheduling::refusal::{DomainRoom, GangRefusal, Helps};

/// How many shapes' surroundings are kept.
const KEPT: usize = 16;

/// The surroundings of the shapes that were placed lately, the latest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Lately {
    kept: Vec<Surroundings>,
}

impl Lately {
    /// The surroundings of a pod now; they are given back by [`Lately::keep`].
    fn take(&mut self, nodes: &Nodes, shape: &Arc<Shape>, identity: &Arc<Identity>) -> Surroundings {
        let Some(at) = self.kept.iter().position(|kept| kept.are_of(shape, identity)) else {
            return Surroundings::new(nodes, shape, identity);
        };
        let mut around = self.kept.remove(at);
        around.turn_to(nodes, identity);
        around
    }

    fn keep(&mut self, around: Surroundings) {
        if self.kept.len() == KEPT {
            self.kept.remove(0);
        }
        self.kept.push(around);
    }
}

/// Puts the first `count` members. False when no way was found; some may be put then.
pub(super) fn place(trial: &mut Trial<'_>, count: usize) -> bool {
    trial.places(count).iter().any(|place| {
        trial.clear();
        place_within(trial, place, count)
    })
}

/// Puts as many of the first `count` members as it can in one domain; true when all are put.
fn place_within(trial: &mut Trial<'_>, place: &Place, count: usize) -> bool {
    // Members that must be beside others of the gang find them on a later round.
    loop {
        let mut progress = false;
        let mut complete = true;
        for kind in trial.kinds.by_size() {
            let waiting = trial.waiting(kind, count);
            let placed = place_kind(trial, place, kind, &waiting);
            progress |= placed > 0;
            complete &= placed == waiting.len();
        }
        if complete || !progress {
            return complete;
        }
    }
}

/// Puts those of these members of one shape for which there is a node now; says how many.
fn place_kind(trial: &mut Trial<'_>, place: &Place, kind: usize, members: &[usize]) -> usize {
    let request = trial.request;
    let Some(first) = members.first().map(|member| &request.members[*member]) else { return 0 };
    let shape = &first.shape;
    let mut identity = &first.identity;
    let mut around = trial.classes.around.take(trial.nodes, shape, identity);
    let mut candidates = trial.view(kind, place).ranked(members.len() as u64);
    let indifferent = is_indifferent(shape);
    let mut placed = 0;
    for &member in members {
        let request = &request.members[member];
        if !Arc::ptr_eq(identity, &request.identity) {
            identity = &request.identity;
            around.turn_to(trial.nodes, identity);
        }
        let wish = trial.wish(member, place).filter(|ix| around.why_not(trial.nodes, *ix).is_none());
        let Some(ix) = wish.or_else(|| best(trial.nodes, &candidates, &around, indifferent)) else { continue };
        trial.put(member, ix);
        around.follow(trial.nodes);
        if room_for(trial.nodes, ix, shape) == 0 {
            candidates.retain(|candidate| *candidate != ix);
        }
        placed += 1;
    }
    trial.classes.around.keep(around);
    placed
}

/// The node that the pod is best off on; the first of equal ones.
fn best(nodes: &Nodes, candidates: &[NodeIx], around: &Surroundings, indifferent: bool) -> Option<NodeIx> {
    let mut possible = candidates.iter().copied().filter(|ix| around.why_not(nodes, *ix).is_none());
    if indifferent { possible.next() } else { possible.min_by_key(|ix| std::cmp::Reverse(around.score(nodes, *ix))) }
}

/// Whether the pod has no preferences about others: then the candidates' order tells the best.
fn is_indifferent(shape: &Shape) -> bool {
    shape.coupling.preferred.is_empty() && shape.coupling.spread.iter().all(|spread| spread.required)
}

/// Why the gang does not fit: what the first member that found no node met, when as many as can be are placed.
pub(super) fn refusal(trial: &mut Trial<'_>) -> GangRefusal {
    let count = trial.request.least();
    let place = roomiest(trial, count);
    place_within(trial, &place, count);
    let first = (0..count).find(|member| trial.node_of(*member).is_none());
    let Some(first) = first else {
        trial.clear();
        return super::together(trial.nodes, trial.request, trial.keys);
    };
    let kind = trial.kinds.of_member[first];
    let member = &trial.request.members[first];
    let around = trial.classes.around.take(trial.nodes, &member.shape, &member.identity);
    let nodes = &*trial.nodes;
    let outside = |ix: NodeIx| (!trial.is_within(ix, &place)).then_some(Why::OutsideDomain);
    let why = |ix: NodeIx| {
        why_not(nodes, ix, &member.shape)
            .or_else(|| no_domain(nodes, ix, trial.keys))
            .or_else(|| around.why_not(nodes, ix))
            .or_else(|| outside(ix))
    };
    let is_reserved = |ix: NodeIx| trial.request.closed.contains(&ix);
    let of_kind = |count: usize| (0..count).filter(|member| trial.kinds.of_member[*member] == kind);
    let placed = of_kind(count).filter(|member| trial.node_of(*member).is_some()).count();
    let found = GangRefusal::of_shape(nodes, &member.shape, is_reserved, why);
    let refusal = GangRefusal {
        members: of_kind(trial.request.members.len()).count(),
        minimum: of_kind(count).count(),
        room_for: placed,
        domain: trial.keys.kind().map(|kind| DomainRoom {
            kind: kind.to_owned(),
            best: (placed > 0).then(|| domain_name(&place)).flatten(),
            room_for: placed,
        }),
        // Members were placed one by one: another order might do better after any change.
        helped_by: found.helped_by | Helps::ROOM | Helps::PODS,
        ..found
    };
    trial.clear();
    refusal
}

/// The domain that the gang comes furthest in: one that has room for the members of each shape, else the one with the
/// most room.
fn roomiest(trial: &mut Trial<'_>, count: usize) -> Place {
    if let Some(place) = trial.places(count).into_iter().next() {
        return place;
    }
    let kind = trial.kinds.of_member.first().copied().unwrap_or(0);
    let view = trial.view(kind, &[]);
    let groups = view.groups();
    let most = groups.iter().max_by(|a, b| a.room.cmp(&b.room).then_with(|| b.values.cmp(a.values)));
    most.map(|group| group.values.to_vec()).unwrap_or_default()
}
