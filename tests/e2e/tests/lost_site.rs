//! A Site that goes away: its members run elsewhere, and when it is back it stops what the hub does not list.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use anyhow::Result;
use atoll_api::Cluster;
use atoll_e2e::clusters::{self, pods, with_spec};
use atoll_e2e::{Network, NetworkOptions, SiteOptions, judge};
use atoll_testkit::nodes::NodeProfile;
use atoll_testkit::require;
use atoll_testkit::wait::wait_for;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(40);
const H100: &str = "h100-sxm5-80gb";

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_lost_site_are_replaced_and_survivors_run_on() -> Result<()> {
    require!(Core, Ok(()));
    let mut options = NetworkOptions::new(vec![
        SiteOptions::new("alpha", "eu-west", "acme", vec![NodeProfile::h100().named("a", 2)]),
        SiteOptions::new("beta", "us-east", "globex", vec![NodeProfile::h100().named("b", 1)]),
        SiteOptions::new("gamma", "us-east", "globex", vec![NodeProfile::h100().named("c", 1)]),
    ]);
    options.hub.suspect_after_seconds = 30;
    let network = Network::start(options).await?;
    let client = network.client();
    clusters::create(&client, "default", &with_spec(pods("wide", 3, 8, H100), &clusters::short_fence())).await?;
    let before = clusters::wait_state(&client, "default", "wide", "Running", LIMIT).await?;
    let placement = before.status.as_ref().unwrap().placement.as_ref().unwrap();
    assert_eq!(placement.sites.len(), 2, "two on alpha, one on another Site");
    let alpha = network.site_name("alpha").await?;
    let other = placement.sites.iter().find(|share| share.site != alpha).unwrap().site.clone();
    let mut lost = None;
    for site in &network.sites {
        if network.site_name(&site.options.name).await? == other {
            lost = Some(site);
        }
    }
    let lost = lost.unwrap();

    lost.link.cut();
    let after =
        wait_for(&clusters::api(&client, "default"), "wide", "to run without the lost Site", LIMIT, |cluster| {
            let placement = cluster.status.as_ref().and_then(|status| status.placement.as_ref());
            clusters::state(cluster) == "Running"
                && placement.is_some_and(|placement| placement.sites.iter().all(|share| share.site != other))
        })
        .await?;
    let ranks = |cluster: &Cluster| {
        let placement = cluster.status.as_ref().unwrap().placement.clone().unwrap();
        let share = placement.sites.into_iter().find(|share| share.site == alpha).unwrap();
        share.nodes
    };
    assert_eq!(ranks(&before), ranks(&after), "survivors keep their incarnation");
    // The cut-off Site stopped its member by its own clock.
    judge::no_pods(&lost.plane.client(), LIMIT).await?;

    // A Cluster that is deleted while its Site is away leaves nothing when the Site is back.
    clusters::delete(&client, "default", "wide").await?;
    clusters::wait_no_slices(&client, LIMIT).await?;
    lost.link.restore();
    for site in &network.sites {
        judge::no_pods(&site.plane.client(), LIMIT).await?;
        judge::no_namespaces(&site.plane.client(), LIMIT).await?;
    }
    judge::settled(&network, LIMIT).await?;
    judge::no_member_ran_twice(&network)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_with_a_checkpoint_starts_again_elsewhere_and_one_without_fails() -> Result<()> {
    require!(Core, Ok(()));
    let network = Network::start(NetworkOptions::new(vec![
        SiteOptions::new("alpha", "eu-west", "acme", vec![NodeProfile::h100().named("a", 3)]),
        SiteOptions::new("beta", "us-east", "globex", vec![NodeProfile::h100().named("b", 2)]),
    ]))
    .await?;
    let client = network.client();
    let torch = |name: &str, count: u32, change: &Value| {
        let gang = with_spec(pods(name, count, 8, H100), &json!({"type": "Torch"}));
        with_spec(with_spec(gang, &clusters::short_fence()), change)
    };
    // Only alpha has room for both gangs.
    let filler = with_spec(pods("filler", 2, 8, H100), &json!({"placement": {"regions": {"in": ["us-east"]}}}));
    clusters::create(&client, "default", &filler).await?;
    clusters::wait_state(&client, "default", "filler", "Running", LIMIT).await?;
    let checkpoint = json!({"checkpoint": {"store": "s3://checkpoints/again"}});
    clusters::create(&client, "default", &torch("again", 2, &checkpoint)).await?;
    clusters::create(&client, "default", &torch("over", 1, &json!({}))).await?;
    let before = clusters::wait_state(&client, "default", "again", "Running", LIMIT).await?;
    clusters::wait_state(&client, "default", "over", "Running", LIMIT).await?;
    clusters::delete(&client, "default", "filler").await?;
    let (alpha, beta) = (network.site_name("alpha").await?, network.site_name("beta").await?);
    let only_on = |cluster: &Cluster, site: &str| {
        let placement = cluster.status.as_ref().and_then(|status| status.placement.clone()).unwrap_or_default();
        placement.sites.iter().map(|share| share.site.as_str()).eq([site])
    };
    assert!(only_on(&before, &alpha));

    network.sites[0].link.cut();
    wait_for(&clusters::api(&client, "default"), "again", "to run on beta", LIMIT, |cluster| {
        clusters::state(cluster) == "Running" && only_on(cluster, &beta)
    })
    .await?;
    let over = clusters::wait_state(&client, "default", "over", "Failed", LIMIT).await?;
    let reasons: Vec<&str> =
        over.status.iter().flat_map(|status| &status.conditions).map(|c| c.reason.as_str()).collect();
    assert!(reasons.contains(&"MembersLost"), "{reasons:?}");
    network.sites[0].link.restore();
    judge::settled(&network, LIMIT).await?;
    judge::no_member_ran_twice(&network)?;
    Ok(())
}
