//! The watchdog of a GPU node, a process of its own: kills the members that are without a lease, also when agent, network,
//! API server and the container runtime's API are gone. It talks to no API server.
//!
//! - [`ask`] asks the agent how old the Site's lease is, and says what runs here.
//! - [`runtime`] is the container runtime: what runs, and the usual way to kill it; [`members`] makes sense of its lists.
//! - [`cgroup`] is the other way to kill.
//! - [`keep`] alone decides, by `atoll_core::watchdog`, and writes down what it knows, for its own restart and for the
//!   device plugin.

use std::time::Duration;

use atoll_core::watchdog::Clocks;
use atoll_runtime::clock::{boot_id, both_clocks};
use atoll_runtime::process::Local;
use tokio::sync::{mpsc, watch};

mod args;
pub mod ask;
pub mod cgroup;
pub mod file;
pub mod keep;
pub mod members;
pub mod metrics;
pub mod runtime;

pub use args::Args;

use anyhow::Context as _;
use ask::Asker;
use file::StateFile;
use keep::{Keeper, Killer};
use metrics::Metrics;
use runtime::Runtime;

/// What `/readyz` waits for.
const RUNTIME: &str = "container runtime";
const AGENT: &str = "agent";

/// Both clocks now.
#[must_use]
pub fn clocks() -> Clocks {
    let (boot, wall) = both_clocks();
    Clocks { boot, wall }
}

/// The watchdog's interface to the container runtime: proto/cri.proto, which documents it.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod cri {
    include!("generated/runtime.v1.rs");
}

/// Runs until a signal.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let process = Local::start("atoll-watchdog", &args.local).await?;
    process.readiness.expect(RUNTIME);
    process.readiness.expect(AGENT);
    let metrics = Metrics::new(&process.registry)?;
    let boot_id = boot_id().context("cannot read the boot id of this machine")?;
    let file = StateFile::new(&args.state_dir)?;
    let runtime = Runtime::new(&args.runtime_socket)?;
    let asker = Asker::new(args.node_name, &args.agent, args.key_file, boot_id.clone())?;
    let killer = Killer { runtime: runtime.clone(), cgroups: args.cgroup_root };

    let (listed, lists) = mpsc::channel(1);
    let (running, what_runs) = watch::channel(None);
    let (answered, answers) = mpsc::channel(1);
    let stop = process.shutdown.clone();
    let following = tokio::spawn(runtime::follow(runtime, listed, stop.clone()));
    let asking = tokio::spawn(ask::keep_asking(asker, what_runs, answered, stop.clone()));
    let keeper = Keeper::start(boot_id, file, killer, metrics, process.readiness.clone(), running);
    keeper.run(lists, answers, stop).await;
    process.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(following, asking) }).await;
    if ended.is_err() {
        tracing::warn!("a call did not end in time");
    }
    process.finish().await;
    Ok(())
}
