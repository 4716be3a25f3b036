//! What GPUs there are and who holds them, in memory, kept up to date by changes.
//!
//! Things may arrive in any order: a node before its Site or its model, a holding before its node. Whatever is not
//! complete yet is accounted and not offered. A node that vanishes keeps its holdings for when it comes back.
//! All changes cost O(log n); nodes of a Site that are alike stand in one pool, by free GPUs, so that a decision
//! looks at pools and not at nodes.

mod facts;
mod node;
mod pool;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub use facts::{Holding, ModelFacts, NodeFacts, SiteFacts, Totals};
pub(crate) use node::PoolKey;
use node::{Node, Offer};
pub(crate) use pool::Pool;
pub use pool::Tally;
use slots::Slots;

/// A model that is in the catalogue, or that nodes name.
#[derive(Debug)]
pub(crate) struct ModelEntry {
    pub(crate) name: Arc<str>,
    pub(crate) facts: Option<ModelFacts>,
    /// Sites that have nodes of it.
    pub(crate) sites: BTreeSet<u32>,
}

/// A Site that is known, or that nodes or holdings name.
#[derive(Debug)]
pub(crate) struct SiteEntry {
    name: Arc<str>,
    pub(crate) facts: Option<SiteFacts>,
    nodes: BTreeMap<Arc<str>, Node>,
    pub(crate) pools: BTreeMap<PoolKey, Pool>,
    /// Names of blocked nodes.
    blocked: BTreeSet<Arc<str>>,
}

impl ModelEntry {
    fn new(name: &str) -> Self {
        Self { name: name.into(), facts: None, sites: BTreeSet::new() }
    }
}

impl SiteEntry {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            facts: None,
            nodes: BTreeMap::new(),
            pools: BTreeMap::new(),
            blocked: BTreeSet::new(),
        }
    }

    /// The pools of one model.
    pub(crate) fn pools_of(&self, model: u32) -> impl Iterator<Item = (&PoolKey, &Pool)> {
        let key = |memory_mib, price| PoolKey { model, memory_mib, price };
        self.pools.range(key(0, None)..).take_while(move |(key, _)| key.model == model)
    }
}

/// What GPUs there are and who holds them.
#[derive(Debug, Default)]
pub struct Inventory {
    models: Slots<ModelEntry>,
    sites: Slots<SiteEntry>,
    /// By Cluster UID; never empty lists.
    clusters: HashMap<String, Vec<Holding>>,
    /// How many members hold so many GPUs.
    sizes: BTreeMap<u32, u64>,
    overbooked: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Sites that have blocked nodes.
    blocked_sites: BTreeSet<u32>,
    revision: u64,
}

impl Inventory {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Grows with every change that could make something fit.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Adds or replaces a model.
    pub fn upsert_model(&mut self, facts: ModelFacts) {
        let id = self.models.intern(&facts.name, || ModelEntry::new(&facts.name));
        if let Some(model) = self.models.get_mut(id)
            && model.facts.as_ref() != Some(&facts)
        {
            model.facts = Some(facts);
            self.revision += 1;
        }
    }

    /// Removes a model; nodes that name it are not offered any more.
    pub fn remove_model(&mut self, name: &str) {
        if let Some(id) = self.models.id(name) {
            if let Some(model) = self.models.get_mut(id) {
                model.facts = None;
            }
            self.drop_model_if_nothing(id);
        }
    }

    /// Adds or replaces a Site.
    pub fn upsert_site(&mut self, facts: SiteFacts) {
        let id = self.sites.intern(&facts.name, || SiteEntry::new(&facts.name));
        if let Some(site) = self.sites.get_mut(id)
            && site.facts.as_ref() != Some(&facts)
        {
            site.facts = Some(facts);
            self.revision += 1;
        }
    }

