//! Kills the members on a GPU node that are without a lease.

use clap::Parser as _;

// Nothing here computes; what may wait for a disk or the kernel has a thread of its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    atoll_agent::watchdog::run(atoll_agent::watchdog::Args::parse()).await
}
