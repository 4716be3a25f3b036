//! The one task that knows everything: it takes in changes, decides in order, and hands out writes.
//!
//! There is no lock and no second opinion: the inventory, the queue and what is in flight belong to this task. A standby
//! runs it too, without deciding, so that its caches are warm.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{Cluster, ClusterSlice, GpuModel, GpuNode, Site, Supplier};
use atoll_convert::{model_facts, node_facts, site_facts};
use atoll_core::cluster::{Millis, SiteState};
use atoll_core::inventory::Inventory;
use atoll_runtime::leader::Leadership;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::events::Recorder;
use kube::{Client, ResourceExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::barrier::{self, Present};
use super::entry::Entry;
use super::sites::Sites;
use super::writer::{Job, Outcome, Writer};
use crate::controllers::network::Network;
use crate::controllers::watch::{Change, Delta};
use crate::metrics::Metrics;

/// How long capacity that a Site refused is left alone when no newer inventory comes.
const BLOCK: Duration = Duration::from_secs(30);
/// Between two pictures of the network's counts.
const PICTURE: Duration = Duration::from_secs(1);
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
    nodes: HashMap<String, (String, String)>,
    models: HashMap<String, Arc<GpuModel>>,
    suppliers: HashMap<String, Arc<Supplier>>,
    states: HashMap<String, SiteState>,
    synced: [bool; 7],
    picture: Picture,
    client: Client,
    recorder: Recorder,
    network: watch::Sender<Arc<Network>>,
    shutdown: CancellationToken,
}

/// Whether the small controllers are to be shown something.
#[derive(Debug, Default)]
struct Picture {
    objects: bool,
    counts: bool,
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
        let lease = self.sites.next_expiry(now.boot).map(|end| end.saturating_sub(now.boot) + Duration::from_millis(1));
        let block = self.blocked_at.map(|at| (at + BLOCK).saturating_sub(now.boot));
        let picture = self.picture.due().map(|at| at.saturating_sub(now.boot));
        let again = (self.lead.is_some() && self.tried != self.inventory.revision()).then_some(Duration::ZERO);
        let waits = [timer, lease, block, picture, again];
        waits.into_iter().flatten().min().unwrap_or(Duration::from_secs(3_600)).min(Duration::from_secs(3_600))
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

    /// Puts a Site into the inventory as what it is now.
    fn offer(&mut self, name: &str, state: SiteState) {
        let Some(site) = self.sites.get(name) else { return self.inventory.remove_site(name) };
        match site_facts(site) {
            Ok(mut facts) => {
                facts.open &= state == SiteState::Live;
                self.inventory.upsert_site(facts);
            }
            Err(error) => {
                tracing::warn!(site = name, %error, "a Site cannot be understood and is left out");
                self.inventory.remove_site(name);
            }
        }
    }

    fn take(&mut self, change: Change, now: Now) {
        match change {
            Change::Cluster(delta) => self.take_cluster(delta),
            Change::Slice(delta) => self.take_slice(delta),
            Change::Site(delta) => self.take_site(delta, now),
            Change::Node(delta) => self.take_node(delta),
            Change::Model(delta) => self.take_model(delta),
            Change::Supplier(delta) => self.take_supplier(delta),
            Change::Lease(delta) => self.take_lease(delta, now),
        }
    }

    fn take_cluster(&mut self, delta: Delta<Cluster>) {
        match delta {
            Delta::Apply(cluster) => self.see_cluster(cluster),
            Delta::Delete(cluster) => {
                let uid = cluster.uid().unwrap_or_default();
                if let Some(entry) = self.entries.get_mut(&uid) {
                    entry.lose_cluster();
                    self.dirty.insert(uid);
                }
            }
            Delta::Replace(clusters) => {
                self.synced[0] = true;
                self.replace_clusters(clusters);
            }
        }
    }

    fn see_cluster(&mut self, cluster: Cluster) {
        let uid = cluster.uid().unwrap_or_default();
        self.entries.entry(uid.clone()).or_default().see_cluster(Arc::new(cluster));
        self.dirty.insert(uid);
    }

    fn replace_clusters(&mut self, clusters: Vec<Cluster>) {
        let present: HashSet<String> = clusters.iter().filter_map(ResourceExt::uid).collect();
        for (uid, entry) in &mut self.entries {
            if !present.contains(uid) && entry.cluster.is_some() {
                entry.lose_cluster();
                self.dirty.insert(uid.clone());
            }
        }
        for cluster in clusters {
            self.see_cluster(cluster);
        }
    }

    fn take_slice(&mut self, delta: Delta<ClusterSlice>) {
        match delta {
            Delta::Apply(slice) => self.see_slice(slice),
            Delta::Delete(slice) => {
                if let Some(entry) = self.entries.get_mut(&slice.spec.cluster_uid) {
                    entry.lose_slice(&slice.name_any());
                    self.dirty.insert(slice.spec.cluster_uid);
                }
            }
            Delta::Replace(slices) => {
                self.synced[1] = true;
                self.replace_slices(slices);
            }
        }
    }

    fn see_slice(&mut self, slice: ClusterSlice) {
        let uid = slice.spec.cluster_uid.clone();
        self.entries.entry(uid.clone()).or_default().see_slice(Arc::new(slice));
        self.dirty.insert(uid);
    }

