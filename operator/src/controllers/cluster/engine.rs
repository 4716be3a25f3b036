//! The one task that knows everything: it takes in changes, decides in order, and hands out writes.
//!
//! There is no lock and no second opinion: the inventory, the queue and what is in flight belong to this task. A standby
//! runs it too, without deciding, so that its caches are warm.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{GpuModel, Supplier};
use atoll_core::cluster::{Millis, SiteState};
use atoll_core::inventory::Inventory;
use atoll_runtime::leader::Leadership;
use jiff::Timestamp;
use kube::Client;
use kube::runtime::events::Recorder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::barrier::{self, Present};
use super::entry::Entry;
use super::sites::Sites;
use super::writer::{Job, Outcome, Writer};
use crate::controllers::network::Network;
use crate::controllers::watch::Change;
use crate::metrics::Metrics;

/// How long capacity that a Site refused is left alone when no newer inventory comes.
const BLOCK: Duration = Duration::from_secs(30);
/// Between two pictures of the network's counts.
const PICTURE: Duration = Duration::from_secs(1);
/// The longest that nothing is looked at.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// Changes taken in before the next decisions.
const BATCH: usize = 4_096;

/// Both clocks, read once for each round.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Wall clock.
    pub wall: Timestamp,
    /// Boot-time clock.
    pub boot: Duration,
}

impl Now {
    fn read() -> Self {
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
    pub(super) recorder: Recorder,
}

/// What [`Engine`] needs.
pub struct Parts {
    /// Client of the hub.
    pub client: Client,
    /// Metrics.
    pub metrics: Metrics,
    /// Who publishes events.
    pub recorder: Recorder,
    /// Changes of all kinds.
    pub changes: mpsc::Receiver<Change>,
    /// Leadership, when it comes.
    pub leadership: oneshot::Receiver<Arc<Leadership>>,
    /// Where the small controllers look.
    pub network: watch::Sender<Arc<Network>>,
    /// When to end.
    pub shutdown: CancellationToken,
}

/// The engine.
pub struct Engine {
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
    jobs: JoinSet<Outcome>,
    timers: BTreeSet<(Millis, String)>,
    pub(super) nodes: HashMap<String, (String, String)>,
    pub(super) models: HashMap<String, Arc<GpuModel>>,
    pub(super) suppliers: HashMap<String, Arc<Supplier>>,
    states: HashMap<String, SiteState>,
    /// Sites or Leases changed since the Sites' states were last worked out.
    pub(super) sites_changed: bool,
    /// When, by the boot-time clock, a gateway's Lease expires next.
    next_expiry: Option<Duration>,
    pub(super) synced: [bool; 7],
    pub(super) picture: Picture,
    client: Client,
    recorder: Recorder,
    network: watch::Sender<Arc<Network>>,
    shutdown: CancellationToken,
}

/// Whether the small controllers are to be shown something.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) objects: bool,
    pub(super) counts: bool,
    shown: Option<Duration>,
}

impl Engine {
    /// Runs until shutdown, then until what is in flight has been answered.
    pub async fn run(parts: Parts) {
        let Parts { client, metrics, recorder, mut changes, mut leadership, network, shutdown } = parts;
        let mut engine = Self {
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
            next_expiry: None,
            synced: [false; 7],
            picture: Picture::default(),
            client,
            recorder,
            network,
            shutdown,
        };
        let mut elected = None;
        let mut buffer = Vec::new();
        loop {
            let wait = engine.wait(Now::read());
            tokio::select! {
                biased;
                () = engine.shutdown.cancelled() => break,
                won = &mut leadership, if elected.is_none() && engine.lead.is_none() => match won {
                    Ok(won) => elected = Some(won),
                    Err(_) => break,
                },
                received = changes.recv_many(&mut buffer, BATCH) => if received == 0 { break },
                Some(done) = engine.jobs.join_next() => engine.settle(done),
                () = tokio::time::sleep(wait) => {}
            }
            while let Some(done) = engine.jobs.try_join_next() {
                engine.settle(done);
            }
            let now = Now::read();
            for change in buffer.drain(..) {
                engine.take(change, now);
            }
            engine.fire(now);
            engine.follow_sites(now);
            // A leader begins when its caches hold everything, and places nothing before.
            if engine.synced.iter().all(|synced| *synced)
                && let Some(won) = elected.take()
            {
                if !engine.begin(won, now).await {
                    break;
                }
                engine.follow_sites(now);
            }
            if engine.lead.is_some() {
                engine.pass(Now::read());
            }
            engine.show(now);
        }
        while engine.jobs.join_next().await.is_some() {}
    }