    /// Removes a Site; its nodes are not offered any more, and their holdings stay.
    pub fn remove_site(&mut self, name: &str) {
        if let Some(id) = self.sites.id(name) {
            if let Some(site) = self.sites.get_mut(id) {
                site.facts = None;
            }
            self.drop_site_if_nothing(id);
        }
    }

    /// Adds or replaces a node. A change is news of its Site, so nothing of that Site stays blocked.
    pub fn upsert_node(&mut self, facts: NodeFacts) {
        let NodeFacts { site, node, model, memory_mib, allocatable, used_by_others, usable, price } = facts;
        let model = self.models.intern(&model, || ModelEntry::new(&model));
        let offer = Offer { key: PoolKey { model, memory_mib, price }, allocatable, used_by_others, usable };
        let site = self.sites.intern(&site, || SiteEntry::new(&site));
        let known = self.sites.get(site).and_then(|s| s.nodes.get(node.as_str())?.offer.as_ref());
        if known != Some(&offer) {
            self.unblock_site(site);
            self.change(site, &node, |node| node.offer = Some(offer));
        }
    }

    /// Removes a node. That is news of its Site, so nothing of that Site stays blocked. Its holdings stay.
    pub fn remove_node(&mut self, site: &str, node: &str) {
        let Some(id) = self.sites.id(site) else { return };
        if self.sites.get(id).is_some_and(|s| s.nodes.get(node).is_some_and(|n| n.offer.is_some())) {
            self.unblock_site(id);
            self.change(id, node, |node| node.offer = None);
            self.drop_site_if_nothing(id);
        }
    }

    /// Everything that a Cluster (by UID) holds, replacing what it held. A member that is named twice with the same
    /// incarnation on the same node, by the commit and by a slice, holds its GPUs once.
    pub fn set_holdings(&mut self, cluster: &str, mut holdings: Vec<Holding>) {
        holdings.sort();
        // Sorted by GPUs last: of twins the larger stays.
        holdings.reverse();
        holdings
            .dedup_by(|a, b| (a.rank, a.incarnation, &a.site, &a.node) == (b.rank, b.incarnation, &b.site, &b.node));
        holdings.reverse();
        let old = if holdings.is_empty() {
            self.clusters.remove(cluster)
        } else {
            self.clusters.insert(cluster.to_owned(), holdings.clone())
        }
        .unwrap_or_default();

        for h in &holdings {
            *self.sizes.entry(h.gpus).or_default() += 1;
        }
        for h in &old {
            if let Some(members) = self.sizes.get_mut(&h.gpus) {
                *members -= 1;
                if *members == 0 {
                    self.sizes.remove(&h.gpus);
                }
            }
        }

        // Only nodes with a net difference are touched: what is given and taken back at once makes no room.
        let mut by_node: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
        for h in &old {
            by_node.entry((&h.site, &h.node)).or_default().0 += u64::from(h.gpus);
        }
        for h in &holdings {
            by_node.entry((&h.site, &h.node)).or_default().1 += u64::from(h.gpus);
        }
        for ((site, node), (before, after)) in by_node {
            if before == after {
                continue;
            }
            let id = self.sites.intern(site, || SiteEntry::new(site));
            self.change(id, node, |node| {
                node.held = node.held - before + after;
                if after == 0 {
                    node.holders.remove(cluster);
                } else {
                    node.holders.insert(cluster.to_owned(), after);
                }
            });
            self.drop_site_if_nothing(id);
        }
    }

    /// What a Cluster (by UID) holds, by rank and incarnation.
    #[must_use]
    pub fn holdings(&self, cluster: &str) -> &[Holding] {
        self.clusters.get(cluster).map_or(&[], Vec::as_slice)
    }

    /// GPUs of a node that neither a Cluster holds nor others use; 0 when it is overbooked or not known.
    #[must_use]
    pub fn free(&self, site: &str, node: &str) -> u32 {
        self.node(site, node).map_or(0, Node::free)
    }

