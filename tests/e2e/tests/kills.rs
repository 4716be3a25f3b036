//! kill -9 of any process at any moment: everything converges, no member runs twice, no GPU is held by nobody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use anyhow::Result;
use atoll_api::Cluster;
use atoll_e2e::clusters::{self, pods};
use atoll_e2e::hub::HubOptions;
use atoll_e2e::{Network, NetworkOptions, SiteOptions, judge};
use atoll_testkit::nodes::NodeProfile;
use atoll_testkit::wait::wait_all;
use atoll_testkit::{ManagedProcess, require};
use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::watcher;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);
const KILLS: usize = 50;
const H100: &str = "h100-sxm5-80gb";

#[tokio::test(flavor = "multi_thread")]
async fn after_50_random_kills_all_converges_and_no_member_ran_twice() -> Result<()> {
    require!(Core, Ok(()));
    let mut options = NetworkOptions::new(vec![
        SiteOptions::new("alpha", "eu-west", "acme", vec![NodeProfile::h100().named("a", 4)]),
        SiteOptions::new("beta", "us-east", "globex", vec![NodeProfile::h100().named("b", 4)]),
    ]);
    options.hub = HubOptions { operators: 2, leader_lease_seconds: 3, ..HubOptions::default() };
    let network = Network::start(options).await?;
    let client = network.client();
    // Printed, so that a failing run can be repeated with the same choices.
    let seed: u64 = match std::env::var("ATOLL_SEED") {
        Ok(seed) => seed.parse().expect("ATOLL_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("ATOLL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);

    for kill in 0..KILLS {
        // Keep about a dozen Clusters in motion: some are deleted, some grow or shrink, others come.
        let all = clusters::api(&client, "default").list(&ListParams::default()).await?.items;
        for cluster in &all {
            match rng.random_range(0..10) {
                0..2 => clusters::delete(&client, "default", &cluster.name_any()).await?,
                2 => {
                    let count = json!({"members": {"count": rng.random_range(1..=5)}});
                    clusters::change(&client, "default", &cluster.name_any(), &count).await?;
                }
                _ => {}
            }
        }
        for index in all.len()..12 {
            let name = format!("c{kill}-{index}");
            // Some fit on one Site, some need both, some wait.
            let (count, gpus) = (rng.random_range(1..=5), [1, 2, 4, 8][rng.random_range(0..4)]);
            clusters::create(&client, "default", &pods(&name, count, gpus, H100)).await?;
        }
        // At any moment of what that sets in motion.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1200))).await;
        let processes = processes(&network);
        let victim = processes[rng.random_range(0..processes.len())];
        victim.restart().await?;
    }

    let settled = |all: &[Cluster]| {
        all.iter().all(|cluster| {
            let placed = cluster.status.as_ref().is_some_and(|status| status.placement.is_some());
            match clusters::state(cluster) {
                // One that wants to grow and cannot runs on and says Degraded.
                "Running" | "Degraded" => placed,
                // One that does not fit holds nothing.
                "Pending" => !placed,
                _ => false,
            }
        })
    };
    wait_all(&clusters::api(&client, "default"), watcher::Config::default(), "all to converge", LIMIT, settled).await?;
    judge::settled(&network, LIMIT).await?;
    let runs = judge::no_member_ran_twice(&network)?;
    println!("{KILLS} kills, {runs} runs of members judged");
    assert!(runs > KILLS, "too little happened to judge: {runs} runs");

    // Deleting all of them frees everything: one more that needs every GPU runs.
    for cluster in clusters::api(&client, "default").list(&ListParams::default()).await? {
        clusters::delete(&client, "default", &cluster.name_any()).await?;
    }
    clusters::wait_no_slices(&client, LIMIT).await?;
    clusters::create(&client, "default", &pods("everything", 8, 8, H100)).await?;
    clusters::wait_state(&client, "default", "everything", "Running", LIMIT).await?;
    judge::settled(&network, LIMIT).await?;
    judge::no_member_ran_twice(&network)?;
    Ok(())
}

fn processes(network: &Network) -> Vec<&ManagedProcess> {
    let sites = network.sites.iter().flat_map(|site| [&site.agent, &site.scheduler]);
    network
        .hub
        .operators
        .iter()
        .map(|operator| &operator.process)
        .chain(network.hub.gateways.iter().map(|gateway| &gateway.process))
        .chain(sites)
        .collect()
}
