//! The network as the operator sees it: everything that was read, in one inventory.

#[cfg(test)]
pub mod fixtures;

use std::collections::{BTreeMap, HashMap};

use atoll_api::{Cluster, ClusterSlice, GpuModel, GpuNode, Site};
use atoll_convert::{holdings, is_connected, model_facts, node_facts, site_facts, site_view};
use atoll_core::cluster::{SiteState, SiteView};
use atoll_core::inventory::Inventory;
use jiff::Timestamp;
use kube::ResourceExt;

use crate::fetch::Objects;

/// The network.
#[derive(Debug, Default)]
pub struct World {
    /// What there is and who holds it.
    pub inventory: Inventory,
    /// By name.
    pub clusters: BTreeMap<(String, String), Cluster>,
    /// By UID of their Cluster.
    pub slices: HashMap<String, Vec<ClusterSlice>>,
    /// What the user should know about what follows.
    pub notes: Vec<String>,
    /// Catalogue, Sites and nodes are not known, so nothing can be said about what fits.
    pub network_hidden: bool,
    sites: BTreeMap<String, Site>,
}

impl World {
    /// Puts together what was read. Objects that cannot be understood are left out and noted, as the operator does.
    pub fn new(objects: Objects) -> Self {
        let mut world = Self { network_hidden: objects.network_hidden, ..Self::default() };
        if objects.network_hidden {
            world.notes.push(
                "You may not read GPUModels, Sites and GPUNodes, so what would fit cannot be told here. The Cluster's own \
                 message is the operator's, who sees them all."
                    .to_owned(),
            );
        } else if objects.own_namespace_only {
            world.notes.push(
                "You may not read other namespaces' Clusters, so GPUs that these hold count as free here. The Cluster's \
                 own message is the operator's, who sees them all."
                    .to_owned(),
            );
        }
        for model in &objects.models {
            world.add_model(model);
        }
        for site in objects.sites {
            world.add_site(site);
        }
        for node in &objects.nodes {
            world.add_node(node);
        }
        for slice in objects.slices {
            world.slices.entry(slice.spec.cluster_uid.clone()).or_default().push(slice);
        }
        for cluster in objects.clusters {
            let key = (cluster.namespace().unwrap_or_default(), cluster.name_any());
            world.clusters.insert(key, cluster);
        }
        let by_uid: HashMap<String, &Cluster> =
            world.clusters.values().filter_map(|cluster| Some((cluster.uid()?, cluster))).collect();
        for (uid, cluster) in &by_uid {
            let slices = world.slices.get(uid).into_iter().flatten();
            world.inventory.set_holdings(uid, holdings(Some(cluster), slices));
        }
        for (uid, slices) in world.slices.iter().filter(|(uid, _)| !by_uid.contains_key(*uid)) {
            world.inventory.set_holdings(uid, holdings(None, slices));
        }
        world
    }

    /// What is known of a Site, as far as the Cluster with this UID is concerned.
    pub fn site_view(&self, name: &str, cluster: &str, now: Timestamp) -> SiteView {
        if self.network_hidden { SiteState::Live.into() } else { site_view(self.sites.get(name), cluster, now) }
    }

    /// Whether a Site has a live session.
    pub fn site_is_live(&self, name: &str) -> bool {
        self.network_hidden || self.sites.get(name).is_some_and(is_connected)
    }

    /// Slices of a Cluster.
    pub fn slices_of(&self, uid: &str) -> &[ClusterSlice] {
        self.slices.get(uid).map_or(&[], Vec::as_slice)
    }

    /// The name of a Site for people; its own name where it is not known.
    pub fn display<'a>(&'a self, site: &'a str) -> &'a str {
        self.inventory.site(site).map_or(site, |facts| &facts.display)
    }

    /// The region of a Site.
    pub fn region(&self, site: &str) -> Option<String> {
        self.inventory.site(site).map(|facts| facts.region.clone())
    }

    fn add_model(&mut self, model: &GpuModel) {
        match model_facts(model) {
            Ok(facts) => self.inventory.upsert_model(facts),
            Err(error) => self.notes.push(format!("GPUModel {} is left out: {error}.", model.name_any())),
        }
    }

    fn add_site(&mut self, site: Site) {
        match site_facts(&site) {
            Ok(facts) => self.inventory.upsert_site(facts),
            Err(error) => self.notes.push(format!("Site {} is left out: {error}.", site.name_any())),
        }
        self.sites.insert(site.name_any(), site);
    }

    fn add_node(&mut self, node: &GpuNode) {
        match node_facts(node) {
            Ok(facts) => self.inventory.upsert_node(facts),
            Err(error) => self.notes.push(format!("GPUNode {} is left out: {error}.", node.name_any())),
        }
    }
}
