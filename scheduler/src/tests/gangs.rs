//! Gangs of labels, and `PodGroup`s.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_core::scheduling::Level;

use super::world::{World, key, node};
use crate::cycle::{Action, GangKind, ObjectKind, Outcome};
use crate::objects::{GangName, PodFacts};

fn bound(world: &World, gang: &str) -> usize {
    world.bound_of(gang)
}

/// The members of `gang` as pods of the `PodGroup` of that name.
fn create_group_members(world: &mut World, gang: &str, count: u32) {
    for rank in 0..count {
        let name = format!("{gang}-{rank}");
        if !world.pods.contains_key(&key(&name)) {
            let pod = world.pod(&name, 4);
            world.set_pod(PodFacts { gang: Some(GangName::PodGroup(gang.to_owned())), rank: Some(rank), ..pod });
        }
    }
}

/// One turn binds all members that it decides, and only the first `taken` bindings reach the API server.
fn kill_half_way(world: &mut World, taken: usize) {
    while world.hear() {}
    assert_eq!(world.turn(), Some(Outcome::Binding));
    for _ in 0..taken {
        world.act(0, false);
    }
    world.restart();
}

#[test]
fn a_gang_of_labels_is_bound_when_all_are_there_by_rank() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.create_members("g", 1..4, 4, 4, 4);
    world.settle_now();
    assert_eq!((bound(&world, "g"), world.conditions), (0, 0), "it waits without a word");
    let waits = world.scheduler.pending().next().unwrap();
    assert_eq!(
        (waits.gang, waits.members, waits.reason.as_deref()),
        (Some(GangKind::Label), 3, Some("3 of 4 members are there"))
    );
    world.create_members("g", 0..1, 4, 4, 4);
    world.settle_now();
    let nodes: Vec<_> = (0..4).map(|rank| world.node_of(&format!("g-{rank}")).unwrap()).collect();
    assert_eq!(nodes, ["a", "a", "b", "b"]);
    assert_eq!((world.conditions, world.told.len()), (0, 0), "nothing is written but bindings");
}

#[test]
fn a_gang_that_stays_incomplete_says_so_after_a_while() {
    let mut world = World::new(&[("a", 8)]);
    world.create_members("g", 0..3, 8, 8, 1);
    world.settle();
    assert_eq!(world.why("g-0"), "3 of 8 members are there");
    assert_eq!((world.conditions, world.told.len()), (3, 1), "one event for all");
}

#[test]
fn all_of_a_gang_or_none() {
    let mut world = World::new(&[("a", 8), ("b", 7)]);
    world.create_members("g", 0..4, 4, 4, 4);
    world.create_pod("p", 1, None);
    world.settle_now();
    assert_eq!((bound(&world, "g"), world.node_of("p")), (0, Some("b")), "who comes later is not held up");
    assert!(world.why("g-3").starts_with("4 members need 4 nvidia.com/gpu each; room for 3 of them"));
    assert_eq!(world.told, [(ObjectKind::Pod, key("g-0"), "FailedScheduling".to_owned())]);
    world.set_node(node("c", 8));
    world.settle_now();
    assert_eq!(bound(&world, "g"), 4);
}

#[test]
fn an_elastic_gang_gathers_starts_with_what_fits_and_grows() {
    let mut world = World::new(&[("a", 8)]);
    world.create_members("g", 0..3, 4, 2, 4);
    world.settle_now();
    assert_eq!(bound(&world, "g"), 0, "more may come");
    world.now += Duration::from_secs(1);
    world.settle_now();
    assert_eq!(bound(&world, "g"), 2);
    assert!(world.node_of("g-2").is_none());
    world.set_node(node("b", 4));
    world.settle_now();
    assert_eq!(bound(&world, "g"), 3);
    world.create_members("g", 3..4, 4, 2, 4);
    world.settle_now();
    assert!(!world.why("g-3").is_empty());
    world.set_node(node("c", 4));
    world.settle();
    assert_eq!(bound(&world, "g"), 4);
}

#[test]
fn an_elastic_gang_of_which_all_are_there_does_not_gather() {
    let mut world = World::new(&[("a", 8)]);
    world.create_members("g", 0..2, 2, 1, 4);
    world.settle_now();
    assert_eq!(bound(&world, "g"), 2);
}

