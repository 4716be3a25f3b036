//! What is to be tried, in which order, and what waits for something to change.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::objects::ObjectKey;

/// What is tried as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// A gang.
    Gang(ObjectKey),
    /// A pod without a gang.
    Pod(ObjectKey),
}

/// Which is tried first: the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// False for gangs that are bound in part: nothing else comes before they are whole.
    pub whole: bool,
    /// Priority, the highest first.
    pub priority: Reverse<i32>,
    /// Creation, since the Unix epoch.
    pub created: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Ready(Order),
    /// Waits for an event that could help, at most until the time.
    Parked(Order, Option<Duration>),
    /// Waits for the time.
    Delayed(Order, Duration),
}

/// First in, first out by [`Order`], ties by name.
#[derive(Debug, Default)]
pub struct Queue {
    ready: BTreeSet<(Order, Work)>,
    due: BTreeSet<(Duration, Work)>,
    places: HashMap<Work, Place>,
    gangs: usize,
}

impl Queue {
    /// Something about it changed: it is tried as soon as its turn comes. What is delayed after a failure stays so.
    pub fn push(&mut self, work: Work, order: Order) {
        if let Some(Place::Delayed(..)) = self.places.get(&work) {
            return;
        }
        self.remove(&work);
        self.ready.insert((order, work.clone()));
        self.put(work, Place::Ready(order));
    }

    /// Cannot be done now: waits for [`Queue::wake`], or until `until`.
    pub fn park(&mut self, work: Work, order: Order, until: Option<Duration>) {
        self.remove(&work);
        if let Some(until) = until {
            self.due.insert((until, work.clone()));
        }
        self.put(work, Place::Parked(order, until));
    }

    /// Failed: not tried before `until`.
    pub fn delay(&mut self, work: Work, order: Order, until: Duration) {
        self.remove(&work);
        self.due.insert((until, work.clone()));
        self.put(work, Place::Delayed(order, until));
    }

    /// Room became free or a node changed: everything that is parked is tried again.
    pub fn wake(&mut self) {
        for (work, place) in &mut self.places {
            if let Place::Parked(order, until) = *place {
                if let Some(until) = until {
                    self.due.remove(&(until, work.clone()));
                }
                self.ready.insert((order, work.clone()));
                *place = Place::Ready(order);
            }
        }
    }

    /// Takes the first that is ready; it is forgotten here.
    pub fn pop(&mut self, now: Duration) -> Option<Work> {
        while let Some((until, _)) = self.due.first()
            && *until <= now
        {
            let Some((_, work)) = self.due.pop_first() else { break };
            if let Some(place) = self.places.get_mut(&work)
                && let Place::Parked(order, _) | Place::Delayed(order, _) = *place
            {
                *place = Place::Ready(order);
                self.ready.insert((order, work));
            }
        }
        let (_, work) = self.ready.pop_first()?;
        self.take(&work);
        Some(work)
    }

    /// Nothing is to be done for it any more.
    pub fn remove(&mut self, work: &Work) {
        match self.take(work) {
            Some(Place::Ready(order)) => {
                self.ready.remove(&(order, work.clone()));
            }
            Some(Place::Parked(_, Some(until)) | Place::Delayed(_, until)) => {
                self.due.remove(&(until, work.clone()));
            }
            Some(Place::Parked(_, None)) | None => {}
        }
    }

    /// Whether it waits in any way.
    #[must_use]
    pub fn contains(&self, work: &Work) -> bool {
        self.places.contains_key(work)
    }

    /// When something that waits for a time is due; zero when something is ready.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        if self.ready.is_empty() { self.due.first().map(|(until, _)| *until) } else { Some(Duration::ZERO) }
    }

    /// How many (gangs, pods) are in here.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.gangs, self.places.len() - self.gangs)
    }

    fn put(&mut self, work: Work, place: Place) {
        self.gangs += usize::from(matches!(work, Work::Gang(_)));
        self.places.insert(work, place);
    }

    fn take(&mut self, work: &Work) -> Option<Place> {
        let place = self.places.remove(work)?;
        self.gangs -= usize::from(matches!(work, Work::Gang(_)));
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        std::iter::from_fn(|| queue.pop(now)).collect()
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
    fn what_is_parked_waits_for_an_event_or_its_time() {
        let mut queue = Queue::default();
        queue.park(pod("event"), order(true, 0, 1), None);
        queue.park(pod("time"), order(true, 0, 2), Some(at(10)));
        assert_eq!(queue.next_due(), Some(at(10)));
        assert_eq!(queue.pop(at(9)), None);
        assert_eq!(drain(&mut queue, at(10)), [pod("time")]);
        queue.wake();
        assert_eq!(queue.next_due(), Some(at(0)));
        assert_eq!(drain(&mut queue, at(10)), [pod("event")]);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn what_failed_waits_out_its_delay_whatever_happens() {
        let mut queue = Queue::default();
        queue.delay(pod("a"), order(true, 0, 1), at(10));
        queue.wake();
        queue.push(pod("a"), order(true, 0, 1));
        assert_eq!(queue.pop(at(9)), None);
        assert_eq!(queue.pop(at(10)), Some(pod("a")));
    }

    #[test]
    fn waking_keeps_the_order_and_forgets_the_time() {
        let mut queue = Queue::default();
        queue.park(pod("late"), order(true, 0, 2), Some(at(10)));
        queue.park(pod("early"), order(true, 0, 1), None);
        queue.wake();
        assert_eq!(drain(&mut queue, at(0)), [pod("early"), pod("late")]);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn pushing_twice_is_once_and_removing_is_none() {
        let mut queue = Queue::default();
        queue.push(pod("a"), order(true, 0, 1));
        queue.push(pod("a"), order(true, 5, 1));
        assert_eq!(queue.len(), (0, 1));
        assert_eq!(drain(&mut queue, at(0)), [pod("a")]);
        for add in [Queue::push as fn(&mut Queue, Work, Order), |q, w, o| q.park(w, o, Some(at(1)))] {
            add(&mut queue, pod("a"), order(true, 0, 1));
            queue.remove(&pod("a"));
            assert!(!queue.contains(&pod("a")));
            assert_eq!(drain(&mut queue, at(99)), []);
        }
    }
}
