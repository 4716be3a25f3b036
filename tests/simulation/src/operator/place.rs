//! Who holds which GPUs as an operator knows it, and where new members go.

use std::collections::{BTreeSet, HashMap};

use atoll_core::cluster::{Kind, Member, SiteState, Want};

use super::{node_name, number, site_name};
use crate::hub::Wants;
use crate::setup::{GPUS, NODES};
use crate::world::{Proc, World};

/// Who holds what on each node: (Cluster, rank, incarnation) by (Site, node).
type Holders = HashMap<(usize, usize), BTreeSet<(usize, u32, u64)>>;

impl World {
    fn holders(&self, o: usize) -> Holders {
        let operator = &self.operators[o];
        let mut held = Holders::new();
        let mut ended = BTreeSet::new();
        for slice in operator.cache.slices.values() {
            let (c, site) = slice.key;
            if slice.deleting && slice.status.as_ref().is_some_and(|status| status.stopped) {
                continue;
            }
            let reports = slice.status.as_ref().map(|status| &status.members);
            for member in &slice.spec.members {
                let key = (c, member.rank, member.incarnation);
                match reports.and_then(|reports| reports.get(&(member.rank, member.incarnation))) {
                    Some((state, _)) if state.ended() => drop(ended.insert(key)),
                    Some((_, Some(node))) => drop(held.entry((site, number(node))).or_default().insert(key)),
                    _ => drop(held.entry((site, number(&member.node))).or_default().insert(key)),
                }
            }
            for ((rank, incarnation), (state, node)) in reports.into_iter().flatten() {
                if let (false, Some(node)) = (state.ended(), node) {
                    held.entry((site, number(node))).or_default().insert((c, *rank, *incarnation));
                }
            }
        }
        for (c, cluster) in operator.cache.clusters.iter().enumerate() {
            let assumed = operator.assumed.get(&c).into_iter().flatten();
            for member in cluster.state.members.iter().chain(assumed) {
                let key = (c, member.rank, member.incarnation);
                if !held.values().any(|at| at.contains(&key)) {
                    held.entry((number(&member.site), number(&member.node))).or_default().insert(key);
                }
            }
        }
        held
    }

    fn delivered(&self, o: usize, c: usize, rank: u32, incarnation: u64) -> bool {
        let slices = self.operators[o].cache.slices.range((c, 0)..(c + 1, 0));
        slices.flat_map(|(_, slice)| &slice.spec.members).any(|m| (m.rank, m.incarnation) == (rank, incarnation))
    }

    /// Ranks of undelivered members on overbooked nodes, where others go before.
    pub(super) fn revoked(&self, o: usize, c: usize) -> BTreeSet<u32> {
        let mut revoked = BTreeSet::new();
        let cluster = &self.operators[o].cache.clusters[c];
        let undelivered: Vec<&Member> =
            cluster.state.members.iter().filter(|m| !self.delivered(o, c, m.rank, m.incarnation)).collect();
        if undelivered.is_empty() {
            return revoked;
        }
        let held = self.holders(o);
        for member in undelivered {
            let Some(at) = held.get(&(number(&member.site), number(&member.node))).filter(|at| at.len() > GPUS) else {
                continue;
            };
            let mut order: Vec<_> = at
                .iter()
                .map(|(c, rank, incarnation)| {
                    let term = self.operators[o].cache.clusters[*c].term;
                    (!self.delivered(o, *c, *rank, *incarnation), std::cmp::Reverse(term), *c, *rank, *incarnation)
                })
                .collect();
            order.sort_unstable();
            if !order.iter().take(GPUS).any(|(_, _, other, rank, _)| (*other, *rank) == (c, member.rank)) {
                revoked.insert(member.rank);
            }
        }
        revoked
    }

    /// Where new members go: gangs on one Site.
    pub(super) fn place(&mut self, o: usize, c: usize, keep: &[Member], want: &Want) -> Option<Vec<Member>> {
        let held = self.holders(o);
        let gang = self.setup.clusters[c].state.terms.kind != Kind::Pods;
        let sites = self.setup.sites.len();
        let first = self.rng.index(sites);
        let now = self.now;
        let mut free: Vec<(usize, usize)> = Vec::new();
        for site in (0..sites).map(|n| (n + first) % sites) {
            let object = &self.operators[o].cache.sites[site];
            let anchored = keep.first().filter(|_| gang).is_some_and(|anchor| number(&anchor.site) != site);
            if self.site_state(o, site) != SiteState::Live || object.wants != Wants::Accepting || anchored {
                continue;
            }
            for node in (0..NODES).filter(|node| object.ready[*node]) {
                if self.operators[o].blocked.get(&(site, node)).is_some_and(|until| *until > now) {
                    continue;
                }
                let taken = held.get(&(site, node)).map_or(0, BTreeSet::len);
                free.extend(std::iter::repeat_n((site, node), GPUS.saturating_sub(taken)));
            }
        }
        if gang {
            let only = free
                .iter()
                .map(|(site, _)| *site)
                .find(|site| free.iter().filter(|(other, _)| other == site).count() >= want.ranks.len())?;
            free.retain(|(site, _)| *site == only);
        }
        if free.len() < want.min_new as usize {
            // Blocks end by themselves.
            self.after(Proc::Operator(o), 5_000, move |world| world.pass_soon(o));
            return None;
        }
        let members = want.ranks.iter().zip(free);
        Some(
            members
                .map(|(rank, (site, node))| Member {
                    rank: *rank,
                    incarnation: 0,
                    site: site_name(site),
                    node: node_name(node),
                })
                .collect(),
        )
    }
}
