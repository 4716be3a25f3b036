//! A binder that decides nothing: what the way to the API server and back costs at least.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atoll_scheduler::api::{Connections, Method};
use atoll_scheduler::proto;
use futures::{TryStreamExt as _, stream};
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// As for the scheduler's own bindings.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Binds pods as a file says, and ends. Its requests are those of the scheduler, over the same connections.
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
    let text = std::fs::read_to_string(&args.bindings).context("read the bindings")?;
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let connections = Connections::new(&config, args.connections)?;
    stream::iter(text.lines().map(Ok)).try_for_each_concurrent(args.in_flight, |line| bind(&connections, line)).await
}

async fn bind(connections: &Connections, line: &str) -> Result<()> {
    let (namespace, pod, node) = line
        .split_once(' ')
        .and_then(|(key, node)| key.split_once('/').map(|(namespace, pod)| (namespace, pod, node)))
        .with_context(|| format!("not a binding: {line}"))?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/binding");
    let body = proto::Binding::to_node(namespace, pod, "", node);
    let body = proto::wrap(proto::Binding::API_VERSION, proto::Binding::KIND, &body);
    let answer = connections.send(Method::Create, &path, body.into(), ANSWER_WITHIN).await?;
    ensure!(answer.is_success(), "bind {pod}: {}", answer.message());
    Ok(())
}
