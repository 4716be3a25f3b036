//! What faults happen to: a hub with gateways on hosts of their own, and Sites with one real node each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use atoll_api::conditions::condition;
use atoll_testkit::oci::ImageBuilder;
use atoll_testkit::realnode::{RealNode, RealNodeOptions};
use atoll_testkit::skip::Need;
use atoll_testkit::wait::eventually;
use atoll_testkit::{Machine, ManagedProcess, Wire, tools};
use futures::future::try_join_all;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::witness::{PROGRAM, Run, Witness};
use super::{Times, boot_now};
use crate::clusters::{self, pods, with_spec};
use crate::hub::HubOptions;
use crate::site::{Prepared, Site, SiteOptions};
use crate::{DevicePlugin, Network, NetworkOptions, Watchdog};

/// Namespace of the Clusters.
pub const NAMESPACE: &str = "default";
/// Names of Clusters that come and go begin so.
pub const LOAD: &str = "load-";
const IMAGE: &str = "atoll.test/witness:1";
const GPUS: u32 = 16;
const MODEL: &str = "l40s";
/// The Cluster whose members ignore SIGTERM.
const STUBBORN: &str = "stubborn";
const SITES: [(&str, &str); 3] = [("alpha", "acme"), ("beta", "globex"), ("gamma", "initech")];

/// A Site's node.
#[derive(Debug)]
pub struct Node {
    // Dropped in this order.
    /// Its watchdog, unless the world does without.
    pub watchdog: Option<Watchdog>,
    _plugin: DevicePlugin,
    /// The kubelet and its containers.
    pub node: RealNode,
    /// The host that it is.
    pub machine: Machine,
}

/// A Cluster that runs all the time.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Its members.
    pub count: u32,
    /// A gang: when a member is lost, all start again.
    pub gang: bool,
    /// Its members ignore SIGTERM.
    pub stubborn: bool,
    /// Its members run on while their Site is cut off, also beside those that take their place.
    pub autonomous: bool,
}

/// All of it. Dropping it ends every process.
#[derive(Debug)]
pub struct World {
    /// Who ran when.
    pub witness: Witness,
    /// Nodes, in the order of the network's Sites.
    pub nodes: Vec<Node>,
    /// Hub and Sites.
    pub network: Network,
    /// Its times.
    pub times: Times,
    /// The Clusters whose members are judged.
    pub standing: Vec<Standing>,
    /// Names on the hub, in the order of the network's Sites.
    pub site_names: Vec<String>,
    /// Processes that shall stay dead, by name.
    left_dead: Mutex<BTreeSet<String>>,
    /// Sites that their suppliers drain.
    draining: Mutex<BTreeSet<usize>>,
}

/// Why faults on real processes cannot be tried here, if so.
#[must_use]
pub fn unsupported() -> Option<String> {
    Need::Machines.check().err().map(|error| error.to_string())
}

impl World {
    /// Starts so many Sites, 3 at most, and as many Clusters as they hold when one of them is lost; with watchdogs on the
    /// nodes, or without to see what that leads to.
    pub async fn start(sites: usize, times: Times, watchdogs: bool) -> Result<Self> {
        let wire = Wire::new()?;
        let hub = HubOptions {
            gateways: 2,
            leader_lease_seconds: times.leader_lease,
            suspect_after_seconds: times.suspect,
            gateway_args: vec![
                format!("--heartbeat={}s", times.heartbeat),
                format!("--lease-seconds={}", times.gateway_lease),
            ],
            wire: Some(Arc::clone(&wire)),
            ..HubOptions::default()
        };
        let (network, started) = tokio::try_join!(
            Network::start(NetworkOptions { hub, sites: Vec::new() }),
            try_join_all(SITES.iter().take(sites).map(|(name, supplier)| start_site(&wire, name, supplier, watchdogs))),
        )?;
        let mut network = network;
        let (prepared, mut nodes): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        network.join(prepared).await?;
        for (site, node) in network.sites.iter().zip(&mut nodes) {
            if let Some(agent) = &site.watchdog {
                node.watchdog = Some(Watchdog::start(&node.machine, &node.node, agent)?);
            }
        }
        let mut site_names = Vec::new();
        for site in &network.sites {
            site_names.push(network.site_name(&site.options.name).await?);
        }
        let names = network.sites.iter().map(|site| site.options.name.as_str());
        let witness = Witness::start(names.zip(nodes.iter().map(|node| &node.node)))?;
        let (left_dead, draining) = (Mutex::default(), Mutex::default());
        let mut world = Self { witness, nodes, network, times, standing: Vec::new(), site_names, left_dead, draining };
        for (standing, cluster) in standing(times, sites) {
            clusters::create(&world.network.client(), NAMESPACE, &cluster).await?;
            world.standing.push(standing);
        }
        world.settle(Duration::from_mins(3)).await?;
        Ok(world)
    }

    /// A Site and its node.
    #[must_use]
    pub fn site(&self, index: usize) -> Option<(&Site, &Node)> {
        self.network.sites.get(index).zip(self.nodes.get(index))
    }

