//! What the nodes' watchdogs say, and what follows from it.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_api::conditions::member_reason;
use atoll_core::member::{Member, Orphan, Phase, Placed, Slice, Wish};
use atoll_core::nodes::{Nodes, Running, SILENCE};

use super::{State, times};
use crate::naming::SliceId;

/// What is known of the watchdogs.
#[derive(Default)]
pub(super) struct Watchdogs {
    nodes: Nodes,
    /// Nodes with a watchdog, and whether that is news.
    present: BTreeSet<String>,
    news: bool,
    /// When to look next whether one has fallen silent.
    look: Duration,
    /// Nodes whose word was not compared with the Site's pods yet.
    unread: BTreeSet<String>,
    /// What was bound to nodes before this process began was compared with the Site's pods.
    begun: bool,
}

impl Watchdogs {
    /// How many nodes have one.
    pub(super) fn len(&self) -> usize {
        self.present.len()
    }
}

impl State {
    /// Knows nothing yet, and listens to watchdogs.
    pub(in crate::manager) fn watched() -> Self {
        Self { watchdogs: Some(Watchdogs::default()), ..Self::default() }
    }

    /// The hub has granted a lease to this process.
    pub(in crate::manager) fn grant(&mut self, now: Duration) {
        if let Some(watchdogs) = &mut self.watchdogs {
            watchdogs.nodes.grant(now);
        }
    }

    /// A watchdog asks, and says what runs on its node.
    pub(in crate::manager) fn ask(&mut self, node: &str, boot_id: &str, running: Vec<Running>, now: Duration) {
        let Some(watchdogs) = &mut self.watchdogs else { return };
        watchdogs.nodes.ask(node, boot_id, running, now);
        watchdogs.news |= watchdogs.present.insert(node.to_owned());
        watchdogs.unread.insert(node.to_owned());
    }

    /// A watchdog is about to be answered with a lease.
    pub(in crate::manager) fn answer(&mut self, node: &str, now: Duration) {
        if let Some(watchdogs) = &mut self.watchdogs {
            watchdogs.nodes.answer(node, now);
        }
    }

    /// Nodes with a watchdog, if others than before.
    pub(in crate::manager) fn take_watched(&mut self) -> Option<BTreeSet<String>> {
        let watchdogs = self.watchdogs.as_mut()?;
        std::mem::take(&mut watchdogs.news).then(|| watchdogs.present.clone())
    }

    /// Takes in which nodes are not Ready.
    pub(in crate::manager) fn set_lost(&mut self, lost: &BTreeSet<String>, now: Duration) {
        let since = |node: &String| self.lost.get(node).copied().unwrap_or(now);
        self.lost = lost.iter().map(|node| (node.clone(), since(node))).collect();
    }

    /// UIDs of pods that run on a node and that the Site's API does not show any more. None before the hub has said what it
    /// lists: until then nothing tells whose they are.
    pub(in crate::manager) fn to_kill(&self, node: &str) -> Vec<String> {
        if !self.is_listed() || !self.was_synced {
            return Vec::new();
        }
        let running = self.watchdogs.iter().flat_map(|watchdogs| watchdogs.nodes.running(node));
        running.filter(|running| !self.may_have_pod(running)).map(|running| running.pod_uid.clone()).collect()
    }

    /// Whether a pod of the member is there, or being made.
    fn may_have_pod(&self, running: &Running) -> bool {
        let Running { cluster_uid, member, .. } = running;
        self.of_cluster(cluster_uid)
            .any(|(_, entry)| entry.slice.pods.contains_key(member) || entry.attempted.contains(member))
    }

    /// A pod vanished from `node` without its kubelet's word. False: nothing of it can run there.
    pub(super) fn orphan(&mut self, id: &SliceId, member: Member, node: String, now: Duration) -> bool {
        let (Some(watchdogs), Some(entry)) = (&self.watchdogs, self.slices.get_mut(id)) else { return false };
        let orphan = Orphan { node, since: now };
        let may_run = watchdogs.nodes.may_run(&id.cluster_uid, member, &orphan, times(&entry.slice), now);
        if may_run {
            tracing::warn!(slice = %id.name, rank = member.rank, node = orphan.node, "a pod vanished that may still run");
            entry.slice.orphans.insert(member, orphan);
        }
        may_run
    }

    /// When something changes next because a node stays silent.
    pub(super) fn next_of_watchdogs(&self, now: Duration) -> Option<Duration> {
        let Watchdogs { nodes, look, present, .. } = self.watchdogs.as_ref()?;
        let look = (!present.is_empty()).then_some(*look);
        let ends = self.slices.values().flat_map(|entry| {
            let pods = entry.slice.pods.values().filter(|_| !self.lost.is_empty());
            let lost = pods.filter_map(|pod| pod.node.as_ref()).filter(|node| self.lost.contains_key(*node));
            let orphaned = entry.slice.orphans.values().map(|orphan| &orphan.node);
            lost.chain(orphaned).filter_map(|node| nodes.end(node, times(&entry.slice)))
        });
        ends.filter(|at| *at > now).chain(look).min()
    }

    /// What every watchdog has said is to be compared with the Site's pods again.
    pub(super) fn adopt_all(&mut self) {
        if let Some(watchdogs) = &mut self.watchdogs {
            watchdogs.unread.extend(watchdogs.present.iter().cloned());
        }
    }

