//! Wires the watches, the cycle, the binder, the evictor and the writer together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_runtime::readiness::Readiness;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{Connections, SetupError};
use crate::binder::Binder;
use crate::cycle::{Action, Attempt, Event, Scheduler, Settings};
use crate::debug::Questions;
use crate::evictor::Evictor;
use crate::load::Load;
use crate::metrics::{Metrics, Sizes};
use crate::objects::{Interner, since_epoch};
use crate::permit::Permit;
use crate::watch::{self, Kind, Notice};
use crate::writer::{Onward, Writer};

/// Connections of the watches: lists of pods and of nodes come side by side, and never before a binding.
const WATCH_CONNECTIONS: usize = 2;
/// Batches of notices that wait for the cycle; the watches wait when it falls behind.
const BATCHES: usize = 64;
/// How many notices are taken in before the cycle has a turn again.
const NOTICES: usize = 4096;
/// How long turns are taken before events are looked at again.
const SLICE: Duration = Duration::from_millis(5);
/// How often the sizes in the metrics are brought up to date.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// How long writes in flight may take at the end.
const GRACE: Duration = Duration::from_secs(3);

/// How this scheduler works.
#[derive(Clone, Debug)]
pub struct Options {
    /// `spec.schedulerName` of the pods that are ours.
    pub scheduler_name: String,
    /// How long things last.
    pub settings: Settings,
    /// Most bindings in flight.
    pub bindings_in_flight: usize,
    /// Connections for bindings and other writes.
    pub connections: usize,
}

/// The API server.
#[derive(Clone)]
pub struct Server {
    /// For what is rare.
    pub client: kube::Client,
    /// What the client was made of.
    pub config: kube::Config,
}

/// Schedules until `stop` is cancelled, or something that must not end has; then what was decided is written, as far
/// as that is allowed and fast.
///
/// The caches are filled from fresh lists, so a new leader starts from everything that the one before wrote.
pub async fn schedule(
    server: Server,
    options: Options,
    permit: Permit,
    metrics: Metrics,
    readiness: Readiness,
    questions: Questions,
    stop: CancellationToken,
) -> Result<(), SetupError> {
    for kind in Kind::ALL {
        readiness.expect(kind.part());
    }
    let writing = Connections::new(&server.config, options.connections)?;
    let watching = Connections::new(&server.config, WATCH_CONNECTIONS)?;
    let interner = Arc::new(Interner::default());
    let load = Load::default();
    let (notices, heard) = mpsc::channel(BATCHES);
    let (actions, to_do) = mpsc::unbounded_channel();
    let (bindings, to_bind) = mpsc::unbounded_channel();
    let (evictions, to_evict) = mpsc::unbounded_channel();
    let (outcomes, answered) = mpsc::unbounded_channel();

    let mut watches = watch::start(&server.client, &watching, &options.scheduler_name, &interner, &notices);
    drop(notices);
    let mut work = JoinSet::new();
    let binder = Binder::new(writing.clone(), permit.clone(), metrics.clone(), load.clone());
    work.spawn(binder.run(to_bind, options.bindings_in_flight, outcomes.clone()));
    work.spawn(Evictor::new(writing.clone(), permit.clone(), metrics.clone()).run(to_evict, outcomes));
    let writer = Writer::new(server.client, writing, permit, load.clone());
    work.spawn(writer.run(to_do, Onward { bindings, evictions }));

    let turns = Turns {
        scheduler: Scheduler::new(options.settings, Arc::clone(&interner)),
        interner,
        heard,
        answered,
        actions,
        questions,
        unlisted: Kind::ALL.to_vec(),
        began: Instant::now(),
        measured: None,
        load,
        metrics,
        readiness,
    };
    // A decision may take long; on a thread of its own it holds up nobody's reading or writing.
    let halt = stop.child_token();
    let (runtime, halted) = (tokio::runtime::Handle::current(), halt.clone());
    let mut cycle = tokio::task::spawn_blocking(move || runtime.block_on(turns.run(halted)));
    // Neither the watches nor the work end before the cycle does; without one of them this process would be blind or
    // mute.
    tokio::select! {
        ended = &mut cycle => if let Err(error) = ended {
            tracing::error!(%error, "the cycle failed");
        },
        Some(ended) = watches.join_next() => {
            tracing::error!(?ended, "a watch ended");
            halt.cancel();
        }
        Some(ended) = work.join_next() => {
            tracing::error!(?ended, "the binder, the evictor or the writer ended");
            halt.cancel();
        }
    }
    if !cycle.is_finished()
        && let Err(error) = cycle.await
    {
        tracing::error!(%error, "the cycle failed");
    }
    watches.abort_all();
    // The cycle's sender is gone by now: the rest end when what is in flight is done.
    let finished = async { while work.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        tracing::warn!("stopped with writes in flight");
    }
    Ok(())
}

