//! A Site's end of the stream to its hub.

use atoll_agent::args::{Args, Command};
use atoll_agent::policy::command;
use atoll_api::Availability;
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Run(args) => atoll_agent::process::run(*args).await,
        Command::Join(args) => atoll_agent::join::run(*args).await,
        Command::Drain(args) => command::drain(&args).await,
        Command::Pause(args) => command::set(&args, Availability::Paused).await,
        Command::Resume(args) => command::set(&args, Availability::Accepting).await,
    }
}
