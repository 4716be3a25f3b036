//! The one decision: what happens to a Cluster next.

use std::collections::{BTreeMap, BTreeSet};

use super::ranks::{Standing, View};
use super::{
    Cause, Cluster, Drain, End, Fence, Kind, Member, MemberState, Millis, Policy, SLICE_RANKS, SiteView, Slice, Step,
    Tally, Want, slices,
};

/// What happens to a Cluster next.
///
/// `revoked` are ranks whose GPUs a commit that goes before holds too. `site` says what the hub knows of a Site. `now` is
/// compared with the Cluster's own times only, never with a fence.
#[must_use]
pub fn next(
    cluster: &Cluster,
    all_slices: &[Slice],
    site: &dyn Fn(&str) -> SiteView,
    revoked: &BTreeSet<u32>,
    now: Millis,
) -> Step {
    let over = cluster.deleting || cluster.finished_at.is_some();
    let view = View::new(cluster, all_slices, site, !over);
    let mut step = Step { failures: cluster.failures, fence: view.due(cluster.epoch), ..Step::default() };
    if over {
        wind_up(cluster, all_slices, &view, now, &mut step);
        return step;
    }
    let newest = all_slices.iter().map(|slice| slice.epoch).max().unwrap_or(0);
    if newest > cluster.epoch {
        step.adopt = Some(newest);
        step.fence.clear();
        step.keep = named_by(all_slices);
        return step;
    }

    let mut standings: Vec<(&Member, Standing)> =
        cluster.members.iter().map(|member| (member, view.standing(member))).collect();
    step.tally = tally(&standings, &view);
    for (_, standing) in &standings {
        if let Standing::CutOff(Fence::After(left)) = standing {
            step.wake_after(*left);
        }
    }
    step.end = end(cluster, &standings, now, &mut step);
    if step.end.is_some() {
        step.cause = Some(Cause::Ended);
        return step;
    }
    let dropped = leaving(cluster, &standings, &view, revoked, &mut step);
    standings.retain(|(member, _)| !dropped.contains(&member.rank));
    step.keep = standings.iter().map(|(member, _)| (*member).clone()).collect();

    let waits = step.cause.is_none() && step.keep.iter().any(|member| view.undecided(member));
    if !cluster.terms.suspend && !waits {
        step.want = want(cluster, &view, &mut step);
        step.drain = drain(cluster, &standings, &view).filter(|_| step.cause.is_none());
    }
    if step.cause.is_none() {
        let full = u32::try_from(step.keep.len()).is_ok_and(|placed| placed == cluster.terms.count);
        step.started =
            cluster.started_at.is_none() && full && step.tally.ready + step.tally.succeeded == cluster.terms.count;
        slices::follow(cluster, &cluster.members, all_slices, &view, &mut step);
    }
    step
}

/// The Cluster ended, is being deleted, or is gone.
fn wind_up(cluster: &Cluster, all_slices: &[Slice], view: &View<'_>, now: Millis, step: &mut Step) {
    if !cluster.deleting && !cluster.members.is_empty() {
        step.cause = Some(Cause::Ended);
        return;
    }
    slices::follow(cluster, &[], all_slices, view, step);
    if let (false, Some(finished), Some(ttl)) = (cluster.deleting, cluster.finished_at, cluster.terms.ttl) {
        let at = finished.saturating_add(ttl);
        if now >= at {
            step.delete = true;
        } else {
            step.wake_after(at.saturating_sub(now));
        }
    }
}

/// The newest member of each rank that slices name.
fn named_by(all_slices: &[Slice]) -> Vec<Member> {
    let mut ranks: BTreeMap<u32, Member> = BTreeMap::new();
    for slice in all_slices.iter().filter(|slice| !slice.deleting()) {
        for member in &slice.members {
            let newer = ranks.get(&member.rank).is_none_or(|known| known.incarnation < member.incarnation);
            if newer {
                ranks.insert(
                    member.rank,
                    Member {
                        rank: member.rank,
                        incarnation: member.incarnation,
                        site: slice.site.clone(),
                        node: member.node.clone(),
                    },
                );
            }
        }
    }
    ranks.into_values().collect()
}

