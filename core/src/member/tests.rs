//! Tables for the rules one by one, and a Site that lives through random histories.

use proptest::prelude::*;

use super::*;

const TIMES: (u64, u64) = (60, 90);

fn m(rank: u32, incarnation: u64) -> Member {
    Member { rank, incarnation }
}

fn placed(member: Member) -> Placed {
    Placed { member, node: format!("node-{}", member.rank) }
}

fn wanted(epoch: u64, mode: Mode, members: &[Member]) -> Wanted {
    Wanted {
        epoch,
        generation: i64::try_from(epoch).unwrap(),
        mode,
        members: members.iter().copied().map(placed).collect(),
        times: Times::from_seconds(TIMES.0, TIMES.1),
        refusal: None,
    }
}

fn pod(phase: Phase) -> Pod {
    Pod {
        phase,
        stopping: false,
        killed: false,
        abandoned: false,
        node: Some("node".into()),
        address: None,
        reason: None,
        message: None,
    }
}

fn gang(wanted: &Wanted, verdict: Verdict) -> Gang {
    Gang {
        epoch: wanted.epoch,
        mode: wanted.mode,
        members: wanted.members.clone(),
        times: wanted.times,
        verdict,
        reason: None,
        message: None,
        bound: if verdict == Verdict::Bound {
            wanted.members.iter().map(|placed| placed.member).collect()
        } else {
            BTreeSet::new()
        },
        stopped_incarnation: 0,
        stopping: false,
    }
}

fn slice(wish: Wanted, verdict: Verdict, pods: &[(Member, Phase)]) -> Slice {
    Slice {
        gang: Some(gang(&wish, verdict)),
        wish: Wish::Wanted(wish),
        pods: pods.iter().map(|(member, phase)| (*member, pod(*phase))).collect(),
        ..Slice::default()
    }
}

fn around(lease: State, elsewhere: &BTreeSet<Member>) -> Around<'_> {
    Around { namespace: Namespace::Furnished, may_start: true, lease, elsewhere }
}

fn steps(slice: &Slice, lease: State) -> Vec<Action> {
    plan(slice, &around(lease, &BTreeSet::new()))
}

fn phases(slice: &Slice) -> Vec<(Member, MemberPhase, Reason)> {
    let report = report(slice).expect("a report");
    report.members.into_iter().map(|report| (report.member, report.phase, report.reason)).collect()
}

#[test]
fn a_new_slice_is_furnished_then_its_gang_then_its_pods() {
    let members = [m(0, 1), m(1, 1)];
    let slice = Slice { wish: Wish::Wanted(wanted(1, Mode::Run, &members)), ..Slice::default() };
    let none = BTreeSet::new();
    let around = Around { namespace: Namespace::Absent, ..around(State::Live, &none) };
    assert_eq!(
        plan(&slice, &around),
        [Action::Furnish, Action::ApplyGang, Action::CreatePod(members[0]), Action::CreatePod(members[1])]
    );
}

#[test]
fn a_hold_makes_a_gang_and_no_pods() {
    let slice = Slice { wish: Wish::Wanted(wanted(1, Mode::Hold, &[m(0, 1)])), ..Slice::default() };
    assert_eq!(steps(&slice, State::Live), [Action::ApplyGang]);
}

#[test]
fn a_hold_that_becomes_run_updates_the_gang_and_starts_members_that_were_only_held() {
    let mut held = slice(wanted(1, Mode::Hold, &[m(0, 1)]), Verdict::Reserved, &[]);
    assert_eq!(report(&held).unwrap().reservation, Reservation::Reserved);
    held.wish = Wish::Wanted(wanted(1, Mode::Run, &[m(0, 1)]));
    assert_eq!(steps(&held, State::Live), [Action::ApplyGang, Action::CreatePod(m(0, 1))]);
}

