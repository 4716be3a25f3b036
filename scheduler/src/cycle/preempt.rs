//! Who makes room for what does not fit otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::{Aside, Assignment, Budget, Evictee, OccupantId, Unit, preempt};

use super::ask::Ask;
use super::messages::event_reason;
use super::nominees::Preemption;
use super::{Action, Attempt, GangKey, GangKind, Nominate, Object, ObjectKind, Scheduler};
use crate::gangs::Group;
use crate::objects::{ObjectKey, PodFacts};

/// What goes as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Gang(GangKey),
    Pod(ObjectKey),
}

/// Who may go, with their pods by rank.
struct Leaving {
    who: Who,
    pods: Vec<Arc<PodFacts>>,
}

#[derive(Default)]
struct Candidate<'a> {
    pods: Vec<(&'a Arc<PodFacts>, OccupantId)>,
    /// One of its pods must stay.
    stays: bool,
}

impl Scheduler {
    /// Has others evicted so that it fits, keeps the room for it and waits until they are gone. False when nobody of
    /// lower priority can help.
    pub(super) fn preempt(&mut self, ask: &Ask, message: &Arc<str>, now: Duration, attempt: &mut Attempt) -> bool {
        if !self.cache.has_lower(ask.priority) {
            return false;
        }
        if self.waits_for_ending(ask, message, now, attempt) {
            return true;
        }
        let candidates = self.candidates(ask.priority);
        if candidates.is_empty() {
            return false;
        }
        let (leaving, units): (Vec<Leaving>, Vec<Unit>) = candidates.into_iter().unzip();
        let allowed = |allowed: i32| Budget { allowed: u32::try_from(allowed).unwrap_or(0) };
        let budgets: Vec<Budget> = self.budgets.values().map(|budget| allowed(budget.allowed)).collect();
        let nodes = self.cache.nodes_mut();
        let Some(found) = preempt(&mut self.decider, nodes, &ask.request, &units, &budgets) else {
            return false;
        };
        let for_whom = ask.work.to_string();
        let mut victims = BTreeSet::new();
        for unit in found.units {
            if let Some(leaving) = leaving.get(unit) {
                self.evict(leaving, &for_whom, ask, attempt);
                victims.extend(leaving.pods.iter().map(|pod| pod.key.clone()));
            }
        }
        self.nominate(ask, &found.assignment, victims, message, now, attempt);
        true
    }

    /// Whether it fits once those are gone that end anyway, because they are deleted or evicted for it before this
    /// process was started: then it waits for them, and nobody else has to go.
    fn waits_for_ending(&mut self, ask: &Ask, message: &Arc<str>, now: Duration, attempt: &mut Attempt) -> bool {
        let ending = self.cache.seated().filter(|(pod, ..)| pod.deleting || self.evicting.contains_key(&pod.key));
        let ending: Vec<(ObjectKey, OccupantId)> = ending.map(|(pod, id, _)| (pod.key.clone(), id)).collect();
        if ending.is_empty() {
            return false;
        }
        let nodes = self.cache.nodes_mut();
        let on: Vec<_> = ending.iter().map(|(_, id)| nodes.occupant(*id).map(|(ix, _)| ix)).collect();
        let aside: Vec<Aside> = ending.iter().filter_map(|(_, id)| nodes.set_aside(*id)).collect();
        let decided = self.decider.decide(nodes, &ask.request);
        for pod in aside {
            nodes.put_back(pod);
        }
        let Ok(assignment) = decided else { return false };
        let wanted: BTreeSet<_> = assignment.nodes.iter().flatten().filter_map(|node| nodes.ix(node)).collect();
        let awaited = ending.into_iter().zip(on).filter(|(_, on)| on.is_some_and(|ix| wanted.contains(&ix)));
        let victims: BTreeSet<ObjectKey> = awaited.map(|((pod, _), _)| pod).collect();
        if victims.is_empty() {
            return false;
        }
        self.nominate(ask, &assignment, victims, message, now, attempt);
        true
    }

    /// Keeps room where somebody ends, until they are gone.
    fn nominate(
        &mut self,
        ask: &Ask,
        assignment: &Assignment,
        victims: BTreeSet<ObjectKey>,
        message: &Arc<str>,
        now: Duration,
        attempt: &mut Attempt,
    ) {
        for ((pod, member), node) in ask.pods.iter().zip(&ask.request.members).zip(&assignment.nodes) {
            if let Some(node) = node {
                self.cache.hold(&ask.work, pod, node, &member.shape);
            }
        }
        for victim in &victims {
            self.evicting.entry(victim.clone()).or_default().push(ask.work.clone());
        }
        self.nominees.insert((ask.priority, ask.work.clone()));
        self.preemptions.insert(ask.work.clone(), Preemption { victims, message: Arc::clone(message) });
        let waits = self.awaited(&ask.work);
        for ((index, pod), node) in ask.pods.iter().enumerate().zip(&assignment.nodes) {
            if let (Some(node), Some(waits)) = (node, &waits) {
                self.tell(pod, waits, &Nominate::Node(Arc::clone(node)), index == 0, now, attempt);
            }
        }
        self.queue.wait(ask.work.clone(), ask.order, waits, Some(now + super::ask::MEANWHILE));
    }

