//! Taking in what is seen on the Site.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::member::{Gang, Member, Pod, Slice};

use super::State;
use crate::inventory::Ailing;
use crate::naming::SliceId;
use crate::runtime::Observation;

impl State {
    /// Takes in what was seen on the Site at `now`.
    pub(in crate::manager) fn observe(&mut self, observation: Observation, now: Duration) {
        match observation {
            Observation::AllNamespaces(all) => {
                self.listed.namespaces = true;
                let gone: Vec<String> =
                    self.namespaces.keys().filter(|uid| !all.iter().any(|(other, _)| other == *uid)).cloned().collect();
                for uid in gone {
                    self.set_namespace(uid, None);
                }
                for (uid, stopping) in all {
                    self.set_namespace(uid, Some(stopping));
                }
            }
            Observation::Namespace(uid, stopping) => self.set_namespace(uid, stopping),
            Observation::AllGangs(all) => {
                self.listed.gangs = true;
                let listed: BTreeSet<&SliceId> = all.iter().map(|(id, _, _)| id).collect();
                for (id, entry) in &mut self.slices {
                    if entry.slice.gang.is_some() && !listed.contains(id) {
                        entry.slice.gang = None;
                        self.dirty.insert(id.clone());
                    }
                }
                for (id, version, gang) in all {
                    self.set_gang(id, version, Some(gang));
                }
            }
            Observation::Gang(id, version, gang) => self.set_gang(id, version, gang),
            Observation::AllPods(all) => {
                self.listed.pods = true;
                let listed: BTreeSet<(&SliceId, Member)> = all.iter().map(|(id, member, _)| (id, *member)).collect();
                let gone: Vec<(SliceId, Member)> = self
                    .slices
                    .iter()
                    .flat_map(|(id, entry)| entry.slice.pods.keys().map(move |member| (id, entry, *member)))
                    .filter(|(id, entry, member)| {
                        !listed.contains(&(id, *member)) && !entry.unconfirmed.contains(member)
                    })
                    .map(|(id, _, member)| (id.clone(), member))
                    .collect();
                for (id, member) in gone {
                    self.set_pod(id, member, None, now);
                }
                for (id, member, pod) in all {
                    self.set_pod(id, member, Some(pod), now);
                }
            }
            Observation::Pod(id, member, pod) => self.set_pod(id, member, pod, now),
        }
    }

    fn set_namespace(&mut self, uid: String, stopping: Option<bool>) {
        match stopping {
            Some(stopping) => self.namespaces.entry(uid.clone()).or_default().stopping = stopping,
            None => drop(self.namespaces.remove(&uid)),
        }
        self.touch_cluster(&uid);
        self.dirty_clusters.insert(uid);
    }

    fn set_gang(&mut self, id: SliceId, version: u64, gang: Option<Gang>) {
        if gang.is_none() && !self.slices.contains_key(&id) {
            return;
        }
        let entry = self.slices.entry(id.clone()).or_default();
        if version >= entry.gang_version {
            entry.gang_version = version;
            entry.slice.gang = gang;
            self.dirty.insert(id);
        }
    }

    fn set_pod(&mut self, id: SliceId, member: Member, pod: Option<Pod>, now: Duration) {
        if pod.is_none() && !self.slices.contains_key(&id) {
            return;
        }
        let entry = self.slices.entry(id.clone()).or_default();
        entry.unconfirmed.remove(&member);
        entry.attempted.remove(&member);
        entry.slice.started.insert(member);
        let before = entry.slice.pods.remove(&member);
        if let Some(mut pod) = pod {
            // An end is final: being deleted afterwards does not change how it ended.
            if let Some(before) = before.filter(|before| before.phase.is_over()) {
                (pod.phase, pod.reason, pod.message) = (before.phase, before.reason, before.message);
                pod.abandoned = before.abandoned;
            }
            if pod.phase.is_over() {
                self.strangers.remove(&(id.clone(), member));
            }
            if !self.ailing.is_empty()
                && !pod.phase.is_over()
                && let Some(what) = self.ailing.get(&(id.site_namespace(), member))
            {
                entry.slice.ailing.insert(member, what.clone());
            }
            entry.slice.orphans.remove(&member);
            entry.slice.pods.insert(member, pod);
            self.dirty.insert(id);
            return;
        }
        match before {
            Some(before) if before.phase.is_over() => {
                entry.slice.ended.insert(member, before);
                self.strangers.remove(&(id.clone(), member));
            }
            before => {
                entry.slice.ailing.remove(&member);
                let node = before.and_then(|before| before.node);
                if !node.is_some_and(|node| self.orphan(&id, member, node, now)) {
                    self.strangers.remove(&(id.clone(), member));
                }
            }
        }
        // A sibling may wait for this rank.
        self.touch_cluster(&id.cluster_uid);
    }

    /// Takes in which members hold GPUs that are Unhealthy. What is known of one that has ended stays: that it holds
    /// nothing any more does not make its end another.
    pub(in crate::manager) fn set_ailing(&mut self, ailing: Arc<Ailing>) {
        let before = std::mem::replace(&mut self.ailing, ailing);
        let after = &self.ailing;
        let differ = before
            .iter()
            .filter(|(key, what)| after.get(key) != Some(*what))
            .chain(after.iter().filter(|(key, _)| !before.contains_key(key)));
        let namespaces: BTreeSet<&String> = differ.map(|((namespace, _), _)| namespace).collect();
        if namespaces.is_empty() {
            return;
        }
        for (id, entry) in &mut self.slices {
            let namespace = id.site_namespace();
            if !namespaces.contains(&namespace) {
                continue;
            }
            let Slice { pods, ended, ailing, .. } = &mut entry.slice;
            ailing.retain(|member, _| pods.contains_key(member) || ended.contains_key(member));
            for member in pods.iter().filter(|(_, pod)| !pod.phase.is_over()).map(|(member, _)| *member) {
                match after.get(&(namespace.clone(), member)) {
                    Some(what) => drop(ailing.insert(member, what.clone())),
                    None => drop(ailing.remove(&member)),
                }
            }
            self.dirty.insert(id.clone());
        }
    }
}
