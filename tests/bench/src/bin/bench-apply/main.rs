//! Time from `kubectl apply` to all members Running, as the hub sees it, on the demo's network.

mod by_hand;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_api::Cluster;
use atoll_bench::{Figure, percentile, report};
use atoll_e2e::{Network, NetworkOptions, clusters, demo_network, judge};
use atoll_testkit::wait::wait_all;
use clap::Parser;
use futures::future::try_join_all;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::watcher;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(2);
const NAMESPACE: &str = "default";
/// Single Clusters that are timed.
const SINGLES: usize = 20;
/// Clusters applied at once.
const CROWD: usize = 100;
/// Members of each Cluster.
const MEMBERS: u32 = 8;
/// How often the crowd is applied.
const RUNS: usize = 5;

/// Times how long Clusters take from `kubectl apply` to Running; takes about six minutes.
#[derive(Debug, Parser)]
#[command(name = "bench-apply")]
struct Args {}

#[tokio::main]
async fn main() -> Result<()> {
    Args::parse();
    let mut options = NetworkOptions::new(demo_network::sites());
    options.hub.operators = 1;
    let nodes: u32 = options.sites.iter().flat_map(|site| &site.nodes).map(|profile| profile.count).sum();
    let place = format!(
        "hub and {} Sites with {nodes} nodes on one machine of {} cores, each with its own etcd and API server; pods are simulated (kwok)",
        options.sites.len(),
        std::thread::available_parallelism()?
    );
    println!("starting: {place}");
    let network = Network::start(options).await?;

    let singles = singles(&network).await.context("single Clusters")?;
    let (mut crowds, mut spanning, mut hands) = (Vec::new(), 0, Vec::new());
    for run in 1..=RUNS {
        let (crowd, over_sites) = crowd(&network).await.with_context(|| format!("crowd {run}"))?;
        spanning = over_sites;
        let hand = by_hand::run(&network, CROWD, MEMBERS).await.with_context(|| format!("by hand {run}"))?;
        println!(
            "run {run} of {RUNS}: {CROWD} at once {:.2} s, by hand {:.2} s",
            percentile(&crowd, 100).as_secs_f64(),
            hand.as_secs_f64()
        );
        crowds.push(crowd);
        hands.push(hand);
    }

    let single = format!("one Cluster of {MEMBERS} members that must span Sites, {SINGLES} times; {place}");
    let many = format!(
        "{CROWD} Clusters of {MEMBERS} members of 1 GPU in one kubectl apply, {spanning} of them over several Sites, median of {RUNS} runs; {place}"
    );
    let hand = format!(
        "namespaces, services and pods of {CROWD} x {MEMBERS} members created on the Sites and bound to nodes by hand until Running, nothing on the hub, median of {RUNS} runs; {place}"
    );
    let all: Vec<Duration> = crowds.iter().map(|crowd| percentile(crowd, 100)).collect();
    let each = |percent| percentile(&crowds.iter().map(|crowd| percentile(crowd, percent)).collect::<Vec<_>>(), 50);
    let (all, by_hand) = (percentile(&all, 50), percentile(&hands, 50));
    report(
        "apply",
        &[
            Figure::seconds("apply to Running, 1 Cluster, p50", percentile(&singles, 50), "<= 2", &single),
            Figure::seconds("apply to Running, 1 Cluster, p99", percentile(&singles, 99), "", &single),
            Figure::seconds("apply to Running, 100 Clusters at once, p50", each(50), "", &many),
            Figure::seconds("apply to Running, 100 Clusters at once, p99", each(99), "", &many),
            Figure::seconds("apply to Running, 100 Clusters at once, all", all, "<= 15", &many),
            Figure::seconds("the same objects created and bound by hand", by_hand, "", &hand),
            Figure::number(
                "100 Clusters at once over by hand",
                all.as_secs_f64() / by_hand.as_secs_f64(),
                "ratio",
                "",
                "the two figures above",
            ),
        ],
    )
}

