//! Watches: one per kind, all into one channel, so that one task sees every change in an order that is true per kind.

use std::fmt::Debug;

use atoll_api::names::LABEL_SITE;
use atoll_api::{Cluster, ClusterSlice, GpuModel, GpuNode, Site, Supplier};
use atoll_runtime::readiness::Readiness;
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A change of one kind's objects.
#[derive(Clone, Debug)]
pub enum Delta<K> {
    /// Added or changed.
    Apply(K),
    /// Gone.
    Delete(K),
    /// These are all: at the start, and when the watch had to begin anew.
    Replace(Vec<K>),
}

/// A change of anything that is watched.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "each is moved once and then kept behind an Arc of its own")]
pub enum Change {
    /// A Cluster.
    Cluster(Delta<Cluster>),
    /// A slice.
    Slice(Delta<ClusterSlice>),
    /// A Site.
    Site(Delta<Site>),
    /// The hub's copy of a node.
    Node(Delta<GpuNode>),
    /// A catalogue entry.
    Model(Delta<GpuModel>),
    /// A supplier.
    Supplier(Delta<Supplier>),
    /// A Lease in the system namespace; the gateways' matter.
    Lease(Delta<Lease>),
}

/// The caches, by the names that readiness shows.
const CACHES: [&str; 7] = [
    "cache-clusters",
    "cache-clusterslices",
    "cache-sites",
    "cache-gpunodes",
    "cache-gpumodels",
    "cache-suppliers",
    "cache-leases",
];

/// Starts all watches. Their tasks end with `shutdown` or when nobody listens any more.
pub fn start(
    client: &Client,
    namespace: &str,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> (mpsc::Receiver<Change>, JoinSet<()>) {
    let (sender, receiver) = mpsc::channel(1_024);
    let mut tasks = JoinSet::new();
    for cache in CACHES {
        readiness.expect(cache);
    }
    let [clusters, slices, sites, nodes, models, suppliers, leases] = CACHES;
    let forward = Forward { sender, labels: "", readiness: readiness.clone(), shutdown: shutdown.clone() };
    tasks.spawn(forward.clone().run(Api::all(client.clone()), clusters, Change::Cluster));
    tasks.spawn(forward.clone().run(Api::all(client.clone()), slices, Change::Slice));
    tasks.spawn(forward.clone().run(Api::all(client.clone()), sites, Change::Site));
    // Where a Site shares the API server, its own nodes have no label.
    let copies = Forward { labels: LABEL_SITE, ..forward.clone() };
    tasks.spawn(copies.run(Api::all(client.clone()), nodes, Change::Node));
    tasks.spawn(forward.clone().run(Api::all(client.clone()), models, Change::Model));
    tasks.spawn(forward.clone().run(Api::all(client.clone()), suppliers, Change::Supplier));
    tasks.spawn(forward.run(Api::namespaced(client.clone(), namespace), leases, Change::Lease));
    (receiver, tasks)
}

#[derive(Clone)]
struct Forward {
    sender: mpsc::Sender<Change>,
    /// Selector of what is watched; empty: everything.
    labels: &'static str,
    readiness: Readiness,
    shutdown: CancellationToken,
}

impl Forward {
    async fn run<K>(self, api: Api<K>, cache: &'static str, change: fn(Delta<K>) -> Change)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        // A process without one of its watches would decide on what is no longer true: however this ends, it ends.
        let _end = self.shutdown.clone().drop_guard();
        let mut config = watcher::Config::default().streaming_lists();
        if !self.labels.is_empty() {
            config = config.labels(self.labels);
        }
        let mut events = Box::pin(watcher(api, config).default_backoff());
        let mut listed = Vec::new();
        loop {
            let event = tokio::select! {
                () = self.shutdown.cancelled() => return,
                event = events.next() => event,
            };
            let delta = match event {
                None => return,
                Some(Err(error)) => {
                    tracing::warn!(cache, %error, "watch failed, trying again");
                    continue;
                }
                Some(Ok(watcher::Event::Init)) => {
                    listed.clear();
                    continue;
                }
                Some(Ok(watcher::Event::InitApply(object))) => {
                    listed.push(object);
                    continue;
                }
                Some(Ok(watcher::Event::InitDone)) => Delta::Replace(std::mem::take(&mut listed)),
                Some(Ok(watcher::Event::Apply(object))) => Delta::Apply(object),
                Some(Ok(watcher::Event::Delete(object))) => Delta::Delete(object),
            };
            let complete = matches!(delta, Delta::Replace(_));
            if self.sender.send(change(delta)).await.is_err() {
                return;
            }
            if complete {
                self.readiness.set(cache, true);
            }
        }
    }
}
