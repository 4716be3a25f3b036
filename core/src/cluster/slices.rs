//! Slices that follow a commit.

use std::collections::BTreeMap;

use super::ranks::View;
use super::{Cluster, Deletion, Fence, Member, Phase, Reservation, SLICE_RANKS, Slice, SliceAction, SliceMember, Step};

/// What to do to slices so that they follow `wanted`, the members of the commit that is in force.
pub(super) fn follow(cluster: &Cluster, wanted: &[Member], slices: &[Slice], view: &View<'_>, step: &mut Step) {
    let mut places: BTreeMap<(&str, u32), Vec<&Member>> = BTreeMap::new();
    for member in wanted {
        places.entry((&member.site, member.rank / SLICE_RANKS)).or_default().push(member);
    }
    let start = may_start(&places, view);
    let wait = predecessors_are_left(wanted, view, step);
    for ((site, index), members) in &places {
        let existing = view.at(site, *index);
        if existing.is_some_and(Slice::deleting) {
            continue;
        }
        // They have ended, or a commit without them is under way. Their record stays, and is not delivered any more: a later
        // epoch would let their Site, which may have forgotten them, start them again.
        if members.iter().all(|member| member.incarnation <= view.fenced(site)) {
            step.slices.extend(existing.and_then(|slice| narrowed(slice, members)));
            continue;
        }
        if wait && members.iter().any(|member| !view.delivered(member)) {
            step.slices.extend(existing.and_then(|slice| narrowed(slice, members)));
            continue;
        }
        let new = members.iter().any(|member| view.undecided(member));
        let phase = if new && !start { Phase::Reserve } else { Phase::Run };
        let same = existing.is_some_and(|slice| names(slice, members));
        if same && existing.is_some_and(|slice| slice.phase == phase) {
            continue;
        }
        let epoch = existing.filter(|_| same).map_or(cluster.epoch, |slice| slice.epoch);
        let members = members
            .iter()
            .map(|member| SliceMember { rank: member.rank, node: member.node.clone(), incarnation: member.incarnation })
            .collect();
        step.slices.push(SliceAction::Apply { site: (*site).to_owned(), index: *index, epoch, phase, members });
    }
    for (at, slice) in slices.iter().enumerate() {
        let name = slice.name.clone();
        if slice.deleting() {
            let over = slice.deletion == Deletion::Stopped || slice.epoch <= view.fenced(&slice.site);
            match view.fence(at) {
                _ if over => step.slices.push(SliceAction::Release { name }),
                Fence::Past => step.slices.push(SliceAction::Release { name }),
                Fence::After(left) => step.wake_after(left),
                Fence::None | Fence::Held | Fence::Due => {}
            }
        } else if !places.contains_key(&(slice.site.as_str(), slice.index)) {
            step.slices.push(SliceAction::Delete { name });
        }
    }
}

/// Whether a rank that is in no slice yet has a former member somewhere that runs, or that a Site which comes back would
/// start: that a fenced slice is not delivered is its gateway's doing, and not all hangs on one rule. So former members leave their slices before new
/// ones enter theirs, and of those that were placed together all wait when one does.
fn predecessors_are_left(wanted: &[Member], view: &View<'_>, step: &mut Step) -> bool {
    let new: BTreeMap<u32, &str> = wanted
        .iter()
        .filter(|member| !view.delivered(member))
        .map(|member| (member.rank, member.site.as_str()))
        .collect();
    if new.is_empty() {
        return false;
    }
    let live = view.live(wanted, &new.keys().copied().collect());
    // On one Site a rank stays in one slice, and is replaced there with one write.
    let mut left = view.may_start_again(wanted).any(|(rank, site)| new.get(&rank).is_some_and(|new| *new != site));
    for until in new.keys().filter_map(|rank| live.get(rank)) {
        left = true;
        if let Some(left) = until {
            step.wake_after(*left);
        }
    }
    left
}

/// A slice without the members that are not `wanted` there any more, and without new ones; None when it is that already.
fn narrowed(slice: &Slice, wanted: &[&Member]) -> Option<SliceAction> {
    let stays = |named: &&SliceMember| {
        wanted.iter().any(|member| (member.rank, member.incarnation) == (named.rank, named.incarnation))
    };
    let members: Vec<SliceMember> = slice.members.iter().filter(stays).cloned().collect();
    if members.is_empty() {
        return Some(SliceAction::Delete { name: slice.name.clone() });
    }
    // Its epoch stays: what the Site says about the epoch of the new members must not answer for them in advance.
    (members.len() < slice.members.len()).then(|| SliceAction::Apply {
        site: slice.site.clone(),
        index: slice.index,
        epoch: slice.epoch,
        phase: slice.phase,
        members,
    })
}

/// Members that were placed together start together: at once when one slice holds them all, else when each slice has
/// its capacity reserved.
fn may_start(places: &BTreeMap<(&str, u32), Vec<&Member>>, view: &View<'_>) -> bool {
    let mut waiting = places.iter().filter(|(_, members)| members.iter().any(|member| view.undecided(member)));
    let Some((first, members)) = waiting.next() else { return true };
    let rest: Vec<_> = waiting.collect();
    if rest.is_empty() {
        return true;
    }
    rest.into_iter().chain([(first, members)]).all(|((site, index), members)| {
        view.at(site, *index).is_some_and(|slice| {
            !slice.deleting()
                && slice.phase == Phase::Reserve
                && slice.reservation == Reservation::Reserved
                && names(slice, members)
        })
    })
}

/// Whether `slice` names exactly `members`.
fn names(slice: &Slice, members: &[&Member]) -> bool {
    slice.members.len() == members.len()
        && slice.members.iter().zip(members).all(|(named, member)| {
            named.rank == member.rank && named.incarnation == member.incarnation && named.node == member.node
        })
}
