//! One turn of a gang that has no Gang object: pods with labels, or of a `PodGroup`.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::{Assignment, GangRequest, Level, MemberRequest, Shape};

use super::ask::{Answer, Ask};
use super::messages::event_reason;
use super::preempt::pod_object;
use super::{Action, Attempt, Binding, GangKey, GangKind, Outcome, Scheduler};
use crate::gangs::{Group, MemberAt, Readiness};
use crate::objects::PodFacts;
use crate::queue::{Order, Work};

type Waiting = (Arc<PodFacts>, Arc<Shape>);

impl Scheduler {
    pub(super) fn try_group(&mut self, gang: &GangKey, order: Order, now: Duration, attempt: &mut Attempt) -> Outcome {
        let work = Work::Gang(gang.clone());
        let gather = self.settings.gather;
        let Some(group) = self.groups.get_mut(gang) else {
            self.give_back(&work, attempt);
            return Outcome::Nothing;
        };
        let readiness = group.readiness(now, gather);
        if readiness == Readiness::Nothing {
            let outcome = if group.is_bound() { Outcome::Bound } else { Outcome::Nothing };
            group.incomplete_since = None;
            let binding = group.is_binding();
            self.report_bound(gang, now, attempt);
            if !binding {
                self.give_back(&work, attempt);
            }
            return outcome;
        }
        if let Some(why) = no_object(group) {
            return self.wait_for_parts(gang, order, &Arc::from(why), now, attempt);
        }
        match readiness {
            Readiness::Nothing => Outcome::Nothing,
            Readiness::Incomplete { there } => {
                let least = if group.object.is_some() { "at least " } else { "" };
                let (are, size) = (if there == 1 { "is" } else { "are" }, group.size());
                let why = format!("{there} of {least}{size} members {are} there");
                self.wait_for_parts(gang, order, &Arc::from(why), now, attempt)
            }
            Readiness::Gathering { there, until } => {
                let why = format!("{there} of {} members are there, which is enough; waits for more", group.size());
                self.give_back(&work, attempt);
                self.queue.wait(work, order, Some(Arc::from(why)), Some(until));
                Outcome::Incomplete
            }
            Readiness::Ready { minimum } => match self.waiting_of(gang) {
                Ok(waiting) => self.decide_group(gang, order, &waiting, minimum, now, attempt),
                Err(why) => self.wait_for_parts(gang, order, &why, now, attempt),
            },
        }
    }

    /// The members that wait, by rank, with what they ask; or why one of them cannot be bound.
    fn waiting_of(&self, gang: &GangKey) -> Result<Vec<Waiting>, Arc<str>> {
        let Some(group) = self.groups.get(gang) else { return Ok(Vec::new()) };
        if let Some(why) = group.object.as_ref().and_then(|object| object.not_supported.as_ref()) {
            return Err(Arc::from(why.to_string()));
        }
        let mut waiting = Vec::with_capacity(group.waiting().len());
        for key in group.waiting() {
            let (Some(pod), Some(shape)) = (self.cache.pod(key), self.cache.shape(key)) else { continue };
            let why = |why: &dyn std::fmt::Display| Arc::from(format!("pod {}: {why}", key.name));
            if let Some(reason) = &pod.not_supported {
                return Err(why(reason));
            }
            waiting.push((Arc::clone(pod), Arc::clone(shape.map_err(|reason| why(reason))?)));
        }
        Ok(waiting)
    }

