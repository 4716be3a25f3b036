//! Cases of the lifecycle, one by one.

use std::collections::{BTreeSet, HashMap};

use super::*;

pub(super) const FENCE: Millis = 120_000;

fn terms(kind: Kind, count: u32) -> Terms {
    Terms {
        kind,
        count,
        min: count,
        backoff_limit: 2,
        duration: None,
        ttl: None,
        suspend: false,
        policy: Policy::Replace,
    }
}

/// A Cluster whose rank `r` was placed by epoch 1 on the r-th Site named.
fn cluster(kind: Kind, sites: &[&str]) -> Cluster {
    let members = (0..).zip(sites).map(|(rank, site)| member(rank, 1, site)).collect();
    Cluster {
        terms: terms(kind, u32::try_from(sites.len()).unwrap()),
        deleting: false,
        epoch: 1,
        members,
        failures: 0,
        started_at: None,
        finished_at: None,
    }
}

fn member(rank: u32, incarnation: u64, site: &str) -> Member {
    Member { rank, incarnation, site: site.to_owned(), node: format!("n{rank}") }
}

/// A slice of `members` on `site`, all in `state`.
fn slice(site: &str, epoch: u64, phase: Phase, members: &[(u32, u64)], state: Option<MemberState>) -> Slice {
    let reports = state.map_or_else(HashMap::new, |state| members.iter().map(|key| (*key, state)).collect());
    Slice {
        name: format!("c-{site}"),
        site: site.to_owned(),
        index: 0,
        epoch,
        phase,
        members: members
            .iter()
            .map(|(rank, incarnation)| SliceMember { rank: *rank, node: format!("n{rank}"), incarnation: *incarnation })
            .collect(),
        older_may_run: false,
        reservation: Reservation::Pending,
        reports,
        fence: FENCE,
        deletion: Deletion::None,
    }
}

fn live(_: &str) -> SiteView {
    SiteState::Live.into()
}

/// Site "a" is lost for so long.
fn a_lost(ago: Millis) -> impl Fn(&str) -> SiteView {
    move |site| if site == "a" { SiteState::Lost { ago }.into() } else { live(site) }
}

/// At Site "a" members of this and lower incarnations count as stopped.
fn a_fenced(state: SiteState, fenced: u64) -> impl Fn(&str) -> SiteView {
    move |site| if site == "a" { SiteView { fenced, ..state.into() } } else { live(site) }
}

fn a_draining(site: &str) -> SiteView {
    SiteView { draining: site == "a", ..live(site) }
}

fn seen(cluster: &Cluster, slices: &[Slice], site: &dyn Fn(&str) -> SiteView) -> Step {
    next(cluster, slices, site, &BTreeSet::new(), 0)
}

fn at_a(epoch: u64) -> Vec<Fencing> {
    vec![Fencing { site: "a".to_owned(), epoch }]
}

fn decide(cluster: &Cluster, slices: &[Slice]) -> Step {
    next(cluster, slices, &live, &BTreeSet::new(), 0)
}

fn say(slice: &mut Slice, rank: u32, state: MemberState) {
    for ((at, _), said) in &mut slice.reports {
        if *at == rank {
            *said = state;
        }
    }
}

fn ranks(members: &[Member]) -> Vec<u32> {
    members.iter().map(|member| member.rank).collect()
}

