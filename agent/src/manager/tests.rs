//! The manager's state against a Site that does what it is told.

mod watchdogs;

use atoll_core::lease::Times;
use atoll_core::member::{Action, Gang, Member, MemberPhase, Mode, Phase, Pod, Reason, Report, Reservation, Verdict};
use serde_json::json;

use super::state::{State, Task};
use super::*;
use crate::inventory::Ailing;
use crate::runtime::{Observation, Outcome};

const START: Duration = Duration::from_secs(1000);

fn id(cluster: &str) -> SliceId {
    SliceId { cluster_uid: format!("uid-{cluster}"), namespace: "team".into(), name: format!("{cluster}-0") }
}

fn slice(cluster: &str, epoch: i64, incarnations: &[i64]) -> HubEvent {
    let members: Vec<_> = incarnations
        .iter()
        .enumerate()
        .map(|(rank, incarnation)| json!({"rank": rank, "node": "node", "incarnation": incarnation}))
        .collect();
    let spec = json!({
        "site": "site-a", "cluster": cluster, "clusterUid": format!("uid-{cluster}"), "epoch": epoch, "term": 1,
        "phase": "Run", "type": "Pods", "gpus": 1, "members": members,
        "rendezvous": {"worldSize": incarnations.len(), "leaderIncarnation": 1},
        "fence": {"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120},
        "template": {"spec": {"containers": [{"name": "main", "image": "x"}]}},
    });
    HubEvent::Slice { id: id(cluster), generation: epoch, spec_json: spec.to_string().into_bytes() }
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

fn member(rank: u32, incarnation: u64) -> Member {
    Member { rank, incarnation }
}

fn gang(epoch: u64) -> Gang {
    Gang {
        epoch,
        mode: Mode::Run,
        members: Vec::new(),
        times: Times::from_seconds(60, 90),
        verdict: Verdict::Bound,
        reason: None,
        message: None,
        bound: [].into(),
        stopped_incarnation: 0,
        stopping: false,
    }
}

/// A Site that holds these pods, and an agent that has just listed them.
fn started(pods: &[(SliceId, Member)]) -> State {
    begun(State::default(), pods)
}

fn begun(mut state: State, pods: &[(SliceId, Member)]) -> State {
    let mut gangs: Vec<_> = pods.iter().map(|(id, member)| (id.clone(), 1, gang(member.incarnation))).collect();
    gangs.dedup_by(|a, b| a.0 == b.0);
    state.observe(
        Observation::AllNamespaces(gangs.iter().map(|(id, _, _)| (id.cluster_uid.clone(), false)).collect()),
        START,
    );
    state.observe(Observation::AllGangs(gangs), START);
    assert!(!state.is_listed());
    state.observe(
        Observation::AllPods(pods.iter().map(|(id, member)| (id.clone(), *member, pod(Phase::Ready))).collect()),
        START,
    );
    assert!(state.is_listed());
    state
}

fn applies(state: &mut State) -> Vec<(SliceId, Vec<Action>)> {
    let tasks = state.decide(START, START);
    tasks
        .into_iter()
        .map(|task| match task {
            Task::Apply { id, actions, .. } => (id, actions),
            Task::RemoveNamespace(uid) => panic!("namespace of {uid} removed"),
        })
        .collect()
}

fn last_report(state: &mut State, id: &SliceId) -> Option<Report> {
    state.take_reports().into_iter().rev().find(|(of, _)| of == id).map(|(_, report)| report)
}

fn phases(report: &Report) -> Vec<MemberPhase> {
    report.members.iter().map(|member| member.phase).collect()
}

#[test]
fn nothing_starts_before_the_hub_has_said_everything() {
    let mut state = started(&[]);
    state.begin();
    state.hear(slice("a", 1, &[1, 1])).unwrap();
    assert_eq!(applies(&mut state), []);
    assert_eq!(phases(&last_report(&mut state, &id("a")).unwrap()), [MemberPhase::Pending; 2]);
    state.hear(HubEvent::Synced(vec![id("a")])).unwrap();
    let all = [Action::Furnish, Action::ApplyGang, Action::CreatePod(member(0, 1)), Action::CreatePod(member(1, 1))];
    assert_eq!(applies(&mut state), [(id("a"), all.to_vec())]);
    assert_eq!(applies(&mut state), [], "one round at a time");
    state.hear(HubEvent::End).unwrap();
    state.hear(slice("b", 1, &[1])).unwrap();
    assert_eq!(applies(&mut state), [], "not without a session either");
}

#[test]
fn what_the_hub_does_not_name_is_gone_before_anything_starts() {
    let mut state = started(&[(id("old"), member(0, 1)), (id("kept"), member(0, 1)), (id("kept"), member(1, 1))]);
    state.begin();
    assert_eq!(state.held().len(), 2);
    assert!(state.held().iter().all(|held| held.digest.is_empty()));
    for event in [slice("kept", 2, &[1, 2]), slice("new", 1, &[1]), HubEvent::Synced(vec![id("kept"), id("new")])] {
        state.hear(event).unwrap();
    }
    let stops = applies(&mut state);
    assert_eq!(
        stops,
        [
            (id("kept"), vec![Action::DeletePod { member: member(1, 1), kill: false }]),
            (id("old"), vec![Action::DeletePod { member: member(0, 1), kill: false }]),
        ]
    );
    for (id, _) in stops {
        let deleted = vec![(member(u32::from(id.name == "kept-0"), 1), false)];
        assert!(state.applied(&id, Outcome { deleted, ..Outcome::default() }));
    }
    assert_eq!(applies(&mut state), []);
    state.observe(Observation::Pod(id("old"), member(0, 1), None), START);
    assert_eq!(applies(&mut state), [(id("old"), vec![Action::DeleteGang])], "one stranger is left");
    state.observe(Observation::Pod(id("kept"), member(1, 1), None), START);
    let started: Vec<SliceId> = applies(&mut state).into_iter().map(|(id, _)| id).collect();
    assert_eq!(started, [id("kept"), id("new")]);
}

#[test]
fn a_slice_that_is_being_deleted_does_not_hold_up_others() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    state.begin();
    for event in [slice("a", 1, &[1]), HubEvent::Synced(vec![id("a")])] {
        state.hear(event).unwrap();
    }
    for (id, _) in applies(&mut state) {
        state.applied(&id, Outcome { furnished: true, gang: Some((2, gang(1))), ..Outcome::default() });
    }
    state.hear(HubEvent::Deleted(id("a"))).unwrap();
    state.hear(slice("b", 1, &[1])).unwrap();
    let tasks = applies(&mut state);
    assert_eq!(tasks.len(), 2);
    assert_eq!(tasks[1].1.len(), 3, "b starts");
}

#[test]
fn members_that_were_created_are_there_until_the_watch_says_they_are_gone() {
    let mut state = started(&[]);
    state.begin();
    for event in [slice("a", 1, &[1, 1]), HubEvent::Synced(vec![id("a")])] {
        state.hear(event).unwrap();
    }
    applies(&mut state);
    let created = vec![member(0, 1), member(1, 1)];
    let made = Gang { members: vec![], ..gang(1) };
    assert!(state.applied(&id("a"), Outcome { furnished: true, created, gang: Some((5, made)), ..Outcome::default() }));
    // A list from before the creation.
    state.observe(Observation::AllPods(vec![(id("a"), member(0, 1), pod(Phase::Ready))]), START);
    state.decide(START, START);
    assert_eq!(phases(&last_report(&mut state, &id("a")).unwrap()), [MemberPhase::Ready, MemberPhase::Pending]);
    state.observe(Observation::Pod(id("a"), member(1, 1), Some(pod(Phase::Starting))), START);
    state.observe(Observation::AllPods(vec![(id("a"), member(0, 1), pod(Phase::Ready))]), START);
    state.decide(START, START);
    assert_eq!(phases(&last_report(&mut state, &id("a")).unwrap()), [MemberPhase::Ready, MemberPhase::Lost]);
}

#[test]
fn an_answer_that_is_older_than_the_watch_changes_nothing() {
    let mut state = started(&[]);
    state.begin();
    for event in [slice("a", 1, &[1]), HubEvent::Synced(vec![id("a")])] {
        state.hear(event).unwrap();
    }
    applies(&mut state);
    let members = vec![atoll_core::member::Placed { member: member(0, 1), node: "node".into() }];
    let bound = Gang { members: members.clone(), ..gang(1) };
    state.observe(Observation::Gang(id("a"), 9, Some(bound)), START);
    let older = Gang { members, verdict: Verdict::Pending, ..gang(1) };
    state.applied(&id("a"), Outcome { gang: Some((8, older)), ..Outcome::default() });
    state.decide(START, START);
    assert_eq!(last_report(&mut state, &id("a")).unwrap().reservation, Reservation::Reserved);
}

#[test]
fn older_epochs_are_refused_also_after_a_restart() {
    let mut state = started(&[(id("a"), member(0, 3))]);
    state.begin();
    assert!(state.hear(slice("a", 2, &[2])).is_err());
    state.hear(slice("a", 3, &[3])).unwrap();
    assert!(state.hear(slice("a", 2, &[2])).is_err());
    assert!(!state.held()[0].digest.is_empty());
}

#[test]
fn a_deleted_slice_is_told_gone_once_and_its_namespace_goes_with_the_last() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    state.begin();
    for event in [slice("a", 1, &[1]), HubEvent::Synced(vec![id("a")]), HubEvent::Deleted(id("a"))] {
        state.hear(event).unwrap();
    }
    assert_eq!(applies(&mut state), [(id("a"), vec![Action::DeletePod { member: member(0, 1), kill: false }])]);
    state.applied(&id("a"), Outcome { deleted: vec![(member(0, 1), false)], ..Outcome::default() });
    state.observe(Observation::Pod(id("a"), member(0, 1), None), START);
    assert_eq!(applies(&mut state), [(id("a"), vec![Action::DeleteGang])]);
    state.applied(&id("a"), Outcome { gang_deleted: true, ..Outcome::default() });
    state.observe(Observation::Gang(id("a"), 7, None), START);
    let tasks = state.decide(START, START);
    assert!(matches!(tasks.as_slice(), [Task::RemoveNamespace(uid)] if uid == "uid-a"), "{tasks:?}");
    assert!(last_report(&mut state, &id("a")).unwrap().gone);
    assert!(state.held().is_empty());
    // While the namespace goes, nothing new is put into it.
    state.hear(slice("a", 2, &[2])).unwrap();
    assert_eq!(applies(&mut state), []);
    state.observe(Observation::Namespace("uid-a".into(), None), START);
    assert_eq!(applies(&mut state)[0].1[0], Action::Furnish);
    // A slice that is not here is gone at once.
    state.hear(HubEvent::Deleted(id("z"))).unwrap();
    state.decide(START, START);
    assert!(last_report(&mut state, &id("z")).unwrap().gone);
}

