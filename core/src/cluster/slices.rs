//! Slices that follow a commit.

use std::collections::BTreeMap;

use super::ranks::View;
use super::{Cluster, Fence, Member, Phase, Reservation, SLICE_RANKS, Slice, SliceAction, SliceMember, Step};

/// What to do to slices so that they follow `wanted`, the members of the commit that is in force.
pub(super) fn follow(cluster: &Cluster, wanted: &[Member], slices: &[Slice], view: &View<'_>, step: &mut Step) {
    let mut places: BTreeMap<(&str, u32), Vec<&Member>> = BTreeMap::new();
    for member in wanted {
        places.entry((&member.site, member.rank / SLICE_RANKS)).or_default().push(member);
    }
    let start = may_start(&places, view);
    for ((site, index), members) in &places {
        let existing = view.at(site, *index);
        if existing.is_some_and(|slice| slice.deleting) {
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
        if slice.deleting {
            match view.fence(at) {
                _ if slice.stopped => step.slices.push(SliceAction::Release { name }),
                Fence::Expired => step.slices.push(SliceAction::Release { name }),
                Fence::At(at) => step.wake_at(at),
                Fence::None => {}
            }
        } else if !places.contains_key(&(slice.site.as_str(), slice.index)) {
            step.slices.push(SliceAction::Delete { name });
        }
    }
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
            !slice.deleting
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
