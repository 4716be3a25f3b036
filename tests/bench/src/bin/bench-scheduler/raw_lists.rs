//! Reading every pod and node as bytes: what a restart costs at least.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use futures::AsyncReadExt as _;
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Reads the lists and prints how many seconds that took.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    kubeconfig: PathBuf,
}

pub async fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let (pods, nodes) = tokio::try_join!(read(&args, "/api/v1/pods"), read(&args, "/api/v1/nodes"))?;
    println!("{} {}", started.elapsed().as_secs_f64(), pods + nodes);
    Ok(())
}

/// Reads one list on a connection of its own, and gives its bytes.
async fn read(args: &Args, path: &str) -> Result<usize> {
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    // Any version will do, as for a scheduler that follows with a watch: the API server answers from memory.
    let request = Request::get(format!("{path}?resourceVersion=0"))
        .header("Accept", "application/vnd.kubernetes.protobuf")
        .body(Vec::new())?;
    let mut body = std::pin::pin!(client.request_stream(request).await.with_context(|| format!("list {path}"))?);
    let (mut buffer, mut read) = (vec![0; 1 << 20], 0);
    loop {
        match body.read(&mut buffer).await? {
            0 => return Ok(read),
            more => read += more,
        }
    }
}
