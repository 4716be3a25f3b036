//! `kubectl atoll`: what kubectl alone cannot say.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod args;
mod ca;
mod error;
mod explain;
mod fetch;
mod hub;
mod manifests;
mod outlook;
mod render;
mod simulate;
mod sites;
mod token;
mod verdict;
mod world;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

#[tokio::main]
async fn main() -> ExitCode {
    match args::run(Args::parse()).await {
        Ok(verdict) => verdict.into(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