/// The cycle with everything that it hears and says.
struct Turns {
    scheduler: Scheduler,
    interner: Arc<Interner>,
    heard: Receiver<Vec<Notice>>,
    answered: UnboundedReceiver<Event>,
    actions: UnboundedSender<Action>,
    questions: Questions,
    /// What has to be listed before the first turn.
    unlisted: Vec<Kind>,
    began: Instant,
    measured: Option<Instant>,
    load: Load,
    metrics: Metrics,
    readiness: Readiness,
}

impl Turns {
    async fn run(mut self, halt: CancellationToken) {
        let mut more = false;
        loop {
            let due = if more { Some(Duration::ZERO) } else { self.due() };
            tokio::select! {
                biased;
                () = halt.cancelled() => return,
                Some(question) = self.questions.next() => {
                    // Who asked may be gone.
                    let _ = question.send(self.pending());
                }
                Some(outcome) = self.answered.recv() => self.answer(outcome),
                batch = self.heard.recv() => match batch {
                    Some(batch) => self.hear(batch),
                    None => return,
                },
                () = after(due) => {}
            }
            self.drain();
            more = self.take_turns();
            self.measure();
        }
    }

    /// When there is something to do without an event.
    fn due(&self) -> Option<Duration> {
        let turn = self.scheduler.next_due().map(|at| at.saturating_sub(now()));
        let measure = self.measured.map(|at| MEASURE_EVERY.saturating_sub(at.elapsed()));
        [turn, measure].into_iter().flatten().min()
    }

    /// Everything that is there already, so that a decision knows it.
    fn drain(&mut self) {
        let mut taken = 0;
        while taken < NOTICES {
            if let Ok(outcome) = self.answered.try_recv() {
                self.answer(outcome);
                taken += 1;
            } else if let Ok(batch) = self.heard.try_recv() {
                taken += batch.len();
                self.hear(batch);
            } else {
                return;
            }
        }
    }

    fn hear(&mut self, batch: Vec<Notice>) {
        let now = now();
        for notice in batch {
            match notice {
                Notice::Event(event) => self.scheduler.handle(event, now),
                Notice::Listed(kind) => {
                    self.readiness.set(kind.part(), true);
                    let before = self.unlisted.len();
                    self.unlisted.retain(|unlisted| *unlisted != kind);
                    if before > 0 && self.unlisted.is_empty() {
                        self.scheduler.start(now);
                        tracing::info!(took = ?self.began.elapsed(), "everything is listed, scheduling begins");
                    }
                }
            }
        }
    }

    fn answer(&mut self, outcome: Event) {
        let now = now();
        if let Event::Bound(binding) = &outcome
            && let Some(pod) = self.scheduler.cache().pod(&binding.pod)
        {
            self.metrics.pod(now.saturating_sub(pod.created).as_secs_f64());
        }
        self.scheduler.handle(outcome, now);
    }

    /// Whether there may be more to do at once.
    fn take_turns(&mut self) -> bool {
        let began = Instant::now();
        loop {
            let started = Instant::now();
            if started - began >= SLICE {
                return true;
            }
            let Some(Attempt { outcome, actions, .. }) = self.scheduler.attempt(now()) else { return false };
            let victims = actions.iter().filter(|action| matches!(action, Action::Evict { preemptor: Some(_), .. }));
            self.metrics.attempt(outcome, started.elapsed().as_secs_f64(), victims.count());
            for action in actions {
                if matches!(action, Action::Bind(_)) {
                    self.load.more();
                }
                // The receiver ends only when the process does.
                let _ = self.actions.send(action);
            }
        }
    }

    fn measure(&mut self) {
        if self.measured.is_some_and(|at| at.elapsed() < MEASURE_EVERY) {
            return;
        }
        self.measured = Some(Instant::now());
        let counts = self.scheduler.counts();
        self.metrics.sizes(&Sizes {
            pending: [("gang", counts.gangs), ("pod", counts.pods)],
            reasons: self.scheduler.pending_by_reason(),
            cache: [
                ("nodes", self.scheduler.cache().nodes().iter().count()),
                ("pods", counts.known_pods),
                ("shapes", self.interner.shapes()),
                ("lines", counts.lines),
            ],
            holds: counts.holds,
            bindings: self.load.bindings(),
        });
    }

    /// Everything that waits, in an order to read: gangs and pods of the highest priority and the longest wait first.
    fn pending(&self) -> Vec<crate::cycle::PendingView> {
        let mut pending: Vec<_> = self.scheduler.pending().collect();
        pending.sort_by(|a, b| (b.priority, a.since, &a.key).cmp(&(a.priority, b.since, &b.key)));
        pending
    }
}

async fn after(wait: Option<Duration>) {
    match wait {
        // A timer would take a millisecond.
        Some(Duration::ZERO) => {}
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn now() -> Duration {
    since_epoch(&Timestamp::now())
}