fn phases(step: &Step) -> Vec<(String, Phase)> {
    step.slices
        .iter()
        .filter_map(|action| match action {
            SliceAction::Apply { site, phase, .. } => Some((site.clone(), *phase)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_new_cluster_wants_all_ranks_or_none() {
    let mut new = cluster(Kind::Pods, &[]);
    new.terms.count = 3;
    new.terms.min = 3;
    new.epoch = 0;
    assert_eq!(decide(&new, &[]).want, Some(Want { ranks: vec![0, 1, 2], min_new: 3 }));
    new.terms.min = 2;
    assert_eq!(decide(&new, &[]).want, Some(Want { ranks: vec![0, 1, 2], min_new: 2 }));
}

#[test]
fn members_in_one_slice_run_at_once_and_over_several_are_reserved_first() {
    let one = decide(&cluster(Kind::Torch, &["a", "a"]), &[]);
    assert_eq!(phases(&one), [("a".to_owned(), Phase::Run)]);
    let two = decide(&cluster(Kind::Pods, &["a", "b"]), &[]);
    assert_eq!(phases(&two), [("a".to_owned(), Phase::Reserve), ("b".to_owned(), Phase::Reserve)]);
}

#[test]
fn run_comes_when_every_slice_is_reserved() {
    let placed = cluster(Kind::Pods, &["a", "b"]);
    let mut a = slice("a", 1, Phase::Reserve, &[(0, 1)], None);
    let mut b = slice("b", 1, Phase::Reserve, &[(1, 1)], None);
    a.reservation = Reservation::Reserved;
    assert!(decide(&placed, &[a.clone(), b.clone()]).slices.is_empty());
    b.reservation = Reservation::Reserved;
    let step = decide(&placed, &[a.clone(), b.clone()]);
    assert_eq!(phases(&step), [("a".to_owned(), Phase::Run), ("b".to_owned(), Phase::Run)]);
    // An operator that died between the two writes: the decision stands, whatever the other says meanwhile.
    a.phase = Phase::Run;
    b.reservation = Reservation::Pending;
    assert_eq!(phases(&decide(&placed, &[a, b])), [("b".to_owned(), Phase::Run)]);
}

#[test]
fn one_refusal_withdraws_all_that_were_placed_together_and_places_them_again_at_once() {
    let placed = cluster(Kind::Pods, &["a", "b"]);
    let mut a = slice("a", 1, Phase::Reserve, &[(0, 1)], None);
    let mut b = slice("b", 1, Phase::Reserve, &[(1, 1)], None);
    a.reservation = Reservation::Reserved;
    b.reservation = Reservation::Refused;
    let step = decide(&placed, &[a, b]);
    assert_eq!(step.cause, Some(Cause::Refused));
    assert!(step.keep.is_empty());
    assert_eq!(step.refused, [("b".to_owned(), vec!["n1".to_owned()])]);
    assert_eq!(step.want, Some(Want { ranks: vec![0, 1], min_new: 2 }));
}

#[test]
fn a_failed_pod_alone_is_replaced_and_counted() {
    let placed = cluster(Kind::Pods, &["a", "a", "b"]);
    let mut a = slice("a", 1, Phase::Run, &[(0, 1), (1, 1)], Some(MemberState::Ready));
    let b = slice("b", 1, Phase::Run, &[(2, 1)], Some(MemberState::Ready));
    say(&mut a, 1, MemberState::Failed);
    let step = decide(&placed, &[a, b]);
    assert_eq!((step.cause, step.failures), (Some(Cause::Failed), 1));
    assert_eq!(ranks(&step.keep), [0, 2]);
    assert_eq!(step.want, Some(Want { ranks: vec![1], min_new: 1 }));
}

#[test]
fn a_failed_member_of_a_gang_stops_all_and_all_start_again_when_all_have_stopped() {
    for kind in [Kind::Torch, Kind::Ray] {
        let mut placed = cluster(kind, &["a", "a", "a"]);
        let mut a = slice("a", 1, Phase::Run, &[(0, 1), (1, 1), (2, 1)], Some(MemberState::Ready));
        say(&mut a, 1, MemberState::Failed);
        say(&mut a, 2, MemberState::Failed);
        let step = decide(&placed, std::slice::from_ref(&a));
        assert_eq!((step.cause, step.failures), (Some(Cause::Failed), 1), "one gang failed once");
        assert!(step.keep.is_empty() && step.want.is_none());
        placed.members.clear();
        placed.epoch = 2;
        let step = decide(&placed, std::slice::from_ref(&a));
        assert_eq!(step.slices, [SliceAction::Delete { name: "c-a".to_owned() }]);
        assert!(step.want.is_none(), "rank 0 still runs");
        a.deletion = Deletion::Stopped;
        let step = decide(&placed, std::slice::from_ref(&a));
        assert_eq!(step.slices, [SliceAction::Release { name: "c-a".to_owned() }]);
        assert_eq!(step.want, Some(Want { ranks: vec![0, 1, 2], min_new: 3 }));
    }
}

#[test]
fn too_many_failures_end_the_cluster() {
    let mut placed = cluster(Kind::Pods, &["a"]);
    placed.failures = 2;
    let a = slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Failed));
    assert_eq!(decide(&placed, std::slice::from_ref(&a)).end, Some(End::BackoffLimitExceeded));
    placed.failures = 1;
    assert_eq!(decide(&placed, &[a]).end, None);
}

#[test]
fn success_completes_by_kind() {
    for (kind, states, complete) in [
        (Kind::Pods, [MemberState::Succeeded, MemberState::Ready], false),
        (Kind::Pods, [MemberState::Succeeded, MemberState::Succeeded], true),
        (Kind::Torch, [MemberState::Succeeded, MemberState::Ready], false),
        (Kind::Torch, [MemberState::Succeeded, MemberState::Succeeded], true),
        (Kind::Ray, [MemberState::Succeeded, MemberState::Ready], true),
        (Kind::Ray, [MemberState::Ready, MemberState::Succeeded], false),
    ] {
        let mut a = slice("a", 1, Phase::Run, &[(0, 1), (1, 1)], Some(MemberState::Ready));
        say(&mut a, 0, states[0]);
        say(&mut a, 1, states[1]);
        let step = decide(&cluster(kind, &["a", "a"]), &[a]);
        assert_eq!(step.end.is_some(), complete, "{kind:?} {states:?}");
        assert_eq!(step.tally.succeeded, if step.end.is_some() && kind != Kind::Ray { 2 } else { 1 });
    }
}

#[test]
fn a_lost_site_is_waited_for_until_the_fence_and_then_acted_on_by_policy() {
    let sites = ["a", "b"];
    let slices = [
        slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Ready)),
        slice("b", 1, Phase::Run, &[(1, 1)], Some(MemberState::Ready)),
    ];
    for (policy, kept, end) in [
        (Policy::Replace, vec![1], None),
        (Policy::Autonomous, vec![1], None),
        (Policy::Restart, vec![], None),
        (Policy::Fail, vec![], Some(End::MembersLost)),
    ] {
        let mut placed = cluster(Kind::Pods, &sites);
        placed.terms.policy = policy;
        let early = seen(&placed, &slices, &a_lost(FENCE - 1));
        assert_eq!((early.cause, early.wake, early.tally.cut_off), (None, Some(1), 1), "{policy:?}");
        assert_eq!((&early.keep, early.fence), (&placed.members, vec![]));
        let due = seen(&placed, &slices, &a_lost(FENCE));
        assert_eq!((due.cause, due.want, due.end, due.wake), (None, None, None, None), "not before that is written");
        assert_eq!((due.keep, due.fence), (placed.members.clone(), at_a(1)));
        let late = seen(&placed, &slices, &a_fenced(SiteState::Lost { ago: FENCE }, 1));
        assert_eq!((ranks(&late.keep), late.end, late.fence), (kept.clone(), end, vec![]), "{policy:?}");
        // It came back after that: its members are dead all the same.
        let back = seen(&placed, &slices, &a_fenced(SiteState::Live, 1));
        assert_eq!((ranks(&back.keep), back.end), (kept, end), "{policy:?}");
        match policy {
            Policy::Replace | Policy::Autonomous => assert_eq!(late.want, Some(Want { ranks: vec![0], min_new: 1 })),
            Policy::Restart => assert_eq!(late.want, None, "rank 1 has not stopped and the count is the minimum"),
            Policy::Fail => assert_eq!(late.want, None),
        }
        // Back before the fence: nothing happens.
        let back = seen(&placed, &slices, &live);
        assert_eq!((back.cause, back.keep), (None, placed.members));
    }
}

