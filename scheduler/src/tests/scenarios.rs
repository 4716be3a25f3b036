use std::time::Duration;

use atoll_api::GangPhase;
use atoll_api::conditions::member_reason;
use atoll_core::scheduling::{Effect, Mode, Taint};

use super::world::{World, key, node};
use crate::cycle::{Action, Event, Outcome};
use crate::objects::{GangName, NotSupported, PodFacts};

const TWO: [(&str, i128, Option<&str>); 2] = [("m-0", 8, Some("b")), ("m-1", 8, Some("a"))];

#[test]
fn hold_run_bound_on_the_nodes_of_the_hub() {
    let mut world = World::new(&[("a", 8), ("b", 8), ("c", 8)]);
    world.set_gang("g", Mode::Hold, &TWO);
    world.settle_now();
    let status = world.status("g");
    assert_eq!(status.phase, Some(GangPhase::Reserved));
    assert_eq!(status.hold_until.unwrap().0.as_second(), 1_000_015);
    assert_eq!(world.nodes_of("g"), ["b", "a"]);
    world.now += Duration::from_secs(5);
    world.set_mode("g", Mode::Run);
    world.settle_now();
    world.now += Duration::from_mins(1);
    world.create_pod("m-0", 8, Some("g"));
    world.settle_now();
    assert_eq!(world.node_of("m-0"), None, "not before all pods are there");
    world.create_pod("m-1", 8, Some("g"));
    world.settle_now();
    assert_eq!((world.node_of("m-0"), world.node_of("m-1")), (Some("b"), Some("a")));
    let status = world.status("g");
    assert_eq!((status.phase, status.hold_until, status.observed_generation), (Some(GangPhase::Bound), None, Some(2)));
    assert_eq!(world.refusals(), 0);
}

#[test]
fn run_holds_from_its_first_sight_and_binds_as_soon_as_the_pods_are_there() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Run, &TWO);
    world.settle_now();
    assert_eq!(world.phase("g"), None, "nothing to say yet");
    world.create_pod("other", 1, None);
    world.settle_now();
    assert_eq!(world.node_of("other"), None, "the room is taken");
    world.create_pods_of("g");
    world.settle_now();
    assert_eq!(world.phase("g"), Some(GangPhase::Bound));
}

#[test]
fn a_hold_expires_and_its_room_goes_to_who_waits() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Hold, &TWO);
    world.settle_now();
    world.set_gang("later", Mode::Run, &[("l-0", 8, None)]);
    world.create_pods_of("later");
    world.settle_now();
    assert_eq!(world.status("later").reason.as_deref(), Some(member_reason::INSUFFICIENT_CAPACITY));
    world.settle();
    let status = world.status("g");
    assert_eq!(status.reason.as_deref(), Some(member_reason::RESERVATION_EXPIRED));
    assert_eq!((status.phase, status.hold_until, status.nodes.len()), (Some(GangPhase::Refused), None, 0));
    assert_eq!(world.phase("later"), Some(GangPhase::Bound));
    assert_eq!(world.refusals(), 2, "one event for each refusal");
}

#[test]
fn a_refusal_says_why_and_in_run_is_taken_back_when_room_comes() {
    let mut world = World::new(&[("a", 4)]);
    world.set_gang("g", Mode::Run, &[("m-0", 8, Some("a"))]);
    world.create_pods_of("g");
    world.settle_now();
    let status = world.status("g");
    assert_eq!(status.phase, Some(GangPhase::Refused));
    assert_eq!(
        status.message.unwrap(),
        "needs 8 nvidia.com/gpu on one node; 0 of 1 nodes have room: 1 has too little nvidia.com/gpu in all; most free on \
         one node: 4 nvidia.com/gpu"
    );
    world.set_node(node("b", 8));
    world.settle_now();
    assert_eq!((world.phase("g"), world.node_of("m-0")), (Some(GangPhase::Bound), Some("b")));
}

