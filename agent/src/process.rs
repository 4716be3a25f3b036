//! The agent's tasks, wired together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use atoll_api::PresentMembers;
use atoll_runtime::clock::boot_time;
use atoll_runtime::process::Process;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::args::RunArgs;
use crate::entry::EntryArgs;
use crate::identity::{self, Identity, IdentityStore};
use crate::inventory::{self, InventoryBook, PART_INVENTORY};
use crate::kubernetes::KubernetesRuntime;
use crate::manager::{Manager, PART_CACHES, PART_SESSION};
use crate::metrics::Metrics;
use crate::nodes::{self, KeySource};
use crate::outbox::Outbox;
use crate::policy::Policy;
use crate::policy::keep::{Keeper, NetworkWritten, PART_POLICY};
use crate::session::Sessions;

/// Part of the readiness: the Site has joined a hub.
const PART_IDENTITY: &str = "identity";
/// Wishes of the hub on their way to the manager.
const WISHES: usize = 256;
/// Questions of watchdogs on their way to the manager.
const ASKS: usize = 256;
/// The kernel's name for the present boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How long tasks may take to end after the process was told to.
const FAREWELL: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let process = Process::start("atoll-agent", &args.common).await?;
    let result = serve(args, &process).await;
    process.finish().await;
    result
}

async fn serve(args: RunArgs, process: &Process) -> anyhow::Result<()> {
    for part in [PART_IDENTITY, PART_CACHES, PART_INVENTORY, PART_POLICY, PART_SESSION] {
        process.readiness.expect(part);
    }
    let metrics = Metrics::new(&process.registry)?;
    let boot_id = tokio::fs::read_to_string(BOOT_ID).await.context(BOOT_ID)?.trim().to_owned();
    // Without a grant yet, members found here count from now.
    let (granted, grants) = watch::channel(boot_time());
    let (present, mut held) = watch::channel(None);
    let (manager, wishes) = mpsc::channel(WISHES);
    let outbox = Arc::new(Outbox::default());
    let inventory = Arc::new(InventoryBook::default());
    let (asks, watchdogs) = mpsc::channel(ASKS);
    let mut tasks = JoinSet::new();
    // Members are under their leases from the start, whether there is a hub or not.
    let (runtime, policies) = runtime(&args, process, held.clone(), &metrics, &mut tasks);
    tasks.spawn(
        Manager {
            runtime,
            outbox: outbox.clone(),
            granted: grants,
            clock: boot_time,
            watchdogs: args.watchdog_listen.map(|_| watchdogs),
            inventory: inventory.clone(),
            policy: policies.clone(),
            present,
            readiness: process.readiness.clone(),
            metrics: metrics.clone(),
        }
        .run(wishes, process.shutdown.clone()),
    );
    tasks.spawn(inventory::watch(
        process.client.clone(),
        inventory.clone(),
        process.readiness.clone(),
        metrics.clone(),
        process.shutdown.clone(),
    ));
    if let Some(address) = args.watchdog_listen {
        let key = match &args.watchdog_key {
            Some(file) => KeySource::File(file.clone()),
            None => KeySource::Secret {
                client: process.client.clone(),
                namespace: args.namespace.clone(),
                name: args.watchdog_key_secret.clone(),
            },
        };
        tasks.spawn(nodes::serve(address, key, asks, metrics.clone(), process.shutdown.clone()));
    }
    let store = args.entry.store(&args.namespace, async || Ok(process.client.clone())).await?;
    let identity = match identity(&store, &args.entry, process).await {
        Ok(identity) => identity,
        Err(_) if process.shutdown.is_cancelled() => return Ok(()),
        Err(error) => {
            // Whoever starts this process again would have it count leases anew each time, and members that an earlier
            // one left here would never be stopped.
            tracing::error!(error = format!("{error:#}"), "no identity; this process ends once no member runs here");
            tokio::select! {
                () = process.shutdown.cancelled() => return Ok(()),
                _ = held.wait_for(|held| held.is_some_and(|held| held == PresentMembers::default())) => return Err(error),
            }
        }
    };
    process.readiness.set(PART_IDENTITY, true);
    tracing::info!(site = identity.site, "this Site");
    let (identities, identity) = watch::channel(Arc::new(identity));
    tasks.spawn(identity::keep_fresh(store, args.entry.hub.clone(), identities, process.shutdown.clone()));
    tasks.spawn(
        Sessions {
            hub: args.entry.hub,
            identity,
            manager,
            outbox,
            policy: policies,
            inventory,
            granted,
            clock: boot_time,
            boot_id,
            metrics,
        }
        .run(process.shutdown.clone()),
    );
    tokio::select! {
        biased;
        () = process.shutdown.cancelled() => {}
        _ = tasks.join_next() => anyhow::bail!("a part of the agent failed"),
    }
    let ended = tokio::time::timeout(FAREWELL, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    Ok(())
}

/// Where members run, under the supplier's policy, which is kept in step with what it says.
fn runtime(
    args: &RunArgs,
    process: &Process,
    present: watch::Receiver<Option<PresentMembers>>,
    metrics: &Metrics,
    tasks: &mut JoinSet<()>,
) -> (Arc<KubernetesRuntime>, watch::Receiver<Arc<Policy>>) {
    let (policy, policies) = watch::channel(Arc::new(Policy::unread()));
    let (network, networks) = watch::channel(NetworkWritten::default());
    let keeper = Keeper {
        client: process.client.clone(),
        namespace: args.namespace.clone(),
        policy,
        present,
        network: networks,
        clock: boot_time,
        wall: Timestamp::now,
        readiness: process.readiness.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn(keeper.run(process.shutdown.clone()));
    let client = process.client.clone();
    let runtime =
        Arc::new(KubernetesRuntime::new(client, args.cluster_domain.clone(), policies.clone(), metrics.clone()));
    tasks.spawn(runtime.clone().keep_network(network, process.shutdown.clone()));
    (runtime, policies)
}

async fn identity(store: &IdentityStore, entry: &EntryArgs, process: &Process) -> anyhow::Result<Identity> {
    Ok(identity::obtain(store, &entry.hub, &entry.join().await?, &process.shutdown).await?)
}