#[test]
fn nothing_starts_before_it_may() {
    let none = BTreeSet::new();
    let new = Slice { wish: Wish::Wanted(wanted(1, Mode::Run, &[m(0, 1)])), ..Slice::default() };
    let all = around(State::Live, &none);
    for (name, around) in [
        ("not synced", Around { may_start: false, ..all }),
        ("lease stopped", Around { lease: State::Stop, ..all }),
        ("lease killed", Around { lease: State::Kill, ..all }),
        ("namespace stopping", Around { namespace: Namespace::Stopping, ..all }),
    ] {
        assert_eq!(plan(&new, &around), [], "{name}");
    }
    let mut stopping = slice(wanted(1, Mode::Run, &[m(0, 1)]), Verdict::Pending, &[]);
    stopping.gang.as_mut().unwrap().stopping = true;
    assert_eq!(steps(&stopping, State::Live), [], "gang stopping");
}

#[test]
fn refused_pods_are_reported_and_nothing_is_made() {
    let mut wish = wanted(1, Mode::Run, &[m(0, 1)]);
    wish.refusal = Some("no".into());
    let slice = Slice { wish: Wish::Wanted(wish), ..Slice::default() };
    assert_eq!(steps(&slice, State::Live), []);
    let report = report(&slice).unwrap();
    assert_eq!((report.reservation, report.reason), (Reservation::Refused, Reason::PodRefused));
}

#[test]
fn an_older_incarnation_is_gone_before_the_newer_one_and_its_gang_come() {
    let mut replaced = slice(
        wanted(1, Mode::Run, &[m(0, 1), m(1, 1)]),
        Verdict::Bound,
        &[(m(0, 1), Phase::Ready), (m(1, 1), Phase::Ready)],
    );
    replaced.wish = Wish::Wanted(wanted(2, Mode::Run, &[m(0, 1), m(1, 2)]));
    assert_eq!(steps(&replaced, State::Live), [Action::DeletePod { member: m(1, 1), kill: false }]);
    replaced.pods.get_mut(&m(1, 1)).unwrap().stopping = true;
    assert_eq!(steps(&replaced, State::Live), []);
    assert_eq!(
        phases(&replaced),
        [
            (m(0, 1), MemberPhase::Ready, Reason::None),
            (m(1, 1), MemberPhase::Stopping, Reason::None),
            (m(1, 2), MemberPhase::Pending, Reason::None),
        ]
    );
    replaced.pods.remove(&m(1, 1));
    assert_eq!(steps(&replaced, State::Live), [Action::ApplyGang, Action::CreatePod(m(1, 2))]);
}

#[test]
fn a_rank_that_lives_in_another_slice_is_waited_for() {
    let new = Slice { wish: Wish::Wanted(wanted(2, Mode::Run, &[m(0, 2)])), ..Slice::default() };
    assert_eq!(plan(&new, &around(State::Live, &BTreeSet::from([m(0, 1)]))), []);
    assert_eq!(plan(&new, &around(State::Live, &BTreeSet::from([m(1, 1)]))).len(), 2);
}

#[test]
fn a_vanished_member_is_lost_and_never_started_again() {
    let bound = slice(wanted(1, Mode::Run, &[m(0, 1)]), Verdict::Bound, &[]);
    let mut seen = slice(wanted(1, Mode::Run, &[m(0, 1)]), Verdict::Pending, &[]);
    seen.started.insert(m(0, 1));
    for vanished in [bound, seen] {
        assert_eq!(steps(&vanished, State::Live), []);
        assert_eq!(phases(&vanished), [(m(0, 1), MemberPhase::Lost, Reason::Vanished)]);
    }
}

fn orphan() -> Orphan {
    Orphan { node: "node".into(), since: Duration::from_secs(7) }
}

