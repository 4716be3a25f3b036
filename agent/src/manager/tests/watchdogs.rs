//! What watchdogs say, and what it holds up.

use std::collections::BTreeSet;

use atoll_core::member::Placed;
use atoll_core::nodes::{Running, SILENCE};

use super::*;

fn s(seconds: u64) -> Duration {
    START + Duration::from_secs(seconds)
}

fn running(cluster: &str, member: Member) -> Running {
    Running { cluster_uid: format!("uid-{cluster}"), member, pod_uid: format!("{cluster}-{}", member.incarnation) }
}

/// A Site whose one node has a watchdog that was answered with a lease, in step with a hub that wants these slices.
fn watched(pods: &[(SliceId, Member)], wanted: &[(&str, i64)]) -> State {
    let mut state = begun(State::watched(), pods);
    state.grant(START);
    says(&mut state, pods.iter().map(|(id, member)| running(&id.cluster_uid[4..], *member)).collect(), START);
    state.answer("node", START);
    state.begin();
    for (cluster, incarnation) in wanted {
        state.hear(slice(cluster, *incarnation, &[*incarnation])).unwrap();
    }
    state.hear(HubEvent::Synced(wanted.iter().map(|(cluster, _)| id(cluster)).collect())).unwrap();
    for (id, member) in pods {
        state.decide(START, START);
        let members = vec![Placed { member: *member, node: "node".into() }];
        let gang = Some((2, Gang { members, ..gang(member.incarnation) }));
        state.applied(id, Outcome { furnished: true, gang, ..Outcome::default() });
    }
    state
}

fn says(state: &mut State, running: Vec<Running>, now: Duration) {
    state.ask("node", "boot", running, now);
}

fn vanish(state: &mut State, cluster: &str, member: Member, now: Duration) {
    state.observe(Observation::Pod(id(cluster), member, None), now);
}

/// What is to be done at `now`.
fn steps_at(state: &mut State, now: Duration) -> Vec<(SliceId, Vec<Action>)> {
    let tasks = state.decide(START, now).into_iter();
    tasks
        .map(|task| match task {
            Task::Apply { id, actions, .. } => (id, actions),
            Task::RemoveNamespace(uid) => panic!("namespace of {uid} removed"),
        })
        .collect()
}

fn told(state: &mut State, cluster: &str) -> Vec<MemberPhase> {
    last_report(state, &id(cluster)).map(|report| phases(&report)).unwrap_or_default()
}

#[test]
fn a_vanished_pod_is_held_until_its_watchdog_says_that_nothing_runs() {
    let mut state = watched(&[(id("a"), member(0, 1))], &[("a", 1)]);
    steps_at(&mut state, s(1));
    vanish(&mut state, "a", member(0, 1), s(2));
    assert_eq!(steps_at(&mut state, s(2)), []);
    assert_eq!(told(&mut state, "a"), [MemberPhase::Stopping]);
    state.hear(slice("a", 2, &[2])).unwrap();
    says(&mut state, vec![running("a", member(0, 1))], s(3));
    assert_eq!(steps_at(&mut state, s(3)), []);
    assert_eq!(state.to_kill("node"), ["a-1"]);
    says(&mut state, vec![], s(5));
    assert_eq!(steps_at(&mut state, s(5)), [], "it may have been sent before");
    assert_eq!(state.to_kill("node"), [""; 0]);
    says(&mut state, vec![], s(7));
    let steps = steps_at(&mut state, s(7));
    assert_eq!(steps[0].1.last(), Some(&Action::CreatePod(member(0, 2))));
    assert_eq!(told(&mut state, "a"), [MemberPhase::Pending]);
}

#[test]
fn a_vanished_pod_of_a_silent_node_is_held_until_its_lease_has_run_out() {
    let mut state = watched(&[(id("a"), member(0, 1))], &[("a", 1)]);
    steps_at(&mut state, s(1));
    vanish(&mut state, "a", member(0, 1), s(2));
    state.hear(HubEvent::Deleted(id("a"))).unwrap();
    let granted = s(80);
    state.decide(granted, s(91));
    assert_eq!(told(&mut state, "a"), [MemberPhase::Stopping]);
    assert_eq!(state.next_lease_change(granted, s(91)), Some(s(92)), "90 seconds since the answer, and 2 to kill");
    let tasks = state.decide(granted, s(92));
    assert!(matches!(&tasks[..], [Task::Apply { actions, .. }] if actions == &[Action::DeleteGang]), "{tasks:?}");
}

