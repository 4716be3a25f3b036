//! Writes statuses of slices and copies of nodes, each only where it differs from what the API holds.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::names::FIELD_MANAGER_GATEWAY;
use atoll_api::{Availability, ClusterSlice, ClusterSliceStatus, GpuNode};
use futures::FutureExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::cache::{Cache, Cached, key_of};
use super::coalesce::{Coalescer, Outcome};
use super::inventory::{NodeWrite, node_write};
use super::metrics::{Metrics, Written};
use super::reports;
use super::sites::Sites;

/// Writes in flight of each kind.
const SLICES_IN_FLIGHT: usize = 64;
const NODES_IN_FLIGHT: usize = 32;
const SITES_IN_FLIGHT: usize = 16;
/// How often a status is decided anew when somebody else's write came in between.
const CONFLICTS: usize = 8;

/// A status to be written.
#[derive(Clone, Debug)]
pub struct SliceNews {
    /// UID of the slice that was reported on; another one of the same name is left alone.
    pub uid: String,
    /// The status.
    pub status: Arc<ClusterSliceStatus>,
    /// When the report arrived.
    pub received: Instant,
}

/// Writes by key: "namespace/name" for slices, the hub's name for nodes and Sites.
pub struct Writer {
    /// Statuses of slices.
    pub slices: Arc<Coalescer<SliceNews>>,
    /// Copies of nodes; None: to be deleted.
    pub nodes: Arc<Coalescer<Option<Arc<GpuNode>>>>,
    /// What suppliers want, with the number of the session that says so; by name of the Site.
    pub availability: Arc<Coalescer<(i64, Availability)>>,
}

impl Writer {
    /// A writer that compares with these caches.
    pub fn new(
        client: &Client,
        slices: &Arc<Cache<ClusterSlice>>,
        nodes: &Arc<Cache<GpuNode>>,
        sites: &Sites,
        metrics: &Metrics,
    ) -> Self {
        let sites = sites.clone();
        let of_slices = Target { client: client.clone(), cache: Arc::clone(slices), metrics: metrics.clone() };
        let of_nodes = Target { client: client.clone(), cache: Arc::clone(nodes), metrics: metrics.clone() };
        Self {
            slices: Coalescer::new(SLICES_IN_FLIGHT, move |key, news| of_slices.clone().slice(key, news).boxed()),
            nodes: Coalescer::new(NODES_IN_FLIGHT, move |key, wanted| of_nodes.clone().node(key, wanted).boxed()),
            availability: Coalescer::new(SITES_IN_FLIGHT, move |name, wanted| {
                sites.clone().available(name, wanted).boxed()
            }),
        }
    }

    /// Writes what is pending, for at most `limit`.
    pub async fn close(&self, limit: Duration) {
        tokio::join!(self.slices.close(limit), self.nodes.close(limit), self.availability.close(limit));
    }
}

struct Target<K> {
    client: Client,
    cache: Arc<Cache<K>>,
    metrics: Metrics,
}

impl<K> Clone for Target<K> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), cache: Arc::clone(&self.cache), metrics: self.metrics.clone() }
    }
}

impl<K: Cached> Target<K> {
    /// Counts a write, takes in what it returned, and says what became of it.
    fn done(&self, kind: Written, key: &str, result: Result<Option<K>, kube::Error>) -> Outcome {
        self.metrics.write(kind, &result);
        match result {
            Ok(object) => {
                if let Some(object) = object {
                    self.cache.written(object);
                }
                Outcome::Written
            }
            // Gone, replaced by another of the same name, or not valid: writing it again would not help.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404 | 409 | 422) => {
                tracing::warn!(kind = ?kind, key, error = %status, "the API server refused a write");
                Outcome::Dropped
            }
            Err(error) => {
                tracing::warn!(kind = ?kind, key, %error, "write failed; trying again");
                Outcome::Retry
            }
        }
    }
}

impl Target<ClusterSlice> {
    /// Writes what a Site said, on the version of the slice that it is compared with.
    async fn slice(self, key: String, news: SliceNews) -> Outcome {
        let Some(mut current) = self.cache.get(&key) else { return Outcome::Dropped };
        let api: Api<ClusterSlice> =
            Api::namespaced(self.client.clone(), current.metadata.namespace.as_deref().unwrap_or_default());
        let name = current.name_any();
        for _ in 0..CONFLICTS {
            let status =
                reports::to_write(&current, &news.status).filter(|_| current.uid().as_ref() == Some(&news.uid));
            let Some(status) = status else { return Outcome::Dropped };
            let patch = json!({
                "apiVersion": ClusterSlice::api_version(&()),
                "kind": ClusterSlice::kind(&()),
                "metadata": { "name": name, "uid": news.uid, "resourceVersion": current.metadata.resource_version },
                "status": status,
            });
            let result = api.patch_status(&name, &apply(), &Patch::Apply(&patch)).await;
            if !matches!(&result, Err(kube::Error::Api(status)) if status.is_conflict()) {
                let outcome = self.done(Written::Slice, &key, result.map(Some));
                if outcome == Outcome::Written {
                    self.metrics.report_written(news.received.elapsed());
                }
                return outcome;
            }
            self.metrics.write(Written::Slice, &result);
            match api.get_opt(&name).await {
                Ok(Some(found)) => {
                    self.cache.written(found.clone());
                    current = Arc::new(found);
                }
                Ok(None) => return Outcome::Dropped,
                Err(error) => {
                    tracing::warn!(key, %error, "cannot read a slice; trying again");
                    return Outcome::Retry;
                }
            }
        }
        Outcome::Retry
    }
}

impl Target<GpuNode> {
    async fn node(self, key: String, wanted: Option<Arc<GpuNode>>) -> Outcome {
        let current = self.cache.get(&key);
        let api: Api<GpuNode> = Api::all(self.client.clone());
        let result = match node_write(current.as_deref(), wanted.as_deref()) {
            NodeWrite::Nothing => return Outcome::Dropped,
            NodeWrite::Delete => {
                let uid = current.as_ref().and_then(|node| node.uid());
                let params = DeleteParams::default().preconditions(Preconditions { uid, ..Preconditions::default() });
                match api.delete(&key, &params).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
                    Err(error) => Err(error),
                    Ok(_) => {
                        if let Some(current) = &current {
                            self.cache.deleted(current);
                        }
                        Ok(None)
                    }
                }
            }
            NodeWrite::Apply { spec, status } => match wanted.as_deref() {
                Some(wanted) => self.apply_node(&api, wanted, spec, status).await,
                None => return Outcome::Dropped,
            },
        };
        self.done(Written::Node, &key, result)
    }

    async fn apply_node(
        &self,
        api: &Api<GpuNode>,
        wanted: &GpuNode,
        spec: bool,
        status: bool,
    ) -> Result<Option<GpuNode>, kube::Error> {
        let name = key_of(wanted.meta());
        let mut written = None;
        if spec {
            let object = GpuNode { status: None, ..wanted.clone() };
            written = Some(api.patch(&name, &apply(), &Patch::Apply(&object)).await?);
        }
        if status {
            let patch = json!({
                "apiVersion": GpuNode::api_version(&()),
                "kind": GpuNode::kind(&()),
                "metadata": { "name": name },
                "status": wanted.status,
            });
            written = Some(api.patch_status(&name, &apply(), &Patch::Apply(&patch)).await?);
        }
        Ok(written)
    }
}

fn apply() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER_GATEWAY).force()
}
