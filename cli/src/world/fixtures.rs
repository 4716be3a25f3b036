//! A small network for tests: a data center with 2 nodes of 8 H100, a workshop with 4 nodes of one 4090, and a lost Site
//! with 8 A100.

use atoll_api::{GpuModel, GpuNode, Site};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::World;
use crate::fetch::Objects;

const DC: &str = "site-00000000000000dc";
const SHOP: &str = "site-0000000000005407";
const LOST: &str = "site-0000000000001057";

/// One hour after everything in the fixtures.
pub fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn condition(type_: &str, status: &str, reason: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": "",
           "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn model(name: &str, family: &str, memory: u64, price: &str) -> GpuModel {
    of(json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUModel", "metadata": {"name": name},
        "spec": {"displayName": name, "vendor": "NVIDIA", "family": family, "aliases": [], "memoryMib": memory,
                 "computeScore": 1000, "workloads": ["Training", "Batch"], "referencePrice": price},
    }))
}

fn site(name: &str, display: &str, region: &str, connected: bool, gpus: [i32; 3]) -> Site {
    let status = if connected { ("True", "SessionLive") } else { ("False", "HeartbeatsMissed") };
    let mut session = json!({"number": 1, "gateway": "gateway-0", "agentVersion": "0.1.0"});
    if !connected {
        session["lastGrant"] = json!("2026-01-01T00:00:00Z");
    }
    of(json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": {"name": name},
        "spec": {"supplier": "acme", "displayName": display, "region": region, "trust": "Contracted"},
        "status": {"conditions": [condition("Accepted", "True", "Joined"),
                                  condition("Connected", status.0, status.1)],
                   "session": session, "nodes": gpus[0], "gpus": gpus[1], "freeGpus": gpus[2]},
    }))
}

fn node(site: &str, node: &str, model: &str, gpus: u32) -> GpuNode {
    of(json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": format!("{site}.{node}")},
        "spec": {}, "status": {"site": site, "node": node, "model": model, "allocatable": gpus, "ready": true},
    }))
}

/// The Sites.
pub fn sites() -> Vec<Site> {
    vec![
        site(SHOP, "workshop", "us-east", true, [4, 4, 4]),
        site(DC, "dc-frankfurt", "eu-west", true, [2, 16, 12]),
        site(LOST, "garage", "eu-west", false, [1, 8, 0]),
    ]
}

/// The network with these Clusters and slices.
pub fn world(clusters: Value, slices: Value) -> World {
    let mut nodes = vec![node(DC, "n1", "h100", 8), node(DC, "n2", "h100", 8), node(LOST, "g1", "a100", 8)];
    nodes.extend((1..=4).map(|i| node(SHOP, &format!("pc{i}"), "rtx-4090", 1)));
    World::new(Objects {
        models: vec![
            model("h100", "hopper", 81_559, "2.50"),
            model("rtx-4090", "ada", 24_564, "0.40"),
            model("a100", "ampere", 81_920, "1.50"),
        ],
        sites: sites(),
        nodes,
        clusters: of(clusters),
        slices: of(slices),
        own_namespace_only: false,
        network_hidden: false,
    })
}

fn cluster(name: &str, spec: &Value, status: &Value) -> Value {
    let mut cluster = json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "Cluster",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1,
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec,
    });
    cluster["spec"]["template"] = json!({"spec": {"containers": [{"name": "m", "image": "i"}]}});
    if !status.is_null() {
        cluster["status"] = status.clone();
    }
    cluster
}

/// A Cluster that wants so many H100 and has not been placed.
pub fn new_cluster(name: &str, members: u32) -> Value {
    let spec = json!({"type": "Pods", "members": {"count": members}, "gpu": {"models": ["h100"]}});
    json!([cluster(name, &spec, &Value::Null)])
}

/// A Cluster that wants more than there is.
pub fn pending_cluster() -> Value {
    let message =
        "asked 16 members of 1 GPU (hopper or ampere) in one region; 24 such GPUs exist, none is free for it.";
    let spec = json!({"type": "Pods", "members": {"count": 16}, "gpu": {"families": ["hopper", "ampere"]},
                      "placement": {"span": "Region"}, "price": {"maxPerGpuHour": "2.00"}});
    let status = json!({"state": "Pending", "message": message, "conditions": [
        condition("Placed", "False", "InsufficientCapacity"), condition("Ready", "False", "InsufficientCapacity")]});
    json!([cluster("pending", &spec, &status)])
}

/// A Cluster of four members on two Sites.
pub fn placed_cluster() -> Value {
    let spec = json!({"type": "Pods", "members": {"count": 4}});
    let status = json!({
        "state": "Degraded", "message": "2 of 4 members are ready.", "epoch": 3, "ready": 2, "total": 4, "gpus": 4,
        "pricePerHour": "5.8",
        "conditions": [condition("Placed", "True", "Placed"), condition("Ready", "False", "MembersStarting")],
        "placement": {"epoch": 3, "term": 2, "gpus": 1,
            "fence": {"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120},
            "sites": [
                {"site": DC, "price": "2.5", "nodes": [
                    {"name": "n1", "rank": 0, "count": 2, "incarnation": 1}]},
                {"site": SHOP, "price": "0.4", "nodes": [
                    {"name": "pc1", "rank": 2, "count": 1, "incarnation": 3},
                    {"name": "pc2", "rank": 3, "count": 1, "incarnation": 3}]}]},
    });
    json!([cluster("placed", &spec, &status)])
}

/// Its slices: both members of the data center are ready, one of the workshop's cannot start, the other is silent,
/// and a former member is being stopped.
pub fn slices_of_it() -> Value {
    let slice = |site: &str, members: Value, status: Value| {
        json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "ClusterSlice",
            "metadata": {"name": format!("placed-{site}-0"), "namespace": "default", "generation": 1},
            "spec": {"site": site, "cluster": "placed", "clusterUid": "uid-placed", "epoch": 3, "term": 2,
                     "phase": "Run", "type": "Pods", "members": members, "gpus": 1,
                     "rendezvous": {"worldSize": 4, "leaderIncarnation": 1},
                     "fence": {"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120},
                     "template": {"spec": {"containers": [{"name": "m", "image": "i"}]}}},
            "status": {"observedEpoch": 3, "observedGeneration": 1, "members": status},
        })
    };
    let ready = |rank: u32| json!({"rank": rank, "incarnation": 1, "phase": "Ready", "node": "n1"});
    json!([
        slice(
            DC,
            json!([{"rank": 0, "node": "n1", "incarnation": 1}, {"rank": 1, "node": "n1", "incarnation": 1}]),
            json!([ready(0), ready(1), {"rank": 2, "incarnation": 1, "phase": "Stopping", "node": "n2"}]),
        ),
        slice(
            SHOP,
            json!([{"rank": 2, "node": "pc1", "incarnation": 3}, {"rank": 3, "node": "pc2", "incarnation": 3}]),
            json!([{"rank": 2, "incarnation": 3, "phase": "Starting", "node": "pc1", "reason": "ImagePull",
                    "message": "the image i cannot be pulled: not found"}]),
        ),
    ])
}
