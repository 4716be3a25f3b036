//! What really happened on the Sites, from their API servers' audit logs and objects: Atoll's own status is not asked.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use atoll_api::names::{LABEL_CLUSTER_UID, LABEL_MANAGED_BY, MANAGED_BY_AGENT, RESOURCE_NVIDIA_GPU};
use atoll_api::{Cluster, Gang};
use atoll_testkit::wait::{eventually, wait_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};

use crate::network::Network;

/// A member of a Cluster: the Site's namespace (a hash of the Cluster's UID) and its rank.
type Member = (String, String);

/// One run of a member: from its binding to its pod's removal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    site: String,
    pod: String,
    from: Timestamp,
    /// None: it still runs.
    to: Option<Timestamp>,
}

/// Every run of every member on every Site, from the audit logs.
fn runs(network: &Network) -> Result<BTreeMap<Member, Vec<Run>>> {
    let mut runs: BTreeMap<Member, Vec<Run>> = BTreeMap::new();
    for site in &network.sites {
        let mut events = site.plane.audit().events()?;
        events.sort_by_key(|event| event.answered);
        for event in events.iter().filter(|event| event.resource == "pods" && event.succeeded()) {
            if !event.namespace.starts_with("atoll-") {
                continue;
            }
            let Some((rank, _)) = rank_and_incarnation(&event.name) else { continue };
            let member = runs.entry((event.namespace.clone(), rank)).or_default();
            match (event.verb.as_str(), event.subresource.as_str()) {
                ("create", "binding") => member.push(Run {
                    site: site.options.name.clone(),
                    pod: event.name.clone(),
                    from: event.received,
                    to: None,
                }),
                // The last deletion counts: the first one only asks the pod to stop.
                ("delete", "") => {
                    if let Some(run) =
                        member.iter_mut().rev().find(|run| run.pod == event.name && run.site == site.options.name)
                    {
                        run.to = Some(event.answered);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(runs)
}

/// "name-3-17" → ("3", "17").
pub(crate) fn rank_and_incarnation(pod: &str) -> Option<(String, String)> {
    let (rest, incarnation) = pod.rsplit_once('-')?;
    let (_, rank) = rest.rsplit_once('-')?;
    let number = |text: &str| text.parse::<u64>().is_ok();
    (number(rank) && number(incarnation)).then(|| (rank.to_owned(), incarnation.to_owned()))
}

/// Fails when two runs of one member overlapped anywhere in the network, or an incarnation ran twice. Gives how many
/// runs were judged.
pub fn no_member_ran_twice(network: &Network) -> Result<usize> {
    let mut judged = 0;
    for ((namespace, rank), mut member) in runs(network)? {
        member.sort_by_key(|run| run.from);
        judged += member.len();
        for (index, run) in member.iter().enumerate() {
            for later in &member[index + 1..] {
                if later.pod == run.pod {
                    bail!("member {namespace}/{rank}: incarnation {} ran twice: {run:?} and {later:?}", run.pod);
                }
                if run.to.is_none_or(|to| to > later.from) {
                    bail!("member {namespace}/{rank}: two incarnations at once: {run:?} and {later:?}");
                }
            }
        }
    }
    Ok(judged)
}

/// GPUs in use by Atoll's pods on one Site, by (namespace, pod, node).
async fn used(client: &Client) -> Result<BTreeMap<(String, String, String), u32>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut used = BTreeMap::new();
    for pod in pods.list(&ListParams::default().labels(LABEL_CLUSTER_UID)).await? {
        let finished = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
        if matches!(finished, Some("Succeeded" | "Failed")) {
            continue;
        }
        used.insert((pod.namespace().unwrap_or_default(), pod.name_any(), node), gpus(&pod));
    }
    Ok(used)
}

fn gpus(pod: &Pod) -> u32 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .filter_map(|container| container.resources.as_ref()?.requests.as_ref()?.get(RESOURCE_NVIDIA_GPU))
        .filter_map(|quantity| quantity.0.parse::<u32>().ok())
        .sum()
}

/// What the hub has placed on a Site, by (pod, node).
fn placed(clusters: &[Cluster], site: &str) -> BTreeMap<(String, String), u32> {
    let mut placed = BTreeMap::new();
    for cluster in clusters {
        let Some(placement) = cluster.status.as_ref().and_then(|status| status.placement.as_ref()) else { continue };
        for share in placement.sites.iter().filter(|share| share.site == site) {
            for node in &share.nodes {
                for rank in node.rank..node.rank + node.count {
                    let pod = format!("{}-{rank}-{}", cluster.name_any(), node.incarnation);
                    placed.insert((pod, node.name.clone()), u32::try_from(placement.gpus).unwrap_or(0));
                }
            }
        }
    }
    placed
}

/// Waits until every Site runs exactly what the hub has placed there: nothing runs unplaced, nothing placed is
/// missing, no GPU is held by nobody (no gang without a Cluster, and what the hub counts as free is free).
pub async fn settled(network: &Network, limit: Duration) -> Result<()> {
    let client = network.client();
    for site in &network.sites {
        let name = network.site_name(&site.options.name).await?;
        eventually(&format!("Site {} to run what is placed there", site.options.name), limit, async || {
            let check = async {
                let clusters: Vec<Cluster> = Api::all(client.clone()).list(&ListParams::default()).await?.items;
                let placed = placed(&clusters, &name);
                let used = used(&site.plane.client()).await?;
                let running: BTreeMap<(String, String), u32> =
                    used.into_iter().map(|((_, pod, node), gpus)| ((pod, node), gpus)).collect();
                if placed != running {
                    bail!("placed {placed:?}\nrunning {running:?}");
                }
                let gangs: Api<Gang> = Api::all(site.plane.client());
                let members: usize =
                    gangs.list(&ListParams::default()).await?.iter().map(|gang| gang.spec.members.len()).sum();
                if members != placed.len() {
                    bail!("gangs name {members} members, {} are placed", placed.len());
                }
                let on_hub: atoll_api::Site = Api::all(client.clone()).get(&name).await?;
                let status = on_hub.status.unwrap_or_default();
                let taken: u32 = placed.values().sum();
                if i64::from(status.gpus) - i64::from(status.free_gpus) != i64::from(taken) {
                    bail!("the hub counts {} of {} GPUs free, {taken} are taken", status.free_gpus, status.gpus);
                }
                anyhow::Ok(())
            };
            check.await.map_err(|error| format!("{error:#}"))
        })
        .await?;
    }
    Ok(())
}

/// Waits until no pod of Atoll is left on a Site.
pub async fn no_pods(site: &Client, limit: Duration) -> Result<()> {
    let pods: Api<Pod> = Api::all(site.clone());
    let config = watcher::Config::default().labels(LABEL_CLUSTER_UID);
    wait_all(&pods, config, "no member pod to be left", limit, <[Pod]>::is_empty).await.context("on a Site")?;
    Ok(())
}

/// Waits until no namespace that the agent made is left on a Site.
pub async fn no_namespaces(site: &Client, limit: Duration) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(site.clone());
    let config = watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY_AGENT}"));
    wait_all(&namespaces, config, "no Cluster's namespace to be left", limit, <[Namespace]>::is_empty).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_names_tell_rank_and_incarnation() {
        let parts = |pod| rank_and_incarnation(pod).map(|(rank, incarnation)| format!("{rank}/{incarnation}"));
        assert_eq!(parts("train-me-3-17").as_deref(), Some("3/17"));
        assert_eq!(parts("coredns-7d-x"), None);
    }
}
