//! What a Cluster that does not fit says, and what happens when capacity joins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use anyhow::Result;
use atoll_e2e::clusters::{self, message, pods, with_spec};
use atoll_e2e::site::Prepared;
use atoll_e2e::{Network, NetworkOptions, SiteOptions, judge};
use atoll_testkit::nodes::NodeProfile;
use atoll_testkit::require;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_says_why_within_a_second_and_runs_when_capacity_joins() -> Result<()> {
    require!(Core, Ok(()));
    let alpha = SiteOptions::new("alpha", "eu-west", "acme", vec![NodeProfile::h100().named("a", 2)]);
    let gamma = SiteOptions::new("gamma", "eu-west", "globex", vec![NodeProfile::h100().named("c", 4)]);
    let (mut network, joining) = {
        let network = Network::start(NetworkOptions::new(vec![alpha])).await?;
        (network, Prepared::start(gamma).await?)
    };
    let client = network.client();
    let big = with_spec(pods("big", 4, 8, "h100-sxm5-80gb"), &json!({"placement": {"span": "Site"}}));
    let started = Instant::now();
    clusters::create(&client, "default", &big).await?;
    let pending = clusters::wait_state(&client, "default", "big", "Pending", LIMIT).await?;
    let took = started.elapsed();
    println!("pending after {took:?}: {}", message(&pending));
    assert!(took < Duration::from_secs(1), "{took:?}");
    let said = message(&pending);
    for part in ["4 members", "8 GPU", "h100-sxm5-80gb", "16", "2 members"] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    let explained = network.hub.plane.kubectl(["atoll", "explain", "big"]).await?;
    assert!(explained.stdout.contains("h100-sxm5-80gb"), "{explained:?}");

    network.join(vec![joining]).await?;
    clusters::wait_state(&client, "default", "big", "Running", LIMIT).await?;
    judge::settled(&network, LIMIT).await
}