    fn decide_group(
        &mut self,
        gang: &GangKey,
        order: Order,
        waiting: &[Waiting],
        minimum: usize,
        now: Duration,
        attempt: &mut Attempt,
    ) -> Outcome {
        let Some(group) = self.groups.get_mut(gang) else { return Outcome::Nothing };
        group.incomplete_since = None;
        let half_bound = group.half_bound;
        let bound_on = group.bound().find_map(|pod| self.cache.pod(pod)?.node.clone());
        let object = group.object.as_ref();
        let own = waiting.first().map(|(pod, _)| &pod.topology);
        let mut topology: Vec<Level> = object.map(|object| &object.topology).or(own).cloned().unwrap_or_default();
        let preempts = object.is_none_or(|object| object.preempts) && waiting.iter().all(|(pod, _)| pod.preempts);
        let mut members: Vec<MemberRequest> = waiting
            .iter()
            .map(|(pod, shape)| MemberRequest {
                shape: Arc::clone(shape),
                identity: Arc::clone(&pod.identity),
                node: pod.nominated.clone(),
            })
            .collect();
        if let Some(node) = &bound_on {
            self.beside(node, &mut members, &mut topology);
        }
        let work = Work::Gang(gang.clone());
        let duration = waiting.iter().map(|(pod, _)| pod.duration).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)));
        let closed = self.closed_to(&work, order, duration.flatten(), now);
        let ask = Ask {
            work,
            order,
            request: GangRequest { members, minimum, topology, closed },
            pods: waiting.iter().map(|(pod, _)| pod.key.clone()).collect(),
            priority: order.priority.0,
            // There is no time to wait for others to leave before the gang is whole or undone.
            preempts: preempts && !half_bound,
            alone: half_bound || bound_on.is_some(),
        };
        match self.place(ask, now, attempt) {
            Answer::Fits(assignment) => {
                self.bind_group(gang, waiting, &assignment, bound_on.is_none() || half_bound, attempt);
                Outcome::Binding
            }
            Answer::Refused(why) if half_bound => self.complete_or_undo(gang, order, &why, now, attempt),
            Answer::Refused(why) => {
                self.tell_group(gang, &why, now, attempt);
                Outcome::Refused
            }
            Answer::Preempts => Outcome::Preempting,
            Answer::Behind => Outcome::Nothing,
        }
    }

    fn bind_group(
        &mut self,
        gang: &GangKey,
        waiting: &[Waiting],
        assignment: &Assignment,
        whole: bool,
        attempt: &mut Attempt,
    ) {
        for (pod, _) in waiting {
            self.unsay(&pod.key);
        }
        let Some(group) = self.groups.get_mut(gang) else { return };
        group.half_bound = whole;
        group.whole &= !whole;
        group.stuck_since = None;
        for ((pod, shape), node) in waiting.iter().zip(&assignment.nodes) {
            let Some(node) = node else { continue };
            self.cache.assume(&pod.key, node);
            self.decider.observe(shape, 1);
            group.mark(&pod.key, MemberAt::Binding);
            attempt.actions.push(Action::Bind(Binding {
                pod: pod.key.clone(),
                uid: Arc::clone(&pod.uid),
                node: Arc::clone(node),
                gang: Some(gang.clone()),
            }));
        }
        self.pods_moved();
    }

    /// Not all that it takes is there. Its members are told after a while: pods of a gang come one after the other.
    fn wait_for_parts(
        &mut self,
        gang: &GangKey,
        order: Order,
        why: &Arc<str>,
        now: Duration,
        attempt: &mut Attempt,
    ) -> Outcome {
        let work = Work::Gang(gang.clone());
        if self.groups.get(gang).is_none_or(|group| !group.half_bound) {
            self.give_back(&work, attempt);
        }
        let Some(group) = self.groups.get_mut(gang) else { return Outcome::Nothing };
        let due = *group.incomplete_since.get_or_insert(now) + self.settings.reword;
        let half_bound = group.half_bound;
        self.queue.wait(work, order, Some(Arc::clone(why)), Some(due).filter(|due| *due > now));
        if due <= now {
            self.tell_group(gang, why, now, attempt);
        }
        if half_bound {
            return self.complete_or_undo(gang, order, why, now, attempt);
        }
        Outcome::Incomplete
    }

    /// The rest of a half-bound gang cannot be had: after a while the members that are bound are evicted, so that the
    /// gang is whole or nothing again.
    fn complete_or_undo(
        &mut self,
        gang: &GangKey,
        order: Order,
        why: &str,
        now: Duration,
        attempt: &mut Attempt,
    ) -> Outcome {
        let work = Work::Gang(gang.clone());
        let Some(group) = self.groups.get_mut(gang) else { return Outcome::Nothing };
        let give_up = *group.stuck_since.get_or_insert(now) + self.settings.patience;
        if now < give_up {
            self.queue.at_latest(&work, order, give_up);
            return Outcome::Nothing;
        }
        let bound: Vec<Arc<PodFacts>> = group.bound().filter_map(|pod| self.cache.pod(pod)).cloned().collect();
        let count = group.members().filter(|(_, at)| *at != MemberAt::Out).count();
        let message: Arc<str> = Arc::from(format!("{} of {count} members are bound; {why}", bound.len()));
        for pod in bound.iter().filter(|pod| !pod.finished) {
            attempt.actions.push(Action::Evict {
                pod: pod.key.clone(),
                uid: Arc::clone(&pod.uid),
                preemptor: None,
                message: Arc::clone(&message),
            });
            self.evicting.insert(pod.key.clone(), Vec::new());
            group.mark(&pod.key, MemberAt::Out);
        }
        group.half_bound = false;
        group.stuck_since = None;
        if let Some(on) = self.object_of(gang).or_else(|| bound.first().map(|pod| pod_object(pod))) {
            let reason = event_reason::GANG_UNDONE.to_owned();
            attempt.actions.push(Action::Tell { on, warning: true, reason, message });
        }
        self.cache.release(&work, |_| true);
        self.freed();
        self.queue_gang(gang);
        Outcome::Undone
    }

    /// Where a pod stands in its gang may have changed.
    pub(super) fn set_member(&mut self, pod: &PodFacts) {
        let Some(key) = Group::key_of(pod).filter(|_| pod.ours) else { return };
        let assumed = self.cache.assumed(&pod.key).is_some();
        let evicted = self.evicting.contains_key(&pod.key);
        self.groups.entry(key).or_insert_with_key(|key| Group::new(key.clone())).set(pod, assumed, evicted);
    }

    /// A pod is gone, or names this gang no more.
    pub(super) fn drop_member(&mut self, gang: &GangKey, pod: &PodFacts) {
        if let Some(group) = self.groups.get_mut(gang) {
            group.remove(&pod.key);
            if group.is_empty() {
                self.groups.remove(gang);
            }
        }
        self.queue_gang(gang);
    }
}

/// What the members of a gang wait for that needs an object and has none.
fn no_object(group: &Group) -> Option<String> {
    match group.key.kind {
        GangKind::Label => None,
        GangKind::PodGroup if group.object.is_some() => None,
        GangKind::PodGroup => Some(format!("the PodGroup {} does not exist", group.key.key.name)),
        GangKind::Object => Some(format!(
            "the Gang {} does not exist; a gang without one needs the annotation atoll.dev/gang-size",
            group.key.key.name
        )),
    }
}