/// Times single Clusters, none of which fits on one Site.
async fn singles(network: &Network) -> Result<Vec<Duration>> {
    let client = network.client();
    // Leave room for four members of 8 GPUs on each of two Sites.
    let h100 = free_nodes(network, "fjord-dc", "h100")? - 4;
    let a100 = free_nodes(network, "campus", "a100")? - 4;
    for (name, count, model) in [("filler-h100", h100, "h100-sxm5-80gb"), ("filler-a100", a100, "a100-sxm4-80gb")] {
        clusters::create(&client, NAMESPACE, &clusters::pods(name, count, 8, model)).await?;
        clusters::wait_state(&client, NAMESPACE, name, "Running", LIMIT).await?;
    }
    let mut took = Vec::new();
    for index in 0..SINGLES {
        let name = format!("wide-{index}");
        let cluster = clusters::with_spec(
            clusters::pods(&name, MEMBERS, 8, "h100-sxm5-80gb"),
            &json!({"gpu": {"models": ["h100-sxm5-80gb", "a100-sxm4-80gb"]}}),
        );
        took.push(apply(network, &[cluster]).await?.pop().context("one time")?);
        let placed = clusters::api(&client, NAMESPACE).get(&name).await?;
        ensure!(sites(&placed) > 1, "the Cluster should span Sites, it is on {}", sites(&placed));
        clusters::delete(&client, NAMESPACE, &name).await?;
        judge::settled(network, LIMIT).await?;
    }
    clear(network).await?;
    Ok(took)
}

fn free_nodes(network: &Network, site: &str, prefix: &str) -> Result<u32> {
    let site = network.sites.iter().find(|other| other.options.name == site).context("a Site of the demo")?;
    let profile = site.options.nodes.iter().find(|profile| profile.name_prefix == prefix);
    Ok(profile.context("nodes of the demo")?.count)
}

/// Times many Clusters in one `kubectl apply`.
/// Gives the times, and how many of them ended up on more than one Site.
async fn crowd(network: &Network) -> Result<(Vec<Duration>, usize)> {
    let crowd: Vec<Value> = (0..CROWD)
        .map(|index| {
            let any_gpu = json!({"gpu": {"models": [], "memory": "20Gi"}});
            clusters::with_spec(clusters::pods(&format!("crowd-{index}"), MEMBERS, 1, ""), &any_gpu)
        })
        .collect();
    let took = apply(network, &crowd).await?;
    let placed = clusters::api(&network.client(), NAMESPACE).list(&ListParams::default()).await?;
    let spanning = placed.iter().filter(|cluster| sites(cluster) > 1).count();
    judge::settled(network, LIMIT).await?;
    clear(network).await?;
    Ok((took, spanning))
}

/// On how many Sites a Cluster is.
fn sites(cluster: &Cluster) -> usize {
    let placement = cluster.status.as_ref().and_then(|status| status.placement.as_ref());
    placement.map_or(0, |placement| placement.sites.len())
}

/// Applies Clusters and gives how long after the start of `kubectl apply` each was Running.
async fn apply(network: &Network, wanted: &[Value]) -> Result<Vec<Duration>> {
    let names: Vec<&str> = wanted.iter().filter_map(|cluster| cluster["metadata"]["name"].as_str()).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": wanted}).to_string();
    let api = clusters::api(&network.client(), NAMESPACE);
    let mut running = vec![None; names.len()];
    let started = Instant::now();
    let applying = async {
        network.hub.plane.kubectl_input(["apply", "-f", "-"], &list).await?.ok()?;
        anyhow::Ok(())
    };
    let watching = async {
        let all = |clusters: &[Cluster]| {
            for (time, name) in running.iter_mut().zip(&names) {
                let done =
                    clusters.iter().any(|cluster| cluster.name_any() == *name && clusters::state(cluster) == "Running");
                if done && time.is_none() {
                    *time = Some(started.elapsed());
                }
            }
            running.iter().all(Option::is_some)
        };
        wait_all(&api, watcher::Config::default(), "all applied Clusters to be Running", LIMIT, all).await?;
        anyhow::Ok(())
    };
    tokio::try_join!(applying, watching)?;
    Ok(running.into_iter().flatten().collect())
}

/// Deletes every Cluster and waits until nothing of them is left anywhere.
async fn clear(network: &Network) -> Result<()> {
    let client = network.client();
    clusters::api(&client, NAMESPACE).delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    clusters::wait_no_slices(&client, LIMIT).await?;
    try_join_all(network.sites.iter().map(|site| {
        let site = site.plane.client();
        async move { judge::no_namespaces(&site, LIMIT).await }
    }))
    .await?;
    judge::settled(network, LIMIT).await
}
