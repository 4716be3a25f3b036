//! Making room for higher priorities.

use std::time::Duration;

use atoll_core::scheduling::{Operator, Requirement, Selector};

use super::world::{World, key, node};
use crate::cycle::{Action, Event, ObjectKind, Outcome};
use crate::objects::{BudgetFacts, GangName, PodFacts};

/// A pod of this priority.
fn create(world: &mut World, name: &str, gpus: i128, priority: i32) {
    let pod = world.pod(name, gpus);
    world.set_pod(PodFacts { priority, ..pod });
}

fn create_gang(world: &mut World, gang: &str, size: u32, gpus: i128, priority: i32) {
    for rank in 0..size {
        let pod = world.pod(&format!("{gang}-{rank}"), gpus);
        let name = GangName::Label { name: gang.to_owned(), size, min: size };
        world.set_pod(PodFacts { gang: Some(name), rank: Some(rank), priority, ..pod });
    }
}

fn evicted(world: &World) -> Vec<&str> {
    let reason = |told: &&(ObjectKind, crate::objects::ObjectKey, String)| told.2 == "Preempted";
    world.told.iter().filter(reason).map(|(_, key, _)| &*key.name).collect()
}

#[test]
fn the_lowest_make_room_and_the_nominee_gets_it_when_they_are_gone() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    create(&mut world, "low", 8, 1);
    create(&mut world, "mid", 8, 5);
    world.settle_now();
    world.kubelets = false;
    create(&mut world, "high", 8, 9);
    world.settle_now();
    assert_eq!(evicted(&world), ["low"]);
    let room = world.pods[&key("low")].node.clone();
    assert_eq!(world.pods[&key("high")].nominated.as_deref(), room.as_deref());
    assert!(world.why("high").ends_with("waits until 1 pod ends there"), "{}", world.why("high"));
    world.create_pod("eager", 8, None);
    world.end_one();
    world.settle_now();
    assert_eq!(world.node_of("high"), room.as_deref());
    assert_eq!((world.node_of("eager"), world.scheduler.cache().holds_in_all()), (None, 0));
}

#[test]
fn gangs_go_and_come_whole() {
    let mut world = World::new(&[("a", 8), ("b", 8), ("c", 8)]);
    create_gang(&mut world, "low", 3, 4, 1);
    create_gang(&mut world, "mid", 3, 4, 2);
    world.settle_now();
    create_gang(&mut world, "high", 2, 4, 9);
    world.settle_now();
    assert_eq!(evicted(&world), ["low-0"], "one event for the gang");
    let on = |gang: &str| world.pods.keys().filter(|key| key.name.starts_with(gang)).count();
    assert_eq!((on("low"), on("mid")), (0, 3));
    assert!(world.node_of("high-0").is_some() && world.node_of("high-1").is_some());
}

#[test]
fn nobody_goes_for_who_may_not_preempt_or_has_no_higher_priority_or_would_not_fit_anyway() {
    let mut world = World::new(&[("a", 8)]);
    create(&mut world, "low", 8, 1);
    world.settle_now();
    let polite = world.pod("polite", 8);
    world.set_pod(PodFacts { priority: 9, preempts: false, ..polite });
    create(&mut world, "equal", 8, 1);
    create(&mut world, "huge", 16, 9);
    world.settle();
    assert_eq!((world.node_of("low"), evicted(&world).len()), (Some("a"), 0));
}

#[test]
fn protected_pods_are_spared_where_others_can_go() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    for name in ["guarded", "free"] {
        let pod = world.pod(name, 8);
        let labels = [("app".to_owned(), name.to_owned())].into();
        let identity = world.interner.identity(&pod.identity.namespace, labels);
        world.set_pod(PodFacts { identity, ..pod });
        world.settle_now();
        world.now += Duration::from_secs(1);
    }
    let requirement = Requirement { key: "app".to_owned(), operator: Operator::In, values: vec!["guarded".to_owned()] };
    let selector = Selector::All(vec![requirement]);
    let budget = BudgetFacts { key: key("pdb"), selector, allowed: 0, disrupted: Vec::new() };
    world.inbox.push_back(Event::Budget(Box::new(budget)));
    create(&mut world, "high", 8, 9);
    world.settle_now();
    assert_eq!(evicted(&world), ["free"]);
}

