use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::scheduling::{Amounts, Identity, MemberRequest, NodeState, Occupant, POD_SLOT, RESOURCE_PODS, Shape, Stage};

const GPU: &str = "nvidia.com/gpu";

fn gpus(count: i128) -> Arc<Shape> {
    let requests = [(GPU.to_owned(), count * 1000), (RESOURCE_PODS.to_owned(), POD_SLOT)].into_iter().collect();
    Arc::new(Shape { requests, ..Shape::default() })
}

/// Three nodes of 8 GPUs.
fn site() -> (Nodes, Decider) {
    let mut nodes = Nodes::default();
    for name in ["a", "b", "c"] {
        let allocatable: Amounts =
            [(GPU.to_owned(), 8000), (RESOURCE_PODS.to_owned(), 110 * POD_SLOT)].into_iter().collect();
        nodes.set(NodeState { name: name.to_owned(), allocatable, ..NodeState::default() });
    }
    (nodes, Decider::default())
}

fn run(nodes: &mut Nodes, node: &str, size: i128, ends: Option<u64>) -> Ending {
    let occupant = Occupant { shape: gpus(size), identity: Arc::default(), stage: Stage::Bound };
    Ending { id: nodes.put(node, occupant), at: ends.map(Duration::from_secs) }
}

fn whole_nodes(count: usize) -> GangRequest {
    let member = MemberRequest { shape: gpus(8), identity: Arc::new(Identity::default()), node: None };
    GangRequest {
        members: vec![member; count],
        minimum: count,
        topology: Vec::new(),
        closed: Arc::new(BTreeSet::new()),
    }
}

fn names(reservation: &Reservation) -> Vec<&str> {
    reservation.nodes.iter().map(|name| &**name).collect()
}

#[test]
fn the_earliest_time_that_is_known_is_kept_for_the_gang() {
    let (mut nodes, mut decider) = site();
    let endings = [
        run(&mut nodes, "a", 4, Some(100)),
        run(&mut nodes, "a", 4, Some(500)),
        run(&mut nodes, "b", 8, Some(300)),
        run(&mut nodes, "c", 8, Some(200)),
    ];
    let reserved = reserve(&mut decider, &mut nodes, &whole_nodes(2), &endings).unwrap();
    assert_eq!((names(&reserved), reserved.at), (vec!["b", "c"], Some(Duration::from_mins(5))));
    assert!(endings.iter().all(|ending| nodes.occupant(ending.id).is_some()), "everyone is back");
}

#[test]
fn where_ends_are_not_known_the_nodes_with_the_fewest_in_the_way_are_kept() {
    let (mut nodes, mut decider) = site();
    let mut endings: Vec<Ending> = (0..4).map(|_| run(&mut nodes, "a", 2, None)).collect();
    endings.push(run(&mut nodes, "b", 8, None));
    endings.push(run(&mut nodes, "c", 1, Some(50)));
    let reserved = reserve(&mut decider, &mut nodes, &whole_nodes(2), &endings).unwrap();
    assert_eq!((names(&reserved), reserved.at), (vec!["b", "c"], None));
}

#[test]
fn what_never_fits_reserves_nothing() {
    let (mut nodes, mut decider) = site();
    let endings = [run(&mut nodes, "a", 8, None)];
    assert_eq!(reserve(&mut decider, &mut nodes, &whole_nodes(4), &endings), None);
}

#[test]
fn only_who_is_gone_in_time_may_pass() {
    let seconds = Duration::from_secs;
    let reservation = Reservation { nodes: BTreeSet::new(), at: Some(seconds(100)) };
    assert!(reservation.lets_pass(seconds(40), Some(seconds(60))));
    assert!(!reservation.lets_pass(seconds(41), Some(seconds(60))));
    assert!(!reservation.lets_pass(seconds(0), None));
    assert!(!Reservation { at: None, ..reservation }.lets_pass(seconds(0), Some(seconds(1))));
}
