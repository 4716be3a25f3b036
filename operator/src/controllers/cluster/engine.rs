//! The one task that knows everything: it takes in changes, decides in order, and hands out writes.
//!
//! There is no lock and no second opinion: the inventory, the queue and what is in flight belong to this task. A standby
//! runs it too, without deciding, so that its caches are warm.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_runtime::leader::Leadership;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::Recorder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::barrier::{self, Present};
use super::fences::FenceOutcome;
use super::state::{Lead, Now, State};
use super::writer::{Outcome, Writer};
use crate::controllers::network::Network;
use crate::controllers::watch::Change;
use crate::metrics::Metrics;

/// How long capacity that a Site refused is left alone when no newer inventory comes.
const BLOCK: Duration = Duration::from_secs(30);
/// Between two pictures of the network; each is made of everything that there is.
const PICTURE: Duration = Duration::from_secs(1);
/// The longest that nothing is looked at: what is waited for stands on the boot-time clock, and a sleep does not count the
/// time that the machine was suspended.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Changes taken in before the next decisions.
const BATCH: usize = 4_096;

/// What the engine needs.
pub struct Parts {
    /// Client of the hub.
    pub client: Client,
    /// The Lease that operators contend for: what concerns the whole hub is told there.
    pub hub: ObjectReference,
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

struct Engine {
    state: State,
    /// When, by the boot-time clock, a gateway's Lease expires next.
    next_expiry: Option<Duration>,
    /// When the small controllers were last shown the network.
    shown: Option<Duration>,
    client: Client,
    hub: ObjectReference,
    recorder: Recorder,
    network: watch::Sender<Arc<Network>>,
    shutdown: CancellationToken,
}

/// Runs until shutdown, then until what is in flight has been answered.
pub async fn run(parts: Parts) {
    let Parts { client, hub, metrics, recorder, mut changes, mut leadership, network, shutdown } = parts;
    // However this ends, a panic included, the process ends with it: a leader without it would lead nothing.
    let _end = shutdown.clone().drop_guard();
    let state = State::new(metrics);
    let mut engine = Engine { state, next_expiry: None, shown: None, client, hub, recorder, network, shutdown };
    let mut elected = None;
    let mut buffer = Vec::new();
    loop {
        let wait = engine.wait(Now::read());
        tokio::select! {
            biased;
            () = engine.shutdown.cancelled() => break,
            won = &mut leadership, if elected.is_none() && engine.state.lead.is_none() => match won {
                Ok(won) => elected = Some(won),
                Err(_) => break,
            },
            received = changes.recv_many(&mut buffer, BATCH) => if received == 0 { break },
            Some(done) = engine.state.jobs.join_next() => engine.settle(done),
            Some(done) = engine.state.fence_jobs.join_next() => engine.settle_fence(done),
            () = tokio::time::sleep(wait) => {}
        }
        while let Some(done) = engine.state.jobs.try_join_next() {
            engine.settle(done);
        }
        while let Some(done) = engine.state.fence_jobs.try_join_next() {
            engine.settle_fence(done);
        }
        let now = Now::read();
        for change in buffer.drain(..) {
            engine.state.take(change, now);
        }
        engine.fire(now);
        engine.follow_sites(now);
        // A leader begins when its caches hold everything, and places nothing before.
        if engine.state.synced.iter().all(|synced| *synced)
            && let Some(won) = elected.take()
        {
            if !engine.begin(won, now).await {
                break;
            }
            engine.follow_sites(now);
        }
        if engine.state.lead.is_some() {
            let now = Now::read();
            engine.state.pass(now);
            engine.state.fence(now);
        }
        engine.show(now);
    }
    while engine.state.jobs.join_next().await.is_some() {}
    while engine.state.fence_jobs.join_next().await.is_some() {}
}

impl Engine {
    /// The caches become current to this moment, and the commits and slices in them are held in the inventory: what
    /// former leaders committed is seen before anything is placed.
    async fn begin(&mut self, leadership: Arc<Leadership>, now: Now) -> bool {
        let namespace = self.hub.namespace.clone().unwrap_or_default();
        let present = tokio::select! {
            () = self.shutdown.cancelled() => return false,
            present = barrier::read(&self.client, &namespace, &leadership) => present,
        };
        let Some(Present { clusters, slices }) = present else { return false };
        let state = &mut self.state;
        state.replace_clusters(clusters);
        state.replace_slices(slices);
        state.sites.begin(now.boot);
        state.sites_changed = true;
        state.unshown = true;
        state.dirty.extend(state.entries.keys().cloned());
        let term = leadership.term();
        tracing::info!(term, clusters = state.entries.len(), "leading");
        state.metrics.term.set(term);
        state.metrics.leader.set(1);
        let (client, recorder) = (self.client.clone(), self.recorder.clone());
        let writer = Writer::new(client, namespace, leadership, recorder, state.metrics.clone(), self.shutdown.clone());
        state.lead = Some(Lead { term, writer });
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
        let state = &mut self.state;
        let uid = outcome.uid.clone();
        let Some(entry) = state.entries.get_mut(&uid) else { return };
        entry.settle(&outcome, now.boot);
        if outcome.failed
            && let Some(lead) = &state.lead
        {
            // The next round of decisions finds it paused and sets the timer.
            entry.paused_until = Some(now.boot + lead.writer.pause(&uid));
        }
        state.dirty.insert(uid);
    }

