//! The gateway's process.

use atoll_operator::gateway::{self, args::Args};
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    gateway::run(Args::parse()).await
}