#[test]
fn members_that_their_own_fence_stopped_are_lost_with_their_site() {
    let mut placed = cluster(Kind::Torch, &["a"]);
    let a = slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Expired));
    assert_eq!(decide(&placed, std::slice::from_ref(&a)).cause, Some(Cause::Lost));
    placed.terms.policy = Policy::Fail;
    assert_eq!(decide(&placed, &[a]).end, Some(End::MembersLost));
    let evicted = slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Lost));
    let step = decide(&placed, &[evicted]);
    assert_eq!((step.end, step.cause, step.failures), (None, Some(Cause::Lost), 0));
}

#[test]
fn a_commit_that_never_reached_a_lost_site_is_withdrawn_without_waiting() {
    let placed = cluster(Kind::Pods, &["a", "b"]);
    let step = seen(&placed, &[], &a_lost(1));
    assert!(step.keep.is_empty(), "placed together, withdrawn together");
    assert_eq!(step.want, Some(Want { ranks: vec![0, 1], min_new: 2 }));
}

#[test]
fn a_rank_enters_its_new_slice_when_no_slice_elsewhere_would_start_its_former_member() {
    // Rank 0 was fenced on "a", which never got the slice, and was placed anew on "b".
    let mut placed = cluster(Kind::Pods, &["b"]);
    placed.epoch = 2;
    placed.members[0].incarnation = 2;
    let mut a = slice("a", 1, Phase::Run, &[(0, 1)], None);
    let delete = [SliceAction::Delete { name: "c-a".to_owned() }];
    let fenced = a_fenced(SiteState::Lost { ago: FENCE }, 1);
    let at_fence = |a: &Slice| seen(&placed, std::slice::from_ref(a), &fenced);
    assert_eq!(at_fence(&a).slices, delete, "a Site that comes back now would start it");
    assert_eq!(decide(&placed, std::slice::from_ref(&a)).slices, delete, "it came back");
    a.deletion = Deletion::Started;
    assert!(decide(&placed, std::slice::from_ref(&a)).slices.is_empty(), "it may have started it");
    let entered = [("b".to_owned(), Phase::Run)];
    assert_eq!(phases(&at_fence(&a)), entered);
    assert_eq!(at_fence(&a).slices.last(), Some(&SliceAction::Release { name: "c-a".to_owned() }));
    a.deletion = Deletion::Stopped;
    assert_eq!(phases(&decide(&placed, &[a])), entered);
}

