//! What the manager knows, and the tasks that follow from it. No IO: time comes in as arguments.

mod seen;
mod watchdogs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::DisconnectionTimes;
use atoll_core::lease::{self, Times};
use atoll_core::member::{self, Action, Around, Member, Namespace, Phase, Pod, Report, Slice, Wish};
use atoll_wire::digest;
use atoll_wire::v1::SliceDigest;

use super::HubEvent;
use crate::convert::{self, SpecError};
use crate::inventory::Ailing;
use crate::metrics::Metrics;
use crate::naming::SliceId;
use crate::runtime::{Outcome, SliceSpec};
use watchdogs::Watchdogs;

/// Something to be done on the Site.
#[derive(Debug)]
pub(super) enum Task {
    Apply { id: SliceId, spec: Option<Arc<SliceSpec>>, remember: u64, actions: Vec<Action> },
    RemoveNamespace(String),
}

/// Why a message of the hub is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum HearError {
    #[error("slice {name}: {error}")]
    Spec { name: String, error: SpecError },
    #[error("slice {name} of epoch {epoch}, generation {generation} is older than what is known")]
    Older { name: String, epoch: u64, generation: i64 },
}

#[derive(Default)]
struct Entry {
    slice: Slice,
    spec: Option<Arc<SliceSpec>>,
    digest: Vec<u8>,
    gang_version: u64,
    /// Created by this process and not seen in the watch yet: a list that lacks them is older than they are.
    unconfirmed: BTreeSet<Member>,
    /// Whose creation this process has asked for, and that were not seen in the watch yet: whether they are there is not
    /// known.
    attempted: BTreeSet<Member>,
    /// Steps are being taken for this specification; one at a time.
    busy: bool,
    applying: Option<Arc<SliceSpec>>,
    /// Waits for its retry.
    waiting: bool,
    lease: lease::State,
    told: Option<Report>,
}

#[derive(Default)]
struct NamespaceEntry {
    stopping: bool,
    furnished: bool,
    removing: bool,
}

/// What of the Site was listed once.
#[derive(Default)]
struct Listed {
    namespaces: bool,
    gangs: bool,
    pods: bool,
}

/// Everything that the manager knows.
#[derive(Default)]
pub(super) struct State {
    slices: BTreeMap<SliceId, Entry>,
    namespaces: BTreeMap<String, NamespaceEntry>,
    listed: Listed,
    synced: bool,
    /// The hub has said everything that it lists, in some session of this process.
    was_synced: bool,
    might_start: bool,
    /// Members that were here when the hub had said everything, and that it does not name: until they are gone nothing
    /// starts.
    strangers: BTreeSet<(SliceId, Member)>,
    dirty: BTreeSet<SliceId>,
    dirty_clusters: BTreeSet<String>,
    reports: Vec<(SliceId, Report)>,
    ailing: Arc<Ailing>,
    /// What the nodes' watchdogs say; `None`: none is listened to.
    watchdogs: Option<Watchdogs>,
    /// Members that run on a node by its watchdog's word, and that belong to no slice here.
    strays: BTreeMap<String, BTreeSet<(String, Member)>>,
    /// Nodes that are not Ready, and since when.
    lost: BTreeMap<String, Duration>,
}

impl State {
    pub(super) fn is_listed(&self) -> bool {
        self.listed.namespaces && self.listed.gangs && self.listed.pods
    }