    /// Nodes, as (Site, node), of which Clusters hold more GPUs than they have: after the commits of two leaders, or
    /// when a GPU vanished. What others use does not count here.
    pub fn overbooked(&self) -> impl Iterator<Item = (&str, &str)> {
        self.overbooked.iter().map(|(site, node)| (&**site, &**node))
    }

    /// Who holds GPUs of a node: Cluster UID and holding, by UID, rank and incarnation.
    #[must_use]
    pub fn holders(&self, site: &str, node: &str) -> Vec<(&str, &Holding)> {
        let clusters = self.node(site, node).into_iter().flat_map(|n| n.holders.keys());
        clusters
            .flat_map(|uid| self.holdings(uid).iter().map(move |holding| (uid.as_str(), holding)))
            .filter(|(_, holding)| holding.site == site && holding.node == node)
            .collect()
    }

    /// A Site refused these nodes at `now` (any monotonic clock): nothing is placed on them until a node of that Site
    /// changes, or [`Inventory::clear_blocks_before`].
    pub fn block(&mut self, site: &str, nodes: &[String], now: Duration) {
        let Some(id) = self.sites.id(site) else { return };
        for name in nodes {
            let Some(key) = self.sites.get(id).and_then(|s| s.nodes.get_key_value(name.as_str())) else { continue };
            let key = Arc::clone(key.0);
            self.change(id, name, |node| node.blocked = Some(now));
            if let Some(site) = self.sites.get_mut(id) {
                site.blocked.insert(key);
                self.blocked_sites.insert(id);
            }
        }
    }

    /// Ends all blocks that were made before `time`, on the clock of [`Inventory::block`].
    pub fn clear_blocks_before(&mut self, time: Duration) {
        let old: Vec<(u32, Arc<str>)> = self
            .blocked_sites
            .iter()
            .filter_map(|id| Some((*id, self.sites.get(*id)?)))
            .flat_map(|(id, site)| site.blocked.iter().map(move |name| (id, site, name)))
            .filter(|(_, site, name)| site.nodes.get(*name).is_none_or(|n| n.blocked.is_none_or(|at| at < time)))
            .map(|(id, _, name)| (id, Arc::clone(name)))
            .collect();
        for (id, name) in old {
            self.unblock(id, &name);
        }
    }

