//! A hub where nothing happens writes nothing but its leases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use atoll_e2e::clusters::{self, pods};
use atoll_e2e::{Network, NetworkOptions, SiteOptions};
use atoll_testkit::nodes::NodeProfile;
use atoll_testkit::require;
use futures::{TryStreamExt, stream};

const LIMIT: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_hub_with_three_sites_and_400_clusters_writes_only_leases_for_a_minute() -> Result<()> {
    require!(Core, Ok(()));
    let site = |name: &str, region: &str| {
        SiteOptions::new(
            name,
            region,
            "acme",
            vec![NodeProfile::h100().named(name, 9), NodeProfile::rtx4090().named("pc", 8)],
        )
    };
    let network = Network::start(NetworkOptions::new(vec![
        site("alpha", "eu-west"),
        site("beta", "us-east"),
        site("gamma", "ap-south"),
    ]))
    .await?;
    let client = network.client();
    for (namespace, model, gpus) in [("running", "h100-sxm5-80gb", 1), ("waiting", "rtx-4090", 2)] {
        clusters::create_namespace(&client, namespace).await?;
        let client = &client;
        stream::iter((0..200).map(Ok::<_, anyhow::Error>))
            .try_for_each_concurrent(16, |index| async move {
                clusters::create(client, namespace, &pods(&format!("c{index}"), 1, gpus, model)).await.map(drop)
            })
            .await?;
    }
    clusters::wait_all_state(&client, "running", 200, "Running", LIMIT).await?;
    clusters::wait_all_state(&client, "waiting", 200, "Pending", LIMIT).await?;
    settle(&network).await?;

    let audit = network.hub.plane.audit();
    let mark = audit.mark()?;
    // What is tested is that nothing happens for a minute.
    tokio::time::sleep(Duration::from_mins(1)).await;
    let mut writes: BTreeMap<String, usize> = BTreeMap::new();
    for event in audit.writes_since(mark)? {
        *writes.entry(format!("{} {} by {}", event.verb, event.full_resource(), event.user)).or_default() += 1;
    }
    println!("writes in a minute: {writes:#?}");
    let other: Vec<_> = writes.keys().filter(|what| !what.contains("leases")).collect();
    assert!(other.is_empty(), "writes on an idle hub: {other:?}");
    Ok(())
}

/// Waits until the hub's audit log has been without a write of ours, leases aside, for 3 s: events and counts of what
/// was just created have been written then.
async fn settle(network: &Network) -> Result<()> {
    let audit = network.hub.plane.audit();
    for _ in 0..20 {
        let mark = audit.mark()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        if audit.writes_since(mark)?.iter().all(|event| event.resource == "leases") {
            return Ok(());
        }
    }
    anyhow::bail!("the hub still writes a minute after everything was placed")
}
