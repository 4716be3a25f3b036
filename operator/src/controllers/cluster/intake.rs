//! What the watches bring, put where the engine looks: entries, Sites and the inventory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use atoll_api::{Cluster, ClusterSlice, GpuModel, GpuNode, Site, Supplier};
use atoll_convert::{model_facts, node_facts, site_facts};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;

use super::sites::Presence;
use super::state::{Now, State};
use crate::controllers::watch::{Change, Delta};

impl State {
    /// Puts a Site into the inventory as what it is now.
    pub(super) fn offer(&mut self, name: &str, presence: Presence) {
        let Some(site) = self.sites.get(name) else { return self.inventory.remove_site(name) };
        match site_facts(site) {
            Ok(mut facts) => {
                facts.open &= presence == Presence::Live;
                self.inventory.upsert_site(facts);
            }
            Err(error) => {
                tracing::warn!(site = name, %error, "a Site cannot be understood and is left out");
                self.inventory.remove_site(name);
            }
        }
    }

    pub(super) fn take(&mut self, change: Change, now: Now) {
        self.fences.look_again(now.boot);
        match change {
            Change::Cluster(delta) => self.take_cluster(delta),
            Change::Slice(delta) => self.take_slice(delta),
            Change::Site(delta) => self.take_site(delta, now),
            Change::Node(delta) => self.take_node(delta),
            Change::Model(delta) => self.take_model(delta),
            Change::Supplier(delta) => self.take_supplier(delta),
            Change::Lease(delta) => self.take_lease(delta, now),
        }
    }

    fn take_cluster(&mut self, delta: Delta<Cluster>) {
        match delta {
            Delta::Apply(cluster) => self.see_cluster(cluster),
            Delta::Delete(cluster) => {
                let uid = cluster.uid().unwrap_or_default();
                if let Some(entry) = self.entries.get_mut(&uid) {
                    entry.lose_cluster();
                    self.dirty.insert(uid);
                }
            }
            Delta::Replace(clusters) => {
                self.synced[0] = true;
                self.replace_clusters(clusters);
            }
        }
    }

    fn see_cluster(&mut self, cluster: Cluster) {
        let uid = cluster.uid().unwrap_or_default();
        self.entries.entry(uid.clone()).or_default().see_cluster(Arc::new(cluster));
        self.dirty.insert(uid);
    }

    pub(super) fn replace_clusters(&mut self, clusters: Vec<Cluster>) {
        let present: HashSet<String> = clusters.iter().filter_map(ResourceExt::uid).collect();
        for (uid, entry) in &mut self.entries {
            if !present.contains(uid) && entry.cluster.is_some() {
                entry.lose_cluster();
                self.dirty.insert(uid.clone());
            }
        }
        for cluster in clusters {
            self.see_cluster(cluster);
        }
    }

    fn take_slice(&mut self, delta: Delta<ClusterSlice>) {
        match delta {
            Delta::Apply(slice) => self.see_slice(slice),
            Delta::Delete(slice) => {
                if let Some(entry) = self.entries.get_mut(&slice.spec.cluster_uid) {
                    entry.lose_slice(&slice.name_any());
                    self.dirty.insert(slice.spec.cluster_uid);
                }
            }
            Delta::Replace(slices) => {
                self.synced[1] = true;
                self.replace_slices(slices);
            }
        }
    }

    fn see_slice(&mut self, slice: ClusterSlice) {
        let uid = slice.spec.cluster_uid.clone();
        self.entries.entry(uid.clone()).or_default().see_slice(Arc::new(slice));
        self.dirty.insert(uid);
    }

    pub(super) fn replace_slices(&mut self, slices: Vec<ClusterSlice>) {
        let mut present: HashMap<&str, HashSet<&str>> = HashMap::new();
        for slice in &slices {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            present.entry(&slice.spec.cluster_uid).or_default().insert(name);
        }
        let none = HashSet::new();
        for (uid, entry) in &mut self.entries {
            if !entry.slices.is_empty() || !entry.awaits_slices.is_empty() {
                entry.keep_slices(present.get(uid.as_str()).unwrap_or(&none));
                self.dirty.insert(uid.clone());
            }
        }
        for slice in slices {
            self.see_slice(slice);
        }
    }

    fn take_site(&mut self, delta: Delta<Site>, now: Now) {
        self.unshown = true;
        self.sites_changed = true;
        match delta {
            Delta::Apply(site) => self.see_site(site, false, now),
            Delta::Delete(site) => self.sites.remove(&site.name_any(), now.boot),
            Delta::Replace(sites) => {
                let first = !std::mem::replace(&mut self.synced[2], true);
                let present: HashSet<String> = sites.iter().map(ResourceExt::name_any).collect();
                let gone: Vec<String> =
                    self.sites.all().map(|(name, _)| name).filter(|name| !present.contains(*name)).cloned().collect();
                for name in gone {
                    self.sites.remove(&name, now.boot);
                }
                for site in sites {
                    self.see_site(site, first, now);
                }
            }
        }
    }