    /// How many GPUs members hold, each number with how many members that is.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (u32, u64)> + Clone {
        self.sizes.iter().map(|(gpus, members)| (*gpus, *members))
    }

    /// What a Site has.
    #[must_use]
    pub fn site_totals(&self, site: &str) -> Totals {
        self.sites.by_name(site).map_or_else(Totals::default, |site| sum(site.pools.values(), true))
    }

    /// What there is of a model on all Sites; free only on open ones.
    #[must_use]
    pub fn model_totals(&self, model: &str) -> Totals {
        let mut totals = Totals::default();
        let Some(id) = self.models.id(model) else { return totals };
        let sites = self.models.get(id).into_iter().flat_map(|m| &m.sites);
        for site in sites.filter_map(|site| self.sites.get(*site)) {
            let open = site.facts.as_ref().is_some_and(|facts| facts.open);
            let here = sum(site.pools_of(id).map(|(_, pool)| pool), open);
            totals.nodes += here.nodes;
            totals.gpus += here.gpus;
            totals.free += here.free;
        }
        totals
    }

    /// What is known of a Site.
    #[must_use]
    pub fn site(&self, name: &str) -> Option<&SiteFacts> {
        self.sites.by_name(name)?.facts.as_ref()
    }

    /// What is known of a model.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&ModelFacts> {
        self.models.by_name(name)?.facts.as_ref()
    }

    /// The catalogue, in no order.
    pub fn models(&self) -> impl Iterator<Item = &ModelFacts> {
        self.models.iter().filter_map(|(_, model)| model.facts.as_ref())
    }

    pub(crate) fn model_entries(&self) -> &Slots<ModelEntry> {
        &self.models
    }

    pub(crate) fn site_entries(&self) -> &Slots<SiteEntry> {
        &self.sites
    }

    fn node(&self, site: &str, node: &str) -> Option<&Node> {
        self.sites.by_name(site)?.nodes.get(node)
    }

    /// The one way to change a node: takes it out of the indexes, changes it, and puts it back.
    fn change(&mut self, site_id: u32, name: &str, change: impl FnOnce(&mut Node)) {
        let Some(site) = self.sites.get_mut(site_id) else { return };
        let mut node = site.nodes.remove(name).unwrap_or_else(|| Node::new(name));
        let was_overbooked = node.overbooked();
        let before = node.chance();
        if let Some(offer) = &node.offer
            && let Some(pool) = site.pools.get_mut(&offer.key)
        {
            pool.take(&node, offer);
        }
        let old_key = node.offer.as_ref().map(|offer| offer.key);

        change(&mut node);

        if let Some(offer) = &node.offer {
            site.pools.entry(offer.key).or_default().add(&node, offer);
        }
        if node.overbooked() != was_overbooked {
            let key = (Arc::clone(&site.name), Arc::clone(&node.name));
            if was_overbooked {
                self.overbooked.remove(&key)
            } else {
                self.overbooked.insert(key)
            };
        }
        if let Some((key, free)) = node.chance()
            && before.is_none_or(|(old_key, old_free)| old_key != key || old_free < free)
        {
            self.revision += 1;
        }
        let new_key = node.offer.as_ref().map(|offer| offer.key);
        if !node.is_nothing() {
            site.nodes.insert(Arc::clone(&node.name), node);
        }
        for key in [old_key, new_key].into_iter().flatten() {
            self.index_model(site_id, key);
        }
    }

    /// Keeps pools without nodes away, and each model's list of Sites right.
    fn index_model(&mut self, site_id: u32, key: PoolKey) {
        let Some(site) = self.sites.get_mut(site_id) else { return };
        if site.pools.get(&key).is_some_and(|pool| pool.all.nodes == 0) {
            site.pools.remove(&key);
        }
        let has_model = site.pools_of(key.model).next().is_some();
        let Some(model) = self.models.get_mut(key.model) else { return };
        if has_model {
            model.sites.insert(site_id);
        } else {
            model.sites.remove(&site_id);
            self.drop_model_if_nothing(key.model);
        }
    }

    fn unblock_site(&mut self, id: u32) {
        if self.blocked_sites.contains(&id) {
            let names = self.sites.get(id).map(|site| site.blocked.clone()).unwrap_or_default();
            for name in names {
                self.unblock(id, &name);
            }
        }
    }

    fn unblock(&mut self, id: u32, name: &Arc<str>) {
        self.change(id, name, |node| node.blocked = None);
        if let Some(site) = self.sites.get_mut(id) {
            site.blocked.remove(name);
            if site.blocked.is_empty() {
                self.blocked_sites.remove(&id);
            }
        }
    }

    fn drop_model_if_nothing(&mut self, id: u32) {
        if let Some(model) = self.models.get(id)
            && model.facts.is_none()
            && model.sites.is_empty()
        {
            let name = Arc::clone(&model.name);
            self.models.remove(&name);
        }
    }

    fn drop_site_if_nothing(&mut self, id: u32) {
        if let Some(site) = self.sites.get(id)
            && site.facts.is_none()
            && site.nodes.is_empty()
        {
            let name = Arc::clone(&site.name);
            self.blocked_sites.remove(&id);
            self.sites.remove(&name);
        }
    }
}

fn sum<'a>(pools: impl Iterator<Item = &'a Pool>, count_free: bool) -> Totals {
    let mut totals = Totals::default();
    for pool in pools {
        totals.nodes += pool.all.nodes;
        totals.gpus += pool.all.gpus;
        totals.free += if count_free { pool.free } else { 0 };
    }
    totals
}