    /// Whether any member holds GPUs here.
    pub(super) fn is_holding(&self) -> bool {
        self.slices.values().any(|entry| entry.slice.is_live())
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// A session is about to begin: nothing starts until it is in step, and everything is reported anew.
    pub(super) fn begin(&mut self) {
        self.synced = false;
        for (id, entry) in &mut self.slices {
            entry.told = None;
            self.dirty.insert(id.clone());
        }
    }

    /// What the Site holds, for a session's first message.
    pub(super) fn held(&self) -> Vec<SliceDigest> {
        self.slices
            .iter()
            .map(|(id, entry)| SliceDigest { key: Some(id.to_wire()), digest: entry.digest.clone() })
            .take(atoll_wire::limits::MAX_SLICES)
            .collect()
    }

    /// Takes in what a session said.
    pub(super) fn hear(&mut self, event: HubEvent) -> Result<(), HearError> {
        match event {
            HubEvent::Begin(_) => self.begin(),
            HubEvent::End => self.synced = false,
            HubEvent::Deleted(id) => self.drop_slice(id),
            HubEvent::Synced(listed) => {
                let listed: BTreeSet<SliceId> = listed.into_iter().collect();
                let unlisted: Vec<SliceId> = self.slices.keys().filter(|id| !listed.contains(id)).cloned().collect();
                for id in unlisted {
                    self.drop_slice(id);
                }
                self.synced = true;
                self.was_synced = true;
                self.adopt_all();
                self.strangers = self
                    .slices
                    .iter()
                    .flat_map(|(id, entry)| entry.slice.strangers().map(|member| (id.clone(), member)))
                    .collect();
                tracing::info!(slices = listed.len(), strangers = self.strangers.len(), "in step with the hub");
                self.dirty.extend(self.slices.keys().cloned());
                self.dirty_clusters.extend(self.namespaces.keys().cloned());
            }
            HubEvent::Slice { id, generation, spec_json } => {
                let (wanted, spec) = convert::slice(&id, generation, &spec_json)
                    .map_err(|error| HearError::Spec { name: id.name.clone(), error })?;
                let known = self.slices.get(&id).map(|entry| &entry.slice);
                let older = known.is_some_and(|slice| match &slice.wish {
                    Wish::Wanted(known) => !known.yields_to(wanted.epoch, generation),
                    Wish::Unsaid | Wish::Dropped => wanted.epoch < slice.epoch(),
                });
                if older {
                    return Err(HearError::Older { name: id.name, epoch: wanted.epoch, generation });
                }
                let entry = self.slices.entry(id.clone()).or_default();
                let Slice { pods, orphans, started, ended, .. } = &mut entry.slice;
                let concerns = |member: &Member| {
                    pods.contains_key(member)
                        || orphans.contains_key(member)
                        || wanted.members.iter().any(|placed| placed.member == *member)
                };
                started.retain(concerns);
                ended.retain(|member, _| concerns(member));
                entry.attempted.retain(|member| wanted.members.iter().any(|placed| placed.member == *member));
                entry.slice.wish = Wish::Wanted(wanted);
                entry.spec = Some(Arc::new(spec));
                entry.digest = digest::spec(&spec_json).to_vec();
                entry.waiting = false;
                self.dirty.insert(id);
            }
        }
        Ok(())
    }

    fn drop_slice(&mut self, id: SliceId) {
        let entry = self.slices.entry(id.clone()).or_default();
        entry.slice.wish = Wish::Dropped;
        // The hub is to send it again should it list it again.
        entry.digest.clear();
        entry.waiting = false;
        self.dirty.insert(id);
    }

    /// When a lease changes what members may do, by the boot-time clock.
    pub(super) fn next_lease_change(&self, granted: Duration, now: Duration) -> Option<Duration> {
        self.slices
            .values()
            .filter(|entry| entry.slice.is_live())
            .filter_map(|entry| lease::next_change(granted, now, times(&entry.slice)))
            .chain(self.next_of_watchdogs(now))
            .min()
    }

    /// What is to be done now.
    pub(super) fn decide(&mut self, granted: Duration, now: Duration) -> Vec<Task> {
        for (id, entry) in &mut self.slices {
            let lease = lease::state(granted, now, times(&entry.slice));
            if lease != entry.lease {
                tracing::warn!(slice = %id.name, cluster = %id.cluster_uid, before = ?entry.lease, now = ?lease, "lease");
                entry.lease = lease;
                entry.waiting = false;
                self.dirty.insert(id.clone());
            }
        }
        self.settle(now);
        let may_start = self.synced && self.strangers.is_empty() && self.strays.is_empty();
        if may_start && !self.might_start {
            self.dirty.extend(self.slices.keys().cloned());
        }
        self.might_start = may_start;
        let mut tasks = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            tasks.extend(self.decide_slice(id, may_start));
        }
        for uid in std::mem::take(&mut self.dirty_clusters) {
            let empty = self.of_cluster(&uid).next().is_none();
            if let Some(namespace) = self.namespaces.get_mut(&uid)
                && empty
                && self.synced
                && !namespace.stopping
                && !namespace.removing
            {
                namespace.removing = true;
                tasks.push(Task::RemoveNamespace(uid));
            }
        }
        tasks
    }

    fn decide_slice(&mut self, id: SliceId, may_start: bool) -> Option<Task> {
        let elsewhere: BTreeSet<Member> = self
            .of_cluster(&id.cluster_uid)
            .filter(|(other, _)| **other != id)
            .flat_map(|(_, entry)| entry.slice.present())
            .collect();
        let namespace = match self.namespaces.get(&id.cluster_uid) {
            None => Namespace::Absent,
            Some(entry) if entry.stopping || entry.removing => Namespace::Stopping,
            Some(entry) if entry.furnished => Namespace::Furnished,
            Some(_) => Namespace::Bare,
        };
        let entry = self.slices.get_mut(&id)?;
        if let Some(report) = member::report(&entry.slice)
            && entry.told.as_ref() != Some(&report)
        {
            entry.told = Some(report.clone());
            self.reports.push((id.clone(), report));
        }
        if entry.busy || entry.waiting {
            return None;
        }
        let around = Around { namespace, may_start, lease: entry.lease, elsewhere: &elsewhere };
        let actions = member::plan(&entry.slice, &around);
        if actions.is_empty() {
            if entry.slice.wish == Wish::Dropped && entry.slice.is_gone() {
                self.slices.remove(&id);
                self.dirty_clusters.insert(id.cluster_uid);
            }
            return None;
        }
        for action in &actions {
            match action {
                // Remembered before it is written: this process must not start them either way.
                Action::MarkStopped(incarnation) => {
                    entry.slice.stopped_incarnation = entry.slice.stopped_incarnation.max(*incarnation);
                }
                Action::CreatePod(member) => drop(entry.attempted.insert(*member)),
                _ => {}
            }
        }
        entry.busy = true;
        entry.applying.clone_from(&entry.spec);
        Some(Task::Apply { spec: entry.spec.clone(), remember: entry.slice.stopped(), id, actions })
    }

