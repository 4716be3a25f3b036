//! What the scheduler hears.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::Helps;

use super::{Binding, Event, GangKey, GangKind, Scheduler};
use crate::gangs::{GangEntry, Group, MemberAt};
use crate::objects::{GangFacts, ObjectKey, PodFacts, PodGroupFacts};
use crate::queue::Work;

impl Scheduler {
    /// Takes in an event.
    pub fn handle(&mut self, event: Event, now: Duration) {
        match event {
            Event::Node(node) => {
                let name = node.name.clone();
                if self.cache.set_node(*node) {
                    self.node_changed(&name, Helps::NODES);
                }
            }
            Event::NodeGone(name) => {
                if self.cache.remove_node(&name) {
                    self.node_changed(&name, Helps::NODES);
                }
            }
            Event::NodeVolumes { node, limits } => self.volume_limits(&node, Some(limits)),
            Event::NodeVolumesGone(node) => self.volume_limits(&node, None),
            Event::Pod(pod) => self.pod(*pod),
            Event::PodGone(key) => self.pod_gone(&key),
            Event::Gang(facts) => {
                if self.started {
                    self.gang(*facts, now);
                } else {
                    self.unread.insert(facts.key.clone(), *facts);
                }
            }
            Event::GangGone(key) => {
                self.unread.remove(&key);
                self.gang_gone(&key);
            }
            Event::PodGroup(facts) => self.pod_group(*facts),
            Event::PodGroupGone(key) => self.pod_group_gone(key),
            Event::Budget(facts) => {
                self.budgets.insert(facts.key.clone(), *facts);
            }
            Event::BudgetGone(key) => {
                self.budgets.remove(&key);
            }
            Event::Namespace { name, labels } => self.namespace(&name, Some(labels)),
            Event::NamespaceGone(name) => self.namespace(&name, None),
            Event::Claim(facts) => {
                let key = facts.key.clone();
                let pods = self.cache.set_claim(&key, Some(*facts));
                self.volumes_changed(&pods);
            }
            Event::ClaimGone(key) => {
                let pods = self.cache.set_claim(&key, None);
                self.volumes_changed(&pods);
            }
            Event::Volume(facts) => {
                let name = facts.name.clone();
                let pods = self.cache.set_volume(&name, Some(*facts));
                self.volumes_changed(&pods);
            }
            Event::VolumeGone(name) => {
                let pods = self.cache.set_volume(&name, None);
                self.volumes_changed(&pods);
            }
            Event::Bound(binding) => self.bound(&binding),
            Event::NotBound { binding, retry_after } => self.not_bound(&binding, now + retry_after),
            // Its room is free when it is gone.
            Event::Evicted { .. } => {}
            Event::NotEvicted { pod, uid, .. } => self.not_evicted(&pod, &uid, now),
        }
    }

    /// Who is where has changed: affinities and spread constraints may look at it.
    pub(super) fn pods_moved(&mut self) {
        self.queue.tick(Helps::PODS);
    }

    fn node_changed(&mut self, name: &str, what: Helps) {
        self.queue.tick(what);
        self.queue_holders(name);
    }

    fn volume_limits(&mut self, node: &str, limits: Option<std::collections::BTreeMap<String, u32>>) {
        if self.cache.set_volume_limits(node, limits) {
            self.node_changed(node, Helps::NODES | Helps::VOLUMES);
        }
    }

    /// Those that hold room on a node look again whether they still can.
    fn queue_holders(&mut self, node: &str) {
        if self.started {
            for work in self.cache.holders_on(node) {
                self.queue_work(&work);
            }
        }
    }

    fn namespace(&mut self, name: &str, labels: Option<std::collections::BTreeMap<String, String>>) {
        if self.cache.set_namespace(name, labels) && self.started {
            self.cache.renew(Some(name));
            self.pods_moved();
        }
    }

