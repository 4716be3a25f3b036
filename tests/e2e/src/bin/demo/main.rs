//! `make demo`: a network on this machine, step by step.

mod narrator;
mod real_site;
mod steps;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::narrator::Narrator;

/// Starts a hub and Sites on this machine, runs Clusters on them, cuts a Site off and shows the replacement.
#[derive(Debug, Parser)]
#[command(name = "atoll-demo")]
struct Args {
    /// Do not wait at the end: check every step, print how long each took, clean up.
    #[arg(long)]
    check: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run(&Args::parse())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo stopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let mut narrator = Narrator::new();
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let demo = tokio::select! {
        shown = Box::pin(steps::show(&mut narrator)) => shown?,
        signal = &mut interrupt => {
            signal.context("wait for Ctrl-C")?;
            println!("\nInterrupted; cleaning up.");
            return Ok(());
        }
    };
    narrator.summary();
    if !args.check {
        demo.print_how_to_try();
        interrupt.await.context("wait for Ctrl-C")?;
        println!("\nCleaning up.");
    }
    // Every process ends when the network is dropped.
    drop(demo);
    Ok(())
}