fn tally(standings: &[(&Member, Standing)], view: &View<'_>) -> Tally {
    let mut tally = Tally::default();
    for (member, standing) in standings {
        match standing {
            Standing::Said(MemberState::Ready) => tally.ready += 1,
            Standing::Said(MemberState::Succeeded) => tally.succeeded += 1,
            Standing::CutOff(fence) => {
                tally.cut_off += 1;
                tally.frozen += u32::from(*fence == Fence::Held);
                tally.lost_sites.insert(member.site.clone());
            }
            _ => {}
        }
        if stays_while_draining(standing) && view.draining(&member.site) {
            tally.draining += 1;
            tally.draining_sites.insert(member.site.clone());
        }
        if view.undecided(member) {
            tally.reserving += 1;
        }
    }
    tally
}

/// Whether the Cluster ends now.
fn end(cluster: &Cluster, standings: &[(&Member, Standing)], now: Millis, step: &mut Step) -> Option<End> {
    let terms = &cluster.terms;
    let succeeded = |standing: &Standing| *standing == Standing::Said(MemberState::Succeeded);
    let all = !standings.is_empty() && standings.iter().all(|(_, standing)| succeeded(standing));
    let placed = u32::try_from(standings.len()).unwrap_or(u32::MAX);
    let complete = match terms.kind {
        Kind::Pods => all && placed >= terms.count,
        Kind::Torch => all && placed >= terms.min,
        Kind::Ray => standings.iter().any(|(member, standing)| member.rank == 0 && succeeded(standing)),
    };
    if complete {
        return Some(End::Succeeded);
    }
    if let (Some(started), Some(duration)) = (cluster.started_at, terms.duration) {
        let at = started.saturating_add(duration);
        if now >= at {
            return Some(End::DurationReached);
        }
        step.wake_after(at.saturating_sub(now));
    }
    let failed = standings.iter().filter(|(_, standing)| *standing == Standing::Said(MemberState::Failed)).count();
    // The members of a gang fall one after the other when one fails: that is one failure.
    let failed = if terms.kind == Kind::Pods { failed } else { failed.min(1) };
    step.failures = cluster.failures.saturating_add(u32::try_from(failed).unwrap_or(u32::MAX));
    if failed > 0 && step.failures > terms.backoff_limit {
        return Some(End::BackoffLimitExceeded);
    }
    let cut = |standing: &Standing| matches!(standing, Standing::Fenced | Standing::Said(MemberState::Expired));
    let lost = terms.policy == Policy::Fail && !terms.suspend && standings.iter().any(|(_, standing)| cut(standing));
    lost.then_some(End::MembersLost)
}

