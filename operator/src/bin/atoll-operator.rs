//! The hub's operator: see `atoll_operator::controllers`.

use atoll_api::names::SYSTEM_NAMESPACE;
use atoll_operator::controllers::{self, PolicyArgs};
use atoll_runtime::leader::LeaderArgs;
use atoll_runtime::process::{CommonArgs, Process, process_identity};
use clap::Parser;

/// The hub's operator: places Clusters and keeps them placed.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    leader: LeaderArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Namespace of Atoll's own objects.
    #[arg(long, default_value = SYSTEM_NAMESPACE)]
    namespace: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let process = Process::start("atoll-operator", &args.common).await?;
    let identity = process_identity("atoll-operator");
    let ran = controllers::run(&process, &args.namespace, identity, &args.leader, &args.policy).await;
    process.shutdown.cancel();
    process.finish().await;
    ran
}
