//! A binder that decides nothing: what the way to the API server and back costs at least.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

/// Binds pods as a file says, and ends.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Lines `namespace/pod node`.
    #[arg(long)]
    bindings: PathBuf,
    /// Bindings in flight on all connections together.
    #[arg(long)]
    in_flight: usize,
    /// Connections that share them.
    #[arg(long)]
    connections: usize,
}

pub async fn run(args: Args) -> Result<()> {
    ensure!(args.connections > 0 && args.in_flight >= args.connections, "each connection needs a binding in flight");
    let text = std::fs::read_to_string(&args.bindings).context("read the bindings")?;
    let lines: Vec<&str> = text.lines().collect();
    let parts = (0..args.connections).map(|part| {
        let mine: Vec<&str> = lines.iter().skip(part).step_by(args.connections).copied().collect();
        connection(&args, mine)
    });
    try_join_all(parts).await.map(drop)
}

async fn connection(args: &Args, lines: Vec<&str>) -> Result<()> {
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    stream::iter(lines)
        .map(|line| bind(&client, line))
        .buffer_unordered(args.in_flight / args.connections)
        .try_collect()
        .await
}

async fn bind(client: &Client, line: &str) -> Result<()> {
    let (namespace, pod, node) = line
        .split_once(' ')
        .and_then(|(key, node)| key.split_once('/').map(|(namespace, pod)| (namespace, pod, node)))
        .with_context(|| format!("not a binding: {line}"))?;
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": { "name": pod, "namespace": namespace },
        "target": { "kind": "Node", "name": node },
    });
    let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods/{pod}/binding"))
        .header("Content-Type", "application/json")
        .body(serde_json::to_vec(&binding)?)?;
    client.request_text(request).await.map(drop).with_context(|| format!("bind {pod}"))
}