/// The ranks that leave the commit now.
fn leaving(
    cluster: &Cluster,
    standings: &[(&Member, Standing)],
    view: &View<'_>,
    revoked: &BTreeSet<u32>,
    step: &mut Step,
) -> BTreeSet<u32> {
    let terms = &cluster.terms;
    let gang = terms.kind != Kind::Pods;
    let mut ranks = BTreeSet::new();
    let mut refused: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut refused_incarnations = BTreeSet::new();
    let mut whole = false;
    let mut because = |cause: Cause| step.cause = step.cause.max(Some(cause));
    let fenced = |member: &Member| member.incarnation <= view.fenced(&member.site);
    let place = |member: &Member| (member.site.clone(), member.rank / SLICE_RANKS);
    // Places where a fenced slice is to name new members: it is delivered again then, without those that ended in it.
    let renewed: BTreeSet<(String, u32)> = if standings.iter().any(|(member, _)| fenced(member)) {
        standings.iter().filter(|(member, _)| !fenced(member)).map(|(member, _)| place(member)).collect()
    } else {
        BTreeSet::new()
    };
    for (member, standing) in standings {
        let cause = match standing {
            _ if terms.suspend => Cause::Suspended,
            Standing::Said(state) if state.ended() && fenced(member) && renewed.contains(&place(member)) => Cause::Lost,
            Standing::Said(MemberState::Failed) => {
                whole |= gang;
                Cause::Failed
            }
            Standing::Fenced | Standing::Withdrawn | Standing::Said(MemberState::Expired | MemberState::Lost) => {
                whole |= terms.policy == Policy::Restart || (gang && terms.policy != Policy::Replace);
                Cause::Lost
            }
            Standing::Undeliverable => Cause::Lost,
            Standing::Refused => {
                refused.entry(&member.site).or_default().insert(&member.node);
                refused_incarnations.insert(member.incarnation);
                Cause::Refused
            }
            _ if revoked.contains(&member.rank) => Cause::Revoked,
            _ if member.rank >= terms.count => Cause::Shrunk,
            _ => continue,
        };
        because(cause);
        ranks.insert(member.rank);
    }
    if ranks.is_empty() {
        return ranks;
    }
    for (member, standing) in standings {
        let together = refused_incarnations.contains(&member.incarnation);
        // Independent members that were told to run stay where only some of those placed with them were refused.
        let partly = !gang && matches!(standing, Standing::Said(state) if *state != MemberState::Pending);
        if whole || view.undecided(member) || (together && !partly) {
            ranks.insert(member.rank);
        }
    }
    step.refused = refused
        .into_iter()
        .map(|(site, nodes)| (site.to_owned(), nodes.into_iter().map(str::to_owned).collect()))
        .collect();
    ranks
}

/// Which ranks to place now.
fn want(cluster: &Cluster, view: &View<'_>, step: &mut Step) -> Option<Want> {
    let terms = &cluster.terms;
    let mut missing: BTreeSet<u32> = (0..terms.count).collect();
    for member in &step.keep {
        missing.remove(&member.rank);
    }
    if missing.is_empty() {
        return None;
    }
    let live = view.live(&step.keep, &missing);
    for left in live.values().flatten() {
        step.wake_after(*left);
    }
    let stopping = missing.iter().filter(|rank| live.contains_key(rank)).count();
    step.tally.stopping = u32::try_from(stopping).unwrap_or(u32::MAX);
    // A gang starts again when all of it has stopped, members beyond the present count included.
    if terms.kind != Kind::Pods && step.keep.is_empty() && !live.is_empty() {
        return None;
    }
    let ranks: Vec<u32> = missing.into_iter().filter(|rank| !live.contains_key(rank)).collect();
    let kept = u32::try_from(step.keep.len()).unwrap_or(u32::MAX);
    let min_new = if terms.kind == Kind::Pods && kept > 0 { 1 } else { terms.min.saturating_sub(kept).max(1) };
    (ranks.len() >= min_new as usize).then_some(Want { ranks, min_new })
}

/// Whether a member moves when its Site drains: one that ended, or whose Site is lost, does not.
fn stays_while_draining(standing: &Standing) -> bool {
    match standing {
        Standing::Undelivered => true,
        Standing::Said(state) => !state.ended(),
        _ => false,
    }
}

/// Which members are to leave draining Sites. Where a gang can be restarted all of it goes.
fn drain(cluster: &Cluster, standings: &[(&Member, Standing)], view: &View<'_>) -> Option<Drain> {
    let terms = &cluster.terms;
    if terms.policy == Policy::Fail {
        return None;
    }
    let moves =
        |(member, standing): &(&Member, Standing)| stays_while_draining(standing) && view.draining(&member.site);
    if !standings.iter().any(moves) {
        return None;
    }
    let gang = terms.kind != Kind::Pods;
    let (leave, keep): (Vec<_>, Vec<_>) = standings.iter().partition(|member| gang || moves(member));
    let ranks: Vec<u32> = leave.iter().map(|(member, _)| member.rank).collect();
    let min_new = if gang { u32::try_from(ranks.len()).unwrap_or(u32::MAX) } else { 1 };
    let keep = keep.into_iter().map(|(member, _)| (*member).clone()).collect();
    Some(Drain { keep, want: Want { ranks, min_new } })
}