#[test]
fn a_refused_hold_stays_refused_until_its_spec_changes() {
    let mut world = World::new(&[("a", 4)]);
    world.set_gang("g", Mode::Hold, &[("m-0", 8, None)]);
    world.settle_now();
    assert_eq!(world.phase("g"), Some(GangPhase::Refused));
    world.set_node(node("b", 8));
    world.settle_now();
    assert_eq!(world.phase("g"), Some(GangPhase::Refused), "who asked has gone elsewhere");
    world.set_gang("g", Mode::Hold, &[("n-0", 8, None)]);
    world.settle_now();
    assert_eq!(world.phase("g"), Some(GangPhase::Reserved));
}

#[test]
fn growth_decides_only_the_new_members_and_shrinking_forgets() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Run, &[("m-0", 4, Some("a"))]);
    world.create_pods_of("g");
    world.settle_now();
    world.set_gang("g", Mode::Hold, &[("m-0", 4, Some("a")), ("m-1", 8, Some("b"))]);
    world.settle_now();
    assert_eq!((world.phase("g"), world.nodes_of("g")), (Some(GangPhase::Reserved), vec!["a".into(), "b".into()]));
    world.settle();
    assert_eq!((world.phase("g"), world.nodes_of("g")), (Some(GangPhase::Refused), vec!["a".into()]));
    world.set_mode("g", Mode::Run);
    world.create_pods_of("g");
    world.settle_now();
    assert_eq!((world.phase("g"), world.nodes_of("g")), (Some(GangPhase::Bound), vec!["a".into(), "b".into()]));
    world.set_gang("g", Mode::Run, &[("m-1", 8, Some("b"))]);
    world.settle_now();
    assert_eq!((world.phase("g"), world.nodes_of("g")), (Some(GangPhase::Bound), vec!["b".into()]));
}

#[test]
fn a_lost_member_is_not_new_also_after_a_restart() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Run, &TWO);
    world.create_pods_of("g");
    world.settle_now();
    world.delete_pod("m-0");
    world.settle_now();
    for _ in 0..2 {
        assert_eq!(world.phase("g"), Some(GangPhase::Bound));
        assert_eq!(world.scheduler.cache().holds_in_all(), 0);
        world.restart();
        world.settle_now();
    }
}

#[test]
fn holds_outlive_a_kill_and_nothing_is_decided_before_them() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Hold, &TWO);
    world.settle_now();
    world.create_pod("eager", 1, None);
    world.restart();
    world.settle_now();
    assert_eq!(world.node_of("eager"), None);
    world.set_mode("g", Mode::Run);
    world.restart();
    world.now += Duration::from_mins(1);
    world.create_pods_of("g");
    world.settle_now();
    assert_eq!(world.phase("g"), Some(GangPhase::Bound));
}

#[test]
fn a_gang_that_was_killed_half_bound_is_completed_before_older_work() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.create_pod("older", 8, None);
    let older = world.pods[&key("older")].clone();
    world.inbox.clear();
    world.set_pod(PodFacts { gated: true, ..older.clone() });
    world.now += Duration::from_secs(5);
    world.set_gang("g", Mode::Run, &TWO);
    world.create_pods_of("g");
    while world.hear() {}
    world.turn();
    world.act(1, false);
    world.set_pod(older);
    world.restart();
    world.settle();
    assert_eq!((world.phase("g"), world.node_of("older")), (Some(GangPhase::Bound), None));
}

#[test]
fn a_hold_that_was_given_up_unsaid_gives_way_to_a_half_bound_gang() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("early", Mode::Hold, &[("e-0", 8, Some("a"))]);
    world.settle_now();
    world.set_gang("g", Mode::Run, &TWO);
    world.create_pods_of("g");
    world.settle_now();
    world.now += Duration::from_secs(20);
    assert_eq!((world.turn(), world.turn()), (Some(Outcome::Expired), Some(Outcome::Binding)));
    let bind = world.outbox.iter().position(|action| matches!(action, Action::Bind(_))).unwrap();
    world.act(bind, false);
    world.set_mode("early", Mode::Run);
    world.restart();
    world.settle();
    assert_eq!((world.phase("g"), world.phase("early")), (Some(GangPhase::Bound), Some(GangPhase::Refused)));
}

