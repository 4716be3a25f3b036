//! A process from start to end: flags, logs, signals, probes, the client.

use std::net::SocketAddr;
use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::logs::{self, LogFormat};
use crate::readiness::Readiness;

/// Flags of every process that talks to an API server.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonArgs {
    /// Kubeconfig of the API server; without it $KUBECONFIG, ~/.kube/config or the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Flags of every process.
    #[command(flatten)]
    pub local: LocalArgs,
}

/// Flags of every process.
#[derive(Clone, Debug, clap::Args)]
pub struct LocalArgs {
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "ATOLL_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What is logged, such as `info` or `info,atoll_operator=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "ATOLL_LOG")]
    pub log_filter: String,
}

/// What a started process has to work with that talks to no API server.
pub struct Local {
    /// Cancelled by SIGTERM or SIGINT, or by a task that gives up; every task ends with it.
    pub shutdown: CancellationToken,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What `/metrics` serves.
    pub registry: prometheus::Registry,
    http: JoinHandle<()>,
}

impl Local {
    /// Starts logging and the probes, and turns SIGTERM and SIGINT into a shutdown.
    pub async fn start(name: &'static str, args: &LocalArgs) -> anyhow::Result<Self> {
        Self::start_with(name, args, axum::Router::new()).await
    }

    async fn start_with(name: &'static str, args: &LocalArgs, pages: axum::Router) -> anyhow::Result<Self> {
        logs::init(args.log_format, &args.log_filter)?;
        let shutdown = CancellationToken::new();
        cancel_on_signals(&shutdown)?;
        let readiness = Readiness::default();
        let registry = prometheus::Registry::new();
        let server = crate::http::serve(
            args.http_address,
            readiness.clone(),
            registry.clone(),
            pages,
            shutdown.clone().cancelled_owned(),
        )
        .await?;
        let http = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the server of probes and metrics ended");
            }
        });
        tracing::info!(name, version = env!("CARGO_PKG_VERSION"), http = %args.http_address, "started");
        Ok(Self { shutdown, readiness, registry, http })
    }

    /// Ends what [`Local::start`] started.
    pub async fn finish(self) {
        finish(self.shutdown, self.http).await;
    }
}

/// What a started process has to work with.
pub struct Process {
    /// Client of the API server.
    pub client: kube::Client,
    /// What the client was made of, for those who need connections of their own.
    pub config: kube::Config,
    /// Cancelled by SIGTERM or SIGINT, or by a task that gives up; every task ends with it.
    pub shutdown: CancellationToken,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What `/metrics` serves.
    pub registry: prometheus::Registry,
    http: JoinHandle<()>,
}

impl Process {
    /// Starts logging, the probes and the client, and turns SIGTERM and SIGINT into a shutdown.
    pub async fn start(name: &'static str, args: &CommonArgs) -> anyhow::Result<Self> {
        Self::start_with(name, args, axum::Router::new()).await
    }

    /// Like [`Process::start`], with pages that are served beside the probes and metrics.
    pub async fn start_with(name: &'static str, args: &CommonArgs, pages: axum::Router) -> anyhow::Result<Self> {
        let Local { shutdown, readiness, registry, http } = Local::start_with(name, &args.local, pages).await?;
        let config = config(name, args).await?;
        let client = kube::Client::try_from(config.clone())?;
        Ok(Self { client, config, shutdown, readiness, registry, http })
    }

    /// Ends what [`Process::start`] started.
    pub async fn finish(self) {
        finish(self.shutdown, self.http).await;
    }
}

async fn finish(shutdown: CancellationToken, http: JoinHandle<()>) {
    shutdown.cancel();
    if let Err(error) = http.await {
        tracing::error!(%error, "the server of probes and metrics could not be joined");
    }
    tracing::info!("stopped");
}

/// A name that no other process has, wherever it runs, and that this one has not again after a restart: the machine's
/// name and a random part, at most 60 characters that are allowed in names of Kubernetes objects. Without a machine's name
/// that can be read it starts with `otherwise`.
#[must_use]
pub fn process_identity(otherwise: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    identity(&host, otherwise, rand::random())
}

fn identity(host: &str, otherwise: &str, random: u64) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let host: String = host.trim().chars().map(allowed).take(40).collect();
    let host = host.trim_matches('-');
    format!("{}-{random:016x}", if host.is_empty() { otherwise } else { host })
}

/// Names the process in its user agent, so that audit logs tell who wrote.
async fn config(name: &'static str, args: &CommonArgs) -> anyhow::Result<kube::Config> {
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer().await?,
    };
    let agent = format!("{name}/{}", env!("CARGO_PKG_VERSION"));
    config.headers.push((::http::header::USER_AGENT, agent.parse()?));
    Ok(config)
}

fn cancel_on_signals(shutdown: &CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: shutting down"),
            _ = interrupt.recv() => tracing::info!("SIGINT: shutting down"),
            () = shutdown.cancelled() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::identity;

    #[test]
    fn identities_are_names_of_objects() {
        for (host, expected) in [
            ("node-1\n", "node-1-000000000000000a"),
            ("Rack_7.example.org\n", "rack-7-example-org-000000000000000a"),
            ("--\n", "atoll-000000000000000a"),
            ("", "atoll-000000000000000a"),
        ] {
            assert_eq!(identity(host, "atoll", 10), expected);
        }
        assert!(identity(&"h".repeat(300), "atoll", u64::MAX).len() <= 60);
    }
}