    /// Every process that Kubernetes would start again when it ends.
    fn supervised(&self) -> impl Iterator<Item = &ManagedProcess> {
        let hub = &self.network.hub;
        let of_hub = hub.gateways.iter().map(|gateway| &gateway.process);
        let of_sites = self.network.sites.iter().flat_map(|site| [&site.agent, &site.scheduler]);
        let of_nodes = self.nodes.iter().filter_map(|node| node.watchdog.as_ref()).map(|watchdog| &watchdog.process);
        of_hub.chain(hub.operators.iter().map(|operator| &operator.process)).chain(of_sites).chain(of_nodes)
    }

    /// Kills a process for as long as the world is not mended.
    pub async fn leave_dead(&self, process: &ManagedProcess) -> Result<()> {
        self.left_dead.lock().unwrap_or_else(PoisonError::into_inner).insert(process.name().to_owned());
        Ok(process.kill9().await?)
    }

    /// The supplier drains a Site, until the world is mended.
    pub async fn drain(&self, site: usize) -> Result<()> {
        self.draining.lock().unwrap_or_else(PoisonError::into_inner).insert(site);
        let (site, _) = self.site(site).context("there is no such Site")?;
        site.tell(&["drain", "--no-wait"]).await
    }

    /// Starts again what ended by itself, as Kubernetes would.
    pub async fn supervise(&self) -> Result<()> {
        for process in self.supervised().filter(|process| process.exit_status().is_some()) {
            let left = self.left_dead.lock().unwrap_or_else(PoisonError::into_inner).contains(process.name());
            if !left {
                process.restart().await?;
            }
        }
        Ok(())
    }

    /// Ends every fault: links are whole, frozen processes go on, dead ones start again.
    pub async fn mend(&self) -> Result<()> {
        let hub = &self.network.hub;
        for gateway in &hub.gateways {
            if let Some(machine) = &gateway.machine {
                machine.mend()?;
            }
        }
        for (site, node) in self.network.sites.iter().zip(&self.nodes) {
            site.link.restore();
            if let Some(machine) = &site.machine {
                machine.mend()?;
            }
            node.machine.mend()?;
            let planes = [site.plane.apiserver(), site.plane.etcd()];
            for process in planes.into_iter().chain([node.node.kubelet(), node.node.containerd()]) {
                process.cont()?;
            }
        }
        for process in self.supervised().chain([hub.plane.apiserver(), hub.plane.etcd()]) {
            process.cont()?;
        }
        self.left_dead.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let drained = std::mem::take(&mut *self.draining.lock().unwrap_or_else(PoisonError::into_inner));
        for (site, _) in drained.into_iter().filter_map(|site| self.site(site)) {
            site.tell(&["resume"]).await?;
        }
        self.supervise().await
    }

    /// Waits until every Site is connected and every standing Cluster runs: each member once, by the witness.
    pub async fn settle(&self, limit: Duration) -> Result<()> {
        eventually("every Site to be connected and every member to run once", limit, async || {
            self.supervise().await.map_err(|error| format!("{error:#}"))?;
            let unsettled = self.unsettled().await.map_err(|error| format!("{error:#}"))?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            if unsettled.is_empty() { Ok(()) } else { Err(format!("{unsettled:#?}")) }
        })
        .await
        .map_err(Into::into)
    }

    /// What is not as it should be without faults: Clusters by name, Sites as `Site …`.
    pub async fn unsettled(&self) -> Result<BTreeMap<String, String>> {
        let client = self.network.client();
        let all = clusters::api(&client, NAMESPACE).list(&ListParams::default()).await?;
        let alive = self.witness.alive();
        let mut wrong = BTreeMap::new();
        for standing in &self.standing {
            let mut ranks: Vec<u32> =
                alive.iter().filter(|run| run.cluster == standing.name).map(|run| run.rank).collect();
            ranks.sort_unstable();
            let cluster = all.iter().find(|cluster| cluster.name_any() == standing.name);
            let state = cluster.map_or("", clusters::state);
            if state != "Running" || !ranks.iter().copied().eq(0..standing.count) {
                let message = cluster.map_or("", clusters::message);
                wrong.insert(standing.name.clone(), format!("{state} {message} ranks {ranks:?}"));
            }
        }
        for site in Api::<atoll_api::Site>::all(client).list(&ListParams::default()).await? {
            let status = site.status.clone().unwrap_or_default();
            let connected = condition(&status.conditions, atoll_api::conditions::site::CONNECTED);
            if connected.is_none_or(|connected| connected.status != "True") {
                wrong.insert(format!("Site {}", site.name_any()), format!("{connected:?}"));
            }
        }
        Ok(wrong)
    }

    /// Clusters of which a rank may run twice.
    #[must_use]
    pub fn may_run_twice(&self) -> BTreeSet<String> {
        self.standing.iter().filter(|standing| standing.autonomous).map(|standing| standing.name.clone()).collect()
    }