#[test]
fn members_found_without_a_hub_live_as_long_as_their_gang_remembers() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    assert_eq!(state.next_lease_change(START, START), Some(START + Duration::from_mins(1)));
    assert!(state.decide(START, START + Duration::from_secs(59)).is_empty());
    let tasks = state.decide(START, START + Duration::from_mins(1));
    let [Task::Apply { actions, remember, .. }] = tasks.as_slice() else { panic!("{tasks:?}") };
    assert_eq!(*remember, 1);
    assert_eq!(actions, &[Action::MarkStopped(1), Action::DeletePod { member: member(0, 1), kill: false }]);
    state.applied(&id("a"), Outcome { deleted: vec![(member(0, 1), false)], ..Outcome::default() });
    assert!(state.decide(START, START + Duration::from_secs(89)).is_empty());
    let tasks = state.decide(START, START + Duration::from_secs(90));
    let [Task::Apply { actions, .. }] = tasks.as_slice() else { panic!("{tasks:?}") };
    assert_eq!(actions, &[Action::DeletePod { member: member(0, 1), kill: true }]);
}

#[test]
fn what_the_site_refuses_is_told_and_not_tried_again() {
    let mut state = started(&[]);
    state.begin();
    for event in [slice("a", 1, &[1]), HubEvent::Synced(vec![id("a")])] {
        state.hear(event).unwrap();
    }
    assert_eq!(applies(&mut state).len(), 1);
    let refused = Some("exceeded quota".to_owned());
    assert!(state.applied(&id("a"), Outcome { furnished: true, refused, ..Outcome::default() }));
    assert_eq!(applies(&mut state), []);
    let report = last_report(&mut state, &id("a")).unwrap();
    assert_eq!((report.reservation, report.message.as_str()), (Reservation::Refused, "exceeded quota"));
    state.hear(slice("a", 2, &[2])).unwrap();
    assert_eq!(applies(&mut state).len(), 1, "a new epoch is a new attempt");
}

