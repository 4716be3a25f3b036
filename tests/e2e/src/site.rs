//! A Site of a test network: control plane, simulated nodes, scheduler, agent, and its link to the hub.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use atoll_testkit::kwok::Kwok;
use atoll_testkit::nodes::{self, NodeProfile};
use atoll_testkit::ports::Port;
use atoll_testkit::{ControlPlane, ControlPlaneOptions, Machine, ManagedProcess, Wire, binaries};

use crate::hub::{Http, Hub, SYSTEM, component, service_account, wait_ready};
use crate::link::Link;
use crate::manifests;

/// What a Site should be like.
#[derive(Clone, Debug)]
pub struct SiteOptions {
    /// Its display name; names folders and logs too.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Name of its supplier, who must exist on the hub.
    pub supplier: String,
    /// How far the hub trusts it.
    pub trust: String,
    /// Its simulated nodes.
    pub nodes: Vec<NodeProfile>,
    /// True: one real node joins too; pods get DNS and Services their EndpointSlices.
    pub real_node: bool,
    /// The wire that the Site is on; its agent has a host of its own then.
    pub wire: Option<Arc<Wire>>,
    /// The agent answers the watchdogs of nodes.
    pub watchdog: bool,
}

impl SiteOptions {
    /// A Site of this supplier.
    #[must_use]
    pub fn new(name: &str, region: &str, supplier: &str, nodes: Vec<NodeProfile>) -> Self {
        Self {
            name: name.to_owned(),
            region: region.to_owned(),
            supplier: supplier.to_owned(),
            trust: "Contracted".to_owned(),
            nodes,
            real_node: false,
            wire: None,
            watchdog: false,
        }
    }
}

/// A Site before its agent runs: its cluster and its scheduler.
#[derive(Debug)]
pub struct Prepared {
    options: SiteOptions,
    scheduler: ManagedProcess,
    scheduler_http: Http,
    kwok: Kwok,
    plane: ControlPlane,
}

/// Where an agent answers the watchdogs of its nodes.
#[derive(Debug)]
pub struct WatchdogEnd {
    /// Its address.
    pub address: SocketAddr,
    /// The file with the key that both sides have.
    pub key: PathBuf,
    _port: Port,
}

impl WatchdogEnd {
    fn prepare(plane: &ControlPlane, ip: IpAddr) -> Result<Self> {
        let key = plane.dir().join("watchdog-key");
        std::fs::write(&key, rand::random::<[u8; 32]>()).context("write the watchdogs' key")?;
        let port = Port::lease()?;
        Ok(Self { address: SocketAddr::new(ip, port.number()), key, _port: port })
    }

    fn agent_args(&self) -> [String; 2] {
        [format!("--watchdog-listen={}", self.address), format!("--watchdog-key={}", self.key.display())]
    }
}

/// A running Site.
#[derive(Debug)]
pub struct Site {
    /// What it was started with.
    pub options: SiteOptions,
    /// Its agent.
    pub agent: ManagedProcess,
    /// Its scheduler.
    pub scheduler: ManagedProcess,
    /// The agent's way to the gateway.
    pub link: Link,
    /// Its simulated nodes.
    pub kwok: Kwok,
    /// The API server with its etcd.
    pub plane: ControlPlane,
    /// The agent's host, if it has one for itself.
    pub machine: Option<Machine>,
    /// Where the agent answers watchdogs, if it does.
    pub watchdog: Option<WatchdogEnd>,
    scheduler_http: Http,
    agent_http: Http,
}

