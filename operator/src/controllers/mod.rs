//! The hub's controllers: one process of several leads, the others keep their caches warm.

pub mod cluster;
pub mod gpu_model;
pub mod network;
pub mod site;
pub mod small;
pub mod supplier;
pub mod watch;

use std::sync::Arc;

use anyhow::Context as _;
use atoll_api::names::FIELD_MANAGER_OPERATOR;
use atoll_runtime::leader::{LeaderArgs, LeaderError, Leadership, LeaseName};
use atoll_runtime::process::Process;
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use cluster::engine::{Engine, Parts};

/// Name of the Lease that operators contend for.
pub const LEASE: &str = "atoll-operator";
/// What readiness calls leader election: a standby is as ready as a leader.
const ELECTION: &str = "leader-election";

/// Runs the operator until shutdown, or until leadership is lost: a process leads once, and is a new candidate after a
/// restart.
pub async fn run(process: &Process, namespace: &str, identity: String, args: &LeaderArgs) -> anyhow::Result<()> {
    let metrics = Metrics::register(&process.registry)?;
    process.readiness.expect(ELECTION);
    // The engine ends on shutdown and, by itself, when leadership is lost.
    let stop = process.shutdown.child_token();
    let (changes, watches) = watch::start(&process.client, namespace, &process.readiness, &stop);
    let (network, seen) = tokio::sync::watch::channel(Arc::default());
    let (elected, leadership) = oneshot::channel();
    let reporter = Reporter { controller: FIELD_MANAGER_OPERATOR.to_owned(), instance: Some(identity.clone()) };
    let engine = tokio::spawn(Engine::run(Parts {
        client: process.client.clone(),
        metrics: metrics.clone(),
        recorder: Recorder::new(process.client.clone(), reporter),
        changes,
        leadership,
        network,
        shutdown: stop.clone(),
    }));
    process.readiness.set(ELECTION, true);
    let lease = LeaseName { namespace: namespace.to_owned(), name: LEASE.to_owned() };
    let won = match Leadership::acquire(process.client.clone(), lease, identity, args, &stop).await {
        Ok(won) => Arc::new(won),
        Err(LeaderError::Shutdown) => return finish(engine, watches).await,
        Err(error) => return Err(error).context("leader election"),
    };
    let lost = won.lost();
    let small = tokio::spawn(small::run(process.client.clone(), seen, Arc::clone(&won), metrics, stop.clone()));
    if elected.send(Arc::clone(&won)).is_err() {
        anyhow::bail!("the engine ended before it could lead");
    }
    let led = lead(&lost, &stop).await;
    stop.cancel();
    finish(engine, watches).await?;
    small.await?;
    // Everything that writes has ended.
    if let Some(won) = Arc::into_inner(won) {
        won.release().await;
    }
    led?;
    anyhow::ensure!(process.shutdown.is_cancelled(), "the engine gave up");
    Ok(())
}

async fn lead(lost: &CancellationToken, stop: &CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = lost.cancelled() => anyhow::bail!("leadership is lost"),
    }
}

async fn finish(engine: tokio::task::JoinHandle<()>, mut watches: tokio::task::JoinSet<()>) -> anyhow::Result<()> {
    engine.await?;
    watches.shutdown().await;
    Ok(())
}
