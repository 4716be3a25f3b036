//! One pass over everything there is, for what a refusal or an explanation says.

use std::collections::BTreeMap;

use super::filter::{self, Failed, Filter, FilterCount};
use super::refusal::{Capacity, Place};
use super::request::Request;
use crate::inventory::{Inventory, Pool, Tally};
use crate::units::MicroUsd;
use crate::words::{Span, Trust};

/// Room for members in one pool, with the filters that the pool fails.
pub(super) struct Near<'a> {
    pub(super) failed: Failed,
    pub(super) site: &'a str,
    pub(super) region: &'a str,
    pub(super) supplier: &'a str,
    pub(super) trust: Trust,
    pub(super) model: &'a str,
    pub(super) price: MicroUsd,
    pub(super) members: u64,
}

pub(super) struct Survey<'a> {
    /// Every filter, in order.
    pub(super) filters: Vec<FilterCount>,
    pub(super) capacity: Capacity,
    pub(super) near: Vec<Near<'a>>,
    /// Some of the Cluster's members run where they are, and with them all of its spec that says where.
    pub(super) placed: bool,
}

pub(super) fn survey<'a>(inventory: &'a Inventory, request: &Request) -> Survey<'a> {
    let mut counts = [Tally::default(); Filter::ALL.len()];
    let mut capacity = Capacity::default();
    let mut near = Vec::new();
    let mut rooms: BTreeMap<&str, Place> = BTreeMap::new();

    for (_, site) in inventory.site_entries().iter() {
        let of_site = filter::site(request, site.facts.as_ref());
        for (key, pool) in &site.pools {
            let model = inventory.model_entries().get(key.model).and_then(|model| model.facts.as_ref());
            let of_pool = model.map_or_else(Failed::default, |facts| filter::pool(request, key, facts));
            let failed = of_site.and(of_pool).and(filter::model(request, model));
            count(&mut counts, failed, pool);
            if failed.first().is_none_or(|first| first >= Filter::Usable) {
                capacity.exist += pool.all.gpus;
            }
            let (Some(model), Some(facts)) = (model, &site.facts) else { continue };
            if failed.none() {
                let free = pool.offered_gpus();
                capacity.free += free;
                capacity.largest_node = capacity.largest_node.max(pool.largest_node());
                let place = match request.span {
                    Span::Any => None,
                    Span::Site => Some((facts.name.as_str(), Some(facts.name.clone()))),
                    Span::Region => Some((facts.region.as_str(), None)),
                };
                if let Some((name, site)) = place {
                    let place = || Place { site, region: facts.region.clone(), gpus: 0 };
                    rooms.entry(name).or_insert_with(place).gpus += free;
                }
            }
            let members = pool.members(request.gpus());
            if members > 0 {
                near.push(Near {
                    failed,
                    site: &facts.name,
                    region: &facts.region,
                    supplier: &facts.supplier,
                    trust: facts.trust,
                    model: &model.name,
                    price: filter::price(key, model),
                    members,
                });
            }
        }
    }
    // Of equals the first by name, which max_by_key would not give.
    capacity.largest = rooms.into_values().rev().max_by_key(|place| place.gpus);
    let filters =
        Filter::ALL.into_iter().zip(counts).map(|(filter, excluded)| FilterCount { filter, excluded }).collect();
    let holds_more =
        || inventory.holdings(&request.cluster).iter().any(|h| request.ranks.binary_search(&h.rank).is_err());
    let placed = request.anchored_site.is_some() || request.anchored_region.is_some() || holds_more();
    Survey { filters, capacity, near, placed }
}

/// Counts each node of a pool for the first filter that it fails.
fn count(counts: &mut [Tally], failed: Failed, pool: &Pool) {
    let first = failed.first();
    if let Some(first) = first.filter(|first| *first < Filter::Usable) {
        counts[first as usize] += pool.all;
        return;
    }
    counts[Filter::Usable as usize] += pool.unusable;
    if let Some(first) = first {
        counts[first as usize] +=
            Tally { nodes: pool.all.nodes - pool.unusable.nodes, gpus: pool.all.gpus - pool.unusable.gpus };
    } else {
        counts[Filter::Refused as usize] += pool.blocked;
    }
}
