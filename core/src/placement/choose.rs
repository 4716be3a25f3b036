//! The choice among what the filters leave.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::decision::{Decision, NodeShare, SiteShare};
use super::filter;
use super::request::Request;
use crate::inventory::{Inventory, Pool};
use crate::packing::{WHOLE, Wide};
use crate::units::MicroUsd;
use crate::words::Span;

/// A pool that admits members.
struct Lot<'a> {
    price: MicroUsd,
    model: &'a str,
    memory_mib: u64,
    members: u64,
    pool: &'a Pool,
}

/// A Site that admits members.
struct Candidate<'a> {
    name: &'a str,
    region: &'a str,
    /// Cheapest first.
    lots: Vec<Lot<'a>>,
    /// Sum over `lots`.
    members: u64,
}

impl Candidate<'_> {
    /// Price of the cheapest so many members, in millionths of USDC per hour for one GPU of each.
    fn cost(&self, members: u64) -> u128 {
        let mut left = members;
        let mut cost = 0;
        for lot in &self.lots {
            let taken = lot.members.min(left);
            cost += u128::from(taken) * u128::from(lot.price.0);
            left -= taken;
        }
        cost
    }
}

/// Some Sites with the members that each takes.
struct Chosen {
    sites: Vec<(usize, u64)>,
    cost: u128,
}

/// None where fewer than needed fit.
pub(super) fn choose(inventory: &Inventory, request: &Request) -> Option<Decision> {
    let candidates = candidates(inventory, request);
    let all: Vec<usize> = (0..candidates.len()).collect();
    let sum = |of: &[usize]| of.iter().map(|i| candidates[*i].members).sum::<u64>();
    let chosen = match request.span {
        Span::Any => {
            let count = sum(&all).min(request.want());
            (count >= request.need()).then(|| pick(&candidates, &all, count))?
        }
        Span::Site => {
            let count = candidates.iter().map(|c| c.members).max()?.min(request.want());
            (count >= request.need()).then(|| pick(&candidates, &all, count))?
        }
        Span::Region => {
            let mut regions: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for i in all {
                regions.entry(candidates[i].region).or_default().push(i);
            }
            let count = regions.values().map(|of| sum(of)).max()?.min(request.want());
            if count < request.need() {
                return None;
            }
            regions
                .values()
                .filter(|of| sum(of) >= count)
                .map(|of| pick(&candidates, of, count))
                .min_by_key(|chosen| (chosen.sites.len(), chosen.cost))?
        }
    };
    let sizes = inventory.sizes().map(|(gpus, members)| (gpus, i64::from(gpus) * i64::from(WHOLE), members));
    Some(assign(&candidates, &chosen, request, &Wide::new(sizes)))
}

/// The Sites that admit at least one member.
fn candidates<'a>(inventory: &'a Inventory, request: &Request) -> Vec<Candidate<'a>> {
    let mut lots: Vec<(u32, Lot<'a>)> = Vec::new();
    for (model_id, model) in inventory.model_entries().iter() {
        let Some(facts) = model.facts.as_ref().filter(|facts| filter::model(request, Some(facts)).none()) else {
            continue;
        };
        for site_id in &model.sites {
            let Some(site) = inventory.site_entries().get(*site_id) else { continue };
            if !filter::site(request, site.facts.as_ref()).none() {
                continue;
            }
            for (key, pool) in site.pools_of(model_id) {
                let members = pool.members(request.gpus());
                if members > 0 && filter::pool(request, key, facts).none() {
                    let price = filter::price(key, facts);
                    lots.push((*site_id, Lot { price, model: &facts.name, memory_mib: key.memory_mib, members, pool }));
                }
            }
        }
    }
    lots.sort_by_key(|(site, lot)| (*site, lot.price, lot.model, lot.memory_mib));

    let mut candidates: Vec<Candidate<'a>> = Vec::new();
    let mut last = None;
    for (site_id, lot) in lots {
        if last == Some(site_id)
            && let Some(candidate) = candidates.last_mut()
        {
            candidate.members += lot.members;
            candidate.lots.push(lot);
        } else if let Some(site) = inventory.site_entries().get(site_id).and_then(|site| site.facts.as_ref()) {
            last = Some(site_id);
            let (name, region) = (site.name.as_str(), site.region.as_str());
            candidates.push(Candidate { name, region, members: lot.members, lots: vec![lot] });
        }
    }
    candidates
}