#[test]
fn a_slice_that_keeps_members_is_narrowed_before_new_ones_enter() {
    // Ranks 1 and 2 changed places; rank 0 stays on "a".
    let mut placed = cluster(Kind::Pods, &["a", "b", "a"]);
    placed.epoch = 2;
    placed.members[1].incarnation = 2;
    placed.members[2].incarnation = 2;
    let a = slice("a", 1, Phase::Run, &[(0, 1), (1, 1)], Some(MemberState::Ready));
    let b = slice("b", 1, Phase::Run, &[(2, 1)], Some(MemberState::Ready));
    let step = decide(&placed, &[a, b]);
    let members = vec![SliceMember { rank: 0, node: "n0".to_owned(), incarnation: 1 }];
    let narrowed = SliceAction::Apply { site: "a".to_owned(), index: 0, epoch: 1, phase: Phase::Run, members };
    assert_eq!(step.slices, [narrowed, SliceAction::Delete { name: "c-b".to_owned() }]);
}

#[test]
fn a_smaller_count_takes_the_highest_ranks_and_a_larger_one_adds() {
    let mut placed = cluster(Kind::Torch, &["a", "a", "a"]);
    placed.started_at = Some(0);
    let a = slice("a", 1, Phase::Run, &[(0, 1), (1, 1), (2, 1)], Some(MemberState::Ready));
    placed.terms.count = 2;
    placed.terms.min = 2;
    let step = decide(&placed, std::slice::from_ref(&a));
    assert_eq!((step.cause, ranks(&step.keep), step.want), (Some(Cause::Shrunk), vec![0, 1], None));
    placed.terms.count = 5;
    placed.terms.min = 5;
    let step = decide(&placed, &[a]);
    assert_eq!((step.cause, ranks(&step.keep)), (None, vec![0, 1, 2]));
    assert_eq!(step.want, Some(Want { ranks: vec![3, 4], min_new: 2 }));
}

