//! What can happen, to whom, and what is promised then.

use std::time::Duration;

use anyhow::{Context, Result};
use atoll_testkit::{Direction, ManagedProcess};
use tokio::time::sleep;

use super::world::World;
use super::{Times, boot_now};

/// A process of a Site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfSite {
    /// The agent.
    Agent,
    /// Atoll's scheduler.
    Scheduler,
    /// The node's kubelet.
    Kubelet,
    /// The node's container runtime.
    Containerd,
    /// The node's watchdog.
    Watchdog,
    /// The Site's API server.
    ApiServer,
}

/// A process of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfHub {
    /// One of the gateways.
    Gateway,
    /// The operator.
    Operator,
    /// The hub's etcd.
    Etcd,
}

/// How long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Nobody may notice.
    Short,
    /// Every fence expires.
    Long,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The Site's link to the hub is cut.
    HubLink(Direction, Span),
    /// It is slow, and loses one packet of ten.
    HubLinkSlow,
    /// The agent does not reach its Site's API server, or is not answered.
    AgentApi(Direction),
    /// The node does not reach its Site's API server, or is not answered.
    NodeApi(Direction),
    /// The node's watchdog does not reach the agent, or is not answered.
    NodeAgent(Direction),
    /// The node reaches neither.
    NodeAlone,
    /// A process of the Site is killed and starts again.
    Kill(OfSite),
    /// It stands still.
    Freeze(OfSite, Span),
    /// The agent dies and does not come back.
    AgentDead,
    /// The Site's link to the hub is cut while a process there stands still.
    HubLinkAnd(OfSite),
    /// A process of the hub is killed and starts again.
    KillHub(OfHub),
    /// It stands still.
    FreezeHub(OfHub),
    /// A gateway does not reach the hub's API server, or is not answered, for longer than its Lease.
    GatewayApi(Direction),
    /// Every process of the hub is killed and starts again, one after the other.
    RestartHub,
    /// The supplier drains the Site.
    Drain,
}

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No member notices.
    Undisturbed,
    /// Members of the Site run elsewhere in time, counted from its last lease.
    Moved,
    /// They do, counted from the supplier's word.
    Drained,
    /// Never two at once, and everything runs again afterwards.
    Safe,
}