#[test]
fn what_failed_waits_for_its_retry_but_a_lease_that_ends_does_not_wait() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    state.begin();
    for event in [slice("a", 2, &[1, 2]), HubEvent::Synced(vec![id("a")])] {
        state.hear(event).unwrap();
    }
    assert_eq!(applies(&mut state).len(), 1);
    assert!(!state.applied(&id("a"), Outcome { failed: Some("unreachable".into()), ..Outcome::default() }));
    assert_eq!(applies(&mut state), []);
    state.retry(&id("a"));
    assert_eq!(applies(&mut state).len(), 1);
    assert!(!state.applied(&id("a"), Outcome { failed: Some("unreachable".into()), ..Outcome::default() }));
    assert_eq!(state.decide(START, START + Duration::from_mins(1)).len(), 1);
}

#[test]
fn how_a_member_ended_stays_so_when_its_pod_is_deleted() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    state.begin();
    state.hear(slice("a", 1, &[1])).unwrap();
    state.observe(Observation::Pod(id("a"), member(0, 1), Some(pod(Phase::Failed))), START);
    state.observe(Observation::Pod(id("a"), member(0, 1), Some(Pod { stopping: true, ..pod(Phase::Lost) })), START);
    state.observe(Observation::Pod(id("a"), member(0, 1), None), START);
    state.decide(START, START);
    assert_eq!(phases(&last_report(&mut state, &id("a")).unwrap()), [MemberPhase::Failed]);
}