    fn settle_fence(&mut self, done: Result<FenceOutcome, tokio::task::JoinError>) {
        match done {
            Ok(outcome) => self.state.settle_fence(outcome, Now::read()),
            Err(error) => {
                tracing::error!(%error, "a write of a fence ended without an answer, giving up");
                self.shutdown.cancel();
            }
        }
    }

    /// How long nothing happens by itself.
    fn wait(&self, now: Now) -> Duration {
        let state = &self.state;
        let until = |at: Duration| at.saturating_sub(now.boot);
        let timer = state.timers.first().map(|(at, _)| until(*at));
        let fence = state.lead.as_ref().and_then(|_| state.fences.next()).map(until);
        let freeze = state.freezing.next().map(until);
        let lease = self.next_expiry.map(until);
        let block = state.blocked_at.map(|at| until(at + BLOCK));
        let picture = self.show_at().map(until);
        let again = (state.lead.is_some() && state.tried != state.inventory.revision()).then_some(Duration::ZERO);
        let waits = [timer, lease, block, picture, again, fence, freeze];
        waits.into_iter().flatten().min().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
    }

    fn fire(&mut self, now: Now) {
        let state = &mut self.state;
        while let Some((at, uid)) = state.timers.pop_first() {
            if at > now.boot {
                state.timers.insert((at, uid));
                break;
            }
            if let Some(entry) = state.entries.get_mut(&uid) {
                entry.wake = None;
            }
            state.dirty.insert(uid);
        }
        state.resume_fences(now);
        if let Some(at) = state.blocked_at.filter(|at| *at + BLOCK <= now.boot) {
            state.inventory.clear_blocks_before(at + Duration::from_nanos(1));
            state.blocked_at = None;
        }
    }

    /// Sites that became live or lost concern the Clusters that have something there.
    fn follow_sites(&mut self, now: Now) {
        let state = &mut self.state;
        let expired = self.next_expiry.is_some_and(|at| at <= now.boot);
        let thaws = state.freezing.next().is_some_and(|at| at <= now.boot);
        if !std::mem::take(&mut state.sites_changed) && !expired && !thaws {
            return;
        }
        if state.look_at_losses(now) && state.lead.is_some() {
            state.freezing.publish(&self.recorder, &self.hub);
        }
        self.next_expiry = state.sites.next_expiry(now.boot).map(|end| end + Duration::from_millis(1));
        let names: Vec<String> = state.sites.all().map(|(name, _)| name.clone()).collect();
        let known: HashSet<String> = state.standings.keys().cloned().chain(names).collect();
        let mut moved = HashSet::new();
        for name in known {
            let standing = state.sites.standing(&name, now.boot);
            let gone = state.sites.get(&name).is_none();
            if state.standings.get(&name) != Some(&standing) || gone {
                state.offer(&name, standing.presence);
                if gone {
                    // Told once, and then forgotten.
                    state.standings.remove(&name);
                } else {
                    state.standings.insert(name.clone(), standing);
                }
                moved.insert(name);
            }
        }
        if moved.is_empty() {
            return;
        }
        state.unshown = true;
        for (uid, entry) in &state.entries {
            let placement = entry.cluster.as_ref().and_then(|c| c.status.as_ref()?.placement.as_ref());
            let placed = placement.is_some_and(|p| p.sites.iter().any(|site| moved.contains(&site.site)));
            if placed || entry.slices.values().any(|slice| moved.contains(&slice.spec.site)) {
                state.dirty.insert(uid.clone());
            }
        }
    }

    /// When the small controllers are to be shown the network: at once after quiet time, else once a second.
    fn show_at(&self) -> Option<Duration> {
        let due = self.shown.map_or(Duration::ZERO, |shown| shown + PICTURE);
        (self.state.unshown && self.state.lead.is_some()).then_some(due)
    }

    fn show(&mut self, now: Now) {
        if self.show_at().is_none_or(|at| at > now.boot) {
            return;
        }
        self.shown = Some(now.boot);
        let state = &mut self.state;
        state.unshown = false;
        let inventory = &state.inventory;
        let sites = state.sites.all().map(|(name, site)| (Arc::clone(site), inventory.site_totals(name)));
        let models = state.models.iter().map(|(name, model)| (Arc::clone(model), inventory.model_totals(name)));
        let network = Network {
            sites: sites.collect(),
            models: models.collect(),
            suppliers: state.suppliers.values().cloned().collect(),
        };
        self.network.send_replace(Arc::new(network));
    }
}
