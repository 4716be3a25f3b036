//! Clusters as tests make them, and what tests wait for.

use std::time::Duration;

use anyhow::{Context, Result};
use atoll_api::{Cluster, ClusterSlice};
use atoll_testkit::wait::{wait_all, wait_for};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::{Value, json};

/// A Cluster of independent pods: `count` members of `gpus` GPUs of this model, anywhere.
#[must_use]
pub fn pods(name: &str, count: u32, gpus: u32, model: &str) -> Value {
    json!({
        "apiVersion": "atoll.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {
            "type": "Pods",
            "members": {"count": count, "gpus": gpus},
            "gpu": {"models": [model]},
            "template": {"spec": {"containers": [{"name": "main", "image": "example.com/work:1"}]}},
        },
    })
}

/// The same with a change of its spec, as a JSON merge patch would make it.
#[must_use]
pub fn with_spec(mut cluster: Value, change: &Value) -> Value {
    merge(&mut cluster["spec"], change);
    cluster
}

/// A change of a Cluster's spec to short fence times, so that tests of lost Sites take seconds.
#[must_use]
pub fn short_fence() -> Value {
    json!({
        "disconnection": {"times": {"stopSeconds": 3, "killSeconds": 5, "fenceSeconds": 6}},
        "template": {"spec": {"terminationGracePeriodSeconds": 1}},
    })
}

fn merge(target: &mut Value, change: &Value) {
    if let (Value::Object(target), Value::Object(change)) = (&mut *target, change) {
        for (key, value) in change {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    } else {
        *target = change.clone();
    }
}

/// Clusters of a namespace.
#[must_use]
pub fn api(client: &Client, namespace: &str) -> Api<Cluster> {
    Api::namespaced(client.clone(), namespace)
}

/// Creates the namespace of a tenant.
pub async fn create_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await
        .with_context(|| format!("create namespace {name}"))?;
    Ok(())
}

/// Creates a Cluster from JSON.
pub async fn create(client: &Client, namespace: &str, cluster: &Value) -> Result<Cluster> {
    let cluster: Cluster = serde_json::from_value(cluster.clone()).context("a Cluster from JSON")?;
    let name = cluster.metadata.name.clone().unwrap_or_default();
    api(client, namespace)
        .create(&PostParams::default(), &cluster)
        .await
        .with_context(|| format!("create Cluster {namespace}/{name}"))
}

/// Changes a Cluster's spec by a JSON merge patch.
pub async fn change(client: &Client, namespace: &str, name: &str, spec: &Value) -> Result<Cluster> {
    api(client, namespace)
        .patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec})))
        .await
        .with_context(|| format!("change Cluster {namespace}/{name}"))
}

/// Deletes a Cluster.
pub async fn delete(client: &Client, namespace: &str, name: &str) -> Result<()> {
    api(client, namespace)
        .delete(name, &DeleteParams::default())
        .await
        .with_context(|| format!("delete Cluster {namespace}/{name}"))?;
    Ok(())
}

/// One word for where a Cluster stands; empty before the operator has seen it.
#[must_use]
pub fn state(cluster: &Cluster) -> &str {
    cluster.status.as_ref().and_then(|status| status.state.as_deref()).unwrap_or("")
}

/// Why it is so, in words.
#[must_use]
pub fn message(cluster: &Cluster) -> &str {
    cluster.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or("")
}

/// Waits until a Cluster is in this state.
pub async fn wait_state(
    client: &Client,
    namespace: &str,
    name: &str,
    wanted: &str,
    limit: Duration,
) -> Result<Cluster> {
    let what = format!("to be {wanted}");
    Ok(wait_for(&api(client, namespace), name, &what, limit, |cluster| state(cluster) == wanted).await?)
}

/// Waits until every Cluster of a namespace is in this state.
pub async fn wait_all_state(
    client: &Client,
    namespace: &str,
    count: usize,
    wanted: &str,
    limit: Duration,
) -> Result<Vec<Cluster>> {
    let what = format!("{count} Clusters in {namespace} to be {wanted}");
    let all = |clusters: &[Cluster]| clusters.len() == count && clusters.iter().all(|cluster| state(cluster) == wanted);
    Ok(wait_all(&api(client, namespace), watcher::Config::default(), &what, limit, all).await?)
}

/// Waits until no slice of the hub is left.
pub async fn wait_no_slices(client: &Client, limit: Duration) -> Result<()> {
    let slices: Api<ClusterSlice> = Api::all(client.clone());
    wait_all(&slices, watcher::Config::default(), "no ClusterSlice to be left", limit, <[ClusterSlice]>::is_empty)
        .await?;
    Ok(())
}
