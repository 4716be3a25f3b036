//! The hub's API, an operator that forgets everything between two decisions, and naive Sites.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::op::{Op, SITES};
use crate::cluster::*;

const NODES: u32 = 4;
const GPUS_PER_NODE: usize = 2;
const KILL: Millis = 90_000;
const FENCE: Millis = 120_000;

fn site_of(name: &str) -> usize {
    SITES.iter().position(|site| *site == name).unwrap()
}

/// A slice as the hub's API holds it.
#[derive(Clone, Debug)]
struct Held {
    slice: Slice,
    generation: u64,
}

/// A Site as the hub's API holds it.
#[derive(Clone, Copy, Debug, Default)]
struct HubSite {
    version: u64,
    lost_at: Option<Millis>,
    fenced: Option<u64>,
    draining: bool,
}

#[derive(Clone, Debug, Default)]
struct Place {
    cut_at: Option<Millis>,
    told: BTreeMap<u32, Held>,
    held: BTreeSet<(u32, u64)>,
    refused: BTreeSet<(u32, u64)>,
    running: BTreeMap<(u32, u64), (String, MemberState)>,
    refuses: bool,
    synced: bool,
}

impl Place {
    fn live(&self) -> impl Iterator<Item = &(u32, u64)> {
        self.running.iter().filter(|(_, (_, state))| !state.ended()).map(|(key, _)| key)
    }
}

pub(super) struct World {
    pub(super) cluster: Cluster,
    version: u64,
    slices: BTreeMap<(usize, u32), Held>,
    seen_cluster: (Cluster, u64),
    seen_slices: BTreeMap<(usize, u32), Held>,
    sites: Vec<Place>,
    hub_sites: Vec<HubSite>,
    seen_sites: Vec<HubSite>,
    frozen: bool,
    stopped: BTreeSet<(u32, u64)>,
    /// By epoch: the members that it placed, with their Sites.
    groups: BTreeMap<u64, BTreeSet<(usize, u32)>>,
    /// Members whose capacity a Site has held.
    reserved: BTreeSet<(u32, u64)>,
    now: Millis,
    turn: usize,
}