#[test]
fn a_hold_that_ran_out_while_nobody_was_there_is_ended() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Hold, &TWO);
    world.settle_now();
    world.now += Duration::from_secs(20);
    world.restart();
    world.settle_now();
    assert_eq!(world.status("g").reason.as_deref(), Some(member_reason::RESERVATION_EXPIRED));
    assert_eq!(world.scheduler.cache().holds_in_all(), 0);
}

#[test]
fn a_failed_binding_is_tried_again_and_nobody_takes_its_room() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Run, &TWO);
    world.create_pods_of("g");
    world.create_pod("eager", 1, None);
    while world.hear() {}
    world.turn();
    world.act(0, true);
    world.settle_now();
    assert_eq!(world.node_of("m-0"), None);
    assert_eq!(world.node_of("eager"), None);
    assert_eq!(world.phase("g"), None, "half-bound is not a state to report at once");
    world.settle();
    assert_eq!((world.phase("g"), world.node_of("m-0")), (Some(GangPhase::Bound), Some("b")));
}

#[test]
fn a_half_bound_gang_that_cannot_be_completed_says_so_after_a_while() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Run, &TWO);
    world.create_pods_of("g");
    while world.hear() {}
    world.turn();
    world.act(0, true);
    let mut cordoned = node("b", 8);
    cordoned.unschedulable = true;
    world.set_node(cordoned);
    world.settle_now();
    assert_eq!(world.phase("g"), None);
    world.settle();
    let status = world.status("g");
    assert_eq!(status.phase, Some(GangPhase::Refused));
    assert!(status.message.unwrap().starts_with("1 of 2 members are bound; needs 8 nvidia.com/gpu"));
    world.set_node(node("b", 8));
    world.settle();
    assert_eq!(world.phase("g"), Some(GangPhase::Bound));
}

#[test]
fn held_room_moves_when_its_node_is_cordoned_and_is_refused_when_there_is_no_other() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Hold, &[("m-0", 8, Some("a"))]);
    world.settle_now();
    let until = world.status("g").hold_until;
    let mut cordoned = node("a", 8);
    cordoned.unschedulable = true;
    world.set_node(cordoned);
    world.settle_now();
    assert_eq!((world.phase("g"), world.nodes_of("g")), (Some(GangPhase::Reserved), vec!["b".into()]));
    assert_eq!(world.status("g").hold_until, until, "not longer than announced");
    let mut full = node("b", 8);
    full.taints.push(Taint {
        key: "node.kubernetes.io/not-ready".to_owned(),
        value: String::new(),
        effect: Effect::NoSchedule,
    });
    world.set_node(full);
    world.settle_now();
    assert_eq!(world.phase("g"), Some(GangPhase::Refused));
}

#[test]
fn pods_of_other_schedulers_count_and_push_holds_away() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_gang("g", Mode::Hold, &[("m-0", 8, Some("a"))]);
    world.settle_now();
    world.create_pod("theirs", 2, None);
    let theirs = world.pods.get(&key("theirs")).cloned().unwrap();
    world.inbox.clear();
    world.set_pod(PodFacts { ours: false, node: Some("a".into()), ..theirs });
    world.settle_now();
    assert_eq!(world.nodes_of("g"), ["b"]);
}

#[test]
fn single_pods_are_bound_alone_or_told_why_not() {
    let mut world = World::new(&[("a", 8)]);
    world.create_pod("small", 3, None);
    world.create_pod("tall", 6, None);
    world.settle();
    assert_eq!(world.node_of("small"), Some("a"));
    assert!(world.pods[&key("tall")].unschedulable.as_ref().unwrap().starts_with("needs 6 nvidia.com/gpu on one node"));
    world.delete_pod("small");
    world.settle();
    assert_eq!(world.node_of("tall"), Some("a"));
}

#[test]
fn only_own_pods_that_may_be_scheduled_are_touched() {
    let mut world = World::new(&[("a", 80)]);
    let mut changed = Vec::new();
    for (name, change) in [
        ("other-scheduler", (|p| p.ours = false) as fn(&mut PodFacts)),
        ("gated", |p| p.gated = true),
        ("deleting", |p| p.deleting = true),
        ("finished", |p| p.finished = true),
    ] {
        world.create_pod(name, 1, None);
        let mut pod = world.pods[&key(name)].clone();
        change(&mut pod);
        changed.push(pod);
    }
    world.inbox.clear();
    for pod in changed {
        world.set_pod(pod);
    }
    world.settle();
    assert!(world.pods.values().all(|pod| pod.node.is_none() && pod.unschedulable.is_none()));
    let gated = world.pods[&key("gated")].clone();
    world.set_pod(PodFacts { gated: false, ..gated });
    world.settle();
    assert_eq!(world.node_of("gated"), Some("a"));
}

