//! The one task that knows what the hub wants and what the Site shows, and has it brought together.

mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use atoll_runtime::backoff::Backoff;
use atoll_runtime::readiness::Readiness;
use atoll_wire::v1::SliceDigest;
use futures::StreamExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::inventory::InventoryBook;
use crate::metrics::Metrics;
use crate::naming::SliceId;
use crate::nodes::{Answer, Ask};
use crate::outbox::Outbox;
use crate::runtime::{MemberRuntime, Outcome};
use state::{State, Task};

/// Part of the readiness: everything on the Site was listed.
pub const PART_CACHES: &str = "caches";
/// Part of the readiness: the hub has said everything that it lists in the present session.
pub const PART_SESSION: &str = "session";

/// Longest sleep while a lease may run out: a machine that was suspended finds out soon after it woke up.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// Events taken at once before anything is decided on them.
const BATCH: usize = 512;
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);

/// What a session tells.
#[derive(Debug)]
pub enum HubEvent {
    /// A session is about to begin; answered with what the Site holds, once that is known.
    Begin(oneshot::Sender<Vec<SliceDigest>>),
    /// The hub wants this slice so.
    Slice {
        /// Which.
        id: SliceId,
        /// Generation on the hub.
        generation: i64,
        /// JSON of its specification.
        spec_json: Vec<u8>,
    },
    /// The hub wants this slice gone.
    Deleted(SliceId),
    /// The hub lists these and no others.
    Synced(Vec<SliceId>),
    /// The session is over.
    End,
}

/// What the manager works with.
pub struct Manager<R> {
    /// Where members run.
    pub runtime: Arc<R>,
    /// Where reports go.
    pub outbox: Arc<Outbox>,
    /// When the heartbeat was sent that the newest grant answers, by the boot-time clock.
    pub granted: watch::Receiver<Duration>,
    /// The boot-time clock.
    pub clock: fn() -> Duration,
    /// What watchdogs ask; `None`: none is listened to.
    pub watchdogs: Option<mpsc::Receiver<Ask>>,
    /// Told which nodes have a watchdog; tells which are lost.
    pub inventory: Arc<InventoryBook>,
    /// Told whether any member holds GPUs here; `None` until everything was listed.
    pub holding: watch::Sender<Option<bool>>,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What is counted.
    pub metrics: Metrics,
}

enum Finished {
    Applied(SliceId, Box<Outcome>),
    NamespaceRemoved(String, Result<(), String>),
    RetrySlice(SliceId),
    RetryNamespace(String),
}

impl<R: MemberRuntime> Manager<R> {
    /// Runs until `shutdown`.
    pub async fn run(mut self, mut hub: mpsc::Receiver<HubEvent>, shutdown: CancellationToken) {
        let mut seen = self.runtime.observe().ready_chunks(BATCH);
        let mut state = if self.watchdogs.is_some() { State::watched() } else { State::default() };
        let (mut ailing, mut lost) = (self.inventory.ailing(), self.inventory.lost());
        let mut asks = Vec::with_capacity(BATCH);
        // Until the first grant the value says when this process began.
        let start = *self.granted.borrow();
        let mut begin: Option<oneshot::Sender<Vec<SliceDigest>>> = None;
        let mut tasks = JoinSet::<Finished>::new();
        let slices = Backoff::<SliceId>::new(RETRY_BASE, RETRY_CAP);
        let namespaces = Backoff::<String>::new(RETRY_BASE, RETRY_CAP);
        let mut events = Vec::with_capacity(BATCH);
        loop {
            let now = (self.clock)();
            let granted = *self.granted.borrow_and_update();
            let wake = state.next_lease_change(granted, now).map(|at| at.saturating_sub(now).min(LONGEST_SLEEP));
            tokio::select! {
                () = shutdown.cancelled() => return,
                observations = seen.next() => {
                    let Some(observations) = observations else {
                        tracing::error!("the Site is not watched any more");
                        shutdown.cancel();
                        return;
                    };
                    for observation in observations {
                        state.observe(observation, (self.clock)());
                    }
                }
                count = hub.recv_many(&mut events, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for event in events.drain(..) {
                        begin = self.hear(event, &mut state).or(begin);
                    }
                }
                Some(finished) = tasks.join_next() => match finished {
                    Ok(finished) => finish(finished, &mut state, &mut tasks, (&slices, &namespaces)),
                    // Its slice would stay busy for ever; a new process derives everything again.
                    Err(error) => {
                        tracing::error!(%error, "a task failed");
                        shutdown.cancel();
                        return;
                    }
                },
                result = self.granted.changed() => {
                    if result.is_err() {
                        return;
                    }
                }
                result = ailing.changed() => {
                    if result.is_err() {
                        return;
                    }
                    state.set_ailing(ailing.borrow_and_update().clone());
                }
                result = lost.changed() => {
                    if result.is_err() {
                        return;
                    }
                    state.set_lost(&lost.borrow_and_update().clone(), (self.clock)());
                }
                () = receive(&mut self.watchdogs, &mut asks) => {
                    let granted = *self.granted.borrow();
                    for ask in asks.drain(..) {
                        answer(ask, &mut state, (granted > start).then_some(granted), (self.clock)());
                    }
                }
                () = tokio::time::sleep(wake.unwrap_or(Duration::MAX)), if wake.is_some() => {}
            }
            self.readiness.set(PART_CACHES, state.is_listed());
            self.readiness.set(PART_SESSION, state.is_synced());
            if !state.is_listed() {
                continue;
            }
            // Events that had been waiting when a session began belong to what it says it holds.
            if let Some(answer) = begin.take() {
                // The session may have ended meanwhile; it asks again then.
                let _ = answer.send(state.held());
            }
            let granted = *self.granted.borrow();
            if granted > start {
                state.grant((self.clock)());
            }
            for task in state.decide(granted, (self.clock)()) {
                self.start(task, &mut tasks);
            }
            for (id, report) in state.take_reports() {
                self.outbox.put(id.clone(), crate::convert::report(&id, &report));
            }
            if let Some(watched) = state.take_watched() {
                self.inventory.set_watched(watched);
            }
            state.count(&self.metrics);
            let holding = Some(state.is_holding());
            self.holding.send_if_modified(|told| std::mem::replace(told, holding) != holding);
        }
    }

