//! The hub of a test network: control plane, manifests, operators, gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use atoll_testkit::ports::Port;
use atoll_testkit::{
    AuditLevel, ControlPlane, ControlPlaneOptions, Machine, ManagedProcess, ProcessSpec, Wire, binaries,
};

use crate::manifests;

/// Namespace of Atoll's own objects.
pub const SYSTEM: &str = atoll_api::names::SYSTEM_NAMESPACE;

/// A running operator.
#[derive(Debug)]
pub struct Operator {
    /// Its process.
    pub process: ManagedProcess,
    http: Http,
}

impl Operator {
    /// Whether it says that it leads; false when it does not answer.
    pub async fn leads(&self) -> bool {
        let answer = tokio::time::timeout(Duration::from_secs(1), get(&self.http.address(), "/metrics")).await;
        answer.is_ok_and(|metrics| metrics.is_ok_and(|text| text.lines().any(|line| line == "atoll_operator_leader 1")))
    }
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Its process.
    pub process: ManagedProcess,
    /// Where it listens.
    pub address: SocketAddr,
    /// The host that it has for itself, if any.
    pub machine: Option<Machine>,
    http: Http,
    _port: Port,
}

impl Gateway {
    /// Waits until it is ready, for example after a restart.
    pub async fn wait_ready(&self) -> Result<()> {
        wait_ready(&self.process, &self.http).await
    }
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    /// Operators; exactly one of them leads. Ended before the control plane.
    pub operators: Vec<Operator>,
    /// Its gateways.
    pub gateways: Vec<Gateway>,
    /// The API server with its etcd.
    pub plane: ControlPlane,
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
    /// Gateways to start.
    pub gateways: usize,
    /// More flags for gateways.
    pub gateway_args: Vec<String>,
    /// The wire that the hub is on; each gateway has a host of its own then.
    pub wire: Option<Arc<Wire>>,
}

impl HubOptions {
    /// Where the hub is reached.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.wire.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |wire| wire.address())
    }
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            operators: 1,
            leader_lease_seconds: 15,
            suspect_after_seconds: 30,
            audit: AuditLevel::Writes,
            gateways: 1,
            gateway_args: Vec::new(),
            wire: None,
        }
    }
}

impl Hub {
    /// Starts one and waits until every process is ready.
    pub async fn start(options: HubOptions) -> Result<Self> {
        let wanted = ControlPlaneOptions::new("hub").audit(options.audit).address(options.address());
        let plane = ControlPlane::start(wanted.crds(manifests::crds(&[])?)).await?;
        plane.create_namespace(SYSTEM).await?;
        for folder in ["deploy/hub", "api/catalogue"] {
            let dir = manifests::root().join(folder);
            plane.kubectl(["apply".as_ref(), "-f".as_ref(), dir.as_os_str()]).await?.ok()?;
        }
        let mut hub = Self { operators: Vec::new(), gateways: Vec::new(), plane, options: options.clone() };
        for _ in 0..options.gateways {
            hub.start_gateway().await?;
        }
        for _ in 0..options.operators {
            hub.start_operator(None).await?;
        }
        for gateway in &hub.gateways {
            gateway.wait_ready().await?;
        }
        Ok(hub)
    }

    /// Starts one more gateway; it may not be ready yet.
    async fn start_gateway(&mut self) -> Result<()> {
        let name =
            if self.gateways.is_empty() { "gateway".to_owned() } else { format!("gateway-{}", self.gateways.len()) };
        let machine = match &self.options.wire {
            Some(wire) => Some(Machine::start(wire, &name).await?),
            None => None,
        };
        let (http, port) = (Http::on(machine.as_ref())?, Port::lease()?);
        let address = SocketAddr::new(http.ip, port.number());
        let kubeconfig = service_account(&self.plane, "atoll-gateway")?;
        let spec = component(&self.plane, &kubeconfig, ("atoll-gateway", None), &name, &http)?
            .args([format!("--listen={address}"), format!("--public-name={}", self.options.address())])
            .args([format!("--suspect-after={}s", self.options.suspect_after_seconds)])
            .args(&self.options.gateway_args)
            .on(machine.as_ref());
        let process = ManagedProcess::start(spec)?;
        self.gateways.push(Gateway { process, address, machine, http, _port: port });
        Ok(())
    }

    /// Where agents find the gateways.
    #[must_use]
    pub fn gateway_addresses(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|gateway| gateway.address).collect()
    }

    /// Where the hub is reached by those who are on its wire.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.options.address()
    }

    /// Starts one more operator, on another kubeconfig than the usual one if given.
    pub async fn start_operator(&mut self, kubeconfig: Option<PathBuf>) -> Result<()> {
        let http = Http::on(None)?;
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

/// Where a process answers to probes.
#[derive(Debug)]
pub(crate) struct Http {
    ip: IpAddr,
    port: Port,
}

impl Http {
    /// For a process on a host of its own, or on this one.
    pub(crate) fn on(machine: Option<&Machine>) -> Result<Self> {
        Ok(Self { ip: machine.map_or(Ipv4Addr::LOCALHOST.into(), Machine::address), port: Port::lease()? })
    }

    pub(crate) fn address(&self) -> String {
        SocketAddr::new(self.ip, self.port.number()).to_string()
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
    http: &Http,
) -> Result<ProcessSpec> {
    let log = plane.dir().join(format!("{name}.log"));
    Ok(ProcessSpec::new(format!("{} {name}", plane.options().name), binaries::path(binary)?, log)
        .args(subcommand)
        .args([format!("--kubeconfig={}", kubeconfig.display())])
        .args([format!("--http-address={}", http.address())])
        .env("ATOLL_LOG", std::env::var("ATOLL_LOG").unwrap_or_else(|_| "info".to_owned())))
}

/// Waits until a process says on `/readyz` that it is ready.
pub(crate) async fn wait_ready(process: &ManagedProcess, http: &Http) -> Result<()> {
    let what = format!("{} to be ready", process.name());
    let address = http.address();
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
