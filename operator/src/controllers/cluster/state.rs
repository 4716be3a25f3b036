//! What the engine knows: caches, the inventory, what is to be decided and what is in flight.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{GpuModel, Supplier};
use atoll_core::cluster::Millis;
use atoll_core::inventory::Inventory;
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::entry::Entry;
use super::fences::{FenceOutcome, Fences};
use super::freezing::Freezing;
use super::sites::{Sites, Standing};
use super::writer::{Job, Outcome, Writer};
use crate::metrics::Metrics;

/// Nothing is left alone for longer that has a timer.
const LONGEST_TIMER: Duration = Duration::from_hours(1);

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

    /// When, by the boot-time clock, so many milliseconds are over; at most [`LONGEST_TIMER`], since what is waited for may
    /// stand on the wall clock, which jumps.
    pub(super) fn after(self, wait: Millis) -> Duration {
        self.boot + Duration::from_millis(u64::try_from(wait).unwrap_or_default()).min(LONGEST_TIMER)
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
    /// Fences that are wanted and under way.
    pub(super) fences: Fences,
    pub(super) fence_jobs: JoinSet<FenceOutcome>,
    pub(super) freezing: Freezing,
    /// When, by the boot-time clock, to decide about a Cluster again.
    pub(super) timers: BTreeSet<(Duration, String)>,
    pub(super) nodes: HashMap<String, (String, String)>,
    pub(super) models: HashMap<String, Arc<GpuModel>>,
    pub(super) suppliers: HashMap<String, Arc<Supplier>>,
    /// What Clusters and the inventory were told of each Site.
    pub(super) standings: HashMap<String, Standing>,
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
            fences: Fences::default(),
            fence_jobs: JoinSet::new(),
            freezing: Freezing::default(),
            timers: BTreeSet::new(),
            nodes: HashMap::new(),
            models: HashMap::new(),
            suppliers: HashMap::new(),
            standings: HashMap::new(),
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

    /// Decides again about `uid` at `at` of the boot-time clock, or earlier if that was asked already.
    pub(super) fn schedule(&mut self, uid: &str, at: Duration) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_waited_for_by_the_clock_that_it_stands_on() {
        let mut state = State::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let boot = Duration::from_micros(5_000_400);
        let until = boot + Duration::from_micros(300);
        let entry = Entry { paused_until: Some(until), ..Entry::default() };
        state.entries.insert("uid".to_owned(), entry);
        state.dirty.insert("uid".to_owned());
        state.pass(Now { wall: Timestamp::UNIX_EPOCH, boot });
        assert_eq!(state.timers.first(), Some(&(until, "uid".to_owned())));
        state.timers.clear();
        state.unschedule("uid");
        state.dirty.insert("uid".to_owned());
        // The wall clock has been set back meanwhile.
        state.pass(Now { wall: Timestamp::MIN, boot: until });
        assert!(state.entries.is_empty(), "the pause is over, and nothing is left of it: {:?}", state.entries);
    }
}