use Direction::{Both, In, Out};
use OfHub::{Etcd, Gateway, Operator};
use OfSite::{Agent, ApiServer, Containerd, Kubelet, Scheduler, Watchdog};
use Span::{Long, Short};

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 42] = [
        Self::HubLink(Both, Long),
        Self::HubLink(Out, Long),
        Self::HubLink(In, Long),
        Self::HubLink(Both, Short),
        Self::HubLinkSlow,
        Self::AgentApi(Both),
        Self::AgentApi(Out),
        Self::AgentApi(In),
        Self::NodeApi(Both),
        Self::NodeApi(Out),
        Self::NodeApi(In),
        Self::NodeAgent(Both),
        Self::NodeAgent(Out),
        Self::NodeAgent(In),
        Self::NodeAlone,
        Self::Kill(Agent),
        Self::Kill(Scheduler),
        Self::Kill(Kubelet),
        Self::Kill(Containerd),
        Self::Kill(Watchdog),
        Self::Kill(ApiServer),
        Self::Freeze(Agent, Short),
        Self::Freeze(Agent, Long),
        Self::Freeze(Scheduler, Long),
        Self::Freeze(Kubelet, Long),
        Self::Freeze(Containerd, Long),
        Self::Freeze(Watchdog, Long),
        Self::Freeze(ApiServer, Long),
        Self::AgentDead,
        Self::HubLinkAnd(Kubelet),
        Self::HubLinkAnd(Containerd),
        Self::HubLinkAnd(Watchdog),
        Self::HubLinkAnd(ApiServer),
        Self::KillHub(Gateway),
        Self::KillHub(Operator),
        Self::FreezeHub(Gateway),
        Self::FreezeHub(Operator),
        Self::FreezeHub(Etcd),
        Self::GatewayApi(Both),
        Self::GatewayApi(Out),
        Self::RestartHub,
        Self::Drain,
    ];

    /// In words.
    #[must_use]
    pub fn name(self) -> String {
        let way = |direction| match direction {
            Both => "both ways",
            Out => "out",
            In => "in",
        };
        let span = |span| if span == Short { "for a moment" } else { "for long" };
        match self {
            Self::HubLink(direction, length) => format!("hub link cut {} {}", way(direction), span(length)),
            Self::HubLinkSlow => "hub link slow and lossy".to_owned(),
            Self::AgentApi(direction) => format!("agent cut off its API server {}", way(direction)),
            Self::NodeApi(direction) => format!("node cut off its API server {}", way(direction)),
            Self::NodeAgent(direction) => format!("watchdog cut off its agent {}", way(direction)),
            Self::NodeAlone => "node cut off agent and API server".to_owned(),
            Self::Kill(process) => format!("{process:?} killed"),
            Self::Freeze(process, length) => format!("{process:?} frozen {}", span(length)),
            Self::AgentDead => "Agent dead for long".to_owned(),
            Self::HubLinkAnd(process) => format!("hub link cut, {process:?} frozen"),
            Self::KillHub(process) => format!("hub's {process:?} killed"),
            Self::FreezeHub(process) => format!("hub's {process:?} frozen"),
            Self::GatewayApi(direction) => format!("gateway cut off its API server {}", way(direction)),
            Self::RestartHub => "hub restarted process by process under load".to_owned(),
            Self::Drain => "Site drained".to_owned(),
        }
    }

    /// Whether it happens to one Site; the others happen to the hub, and so to all.
    #[must_use]
    pub const fn of_site(self) -> bool {
        !matches!(self, Self::KillHub(_) | Self::FreezeHub(_) | Self::GatewayApi(_) | Self::RestartHub)
    }

    /// Whether it happens to watchdogs, or to the way to them.
    #[must_use]
    pub const fn of_watchdog(self) -> bool {
        matches!(
            self,
            Self::NodeAgent(_)
                | Self::NodeAlone
                | Self::Kill(Watchdog)
                | Self::Freeze(Watchdog, _)
                | Self::HubLinkAnd(Watchdog)
        )
    }

    /// What is promised then.
    #[must_use]
    pub const fn expect(self, times: &Times) -> Expect {
        match self {
            Self::HubLink(_, Long) | Self::HubLinkAnd(_) | Self::AgentDead | Self::Freeze(Agent, Long) => Expect::Moved,
            Self::Drain => Expect::Drained,
            // A watchdog that cannot know better kills: its members start again.
            Self::NodeAgent(_) | Self::NodeAlone | Self::Freeze(Watchdog, Long) => Expect::Safe,
            // The agent looks for another gateway after 6 s without a lease, which at short times is too late to keep
            // members; the promise of a gateway that is cut off is that the fence holds.
            Self::FreezeHub(Gateway) | Self::GatewayApi(_) if times.stop <= 20 => Expect::Safe,
            _ => Expect::Undisturbed,
        }
    }

    /// Whether Clusters come and go meanwhile.
    #[must_use]
    pub const fn under_load(self) -> bool {
        matches!(self, Self::RestartHub | Self::FreezeHub(Etcd))
    }

    /// How long it lasts, at most.
    #[must_use]
    pub fn lasts(self, times: &Times) -> Duration {
        match self {
            Self::Kill(_) | Self::KillHub(_) | Self::RestartHub => times.short() + times.suspect(),
            Self::HubLink(_, Short) | Self::Freeze(_, Short) => times.short(),
            Self::FreezeHub(Etcd) => Duration::from_secs(times.etcd_outage.into()),
            Self::GatewayApi(_) => Duration::from_secs(times.gateway_lease.into()) + times.short(),
            _ => times.long(),
        }
    }

    /// Lets it happen to this Site, or to this gateway. What lasts ends with [`World::mend`].
    pub async fn happen(self, world: &World, target: usize) -> Result<()> {
        if self.of_site() {
            return self.happen_to_site(world, target).await;
        }
        let hub = &world.network.hub;
        let gateway = hub.gateways.get(target % hub.gateways.len().max(1)).context("the hub has no gateway")?;
        let operator = &hub.operators.first().context("the hub has no operator")?.process;
        match self {
            Self::KillHub(Gateway) => gateway.process.restart().await?,
            Self::KillHub(Operator) => operator.restart().await?,
            Self::KillHub(Etcd) => hub.plane.etcd().restart().await?,
            Self::FreezeHub(Gateway) => gateway.process.stop()?,
            Self::FreezeHub(Operator) => operator.stop()?,
            Self::FreezeHub(Etcd) => hub.plane.etcd().stop()?,
            Self::GatewayApi(direction) => {
                let machine = gateway.machine.as_ref().context("the gateway has no host of its own")?;
                machine.cut(hub.plane.server_address(), direction)?;
            }
            _ => {
                let pause = world.times.suspect();
                for gateway in &hub.gateways {
                    gateway.process.restart().await?;
                    gateway.wait_ready().await?;
                    sleep(pause).await;
                }
                operator.restart().await?;
                sleep(pause).await;
                hub.plane.restart_apiserver().await?;
                sleep(pause).await;
                hub.plane.etcd().restart().await?;
                hub.plane.wait_ready().await?;
                if let Some(controllers) = hub.plane.controllers() {
                    controllers.restart().await?;
                }
            }
        }
        Ok(())
    }

    async fn happen_to_site(self, world: &World, target: usize) -> Result<()> {
        let (site, node) = world.site(target).context("there is no such Site")?;
        let machine = site.machine.as_ref().context("the agent has no host of its own")?;
        let watchdog = node.watchdog.as_ref().map(|watchdog| &watchdog.process);
        let process = |of: OfSite| -> Result<&ManagedProcess> {
            Ok(match of {
                Watchdog => watchdog.context("the node has no watchdog")?,
                Agent => &site.agent,
                Scheduler => &site.scheduler,
                Kubelet => node.node.kubelet(),
                Containerd => node.node.containerd(),
                ApiServer => site.plane.apiserver(),
            })
        };
        let answers =
            || Ok::<_, anyhow::Error>(site.watchdog.as_ref().context("the agent answers no watchdog")?.address);
        match self {
            Self::HubLink(direction, _) => machine.cut(site.link.address(), direction)?,
            Self::HubLinkSlow => site.link.slow(Duration::from_millis(150), 10),
            Self::AgentApi(direction) => machine.cut(site.plane.server_address(), direction)?,
            Self::NodeApi(direction) => node.machine.cut(site.plane.server_address(), direction)?,
            Self::NodeAgent(direction) => node.machine.cut(answers()?, direction)?,
            Self::NodeAlone => {
                node.machine.cut(answers()?, Both)?;
                node.machine.cut(site.plane.server_address(), Both)?;
            }
            Self::Kill(of) => process(of)?.restart().await?,
            Self::Freeze(of, _) => process(of)?.stop()?,
            Self::AgentDead => world.leave_dead(&site.agent).await?,
            Self::Drain => world.drain(target).await?,
            Self::HubLinkAnd(of) => {
                process(of)?.stop()?;
                machine.cut(site.link.address(), Both)?;
            }
            Self::KillHub(_) | Self::FreezeHub(_) | Self::GatewayApi(_) | Self::RestartHub => {}
        }
        Ok(())
    }
}

impl Times {
    /// How long a Site may be silent before it counts as lost.
    #[must_use]
    pub const fn suspect(&self) -> Duration {
        Duration::from_secs(self.suspect as u64)
    }
}

/// Rests for so long, or until `done`, while what ends by itself is started again.
pub async fn rest(world: &World, limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = boot_now() + limit;
    while boot_now() < end && !done() {
        world.supervise().await?;
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