#[test]
fn members_on_unhealthy_gpus_are_reported_while_they_run_and_when_they_fail_of_it() {
    let ailing = |cluster: &str| -> Arc<Ailing> {
        let key = (id(cluster).site_namespace(), member(0, 1));
        Arc::new([(key, "GPU-7 is Unhealthy, RowRemapFailed: replace it".to_owned())].into())
    };
    let told = |state: &mut State| {
        state.decide(START, START);
        let mut reports = state.take_reports();
        reports.pop().map(|(_, report)| {
            let member = &report.members[0];
            (member.phase, member.reason.clone(), member.message.clone())
        })
    };
    let what = "GPU-7 is Unhealthy, RowRemapFailed: replace it".to_owned();
    let mut state = started(&[(id("a"), member(0, 1))]);
    state.begin();
    for event in [slice("a", 1, &[1]), HubEvent::Synced(vec![id("a")])] {
        state.hear(event).unwrap();
    }
    assert_eq!(told(&mut state), Some((MemberPhase::Ready, Reason::None, String::new())));
    state.set_ailing(ailing("other"));
    assert_eq!(told(&mut state), None, "somebody else's");
    state.set_ailing(ailing("a"));
    assert_eq!(told(&mut state), Some((MemberPhase::Ready, Reason::GpuUnhealthy, what.clone())));
    state.set_ailing(Arc::default());
    assert_eq!(told(&mut state), Some((MemberPhase::Ready, Reason::None, String::new())), "it recovered");
    state.set_ailing(ailing("a"));
    state.observe(
        Observation::Pod(
            id("a"),
            member(0, 1),
            Some(Pod {
                reason: Some("ContainersFailed".into()),
                message: Some("exit code 1".into()),
                ..pod(Phase::Failed)
            }),
        ),
        START,
    );
    state.set_ailing(Arc::default());
    state.observe(Observation::Pod(id("a"), member(0, 1), None), START);
    let failed = Reason::Site("ContainersFailed".into());
    assert_eq!(told(&mut state), Some((MemberPhase::Failed, failed, format!("exit code 1; {what}"))));
}

#[test]
fn a_pod_that_is_seen_after_its_gpu_fell_sick_is_reported_too() {
    let mut state = started(&[]);
    let key = (id("a").site_namespace(), member(0, 1));
    state.set_ailing(Arc::new([(key, "GPU-7 is Unhealthy".to_owned())].into()));
    state.begin();
    state.hear(slice("a", 1, &[1])).unwrap();
    state.observe(Observation::Pod(id("a"), member(0, 1), Some(pod(Phase::Ready))), START);
    state.decide(START, START);
    assert_eq!(last_report(&mut state, &id("a")).unwrap().members[0].reason, Reason::GpuUnhealthy);
}

#[test]
fn everything_is_reported_anew_in_a_new_session_and_nothing_twice_in_one() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    state.begin();
    for event in [slice("a", 1, &[1]), HubEvent::Synced(vec![id("a")])] {
        state.hear(event).unwrap();
    }
    state.decide(START, START);
    assert_eq!(state.take_reports().len(), 1);
    state.observe(Observation::Pod(id("a"), member(0, 1), Some(pod(Phase::Ready))), START);
    state.decide(START, START);
    assert_eq!(state.take_reports().len(), 0);
    state.begin();
    state.decide(START, START);
    assert_eq!(state.take_reports().len(), 1);
}
