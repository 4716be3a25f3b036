//! What the engine knows: caches, the inventory, what is to be decided and what is in flight.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{GpuModel, Supplier};
use atoll_core::cluster::{Millis, SiteState};
use atoll_core::inventory::Inventory;
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::entry::Entry;
use super::sites::Sites;
use super::writer::{Job, Outcome, Writer};
use crate::metrics::Metrics;

/// Both clocks, read once for each round.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Wall clock.
    pub wall: Timestamp,
    /// Boot-time clock.
    pub boot: Duration,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { wall: Timestamp::now(), boot: atoll_runtime::clock::boot_time() }
    }

    pub(super) fn millis(self) -> Millis {
        self.wall.as_millisecond()
    }

    pub(super) fn after(self, wait: Duration) -> Millis {
        self.millis().saturating_add(Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX))
    }
}

/// What a leader has beside the caches.
pub(super) struct Lead {
    pub(super) term: i64,
    pub(super) writer: Writer,
}

/// Everything that decisions are made of. It belongs to one task.
pub(super) struct State {
    pub(super) metrics: Metrics,
    pub(super) entries: HashMap<String, Entry>,
    pub(super) sites: Sites,
    pub(super) inventory: Inventory,
    /// GPUs of each node, by Site and node.
    pub(super) capacity: HashMap<(String, String), u32>,
    /// Clusters to decide about.
    pub(super) dirty: HashSet<String>,
    /// Clusters that wait for capacity.
    pub(super) waiting: HashSet<String>,
    /// The inventory's revision when all of these were tried.
    pub(super) tried: u64,
    pub(super) lead: Option<Lead>,
    pub(super) blocked_at: Option<Duration>,
    pub(super) jobs: JoinSet<Outcome>,
    pub(super) timers: BTreeSet<(Millis, String)>,
    pub(super) nodes: HashMap<String, (String, String)>,
    pub(super) models: HashMap<String, Arc<GpuModel>>,
    pub(super) suppliers: HashMap<String, Arc<Supplier>>,
    /// What the inventory was told of each Site.
    pub(super) states: HashMap<String, SiteState>,
    /// Sites or Leases changed since the Sites' states were last worked out.
    pub(super) sites_changed: bool,
    pub(super) synced: [bool; 7],
    /// Something changed that the small controllers are to be shown.
    pub(super) unshown: bool,
}

impl State {
    /// Nothing is known yet.
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            entries: HashMap::new(),
            sites: Sites::default(),
            inventory: Inventory::new(),
            capacity: HashMap::new(),
            dirty: HashSet::new(),
            waiting: HashSet::new(),
            tried: 0,
            lead: None,
            blocked_at: None,
            jobs: JoinSet::new(),
            timers: BTreeSet::new(),
            nodes: HashMap::new(),
            models: HashMap::new(),
            suppliers: HashMap::new(),
            states: HashMap::new(),
            sites_changed: false,
            synced: [false; 7],
            unshown: false,
        }
    }

    /// Hands a job out. Until it is settled nothing else is decided about this Cluster.
    pub(super) fn dispatch(&mut self, uid: &str, job: Job) {
        let Some(lead) = &self.lead else { return };
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.in_flight = true;
            let (writer, uid) = (lead.writer.clone(), uid.to_owned());
            self.jobs.spawn(async move { writer.perform(uid, job).await });
        }
    }

    /// Decides again about `uid` at `at`, or earlier if that was asked already.
    pub(super) fn schedule(&mut self, uid: &str, at: Millis) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.wake.is_some_and(|wake| wake <= at) {
            return;
        }
        if let Some(wake) = entry.wake.replace(at) {
            self.timers.remove(&(wake, uid.to_owned()));
        }
        self.timers.insert((at, uid.to_owned()));
    }

    /// Forgets what was scheduled for `uid`.
    pub(super) fn unschedule(&mut self, uid: &str) {
        if let Some(wake) = self.entries.get_mut(uid).and_then(|entry| entry.wake.take()) {
            self.timers.remove(&(wake, uid.to_owned()));
        }
    }
}
