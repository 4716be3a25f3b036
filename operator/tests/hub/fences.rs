//! What happens when Sites vanish, drain, or wait in quarantine.

use std::sync::Arc;
use std::time::Instant;

use atoll_api::FencedCluster;
use atoll_operator::controllers::cluster::fences::FenceWrite;
use atoll_operator::controllers::cluster::sites::Evidence;
use atoll_operator::controllers::cluster::writer::Writer;
use atoll_operator::metrics::Metrics;
use atoll_runtime::leader::{LeaderArgs, Leadership, LeaseName};
use k8s_openapi::api::events::v1::Event;
use kube::runtime::events::{Recorder, Reporter};
use tokio_util::sync::CancellationToken;

use super::*;

/// From the fence to the replacement being Ready.
const PROMPT: Duration = Duration::from_secs(5);
/// As the Clusters here ask for.
const FENCE: Duration = Duration::from_secs(10);

impl Hub {
    fn sites(&self) -> Api<Site> {
        Api::all(self.gateway.clone())
    }

    async fn wants(&self, site: &str, availability: &str) {
        let patch = Patch::Merge(json!({"status": {"availability": availability}}));
        self.sites().patch_status(site, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn nothing_is_fenced(&self, site: &str) {
        let none = |site: &Site| site.status.as_ref().is_some_and(|status| status.fenced.is_empty());
        wait_for(&self.sites(), site, "to have no fence left", LIMIT, none).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_of_a_lost_site_runs_elsewhere_at_its_fence_and_no_fence_is_left_behind() {
    require!(Core);
    let hub = Hub::start(1).await;
    hub.site("site-a", 1, 4).await;
    let store = json!({"store": "s3://bucket/run"});
    hub.apply("gang", &json!({"type": "Torch", "members": {"count": 2, "gpus": 1}, "checkpoint": store})).await;
    let before = hub.running("gang").await;
    hub.site("site-b", 1, 4).await;

    let lost = Instant::now();
    hub.connect("site-a", false).await;
    let fenced = |site: &Site| site.status.as_ref().is_some_and(|status| !status.fenced.is_empty());
    let site = wait_for(&hub.sites(), "site-a", "to be fenced", LIMIT, fenced).await.unwrap();
    assert!(lost.elapsed() >= FENCE, "not before");
    let entry = site.status.unwrap().fenced.remove(0);
    assert_eq!(entry.epoch, before.epoch);
    let moved = |s: &ClusterStatus| is_true(&s.conditions, "Ready") && sites_of(s).contains("site-b");
    hub.reaches("gang", "to run on the other Site", moved).await;
    let took = lost.elapsed();
    println!("a lost gang ran elsewhere {took:?} after its last lease, with a fence of 10 s");
    assert!(took < FENCE + PROMPT, "{took:?}");
    hub.nothing_is_fenced("site-a").await;
    assert_eq!(hub.slices().list(&ListParams::default()).await.unwrap().items.len(), 1);

    // A Site that comes back before its fence keeps what it has.
    let before = hub.running("gang").await;
    hub.connect("site-b", false).await;
    hub.reaches("gang", "to be cut off", |s| s.state.as_deref() == Some("Degraded")).await;
    hub.connect("site-b", true).await;
    let after = hub.running("gang").await;
    assert_eq!(after.placement, before.placement);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_came_back_before_its_fence_is_written_is_not_fenced() {
    require!(Core);
    let hub = Hub::start(0).await;
    hub.site_with("site-a", 0, 0, &json!({})).await;
    hub.connect("site-a", false).await;
    let operator = client(&hub.plane, "atoll-operator").await;
    let stop = CancellationToken::new();
    let name = LeaseName { namespace: SYSTEM_NAMESPACE.to_owned(), name: "atoll-operator".to_owned() };
    let args = LeaderArgs { leader_lease_seconds: 15 };
    let leadership = Leadership::acquire(operator.clone(), name, "test".to_owned(), &args, &stop).await.unwrap();
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let recorder = Recorder::new(operator.clone(), Reporter::from("test"));
    let writer = Writer::new(
        operator,
        SYSTEM_NAMESPACE.to_owned(),
        Arc::new(leadership),
        recorder,
        metrics.clone(),
        stop.clone(),
    );
    let sites = hub.sites();
    let write = |site: Site, evidence| FenceWrite {
        site: Arc::new(site),
        fenced: vec![FencedCluster { cluster_uid: "uid".to_owned(), epoch: 3 }],
        adds: true,
        evidence,
    };

    // Seen lost; then a session begins; then the fence is written.
    let seen = sites.get("site-a").await.unwrap();
    hub.connect("site-a", true).await;
    let outcome = writer.fence(write(seen, None)).await;
    let present = outcome.present.unwrap().status.unwrap();
    assert!(!outcome.failed && is_true(&present.conditions, "Connected"), "the present Site is read back");
    assert_eq!(present.fenced, []);
    assert_eq!(metrics.fences.with_label_values(&["conflict"]).get(), 1);

    // Its gateway's Lease shows it lost, and is not as the watch has shown it.
    let seen = sites.get("site-a").await.unwrap();
    let stale = Evidence { lease: "gw-1".to_owned(), renewed: None };
    assert!(writer.fence(write(seen.clone(), Some(stale))).await.failed);
    assert_eq!(sites.get("site-a").await.unwrap().status.unwrap().fenced, []);

    // Unchanged, it is fenced, and a new session keeps that.
    hub.connect("site-a", false).await;
    let seen = sites.get("site-a").await.unwrap();
    let outcome = writer.fence(write(seen, None)).await;
    assert_eq!(outcome.present.unwrap().status.unwrap().fenced.len(), 1);
    hub.connect("site-a", true).await;
    assert_eq!(sites.get("site-a").await.unwrap().status.unwrap().fenced.len(), 1);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_a_draining_site_runs_elsewhere_at_once_or_stays_until_there_is_a_place() {
    require!(Core);
    let hub = Hub::start(1).await;
    hub.site("site-a", 1, 2).await;
    hub.apply("serves", &json!({"members": {"count": 1, "gpus": 1}})).await;
    hub.apply("fails", &json!({"disconnection": {"policy": "Fail", "times": {"stopSeconds": 5, "killSeconds": 8, "fenceSeconds": 10}}})).await;
    let before = hub.running("serves").await;
    let fails = hub.running("fails").await;

    // Nowhere to go: it runs on, and says so.
    hub.wants("site-a", "Draining").await;
    let reason =
        |s: &ClusterStatus, reason: &str| s.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == reason);
    let stays = hub.reaches("serves", "to stay", |s| reason(s, "SiteDraining")).await;
    assert_eq!(stays.placement, before.placement);

    let place = Instant::now();
    hub.site("site-b", 1, 2).await;
    let moved = |s: &ClusterStatus| is_true(&s.conditions, "Ready") && sites_of(s).contains("site-b");
    hub.reaches("serves", "to move", moved).await;
    let took = place.elapsed();
    println!("a member left a draining Site {took:?} after there was a place, the new Site's making included");
    assert!(took < PROMPT, "{took:?}");
    assert_eq!(
        hub.running("fails").await.placement,
        fails.placement,
        "policy Fail stays until the supplier's deadline"
    );

    // And with a place at hand, from the word on.
    hub.wants("site-a", "Accepting").await;
    let word = Instant::now();
    hub.wants("site-b", "Draining").await;
    let back = |s: &ClusterStatus| is_true(&s.conditions, "Ready") && sites_of(s).contains("site-a");
    hub.reaches("serves", "to move back", back).await;
    let took = word.elapsed();
    println!("a member of a draining Site ran elsewhere {took:?} after the word");
    assert!(took < PROMPT, "{took:?}");
    // Nothing is placed on a Site that is paused.
    hub.wants("site-a", "Paused").await;
    hub.apply("late", &json!({})).await;
    hub.reaches("late", "to wait", |s| s.state.as_deref() == Some("Pending")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_replaced_when_many_sites_of_several_suppliers_vanish_at_once() {
    require!(Core);
    let hub = Hub::start(1).await;
    hub.site("site-a", 1, 1).await;
    for n in 1..21 {
        let supplier = ["acme", "beta", "core"][n % 3];
        hub.site_with(&format!("site-{n:02}"), 0, 0, &json!({"supplier": supplier})).await;
    }
    hub.apply("held", &json!({})).await;
    let before = hub.running("held").await;
    hub.site("site-z", 1, 1).await;

    hub.connect("site-a", false).await;
    for n in 1..21 {
        hub.connect(&format!("site-{n:02}"), false).await;
    }
    let frozen = |s: &ClusterStatus| s.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == "ReplacingFrozen");
    let held = hub.reaches("held", "to be held", frozen).await;
    assert_eq!(held.placement, before.placement);
    assert!(held.message.unwrap().contains("replacing is frozen because"));
    assert_eq!(hub.sites().get("site-a").await.unwrap().status.unwrap().fenced, []);
    let events: Api<Event> = Api::namespaced(hub.plane.client(), SYSTEM_NAMESPACE);
    eventually("people are told", LIMIT, async || {
        let events = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let told = |event: &Event| event.reason.as_deref() == Some("ReplacingFrozen");
        events.items.iter().any(told).then_some(()).ok_or_else(|| format!("{} events", events.items.len()))
    })
    .await
    .unwrap();
    // The Sites are back before it is lifted: nothing has happened.
    hub.connect("site-a", true).await;
    assert_eq!(hub.running("held").await.placement, before.placement);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_in_quarantine_is_not_hired_before_it_has_been_connected_for_long_enough() {
    require!(Core);
    let hub = Hub::start(1).await;
    hub.site_with("site-q", 1, 1, &json!({"quarantined": true})).await;
    hub.apply("waits", &json!({})).await;
    hub.reaches("waits", "to wait", |s| s.state.as_deref() == Some("Pending")).await;
    let says = |site: &Site| {
        site.status.iter().flat_map(|s| &s.conditions).any(|c| c.type_ == "Accepted" && c.reason == "Quarantined")
    };
    wait_for(&hub.sites(), "site-q", "to say why", LIMIT, says).await.unwrap();
    // It has been connected for a day and an hour.
    let since = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(25);
    let mut status = json!(hub.sites().get("site-q").await.unwrap().status);
    for condition in status["conditions"].as_array_mut().unwrap() {
        if condition["type"] == "Connected" {
            condition["lastTransitionTime"] = json!(since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
    }
    let patch = Patch::Merge(json!({"status": {"conditions": status["conditions"]}}));
    hub.sites().patch_status("site-q", &PatchParams::default(), &patch).await.unwrap();
    hub.running("waits").await;
    assert!(!hub.sites().get("site-q").await.unwrap().spec.quarantined);
}