#[test]
fn new_members_on_a_slice_that_runs_are_reserved_without_touching_it() {
    let mut placed = cluster(Kind::Pods, &["a", "a"]);
    placed.epoch = 2;
    placed.members.push(member(2, 2, "a"));
    placed.members.push(member(3, 2, "b"));
    placed.terms.count = 4;
    let a = slice("a", 1, Phase::Run, &[(0, 1), (1, 1)], Some(MemberState::Ready));
    let step = decide(&placed, std::slice::from_ref(&a));
    assert_eq!(phases(&step), [("a".to_owned(), Phase::Reserve), ("b".to_owned(), Phase::Reserve)]);
    assert!(step.want.is_none(), "no growth while a start is undecided");
    // A refusal takes only the new ones.
    let mut b = slice("b", 2, Phase::Reserve, &[(3, 2)], None);
    b.reservation = Reservation::Refused;
    let mut a = slice("a", 2, Phase::Reserve, &[(0, 1), (1, 1), (2, 2)], Some(MemberState::Ready));
    a.reports.remove(&(2, 2));
    let step = decide(&placed, &[a, b]);
    assert_eq!((step.cause, ranks(&step.keep)), (Some(Cause::Refused), vec![0, 1]));
}

#[test]
fn suspension_releases_and_resuming_waits_for_the_stop() {
    let mut placed = cluster(Kind::Pods, &["a"]);
    placed.terms.suspend = true;
    let mut a = slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Ready));
    let step = decide(&placed, std::slice::from_ref(&a));
    assert_eq!((step.cause, step.keep.len(), step.want), (Some(Cause::Suspended), 0, None));
    placed.members.clear();
    placed.epoch = 2;
    assert_eq!(decide(&placed, std::slice::from_ref(&a)).slices, [SliceAction::Delete { name: "c-a".to_owned() }]);
    placed.terms.suspend = false;
    a.deletion = Deletion::Started;
    let step = decide(&placed, std::slice::from_ref(&a));
    assert_eq!((step.want, step.tally.stopping), (None, 1));
    a.deletion = Deletion::Stopped;
    assert!(decide(&placed, &[a]).want.is_some());
}

#[test]
fn duration_and_ttl_are_waited_for() {
    let mut placed = cluster(Kind::Pods, &["a"]);
    placed.terms.duration = Some(1_000);
    placed.terms.ttl = Some(500);
    placed.started_at = Some(100);
    let a = slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Ready));
    assert_eq!(decide(&placed, std::slice::from_ref(&a)).wake, Some(1_100));
    let step = next(&placed, &[a], &live, &BTreeSet::new(), 1_100);
    assert_eq!(step.end, Some(End::DurationReached));
    placed.finished_at = Some(1_100);
    placed.members.clear();
    let step = next(&placed, &[], &live, &BTreeSet::new(), 1_200);
    assert_eq!((step.wake, step.delete), (Some(400), false));
    assert!(next(&placed, &[], &live, &BTreeSet::new(), 1_600).delete);
}

#[test]
fn a_deleted_cluster_keeps_its_slices_until_they_are_stopped_or_fenced() {
    let mut gone = cluster(Kind::Pods, &["a"]);
    gone.deleting = true;
    let mut a = slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Ready));
    assert_eq!(decide(&gone, std::slice::from_ref(&a)).slices, [SliceAction::Delete { name: "c-a".to_owned() }]);
    a.deletion = Deletion::Started;
    assert!(decide(&gone, std::slice::from_ref(&a)).slices.is_empty());
    let waiting = seen(&gone, std::slice::from_ref(&a), &a_lost(10));
    assert_eq!((waiting.slices.len(), waiting.wake, waiting.fence), (0, Some(FENCE - 10), vec![]));
    let frozen = |site: &str| SiteView { frozen: true, ..a_lost(FENCE)(site) };
    let due = seen(&gone, std::slice::from_ref(&a), &frozen);
    assert_eq!((due.slices.len(), due.fence), (0, at_a(1)), "nobody takes its place, so a freeze does not matter");
    let fenced = seen(&gone, std::slice::from_ref(&a), &a_fenced(SiteState::Lost { ago: FENCE }, 1));
    let release = [SliceAction::Release { name: "c-a".to_owned() }];
    assert_eq!((&fenced.slices[..], fenced.fence), (&release[..], vec![]));
    let no_site = |_: &str| SiteState::Gone { ago: FENCE }.into();
    assert_eq!(seen(&gone, std::slice::from_ref(&a), &no_site).slices, release, "no session can begin there");
    a.deletion = Deletion::Stopped;
    assert_eq!(decide(&gone, &[a]).slices, [SliceAction::Release { name: "c-a".to_owned() }]);
}