#[test]
fn a_pod_that_its_kubelet_says_has_ended_is_not_held() {
    let mut state = watched(&[(id("a"), member(0, 1))], &[("a", 1)]);
    state.observe(Observation::Pod(id("a"), member(0, 1), Some(pod(Phase::Lost))), s(1));
    vanish(&mut state, "a", member(0, 1), s(2));
    // Sent before.
    says(&mut state, vec![running("a", member(0, 1))], s(2));
    steps_at(&mut state, s(2));
    assert_eq!(told(&mut state, "a"), [MemberPhase::Lost]);
}

#[test]
fn a_pod_of_a_node_without_a_watchdog_is_not_held() {
    let mut state = watched(&[(id("a"), member(0, 1))], &[("a", 1)]);
    let elsewhere = Pod { node: Some("other".into()), ..pod(Phase::Ready) };
    state.observe(Observation::Pod(id("a"), member(0, 1), Some(elsewhere)), s(200));
    vanish(&mut state, "a", member(0, 1), s(201));
    state.decide(s(200), s(201));
    assert_eq!(told(&mut state, "a"), [MemberPhase::Lost]);
}

#[test]
fn nothing_is_killed_before_the_hub_has_said_what_it_lists() {
    let mut state = begun(State::watched(), &[]);
    says(&mut state, vec![running("unknown", member(0, 1))], START);
    assert_eq!(state.to_kill("node"), [""; 0]);
    state.begin();
    state.hear(slice("a", 1, &[1])).unwrap();
    state.hear(HubEvent::Synced(vec![id("a")])).unwrap();
    assert_eq!(state.to_kill("node"), ["unknown-1"]);
    assert_eq!(state.to_kill("another"), [""; 0]);
    assert_eq!(steps_at(&mut state, s(1)), [], "nothing starts beside it");
    state.hear(HubEvent::End).unwrap();
    assert_eq!(state.to_kill("node"), ["unknown-1"], "once said is said");
    state.begin();
    state.hear(HubEvent::Synced(vec![id("a")])).unwrap();
    says(&mut state, vec![], s(2));
    assert_eq!(steps_at(&mut state, s(2)).len(), 1);
}

#[test]
fn a_member_that_is_being_made_is_not_killed() {
    let mut state = watched(&[], &[("a", 1)]);
    let made = member(0, 1);
    assert_eq!(steps_at(&mut state, s(1))[0].1.last(), Some(&Action::CreatePod(made)));
    // Its pod is there and runs, and neither the answer nor the watch has said so yet; the answer never comes.
    says(&mut state, vec![running("a", made)], s(2));
    assert_eq!(state.to_kill("node"), [""; 0]);
    state.applied(&id("a"), Outcome { failed: Some("timed out".into()), ..Outcome::default() });
    assert_eq!(state.to_kill("node"), [""; 0]);
    state.hear(slice("a", 2, &[2])).unwrap();
    assert_eq!(state.to_kill("node"), ["a-1"], "until the hub does not name it any more");
}

#[test]
fn who_vanished_while_no_agent_watched_is_held_too() {
    let bound = Gang { members: vec![Placed { member: member(0, 1), node: "node".into() }], ..gang(1) };
    let restarted = || {
        let mut state = State::watched();
        state.observe(Observation::AllNamespaces(vec![("uid-a".into(), false)]), START);
        let gang = Gang { bound: [member(0, 1)].into(), ..bound.clone() };
        state.observe(Observation::AllGangs(vec![(id("a"), 1, gang)]), START);
        state.observe(Observation::AllPods(vec![]), START);
        state.begin();
        state.hear(slice("a", 2, &[2])).unwrap();
        state.hear(HubEvent::Synced(vec![id("a")])).unwrap();
        assert_eq!(steps_at(&mut state, START), []);
        assert_eq!(told(&mut state, "a"), [MemberPhase::Stopping, MemberPhase::Pending]);
        state
    };
    let mut state = restarted();
    says(&mut state, vec![], s(1));
    says(&mut state, vec![], s(3));
    assert_eq!(steps_at(&mut state, s(3)).len(), 1, "its watchdog says that it does not run");
    let mut state = restarted();
    state.grant(s(10));
    assert!(state.decide(s(90), s(101)).is_empty());
    assert_eq!(state.decide(s(90), s(102)).len(), 1, "no lease of an earlier agent can be left");
}