#[test]
fn a_gang_keeps_to_one_rack_and_so_do_those_who_join_it() {
    let mut world = World::new(&[]);
    for (name, rack) in [("a", "r1"), ("b", "r2"), ("c", "r2"), ("d", "r1")] {
        let mut state = node(name, if rack == "r1" { 2 } else { 4 });
        state.labels.insert("rack".to_owned(), rack.to_owned());
        world.set_node(state);
    }
    let member = |world: &mut World, rank: u32| {
        let pod = world.pod(&format!("g-{rank}"), 2);
        world.set_pod(PodFacts {
            gang: Some(GangName::Label { name: "g".to_owned(), size: 3, min: 3 }),
            topology: vec![Level { key: "rack".to_owned(), required: true }],
            rank: Some(rank),
            ..pod
        });
    };
    (0..3).for_each(|rank| member(&mut world, rank));
    world.settle_now();
    let racks = |world: &World| -> BTreeSet<String> {
        let nodes = world.pods.values().filter_map(|pod| pod.node.as_ref());
        nodes.map(|node| world.nodes[&**node].labels["rack"].clone()).collect()
    };
    assert_eq!((bound(&world, "g"), racks(&world)), (3, BTreeSet::from(["r2".to_owned()])));
    (3..6).for_each(|rank| member(&mut world, rank));
    world.settle_now();
    assert_eq!((bound(&world, "g"), racks(&world)), (4, BTreeSet::from(["r2".to_owned()])));
}

#[test]
fn a_lost_member_is_replaced_alone() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.create_members("g", 0..4, 4, 4, 4);
    world.settle_now();
    world.now += Duration::from_mins(10);
    world.delete_pod("g-1");
    world.settle_now();
    world.create_members("g", 1..2, 4, 4, 4);
    world.restart();
    world.settle_now();
    assert_eq!(bound(&world, "g"), 4);
}

#[test]
fn a_gang_that_lost_a_member_and_finds_no_room_for_another_is_left_alone() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.create_members("g", 0..4, 4, 4, 4);
    world.settle_now();
    world.now += Duration::from_mins(10);
    world.delete_pod("g-1");
    world.create_pod("p", 4, None);
    world.settle_now();
    assert!(world.node_of("p").is_some());
    world.create_members("g", 1..2, 4, 4, 4);
    for _ in 0..2 {
        world.settle();
        assert_eq!((bound(&world, "g"), world.pods.len()), (3, 5));
        world.restart();
    }
}

#[test]
fn a_gang_killed_half_bound_is_completed_before_older_work() {
    for taken in 1..4 {
        let mut world = World::new(&[("a", 8), ("b", 8)]);
        world.create_pod("older", 8, None);
        let older = world.pods[&key("older")].clone();
        world.set_pod(PodFacts { gated: true, ..older.clone() });
        world.now += Duration::from_secs(5);
        world.create_members("g", 0..4, 4, 4, 4);
        while world.hear() {}
        world.set_pod(older);
        world.inbox.clear();
        kill_half_way(&mut world, taken);
        world.settle_now();
        assert_eq!((bound(&world, "g"), world.node_of("older")), (4, None));
    }
}

#[test]
fn a_gang_killed_half_bound_that_cannot_be_completed_is_undone_within_five_seconds() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.create_members("g", 0..4, 4, 4, 4);
    kill_half_way(&mut world, 3);
    let mut cordoned = node("b", 8);
    cordoned.unschedulable = true;
    world.set_node(cordoned);
    world.create_pod("p", 8, None);
    let started = world.now;
    world.settle_now();
    assert_eq!(bound(&world, "g"), 3, "it is given a chance");
    while bound(&world, "g") > 0 {
        world.now = world.scheduler.next_due().unwrap();
        assert!(world.now <= started + Duration::from_secs(5));
        world.settle_now();
    }
    assert!(world.told.contains(&(ObjectKind::Pod, key("g-0"), "GangUndone".to_owned())), "{:?}", world.told);
    assert_eq!((world.pods.len(), world.node_of("p")), (2, Some("a")), "who waits gets the room");
    world.create_members("g", 0..4, 4, 4, 4);
    world.set_node(node("b", 8));
    world.set_node(node("c", 8));
    world.settle();
    assert_eq!(bound(&world, "g"), 4, "its controller makes it anew");
}

#[test]
fn the_room_of_a_failed_binding_is_kept_for_its_gang() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.create_members("g", 0..4, 4, 4, 4);
    world.create_pod("eager", 1, None);
    while world.hear() {}
    world.turn();
    world.act(2, true);
    world.settle_now();
    assert_eq!((bound(&world, "g"), world.node_of("eager")), (3, None));
    world.settle();
    assert_eq!((bound(&world, "g"), world.node_of("eager")), (4, None));
    assert_eq!(world.scheduler.cache().holds_in_all(), 0);
}