    fn replace_slices(&mut self, slices: Vec<ClusterSlice>) {
        let mut present: HashMap<&str, HashSet<&str>> = HashMap::new();
        for slice in &slices {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            present.entry(&slice.spec.cluster_uid).or_default().insert(name);
        }
        let none = HashSet::new();
        for (uid, entry) in &mut self.entries {
            if !entry.slices.is_empty() || !entry.awaits_slices.is_empty() {
                entry.keep_slices(present.get(uid.as_str()).unwrap_or(&none));
                self.dirty.insert(uid.clone());
            }
        }
        for slice in slices {
            self.see_slice(slice);
        }
    }

    fn take_site(&mut self, delta: Delta<Site>, now: Now) {
        self.picture.objects = true;
        let see = |engine: &mut Self, site: Site| {
            let name = site.name_any();
            engine.sites.upsert(name.clone(), Arc::new(site));
            // Whatever changed of it, the inventory is told; whether it lives, `follow_sites` sees.
            let state = engine.sites.state(&name, now.boot);
            engine.offer(&name, state);
        };
        match delta {
            Delta::Apply(site) => see(self, site),
            Delta::Delete(site) => self.sites.remove(&site.name_any(), now.millis()),
            Delta::Replace(sites) => {
                self.synced[2] = true;
                let present: HashSet<String> = sites.iter().map(ResourceExt::name_any).collect();
                let gone: Vec<String> =
                    self.sites.all().map(|(name, _)| name).filter(|name| !present.contains(*name)).cloned().collect();
                for name in gone {
                    self.sites.remove(&name, now.millis());
                }
                for site in sites {
                    see(self, site);
                }
            }
        }
    }

    fn take_node(&mut self, delta: Delta<GpuNode>) {
        self.picture.counts = true;
        match delta {
            Delta::Apply(node) => self.see_node(&node),
            Delta::Delete(node) => self.lose_node(&node.name_any()),
            Delta::Replace(nodes) => {
                self.synced[3] = true;
                let present: HashSet<String> = nodes.iter().map(ResourceExt::name_any).collect();
                let gone: Vec<String> = self.nodes.keys().filter(|name| !present.contains(*name)).cloned().collect();
                for name in gone {
                    self.lose_node(&name);
                }
                for node in &nodes {
                    self.see_node(node);
                }
            }
        }
    }

    fn see_node(&mut self, node: &GpuNode) {
        let name = node.name_any();
        match node_facts(node) {
            Ok(facts) => {
                let place = (facts.site.clone(), facts.node.clone());
                if self.nodes.get(&name).is_some_and(|known| *known != place) {
                    self.lose_node(&name);
                }
                self.capacity.insert(place.clone(), facts.allocatable);
                self.nodes.insert(name, place);
                self.inventory.upsert_node(facts);
            }
            Err(error) => {
                // The gateway makes the object before it writes its status.
                tracing::debug!(node = name, %error, "a node is left out");
                self.lose_node(&name);
            }
        }
    }

    fn lose_node(&mut self, name: &str) {
        if let Some(place) = self.nodes.remove(name) {
            self.inventory.remove_node(&place.0, &place.1);
            self.capacity.remove(&place);
        }
    }

    fn take_model(&mut self, delta: Delta<GpuModel>) {
        self.picture.objects = true;
        let (seen, gone) = taken(delta, &mut self.models, &mut self.synced[4]);
        for name in gone {
            self.inventory.remove_model(&name);
        }
        for model in seen {
            match model_facts(&model) {
                Ok(facts) => self.inventory.upsert_model(facts),
                Err(error) => tracing::warn!(model = model.name_any(), %error, "a model is left out"),
            }
        }
    }

    fn take_supplier(&mut self, delta: Delta<Supplier>) {
        self.picture.objects = true;
        taken(delta, &mut self.suppliers, &mut self.synced[5]);
    }

    fn take_lease(&mut self, delta: Delta<Lease>, now: Now) {
        match delta {
            Delta::Apply(lease) => self.sites.upsert_lease(&lease, now.boot),
            Delta::Delete(lease) => self.sites.remove_lease(&lease.name_any(), now.millis()),
            Delta::Replace(leases) => {
                self.synced[6] = true;
                let present: HashSet<String> = leases.iter().map(ResourceExt::name_any).collect();
                let gone: Vec<String> = self.sites.leases().filter(|name| !present.contains(*name)).cloned().collect();
                for name in gone {
                    self.sites.remove_lease(&name, now.millis());
                }
                for lease in &leases {
                    self.sites.upsert_lease(lease, now.boot);
                }
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

/// Keeps `known` in step with `delta`; returns what was seen and the names of what is gone.
fn taken<K: ResourceExt>(
    delta: Delta<K>,
    known: &mut HashMap<String, Arc<K>>,
    synced: &mut bool,
) -> (Vec<Arc<K>>, Vec<String>) {
    let (seen, gone) = match delta {
        Delta::Apply(object) => (vec![object], Vec::new()),
        Delta::Delete(object) => (Vec::new(), vec![object.name_any()]),
        Delta::Replace(objects) => {
            *synced = true;
            let present: HashSet<String> = objects.iter().map(ResourceExt::name_any).collect();
            let gone = known.keys().filter(|name| !present.contains(*name)).cloned().collect();
            (objects, gone)
        }
    };
    for name in &gone {
        known.remove(name);
    }
    let seen: Vec<Arc<K>> = seen.into_iter().map(Arc::new).collect();
    known.extend(seen.iter().map(|object| (object.name_any(), Arc::clone(object))));
    (seen, gone)
}