    fn volumes_changed(&mut self, pods: &[ObjectKey]) {
        if !self.started || pods.is_empty() {
            return;
        }
        self.queue.tick(Helps::VOLUMES);
        for key in pods {
            let Some(pod) = self.cache.pod(key).filter(|pod| pod.waits()) else { continue };
            let work = Self::work_of(pod);
            self.queue_work(&work);
        }
    }

    fn pod(&mut self, pod: PodFacts) {
        let key = pod.key.clone();
        let change = self.cache.set_pod(pod);
        let Some(pod) = self.cache.pod(&key).cloned() else { return };
        if change.freed {
            self.freed();
        }
        if change.moved {
            self.pods_moved();
        }
        let before = change.before.as_deref();
        if before.is_some_and(|before| !is_news(before, &pod)) {
            return;
        }
        if before.is_some_and(|before| before.uid != pod.uid) {
            self.forget_pod(&key);
        }
        self.spared.remove(&key);
        if pod.finished {
            self.victim_settled(&key);
        }
        self.set_member(&pod);
        let left = before.filter(|before| before.ours).and_then(Group::key_of);
        let gang = Group::key_of(&pod).filter(|_| pod.ours);
        if let (Some(left), Some(before)) = (left.filter(|left| gang.as_ref() != Some(left)), before) {
            self.drop_member(&left, before);
        }
        if !self.started {
            return;
        }
        if !pod.ours {
            self.note_nominee(&pod);
            if let Some(node) = pod.occupies()
                && before.is_none_or(|before| before.occupies() != Some(node))
            {
                self.queue_holders(&node.clone());
            }
        }
        match gang {
            Some(gang) => {
                self.queue.remove(&Work::Pod(key));
                self.queue_gang(&gang);
            }
            None => self.queue_pod(&key),
        }
    }

    fn pod_gone(&mut self, key: &ObjectKey) {
        let change = self.cache.remove_pod(key);
        if change.freed {
            self.freed();
            self.pods_moved();
        }
        let Some(pod) = change.before else { return };
        self.forget_pod(key);
        let work = Self::work_of(&pod);
        if self.cache.release(&work, |held| held == key).is_empty() {
            // Nothing was held for it.
        } else {
            self.freed();
            if self.cache.holds(&work).next().is_none() {
                self.end_preemption(&work);
            }
        }
        self.queue.remove(&Work::Pod(key.clone()));
        if let Work::Gang(gang) = &work {
            self.drop_member(gang, &pod);
        }
    }

    /// What was known of a pod that is no more.
    fn forget_pod(&mut self, key: &ObjectKey) {
        self.said.remove(key);
        self.spared.remove(key);
        self.victim_settled(key);
    }

    pub(super) fn gang(&mut self, facts: GangFacts, now: Duration) {
        let key = facts.key.clone();
        let gang = GangKey { kind: GangKind::Object, key: key.clone() };
        if self.objects.get(&key).is_some_and(|entry| entry.facts.uid != facts.uid) || facts.deleting {
            self.gang_gone(&key);
        }
        if facts.deleting {
            return;
        }
        if let Some(entry) = self.objects.get_mut(&key) {
            if entry.update(facts) {
                self.queue_gang(&gang);
            }
            return;
        }
        let mut entry = GangEntry::restore(facts, &mut self.cache, now);
        entry.look(&self.cache);
        if let Some(at) = entry.hold.expires_at() {
            self.expiries.insert((at, key.clone()));
        }
        if self.cache.holds(&entry.work()).next().is_some() {
            self.taken_over.insert((entry.facts.created, key.clone()));
        }
        self.objects.insert(key, entry);
        self.queue_gang(&gang);
    }

    fn gang_gone(&mut self, key: &ObjectKey) {
        let work = Work::Gang(GangKey { kind: GangKind::Object, key: key.clone() });
        if let Some(entry) = self.objects.remove(key) {
            self.taken_over.remove(&(entry.facts.created, key.clone()));
        }
        self.queue.remove(&work);
        self.end_preemption(&work);
        if !self.cache.release(&work, |_| true).is_empty() {
            self.freed();
        }
        // Its pods, if there are any, wait for it to come back.
        if self.started {
            self.queue_work(&work);
        }
    }