#[test]
fn an_orphan_is_here_as_a_pod_is() {
    let mut orphaned = slice(wanted(1, Mode::Run, &[m(0, 1), m(1, 1)]), Verdict::Bound, &[(m(1, 1), Phase::Ready)]);
    orphaned.orphans.insert(m(0, 1), orphan());
    assert_eq!(steps(&orphaned, State::Live), [], "it is not started again");
    let stopping = (m(0, 1), MemberPhase::Stopping, Reason::Vanished);
    assert_eq!(phases(&orphaned), [stopping.clone(), (m(1, 1), MemberPhase::Ready, Reason::None)]);
    orphaned.wish = Wish::Wanted(wanted(2, Mode::Run, &[m(0, 2), m(1, 1)]));
    assert_eq!(steps(&orphaned, State::Live), [], "nor is its rank");
    assert_eq!(orphaned.strangers().collect::<Vec<_>>(), [m(0, 1)]);
    assert!(phases(&orphaned).contains(&stopping));
    let mut gone = orphaned.clone();
    gone.orphans.clear();
    assert_eq!(steps(&gone, State::Live), [Action::ApplyGang, Action::CreatePod(m(0, 2))]);
    orphaned.pods.clear();
    orphaned.wish = Wish::Dropped;
    assert_eq!(steps(&orphaned, State::Live), [], "its gang stays");
    orphaned.gang = None;
    assert!(orphaned.is_live() && !report(&orphaned).unwrap().gone);
    orphaned.orphans.clear();
    assert!(report(&orphaned).unwrap().gone);
}

#[test]
fn a_pod_that_its_lost_node_left_behind_is_removed_wanted_or_not() {
    let mut left = slice(wanted(1, Mode::Run, &[m(0, 1)]), Verdict::Bound, &[(m(0, 1), Phase::Lost)]);
    left.pods.get_mut(&m(0, 1)).unwrap().abandoned = true;
    let remove = [Action::RemovePod(m(0, 1))];
    assert_eq!(steps(&left, State::Live), remove);
    assert_eq!(phases(&left), [(m(0, 1), MemberPhase::Lost, Reason::None)]);
    left.wish = Wish::Wanted(wanted(2, Mode::Run, &[m(0, 2)]));
    assert_eq!(steps(&left, State::Live), remove, "its rank waits for that");
    left.wish = Wish::Dropped;
    assert_eq!(steps(&left, State::Live), remove);
}

#[test]
fn an_orphan_without_a_lease_is_marked_as_stopped_too() {
    let mut orphaned = slice(wanted(3, Mode::Run, &[m(0, 3)]), Verdict::Pending, &[]);
    orphaned.orphans.insert(m(0, 3), orphan());
    assert_eq!(steps(&orphaned, State::Stop), [Action::MarkStopped(3)]);
    orphaned.stopped_incarnation = 3;
    assert_eq!(phases(&orphaned), [(m(0, 3), MemberPhase::Stopping, Reason::LeaseExpired)]);
}

#[test]
fn a_member_that_ended_keeps_its_end_and_its_pod_until_the_hub_drops_it() {
    let members = [m(0, 1), m(1, 1)];
    let mut ended =
        slice(wanted(1, Mode::Run, &members), Verdict::Bound, &[(m(0, 1), Phase::Succeeded), (m(1, 1), Phase::Failed)]);
    let told = [(m(0, 1), MemberPhase::Succeeded, Reason::None), (m(1, 1), MemberPhase::Failed, Reason::None)];
    assert_eq!(steps(&ended, State::Live), []);
    assert_eq!(steps(&ended, State::Kill), [], "what ended needs no lease");
    assert_eq!(phases(&ended), told);
    ended.ended = std::mem::take(&mut ended.pods);
    assert_eq!(phases(&ended), told, "garbage collection of the Site takes no end back");
    ended.pods = std::mem::take(&mut ended.ended);
    ended.wish = Wish::Wanted(wanted(2, Mode::Run, &[m(0, 1), m(1, 2)]));
    assert_eq!(steps(&ended, State::Live), [Action::DeletePod { member: m(1, 1), kill: false }]);
}

