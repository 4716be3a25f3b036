//! `atoll-scheduler`: the pod scheduler of a Site.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::names::{SCHEDULER_NAME, SYSTEM_NAMESPACE};
use atoll_runtime::leader::{LeaderArgs, LeaderError, Leadership, LeaseName};
use atoll_runtime::process::{CommonArgs, Process, process_identity};
use atoll_scheduler::cycle::Settings;
use atoll_scheduler::debug;
use atoll_scheduler::metrics::Metrics;
use atoll_scheduler::permit::Permit;
use atoll_scheduler::run::{Options, Server, schedule};
use clap::Parser;
use tokio_util::sync::CancellationToken;

/// Schedules the pods of a Site: gangs all or nothing.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    leader: LeaderArgs,
    /// Wait for leadership before scheduling; switch it off only where a single process is certain.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// Namespace of the leader's Lease.
    #[arg(long, default_value = SYSTEM_NAMESPACE)]
    namespace: String,
    /// `spec.schedulerName` of the pods to schedule.
    #[arg(long, value_name = "NAME", default_value = SCHEDULER_NAME)]
    scheduler_name: String,
    /// Seconds that capacity is held for a gang that is not told to run.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    hold_seconds: u64,
    /// Seconds that a gang waits for room before nodes are reserved for it; 0: none ever are.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    reserve_after_seconds: u64,
    /// Bindings in flight at once.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    bindings_in_flight: u16,
    /// HTTP/2 connections for bindings and other writes; an API server allows some 100 requests at once on each.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (page, questions) = debug::page();
    let process = Process::start_with(SCHEDULER_NAME, &args.common, page).await?;
    let metrics = Metrics::new(&process.registry)?;
    let options = Options {
        scheduler_name: args.scheduler_name.clone(),
        settings: Settings {
            hold: Duration::from_secs(args.hold_seconds),
            reserve_after: (args.reserve_after_seconds > 0).then(|| Duration::from_secs(args.reserve_after_seconds)),
            ..Settings::default()
        },
        bindings_in_flight: usize::from(args.bindings_in_flight),
        connections: usize::from(args.connections),
    };
    let Some((permit, stop)) = permit(&args, &process).await? else {
        process.finish().await;
        return Ok(());
    };
    let readiness = process.readiness.clone();
    let server = Server { client: process.client.clone(), config: process.config.clone() };
    let ended = schedule(server, options, permit.clone(), metrics, readiness, questions, stop.clone()).await;
    let told = process.shutdown.is_cancelled();
    if let Permit::Leader(leadership) = permit
        && let Some(leadership) = Arc::into_inner(leadership)
    {
        leadership.release().await;
    }
    process.finish().await;
    ended?;
    anyhow::ensure!(told, "leadership is lost, or a part of the scheduler failed");
    Ok(())
}

/// Leave to write, and what ends it; `None` when told to stop before there was any.
async fn permit(args: &Args, process: &Process) -> anyhow::Result<Option<(Permit, CancellationToken)>> {
    if !args.leader_elect {
        return Ok(Some((Permit::Alone, process.shutdown.clone())));
    }
    let lease = LeaseName { namespace: args.namespace.clone(), name: SCHEDULER_NAME.to_owned() };
    let identity = process_identity(SCHEDULER_NAME);
    let acquired = Leadership::acquire(process.client.clone(), lease, identity, &args.leader, &process.shutdown).await;
    let leadership = match acquired {
        Ok(leadership) => leadership,
        Err(LeaderError::Shutdown) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stop = process.shutdown.child_token();
    let (lost, stopped) = (leadership.lost(), stop.clone());
    tokio::spawn(async move {
        lost.cancelled().await;
        stopped.cancel();
    });
    Ok(Some((Permit::Leader(Arc::new(leadership)), stop)))
}
