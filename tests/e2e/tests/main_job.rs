//! A Cluster's life on real control planes: placed over Sites, grown, shrunk, suspended, ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use atoll_api::Cluster;
use atoll_e2e::clusters::{self, pods, with_spec};
use atoll_e2e::{Network, NetworkOptions, SiteOptions, judge};
use atoll_testkit::nodes::NodeProfile;
use atoll_testkit::{kwok, require};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);
const H100: &str = "h100-sxm5-80gb";

fn two_sites() -> NetworkOptions {
    NetworkOptions::new(vec![
        SiteOptions::new("alpha", "eu-west", "acme", vec![NodeProfile::h100().named("a", 2)]),
        SiteOptions::new("beta", "us-east", "globex", vec![NodeProfile::h100().named("b", 2)]),
    ])
}

/// Incarnation of each rank, by the commit.
fn incarnations(cluster: &Cluster) -> BTreeMap<i32, i64> {
    let placement = cluster.status.as_ref().unwrap().placement.as_ref().expect("placed");
    let nodes = placement.sites.iter().flat_map(|site| &site.nodes);
    nodes.flat_map(|node| (node.rank..node.rank + node.count).map(|rank| (rank, node.incarnation))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_over_two_sites_runs_scales_suspends_and_ends() -> Result<()> {
    require!(Core, Ok(()));
    let network = Network::start(two_sites()).await?;
    let client = network.client();

    // 4 nodes of 8 GPUs: three members of 8 cannot be on one Site.
    clusters::create(&client, "default", &pods("wide", 3, 8, H100)).await?;
    let placed = clusters::wait_state(&client, "default", "wide", "Running", LIMIT).await?;
    assert_eq!(placed.status.as_ref().unwrap().placement.as_ref().unwrap().sites.len(), 2);
    let waited = network.hub.plane.kubectl(["wait", "--for=condition=Ready", "cluster/wide", "--timeout=10s"]).await?;
    waited.ok()?;
    judge::settled(&network, LIMIT).await?;

    let before = incarnations(&placed);
    network.hub.plane.kubectl(["scale", "cluster/wide", "--replicas=4"]).await?.ok()?;
    let grown =
        atoll_testkit::wait::wait_for(&clusters::api(&client, "default"), "wide", "to have 4 ready", LIMIT, |c| {
            c.status.as_ref().is_some_and(|status| status.ready == 4)
        })
        .await?;
    let after = incarnations(&grown);
    assert!(before.iter().all(|(rank, incarnation)| after[rank] == *incarnation), "{before:?} {after:?}");
    assert!(after[&3] > before[&0], "the new member belongs to a newer epoch");

    network.hub.plane.kubectl(["scale", "cluster/wide", "--replicas=2"]).await?.ok()?;
    let shrunk =
        atoll_testkit::wait::wait_for(&clusters::api(&client, "default"), "wide", "to have 2 members", LIMIT, |c| {
            c.status.as_ref().is_some_and(|status| status.total == 2 && status.ready == 2)
        })
        .await?;
    let left = incarnations(&shrunk);
    assert_eq!(left.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert!(left.iter().all(|(rank, incarnation)| before[rank] == *incarnation));
    judge::settled(&network, LIMIT).await?;

    clusters::change(&client, "default", "wide", &json!({"suspend": true})).await?;
    clusters::wait_state(&client, "default", "wide", "Suspended", LIMIT).await?;
    judge::settled(&network, LIMIT).await?;
    clusters::change(&client, "default", "wide", &json!({"suspend": false})).await?;
    let resumed = clusters::wait_state(&client, "default", "wide", "Running", LIMIT).await?;
    assert!(incarnations(&resumed)[&0] > before[&0], "a resumed member is a new incarnation");

    end_members(&network, "Succeeded").await?;
    clusters::wait_state(&client, "default", "wide", "Complete", LIMIT).await?;
    judge::settled(&network, LIMIT).await?;
    judge::no_member_ran_twice(&network)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_members_are_replaced_up_to_the_backoff_limit_and_ttl_deletes_what_ended() -> Result<()> {
    require!(Core, Ok(()));
    let network = Network::start(two_sites()).await?;
    let client = network.client();
    let cluster = with_spec(pods("flaky", 1, 1, H100), &json!({"backoffLimit": 1, "ttlSecondsAfterFinished": 1}));
    clusters::create(&client, "default", &cluster).await?;
    let first = clusters::wait_state(&client, "default", "flaky", "Running", LIMIT).await?;
    end_members(&network, "Failed").await?;
    let again =
        atoll_testkit::wait::wait_for(&clusters::api(&client, "default"), "flaky", "to run again", LIMIT, |c| {
            clusters::state(c) == "Running" && incarnations(c)[&0] > incarnations(&first)[&0]
        })
        .await?;
    assert_eq!(again.status.as_ref().unwrap().failures, 1);
    end_members(&network, "Failed").await?;
    // Failed for the ttl of one second, then gone.
    atoll_testkit::wait::wait_gone(&clusters::api(&client, "default"), "flaky", LIMIT).await?;
    clusters::wait_no_slices(&client, LIMIT).await?;

    let brief = with_spec(pods("brief", 2, 1, H100), &json!({"duration": "2s"}));
    clusters::create(&client, "default", &brief).await?;
    let done = clusters::wait_state(&client, "default", "brief", "Complete", LIMIT).await?;
    let reasons: Vec<&str> = done.status.as_ref().unwrap().conditions.iter().map(|c| c.reason.as_str()).collect();
    assert!(reasons.contains(&"DurationReached"), "{reasons:?}");
    judge::settled(&network, LIMIT).await?;
    judge::no_member_ran_twice(&network)?;
    Ok(())
}

/// Makes every running member's pod end so.
async fn end_members(network: &Network, phase: &str) -> Result<()> {
    for site in &network.sites {
        let all: Api<Pod> = Api::all(site.plane.client());
        for pod in all.list(&ListParams::default().labels(atoll_api::names::LABEL_CLUSTER_UID)).await? {
            if pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Running") {
                continue;
            }
            let api: Api<Pod> = Api::namespaced(site.plane.client(), &pod.namespace().unwrap());
            let patch = json!({"metadata": {"annotations": {kwok::EXIT: phase}}});
            api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
    }
    Ok(())
}
