//! What the demo does, in order.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use atoll_api::conditions::{cluster as types, condition};
use atoll_api::names::hub_gpu_node_name;
use atoll_api::{Cluster, GpuNode};
use atoll_e2e::{Network, NetworkOptions, clusters, demo_network, judge, manifests};
use atoll_testkit::wait::{eventually, wait_for};
use kube::{Api, ResourceExt};

use crate::narrator::Narrator;
use crate::real_site::{self, RealSite};

const LIMIT: Duration = Duration::from_mins(1);
const NAMESPACE: &str = "default";
/// The example whose Site is cut off; it sets short fence times.
const SHORT_FENCE: &str = "short-fence.yaml";

/// The Cluster on the real node.
const REAL: &str = "torch-on-real-node";

/// The running demo. Dropping it ends every process.
#[derive(Debug)]
pub struct Demo {
    // Dropped in this order: what runs on the node before the control plane that it belongs to.
    real: Option<RealSite>,
    network: Network,
}

/// Does every step.
pub async fn show(narrator: &mut Narrator) -> Result<Demo> {
    let options = NetworkOptions::new(demo_network::sites());
    let nodes: u32 = options.sites.iter().flat_map(|site| &site.nodes).map(|profile| profile.count).sum();
    let what = format!("Start a hub and {} Sites with {nodes} simulated nodes, and join them", options.sites.len());
    let network = narrator.step(&what, Box::pin(Network::start(options))).await?;
    let mut demo = Demo { real: None, network };

    if let Some(reason) = real_site::unsupported() {
        println!("\n== No fourth Site with a real node here: {reason}");
    } else {
        let joining = Box::pin(async {
            let (prepared, real) = real_site::start().await?;
            demo.network.join(vec![prepared]).await?;
            anyhow::Ok(real)
        });
        let what = "Start and join a fourth Site: real kubelet, containerd and device plugin";
        demo.real = Some(narrator.step(what, joining).await?);
    }
    narrator.step("See the Sites: kubectl atoll sites", demo.run(&["atoll", "sites"])).await?;
    narrator.step("Apply the examples and see every Cluster Ready", demo.apply_examples()).await?;
    if let Some(real) = &demo.real {
        narrator.step("Run a Torch Cluster of two processes on the real node", demo.torch_on_real_node()).await?;
        narrator.step("Let the GPUs of that node fall sick, and recover", demo.gpus_fall_sick(real)).await?;
    }
    narrator
        .step("Ask why it is where it is: kubectl atoll explain", demo.run(&["atoll", "explain", &short_fence()?]))
        .await?;
    narrator.step("Cut one Site off and see its members replaced", demo.cut_a_site_off()).await?;
    narrator.step("Plug the Site in again and see that it runs only what the hub lists", demo.plug_in()).await?;
    Ok(demo)
}

impl Demo {
    /// Runs kubectl on the hub and shows what it prints.
    async fn run(&self, args: &[&str]) -> Result<String> {
        Narrator::show(&format!("$ kubectl {}", args.join(" ")));
        let output = self.network.hub.plane.kubectl(args).await?.ok()?;
        Narrator::show(&output);
        Ok(output)
    }

    async fn apply_examples(&self) -> Result<()> {
        let folder = manifests::root().join("examples");
        self.run(&["apply", "-f", &relative(&folder)]).await?;
        let wanted: Vec<Cluster> =
            clusters::api(&self.network.client(), NAMESPACE).list(&kube::api::ListParams::default()).await?.items;
        ensure!(!wanted.is_empty(), "the examples hold no Cluster");
        for cluster in &wanted {
            let state = if cluster.spec.suspend { "Suspended" } else { "Running" };
            clusters::wait_state(&self.network.client(), NAMESPACE, &cluster.name_any(), state, LIMIT).await?;
        }
        self.run(&["get", "clusters"]).await.map(drop)
    }

    async fn torch_on_real_node(&self) -> Result<()> {
        let file = manifests::root().join("tests/e2e/demo/torch-on-real-node.yaml");
        let (client, name) = (self.network.client(), REAL);
        self.run(&["apply", "-f", &relative(&file)]).await?;
        let cluster = clusters::wait_state(&client, NAMESPACE, name, "Running", LIMIT).await?;
        let uid = cluster.uid().context("the UID of a Cluster")?;
        let site = self.network.sites.last().context("the fourth Site")?;
        let said = eventually("both ranks to have exchanged their data", LIMIT, async || {
            let selector = format!("--selector={}={uid}", atoll_api::names::LABEL_CLUSTER_UID);
            let namespaces =
                ["get", "pods", "--all-namespaces", &selector, "-o", "jsonpath={.items[0].metadata.namespace}"];
            let namespace = site.plane.kubectl(namespaces).await.map_err(|error| error.to_string())?.stdout;
            let logs = ["logs", "--namespace", &namespace, "--prefix", &selector];
            let said = site.plane.kubectl(logs).await.map_err(|error| error.to_string())?;
            if said.stdout.matches("all-reduce of 2 ranks = 1").count() == 2 {
                Ok(said.stdout)
            } else {
                Err(format!("{said:?}"))
            }
        })
        .await?;
        Narrator::show(&said);
        self.run(&["get", "cluster", name]).await.map(drop)
    }

