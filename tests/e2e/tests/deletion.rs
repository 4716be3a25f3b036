//! Deleting a Cluster or its namespace leaves nothing behind, in whatever state it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use anyhow::Result;
use atoll_e2e::clusters::{self, pods, with_spec};
use atoll_e2e::{Network, NetworkOptions, SiteOptions, judge};
use atoll_testkit::nodes::NodeProfile;
use atoll_testkit::require;
use atoll_testkit::wait::wait_gone;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);
const NO_POD: Duration = Duration::from_secs(5);
const NO_NAMESPACE: Duration = Duration::from_secs(15);
const H100: &str = "h100-sxm5-80gb";

async fn network() -> Result<Network> {
    Network::start(NetworkOptions::new(vec![
        SiteOptions::new("alpha", "eu-west", "acme", vec![NodeProfile::h100().named("a", 3)]),
        SiteOptions::new("beta", "us-east", "globex", vec![NodeProfile::h100().named("b", 3)]),
    ]))
    .await
}

/// No slice on the hub and no pod on any Site within 5 s, no namespace on any Site within 15 s.
async fn nothing_left(network: &Network, since: Instant, what: &str) -> Result<()> {
    clusters::wait_no_slices(&network.client(), NO_POD).await?;
    for site in &network.sites {
        judge::no_pods(&site.plane.client(), NO_POD).await?;
    }
    let pods = since.elapsed();
    for site in &network.sites {
        judge::no_namespaces(&site.plane.client(), NO_NAMESPACE).await?;
    }
    let namespaces = since.elapsed();
    println!("{what}: no slice and pod after {pods:?}, no namespace after {namespaces:?}");
    assert!(pods < NO_POD && namespaces < NO_NAMESPACE, "{what}: {pods:?}, {namespaces:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_in_any_state_leaves_no_pod_slice_or_namespace() -> Result<()> {
    require!(Core, Ok(()));
    let network = network().await?;
    let client = network.client();
    // In each state: just created, while it starts, Running, Pending, Suspended.
    for (name, count, wanted) in [
        ("fresh", 5, None),
        ("starting", 5, Some("Starting")),
        ("running", 5, Some("Running")),
        ("pending", 9, Some("Pending")),
    ] {
        clusters::create(&client, "default", &pods(name, count, 8, H100)).await?;
        if let Some(wanted) = wanted {
            // Starting may be over before it is seen.
            let reached = |cluster: &atoll_api::Cluster| {
                [wanted, "Running"].contains(&clusters::state(cluster)) || clusters::state(cluster) == wanted
            };
            atoll_testkit::wait::wait_for(&clusters::api(&client, "default"), name, wanted, LIMIT, reached).await?;
        }
        let since = Instant::now();
        clusters::delete(&client, "default", name).await?;
        nothing_left(&network, since, name).await?;
    }
    clusters::create(&client, "default", &with_spec(pods("asleep", 2, 8, H100), &json!({"suspend": true}))).await?;
    clusters::wait_state(&client, "default", "asleep", "Suspended", LIMIT).await?;
    let since = Instant::now();
    clusters::delete(&client, "default", "asleep").await?;
    nothing_left(&network, since, "suspended").await?;

    clusters::create(&client, "default", &with_spec(pods("done", 2, 8, H100), &json!({"duration": "1s"}))).await?;
    clusters::wait_state(&client, "default", "done", "Complete", LIMIT).await?;
    let since = Instant::now();
    clusters::delete(&client, "default", "done").await?;
    nothing_left(&network, since, "complete").await?;

    clusters::create_namespace(&client, "tenant").await?;
    for index in 0..6 {
        clusters::create(&client, "tenant", &pods(&format!("c{index}"), 2, 8, H100)).await?;
    }
    clusters::wait_state(&client, "tenant", "c0", "Running", LIMIT).await?;
    let since = Instant::now();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete("tenant", &DeleteParams::default()).await?;
    // The namespace controller of Kubernetes begins 5 s after the deletion; what is measured is ours.
    wait_gone(&namespaces, "tenant", LIMIT).await?;
    println!("the tenant's namespace was gone after {:?}", since.elapsed());
    nothing_left(&network, Instant::now(), "namespace").await?;
    judge::settled(&network, LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_with_members_on_an_absent_site_hangs_no_longer_than_the_fence() -> Result<()> {
    require!(Core, Ok(()));
    let network = network().await?;
    let client = network.client();
    clusters::create_namespace(&client, "tenant").await?;
    clusters::create(&client, "tenant", &with_spec(pods("wide", 6, 8, H100), &clusters::short_fence())).await?;
    clusters::wait_state(&client, "tenant", "wide", "Running", LIMIT).await?;
    network.sites[1].link.cut();
    let since = Instant::now();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete("tenant", &DeleteParams::default()).await?;
    wait_gone(&namespaces, "tenant", LIMIT).await?;
    let took = since.elapsed();
    println!(
        "with a Site away the tenant's namespace was gone after {took:?} (fence 6 s, namespace controller up to 15 s)"
    );
    // The namespace controller looks again with its own backoff: 5 s to begin, and up to 15 s more after the fence.
    assert!(took < Duration::from_secs(25), "{took:?}");
    network.sites[1].link.restore();
    judge::no_pods(&network.sites[1].plane.client(), LIMIT).await?;
    judge::no_namespaces(&network.sites[1].plane.client(), LIMIT).await?;
    judge::no_member_ran_twice(&network)?;
    Ok(())
}