    /// Whole gangs and single pods of lower priority.
    fn candidates(&self, priority: i32) -> Vec<(Leaving, Unit)> {
        let mut all: BTreeMap<Who, Candidate<'_>> = BTreeMap::new();
        for (pod, id, assumed) in self.cache.seated() {
            if pod.deleting || self.evicting.contains_key(&pod.key) {
                continue;
            }
            let candidate = all.entry(self.goes_with(pod)).or_default();
            candidate.stays |= assumed || self.priority_of(pod) >= priority || self.spared.contains(&pod.key);
            candidate.pods.push((pod, id));
        }
        let leave = all.into_iter().filter(|(_, candidate)| !candidate.stays);
        leave
            .map(|(who, candidate)| {
                let unit = Unit {
                    priority: candidate.pods.iter().map(|(pod, _)| self.priority_of(pod)).max().unwrap_or(priority),
                    pods: candidate
                        .pods
                        .iter()
                        .map(|(pod, id)| Evictee { id: *id, budgets: self.budgets_of(pod) })
                        .collect(),
                    started: candidate
                        .pods
                        .iter()
                        .map(|(pod, _)| pod.started.unwrap_or(pod.created))
                        .min()
                        .unwrap_or_default(),
                };
                let mut pods: Vec<Arc<PodFacts>> = candidate.pods.iter().map(|(pod, _)| Arc::clone(pod)).collect();
                pods.sort_unstable_by(|a, b| (a.rank, &a.key).cmp(&(b.rank, &b.key)));
                (Leaving { who, pods }, unit)
            })
            .collect()
    }

    /// That of its `PodGroup` goes before its own.
    fn priority_of(&self, pod: &PodFacts) -> i32 {
        let group = Group::key_of(pod).filter(|gang| gang.kind == GangKind::PodGroup);
        let object = group.and_then(|gang| self.groups.get(&gang)).and_then(|group| group.object.as_ref());
        object.and_then(|object| object.priority).unwrap_or(pod.priority)
    }

    fn goes_with(&self, pod: &PodFacts) -> Who {
        match Group::key_of(pod) {
            Some(gang) if gang.kind == GangKind::PodGroup => {
                let whole = self.groups.get(&gang).and_then(|group| group.object.as_ref());
                if whole.is_some_and(|object| object.whole) { Who::Gang(gang) } else { Who::Pod(pod.key.clone()) }
            }
            Some(gang) => Who::Gang(gang),
            None => Who::Pod(pod.key.clone()),
        }
    }

    fn budgets_of(&self, pod: &PodFacts) -> Vec<usize> {
        let protects = self.budgets.values().enumerate().filter(|(_, budget)| {
            budget.key.namespace == pod.key.namespace
                && budget.selector.matches(&pod.identity.labels)
                && !budget.disrupted.iter().any(|name| **name == *pod.key.name)
        });
        protects.map(|(index, _)| index).collect()
    }

    fn evict(&mut self, Leaving { who, pods }: &Leaving, for_whom: &str, ask: &Ask, attempt: &mut Attempt) {
        let message: Arc<str> = Arc::from(format!("makes room for {for_whom} of priority {}", ask.priority));
        for pod in pods {
            attempt.actions.push(Action::Evict {
                pod: pod.key.clone(),
                uid: Arc::clone(&pod.uid),
                preemptor: Some(Arc::from(for_whom)),
                message: Arc::clone(&message),
            });
            self.evicting.entry(pod.key.clone()).or_default();
            self.set_member(pod);
        }
        let first = pods.first();
        let on = match who {
            Who::Gang(gang) => self.object_of(gang).or_else(|| first.map(|pod| pod_object(pod))),
            Who::Pod(_) => first.map(|pod| pod_object(pod)),
        };
        if let Some(on) = on {
            let reason = event_reason::PREEMPTED.to_owned();
            attempt.actions.push(Action::Tell { on, warning: false, reason, message });
        }
    }

    /// The object that a gang has of its own.
    pub(super) fn object_of(&self, gang: &GangKey) -> Option<Object> {
        let (kind, uid) = match gang.kind {
            GangKind::Object => {
                (ObjectKind::Gang, Arc::from(self.objects.get(&gang.key).map(|entry| entry.facts.uid.as_str())?))
            }
            GangKind::PodGroup => (ObjectKind::PodGroup, Arc::clone(&self.groups.get(gang)?.object.as_ref()?.uid)),
            GangKind::Label => return None,
        };
        Some(Object { kind, key: gang.key.clone(), uid })
    }
}

pub(super) fn pod_object(pod: &PodFacts) -> Object {
    Object { kind: ObjectKind::Pod, key: pod.key.clone(), uid: Arc::clone(&pod.uid) }
}
