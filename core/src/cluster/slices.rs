//! Slices that follow a commit.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::ranks::View;
use super::{
    Cluster, Fence, Member, MemberState, Millis, Phase, Reservation, SLICE_RANKS, SiteState, Slice, SliceAction,
    SliceMember, Step,
};

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
            .map(|member| SliceMember {
                rank: member.rank,
                node: member.node.clone(),
                incarnation: member.incarnation,
            })
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

/// Everything that a Cluster holds: its commit, and whatever its slices name or their Sites report beyond that and that
/// has neither ended nor been fenced. A member is where its Site says it is, else where the hub put it.
#[must_use]
pub fn holdings(members: &[Member], slices: &[Slice], site: &dyn Fn(&str) -> SiteState, now: Millis) -> Vec<Member> {
    let mut reported: HashMap<(u32, u64), &str> = HashMap::new();
    for slice in slices {
        for (key, report) in &slice.reports {
            if let Some(node) = report.node.as_deref().filter(|_| !report.state.ended()) {
                reported.insert(*key, node);
            }
        }
    }
    let mut held: Vec<Member> = members.to_vec();
    for member in &mut held {
        if let Some(node) = reported.get(&(member.rank, member.incarnation)) {
            (*node).clone_into(&mut member.node);
        }
    }
    let mut seen: HashSet<(u32, u64)> = held.iter().map(|member| (member.rank, member.incarnation)).collect();
    for slice in slices {
        let gone = slice.deleting && slice.stopped;
        if gone || site(&slice.site).fenced(slice.fence, now) == Fence::Expired {
            continue;
        }
        for member in &slice.members {
            let key = (member.rank, member.incarnation);
            let ended = slice.reports.get(&key).is_some_and(|report| report.state.ended());
            if !ended && seen.insert(key) {
                let node = reported.get(&key).map_or_else(|| member.node.clone(), |node| (*node).to_owned());
                held.push(Member { rank: key.0, incarnation: key.1, site: slice.site.clone(), node });
            }
        }
        for (key, report) in &slice.reports {
            let Some(node) = report.node.clone().filter(|_| !MemberState::ended(report.state)) else { continue };
            if seen.insert(*key) {
                held.push(Member { rank: key.0, incarnation: key.1, site: slice.site.clone(), node });
            }
        }
    }
    held.sort();
    held
}
