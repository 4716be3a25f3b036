//! The hub's controllers: one process of several leads, the others keep their caches warm.

pub mod cluster;
pub mod failure;
pub mod gpu_model;
pub mod network;
pub mod owned;
pub mod site;
pub mod small;
pub mod supplier;
pub mod watch;

use std::sync::Arc;

use anyhow::Context as _;
use atoll_api::names::FIELD_MANAGER_OPERATOR;
use atoll_runtime::leader::{LeaderArgs, LeaderError, Leadership, LeaseName};
use atoll_runtime::process::Process;
use jiff::SignedDuration;
use k8s_openapi::Resource as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use cluster::engine::{self, Parts};

/// Name of the Lease that operators contend for.
pub const LEASE: &str = "atoll-operator";
/// What readiness calls leader election: a standby is as ready as a leader.
const ELECTION: &str = "leader-election";

/// Flags of the operator's decisions.
#[derive(Clone, Debug, clap::Args)]
pub struct PolicyArgs {
    /// Hours without a loss of its connection after which a Site that joined by a wallet's signature alone leaves quarantine
    /// by itself; 0: it waits until somebody sets spec.quarantined to false.
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u16).range(0..=8760))]
    pub quarantine_hours: u16,
}

impl PolicyArgs {
    fn quarantine(&self) -> Option<SignedDuration> {
        (self.quarantine_hours > 0).then(|| SignedDuration::from_hours(self.quarantine_hours.into()))
    }
}

/// Runs the operator until shutdown, or until leadership is lost: a process leads once, and is a new candidate after a
/// restart.
pub async fn run(
    process: &Process,
    namespace: &str,
    identity: String,
    args: &LeaderArgs,
    policy: &PolicyArgs,
) -> anyhow::Result<()> {
    let metrics = Metrics::register(&process.registry)?;
    process.readiness.expect(ELECTION);
    // The engine ends on shutdown and, by itself, when leadership is lost.
    let stop = process.shutdown.child_token();
    let (changes, mut watches) = watch::start(&process.client, namespace, &process.readiness, &stop);
    let (network, seen) = tokio::sync::watch::channel(Arc::default());
    let (elected, leadership) = oneshot::channel();
    let reporter = Reporter { controller: FIELD_MANAGER_OPERATOR.to_owned(), instance: Some(identity.clone()) };
    let recorder = Recorder::new(process.client.clone(), reporter);
    let hub = ObjectReference {
        api_version: Some(Lease::API_VERSION.to_owned()),
        kind: Some(Lease::KIND.to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(LEASE.to_owned()),
        ..ObjectReference::default()
    };
    let engine = tokio::spawn(engine::run(Parts {
        client: process.client.clone(),
        hub,
        metrics: metrics.clone(),
        recorder: recorder.clone(),
        changes,
        leadership,
        network,
        shutdown: stop.clone(),
    }));
    process.readiness.set(ELECTION, true);
    let lease = LeaseName { namespace: namespace.to_owned(), name: LEASE.to_owned() };
    let led = match Leadership::acquire(process.client.clone(), lease, identity, args, &stop).await {
        Ok(won) => {
            let won = Arc::new(won);
            let small = tokio::spawn(small::run(small::Parts {
                client: process.client.clone(),
                network: seen,
                leadership: Arc::clone(&won),
                metrics,
                recorder,
                quarantine: policy.quarantine(),
                shutdown: stop.clone(),
            }));
            // An engine that has ended has cancelled `stop`.
            drop(elected.send(Arc::clone(&won)));
            lead(won, small, &stop).await
        }
        Err(LeaderError::Shutdown) => Ok(None),
        Err(error) => Err(error).context("leader election"),
    };
    stop.cancel();
    engine.await.context("the engine")?;
    watches.shutdown().await;
    // Everything that writes has ended.
    if let Some(won) = led?.and_then(Arc::into_inner) {
        won.release().await;
    }
    anyhow::ensure!(process.shutdown.is_cancelled(), "a part of the operator gave up");
    Ok(())
}

/// Leads until `stop`.
async fn lead(
    won: Arc<Leadership>,
    small: JoinHandle<()>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Arc<Leadership>>> {
    let lost = won.lost();
    let lost = tokio::select! {
        () = stop.cancelled() => false,
        () = lost.cancelled() => true,
    };
    stop.cancel();
    small.await.context("the small controllers")?;
    anyhow::ensure!(!lost, "leadership is lost");
    Ok(Some(won))
}
