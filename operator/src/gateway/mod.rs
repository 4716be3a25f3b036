//! The gateway: sessions with the agents of Sites.
//!
//! Liveness is kept in memory and only transitions are written. Whatever a gateway knows is derived again by another one
//! from the API and from what agents say at the beginning of a session, so it may be killed at any moment.

pub mod args;
mod authority;
mod ca_secret;
pub mod cache;
mod coalesce;
mod devices;
mod door;
#[cfg(test)]
mod fixtures;
mod freshness;
#[cfg(test)]
mod fuzz;
mod inventory;
mod join;
mod lease;
mod metrics;
mod orphans;
mod pace;
pub mod pki;
mod pulse;
pub mod registry;
pub mod reports;
mod serve;
mod service;
mod session;
mod shared;
mod sites;
mod tls;
mod writer;

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use atoll_runtime::process::{Process, process_identity};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use self::args::Args;
use self::authority::Authority;
use self::door::Door;
use self::metrics::Metrics;
use self::pulse::Rhythm;
use self::shared::{Gateway, Settings};

/// How long each step of a shutdown may take.
const SHUTDOWN_STEP: Duration = Duration::from_secs(3);
/// Pause before the CA is asked for again.
const CA_AGAIN: Duration = Duration::from_secs(1);

const READY_CACHES: &str = "caches";
const READY_LEASE: &str = "lease";
const READY_LISTENER: &str = "listener";

/// Runs a gateway until its process is told to end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let process = Process::start("atoll-gateway", &args.common).await?;
    let result = serve(&process, args).await;
    process.finish().await;
    result
}

async fn serve(process: &Process, args: Args) -> anyhow::Result<()> {
    for part in [READY_CACHES, READY_LEASE, READY_LISTENER] {
        process.readiness.expect(part);
    }
    let door = Arc::new(Door::new(args.limits(), RandomState::new()));
    let name = args.name.unwrap_or_else(|| format!("atoll-gateway-{}", process_identity("host")));
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listen on {}", args.listen))?;
    let Some(authority) = hub_ca(process, &args.namespace).await else { return Ok(()) };
    let (authorities, authority) = watch::channel(Arc::new(authority));
    let names = server_names(&args.namespace, args.public_names);
    let (configs, fresh_configs) = tls::configs(authority.clone(), names, Timestamp::now())?;
    let metrics = Metrics::register(&process.registry)?;
    let settings = Settings {
        rhythm: Rhythm { heartbeat: args.heartbeat, patience: args.suspect_after },
        lease: Duration::from_secs(u64::from(args.lease_seconds)),
    };
    let gateway = Gateway::new(process, name, &args.namespace, settings, metrics.clone(), authority, Arc::clone(&door));
    let gateway = Arc::new(gateway);

    let background = TaskTracker::new();
    spawn_background(&background, process, &gateway, &args.namespace);
    let (secrets, until) = (Api::namespaced(process.client.clone(), &args.namespace), process.shutdown.clone());
    background.spawn(async move {
        // A gateway whose certificates stand still would be shut out in the end: however this ends, the process ends.
        let _end = until.clone().drop_guard();
        tokio::select! {
            () = until.cancelled() => {}
            () = ca_secret::follow(secrets, authorities) => {}
            () = fresh_configs => {}
        }
    });
    tokio::select! {
        () = process.shutdown.cancelled() => {}
        () = gateway.listed() => {
            process.readiness.set(READY_CACHES, true);
            let leases = Api::namespaced(process.client.clone(), &args.namespace);
            let (gateway, shutdown) = (Arc::clone(&gateway), process.shutdown.clone());
            background.spawn(async move {
                let _end = shutdown.clone().drop_guard();
                orphans::watch(&gateway, &leases, shutdown).await;
            });
        }
    }

    let connections = tls::incoming(listener, configs, door, metrics.clone(), process.shutdown.clone());
    let service = service::Service::server(Arc::clone(&gateway));
    let server = serve::connections(connections, service, metrics, process.shutdown.clone());
    process.readiness.set(READY_LISTENER, true);
    tracing::info!(listen = %args.listen, name = gateway.name, "serving");
    let mut server = tokio::spawn(server);
    let ended = tokio::select! {
        result = &mut server => Some(result),
        () = process.shutdown.cancelled() => None,
    };
    process.shutdown.cancel();
    shut_down(&gateway, &background).await;
    match ended {
        Some(result) => result.context("the server's task")?,
        // Connections that agents keep open are cut with the process.
        None => drop(tokio::time::timeout(SHUTDOWN_STEP, server).await),
    }
    Ok(())
}

fn spawn_background(background: &TaskTracker, process: &Process, gateway: &Arc<Gateway>, namespace: &str) {
    let shutdown = &process.shutdown;
    let (client, namespace) = (process.client.clone(), namespace.to_owned());
    let (of_follow, until) = (Arc::clone(gateway), shutdown.clone());
    background.spawn(async move {
        // A gateway without its watches would serve what is no longer true: however this ends, the process ends.
        let _end = until.clone().drop_guard();
        tokio::select! {
            // What is still written at a shutdown compares with what is cached, so the watches end last of all.
            () = async { until.cancelled().await; tokio::time::sleep(SHUTDOWN_STEP).await } => {}
            () = of_follow.follow(&client, &namespace) => {}
        }
    });
    let (of_lease, until, readiness) = (Arc::clone(gateway), shutdown.clone(), process.readiness.clone());
    background.spawn(async move {
        let _end = until.clone().drop_guard();
        of_lease.lease.keep(until, |held| readiness.set(READY_LEASE, held)).await;
    });
}

/// Sessions say goodbye, what is pending is written, then the Lease is given up: from then on nobody waits for us.
async fn shut_down(gateway: &Gateway, background: &TaskTracker) {
    gateway.tasks.close();
    if tokio::time::timeout(SHUTDOWN_STEP, gateway.tasks.wait()).await.is_err() {
        tracing::warn!(sessions = gateway.tasks.len(), "some sessions did not end in time");
    }
    gateway.writer.close(SHUTDOWN_STEP).await;
    gateway.lease.release().await;
    background.close();
}

/// The hub's CA; None when the process ends before it can be had.
async fn hub_ca(process: &Process, namespace: &str) -> Option<Authority> {
    let secrets: Api<Secret> = Api::namespaced(process.client.clone(), namespace);
    loop {
        match ca_secret::load_or_create(&secrets, Timestamp::now()).await {
            Ok(ca) => return Some(ca),
            Err(error) => tracing::warn!(%error, "waiting for the hub's CA"),
        }
        tokio::select! {
            () = process.shutdown.cancelled() => return None,
            () = tokio::time::sleep(CA_AGAIN) => {}
        }
    }
}

fn server_names(namespace: &str, public: Vec<String>) -> Vec<String> {
    let mut names = vec![
        format!("atoll-gateway.{namespace}.svc"),
        format!("atoll-gateway.{namespace}.svc.cluster.local"),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
    ];
    names.extend(public);
    names.sort();
    names.dedup();
    names
}