#[test]
fn a_revoked_commit_is_withdrawn_as_a_whole_before_slices_are_made() {
    let placed = cluster(Kind::Pods, &["a", "b"]);
    let step = next(&placed, &[], &live, &BTreeSet::from([1]), 0);
    assert_eq!((step.cause, step.keep.len(), step.slices.len()), (Some(Cause::Revoked), 0, 0));
    assert!(step.want.is_some());
}

#[test]
fn a_lost_status_is_adopted_from_slices_before_anything_new_is_placed() {
    let mut lost = cluster(Kind::Pods, &["a", "b"]);
    lost.members.clear();
    lost.epoch = 0;
    let a = slice("a", 3, Phase::Run, &[(0, 1)], Some(MemberState::Ready));
    let b = slice("b", 7, Phase::Run, &[(1, 7)], Some(MemberState::Ready));
    let step = decide(&lost, &[a, b]);
    assert_eq!((step.adopt, step.want.is_none(), step.slices.len()), (Some(7), true, 0));
    assert_eq!(step.keep, [member(0, 1, "a"), member(1, 7, "b")]);
}

#[test]
fn a_site_that_has_not_seen_the_newest_specification_may_still_run_what_left_it() {
    let mut placed = cluster(Kind::Pods, &["a"]);
    placed.epoch = 2;
    placed.terms.count = 2;
    let mut a = slice("a", 2, Phase::Run, &[(0, 1)], Some(MemberState::Ready));
    a.older_may_run = true;
    assert_eq!(decide(&placed, std::slice::from_ref(&a)).want, None);
    a.older_may_run = false;
    assert_eq!(decide(&placed, &[a]).want, Some(Want { ranks: vec![1], min_new: 1 }));
}

#[test]
fn started_once_when_all_members_are_ready() {
    let mut placed = cluster(Kind::Pods, &["a", "b"]);
    let a = slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Ready));
    let b = slice("b", 1, Phase::Run, &[(1, 1)], Some(MemberState::Starting));
    assert!(!decide(&placed, &[a.clone(), b.clone()]).started);
    let b = slice("b", 1, Phase::Run, &[(1, 1)], Some(MemberState::Ready));
    assert!(decide(&placed, &[a.clone(), b.clone()]).started);
    placed.started_at = Some(5);
    let step = decide(&placed, &[a, b]);
    assert!(!step.started && step.slices.is_empty() && step.wake.is_none(), "nothing to do when nothing changes");
}

#[test]
fn large_shares_of_a_site_are_several_slices_by_rank() {
    let mut placed = cluster(Kind::Pods, &vec!["a"; 1_200]);
    placed.terms.min = 1;
    let step = decide(&placed, &[]);
    let sizes: Vec<usize> = step
        .slices
        .iter()
        .map(|action| match action {
            SliceAction::Apply { members, .. } => members.len(),
            _ => 0,
        })
        .collect();
    assert_eq!(sizes, [500, 500, 200]);
}

#[test]
fn a_freeze_holds_fences_and_says_so() {
    let placed = cluster(Kind::Pods, &["a", "b"]);
    let slices = [
        slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Ready)),
        slice("b", 1, Phase::Run, &[(1, 1)], Some(MemberState::Ready)),
    ];
    let frozen = |ago| move |site: &str| SiteView { frozen: true, ..a_lost(ago)(site) };
    let early = seen(&placed, &slices, &frozen(FENCE - 1));
    assert_eq!((early.wake, early.tally.frozen), (Some(1), 0));
    let held = seen(&placed, &slices, &frozen(FENCE));
    assert_eq!((held.cause, held.fence, held.wake), (None, vec![], None));
    assert_eq!((held.tally.cut_off, held.tally.frozen), (1, 1));
}

