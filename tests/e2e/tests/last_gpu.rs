//! A thousand Clusters that want the last free GPU: exactly one gets it, whatever happens to the leader.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use atoll_api::Cluster;
use atoll_e2e::clusters::{self, message, pods, state, with_spec};
use atoll_e2e::holding_proxy::HoldingProxy;
use atoll_e2e::hub::{HubOptions, SYSTEM};
use atoll_e2e::{Network, NetworkOptions, SiteOptions, judge};
use atoll_testkit::nodes::NodeProfile;
use atoll_testkit::require;
use atoll_testkit::wait::{eventually, wait_all, wait_for};
use futures::{TryStreamExt, stream};
use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::watcher;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);
const RTX4090: &str = "rtx-4090";
const BUYERS: usize = 1000;

fn one_gpu(operators: usize) -> NetworkOptions {
    let mut options = NetworkOptions::new(vec![SiteOptions::new(
        "home",
        "eu-west",
        "acme",
        vec![NodeProfile::rtx4090().named("pc", 1)],
    )]);
    options.hub = HubOptions { operators, leader_lease_seconds: 3, ..HubOptions::default() };
    options
}

async fn create_buyers(network: &Network, count: usize) -> Result<()> {
    let client = network.client();
    stream::iter((0..count).map(Ok))
        .try_for_each_concurrent(32, |buyer| {
            let client = client.clone();
            async move {
                clusters::create(&client, "default", &pods(&format!("buyer-{buyer:04}"), 1, 1, RTX4090)).await.map(drop)
            }
        })
        .await
}

/// Waits until one Cluster runs and each of the others says why it does not; gives the winner's name.
async fn wait_one_winner(network: &Network, others: usize) -> Result<String> {
    let api = clusters::api(&network.client(), "default");
    let settled = |all: &[Cluster]| {
        let waiting = |cluster: &&Cluster| state(cluster) == "Pending" && message(cluster).contains("free");
        all.len() == others + 1
            && all.iter().filter(|cluster| state(cluster) == "Running").count() == 1
            && all.iter().filter(waiting).count() == others
    };
    let what = "one winner and a reason for each other";
    let Ok(all) = wait_all(&api, watcher::Config::default(), what, LIMIT, settled).await else {
        // A thousand objects say less than how many there are of each kind.
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for cluster in api.list(&ListParams::default()).await? {
            *counts.entry(format!("{}: {}", state(&cluster), message(&cluster))).or_default() += 1;
        }
        anyhow::bail!("no {what} within {LIMIT:?}: {counts:#?}");
    };
    Ok(all.iter().find(|cluster| state(cluster) == "Running").map(ResourceExt::name_any).unwrap())
}

