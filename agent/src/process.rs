//! The agent's tasks, wired together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use atoll_runtime::clock::boot_time;
use atoll_runtime::process::Process;
use atoll_wire::token::JoinToken;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::args::RunArgs;
use crate::identity::{self, Identity, IdentityStore, Join};
use crate::inventory::{self, InventoryBook, PART_INVENTORY};
use crate::kubernetes::KubernetesRuntime;
use crate::manager::{Manager, PART_CACHES, PART_SESSION};
use crate::metrics::Metrics;
use crate::nodes::{self, KeySource};
use crate::outbox::Outbox;
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
    for part in [PART_IDENTITY, PART_CACHES, PART_INVENTORY, PART_SESSION] {
        process.readiness.expect(part);
    }
    let metrics = Metrics::new(&process.registry)?;
    let boot_id = tokio::fs::read_to_string(BOOT_ID).await.context(BOOT_ID)?.trim().to_owned();
    // Without a grant yet, members found here count from now.
    let (granted, grants) = watch::channel(boot_time());
    let (holding, mut held) = watch::channel(None);
    let (manager, wishes) = mpsc::channel(WISHES);
    let outbox = Arc::new(Outbox::default());
    let inventory = Arc::new(InventoryBook::default());
    let (asks, watchdogs) = mpsc::channel(ASKS);
    let mut tasks = JoinSet::new();
    // Members are under their leases from the start, whether there is a hub or not.
    tasks.spawn(
        Manager {
            runtime: Arc::new(KubernetesRuntime::new(
                process.client.clone(),
                args.cluster_domain.clone(),
                metrics.clone(),
            )),
            outbox: outbox.clone(),
            granted: grants,
            clock: boot_time,
            watchdogs: args.watchdog_listen.map(|_| watchdogs),
            inventory: inventory.clone(),
            holding,
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
    let store = IdentityStore::new(process.client.clone(), &args.namespace, args.state_secret.clone());
    let identity = match identity(&store, &args, process).await {
        Ok(identity) => identity,
        Err(_) if process.shutdown.is_cancelled() => return Ok(()),
        Err(error) => {
            // Whoever starts this process again would have it count leases anew each time, and members that an earlier
            // one left here would never be stopped.
            tracing::error!(error = format!("{error:#}"), "no identity; this process ends once no member runs here");
            tokio::select! {
                () = process.shutdown.cancelled() => return Ok(()),
                _ = held.wait_for(|held| *held == Some(false)) => return Err(error),
            }
        }
    };
    process.readiness.set(PART_IDENTITY, true);
    tracing::info!(site = identity.site, "this Site");
    let (identities, identity) = watch::channel(Arc::new(identity));
    tasks.spawn(identity::keep_fresh(store, args.hub.clone(), identities, process.shutdown.clone()));
    tasks.spawn(
        Sessions { hub: args.hub, identity, manager, outbox, inventory, granted, clock: boot_time, boot_id, metrics }
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

async fn identity(store: &IdentityStore, args: &RunArgs, process: &Process) -> anyhow::Result<Identity> {
    let join = Join { token: token(args).await?, display_name: args.display_name.clone(), region: args.region.clone() };
    Ok(identity::obtain(store, &args.hub, &join, &process.shutdown).await?)
}

async fn token(args: &RunArgs) -> anyhow::Result<Option<JoinToken>> {
    let Some(path) = &args.token_file else { return Ok(args.token.clone()) };
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(Some(text.parse().with_context(|| path.display().to_string())?)),
        // The file is taken away once the Site has joined.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}
