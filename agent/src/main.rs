//! A Site's end of the stream to its hub.

use atoll_agent::args::{Args, Command};
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Run(args) => atoll_agent::process::run(args).await,
        Command::Join(args) => atoll_agent::join::run(args).await,
    }
}