#[test]
fn a_higher_priority_takes_the_room_of_a_nominee_which_looks_elsewhere() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    create(&mut world, "low-a", 8, 1);
    create(&mut world, "low-b", 8, 4);
    world.settle_now();
    world.kubelets = false;
    create(&mut world, "mid", 8, 5);
    world.settle_now();
    assert_eq!(evicted(&world), ["low-a"]);
    world.end_one();
    create(&mut world, "top", 8, 9);
    world.kubelets = true;
    world.settle();
    assert!(world.node_of("top").is_some());
    assert!(world.node_of("mid").is_some());
    assert_eq!(evicted(&world), ["low-a", "low-b"]);
    assert!(world.pods.values().all(|pod| pod.nominated.is_none()));
}

#[test]
fn when_the_preemptor_goes_its_room_and_nominations_are_given_back() {
    let mut world = World::new(&[("a", 8)]);
    create(&mut world, "low", 8, 1);
    world.settle_now();
    world.kubelets = false;
    create_gang(&mut world, "high", 2, 4, 9);
    world.settle_now();
    assert_eq!(world.scheduler.cache().holds_in_all(), 2);
    world.delete_pod("high-0");
    world.settle_now();
    assert_eq!(world.pods[&key("high-1")].nominated, None);
    assert_eq!(world.scheduler.cache().holds_in_all(), 0);
    world.kubelets = true;
    create(&mut world, "next", 8, 2);
    world.settle();
    assert_eq!(world.node_of("next"), Some("a"));
}

#[test]
fn room_elsewhere_is_taken_at_once() {
    let mut world = World::new(&[("a", 8)]);
    create(&mut world, "low", 8, 1);
    world.settle_now();
    world.kubelets = false;
    create(&mut world, "high", 8, 9);
    world.settle_now();
    world.set_node(node("b", 8));
    world.now += Duration::from_secs(1);
    world.settle_now();
    assert_eq!(world.node_of("high"), Some("b"));
    assert_eq!(world.scheduler.cache().holds_in_all(), 0);
}

#[test]
fn who_cannot_be_evicted_is_not_asked_again() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    create(&mut world, "fixed", 8, 1);
    create(&mut world, "low", 8, 2);
    world.settle_now();
    create(&mut world, "high", 8, 9);
    while world.hear() {}
    assert_eq!(world.turn(), Some(Outcome::Preempting));
    let evict = world.outbox.iter().position(|action| matches!(action, Action::Evict { .. })).unwrap();
    world.act(evict, true);
    world.settle();
    assert!(world.node_of("fixed").is_some());
    assert!(!world.pods.contains_key(&key("low")) && world.node_of("high").is_some());
}

#[test]
fn nominations_of_other_schedulers_count_for_lower_priorities() {
    let mut world = World::new(&[("a", 8)]);
    let theirs = world.pod("theirs", 8);
    world.set_pod(PodFacts { ours: false, nominated: Some("a".to_owned()), priority: 5, ..theirs.clone() });
    create(&mut world, "low", 8, 1);
    world.settle_now();
    assert_eq!(world.node_of("low"), None);
    create(&mut world, "high", 8, 9);
    world.settle_now();
    assert_eq!(world.node_of("high"), Some("a"));
    world.delete_pod("high");
    world.settle_now();
    assert_eq!(world.node_of("low"), None);
    world.set_pod(PodFacts { ours: false, priority: 5, ..theirs });
    world.settle();
    assert_eq!(world.node_of("low"), Some("a"));
}

#[test]
fn after_a_kill_the_nominee_keeps_its_room() {
    let mut world = World::new(&[("a", 8)]);
    create(&mut world, "low", 8, 1);
    world.settle_now();
    world.kubelets = false;
    create(&mut world, "high", 8, 9);
    world.settle_now();
    assert!(world.pods[&key("high")].nominated.is_some());
    world.set_node(node("b", 8));
    create(&mut world, "other", 8, 2);
    world.settle_now();
    world.restart();
    create(&mut world, "eager", 8, 2);
    world.settle_now();
    assert_eq!(evicted(&world), ["low"], "nobody else has to go for it");
    world.end_one();
    world.settle();
    assert_eq!((world.node_of("high"), world.node_of("other")), (Some("a"), Some("b")));
}