    /// Takes in what became of a task. False: nothing came of it, and it is to be tried again later.
    pub(super) fn applied(&mut self, id: &SliceId, outcome: Outcome) -> bool {
        if outcome.furnished {
            self.namespaces.entry(id.cluster_uid.clone()).or_default().furnished = true;
        }
        let progressed = outcome.progressed();
        let Some(entry) = self.slices.get_mut(id) else { return true };
        entry.busy = false;
        let applied = entry.applying.take();
        self.dirty.insert(id.clone());
        if let Some((version, gang)) = outcome.gang
            && version >= entry.gang_version
        {
            entry.gang_version = version;
            entry.slice.gang = Some(gang);
        }
        if let Some(gang) = entry.slice.gang.as_mut().filter(|_| outcome.gang_deleted) {
            gang.stopping = true;
        }
        for member in outcome.created {
            if entry.slice.started.insert(member) {
                entry.unconfirmed.insert(member);
                entry.slice.pods.insert(member, NEW_POD);
            }
        }
        for (member, kill) in outcome.deleted {
            if let Some(pod) = entry.slice.pods.get_mut(&member) {
                pod.stopping = true;
                pod.killed |= kill;
                pod.abandoned = false;
            }
        }
        if let Some(message) = outcome.refused {
            let current = match (&applied, &entry.spec) {
                (Some(applied), Some(spec)) => Arc::ptr_eq(applied, spec),
                _ => false,
            };
            if let Wish::Wanted(wanted) = &mut entry.slice.wish
                && current
            {
                wanted.refusal = Some(message);
            }
            return true;
        }
        entry.waiting = !progressed;
        progressed
    }

    /// The wait of a slice is over.
    pub(super) fn retry(&mut self, id: &SliceId) {
        if let Some(entry) = self.slices.get_mut(id) {
            entry.waiting = false;
            self.dirty.insert(id.clone());
        }
    }

    /// The wait of a namespace is over.
    pub(super) fn retry_namespace(&mut self, uid: &str) {
        if let Some(namespace) = self.namespaces.get_mut(uid) {
            namespace.removing = false;
            self.dirty_clusters.insert(uid.to_owned());
            self.touch_cluster(uid);
        }
    }

    /// Reports that differ from what was told last.
    pub(super) fn take_reports(&mut self) -> Vec<(SliceId, Report)> {
        std::mem::take(&mut self.reports)
    }

    /// Brings the gauges up to date.
    pub(super) fn count(&self, metrics: &Metrics) {
        let mut phases = BTreeMap::<&str, i64>::new();
        for member in self.slices.values().filter_map(|entry| entry.told.as_ref()).flat_map(|told| &told.members) {
            *phases.entry(Metrics::phase_label(member.phase)).or_default() += 1;
        }
        for phase in Metrics::PHASES {
            let label = Metrics::phase_label(phase);
            metrics.members.with_label_values(&[label]).set(phases.get(label).copied().unwrap_or(0));
        }
        let orphans = self.slices.values().map(|entry| entry.slice.orphans.len()).sum::<usize>()
            + self.strays.values().map(BTreeSet::len).sum::<usize>();
        metrics.orphans.set(i64::try_from(orphans).unwrap_or(i64::MAX));
        let watched = self.watchdogs.as_ref().map_or(0, Watchdogs::len);
        metrics.watched_nodes.set(i64::try_from(watched).unwrap_or(i64::MAX));
        metrics.slices.set(i64::try_from(self.slices.len()).unwrap_or(i64::MAX));
        metrics.session_connected.set(i64::from(self.synced));
    }

    fn touch_cluster(&mut self, uid: &str) {
        let ids: Vec<SliceId> = self.of_cluster(uid).map(|(id, _)| id.clone()).collect();
        self.dirty.extend(ids);
    }

    fn of_cluster<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = (&'a SliceId, &'a Entry)> {
        let first = SliceId { cluster_uid: uid.to_owned(), ..SliceId::default() };
        self.slices.range(first..).take_while(move |(id, _)| id.cluster_uid == uid)
    }
}

/// When members stop without a lease. Pods without a Gang to remember it by have the default times.
fn times(slice: &Slice) -> Times {
    slice.times().unwrap_or_else(|| {
        let default = DisconnectionTimes::default();
        let seconds = |seconds: i32| u64::try_from(seconds).unwrap_or(0);
        Times::from_seconds(seconds(default.stop_seconds), seconds(default.kill_seconds))
    })
}

/// A pod that was just created.
const NEW_POD: Pod = Pod {
    phase: Phase::Waiting,
    stopping: false,
    killed: false,
    abandoned: false,
    node: None,
    address: None,
    reason: None,
    message: None,
};
