//! Watches of the Site's Nodes and of the pods that are not members.

use std::collections::BTreeSet;
use std::sync::Arc;

use atoll_api::names;
use atoll_runtime::readiness::Readiness;
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use super::book::InventoryBook;
use super::facts;
use crate::metrics::Metrics;

/// Part of the readiness: Nodes and pods were listed.
pub const PART_INVENTORY: &str = "inventory";

/// Keeps the book in step with the Site, until `shutdown`.
pub async fn watch(
    client: kube::Client,
    book: Arc<InventoryBook>,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let (mut nodes_listed, mut pods_listed) = (false, false);
    let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default()).default_backoff();
    let others = watcher::Config::default()
        .labels(&format!("{}!={}", names::LABEL_MANAGED_BY, names::MANAGED_BY_AGENT))
        .fields("spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed");
    let pods = watcher(Api::<Pod>::all(client), others).default_backoff();
    pin_mut!(nodes, pods);
    let (mut new_nodes, mut new_pods) = (BTreeSet::new(), BTreeSet::new());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = nodes.next() => nodes_listed |= take_node(&book, event, &mut new_nodes),
            Some(event) = pods.next() => pods_listed |= take_pod(&book, event, &mut new_pods),
        }
        if nodes_listed && pods_listed {
            book.set_listed();
            readiness.set(PART_INVENTORY, true);
        }
        metrics.nodes.set(i64::try_from(book.len()).unwrap_or(i64::MAX));
    }
}

/// True: a list is complete.
fn take_node(
    book: &InventoryBook,
    event: Result<watcher::Event<Node>, watcher::Error>,
    listed: &mut BTreeSet<String>,
) -> bool {
    let set = |name: String, node| {
        book.change(|facts| if facts.set_node(&name, node) { BTreeSet::from([name]) } else { BTreeSet::new() });
    };
    match event {
        Ok(watcher::Event::Init) => listed.clear(),
        Ok(watcher::Event::InitApply(node)) => {
            listed.insert(node.name_any());
            set(node.name_any(), facts::node(&node));
        }
        Ok(watcher::Event::Apply(node)) => set(node.name_any(), facts::node(&node)),
        Ok(watcher::Event::Delete(node)) => set(node.name_any(), None),
        Ok(watcher::Event::InitDone) => {
            book.change(|facts| {
                let gone =
                    facts.node_names().into_iter().filter(|name| !listed.contains(name)).collect::<BTreeSet<_>>();
                gone.into_iter().filter(|name| facts.set_node(name, None)).collect()
            });
            return true;
        }
        Err(error) => tracing::warn!(%error, "the watch of Nodes failed; it goes on with a backoff"),
    }
    false
}

/// True: a list is complete.
fn take_pod(
    book: &InventoryBook,
    event: Result<watcher::Event<Pod>, watcher::Error>,
    listed: &mut BTreeSet<String>,
) -> bool {
    let key = |pod: &Pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    match event {
        Ok(watcher::Event::Init) => listed.clear(),
        Ok(watcher::Event::InitApply(pod)) => {
            listed.insert(key(&pod));
            book.change(|facts| facts.set_pod(&key(&pod), facts::use_of(&pod)));
        }
        Ok(watcher::Event::Apply(pod)) => book.change(|facts| facts.set_pod(&key(&pod), facts::use_of(&pod))),
        Ok(watcher::Event::Delete(pod)) => book.change(|facts| facts.set_pod(&key(&pod), None)),
        Ok(watcher::Event::InitDone) => {
            book.change(|facts| {
                let gone: Vec<String> = facts.pod_keys().into_iter().filter(|key| !listed.contains(key)).collect();
                gone.into_iter().flat_map(|key| facts.set_pod(&key, None)).collect()
            });
            return true;
        }
        Err(error) => tracing::warn!(%error, "the watch of pods failed; it goes on with a backoff"),
    }
    false
}