    fn pod_group(&mut self, facts: PodGroupFacts) {
        let key = GangKey { kind: GangKind::PodGroup, key: facts.key.clone() };
        let group = self.groups.entry(key.clone()).or_insert_with_key(|key| Group::new(key.clone()));
        if group.object.as_ref().is_some_and(|known| known.uid != facts.uid) {
            group.written = None;
        }
        group.object = Some(facts);
        if self.started {
            self.queue_gang(&key);
        }
    }

    fn pod_group_gone(&mut self, key: ObjectKey) {
        let key = GangKey { kind: GangKind::PodGroup, key };
        let Some(group) = self.groups.get_mut(&key) else { return };
        group.object = None;
        group.written = None;
        if group.is_empty() {
            self.groups.remove(&key);
        }
        if self.started {
            self.queue_gang(&key);
        }
    }

    fn bound(&mut self, binding: &Binding) {
        let Some(gang) = &binding.gang else { return };
        let uid = self.cache.pod(&binding.pod).map(|pod| &pod.uid);
        if let Some(group) = self.groups.get_mut(gang)
            && uid == Some(&binding.uid)
            && group.at(&binding.pod) == Some(MemberAt::Binding)
        {
            group.mark(&binding.pod, MemberAt::Bound);
        }
        if gang.kind == GangKind::Object
            && let Some(entry) = self.objects.get_mut(&gang.key)
        {
            // A gang that was made anew under the name does not know the bindings of the one before.
            if entry.binding.remove(&*binding.pod.name) {
                entry.note_bound(&binding.pod.name, &binding.node);
            }
            if !entry.binding.is_empty() {
                return;
            }
        }
        self.queue_gang(gang);
    }

    fn not_bound(&mut self, binding: &Binding, until: Duration) {
        let forgotten = self.cache.forget(&binding.pod, &binding.uid);
        if forgotten {
            self.pods_moved();
        }
        let pod = self.cache.pod(&binding.pod).filter(|pod| pod.uid == binding.uid).cloned();
        let Some(gang) = &binding.gang else {
            self.freed();
            if let Some(pod) = pod.filter(|pod| pod.waits() && pod.gang.is_none()) {
                self.queue.delay(Work::Pod(binding.pod.clone()), Self::pod_order(&pod), until);
            }
            return;
        };
        if let Some(pod) = &pod {
            self.set_member(pod);
        }
        let work = Work::Gang(gang.clone());
        let order = if gang.kind == GangKind::Object
            && let Some(entry) = self.objects.get_mut(&gang.key)
        {
            entry.binding.remove(&*binding.pod.name);
            Self::object_order(entry)
        } else if let Some(group) = self.groups.get(gang) {
            self.group_order(group)
        } else {
            self.freed();
            return;
        };
        match pod {
            // Nobody else gets the room that a half-bound gang needs.
            Some(pod) if forgotten && pod.waits() => {
                let shape = self.cache.shape(&pod.key).and_then(Result::ok).cloned();
                self.cache.hold(&work, &pod.key, &binding.node, &shape.unwrap_or_else(|| Arc::clone(&pod.shape)));
            }
            _ => self.freed(),
        }
        self.queue.delay(work, order, until);
    }
}

/// Whether anything changed that matters here. Our own words in a pod's condition and its nomination do not.
fn is_news(before: &PodFacts, now: &PodFacts) -> bool {
    let mine = |pod: &PodFacts| (pod.ours, pod.finished, pod.deleting, pod.gated, pod.preempts, pod.priority, pod.rank);
    let nominated = |pod: &PodFacts| if pod.ours { None } else { pod.nominated.clone() };
    mine(before) != mine(now)
        || before.uid != now.uid
        || before.node != now.node
        || before.gang != now.gang
        || before.shape != now.shape
        || before.claims != now.claims
        || before.identity != now.identity
        || before.not_supported != now.not_supported
        || before.topology != now.topology
        || before.duration != now.duration
        || nominated(before) != nominated(now)
}
