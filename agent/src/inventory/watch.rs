//! Watches of the Site's Nodes and `GPUNode`s, and of the pods that are not members.

use std::collections::BTreeSet;
use std::sync::Arc;

use atoll_api::{GpuNode, names};
use atoll_runtime::readiness::Readiness;
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::book::InventoryBook;
use super::devices;
use super::facts::{self, Facts};
use crate::metrics::Metrics;

/// Part of the readiness: Nodes, `GPUNode`s and pods were listed.
pub const PART_INVENTORY: &str = "inventory";

/// Keeps the book in step with the Site, until `shutdown`.
pub async fn watch(
    client: kube::Client,
    book: Arc<InventoryBook>,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default()).default_backoff();
    // Where a hub shares the API server, its copies are labelled.
    let own = watcher::Config::default().labels(&format!("!{}", names::LABEL_SITE));
    let gpu_nodes = watcher(Api::<GpuNode>::all(client.clone()), own).default_backoff();
    let others = watcher::Config::default()
        .labels(&format!("{}!={}", names::LABEL_MANAGED_BY, names::MANAGED_BY_AGENT))
        .fields("spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed");
    let pods = watcher(Api::<Pod>::all(client), others).default_backoff();
    pin_mut!(nodes, gpu_nodes, pods);
    let (mut of_nodes, mut of_gpu_nodes, mut of_pods) = (List::default(), List::default(), List::default());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = nodes.next() => {
                let set = |facts: &mut Facts, name: &str, node: Option<&Node>| facts.set_machine(name, node.map(facts::machine));
                of_nodes.take(event, |change| book.change(change), set, Facts::machine_names);
            }
            Some(event) = gpu_nodes.next() => {
                let set = |facts: &mut Facts, name: &str, node: Option<&GpuNode>| {
                    facts.set_devices(name, node.and_then(devices::devices))
                };
                // A Site whose nodes have other device plugins needs no such objects, nor an older agent's role the right.
                let event = match event {
                    Err(error) if is_absent(&error) => {
                        tracing::debug!(%error, "no GPUNodes here");
                        of_gpu_nodes.take(Ok(watcher::Event::Init), |change| book.change_devices(change), set, Facts::device_names);
                        Ok(watcher::Event::InitDone)
                    }
                    event => event,
                };
                of_gpu_nodes.take(event, |change| book.change_devices(change), set, Facts::device_names);
            }
            Some(event) = pods.next() => {
                let set = |facts: &mut Facts, key: &str, pod: Option<&Pod>| facts.set_pod(key, pod.and_then(facts::use_of));
                of_pods.take(event, |change| book.change(change), set, Facts::pod_keys);
            }
        }
        if of_nodes.complete && of_gpu_nodes.complete && of_pods.complete {
            book.set_listed();
            readiness.set(PART_INVENTORY, true);
        }
        metrics.nodes.set(i64::try_from(book.len()).unwrap_or(i64::MAX));
    }
}

/// The API server does not know the kind, or does not let it be read.
fn is_absent(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 403 | 404),
        _ => false,
    }
}

/// A list as it arrives, of objects by their key.
#[derive(Default)]
struct List {
    listed: BTreeSet<String>,
    /// It was complete once.
    complete: bool,
}

type Names = BTreeSet<String>;

impl List {
    /// `change` lets the facts be changed, `set` sets one object or that it is gone, `keys` are all that the facts know;
    /// each says which nodes became different.
    fn take<K: ResourceExt>(
        &mut self,
        event: Result<watcher::Event<K>, watcher::Error>,
        change: impl Fn(&mut dyn FnMut(&mut Facts) -> Names),
        set: impl Fn(&mut Facts, &str, Option<&K>) -> Names,
        keys: impl Fn(&Facts) -> Vec<String>,
    ) {
        match event {
            Ok(watcher::Event::Init) => self.listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                let key = key(&object);
                change(&mut |facts| set(facts, &key, Some(&object)));
                self.listed.insert(key);
            }
            Ok(watcher::Event::Apply(object)) => change(&mut |facts| set(facts, &key(&object), Some(&object))),
            Ok(watcher::Event::Delete(object)) => change(&mut |facts| set(facts, &key(&object), None)),
            Ok(watcher::Event::InitDone) => {
                change(&mut |facts| {
                    let gone = keys(facts).into_iter().filter(|key| !self.listed.contains(key));
                    gone.flat_map(|key| set(facts, &key, None)).collect()
                });
                self.listed.clear();
                self.complete = true;
            }
            Err(error) => {
                tracing::warn!(kind = std::any::type_name::<K>(), %error, "a watch failed; it goes on with a backoff");
            }
        }
    }
}

/// Name of an object, with its namespace where it has one.
fn key(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}
