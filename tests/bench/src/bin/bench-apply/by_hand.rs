//! The null path: the same namespaces, services and pods made on the Sites and bound to free nodes by plain API calls.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atoll_e2e::{Network, Site};
use atoll_testkit::wait::wait_all;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(2);
/// Requests in flight to each Site.
const IN_FLIGHT: usize = 32;
const LABEL: &str = "by-hand=true";

/// Makes `clusters` groups of `members` pods with one GPU each, and gives how long it took until all were Running.
pub async fn run(network: &Network, clusters: usize, members: u32) -> Result<Duration> {
    let mut work: Vec<(&Site, Vec<Group>)> = network.sites.iter().map(|site| (site, Vec::new())).collect();
    let mut slots: Vec<Vec<String>> = network.sites.iter().map(free_slots).collect();
    for group in 0..clusters {
        // As the hub does: a whole group on one Site where that is possible, else over several.
        let mut missing = members as usize;
        while missing > 0 {
            let site = slots
                .iter()
                .position(|free| free.len() >= missing)
                .or_else(|| slots.iter().position(|free| !free.is_empty()));
            let site = site.context("the network is too small for this run")?;
            let take = missing.min(slots[site].len());
            let nodes = slots[site].drain(..take).collect();
            work[site].1.push(Group { name: format!("by-hand-{group}"), nodes });
            missing -= take;
        }
    }
    let started = Instant::now();
    try_join_all(work.iter().map(|(site, groups)| async move {
        let client = site.plane.client();
        stream::iter(groups.iter().map(Ok))
            .try_for_each_concurrent(IN_FLIGHT / 4, |group| make(client.clone(), group))
            .await?;
        let pods: usize = groups.iter().map(|group| group.nodes.len()).sum();
        let all: Api<Pod> = Api::all(client);
        let running = |found: &[Pod]| found.len() == pods && found.iter().all(is_running);
        wait_all(&all, watcher::Config::default().labels(LABEL), "all pods to be Running", LIMIT, running).await?;
        anyhow::Ok(())
    }))
    .await?;
    let took = started.elapsed();
    for (site, groups) in &work {
        clear(&site.plane.client(), groups).await?;
    }
    Ok(took)
}

/// Members of one Cluster on one Site.
struct Group {
    name: String,
    /// The node of each member.
    nodes: Vec<String>,
}

/// One entry per GPU of the Site: its node.
fn free_slots(site: &Site) -> Vec<String> {
    let profiles = site.options.nodes.iter().filter(|profile| profile.gpu_memory_mib >= 20 * 1024);
    profiles
        .flat_map(|profile| profile.names().flat_map(|name| vec![name; profile.gpus as usize]).collect::<Vec<_>>())
        .collect()
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

async fn make(client: Client, group: &Group) -> Result<()> {
    let name = &group.name;
    create::<Namespace>(Api::all(client.clone()), json!({"metadata": {"name": name, "labels": {"by-hand": "true"}}}))
        .await?;
    create::<ServiceAccount>(Api::namespaced(client.clone(), name), json!({"metadata": {"name": "member"}})).await?;
    let service = json!({"metadata": {"name": name}, "spec": {"clusterIP": "None", "selector": {"by-hand": "true"}}});
    create::<Service>(Api::namespaced(client.clone(), name), service).await?;
    let pods: Api<Pod> = Api::namespaced(client, name);
    stream::iter(group.nodes.iter().enumerate().map(Ok))
        .try_for_each_concurrent(4, |(rank, node)| {
            let pods = pods.clone();
            async move {
                let pod = format!("{name}-{rank}-1");
                create::<Pod>(pods.clone(), pod_manifest(&pod)).await?;
                let binding =
                    json!({"metadata": {"name": pod}, "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
                pods.create_subresource::<Value, Value>("binding", &pod, &PostParams::default(), &binding)
                    .await
                    .with_context(|| format!("bind {pod}"))?;
                Ok(())
            }
        })
        .await
}

fn pod_manifest(name: &str) -> Value {
    let gpu = json!({"nvidia.com/gpu": "1"});
    json!({
        "metadata": {"name": name, "labels": {"by-hand": "true"}},
        "spec": {
            "serviceAccountName": "member",
            "automountServiceAccountToken": false,
            "schedulerName": "by-hand",
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [{"name": "main", "image": "example.com/work:1", "resources": {"requests": gpu, "limits": gpu}}],
        },
    })
}

async fn create<K>(api: Api<K>, object: Value) -> Result<()>
where
    K: kube::Resource + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object)?;
    api.create(&PostParams::default(), &object).await.with_context(|| format!("create {:?}", object.meta().name))?;
    Ok(())
}

async fn clear(client: &Client, groups: &[Group]) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    stream::iter(groups)
        .map(|group| {
            let (namespaces, client) = (namespaces.clone(), client.clone());
            async move {
                let pods: Api<Pod> = Api::namespaced(client, &group.name);
                pods.delete_collection(&DeleteParams::default().grace_period(0), &kube::api::ListParams::default())
                    .await?;
                namespaces.delete(&group.name, &DeleteParams::default()).await.map(drop)
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await?;
    wait_all(
        &namespaces,
        watcher::Config::default().labels(LABEL),
        "namespaces to be gone",
        LIMIT,
        <[Namespace]>::is_empty,
    )
    .await?;
    Ok(())
}