#[test]
fn what_is_not_supported_is_refused_with_its_name() {
    let mut world = World::new(&[("a", 8)]);
    world.create_pod("p", 1, None);
    let mut pod = world.pods[&key("p")].clone();
    pod.not_supported = Some(NotSupported::Features(vec!["pod affinity"]));
    world.inbox.clear();
    world.set_pod(pod.clone());
    world.set_gang("g", Mode::Run, &[("m", 1, None)]);
    world.set_pod(PodFacts { key: key("m"), gang: Some(GangName::Object("g".to_owned())), ..pod });
    world.settle();
    let why = "the pod uses what atoll-scheduler does not support: pod affinity";
    assert_eq!(world.pods[&key("p")].unschedulable.as_deref(), Some(why));
    let status = world.status("g");
    assert_eq!(status.reason.as_deref(), Some(member_reason::POD_REFUSED));
    assert_eq!(status.message.unwrap(), format!("pod m: {why}"));
    assert_eq!(world.scheduler.cache().holds_in_all(), 0);
}

#[test]
fn a_gang_made_anew_under_its_name_is_another_one() {
    let mut world = World::new(&[("a", 8)]);
    world.set_gang("g", Mode::Hold, &[("m-0", 8, None)]);
    world.settle_now();
    world.delete_gang("g");
    world.inbox.clear();
    world.set_gang("g", Mode::Hold, &[("n-0", 8, None)]);
    world.settle_now();
    assert_eq!((world.phase("g"), world.nodes_of("g")), (Some(GangPhase::Reserved), vec!["a".into()]));
    assert_eq!(world.scheduler.cache().holds_in_all(), 1);
}

#[test]
fn a_gang_made_anew_has_no_part_in_the_bindings_of_the_one_before() {
    let mut world = World::new(&[("a", 8)]);
    world.set_gang("g", Mode::Run, &[("m-0", 8, None)]);
    world.create_pods_of("g");
    while world.hear() {}
    assert_eq!(world.turn(), Some(Outcome::Binding));
    let Action::Bind(binding) = world.outbox.remove(0) else { panic!("a binding") };
    world.delete_pod("m-0");
    world.delete_gang("g");
    world.set_gang("g", Mode::Run, &[("m-0", 8, None)]);
    while world.hear() {}
    world.scheduler.handle(Event::Bound(binding), world.now);
    world.settle_now();
    assert_eq!(world.phase("g"), None, "its pod is still to come");
    world.create_pods_of("g");
    world.settle_now();
    assert_eq!((world.phase("g"), world.node_of("m-0")), (Some(GangPhase::Bound), Some("a")));
}

#[test]
fn deleting_a_gang_gives_its_room_back() {
    let mut world = World::new(&[("a", 8)]);
    world.set_gang("g", Mode::Hold, &[("m-0", 8, None)]);
    world.settle_now();
    world.create_pod("p", 8, None);
    world.settle_now();
    assert_eq!(world.node_of("p"), None);
    world.delete_gang("g");
    world.settle_now();
    assert_eq!(world.node_of("p"), Some("a"));
}

#[test]
fn nothing_is_written_twice() {
    let mut world = World::new(&[("a", 8)]);
    world.set_gang("g", Mode::Run, &[("m-0", 8, None)]);
    world.create_pods_of("g");
    world.create_pod("p", 8, None);
    world.settle();
    world.scheduler.handle(Event::Node(Box::new(node("z", 0))), world.now);
    world.set_mode("g", Mode::Run);
    let mut writes = Vec::new();
    while let Some(attempt) = world.scheduler.attempt(world.now) {
        writes.extend(attempt.actions);
    }
    assert!(writes.iter().all(|action| matches!(action, Action::Unschedulable { event: false, .. })), "{writes:?}");
}