#[test]
fn a_fence_stands_for_all_that_a_cluster_has_on_a_site() {
    // The fence of the newer slice lasts longer, and a former member of the same Site has left the commit.
    let mut placed = cluster(Kind::Pods, &["a", "b"]);
    placed.epoch = 3;
    let mut newer = slice("a", 3, Phase::Run, &[(0, 1)], Some(MemberState::Ready));
    newer.fence = 2 * FENCE;
    let mut older = slice("a", 2, Phase::Run, &[(700, 2)], Some(MemberState::Ready));
    (older.index, older.deletion, older.name) = (1, Deletion::Started, "c-a-1".to_owned());
    let b = slice("b", 1, Phase::Run, &[(1, 1)], Some(MemberState::Ready));
    let slices = [newer, older, b];
    assert_eq!(seen(&placed, &slices, &a_lost(2 * FENCE - 1)).fence, []);
    assert_eq!(seen(&placed, &slices, &a_lost(2 * FENCE)).fence, at_a(3));
}

#[test]
fn what_ended_on_a_lost_site_needs_no_fence_and_its_record_is_not_delivered_again() {
    let mut placed = cluster(Kind::Pods, &["a", "a", "b"]);
    let mut a = slice("a", 1, Phase::Run, &[(0, 1), (1, 1)], Some(MemberState::Succeeded));
    let b = slice("b", 1, Phase::Run, &[(2, 1)], Some(MemberState::Ready));
    let slices = [a.clone(), b.clone()];
    assert_eq!(seen(&placed, &slices, &a_lost(FENCE)).fence, []);
    say(&mut a, 1, MemberState::Ready);
    assert_eq!(seen(&placed, &[a.clone(), b.clone()], &a_lost(FENCE)).fence, at_a(1));
    let fenced = a_fenced(SiteState::Live, 1);
    let step = seen(&placed, &[a.clone(), b.clone()], &fenced);
    assert_eq!((step.cause, ranks(&step.keep)), (Some(Cause::Lost), vec![0, 2]));
    // Rank 1 went elsewhere: the slice keeps its epoch, so that it stays undelivered.
    placed.epoch = 2;
    placed.members[1] = member(1, 2, "b");
    let step = seen(&placed, &[a.clone(), b.clone()], &fenced);
    let members = vec![SliceMember { rank: 0, node: "n0".to_owned(), incarnation: 1 }];
    let narrowed = SliceAction::Apply { site: "a".to_owned(), index: 0, epoch: 1, phase: Phase::Run, members };
    assert_eq!(step.slices[0], narrowed);
    // Or it comes back there: the slice is delivered again, and what ended in it runs again.
    placed.members[1] = member(1, 2, "a");
    let step = seen(&placed, &[a, b], &fenced);
    assert_eq!((step.cause, ranks(&step.keep)), (Some(Cause::Lost), vec![2]), "rank 1 was placed for nothing");
}

#[test]
fn an_undelivered_member_of_a_fenced_epoch_leaves_though_its_site_is_back() {
    let placed = cluster(Kind::Pods, &["a", "b"]);
    let step = seen(&placed, &[], &a_fenced(SiteState::Live, 1));
    assert_eq!((step.cause, step.keep.len()), (Some(Cause::Lost), 0), "its slice would not be delivered");
    let mut later = placed.clone();
    later.epoch = 2;
    later.members.iter_mut().for_each(|member| member.incarnation = 2);
    assert_eq!(seen(&later, &[], &a_fenced(SiteState::Live, 1)).cause, None);
}

