//! The GPUs of one node.

use atoll_device_plugin::args::Args;
use clap::Parser as _;

// One thread for everything that waits: besides it there are only the two of the driver.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    atoll_device_plugin::process::run(Args::parse()).await
}