/// The fewest of these Sites that together take `count` members, which they do.
///
/// Which of them is a knapsack; this takes the cheapest first among those that still allow the fewest, and of the last
/// one the exact best. With one Site, the usual case, it is exact.
fn pick(candidates: &[Candidate<'_>], of: &[usize], count: u64) -> Chosen {
    let mut sizes = Sizes::default();
    for i in of {
        sizes.add(candidates[*i].members);
    }
    let mut left = count;
    let mut sites_left = sizes.fewest(count);
    let mut taken = Vec::new();
    let mut rest: Vec<usize> = of.to_vec();
    if sites_left > 1 {
        rest.sort_by(|a, b| by_value(&candidates[*a], &candidates[*b], count));
        let mut skipped = Vec::new();
        for i in std::mem::take(&mut rest) {
            let members = candidates[i].members;
            sizes.take(members);
            // A Site that does not allow the fewest now never does later, so one pass is enough.
            if sites_left > 1 && members + sizes.largest(sites_left - 1) >= left {
                taken.push((i, members));
                left -= members;
                sites_left -= 1;
            } else {
                sizes.add(members);
                skipped.push(i);
            }
        }
        rest = skipped;
    }
    let last = rest
        .into_iter()
        .filter(|i| candidates[*i].members >= left)
        .min_by_key(|i| (candidates[*i].cost(left), candidates[*i].members, candidates[*i].name));
    taken.extend(last.map(|i| (i, left)));
    let cost = taken.iter().map(|(i, members)| candidates[*i].cost(*members)).sum();
    Chosen { sites: taken, cost }
}

/// Lower price for as many of `count` members as the Site takes, then larger, then by name.
fn by_value(a: &Candidate<'_>, b: &Candidate<'_>, count: u64) -> Ordering {
    let (a_takes, b_takes) = (a.members.min(count), b.members.min(count));
    let a_price = a.cost(a_takes) * u128::from(b_takes);
    let b_price = b.cost(b_takes) * u128::from(a_takes);
    a_price.cmp(&b_price).then_with(|| (Reverse(a.members), a.name).cmp(&(Reverse(b.members), b.name)))
}

/// How many Sites there are of each size, in members.
#[derive(Default)]
struct Sizes(BTreeMap<u64, u64>);

impl Sizes {
    fn add(&mut self, size: u64) {
        *self.0.entry(size).or_default() += 1;
    }

    fn take(&mut self, size: u64) {
        if let Some(sites) = self.0.get_mut(&size) {
            *sites -= 1;
            if *sites == 0 {
                self.0.remove(&size);
            }
        }
    }

    /// The fewest Sites that take `count` members; all if they do not.
    fn fewest(&self, count: u64) -> u64 {
        let mut left = count;
        let mut fewest = 0;
        for (size, sites) in self.0.iter().rev() {
            let taken = left.div_ceil(*size).min(*sites);
            fewest += taken;
            left = left.saturating_sub(taken * size);
        }
        fewest
    }

    /// Members that the largest so many Sites take.
    fn largest(&self, sites: u64) -> u64 {
        let mut left = sites;
        let mut members = 0;
        for (size, sites) in self.0.iter().rev() {
            let taken = left.min(*sites);
            members += taken * size;
            left -= taken;
        }
        members
    }
}

/// Ranks to the chosen Sites' nodes, ascending.
fn assign(candidates: &[Candidate<'_>], chosen: &Chosen, request: &Request, wide: &Wide<u32>) -> Decision {
    let mut ranks = request.ranks.iter().copied();
    let mut sites = Vec::with_capacity(chosen.sites.len());
    for (i, members) in &chosen.sites {
        let mut share = SiteShare { site: candidates[*i].name.to_owned(), price: MicroUsd(0), nodes: Vec::new() };
        let mut left = *members;
        for lot in &candidates[*i].lots {
            if left == 0 {
                break;
            }
            // Lots are in order of price.
            share.price = lot.price;
            for (node, count) in fill(lot.pool, left, request.gpus(), wide) {
                left -= u64::from(count);
                push_runs(&mut share.nodes, node, (&mut ranks).take(count as usize));
            }
        }
        sites.push(share);
    }
    Decision { sites }
}

fn push_runs(nodes: &mut Vec<NodeShare>, node: &str, ranks: impl Iterator<Item = u32>) {
    let first = nodes.len();
    for rank in ranks {
        match nodes[first..].last_mut() {
            Some(run) if run.first_rank + run.count == rank => run.count += 1,
            _ => nodes.push(NodeShare { node: node.to_owned(), first_rank: rank, count: 1 }),
        }
    }
}

/// Nodes of a pool for so many members, or as many as it takes, with the members of each.
///
/// Next comes the node where each member takes the least from members of several GPUs as they hold GPUs now: what a
/// Site's scheduler would choose for one member. Of equal ones it is the node that is left with the fewest free GPUs, of
/// these the one with the fewest now, so that nodes get full and whole nodes stay whole.
fn fill<'a>(pool: &'a Pool, members: u64, gpus: u32, wide: &Wide<u32>) -> Vec<(&'a Arc<str>, u32)> {
    let worth = |free: u32| wide.worth(|size| i64::from(free / size));
    let mut shelves: Vec<(u32, _)> = pool.offered.range(gpus..).map(|(free, names)| (*free, names.iter())).collect();
    let mut left = members;
    let mut filled = Vec::new();
    while left > 0 {
        let takes = |free: u32| (free / gpus).min(u32::try_from(left).unwrap_or(u32::MAX));
        let best = shelves.iter_mut().filter(|(_, names)| names.len() > 0).min_by_key(|(free, _)| {
            let (free, takes) = (*free, takes(*free));
            let after = free - takes * gpus;
            ((worth(free) - worth(after)) / i64::from(takes), after, free)
        });
        let Some((free, names)) = best else { break };
        let takes = takes(*free);
        // As long as nodes of this shelf are filled whole, they are taken together.
        let nodes = usize::try_from(left / u64::from(takes)).unwrap_or(usize::MAX);
        for name in names.take(nodes) {
            filled.push((name, takes));
            left -= u64::from(takes);
        }
    }
    filled
}
