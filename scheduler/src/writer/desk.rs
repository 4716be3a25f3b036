//! What is to be written, in which order: one write at a time for each object, the newest wins.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::cycle::{Action, ObjectKind};
use crate::objects::ObjectKey;

/// Writes in flight of those that do not yield, and of those that do while there is nothing to yield to.
pub(super) const WRITES: usize = 32;

/// What a write is about. Events are about themselves, so that none takes the place of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Object(ObjectKind, ObjectKey),
    Event(u64),
}

/// Where actions wait until their object is free and there is a place for them.
#[derive(Debug, Default)]
pub(super) struct Desk {
    wanted: HashMap<Target, Action>,
    /// Being written, or waiting for another try.
    busy: HashSet<Target>,
    first: Lane,
    yielding: Lane,
    events: u64,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Target>,
    in_flight: usize,
}

impl Desk {
    /// Takes in an action. It comes back at once when it goes to where it has a place anyway: a binding or an eviction
    /// of a pod that nothing is being written about.
    pub(super) fn put(&mut self, action: Action) -> Option<Action> {
        let target = self.target(&action);
        let elsewhere = goes_elsewhere(&action);
        if self.busy.contains(&target) {
            self.wanted.insert(target, action);
            return None;
        }
        if elsewhere {
            // What was to be written about the pod is true no more. Its place in the queue is passed over.
            self.wanted.remove(&target);
            return Some(action);
        }
        if self.wanted.insert(target.clone(), action).is_none() {
            self.lane(&target).waiting.push_back(target);
        }
        None
    }

    /// The next write, if there is a place for it; of those that yield at most so many are in flight.
    pub(super) fn next(&mut self, yielding: usize) -> Option<(Target, Action)> {
        for (lane, most) in [(&mut self.first, WRITES), (&mut self.yielding, yielding)] {
            while lane.in_flight < most
                && let Some(target) = lane.waiting.pop_front()
            {
                if let Some(action) = self.wanted.remove(&target) {
                    lane.in_flight += 1;
                    self.busy.insert(target.clone());
                    return Some((target, action));
                }
            }
        }
        None
    }

    /// A write ended. Its object stays busy when it is to be tried `again`, until [`Desk::free`]; what came meanwhile
    /// goes before it.
    pub(super) fn ended(&mut self, target: &Target, again: Option<Action>) {
        self.lane(target).in_flight -= 1;
        if let Some(again) = again {
            self.wanted.entry(target.clone()).or_insert(again);
        }
    }

    /// The object of a write that ended is free. What is wanted of it comes back when it goes elsewhere, as in
    /// [`Desk::put`]; otherwise it has its turn.
    pub(super) fn free(&mut self, target: Target) -> Option<Action> {
        self.busy.remove(&target);
        if self.wanted.get(&target).is_some_and(goes_elsewhere) {
            return self.wanted.remove(&target);
        }
        if self.wanted.contains_key(&target) {
            self.lane(&target).waiting.push_back(target);
        }
        None
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    fn target(&mut self, action: &Action) -> Target {
        match action {
            Action::Bind(binding) => Target::Object(ObjectKind::Pod, binding.pod.clone()),
            Action::Unschedulable { pod, .. } | Action::Evict { pod, .. } => {
                Target::Object(ObjectKind::Pod, pod.clone())
            }
            Action::GangStatus { gang, .. } => Target::Object(ObjectKind::Gang, gang.clone()),
            Action::PodGroupStatus { group, .. } => Target::Object(ObjectKind::PodGroup, group.clone()),
            Action::Tell { .. } => {
                self.events += 1;
                Target::Event(self.events)
            }
        }
    }

    fn lane(&mut self, target: &Target) -> &mut Lane {
        if target.yields() { &mut self.yielding } else { &mut self.first }
    }
}

impl Target {
    /// What is said of pods yields to bindings; there may be ten thousand of them. Gangs have somebody who waits.
    pub(super) fn yields(&self) -> bool {
        matches!(self, Self::Object(ObjectKind::Pod, _))
    }
}

fn goes_elsewhere(action: &Action) -> bool {
    matches!(action, Action::Bind(_) | Action::Evict { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::{Binding, Nominate};

    fn said(pod: &str, message: &str) -> Action {
        let pod = ObjectKey::new("ns", pod);
        Action::Unschedulable {
            pod,
            uid: "u".into(),
            message: message.into(),
            turned: true,
            event: false,
            nominate: Nominate::Leave,
        }
    }

    fn bind(pod: &str) -> Action {
        Action::Bind(Binding { pod: ObjectKey::new("ns", pod), uid: "u".into(), node: "n".into(), gang: None })
    }

    #[test]
    fn the_newest_word_about_a_pod_is_written_once_the_one_in_flight_ended() {
        let mut desk = Desk::default();
        assert_eq!(desk.put(said("a", "1")), None);
        assert_eq!(desk.put(said("a", "2")), None);
        let (target, action) = desk.next(WRITES).unwrap();
        assert_eq!(action, said("a", "2"));
        assert_eq!(desk.put(said("a", "3")), None);
        assert_eq!(desk.put(said("a", "4")), None);
        assert_eq!(desk.next(WRITES), None);
        desk.ended(&target, None);
        assert_eq!(desk.free(target), None);
        assert_eq!(desk.next(WRITES).unwrap().1, said("a", "4"));
        assert!(desk.is_empty());
    }

    #[test]
    fn a_write_that_failed_comes_again_unless_there_is_news() {
        let mut desk = Desk::default();
        for news in [None, Some("2")] {
            desk.put(said("a", "1"));
            let (target, action) = desk.next(WRITES).unwrap();
            desk.ended(&target, Some(action));
            // It pauses.
            assert_eq!(desk.next(WRITES), None);
            if let Some(news) = news {
                desk.put(said("a", news));
            }
            desk.free(target.clone());
            assert_eq!(desk.next(WRITES).unwrap().1, said("a", news.unwrap_or("1")));
            desk.ended(&target, None);
            desk.free(target);
        }
    }

    #[test]
    fn a_binding_goes_at_once_and_never_beside_a_write_about_its_pod() {
        let mut desk = Desk::default();
        assert_eq!(desk.put(bind("a")), Some(bind("a")));
        // What was not written yet is wrong by now.
        desk.put(said("a", "1"));
        assert_eq!(desk.put(bind("a")), Some(bind("a")));
        assert_eq!(desk.next(WRITES), None);
        desk.put(said("a", "1"));
        let (target, failed) = desk.next(WRITES).unwrap();
        assert_eq!(desk.put(bind("a")), None);
        desk.ended(&target, Some(failed));
        assert_eq!(desk.free(target), Some(bind("a")));
        assert!(desk.is_empty());
    }

    #[test]
    fn what_is_said_of_pods_yields_to_bindings_and_gangs_do_not() {
        let mut desk = Desk::default();
        for number in 0..100 {
            desk.put(said(&number.to_string(), "no"));
            desk.put(Action::GangStatus {
                gang: ObjectKey::new("ns", &number.to_string()),
                uid: "u".into(),
                status: atoll_api::GangStatus::default(),
            });
        }
        let mut count = |yielding| std::iter::from_fn(|| desk.next(yielding)).count();
        assert_eq!(count(0), WRITES);
        assert_eq!((count(1), count(1)), (1, 0));
        assert_eq!(count(WRITES), WRITES - 1);
    }
}