#[test]
fn a_fence_is_over_when_nothing_of_its_epochs_is_left_there() {
    let placed = cluster(Kind::Pods, &["a", "b"]);
    let (old, new) = (slice("a", 1, Phase::Run, &[(0, 1)], None), slice("a", 2, Phase::Run, &[(0, 2)], None));
    let mut elsewhere = placed.clone();
    elsewhere.members.remove(0);
    let mut deleted = placed.clone();
    deleted.deleting = true;
    for (epoch, cluster, slices, over) in [
        (1, &elsewhere, vec![], true),
        (1, &placed, vec![], false),
        (1, &deleted, vec![], true),
        (1, &elsewhere, vec![old.clone()], false),
        (1, &elsewhere, vec![new.clone()], true),
        (2, &elsewhere, vec![new], false),
    ] {
        assert_eq!(fence_is_over("a", epoch, cluster, &slices), over, "{epoch} {slices:?}");
    }
    assert!(fence_is_over("b", 0, &elsewhere, &[old]), "another Site's");
}

#[test]
fn members_leave_a_draining_site_when_there_is_a_place_for_them() {
    for (kind, policy, moved) in [
        (Kind::Pods, Policy::Replace, vec![0, 1]),
        (Kind::Pods, Policy::Autonomous, vec![0, 1]),
        (Kind::Pods, Policy::Fail, vec![]),
        (Kind::Torch, Policy::Restart, vec![0, 1, 2]),
        (Kind::Torch, Policy::Fail, vec![]),
    ] {
        let sites = if kind == Kind::Pods { ["a", "a", "b"] } else { ["a", "a", "a"] };
        let mut placed = cluster(kind, &sites);
        placed.terms.policy = policy;
        let mut slices = vec![slice("a", 1, Phase::Run, &[(0, 1), (1, 1)], Some(MemberState::Ready))];
        if kind == Kind::Pods {
            slices.push(slice("b", 1, Phase::Run, &[(2, 1)], Some(MemberState::Ready)));
        } else {
            slices = vec![slice("a", 1, Phase::Run, &[(0, 1), (1, 1), (2, 1)], Some(MemberState::Ready))];
        }
        let mut step = seen(&placed, &slices, &a_draining);
        assert_eq!((step.cause, &step.keep), (None, &placed.members), "they stay until there is a place");
        assert_eq!(step.tally.draining, if kind == Kind::Pods { 2 } else { 3 });
        let drain = step.drain.clone();
        assert_eq!(
            drain.as_ref().map(|drain| drain.want.ranks.clone()).unwrap_or_default(),
            moved,
            "{kind:?} {policy:?}"
        );
        let Some(drain) = drain else { continue };
        let gang = kind != Kind::Pods;
        assert_eq!((drain.want.min_new, drain.keep.len()), if gang { (3, 0) } else { (1, 1) });
        // There is a place for rank 0 only, or for all of the gang.
        step.drained(&if gang { BTreeSet::from([0, 1, 2]) } else { BTreeSet::from([0]) });
        assert_eq!((step.cause, ranks(&step.keep)), (Some(Cause::Drained), if gang { vec![] } else { vec![1, 2] }));
    }
    let mut suspended = cluster(Kind::Pods, &["a"]);
    suspended.terms.suspend = true;
    let a = [slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Ready))];
    assert_eq!(seen(&suspended, &a, &a_draining).drain, None);
    let ended = [slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Succeeded))];
    assert_eq!(seen(&cluster(Kind::Torch, &["a"]), &ended, &a_draining).drain, None);
}

#[test]
fn a_moved_member_starts_when_its_former_one_has_stopped() {
    let mut placed = cluster(Kind::Pods, &["b"]);
    placed.epoch = 2;
    placed.members[0].incarnation = 2;
    let mut a = slice("a", 1, Phase::Run, &[(0, 1)], Some(MemberState::Ready));
    assert_eq!(
        seen(&placed, std::slice::from_ref(&a), &a_draining).slices,
        [SliceAction::Delete { name: "c-a".to_owned() }]
    );
    a.deletion = Deletion::Started;
    assert_eq!(seen(&placed, std::slice::from_ref(&a), &a_draining).slices, []);
    a.deletion = Deletion::Stopped;
    assert_eq!(phases(&seen(&placed, &[a], &a_draining)), [("b".to_owned(), Phase::Run)]);
}
