//! The hub of a test network: control plane, manifests, operators, gateway.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use atoll_testkit::ports::Port;
use atoll_testkit::{AuditLevel, ControlPlane, ControlPlaneOptions, ManagedProcess, ProcessSpec, binaries};

use crate::manifests;

/// Namespace of Atoll's own objects.
pub const SYSTEM: &str = atoll_api::names::SYSTEM_NAMESPACE;

/// A running operator.
#[derive(Debug)]
pub struct Operator {
    /// Its process.
    pub process: ManagedProcess,
    http: Port,
}

impl Operator {
    /// Whether it says that it leads; false when it does not answer.
    pub async fn leads(&self) -> bool {
        let address = format!("127.0.0.1:{}", self.http.number());
        let answer = tokio::time::timeout(Duration::from_secs(1), get(&address, "/metrics")).await;
        answer.is_ok_and(|metrics| metrics.is_ok_and(|text| text.lines().any(|line| line == "atoll_operator_leader 1")))
    }
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    /// Operators; exactly one of them leads. Ended before the control plane.
    pub operators: Vec<Operator>,
    /// The gateway.
    pub gateway: ManagedProcess,
    /// Where it listens.
    pub gateway_address: SocketAddr,
    /// The API server with its etcd.
    pub plane: ControlPlane,
    /// The gateway's: for agents, and for probes.
    gateway_ports: [Port; 2],
    options: HubOptions,
}

/// What a hub should be like.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Operators to start.
    pub operators: usize,
    /// Seconds of the leader's lease.
    pub leader_lease_seconds: u32,
    /// Seconds of silence after which a Site counts as lost, unless its Clusters ask for less.
    pub suspect_after_seconds: u32,
    /// What the API server's audit log holds.
    pub audit: AuditLevel,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self { operators: 1, leader_lease_seconds: 15, suspect_after_seconds: 30, audit: AuditLevel::Writes }
    }
}

impl Hub {
    /// Starts one and waits until every process is ready.
    pub async fn start(options: HubOptions) -> Result<Self> {
        let plane =
            ControlPlane::start(ControlPlaneOptions::new("hub").audit(options.audit).crds(manifests::crds(&[])?))
                .await?;
        plane.create_namespace(SYSTEM).await?;
        for folder in ["deploy/hub", "api/catalogue"] {
            let dir = manifests::root().join(folder);
            plane.kubectl(["apply".as_ref(), "-f".as_ref(), dir.as_os_str()]).await?.ok()?;
        }
        let gateway_port = Port::lease()?;
        let gateway_address = SocketAddr::from(([127, 0, 0, 1], gateway_port.number()));
        let gateway_http = Port::lease()?;
        let gateway = ManagedProcess::start(
            component(
                &plane,
                &service_account(&plane, "atoll-gateway")?,
                ("atoll-gateway", None),
                "gateway",
                &gateway_http,
            )?
            .args([format!("--listen={gateway_address}"), "--public-name=127.0.0.1".to_owned()])
            .args([format!("--suspect-after={}s", options.suspect_after_seconds)]),
        )?;
        let mut hub = Self {
            operators: Vec::new(),
            gateway,
            gateway_address,
            plane,
            gateway_ports: [gateway_port, gateway_http],
            options: options.clone(),
        };
        for _ in 0..options.operators {
            hub.start_operator(None).await?;
        }
        wait_ready(&hub.gateway, &hub.gateway_ports[1]).await?;
        Ok(hub)
    }

    /// Starts one more operator, on another kubeconfig than the usual one if given.
    pub async fn start_operator(&mut self, kubeconfig: Option<PathBuf>) -> Result<()> {
        let http = Port::lease()?;
        let name = format!("operator-{}", self.operators.len());
        let kubeconfig = match kubeconfig {
            Some(path) => path,
            None => service_account(&self.plane, "atoll-operator")?,
        };
        let spec = component(&self.plane, &kubeconfig, ("atoll-operator", None), &name, &http)?
            .args([format!("--leader-lease-seconds={}", self.options.leader_lease_seconds)]);
        let process = ManagedProcess::start(spec)?;
        wait_ready(&process, &http).await?;
        self.operators.push(Operator { process, http });
        Ok(())
    }

    /// A join token for a supplier, made by `kubectl atoll token create`.
    pub async fn token(&self, supplier: &str, trust: &str) -> Result<String> {
        let args = ["atoll", "token", "create", "--supplier", supplier, "--trust", trust, "--output", "token"];
        let output = self.plane.kubectl(args).await?.ok()?;
        Ok(output.trim().to_owned())
    }
}

/// A kubeconfig of a process's ServiceAccount, which has the name of its binary.
pub(crate) fn service_account(plane: &ControlPlane, binary: &str) -> Result<PathBuf> {
    let user = format!("system:serviceaccount:{SYSTEM}:{binary}");
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{SYSTEM}")];
    Ok(plane.kubeconfig_as(&user, &groups.each_ref().map(String::as_str))?)
}

/// A process of Atoll on a control plane: its binary and subcommand, with the flags that all of them have.
pub(crate) fn component(
    plane: &ControlPlane,
    kubeconfig: &Path,
    (binary, subcommand): (&str, Option<&str>),
    name: &str,
    http: &Port,
) -> Result<ProcessSpec> {
    let log = plane.dir().join(format!("{name}.log"));
    Ok(ProcessSpec::new(format!("{} {name}", plane.options().name), binaries::path(binary)?, log)
        .args(subcommand)
        .args([format!("--kubeconfig={}", kubeconfig.display())])
        .args([format!("--http-address=127.0.0.1:{}", http.number())])
        .env("ATOLL_LOG", std::env::var("ATOLL_LOG").unwrap_or_else(|_| "info".to_owned())))
}

/// Waits until a process says on `/readyz` that it is ready.
pub(crate) async fn wait_ready(process: &ManagedProcess, http: &Port) -> Result<()> {
    let what = format!("{} to be ready", process.name());
    let address = format!("127.0.0.1:{}", http.number());
    atoll_testkit::wait::eventually(&what, Duration::from_mins(1), async || {
        process.check_running().map_err(|error| error.to_string())?;
        let answer = get(&address, "/readyz").await.map_err(|error| format!("{error:#}"))?;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("{answer}\n{}", process.log_tail(20))) }
    })
    .await
    .with_context(|| format!("{} did not become ready; its log ends:\n{}", process.name(), process.log_tail(30)))
}

/// The answer to a plain HTTP request, head and body.
pub async fn get(address: &str, path: &str) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