#[test]
fn without_a_lease_members_stop_then_die_and_are_lost_for_good() {
    let mut cut = slice(
        wanted(3, Mode::Run, &[m(0, 1), m(1, 3)]),
        Verdict::Bound,
        &[(m(0, 1), Phase::Ready), (m(1, 3), Phase::Starting)],
    );
    let delete = |kill| [Action::DeletePod { member: m(0, 1), kill }, Action::DeletePod { member: m(1, 3), kill }];
    assert_eq!(steps(&cut, State::Live), []);
    let stop = steps(&cut, State::Stop);
    assert_eq!(stop[0], Action::MarkStopped(3));
    assert_eq!(stop[1..], delete(false));
    cut.gang.as_mut().unwrap().stopped_incarnation = 3;
    assert_eq!(steps(&cut, State::Live), delete(false), "a lease that comes back too late changes nothing");
    for pod in cut.pods.values_mut() {
        pod.stopping = true;
    }
    assert_eq!(steps(&cut, State::Stop), []);
    assert_eq!(steps(&cut, State::Kill), delete(true));
    cut.pods.clear();
    assert_eq!(steps(&cut, State::Live), []);
    assert_eq!(
        phases(&cut),
        [(m(0, 1), MemberPhase::Lost, Reason::LeaseExpired), (m(1, 3), MemberPhase::Lost, Reason::LeaseExpired),]
    );
    cut.wish = Wish::Wanted(wanted(4, Mode::Run, &[m(0, 4), m(1, 4)]));
    assert_eq!(steps(&cut, State::Live), [Action::ApplyGang, Action::CreatePod(m(0, 4)), Action::CreatePod(m(1, 4))]);
}

#[test]
fn a_lease_that_ends_before_anything_started_stops_nothing() {
    let new = slice(wanted(1, Mode::Run, &[m(0, 1)]), Verdict::Pending, &[]);
    assert_eq!(steps(&new, State::Kill), []);
    assert_eq!(steps(&new, State::Live), [Action::CreatePod(m(0, 1))]);
}

#[test]
fn what_the_hub_has_not_named_yet_runs_on_within_its_lease_only() {
    let mut found = slice(wanted(1, Mode::Run, &[m(0, 1)]), Verdict::Bound, &[(m(0, 1), Phase::Ready)]);
    found.wish = Wish::Unsaid;
    assert_eq!(found.times(), Some(Times::from_seconds(TIMES.0, TIMES.1)));
    assert_eq!(steps(&found, State::Live), []);
    assert_eq!(report(&found), None);
    assert_eq!(steps(&found, State::Stop).len(), 2);
    assert_eq!(found.strangers().collect::<Vec<_>>(), [m(0, 1)]);
}

#[test]
fn a_dropped_slice_loses_its_pods_then_its_gang_then_is_gone() {
    let mut dropped = slice(
        wanted(1, Mode::Run, &[m(0, 1), m(1, 1)]),
        Verdict::Bound,
        &[(m(0, 1), Phase::Ready), (m(1, 1), Phase::Succeeded)],
    );
    dropped.wish = Wish::Dropped;
    assert_eq!(
        steps(&dropped, State::Live),
        [Action::DeletePod { member: m(0, 1), kill: false }, Action::DeletePod { member: m(1, 1), kill: false }]
    );
    assert_eq!(phases(&dropped), [(m(0, 1), MemberPhase::Stopping, Reason::None)]);
    dropped.pods.clear();
    assert_eq!(steps(&dropped, State::Live), [Action::DeleteGang]);
    assert!(!report(&dropped).unwrap().gone);
    dropped.gang = None;
    assert!(report(&dropped).unwrap().gone);
}

#[test]
fn slices_of_a_lower_epoch_or_an_older_generation_are_ignored() {
    let known = wanted(3, Mode::Run, &[]);
    for (epoch, generation, taken) in [(2, 9, false), (3, 2, false), (3, 3, true), (3, 4, true), (4, 1, true)] {
        assert_eq!(known.yields_to(epoch, generation), taken, "epoch {epoch}, generation {generation}");
    }
}

/// A Site with one slice; what the agent does to it is taken literally.
#[derive(Default)]
struct World {
    slice: Slice,
    namespace: Namespace,
    /// Members that were created once.
    created: BTreeSet<Member>,
    /// Members whose stop for want of a lease was marked.
    marked: u64,
}