    /// Takes in what a session says; `Some`: it begins, and is to be answered so.
    fn hear(&self, event: HubEvent, state: &mut State) -> Option<oneshot::Sender<Vec<SliceDigest>>> {
        if let HubEvent::Begin(answer) = event {
            state.begin();
            self.outbox.clear();
            return Some(answer);
        }
        if let Err(error) = state.hear(event) {
            self.metrics.hub_messages_refused.inc();
            tracing::warn!(%error, "a message of the hub was refused");
        }
        None
    }

    fn start(&self, task: Task, tasks: &mut JoinSet<Finished>) {
        let runtime = self.runtime.clone();
        match task {
            Task::Apply { id, spec, remember, actions } => {
                tracing::debug!(slice = %id.name, cluster = %id.cluster_uid, steps = actions.len(), "applying");
                tasks.spawn(async move {
                    let outcome = runtime.apply(id.clone(), spec, remember, actions).await;
                    Finished::Applied(id, Box::new(outcome))
                });
            }
            Task::RemoveNamespace(uid) => {
                tasks.spawn(async move {
                    let result = runtime.remove_namespace(uid.clone()).await;
                    Finished::NamespaceRemoved(uid, result)
                });
            }
        }
    }
}

/// Waits for questions of watchdogs; for ever where none is listened to.
async fn receive(watchdogs: &mut Option<mpsc::Receiver<Ask>>, asks: &mut Vec<Ask>) {
    let heard = match watchdogs {
        Some(watchdogs) => watchdogs.recv_many(asks, BATCH).await,
        None => 0,
    };
    if heard == 0 {
        std::future::pending::<()>().await;
    }
}

/// Answers a watchdog: how old the lease is, and what is to be killed there.
fn answer(ask: Ask, state: &mut State, granted: Option<Duration>, now: Duration) {
    state.ask(&ask.node, &ask.boot_id, ask.running, now);
    if granted.is_some() {
        state.answer(&ask.node, now);
    }
    let age = granted.map(|granted| now.saturating_sub(granted));
    let kill = state.to_kill(&ask.node);
    if !kill.is_empty() {
        tracing::warn!(node = ask.node, ?kill, "run without a pod: to be killed");
    }
    // A watchdog that does not wait asks again.
    let _ = ask.answer.send(Answer { age, kill });
}

fn finish(
    finished: Finished,
    state: &mut State,
    tasks: &mut JoinSet<Finished>,
    (slices, namespaces): (&Backoff<SliceId>, &Backoff<String>),
) {
    match finished {
        Finished::Applied(id, outcome) => {
            if state.applied(&id, *outcome) {
                slices.reset(&id);
                return;
            }
            let wait = slices.next(&id);
            tasks.spawn(async move {
                tokio::time::sleep(wait).await;
                Finished::RetrySlice(id)
            });
        }
        Finished::NamespaceRemoved(uid, Ok(())) => namespaces.reset(&uid),
        Finished::NamespaceRemoved(uid, Err(error)) => {
            let wait = namespaces.next(&uid);
            tracing::warn!(cluster = %uid, error, ?wait, "the namespace could not be deleted");
            tasks.spawn(async move {
                tokio::time::sleep(wait).await;
                Finished::RetryNamespace(uid)
            });
        }
        Finished::RetrySlice(id) => state.retry(&id),
        Finished::RetryNamespace(uid) => state.retry_namespace(&uid),
    }
}