/// The Cluster that is next by age.
async fn oldest_waiting(network: &Network) -> Result<String> {
    let all: Vec<Cluster> = clusters::api(&network.client(), "default").list(&ListParams::default()).await?.items;
    let waiting = all.iter().filter(|cluster| state(cluster) == "Pending");
    let oldest = waiting.min_by_key(|cluster| (cluster.creation_timestamp().unwrap().0, cluster.uid().unwrap()));
    Ok(oldest.map(ResourceExt::name_any).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_a_thousand_gets_the_last_gpu_and_then_the_oldest_waiting() -> Result<()> {
    require!(Core, Ok(()));
    let network = Network::start(one_gpu(1)).await?;
    create_buyers(&network, BUYERS).await?;
    let winner = wait_one_winner(&network, BUYERS - 1).await?;
    let next = oldest_waiting(&network).await?;
    clusters::delete(&network.client(), "default", &winner).await?;
    assert_eq!(wait_one_winner(&network, BUYERS - 2).await?, next, "the oldest waiting one is next");
    judge::settled(&network, LIMIT).await?;
    judge::no_member_ran_twice(&network)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_gets_the_last_gpu_when_the_leader_dies_in_the_middle() -> Result<()> {
    require!(Core, Ok(()));
    let network = Network::start(one_gpu(2)).await?;
    let killing = async {
        // In the middle: some are decided, most are not created yet.
        let api = clusters::api(&network.client(), "default");
        let begun = |all: &[Cluster]| all.iter().filter(|cluster| !state(cluster).is_empty()).count() >= 50;
        wait_all(&api, watcher::Config::default(), "the first 50 to have a state", LIMIT, begun).await?;
        let leader = leader(&network).await?;
        network.hub.operators[leader].process.kill9().await?;
        anyhow::Ok(leader)
    };
    let ((), killed) = tokio::try_join!(create_buyers(&network, BUYERS), killing)?;
    let winner = wait_one_winner(&network, BUYERS - 1).await?;
    assert_ne!(leader(&network).await?, killed, "the other operator leads");
    let next = oldest_waiting(&network).await?;
    clusters::delete(&network.client(), "default", &winner).await?;
    assert_eq!(wait_one_winner(&network, BUYERS - 2).await?, next);
    judge::settled(&network, LIMIT).await?;
    judge::no_member_ran_twice(&network)?;
    Ok(())
}

/// Index of the operator that leads.
async fn leader(network: &Network) -> Result<usize> {
    let found = eventually("an operator to lead", LIMIT, async || {
        for (index, operator) in network.hub.operators.iter().enumerate() {
            if operator.leads().await {
                return Ok(index);
            }
        }
        Err("none does".to_owned())
    });
    Ok(found.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_leaders_late_commit_never_puts_two_members_on_one_gpu() -> Result<()> {
    require!(Core, Ok(()));
    let mut network = Network::start(one_gpu(0)).await?;
    let client = network.client();
    let user = format!("system:serviceaccount:{SYSTEM}:atoll-operator");
    let groups = ["system:serviceaccounts", "system:serviceaccounts:atoll-system"];
    let as_operator = network.hub.plane.client_as(&user, &groups).await?;
    let mut proxy = HoldingProxy::start(as_operator, "default", "late").await?;
    let kubeconfig = proxy.kubeconfig(network.hub.plane.dir())?;
    network.hub.start_operator(Some(kubeconfig)).await?;
    assert_eq!(leader(&network).await?, 0);

    // "late" waits for the only GPU, and nearly a thousand behind it. When it is free the first leader decides for "late"
    // and its commit is held.
    clusters::create(&client, "default", &pods("first", 1, 1, RTX4090)).await?;
    clusters::wait_state(&client, "default", "first", "Running", LIMIT).await?;
    // Creation times are whole seconds: its priority puts it before all that are made in the same one.
    let late = with_spec(pods("late", 1, 1, RTX4090), &json!({"priority": 1}));
    clusters::create(&client, "default", &late).await?;
    clusters::wait_state(&client, "default", "late", "Pending", LIMIT).await?;
    create_buyers(&network, BUYERS - 2).await?;
    assert_eq!(wait_one_winner(&network, BUYERS - 1).await?, "first");
    clusters::delete(&client, "default", "first").await?;
    let held = proxy.next(LIMIT).await?;
    network.hub.operators[0].process.stop()?;

    // The second leader places a Cluster of higher priority on the same GPU.
    let urgent = with_spec(pods("urgent", 1, 1, RTX4090), &json!({"priority": 100}));
    clusters::create(&client, "default", &urgent).await?;
    network.hub.start_operator(None).await?;
    clusters::wait_state(&client, "default", "urgent", "Running", LIMIT).await?;

    // The commit arrives after all; whether anything wrote "late" meanwhile or not, the API server does not take it.
    let status = held.release().await?;
    println!("the late commit was answered {status}");
    assert!(status == 403 || status == 409, "{status}");
    network.hub.operators[0].process.cont()?;
    network.hub.operators[0].process.wait_exit(LIMIT).await?;

    let late = wait_for(&clusters::api(&client, "default"), "late", "to wait again", LIMIT, |cluster| {
        state(cluster) == "Pending" && cluster.status.as_ref().unwrap().placement.is_none()
    })
    .await?;
    assert!(!message(&late).is_empty());
    assert_eq!(wait_one_winner(&network, BUYERS - 1).await?, "urgent");
    judge::settled(&network, LIMIT).await?;
    judge::no_member_ran_twice(&network)?;
    clusters::delete(&client, "default", "urgent").await?;
    assert_eq!(wait_one_winner(&network, BUYERS - 2).await?, "late", "it is next again");
    judge::settled(&network, LIMIT).await
}