#[test]
fn who_runs_unseen_blocks_its_rank_and_is_reported() {
    let mut state = watched(&[], &[("a", 2)]);
    says(&mut state, vec![running("a", member(0, 1))], s(1));
    assert_eq!(steps_at(&mut state, s(1)), []);
    assert_eq!(told(&mut state, "a"), [MemberPhase::Stopping, MemberPhase::Pending]);
    assert_eq!(state.to_kill("node"), ["a-1"]);
    says(&mut state, vec![], s(3));
    says(&mut state, vec![], s(5));
    assert_eq!(steps_at(&mut state, s(5)).len(), 1);
}

#[test]
fn a_pod_on_a_lost_node_is_removed_when_nothing_of_it_runs() {
    let lost: BTreeSet<String> = ["node".to_owned()].into();
    let mut state = watched(&[(id("a"), member(0, 1))], &[("a", 1)]);
    steps_at(&mut state, s(1));
    state.set_lost(&lost, s(1));
    says(&mut state, vec![], s(2));
    says(&mut state, vec![], s(4));
    state.answer("node", s(4));
    assert!(state.decide(s(90), s(93)).is_empty(), "it may have ended well: its kubelet is to say so");
    assert_eq!(state.next_lease_change(s(90), s(93)), Some(s(96)));
    let tasks = state.decide(s(90), s(96));
    let remove = [Action::RemovePod(member(0, 1))];
    assert!(matches!(&tasks[..], [Task::Apply { actions, .. }] if actions == &remove), "{tasks:?}");
    assert_eq!(told(&mut state, "a"), [MemberPhase::Lost]);
    state.applied(&id("a"), Outcome { deleted: vec![(member(0, 1), true)], ..Outcome::default() });
    assert!(state.decide(s(90), s(97)).is_empty(), "once");
    vanish(&mut state, "a", member(0, 1), s(98));
    state.decide(s(98), s(98));
    assert_eq!(told(&mut state, "a"), [MemberPhase::Lost; 0], "it stays what it was");
}

#[test]
fn a_pod_that_is_stopping_on_a_lost_node_goes_with_its_watchdogs_word() {
    let mut state = watched(&[(id("a"), member(0, 1))], &[("a", 1)]);
    let stopping = Pod { stopping: true, ..pod(Phase::Starting) };
    state.observe(Observation::Pod(id("a"), member(0, 1), Some(stopping)), s(1));
    state.set_lost(&["node".to_owned()].into(), s(1));
    assert_eq!(steps_at(&mut state, s(1)), []);
    says(&mut state, vec![], s(2));
    says(&mut state, vec![], s(4));
    assert_eq!(steps_at(&mut state, s(4)), [(id("a"), vec![Action::RemovePod(member(0, 1))])]);
}

#[test]
fn which_nodes_have_a_watchdog_is_told_once() {
    let mut state = watched(&[], &[]);
    steps_at(&mut state, START);
    assert_eq!(state.take_watched(), Some(["node".to_owned()].into()));
    says(&mut state, vec![], s(20));
    steps_at(&mut state, s(20));
    assert_eq!(state.take_watched(), None);
    // One request missed is none.
    assert_eq!(state.next_lease_change(START, s(20)), Some(START + SILENCE));
    steps_at(&mut state, START + SILENCE);
    assert_eq!(state.take_watched(), None);
    steps_at(&mut state, s(20) + SILENCE);
    assert_eq!(state.take_watched(), Some(BTreeSet::new()));
}
