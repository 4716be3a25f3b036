//! Reads from the hub's API server.

use std::fmt::Debug;

use atoll_api::names::LABEL_SITE;
use atoll_api::{Cluster, ClusterSlice, GpuModel, GpuNode, Site};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Objects of one answer; hubs have many nodes.
const PAGE: u32 = 1000;

/// Everything that a decision depends on.
#[derive(Debug, Default)]
pub struct Objects {
    /// The catalogue.
    pub models: Vec<GpuModel>,
    /// All Sites.
    pub sites: Vec<Site>,
    /// The hub's copies of all nodes.
    pub nodes: Vec<GpuNode>,
    /// Clusters that may be read.
    pub clusters: Vec<Cluster>,
    /// Slices that may be read.
    pub slices: Vec<ClusterSlice>,
    /// Other namespaces may not be read.
    pub own_namespace_only: bool,
    /// Catalogue, Sites and nodes may not be read.
    pub network_hidden: bool,
}

/// Reads what a decision depends on, as far as the user may read it.
pub async fn objects(client: &Client, namespace: &str) -> Result<Objects, Error> {
    let (network, held) = tokio::try_join!(network(client), held(client, namespace))?;
    let (clusters, slices, own_namespace_only) = held;
    let network_hidden = network.is_none();
    let (models, sites, nodes) = network.unwrap_or_default();
    Ok(Objects { models, sites, nodes, clusters, slices, own_namespace_only, network_hidden })
}

/// Catalogue, Sites and nodes; None for who may not read one of them.
async fn network(client: &Client) -> kube::Result<Option<(Vec<GpuModel>, Vec<Site>, Vec<GpuNode>)>> {
    let read = tokio::try_join!(
        list(Api::all(client.clone())),
        list(Api::all(client.clone())),
        list(Api::all(client.clone())),
    );
    match read {
        Ok((models, sites, mut nodes)) => {
            // Where a Site shares the API server, its own nodes have no label.
            nodes.retain(|node: &GpuNode| node.labels().contains_key(LABEL_SITE));
            Ok(Some((models, sites, nodes)))
        }
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn held(client: &Client, namespace: &str) -> kube::Result<(Vec<Cluster>, Vec<ClusterSlice>, bool)> {
    let all =
        tokio::try_join!(list(Api::<Cluster>::all(client.clone())), list(Api::<ClusterSlice>::all(client.clone())));
    match all {
        Ok((clusters, slices)) => Ok((clusters, slices, false)),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            let (clusters, slices) = tokio::try_join!(
                list(Api::<Cluster>::namespaced(client.clone(), namespace)),
                list(Api::<ClusterSlice>::namespaced(client.clone(), namespace)),
            )?;
            Ok((clusters, slices, true))
        }
        Err(error) => Err(error),
    }
}

/// All objects of a kind, page by page.
pub async fn list<K>(api: Api<K>) -> kube::Result<Vec<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    let mut items = Vec::new();
    loop {
        let page = api.list(&params).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(items),
        }
    }
}
