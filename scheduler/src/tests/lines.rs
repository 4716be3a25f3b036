//! Those that ask for the same, and what is said to them.

use std::time::Duration;

use super::world::{World, key, node};
use crate::cycle::{Attempt, Event, WaitsFor};
use crate::objects::{ClaimFacts, ClaimRef, PodFacts, VolumeFacts};

/// Every turn that there is to take, without carrying out what it says.
fn turns(world: &mut World) -> Vec<Attempt> {
    while world.hear() {}
    std::iter::from_fn(|| world.scheduler.attempt(world.now)).collect()
}

#[test]
fn of_many_that_cannot_be_had_one_is_decided_and_all_are_told() {
    let mut world = World::new(&[("a", 8)]);
    for index in 0..100 {
        world.create_pod(&format!("tall-{index:03}"), 16, None);
    }
    let attempts = turns(&mut world);
    assert_eq!(attempts.iter().filter(|attempt| attempt.decided).count(), 1);
    assert_eq!(attempts.iter().map(|attempt| attempt.actions.len()).sum::<usize>(), 100);
    assert_eq!(world.scheduler.counts().lines, 1);
    let view = world.scheduler.pending().next().unwrap();
    assert_eq!(view.waits_for, WaitsFor::Change(vec!["nodes"]));
    for index in 0..8 {
        world.create_pod(&format!("small-{index}"), 1, None);
    }
    let attempts = turns(&mut world);
    assert_eq!((attempts.len(), attempts.iter().filter(|attempt| attempt.decided).count()), (8, 8));
    world.delete_pod("small-0");
    assert_eq!(turns(&mut world).iter().filter(|attempt| attempt.decided).count(), 0, "room does not help them");
}

#[test]
fn what_waits_goes_in_order_when_there_is_room_again() {
    let mut world = World::new(&[("a", 4)]);
    for name in ["p-0", "p-1", "p-2", "p-3"] {
        world.now += Duration::from_secs(1);
        world.create_pod(name, 2, None);
    }
    world.settle_now();
    assert_eq!((world.node_of("p-1"), world.node_of("p-2")), (Some("a"), None));
    world.create_pod("p-4", 2, None);
    world.delete_pod("p-0");
    world.settle_now();
    assert_eq!((world.node_of("p-2"), world.node_of("p-3"), world.node_of("p-4")), (Some("a"), None, None));
    world.set_node(node("b", 4));
    world.settle_now();
    assert!(world.node_of("p-3").is_some() && world.node_of("p-4").is_some());
}

#[test]
fn higher_priority_first_also_among_those_that_waited() {
    let mut world = World::new(&[("a", 2)]);
    world.create_pod("holder", 2, None);
    world.settle_now();
    for (name, priority) in [("low", 1), ("high", 2)] {
        world.now += Duration::from_secs(1);
        let pod = world.pod(name, 2);
        world.set_pod(PodFacts { priority, preempts: false, ..pod });
        world.settle_now();
    }
    world.delete_pod("holder");
    world.settle_now();
    assert_eq!((world.node_of("high"), world.node_of("low")), (Some("a"), None));
}

#[test]
fn other_words_come_at_most_every_ten_seconds_and_then_less_often() {
    let mut world = World::new(&[("a", 8)]);
    for index in 0..3 {
        world.create_pod(&format!("tall-{index}"), 16, None);
    }
    world.settle_now();
    assert_eq!((world.conditions, world.told.len()), (3, 3));
    let mut written = Vec::new();
    for second in 0..100 {
        world.now += Duration::from_secs(1);
        world.set_node(node(&format!("n{second}"), 2));
        world.settle_now();
        if world.conditions > 3 {
            written.push(second);
            world.conditions = 3;
        }
    }
    assert!(written.len() <= 10, "{written:?}");
    world.settle();
    let words = world.why("tall-2").to_owned();
    assert!(words.contains("101 nodes"), "in the end they are up to date: {words}");
    assert_eq!(world.told.len(), 3, "no further event");
}

#[test]
fn a_pod_waits_for_its_claim() {
    let mut world = World::new(&[("a", 8)]);
    let pod = world.pod("p", 1);
    world.set_pod(PodFacts { claims: vec![ClaimRef { name: "data".to_owned(), made_for: None }], ..pod });
    world.settle();
    assert_eq!(world.why("p"), "the PersistentVolumeClaim data does not exist");
    let claim = ClaimFacts {
        key: key("data"),
        volume: Some("v".to_owned()),
        lost: false,
        deleting: false,
        one_pod: false,
        owner: None,
    };
    world.inbox.push_back(Event::Claim(Box::new(claim)));
    world.settle();
    assert!(world.why("p").contains("PersistentVolume v"));
    let volume = VolumeFacts { name: "v".to_owned(), affinity: None, zones: Vec::new(), attached: None };
    world.inbox.push_back(Event::Volume(Box::new(volume)));
    world.settle();
    assert_eq!(world.node_of("p"), Some("a"));
}

#[test]
fn a_gang_that_waited_for_long_has_nodes_kept_for_it_and_short_pods_pass() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    let runs_on = |world: &mut World, name: &str, gpus, duration: Option<u64>| {
        let pod = world.pod(name, gpus);
        world.set_pod(PodFacts { duration: duration.map(Duration::from_secs), ..pod });
        world.settle_now();
    };
    runs_on(&mut world, "long-0", 4, Some(1000));
    runs_on(&mut world, "long-1", 8, Some(600));
    world.create_members("g", 0..2, 2, 2, 8);
    world.settle_now();
    runs_on(&mut world, "early", 2, None);
    assert!(world.node_of("early").is_some(), "nothing is kept at first");
    world.delete_pod("early");
    world.now += Duration::from_secs(31);
    runs_on(&mut world, "later", 1, None);
    assert!(world.why("later").contains("1 is reserved for a waiting gang"), "{}", world.why("later"));
    runs_on(&mut world, "short", 1, Some(100));
    assert!(world.node_of("short").is_some(), "it ends before the gang could start");
    for pod in ["long-0", "long-1", "short"] {
        world.delete_pod(pod);
        world.settle_now();
    }
    assert!(world.node_of("g-0").is_some() && world.node_of("g-1").is_some());
    assert!(world.node_of("later").is_none());
    world.delete_pod("g-0");
    world.settle();
    assert!(world.node_of("later").is_some(), "what was kept is open again");
}