    /// Runs of standing Clusters only.
    #[must_use]
    pub fn standing_runs(&self, runs: Vec<Run>) -> Vec<Run> {
        runs.into_iter().filter(|run| self.standing.iter().any(|standing| standing.name == run.cluster)).collect()
    }

    /// When a lost Site got its last lease, as its gateway wrote it, by the boot-time clock: all clocks are one machine's.
    pub async fn last_grant(&self, site: usize) -> Result<Option<Duration>> {
        let Some(name) = self.site_names.get(site) else { bail!("there is no Site {site}") };
        let site = Api::<atoll_api::Site>::all(self.network.client()).get(name).await.context("read a Site")?;
        let grant = site.status.and_then(|status| status.session).and_then(|session| session.last_grant);
        Ok(grant.and_then(|grant| on_boot_clock(grant.0)))
    }

    /// When the placement of each standing Cluster was committed, as the operator wrote it, by the boot-time clock.
    pub async fn decided(&self) -> Result<BTreeMap<String, Duration>> {
        let all = clusters::api(&self.network.client(), NAMESPACE).list(&ListParams::default()).await?;
        let decided = all.iter().filter_map(|cluster| {
            let committed = cluster.status.as_ref()?.placement.as_ref()?.committed_at.as_ref()?;
            Some((cluster.name_any(), on_boot_clock(committed.0)?))
        });
        Ok(decided.collect())
    }
}

/// A past moment of this machine's wall clock, by its boot-time clock.
fn on_boot_clock(moment: jiff::Timestamp) -> Option<Duration> {
    boot_now().checked_sub(Duration::try_from(jiff::Timestamp::now().duration_since(moment)).ok()?)
}

async fn start_site(wire: &Arc<Wire>, name: &str, supplier: &str, watchdogs: bool) -> Result<(Prepared, Node)> {
    let options = SiteOptions {
        real_node: true,
        wire: Some(Arc::clone(wire)),
        watchdog: watchdogs,
        ..SiteOptions::new(name, "eu-west", supplier, Vec::new())
    };
    let prepared = Prepared::start(options).await.with_context(|| format!("start the Site {name}"))?;
    let host = format!("{name}-node");
    let machine = Machine::start(wire, &host).await?;
    let node = RealNode::start_on(Some(&machine), prepared.plane(), RealNodeOptions::new(&host)).await?;
    let image = ImageBuilder::new(IMAGE)
        .program(&format!("/{PROGRAM}"), tools::path(PROGRAM)?)
        .entrypoint([format!("/{PROGRAM}").as_str()])
        .write(node.dir().join("witness.tar"))?;
    node.import(&image).await?;
    let lease = watchdogs.then(|| Watchdog::lease(&node));
    let gpus = format!("{MODEL}:{GPUS}");
    let plugin = DevicePlugin::start_with(prepared.plane(), &node, &gpus, GPUS, lease.as_deref()).await?;
    Ok((prepared, Node { watchdog: None, _plugin: plugin, node, machine }))
}

/// What runs all the time on so many Sites. All but one can hold it, so that any one may be lost.
fn standing(times: Times, sites: usize) -> Vec<(Standing, Value)> {
    let cluster = |name: &str, count: u32, gpus: u32, change: Value| {
        let gang = change["type"] == "Torch";
        let autonomous = change["disconnection"]["policy"] == "Autonomous";
        let stubborn = name == STUBBORN;
        let cluster = with_spec(pods(name, count, gpus, MODEL), &base(times));
        (Standing { name: name.to_owned(), count, gang, stubborn, autonomous }, with_spec(cluster, &change))
    };
    let stubborn = json!({"template": {"spec": {"containers": [container(&["--stubborn"])]}}});
    let gang = json!({"type": "Torch", "checkpoint": {"store": "s3://checkpoints/gang"}});
    let mut standing = vec![
        cluster("gang", 2, 1, gang),
        cluster("pair", 2, 1, json!({})),
        cluster("solo", 1, 1, json!({})),
        cluster(STUBBORN, 1, 1, stubborn),
        cluster("lone", 1, 1, json!({"workload": "Inference", "disconnection": {"policy": "Autonomous"}})),
    ];
    if sites > 2 {
        // Two members do not fit on one node: each Site lost leaves a survivor.
        standing.push(cluster("wide", 2, 9, json!({})));
    }
    standing
}

fn container(args: &[&str]) -> Value {
    json!({"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "args": args})
}

/// The change of a Cluster's spec that every Cluster of this world has.
fn base(times: Times) -> Value {
    json!({
        "backoffLimit": 1000,
        "disconnection": {"times": {
            "stopSeconds": times.stop, "killSeconds": times.kill, "fenceSeconds": times.fence,
        }},
        "template": {"spec": {
            "terminationGracePeriodSeconds": times.grace().as_secs(),
            "containers": [container(&[])],
        }},
    })
}

/// A Cluster that comes and goes.
#[must_use]
pub fn load(number: usize, times: Times) -> Value {
    with_spec(pods(&format!("{LOAD}{number}"), 1, 1, MODEL), &base(times))
}
