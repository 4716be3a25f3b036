//! Wires the watches, the cycle, the binder and the writer together.

use std::time::{Duration, Instant};

use atoll_runtime::readiness::Readiness;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

use crate::binder::Binder;
use crate::cycle::{Action, Binding, Event, Scheduler, Settings};
use crate::metrics::Metrics;
use crate::objects::since_epoch;
use crate::permit::Permit;
use crate::watch::{self, Kind, Notice};
use crate::writer::Writer;

const READY_NODES: &str = "nodes listed";
const READY_PODS: &str = "pods listed";
const READY_GANGS: &str = "gangs listed";

/// How many turns of the cycle are taken before events are looked at again.
const TURNS: usize = 64;
/// How many events are taken in before the cycle has a turn again.
const EVENTS: usize = 4096;

/// How this scheduler works.
#[derive(Clone, Debug)]
pub struct Options {
    /// `spec.schedulerName` of the pods that are ours.
    pub scheduler_name: String,
    /// How long things last.
    pub settings: Settings,
    /// Most bindings in flight.
    pub bindings_in_flight: usize,
}

/// Schedules until `stop` is cancelled, or something that must not end has; then what was decided is written, as far
/// as that is allowed and fast.
///
/// The caches are filled from fresh lists, so a new leader starts from everything that the one before wrote.
pub async fn schedule(
    client: kube::Client,
    options: Options,
    permit: Permit,
    metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
) {
    for part in [READY_NODES, READY_PODS, READY_GANGS] {
        readiness.expect(part);
    }
    let (notices, heard) = mpsc::unbounded_channel();
    let (bindings, to_bind) = mpsc::unbounded_channel();
    let (writes, to_write) = mpsc::unbounded_channel();
    let (outcomes, answered) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(watch::nodes(client.clone(), notices.clone()));
    tasks.spawn(watch::pods(client.clone(), options.scheduler_name.clone(), notices.clone()));
    tasks.spawn(watch::gangs(client.clone(), notices));
    let binder = Binder::new(client.clone(), permit.clone(), metrics.clone());
    let mut work = tokio::task::JoinSet::new();
    work.spawn(binder.run(to_bind, options.bindings_in_flight, outcomes));
    work.spawn(Writer::new(client, permit).run(to_write));
    let scheduler = Scheduler::new(options.settings);
    let wires = Wires { heard, answered, bindings, writes, listed: Vec::new(), metrics, readiness };
    // None of the tasks ends before the turns do; without one of them this process would be blind or mute.
    tokio::select! {
        () = wires.turn(scheduler, &stop) => {}
        Some(ended) = tasks.join_next() => tracing::error!(?ended, "a watch ended"),
        Some(ended) = work.join_next() => tracing::error!(?ended, "the binder or the writer ended"),
    }
    tasks.abort_all();
    // The senders are gone by now: both end when what is in flight is done.
    let finished = async { while work.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        tracing::warn!("stopped with writes in flight");
    }
}

/// How long writes in flight may take at the end.
const GRACE: Duration = Duration::from_secs(3);

struct Wires {
    heard: UnboundedReceiver<Notice>,
    answered: UnboundedReceiver<Event>,
    bindings: UnboundedSender<Binding>,
    writes: UnboundedSender<Action>,
    listed: Vec<Kind>,
    metrics: Metrics,
    readiness: Readiness,
}

impl Wires {
    async fn turn(mut self, mut scheduler: Scheduler, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let due = scheduler.next_due().map(|at| at.saturating_sub(now()));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(outcome) = self.answered.recv() => scheduler.handle(outcome, now()),
                notice = self.heard.recv() => match notice {
                    Some(notice) => self.hear(notice, &mut scheduler),
                    None => return,
                },
                () = sleep_or_forever(due) => {}
            }
            self.drain(&mut scheduler);
            for _ in 0..TURNS {
                let started = Instant::now();
                let Some(attempt) = scheduler.attempt(now()) else { break };
                self.metrics.attempt(attempt.outcome, started.elapsed().as_secs_f64());
                for action in attempt.actions {
                    self.carry_out(action);
                }
            }
            self.metrics.sizes(scheduler.waiting(), scheduler.cache().holds_in_all());
        }
    }

    /// Everything that is there already, so that a decision knows it.
    fn drain(&mut self, scheduler: &mut Scheduler) {
        for _ in 0..EVENTS {
            if let Ok(outcome) = self.answered.try_recv() {
                scheduler.handle(outcome, now());
            } else if let Ok(notice) = self.heard.try_recv() {
                self.hear(notice, scheduler);
            } else {
                return;
            }
        }
    }

    fn hear(&mut self, notice: Notice, scheduler: &mut Scheduler) {
        match notice {
            Notice::Event(event) => scheduler.handle(*event, now()),
            Notice::Listed(kind) => {
                self.readiness.set(
                    match kind {
                        Kind::Nodes => READY_NODES,
                        Kind::Pods => READY_PODS,
                        Kind::Gangs => READY_GANGS,
                    },
                    true,
                );
                if !self.listed.contains(&kind) {
                    self.listed.push(kind);
                }
                if self.listed.len() == 3 {
                    scheduler.start(now());
                }
            }
        }
    }

    fn carry_out(&self, action: Action) {
        // The receivers end only when the process does.
        let _ = match action {
            Action::Bind(binding) => self.bindings.send(binding).is_ok(),
            action => self.writes.send(action).is_ok(),
        };
    }
}

async fn sleep_or_forever(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn now() -> Duration {
    since_epoch(&Timestamp::now())
}