    /// The watch brought a Site, or a write of it was answered.
    pub(super) fn see_site(&mut self, site: Site, first: bool, now: Now) {
        let name = site.name_any();
        if self.sites.upsert(name.clone(), Arc::new(site), first, now) {
            self.sites_changed = true;
            // Whatever changed of it, the inventory is told; whether it lives, `follow_sites` sees.
            let presence = self.sites.presence(&name, now.boot);
            self.offer(&name, presence);
        }
    }

    fn take_node(&mut self, delta: Delta<GpuNode>) {
        self.unshown = true;
        match delta {
            Delta::Apply(node) => self.see_node(&node),
            Delta::Delete(node) => self.lose_node(&node.name_any()),
            Delta::Replace(nodes) => {
                self.synced[3] = true;
                let present: HashSet<String> = nodes.iter().map(ResourceExt::name_any).collect();
                let gone: Vec<String> = self.nodes.keys().filter(|name| !present.contains(*name)).cloned().collect();
                for name in gone {
                    self.lose_node(&name);
                }
                for node in &nodes {
                    self.see_node(node);
                }
            }
        }
    }

    fn see_node(&mut self, node: &GpuNode) {
        let name = node.name_any();
        match node_facts(node) {
            Ok(facts) => {
                let place = (facts.site.clone(), facts.node.clone());
                if self.nodes.get(&name).is_some_and(|known| *known != place) {
                    self.lose_node(&name);
                }
                self.capacity.insert(place.clone(), facts.allocatable);
                self.nodes.insert(name, place);
                self.inventory.upsert_node(facts);
            }
            Err(error) => {
                // The gateway makes the object before it writes its status.
                tracing::debug!(node = name, %error, "a node is left out");
                self.lose_node(&name);
            }
        }
    }

    fn lose_node(&mut self, name: &str) {
        if let Some(place) = self.nodes.remove(name) {
            self.inventory.remove_node(&place.0, &place.1);
            self.capacity.remove(&place);
        }
    }

    fn take_model(&mut self, delta: Delta<GpuModel>) {
        self.unshown = true;
        let (seen, gone) = taken(delta, &mut self.models, &mut self.synced[4]);
        for name in gone {
            self.inventory.remove_model(&name);
        }
        for model in seen {
            match model_facts(&model) {
                Ok(facts) => self.inventory.upsert_model(facts),
                Err(error) => tracing::warn!(model = model.name_any(), %error, "a model is left out"),
            }
        }
    }

    fn take_supplier(&mut self, delta: Delta<Supplier>) {
        self.unshown = true;
        taken(delta, &mut self.suppliers, &mut self.synced[5]);
    }

    fn take_lease(&mut self, delta: Delta<Lease>, now: Now) {
        self.sites_changed = true;
        match delta {
            Delta::Apply(lease) => self.sites.upsert_lease(&lease, now.boot),
            Delta::Delete(lease) => self.sites.remove_lease(&lease.name_any(), now.boot),
            Delta::Replace(leases) => {
                self.synced[6] = true;
                let present: HashSet<String> = leases.iter().map(ResourceExt::name_any).collect();
                let gone: Vec<String> = self.sites.leases().filter(|name| !present.contains(*name)).cloned().collect();
                for name in gone {
                    self.sites.remove_lease(&name, now.boot);
                }
                for lease in &leases {
                    self.sites.upsert_lease(lease, now.boot);
                }
            }
        }
    }
}

/// Keeps `known` in step with `delta`; returns what was seen and the names of what is gone.
fn taken<K: ResourceExt>(
    delta: Delta<K>,
    known: &mut HashMap<String, Arc<K>>,
    synced: &mut bool,
) -> (Vec<Arc<K>>, Vec<String>) {
    let (seen, gone) = match delta {
        Delta::Apply(object) => (vec![object], Vec::new()),
        Delta::Delete(object) => (Vec::new(), vec![object.name_any()]),
        Delta::Replace(objects) => {
            *synced = true;
            let present: HashSet<String> = objects.iter().map(ResourceExt::name_any).collect();
            let gone = known.keys().filter(|name| !present.contains(*name)).cloned().collect();
            (objects, gone)
        }
    };
    for name in &gone {
        known.remove(name);
    }
    let seen: Vec<Arc<K>> = seen.into_iter().map(Arc::new).collect();
    known.extend(seen.iter().map(|object| (object.name_any(), Arc::clone(object))));
    (seen, gone)
}
