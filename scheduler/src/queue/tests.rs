use atoll_core::scheduling::{GangRequest, Helps};

use super::*;
use crate::objects::ObjectKey;
use std::cmp::Reverse;

fn pod(name: &str) -> Work {
    Work::Pod(ObjectKey::new("ns", name))
}

fn order(whole: bool, priority: i32, created: u64) -> Order {
    Order { whole, priority: Reverse(priority), created: Duration::from_secs(created) }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn drain(queue: &mut Queue, now: Duration) -> Vec<Work> {
    queue.ring(now);
    std::iter::from_fn(|| queue.pop()).map(|(_, work)| work).collect()
}

/// A key that all who ask for the same share.
fn key(what: i32) -> LineKey {
    LineKey::Alike(Arc::new(Alike {
        priority: what,
        preempts: false,
        shapes: Vec::new(),
        minimum: 1,
        topology: Vec::new(),
        identity: None,
        closed: false,
    }))
}

fn refuse(queue: &mut Queue, what: i32, name: &str, created: u64, helped_by: Helps) {
    let verdict = Verdict::new(Arc::from("too small"), helped_by);
    queue.refuse(key(what), &pod(name), order(true, 0, created), GangRequest::default(), verdict);
}

fn stale(queue: &mut Queue) -> Vec<LineId> {
    let mut passes = 100;
    std::iter::from_fn(|| {
        let id = queue.next_stale(&mut passes, at(0))?;
        queue.refresh(id, None);
        Some(id)
    })
    .collect()
}

#[test]
fn partly_bound_gangs_then_priority_then_age_then_name() {
    let mut queue = Queue::default();
    queue.push(pod("b"), order(true, 0, 5));
    queue.push(pod("a"), order(true, 0, 5));
    queue.push(pod("old"), order(true, 0, 1));
    queue.push(pod("high"), order(true, 9, 7));
    queue.push(pod("half"), order(false, 0, 9));
    let names = drain(&mut queue, at(0));
    assert_eq!(names, [pod("half"), pod("high"), pod("old"), pod("a"), pod("b")]);
}

#[test]
fn what_waits_apart_waits_for_a_push_or_its_time() {
    let mut queue = Queue::default();
    queue.wait(pod("event"), order(true, 0, 1), None, None);
    queue.wait(pod("time"), order(true, 0, 2), Some(Arc::from("why")), Some(at(10)));
    assert_eq!(queue.why(&pod("time")).as_deref(), Some("why"));
    assert_eq!(queue.next_due(), Some(at(10)));
    assert_eq!(drain(&mut queue, at(9)), []);
    queue.at_latest(&pod("time"), order(true, 0, 2), at(5));
    assert_eq!(drain(&mut queue, at(5)), [pod("time")]);
    queue.push(pod("event"), order(true, 0, 1));
    assert_eq!(queue.next_due(), Some(at(0)));
    assert_eq!(drain(&mut queue, at(10)), [pod("event")]);
    assert_eq!(queue.next_due(), None);
}

#[test]
fn what_failed_waits_out_its_delay_whatever_happens() {
    let mut queue = Queue::default();
    queue.delay(pod("a"), order(true, 0, 1), at(10));
    queue.tick(Helps::ROOM);
    queue.push(pod("a"), order(true, 0, 1));
    assert_eq!(drain(&mut queue, at(9)), []);
    assert_eq!(drain(&mut queue, at(10)), [pod("a")]);
}

#[test]
fn pushing_twice_is_once_and_removing_is_none() {
    let mut queue = Queue::default();
    queue.push(pod("a"), order(true, 0, 1));
    queue.push(pod("a"), order(true, 5, 1));
    assert_eq!(queue.len(), (0, 1));
    assert_eq!(drain(&mut queue, at(0)), [pod("a")]);
    for add in [
        Queue::push as fn(&mut Queue, Work, Order),
        |q, w, o| q.wait(w, o, None, Some(at(1))),
        |q, _, _| {
            refuse(q, 1, "a", 1, Helps::ROOM);
        },
    ] {
        add(&mut queue, pod("a"), order(true, 0, 1));
        queue.remove(&pod("a"));
        assert!(queue.place(&pod("a")).is_none());
        assert_eq!(drain(&mut queue, at(99)), []);
        assert_eq!((queue.lines(), queue.next_due()), (0, None));
    }
}

#[test]
fn who_asks_for_what_was_just_refused_is_refused_with_it() {
    let mut queue = Queue::default();
    let standing = |queue: &Queue, what| queue.standing(&key(what), &pod("new"), order(true, 0, 9), at(0));
    assert_eq!(standing(&queue, 1), Standing::Free);
    refuse(&mut queue, 1, "first", 1, Helps::ROOM);
    assert_eq!(standing(&queue, 1), Standing::Refused(Arc::from("too small")));
    assert_eq!(standing(&queue, 2), Standing::Free);
    queue.tick(Helps::NODES);
    assert_eq!(standing(&queue, 1), Standing::Refused(Arc::from("too small")), "a node does not help");
    queue.tick(Helps::ROOM);
    assert!(matches!(standing(&queue, 1), Standing::Stale(_)));
    queue.join(&key(1), &pod("new"), order(true, 0, 9));
    assert_eq!((queue.lines(), queue.len()), (1, (0, 2)));
    assert_eq!(queue.why(&pod("new")).as_deref(), Some("too small"));
}

#[test]
fn only_lines_that_something_could_have_helped_are_looked_at() {
    let mut queue = Queue::default();
    refuse(&mut queue, 1, "room", 1, Helps::ROOM);
    refuse(&mut queue, 2, "pods", 2, Helps::PODS | Helps::NODES);
    assert_eq!(stale(&mut queue), []);
    queue.tick(Helps::PODS);
    assert_eq!(stale(&mut queue), [LineId(2)]);
    assert_eq!(stale(&mut queue), []);
    queue.tick(Helps::PODS | Helps::ROOM);
    assert_eq!(stale(&mut queue), [LineId(1), LineId(2)]);
    queue.tick(Helps::VOLUMES);
    assert_eq!(stale(&mut queue), [LineId(1), LineId(2)], "the next obstacle may be anything");
    let reworded = Arc::from("still too small");
    queue.reword(LineId(1), Arc::clone(&reworded), Helps::NODES);
    queue.tick(Helps::ROOM);
    assert_eq!((stale(&mut queue), queue.why(&pod("room"))), (vec![LineId(2)], Some(reworded)));
    assert_eq!(queue.next_due(), None);
}

#[test]
fn many_lines_are_looked_at_bit_by_bit_and_none_is_missed() {
    let mut queue = Queue::default();
    for line in 0..10 {
        refuse(&mut queue, line, &format!("p{line}"), 1, Helps::ROOM);
    }
    queue.tick(Helps::ROOM);
    let mut seen = Vec::new();
    for round in 0..8 {
        let mut passes = 3;
        while let Some(id) = queue.next_stale(&mut passes, at(0)) {
            queue.refresh(id, None);
            seen.push(id.0);
        }
        if round == 1 {
            queue.tick(Helps::ROOM);
        }
    }
    seen.sort_unstable();
    // The tick in between is news for the first six again.
    let twice = seen.iter().filter(|id| **id <= 6).count();
    assert_eq!((seen.len(), twice), (16, 12), "{seen:?}");
    assert_eq!(queue.next_due(), None);
}

#[test]
fn a_line_that_is_opened_goes_one_by_one_in_order_and_later_ones_stand_behind() {
    let mut queue = Queue::default();
    refuse(&mut queue, 1, "b", 2, Helps::ROOM);
    queue.join(&key(1), &pod("a"), order(true, 0, 1));
    queue.join(&key(1), &pod("c"), order(true, 0, 3));
    queue.open(LineId(1));
    let standing = |queue: &Queue, created| queue.standing(&key(1), &pod("new"), order(true, 0, created), at(0));
    assert_eq!(standing(&queue, 9), Standing::Behind);
    assert_eq!(standing(&queue, 0), Standing::Free, "an older one goes first");
    let mut taken = Vec::new();
    while let Some((order, work)) = queue.pop() {
        assert_eq!(queue.standing(&key(1), &work, order, at(0)), Standing::Free);
        taken.push(work.clone());
        if taken.len() == 1 {
            queue.join(&key(1), &pod("new"), super::Order { created: at(9), ..order });
        }
        queue.settle(&work);
    }
    assert_eq!(taken, [pod("a"), pod("b"), pod("c"), pod("new")]);
    assert_eq!((queue.lines(), queue.len()), (0, (0, 0)));
}

#[test]
fn when_the_first_of_a_line_is_refused_again_the_others_wait_on() {
    let mut queue = Queue::default();
    refuse(&mut queue, 1, "a", 1, Helps::ROOM);
    queue.join(&key(1), &pod("b"), order(true, 0, 2));
    queue.open(LineId(1));
    let (_, work) = queue.pop().unwrap();
    refuse(&mut queue, 1, "a", 1, Helps::ROOM);
    queue.settle(&work);
    assert_eq!(drain(&mut queue, at(0)), []);
    assert_eq!(queue.refusals(&key(1)), 2);
    queue.tick(Helps::ROOM);
    assert_eq!(stale(&mut queue), [LineId(1)]);
}

#[test]
fn when_the_first_of_an_open_line_goes_away_the_next_takes_its_place() {
    let mut queue = Queue::default();
    refuse(&mut queue, 1, "a", 1, Helps::ROOM);
    queue.join(&key(1), &pod("b"), order(true, 0, 2));
    queue.open(LineId(1));
    queue.remove(&pod("a"));
    assert_eq!(drain(&mut queue, at(0)), [pod("b")]);
}

#[test]
fn a_line_pauses_and_opens_at_its_times() {
    let mut queue = Queue::default();
    let mut verdict = Verdict::new(Arc::from("no"), Helps::ROOM);
    verdict.again = Some(at(5));
    queue.refuse(key(1), &pod("a"), order(true, 0, 1), GangRequest::default(), verdict);
    queue.tick(Helps::ROOM);
    assert_eq!(stale(&mut queue), []);
    assert_eq!(queue.next_due(), Some(at(5)));
    queue.ring(at(5));
    assert_eq!(queue.next_stale(&mut 9, at(5)), Some(LineId(1)));
    queue.refresh(LineId(1), Some(at(8)));
    assert_eq!(queue.next_stale(&mut 9, at(5)), None);
    queue.ring(at(7));
    assert_eq!((queue.pop(), queue.next_due()), (None, Some(at(8))));
    queue.ring(at(8));
    assert_eq!(queue.pop().map(|(_, work)| work), Some(pod("a")));
}