    /// Finds out who may still run, and who does not any more.
    pub(super) fn settle(&mut self, now: Duration) {
        let Some(watchdogs) = &mut self.watchdogs else { return };
        if now >= watchdogs.look {
            let present: BTreeSet<String> = watchdogs.nodes.watched(now).map(ToOwned::to_owned).collect();
            watchdogs.news |= present != watchdogs.present;
            watchdogs.present = present;
            watchdogs.look = watchdogs.nodes.next_silence(now).unwrap_or(now + SILENCE);
            self.strays.retain(|node, _| watchdogs.present.contains(node));
        }
        let unread = std::mem::take(&mut watchdogs.unread);
        if !std::mem::replace(&mut watchdogs.begun, true) {
            self.begin_with_orphans(now);
        }
        for node in unread {
            self.adopt(node, now);
        }
        self.release(now);
        self.give_up(now);
    }

    /// Who was bound before this process began and has no pod now vanished while nobody watched.
    fn begin_with_orphans(&mut self, now: Duration) {
        let missing = self.slices.iter().flat_map(|(id, entry)| {
            let gang = entry.slice.gang.iter();
            let bound = gang.flat_map(|gang| gang.members.iter().filter(|placed| gang.bound.contains(&placed.member)));
            bound
                .filter(|placed| !entry.slice.pods.contains_key(&placed.member))
                .map(|placed| (id.clone(), placed.member, placed.node.clone()))
        });
        for (id, member, node) in missing.collect::<Vec<_>>() {
            self.orphan(&id, member, node, now);
        }
    }

    /// Who runs on a node without a pod is an orphan of its slice, or a stray.
    fn adopt(&mut self, node: String, now: Duration) {
        let Some(watchdogs) = &self.watchdogs else { return };
        let without: Vec<Running> =
            watchdogs.nodes.running(&node).filter(|running| !self.may_have_pod(running)).cloned().collect();
        let mut strays = BTreeSet::new();
        for Running { cluster_uid, member, .. } in without {
            let slices = || self.of_cluster(&cluster_uid);
            // What its kubelet has said goes before a word that may be older.
            let is_known = |slice: &Slice| slice.ended.contains_key(&member) || slice.orphans.contains_key(&member);
            if slices().any(|(_, entry)| is_known(&entry.slice)) {
                continue;
            }
            let owner = slices().find(|(_, entry)| concerns(&entry.slice, member)).or_else(|| slices().next());
            let Some(id) = owner.map(|(id, _)| id.clone()) else {
                strays.insert((cluster_uid, member));
                continue;
            };
            let Some(entry) = self.slices.get_mut(&id) else { continue };
            tracing::warn!(slice = %id.name, rank = member.rank, incarnation = member.incarnation, node, "runs without a pod");
            entry.slice.orphans.insert(member, Orphan { node: node.clone(), since: now });
            entry.slice.started.insert(member);
            self.touch_cluster(&cluster_uid);
        }
        if strays.is_empty() {
            self.strays.remove(&node);
        } else if self.strays.get(&node) != Some(&strays) {
            tracing::warn!(node, ?strays, "members of no slice run there");
            self.strays.insert(node, strays);
        }
    }

    /// Orphans of which nothing runs any more are gone.
    fn release(&mut self, now: Duration) {
        let Some(Watchdogs { nodes, .. }) = &self.watchdogs else { return };
        let mut released = BTreeSet::new();
        for (id, entry) in self.slices.iter_mut().filter(|(_, entry)| !entry.slice.orphans.is_empty()) {
            let times = times(&entry.slice);
            entry.slice.orphans.retain(|member, orphan| {
                let may_run = nodes.may_run(&id.cluster_uid, *member, orphan, times, now);
                if !may_run {
                    self.strangers.remove(&(id.clone(), *member));
                    released.insert(id.cluster_uid.clone());
                }
                may_run
            });
        }
        for cluster_uid in released {
            self.touch_cluster(&cluster_uid);
        }
    }

    /// Pods whose Node is lost, and of which nothing runs any more, are lost with it.
    ///
    /// A pod that is to run is not given up on its watchdog's word alone: it may have ended well, and its kubelet is still
    /// to say so.
    fn give_up(&mut self, now: Duration) {
        let Some(Watchdogs { nodes, .. }) = &self.watchdogs else { return };
        if self.lost.is_empty() {
            return;
        }
        for (id, entry) in &mut self.slices {
            let times = times(&entry.slice);
            for (member, pod) in entry.slice.pods.iter_mut().filter(|(_, pod)| !pod.phase.is_over()) {
                let Some((node, since)) = pod.node.as_ref().and_then(|node| self.lost.get_key_value(node)) else {
                    continue;
                };
                let orphan = Orphan { node: node.clone(), since: *since };
                let ended = nodes.end(node, times).is_some_and(|end| now >= end)
                    || (pod.stopping && !nodes.may_run(&id.cluster_uid, *member, &orphan, times, now));
                if nodes.has_answered(node) && ended {
                    tracing::warn!(slice = %id.name, rank = member.rank, node, "lost with its node");
                    pod.phase = Phase::Lost;
                    pod.abandoned = true;
                    pod.reason = Some(member_reason::LOST.to_owned());
                    pod.message = Some(format!("its node {node} is lost, and no lease keeps it running there"));
                    self.strangers.remove(&(id.clone(), *member));
                    self.dirty.insert(id.clone());
                }
            }
        }
    }
}

/// Whether a slice says anything of the member.
fn concerns(slice: &Slice, member: Member) -> bool {
    let names = |members: &[Placed]| members.iter().any(|placed| placed.member == member);
    let wanted = match &slice.wish {
        Wish::Wanted(wanted) => names(&wanted.members),
        Wish::Unsaid | Wish::Dropped => false,
    };
    let of_gang = slice.gang.as_ref().is_some_and(|gang| names(&gang.members) || gang.bound.contains(&member));
    wanted || of_gang || slice.started.contains(&member)
}