    /// All of the node's GPUs, so that those that members hold are among them.
    async fn gpus_fall_sick(&self, real: &RealSite) -> Result<()> {
        let all = |command: &str, argument: &str| {
            (0..real_site::GPUS.1).try_for_each(|gpu| real.plugin.let_happen(&format!("{command} {gpu} {argument}")))
        };
        let (nodes, clusters): (Api<GpuNode>, _) =
            (Api::all(self.network.client()), clusters::api(&self.network.client(), NAMESPACE));
        let name = hub_gpu_node_name(&self.network.site_name(real_site::SITE).await?, real_site::NODE);
        let offers = |node: &GpuNode, count: u32| {
            node.status.as_ref().is_some_and(|status| u32::try_from(status.allocatable) == Ok(count))
        };
        // The second one of two members is named last.
        let named = |cluster: &Cluster| {
            let status = cluster.status.as_ref()?;
            let said = condition(&status.conditions, types::GPUS_HEALTHY)?;
            Some(said.status == "False" && said.message.contains("rank 0 on") && said.message.contains("rank 1 on"))
        };
        Narrator::show("The driver says that each GPU needs a reset.");
        all("recovery", "reset")?;
        wait_for(&nodes, &name, "to offer no GPU", LIMIT, |node| offers(node, 0)).await?;
        self.run(&["get", "gpunode", &name]).await?;
        let what = "to say which members run on sick GPUs";
        wait_for(&clusters, REAL, what, LIMIT, |cluster| named(cluster) == Some(true)).await?;
        let path = format!("jsonpath={{.status.conditions[?(@.type=='{}')].message}}", types::GPUS_HEALTHY);
        self.run(&["get", "cluster", REAL, "-o", &path]).await?;
        Narrator::show("They were reset.");
        all("recovery", "none")?;
        wait_for(&nodes, &name, "to offer all its GPUs again", LIMIT, |node| offers(node, real_site::GPUS.1)).await?;
        wait_for(&clusters, REAL, "to be well", LIMIT, |cluster| named(cluster) == Some(false)).await?;
        Ok(())
    }

    async fn cut_a_site_off(&self) -> Result<()> {
        let client = self.network.client();
        let name = short_fence()?;
        let before = clusters::api(&client, NAMESPACE).get(&name).await?;
        let lost = first_site(&before).context("the short-fence example is not placed")?;
        let site = self.site(&lost).await?;
        Narrator::show(&format!("The link of Site {} ({lost}) is cut.", site.options.name));
        site.link.cut();
        let moved = |cluster: &Cluster| clusters::state(cluster) == "Running" && !is_on(cluster, &lost);
        wait_for(&clusters::api(&client, NAMESPACE), &name, "to run elsewhere", LIMIT, moved).await?;
        self.run(&["get", "cluster", &name]).await?;
        self.run(&["atoll", "sites"]).await.map(drop)
    }

    async fn plug_in(&self) -> Result<()> {
        for site in &self.network.sites {
            site.link.restore();
        }
        judge::settled(&self.network, LIMIT).await?;
        let runs = judge::no_member_ran_twice(&self.network)?;
        Narrator::show(&format!("By the Sites' audit logs: {runs} runs of members, none of a member twice at once."));
        Ok(())
    }

    async fn site(&self, name: &str) -> Result<&atoll_e2e::Site> {
        for site in &self.network.sites {
            if self.network.site_name(&site.options.name).await? == name {
                return Ok(site);
            }
        }
        bail!("no Site of this demo is called {name}")
    }

    /// Prints how to go on by hand.
    pub fn print_how_to_try(&self) {
        let bin = atoll_testkit::binaries::dir().unwrap_or_default();
        println!("\nEverything runs on until Ctrl-C. In another terminal:\n");
        println!("  export PATH={}:$PATH   # kubectl atoll", bin.display());
        println!("  export KUBECONFIG={}   # the hub", self.network.hub.plane.kubeconfig().display());
        for site in &self.network.sites {
            println!("  export KUBECONFIG={}   # the Site {}", site.plane.kubeconfig().display(), site.options.name);
        }
        println!(
            "\n  kubectl get clusters,sites,gpumodels\n  kubectl atoll explain nervous\n  kubectl delete -f examples/"
        );
    }
}

/// Name of the Cluster that the example makes.
fn short_fence() -> Result<String> {
    let cluster: Cluster = serde_saphyr::from_str(&manifests::example(SHORT_FENCE)?)?;
    Ok(cluster.name_any())
}

fn first_site(cluster: &Cluster) -> Option<String> {
    let placement = cluster.status.as_ref()?.placement.as_ref()?;
    placement.sites.first().map(|share| share.site.clone())
}

fn is_on(cluster: &Cluster, site: &str) -> bool {
    let placement = cluster.status.as_ref().and_then(|status| status.placement.as_ref());
    placement.is_none_or(|placement| placement.sites.iter().any(|share| share.site == site))
}

/// The path as somebody in the repository's root would type it, where that is where we are.
fn relative(path: &Path) -> String {
    path.canonicalize()
        .ok()
        .and_then(|path| path.strip_prefix(std::env::current_dir().ok()?).map(Path::to_path_buf).ok())
        .unwrap_or_else(|| path.to_path_buf())
        .display()
        .to_string()
}