impl World {
    fn act(&mut self, actions: &[Action], lease: State, may_start: bool, count: usize) {
        for action in actions.iter().take(count) {
            match action {
                Action::Furnish => self.namespace = Namespace::Furnished,
                Action::ApplyGang => {
                    assert!(may_start && lease == State::Live);
                    let Wish::Wanted(wanted) = self.slice.wish.clone() else { panic!("a gang for nothing") };
                    let stopped = self.slice.gang.as_ref().map_or(0, |gang| gang.stopped_incarnation);
                    self.slice.gang = Some(Gang { stopped_incarnation: stopped, ..gang(&wanted, Verdict::Pending) });
                }
                Action::MarkStopped(incarnation) => {
                    self.marked = self.marked.max(*incarnation);
                    if let Some(gang) = &mut self.slice.gang {
                        gang.stopped_incarnation = *incarnation;
                    }
                    self.slice.stopped_incarnation = *incarnation;
                }
                Action::CreatePod(member) => {
                    assert!(may_start && lease == State::Live, "started without leave");
                    assert!(self.slice.gang.is_some(), "a pod without its gang");
                    assert!(self.slice.present().all(|here| here.rank != member.rank), "rank {} twice", member.rank);
                    assert!(member.incarnation > self.marked, "{member:?} was stopped for good");
                    self.slice.pods.insert(*member, pod(Phase::Waiting));
                    self.slice.started.insert(*member);
                    self.created.insert(*member);
                }
                Action::DeletePod { member, kill } => {
                    let pod = self.slice.pods.get_mut(member).expect("a pod to delete");
                    pod.stopping = true;
                    pod.killed |= *kill;
                }
                Action::RemovePod(member) => drop(self.slice.pods.remove(member)),
                Action::DeleteGang => {
                    assert!(self.slice.present().next().is_none());
                    self.slice.gang = None;
                }
            }
        }
    }

    fn remove_stopping(&mut self) {
        self.slice.pods.retain(|_, pod| !pod.stopping);
    }
}

#[derive(Clone, Debug)]
enum Happening {
    /// The hub wants a new epoch for these ranks (others keep theirs), or drops the slice.
    Epoch {
        ranks: Vec<bool>,
        mode: Mode,
    },
    Drop,
    /// The agent acts, killed after so many steps.
    Act {
        lease: State,
        may_start: bool,
        steps: usize,
    },
    /// The agent starts again and knows only what the Site and the hub say.
    Restart,
    Progress {
        rank: u32,
        phase: Phase,
    },
    PodsEnd,
    Bound,
    /// Its pod goes, and with it everything of it or not.
    Evict {
        rank: u32,
        orphaned: bool,
    },
    OrphansEnd,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => (prop::collection::vec(any::<bool>(), 1..5), any::<bool>())
            .prop_map(|(ranks, run)| Happening::Epoch { ranks, mode: if run { Mode::Run } else { Mode::Hold } }),
        1 => Just(Happening::Drop),
        6 => (prop_oneof![4 => Just(State::Live), 1 => Just(State::Stop), 1 => Just(State::Kill)], prop::bool::weighted(0.8), 0usize..12)
            .prop_map(|(lease, may_start, steps)| Happening::Act { lease, may_start, steps }),
        1 => Just(Happening::Restart),
        3 => (0u32..5, prop_oneof![Just(Phase::Starting), Just(Phase::Ready), Just(Phase::Succeeded), Just(Phase::Failed)])
            .prop_map(|(rank, phase)| Happening::Progress { rank, phase }),
        2 => Just(Happening::PodsEnd),
        2 => Just(Happening::Bound),
        1 => (0u32..5, any::<bool>()).prop_map(|(rank, orphaned)| Happening::Evict { rank, orphaned }),
        1 => Just(Happening::OrphansEnd),
    ]
}