impl Prepared {
    /// Starts the Site's own cluster with its nodes, and the scheduler.
    pub async fn start(options: SiteOptions) -> Result<Self> {
        let wanted = if options.real_node {
            ControlPlaneOptions::real_node(&options.name)
        } else {
            ControlPlaneOptions::new(&options.name)
        };
        let wanted = match &options.wire {
            Some(wire) => wanted.address(wire.address()),
            None => wanted,
        };
        let plane = ControlPlane::start(wanted.crds(manifests::crds(&["gangs", "gpunodes", "sitepolicies"])?)).await?;
        plane.create_namespace(SYSTEM).await?;
        let dir = manifests::root().join("deploy/site");
        plane.kubectl(["apply".as_ref(), "-f".as_ref(), dir.as_os_str()]).await?.ok()?;
        let kwok = Kwok::start(&plane)?;
        nodes::create(&plane.client(), &options.nodes).await?;
        let count = options.nodes.iter().map(|profile| profile.count as usize).sum();
        nodes::wait_ready(&plane.client(), count, Duration::from_mins(1)).await?;
        let scheduler_http = Http::on(None)?;
        let scheduler = component(
            &plane,
            &service_account(&plane, "atoll-scheduler")?,
            ("atoll-scheduler", None),
            "scheduler",
            &scheduler_http,
        )?
        // Short, so that a killed scheduler is replaced soon.
        .args(["--leader-lease-seconds=3"]);
        let scheduler = ManagedProcess::start(scheduler)?;
        Ok(Self { options, scheduler, scheduler_http, kwok, plane })
    }

    /// Display name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Name of its supplier.
    #[must_use]
    pub fn supplier(&self) -> &str {
        &self.options.supplier
    }

    /// Its control plane.
    #[must_use]
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Joins the Site to the hub and waits until its agent has a session.
    pub async fn join(self, hub: &Hub) -> Result<Site> {
        let token = hub.token(&self.options.supplier, &self.options.trust).await?;
        let link = Link::balance(hub.address(), hub.gateway_addresses()).await?;
        let machine = match &self.options.wire {
            Some(wire) => Some(Machine::start(wire, &format!("{}-agent", self.options.name)).await?),
            None => None,
        };
        let agent_http = Http::on(machine.as_ref())?;
        let ip = machine.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), Machine::address);
        let watchdog = self.options.watchdog.then(|| WatchdogEnd::prepare(&self.plane, ip)).transpose()?;
        let agent = ManagedProcess::start(
            component(
                &self.plane,
                &service_account(&self.plane, "atoll-agent")?,
                ("atoll-agent", Some("run")),
                "agent",
                &agent_http,
            )?
            .args([format!("--hub={}", link.address())])
            .args([format!("--region={}", self.options.region), format!("--display-name={}", self.options.name)])
            .args(watchdog.iter().flat_map(WatchdogEnd::agent_args))
            .env("ATOLL_JOIN_TOKEN", token)
            .on(machine.as_ref()),
        )?;
        wait_ready(&self.scheduler, &self.scheduler_http).await?;
        wait_ready(&agent, &agent_http).await?;
        Ok(Site {
            options: self.options,
            agent,
            scheduler: self.scheduler,
            link,
            kwok: self.kwok,
            plane: self.plane,
            machine,
            watchdog,
            scheduler_http: self.scheduler_http,
            agent_http,
        })
    }
}

impl Site {
    /// Waits until agent and scheduler say that they are ready, for example after a restart.
    pub async fn wait_ready(&self) -> Result<()> {
        wait_ready(&self.scheduler, &self.scheduler_http).await?;
        wait_ready(&self.agent, &self.agent_http).await
    }

    /// What its supplier says to it, by the agent's command.
    pub async fn tell(&self, command: &[&str]) -> Result<()> {
        let said = tokio::process::Command::new(binaries::path("atoll-agent")?)
            .args(command)
            .arg("--kubeconfig")
            .arg(self.plane.kubeconfig())
            .output()
            .await
            .with_context(|| format!("run atoll-agent {command:?}"))?;
        let error = String::from_utf8_lossy(&said.stderr);
        anyhow::ensure!(said.status.success(), "atoll-agent {command:?}: {error}");
        Ok(())
    }

    /// How many of its nodes have GPUs.
    #[must_use]
    pub fn gpu_nodes(&self) -> usize {
        let simulated = self.options.nodes.iter().filter(|profile| profile.gpus > 0);
        simulated.map(|profile| profile.count as usize).sum::<usize>() + usize::from(self.options.real_node)
    }
}