impl World {
    pub(super) fn new(kind: Kind, policy: Policy, count: u32) -> Self {
        let terms =
            Terms { kind, count, min: count, backoff_limit: 4, duration: None, ttl: None, suspend: false, policy };
        let cluster = Cluster {
            terms,
            deleting: false,
            epoch: 0,
            members: Vec::new(),
            failures: 0,
            started_at: None,
            finished_at: None,
        };
        Self {
            seen_cluster: (cluster.clone(), 0),
            cluster,
            version: 0,
            slices: BTreeMap::new(),
            seen_slices: BTreeMap::new(),
            sites: vec![Place::default(); SITES.len()],
            hub_sites: vec![HubSite::default(); SITES.len()],
            seen_sites: vec![HubSite::default(); SITES.len()],
            frozen: false,
            stopped: BTreeSet::new(),
            groups: BTreeMap::new(),
            reserved: BTreeSet::new(),
            now: 0,
            turn: 0,
        }
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Operate => {
                self.watch_all();
                // A commit first; what follows from it is decided anew.
                self.decide(100, true);
                self.decide(100, true);
            }
            Op::Silence => {
                for site in 0..SITES.len() {
                    self.deliver(site);
                    self.act(site);
                }
            }
            Op::Flow => {
                self.watch_all();
                self.decide(100, true);
                for site in 0..SITES.len() {
                    for op in [Op::Deliver(site), Op::Act(site), Op::Report(site)] {
                        self.apply(&op);
                    }
                }
            }
            Op::Watch(site) if site == SITES.len() => self.watch_cluster(),
            Op::Watch(site) => self.watch(site),
            Op::See(site) => self.see(site),
            Op::Decide { writes, commits } => self.decide(writes, commits),
            Op::Deliver(site) => self.deliver(site),
            Op::Act(site) => self.act(site),
            Op::Report(site) => self.report(site),
            Op::Ends(n, state) => {
                let live: Vec<_> = (0..SITES.len())
                    .flat_map(|site| self.sites[site].live().map(move |key| (site, *key)).collect::<Vec<_>>())
                    .collect();
                if let Some((site, key)) = live.get(n % live.len().max(1)) {
                    self.end(*site, *key, state);
                }
            }
            Op::Cut(site) => {
                let now = self.now;
                if self.sites[site].cut_at.is_none() {
                    self.sites[site].cut_at = Some(now);
                    self.edit_site(site, |hub| hub.lost_at = Some(now));
                }
            }
            Op::Return(site) => {
                // In a new session nothing starts before the hub has listed everything.
                if self.sites[site].cut_at.take().is_some() {
                    self.sites[site].synced = false;
                    self.edit_site(site, |hub| hub.lost_at = None);
                }
            }
            Op::Advance(by) => {
                self.now += by;
                for site in 0..SITES.len() {
                    let autonomous = self.cluster.terms.policy == Policy::Autonomous;
                    if !autonomous && self.sites[site].cut_at.is_some_and(|cut| self.now >= cut + KILL) {
                        for key in self.sites[site].live().copied().collect::<Vec<_>>() {
                            self.end(site, key, MemberState::Expired);
                        }
                        self.sites[site].held.clear();
                    }
                }
            }
            Op::Refuse(site) => self.sites[site].refuses = true,
            Op::Drain(site, on) => self.edit_site(site, |hub| hub.draining = on),
            Op::Freeze(on) => self.frozen = on,
            Op::Count(count) => self.edit(|cluster| {
                cluster.terms.count = count;
                cluster.terms.min = count;
            }),
            Op::Suspend(suspend) => self.edit(|cluster| cluster.terms.suspend = suspend),
            Op::Delete => self.edit(|cluster| cluster.deleting = true),
        }
    }

    fn edit(&mut self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster);
        self.version += 1;
    }

    fn edit_site(&mut self, site: usize, change: impl FnOnce(&mut HubSite)) {
        change(&mut self.hub_sites[site]);
        self.hub_sites[site].version += 1;
    }

    fn end(&mut self, site: usize, key: (u32, u64), state: MemberState) {
        self.stopped.insert(key);
        if let Some((_, known)) = self.sites[site].running.get_mut(&key) {
            *known = state;
        }
    }

    fn watch_all(&mut self) {
        (0..SITES.len()).for_each(|site| {
            self.watch(site);
            self.see(site);
        });
        self.watch_cluster();
    }

    fn watch_cluster(&mut self) {
        self.seen_cluster = (self.cluster.clone(), self.version);
    }

    fn watch(&mut self, site: usize) {
        self.seen_slices.retain(|key, _| key.0 != site);
        let now = self.slices.iter().filter(|(key, _)| key.0 == site).map(|(key, held)| (*key, held.clone()));
        self.seen_slices.extend(now.collect::<Vec<_>>());
    }

    fn see(&mut self, site: usize) {
        self.seen_sites[site] = self.hub_sites[site];
    }

    /// A Site as the operator has seen it.
    fn view(&self, name: &str) -> SiteView {
        let seen = self.seen_sites[site_of(name)];
        let state = seen.lost_at.map_or(SiteState::Live, |at| SiteState::Lost { ago: self.now - at });
        SiteView { state, fenced: seen.fenced.unwrap_or(0), draining: seen.draining, frozen: self.frozen }
    }

    /// A write of the Site as it was seen; a conflict brings the present one. What is written is read back.
    fn write_site(&mut self, site: usize, change: impl FnOnce(&mut HubSite)) {
        if self.seen_sites[site].version == self.hub_sites[site].version {
            self.edit_site(site, change);
        }
        self.see(site);
    }

    fn fences(&mut self, step: &Step, cluster: &Cluster, slices: &[Slice]) {
        for Fencing { site, epoch } in &step.fence {
            self.write_site(site_of(site), |hub| hub.fenced = hub.fenced.max(Some(*epoch)));
        }
        for (site, name) in SITES.iter().enumerate() {
            let over = |epoch| fence_is_over(name, epoch, cluster, slices);
            if self.seen_sites[site].fenced.is_some_and(over) {
                self.write_site(site, |hub| hub.fenced = None);
            }
        }
    }

    fn decide(&mut self, writes: usize, commits: bool) {
        let (cluster, version) = self.seen_cluster.clone();
        let slices: Vec<Slice> = self.seen_slices.values().map(|held| held.slice.clone()).collect();
        let mut step = next(&cluster, &slices, &|site| self.view(site), &BTreeSet::new(), self.now);
        if writes > 0 {
            self.fences(&step, &cluster, &slices);
        }
        let mut placed = step.want.as_ref().and_then(|want| self.place(&cluster, &step.keep, want, &slices));
        if !step.recommits() && placed.is_none() {
            let drain = step.drain.clone();
            placed = drain.and_then(|drain| self.place(&cluster, &drain.keep, &drain.want, &slices));
            if let Some(placed) = &placed {
                step.drained(&placed.iter().map(|member| member.rank).collect());
            }
        }
        if step.recommits() || placed.is_some() {
            if version != self.version {
                // A conflict: what was seen is read again.
                self.watch_cluster();
                return;
            }
            if !commits {
                return;
            }
            let epoch = cluster.epoch.max(step.adopt.unwrap_or(0)) + 1;
            let mut members = step.keep.clone();
            members.extend(placed.into_iter().flatten().map(|member| Member { incarnation: epoch, ..member }));
            members.sort();
            let ranks: BTreeSet<u32> = members.iter().map(|member| member.rank).collect();
            assert_eq!(ranks.len(), members.len(), "a rank is placed twice");
            let new = members.iter().filter(|member| member.incarnation == epoch);
            self.groups.insert(epoch, new.map(|member| (site_of(&member.site), member.rank)).collect());
            self.cluster.members = members;
            self.cluster.epoch = epoch;
            self.cluster.failures = step.failures;
            if step.end.is_some() {
                self.cluster.finished_at = Some(self.now);
                self.cluster.members.clear();
            }
            self.version += 1;
            self.watch_cluster();
            return;
        }
        // Slices follow a commit that was read back.
        if version == self.version {
            for action in step.slices.into_iter().take(writes) {
                self.write(action);
            }
        }
    }

    fn place(&mut self, cluster: &Cluster, keep: &[Member], want: &Want, slices: &[Slice]) -> Option<Vec<Member>> {
        let mut used: HashMap<(String, String), usize> = HashMap::new();
        let mut counted = BTreeSet::new();
        for slice in slices {
            for member in &slice.members {
                let key = (member.rank, member.incarnation);
                if slice.reports.get(&key).is_none_or(|state| !state.ended()) && counted.insert(key) {
                    *used.entry((slice.site.clone(), member.node.clone())).or_default() += 1;
                }
            }
        }
        for member in keep.iter().filter(|member| !counted.contains(&(member.rank, member.incarnation))) {
            *used.entry((member.site.clone(), member.node.clone())).or_default() += 1;
        }
        self.turn += 1;
        let gang = cluster.terms.kind != Kind::Pods;
        let mut sites: Vec<&str> = (0..SITES.len()).map(|n| SITES[(n + self.turn) % SITES.len()]).collect();
        sites.retain(|site| self.view(site).state == SiteState::Live && !self.view(site).draining);
        if let Some(anchor) = keep.first().filter(|_| gang) {
            sites.retain(|site| *site == anchor.site);
        }
        let mut free: Vec<(String, String)> = Vec::new();
        for n in 0..NODES {
            for site in &sites {
                let place = ((*site).to_owned(), format!("n{n}"));
                let taken = used.get(&place).copied().unwrap_or(0);
                free.extend(std::iter::repeat_n(place, GPUS_PER_NODE.saturating_sub(taken)));
            }
        }
        if gang {
            let only = sites.iter().find(|site| free.iter().filter(|f| f.0 == **site).count() >= want.ranks.len())?;
            free.retain(|place| place.0 == **only);
        }
        (free.len() >= want.min_new as usize).then(|| {
            let pairs = want.ranks.iter().zip(free);
            pairs.map(|(rank, (site, node))| Member { rank: *rank, incarnation: 0, site, node }).collect()
        })
    }

    fn write(&mut self, action: SliceAction) {
        match action {
            SliceAction::Apply { site, index, epoch, phase, members } => {
                let key = (site_of(&site), index);
                let known = self.slices.get(&key);
                assert!(known.is_none_or(|held| held.slice.epoch <= epoch), "a slice's epoch went back");
                assert!(known.is_none_or(|held| !held.slice.deleting()), "a slice that is going was written");
                let generation = known.map_or(1, |held| held.generation + 1);
                let status = known.map(|held| (held.slice.reports.clone(), held.slice.epoch, held.slice.reservation));
                let (reports, observed_epoch, reservation) =
                    status.unwrap_or((HashMap::new(), 0, Reservation::Pending));
                let slice = Slice {
                    name: format!("{site}-{index}"),
                    site,
                    index,
                    epoch,
                    phase,
                    members,
                    older_may_run: generation != 1,
                    reservation: if observed_epoch == epoch { reservation } else { Reservation::Pending },
                    reports,
                    fence: FENCE,
                    deletion: Deletion::None,
                };
                self.slices.insert(key, Held { slice, generation });
                self.watch(key.0);
            }
            SliceAction::Delete { name } => {
                for (key, held) in &mut self.slices {
                    if held.slice.name == name {
                        held.slice.deletion = Deletion::Started;
                        self.seen_slices.insert(*key, held.clone());
                    }
                }
            }
            SliceAction::Release { name } => {
                self.slices.retain(|_, held| held.slice.name != name);
                self.seen_slices.retain(|_, held| held.slice.name != name);
            }
        }
    }

    fn deliver(&mut self, site: usize) {
        if self.sites[site].cut_at.is_none() {
            // A gateway does not deliver what is fenced.
            let fenced = self.hub_sites[site].fenced.unwrap_or(0);
            let listed = self.slices.iter().filter(|(key, held)| key.0 == site && held.slice.epoch > fenced);
            self.sites[site].synced = true;
            self.sites[site].told = listed.map(|(key, held)| (key.1, held.clone())).collect();
        }
    }

    fn act(&mut self, site: usize) {
        if self.sites[site].cut_at.is_some() || !self.sites[site].synced {
            return;
        }
        let place = &mut self.sites[site];
        let told: Vec<Held> = place.told.values().filter(|held| !held.slice.deleting()).cloned().collect();
        let listed: BTreeSet<(u32, u64)> = told
            .iter()
            .flat_map(|held| held.slice.members.iter().map(|member| (member.rank, member.incarnation)))
            .collect();
        // What is not listed stops, in two steps, and ended ones that nobody lists are forgotten.
        let mut gone = Vec::new();
        for (key, (_, state)) in &mut place.running {
            match state {
                _ if listed.contains(key) => {}
                MemberState::Stopping => gone.push(*key),
                state if state.ended() => gone.push(*key),
                state => *state = MemberState::Stopping,
            }
        }
        for key in &gone {
            place.running.remove(key);
            self.stopped.insert(*key);
        }
        place.held.retain(|key| listed.contains(key));
        // Nothing starts before everything that is not listed is gone.
        let leftover = place.running.iter().any(|(key, (_, state))| !listed.contains(key) && !state.ended());
        for held in told {
            let slice = &held.slice;
            for member in &slice.members {
                let key = (member.rank, member.incarnation);
                if place.running.contains_key(&key) || place.refused.contains(&key) {
                    continue;
                }
                if !place.held.contains(&key) && std::mem::take(&mut place.refuses) {
                    place.refused.insert(key);
                    continue;
                }
                if slice.phase == Phase::Reserve && slice.epoch == member.incarnation {
                    place.held.insert(key);
                    self.reserved.insert(key);
                } else if !leftover {
                    assert!(!self.stopped.contains(&key), "incarnation {key:?} starts again");
                    let group = &self.groups[&key.1];
                    let over_several = group.iter().any(|(other, _)| *other != site);
                    let all = group.iter().all(|(_, rank)| self.reserved.contains(&(*rank, key.1)));
                    assert!(!over_several || all, "{key:?} starts before all that were placed with it are reserved");
                    place.held.remove(&key);
                    place.running.insert(key, (member.node.clone(), MemberState::Ready));
                }
            }
        }
    }

    fn report(&mut self, site: usize) {
        let place = &self.sites[site];
        if place.cut_at.is_some() || !place.synced {
            return;
        }
        for (key, held) in &mut self.slices {
            let Some(told) = place.told.get(&key.1).filter(|_| key.0 == site) else { continue };
            if told.slice.name != held.slice.name || told.generation > held.generation {
                continue;
            }
            let slice = &mut held.slice;
            slice.older_may_run = told.generation != held.generation && held.generation != 1;
            slice.reports = place.running.iter().map(|(key, (_, state))| (*key, *state)).collect();
            if slice.deleting() && told.slice.deleting() && place.live().next().is_none() {
                slice.deletion = Deletion::Stopped;
            }
            let new = || told.slice.members.iter().map(|m| (m.rank, m.incarnation)).filter(|k| k.1 == told.slice.epoch);
            slice.reservation = if told.slice.epoch != slice.epoch {
                Reservation::Pending
            } else if told.slice.members.iter().any(|m| place.refused.contains(&(m.rank, m.incarnation))) {
                Reservation::Refused
            } else if new().all(|key| place.held.contains(&key) || place.running.contains_key(&key)) {
                Reservation::Reserved
            } else {
                Reservation::Pending
            };
        }
    }

    pub(super) fn check(&self) {
        let mut live: BTreeMap<u32, u64> = BTreeMap::new();
        for place in &self.sites {
            let mut nodes: HashMap<&str, usize> = HashMap::new();
            for (key, (node, state)) in &place.running {
                if !state.ended() {
                    let other = live.insert(key.0, key.1).filter(|_| self.cluster.terms.policy != Policy::Autonomous);
                    assert_eq!(other, None, "rank {} runs twice: {} and {other:?}", key.0, key.1);
                    *nodes.entry(node).or_default() += 1;
                }
            }
            assert!(nodes.values().all(|used| *used <= GPUS_PER_NODE), "a GPU is used twice: {nodes:?}");
        }
        let mut booked: HashMap<(&str, &str), usize> = HashMap::new();
        for member in &self.cluster.members {
            *booked.entry((&member.site, &member.node)).or_default() += 1;
            assert!(member.incarnation <= self.cluster.epoch);
        }
        assert!(booked.values().all(|used| *used <= GPUS_PER_NODE), "a GPU is committed twice: {booked:?}");
    }

    /// Nothing goes wrong any more: it must come to rest, whole or with nothing.
    pub(super) fn settle(&mut self) {
        for round in 0..400 {
            for site in 0..SITES.len() {
                self.sites[site].refuses = false;
                self.frozen = false;
                for op in [
                    Op::Drain(site, false),
                    Op::Return(site),
                    Op::See(site),
                    Op::Deliver(site),
                    Op::Act(site),
                    Op::Report(site),
                    Op::Watch(site),
                ] {
                    self.apply(&op);
                    self.check();
                }
            }
            self.apply(&Op::Watch(SITES.len()));
            self.apply(&Op::Decide { writes: 100, commits: true });
            self.apply(&Op::Advance(if round % 7 == 0 { 1_000 } else { 0 }));
            self.check();
        }
        let running: usize = self.sites.iter().map(|place| place.live().count()).sum();
        let held: usize = self.sites.iter().map(|place| place.held.len()).sum();
        assert_eq!(held, 0, "something stays half reserved");
        assert!(self.hub_sites.iter().all(|site| site.fenced.is_none()), "a fence is left: {:?}", self.hub_sites);
        let cluster = &self.cluster;
        if cluster.deleting || cluster.finished_at.is_some() || cluster.terms.suspend {
            assert_eq!((running, self.slices.len()), (0, 0), "something is left");
        } else {
            let ended = self.sites.iter().flat_map(|place| place.running.values()).filter(|(_, s)| s.ended()).count();
            assert_eq!(cluster.members.len(), cluster.terms.count as usize, "not all are placed");
            assert_eq!(running + ended, cluster.terms.count as usize, "not all run");
            assert!(self.slices.values().all(|held| held.slice.phase == Phase::Run));
        }
    }
}