    /// The caches become current to this moment, and the commits and slices in them are held in the inventory: what
    /// former leaders committed is seen before anything is placed.
    async fn begin(&mut self, leadership: Arc<Leadership>, now: Now) -> bool {
        let present = tokio::select! {
            () = self.shutdown.cancelled() => return false,
            present = barrier::read(&self.client, &leadership) => present,
        };
        let Some(Present { clusters, slices }) = present else { return false };
        self.replace_clusters(clusters);
        self.replace_slices(slices);
        self.sites.begin(now.millis());
        self.sites_changed = true;
        self.dirty.extend(self.entries.keys().cloned());
        let term = leadership.term();
        tracing::info!(term, clusters = self.entries.len(), "leading");
        self.metrics.term.set(term);
        self.metrics.leader.set(1);
        let writer = Writer::new(self.client.clone(), leadership, self.metrics.clone());
        self.lead = Some(Lead { term, writer, recorder: self.recorder.clone() });
        true
    }

    fn settle(&mut self, done: Result<Outcome, tokio::task::JoinError>) {
        let outcome = match done {
            Ok(outcome) => outcome,
            Err(error) => {
                // Which Cluster it was is lost with the task; a new process derives everything again.
                tracing::error!(%error, "a write ended without an answer, giving up");
                self.shutdown.cancel();
                return;
            }
        };
        let now = Now::read();
        let uid = outcome.uid.clone();
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        entry.settle(&outcome, now.boot);
        if outcome.failed
            && let Some(lead) = &self.lead
        {
            let pause = lead.writer.pause(&uid);
            entry.paused_until = Some(now.boot + pause);
            self.schedule(&uid, now.after(pause));
        }
        self.dirty.insert(uid);
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

    /// How long nothing happens by itself.
    fn wait(&self, now: Now) -> Duration {
        let timer = self.timers.first().map(|(at, _)| at.saturating_sub(now.millis()));
        let timer = timer.map(|wait| Duration::from_millis(u64::try_from(wait).unwrap_or_default()));
        let lease = self.next_expiry.map(|at| at.saturating_sub(now.boot));
        let block = self.blocked_at.map(|at| (at + BLOCK).saturating_sub(now.boot));
        let picture = self.picture.due().map(|at| at.saturating_sub(now.boot));
        let again = (self.lead.is_some() && self.tried != self.inventory.revision()).then_some(Duration::ZERO);
        let waits = [timer, lease, block, picture, again];
        waits.into_iter().flatten().min().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
    }

    fn fire(&mut self, now: Now) {
        while let Some((at, uid)) = self.timers.pop_first() {
            if at > now.millis() {
                self.timers.insert((at, uid));
                break;
            }
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.wake = None;
            }
            self.dirty.insert(uid);
        }
        if let Some(at) = self.blocked_at.filter(|at| *at + BLOCK <= now.boot) {
            self.inventory.clear_blocks_before(at + Duration::from_nanos(1));
            self.blocked_at = None;
        }
    }

    /// Sites that became live or lost concern the Clusters that have something there.
    fn follow_sites(&mut self, now: Now) {
        let expired = self.next_expiry.is_some_and(|at| at <= now.boot);
        if !std::mem::take(&mut self.sites_changed) && !expired {
            return;
        }
        self.next_expiry = self.sites.next_expiry(now.boot).map(|end| end + Duration::from_millis(1));
        let names: Vec<String> = self.sites.all().map(|(name, _)| name.clone()).collect();
        let known: HashSet<String> = self.states.keys().cloned().chain(names).collect();
        let mut moved = HashSet::new();
        for name in known {
            let state = self.sites.state(&name, now.boot);
            if self.states.get(&name) != Some(&state) {
                self.states.insert(name.clone(), state);
                self.offer(&name, state);
                moved.insert(name);
            }
        }
        if moved.is_empty() {
            return;
        }
        self.picture.counts = true;
        for (uid, entry) in &self.entries {
            let placement = entry.cluster.as_ref().and_then(|c| c.status.as_ref()?.placement.as_ref());
            let placed = placement.is_some_and(|p| p.sites.iter().any(|site| moved.contains(&site.site)));
            if placed || entry.slices.values().any(|slice| moved.contains(&slice.spec.site)) {
                self.dirty.insert(uid.clone());
            }
        }
    }

    /// Holdings changed, so counts did.
    pub(super) fn counts_changed(&mut self) {
        self.picture.counts = true;
    }

    /// Shows the network to the small controllers: at once when an object changed, counts at most once a second.
    fn show(&mut self, now: Now) {
        if self.lead.is_none() || !(self.picture.objects || self.picture.due().is_some_and(|at| at <= now.boot)) {
            return;
        }
        self.picture = Picture { shown: Some(now.boot), ..Picture::default() };
        let inventory = &self.inventory;
        let sites = self.sites.all().map(|(name, site)| (Arc::clone(site), inventory.site_totals(name)));
        let models = self.models.iter().map(|(name, model)| (Arc::clone(model), inventory.model_totals(name)));
        let network = Network {
            sites: sites.collect(),
            models: models.collect(),
            suppliers: self.suppliers.values().cloned().collect(),
        };
        self.network.send_replace(Arc::new(network));
    }
}

impl Picture {
    /// When the counts are to be shown.
    fn due(&self) -> Option<Duration> {
        self.counts.then(|| self.shown.map_or(Duration::ZERO, |shown| shown + PICTURE))
    }
}