fn live(world: &mut World, epoch: &mut u64, happening: Happening) {
    match happening {
        Happening::Epoch { ranks, mode } => {
            *epoch += 1;
            let before = if let Wish::Wanted(wanted) = &world.slice.wish { wanted.members.clone() } else { Vec::new() };
            let members: Vec<Member> = ranks
                .iter()
                .zip(0u32..)
                .map(|(fresh, rank)| match before.iter().find(|placed| placed.member.rank == rank) {
                    Some(placed) if !fresh => placed.member,
                    _ => m(rank, *epoch),
                })
                .collect();
            world.slice.wish = Wish::Wanted(wanted(*epoch, mode, &members));
        }
        Happening::Drop => world.slice.wish = Wish::Dropped,
        Happening::Act { lease, may_start, steps } => {
            let none = BTreeSet::new();
            let around = Around { namespace: world.namespace, may_start, lease, elsewhere: &none };
            let actions = plan(&world.slice, &around);
            world.act(&actions, lease, may_start, steps);
        }
        Happening::Restart => {
            world.slice.started.clear();
            world.slice.ended.clear();
            world.slice.stopped_incarnation = 0;
            // A reconnected agent sees its pods before it may start anything.
            let here: Vec<Member> = world.slice.present().collect();
            world.slice.started.extend(here);
            if world.namespace == Namespace::Furnished {
                world.namespace = Namespace::Bare;
            }
        }
        Happening::Progress { rank, phase } => {
            for (_, pod) in world.slice.pods.iter_mut().filter(|(member, _)| member.rank == rank) {
                if !pod.phase.is_over() {
                    pod.phase = phase;
                }
            }
        }
        Happening::PodsEnd => world.remove_stopping(),
        Happening::Bound => {
            let pods = &world.slice.pods;
            let here = |gang: &&mut Gang| gang.members.iter().all(|placed| pods.contains_key(&placed.member));
            if let Some(gang) = world.slice.gang.as_mut().filter(here) {
                gang.verdict = Verdict::Bound;
                gang.bound = gang.members.iter().map(|placed| placed.member).collect();
            }
        }
        Happening::Evict { rank, orphaned } => {
            let gone: Vec<(Member, Pod)> = world.slice.pods.extract_if(.., |member, _| member.rank == rank).collect();
            for (member, pod) in gone.into_iter().filter(|_| orphaned) {
                if !pod.phase.is_over() {
                    world.slice.orphans.insert(member, orphan());
                }
            }
        }
        Happening::OrphansEnd => world.slice.orphans.clear(),
    }
}

proptest! {
    #[test]
    fn no_history_starts_what_it_must_not_and_all_come_to_rest(history in prop::collection::vec(happening(), 0..60)) {
        let mut world = World::default();
        let mut epoch = 0;
        for happening in history {
            live(&mut world, &mut epoch, happening);
        }
        let none = BTreeSet::new();
        world.slice.orphans.clear();
        let mut rounds = 0;
        loop {
            let around = Around { namespace: world.namespace, may_start: true, lease: State::Live, elsewhere: &none };
            let actions = plan(&world.slice, &around);
            if actions.is_empty() && world.slice.pods.values().all(|pod| !pod.stopping) {
                break;
            }
            world.act(&actions, State::Live, true, usize::MAX);
            world.remove_stopping();
            rounds += 1;
            prop_assert!(rounds < 10, "not at rest: {actions:?}");
        }
        match &world.slice.wish {
            Wish::Wanted(wanted) => {
                for member in world.slice.pods.keys() {
                    prop_assert!(wanted.names(*member));
                }
                for told in report(&world.slice).unwrap().members {
                    let here = world.slice.pods.contains_key(&told.member);
                    let never = wanted.mode == Mode::Hold && told.phase == MemberPhase::Pending;
                    prop_assert!(here || never || told.phase == MemberPhase::Lost, "{told:?}");
                }
            }
            Wish::Dropped => prop_assert!(world.slice.is_gone()),
            Wish::Unsaid => {}
        }
    }
}
