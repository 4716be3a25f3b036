//! Two tenants with the roles that the project ships.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use anyhow::Result;
use atoll_api::{Cluster, ClusterSlice};
use atoll_e2e::clusters::{self, pods};
use atoll_e2e::{Network, NetworkOptions, SiteOptions};
use atoll_testkit::nodes::NodeProfile;
use atoll_testkit::require;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);
const RTX4090: &str = "rtx-4090";

fn refused<T: std::fmt::Debug>(what: &str, result: kube::Result<T>) -> String {
    match result {
        Err(kube::Error::Api(status)) if status.code == 403 || status.code == 422 => status.message.clone(),
        other => panic!("{what} should be refused: {other:?}"),
    }
}

/// Gives a user a ClusterRole in one namespace.
async fn bind(network: &Network, user: &str, role: &str, namespace: &str) -> Result<Client> {
    let name = format!("{user}-{role}");
    let args = ["create", "rolebinding", &name, "--clusterrole", role, "--user", user, "--namespace", namespace];
    network.hub.plane.kubectl(args).await?.ok()?;
    Ok(network.hub.plane.client_as(user, &[]).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_reach_their_own_clusters_only_and_nobody_writes_placements() -> Result<()> {
    require!(Core, Ok(()));
    let network = Network::start(NetworkOptions::new(vec![SiteOptions::new(
        "home",
        "eu-west",
        "acme",
        vec![NodeProfile::rtx4090().named("pc", 4)],
    )]))
    .await?;
    let admin = network.client();
    for tenant in ["red", "blue"] {
        clusters::create_namespace(&admin, tenant).await?;
    }
    let red = bind(&network, "ruby", "atoll-tenant-edit", "red").await?;
    let blue = bind(&network, "bo", "atoll-tenant-edit", "blue").await?;
    clusters::create(&red, "red", &pods("mine", 1, 1, RTX4090)).await?;
    clusters::wait_state(&red, "red", "mine", "Running", LIMIT).await?;

    let theirs: Api<Cluster> = Api::namespaced(blue.clone(), "red");
    refused("reading another tenant's Cluster", theirs.get("mine").await);
    refused("listing another tenant's Clusters", theirs.list(&ListParams::default()).await);
    refused("deleting another tenant's Cluster", theirs.delete("mine", &DeleteParams::default()).await);
    let patch = Patch::Merge(json!({"spec": {"suspend": true}}));
    refused("changing another tenant's Cluster", theirs.patch("mine", &PatchParams::default(), &patch).await);
    let slices: Api<ClusterSlice> = Api::namespaced(blue.clone(), "red");
    refused("listing another tenant's slices", slices.list(&ListParams::default()).await);
    let everywhere: Api<Cluster> = Api::all(blue.clone());
    refused("listing everybody's Clusters", everywhere.list(&ListParams::default()).await);

    // Not even who may do everything in a namespace writes a placement or a slice.
    network.hub.plane.kubectl(["create", "role", "everything", "--verb=*", "--resource=clusters.atoll.dev,clusters.atoll.dev/status,clusterslices.atoll.dev,clusterslices.atoll.dev/status", "-n", "red"]).await?.ok()?;
    let args = ["create", "rolebinding", "boss", "--role=everything", "--user=boss", "-n", "red"];
    network.hub.plane.kubectl(args).await?.ok()?;
    let boss = bind(&network, "boss", "admin", "red").await?;
    let own: Api<Cluster> = Api::namespaced(boss.clone(), "red");
    let mut cluster = own.get("mine").await?;
    cluster.status.as_mut().unwrap().placement.as_mut().unwrap().sites[0].nodes[0].name = "pc-3".to_owned();
    refused("writing a placement", own.replace_status("mine", &PostParams::default(), &cluster).await);
    let patch = Patch::Merge(json!({"status": {"placement": null}}));
    refused("patching a placement", own.patch_status("mine", &PatchParams::default(), &patch).await);
    let own_slices: Api<ClusterSlice> = Api::namespaced(boss.clone(), "red");
    let slice = own_slices.list(&ListParams::default()).await?.items.remove(0);
    let name = slice.name_any();
    let patch = Patch::Merge(json!({"spec": {"members": []}}));
    refused("changing a slice", own_slices.patch(&name, &PatchParams::default(), &patch).await);
    refused("deleting a slice", own_slices.delete(&name, &DeleteParams::default()).await);
    let mut forged = slice.clone();
    forged.metadata = kube::api::ObjectMeta { name: Some("forged".to_owned()), ..Default::default() };
    refused("forging a slice", own_slices.create(&PostParams::default(), &forged).await);
    let patch = Patch::Merge(json!({"status": {"observedEpoch": 99}}));
    refused("forging a slice's status", own_slices.patch_status(&name, &PatchParams::default(), &patch).await);

    // What is theirs they may do.
    own.delete("mine", &DeleteParams::default()).await?;
    clusters::wait_no_slices(&admin, LIMIT).await
}