#[test]
fn a_pod_group_decides_with_its_minimum_and_says_so_once() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.set_pod_group("g", 3);
    create_group_members(&mut world, "g", 2);
    world.settle_now();
    assert_eq!(bound(&world, "g"), 0);
    assert_eq!(world.scheduler.pending().next().unwrap().reason.as_deref(), Some("2 of at least 3 members are there"));
    create_group_members(&mut world, "g", 4);
    world.settle_now();
    assert_eq!((bound(&world, "g"), world.pod_groups[&key("g")].scheduled), (4, Some(true)));
    world.delete_pod("g-0");
    world.settle();
    assert_eq!(world.pod_groups[&key("g")].scheduled, Some(true), "for good");
    assert_eq!((world.conditions, world.told.len()), (0, 0));
}

#[test]
fn a_pod_group_that_does_not_fit_says_why_in_its_condition_and_one_event() {
    let mut world = World::new(&[("a", 8)]);
    world.set_pod_group("g", 3);
    create_group_members(&mut world, "g", 3);
    world.settle_now();
    assert_eq!((bound(&world, "g"), world.pod_groups[&key("g")].scheduled), (0, Some(false)));
    assert_eq!(world.told, [(ObjectKind::PodGroup, key("g"), "FailedScheduling".to_owned())]);
    assert!(world.why("g-2").starts_with("3 members need 4 nvidia.com/gpu each; room for 2 of them"));
    world.set_node(node("b", 8));
    world.settle_now();
    assert_eq!((bound(&world, "g"), world.pod_groups[&key("g")].scheduled), (3, Some(true)));
}

#[test]
fn pods_that_name_a_gang_that_is_not_there_wait_and_say_so() {
    let mut world = World::new(&[("a", 8)]);
    create_group_members(&mut world, "g", 1);
    world.create_pod("m", 1, Some("nobody"));
    world.settle();
    assert_eq!(world.why("g-0"), "the PodGroup g does not exist");
    assert!(world.why("m").starts_with("the Gang nobody does not exist"));
    world.set_pod_group("g", 1);
    world.set_gang("nobody", atoll_core::scheduling::Mode::Run, &[("m", 1, None)]);
    world.settle();
    assert!(world.node_of("g-0").is_some() && world.node_of("m").is_some());
}

#[test]
fn gated_and_deleted_members_are_not_there() {
    let mut world = World::new(&[("a", 8)]);
    world.create_members("g", 0..2, 2, 2, 4);
    let gated = world.pods[&key("g-0")].clone();
    world.set_pod(PodFacts { gated: true, ..gated.clone() });
    world.settle_now();
    assert_eq!(bound(&world, "g"), 0);
    world.set_pod(PodFacts { deleting: true, ..gated.clone() });
    world.settle_now();
    assert_eq!(bound(&world, "g"), 0);
    world.set_pod(gated);
    world.settle_now();
    assert_eq!(bound(&world, "g"), 2);
}

#[test]
fn one_gang_is_one_turn() {
    let mut world = World::new(&[("a", 8), ("b", 8)]);
    world.create_members("g", 0..4, 4, 4, 4);
    while world.hear() {}
    assert_eq!(world.turn(), Some(Outcome::Binding));
    assert!(world.outbox.iter().all(|action| matches!(action, Action::Bind(_))));
    assert_eq!((world.outbox.len(), world.turn()), (4, None));
}

#[test]
fn who_was_about_to_join_members_that_go_is_not_left_alone() {
    let mut world = World::new(&[("a", 6), ("b", 4)]);
    world.create_members("g", 0..2, 2, 2, 4);
    world.settle_now();
    assert_eq!(bound(&world, "g"), 2);
    world.delete_pod("g-1");
    world.create_members("g", 1..2, 2, 2, 4);
    while world.hear() {}
    assert_eq!(world.turn(), Some(Outcome::Binding));
    world.delete_pod("g-0");
    for node in ["a", "b"] {
        let mut cordoned = world.nodes[node].clone();
        cordoned.unschedulable = true;
        world.set_node(cordoned);
    }
    world.create_members("g", 0..1, 2, 2, 4);
    world.settle();
    assert_eq!(bound(&world, "g"), 0, "one without the other");
}
