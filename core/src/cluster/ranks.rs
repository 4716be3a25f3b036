//! Where each member of a commit stands, and which ranks still have a former member somewhere.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    Cluster, Deletion, Fence, Fencing, Member, MemberState, Millis, Phase, Reservation, SLICE_RANKS, SiteState,
    SiteView, Slice,
};

/// Where a committed member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No slice names it yet.
    Undelivered,
    /// No slice names it, and its Site is lost or its epoch is fenced there.
    Undeliverable,
    /// Its Site refused the capacity before anything was started.
    Refused,
    /// Its slice is being deleted, though the commit names it.
    Withdrawn,
    /// Its Site is lost, and the member may run until its fence, which is never `None`.
    CutOff(Fence),
    /// It counts as stopped.
    Fenced,
    /// As the Site says.
    Said(MemberState),
}

/// A Cluster's slices, by what is asked of them.
pub(super) struct View<'a> {
    slices: &'a [Slice],
    by_place: HashMap<(&'a str, u32), usize>,
    named: HashSet<(usize, u32, u64)>,
    /// Incarnations that some slice is told to run: the decision to start these was made.
    started: BTreeSet<u64>,
    /// How far the fence is, by slice.
    fences: Vec<Fence>,
    sites: HashMap<&'a str, SiteView>,
}

impl<'a> View<'a> {
    /// `replacing`: fences are to let others take somebody's place, which a freeze forbids.
    pub(super) fn new(
        cluster: &'a Cluster,
        slices: &'a [Slice],
        site: &dyn Fn(&str) -> SiteView,
        replacing: bool,
    ) -> Self {
        let mut view = Self {
            slices,
            by_place: HashMap::with_capacity(slices.len()),
            named: HashSet::new(),
            started: BTreeSet::new(),
            fences: Vec::with_capacity(slices.len()),
            sites: HashMap::new(),
        };
        let names = cluster.members.iter().map(|member| member.site.as_str());
        for name in names.chain(slices.iter().map(|slice| slice.site.as_str())) {
            view.sites.entry(name).or_insert_with(|| site(name));
        }
        // One fence stands for all that a Cluster has on a Site.
        let mut longest: HashMap<&str, Millis> = HashMap::new();
        for slice in slices {
            let fence = longest.entry(&slice.site).or_default();
            *fence = slice.fence.max(*fence);
        }
        for (at, slice) in slices.iter().enumerate() {
            view.by_place.insert((&slice.site, slice.index), at);
            let fence = longest.get(slice.site.as_str()).copied().unwrap_or(slice.fence);
            view.fences.push(view.site(&slice.site).map_or(Fence::None, |site| site.fence(fence, replacing)));
            for member in &slice.members {
                view.named.insert((at, member.rank, member.incarnation));
                if slice.phase == Phase::Run || member.incarnation != slice.epoch {
                    view.started.insert(member.incarnation);
                }
            }
        }
        view
    }

    fn site(&self, name: &str) -> Option<SiteView> {
        self.sites.get(name).copied()
    }

    /// The Cluster's members of this and lower incarnations count as stopped at `site`.
    pub(super) fn fenced(&self, site: &str) -> u64 {
        self.site(site).map_or(0, |site| site.fenced)
    }

    /// Whether the supplier of `site` wants members to leave.
    pub(super) fn draining(&self, site: &str) -> bool {
        self.site(site).is_some_and(|site| site.draining)
    }

    /// The fences to write: their time is over, and something there counts as running.
    pub(super) fn due(&self, epoch: u64) -> Vec<Fencing> {
        let newest = self.slices.iter().map(|slice| slice.epoch).fold(epoch, u64::max);
        let due =
            self.slices.iter().enumerate().filter(|(at, slice)| self.fences[*at] == Fence::Due && self.may_run(slice));
        let sites: BTreeSet<&str> = due.map(|(_, slice)| slice.site.as_str()).collect();
        sites.into_iter().map(|site| Fencing { site: site.to_owned(), epoch: newest }).collect()
    }

    /// Whether anything of `slice` counts as running, or keeps it from being released.
    fn may_run(&self, slice: &Slice) -> bool {
        let fenced = self.fenced(&slice.site);
        let lives = |key: &(u32, u64)| key.1 > fenced && !slice.reports.get(key).is_some_and(|state| state.ended());
        let named = || slice.members.iter().any(|member| lives(&(member.rank, member.incarnation)));
        let unsettled = slice.older_may_run || slice.deletion == Deletion::Started;
        named() || slice.reports.keys().any(lives) || (unsettled && slice.epoch > fenced)
    }

    /// The slice that names `member`.
    fn slice_of(&self, member: &Member) -> Option<usize> {
        let at = *self.by_place.get(&(member.site.as_str(), member.rank / SLICE_RANKS))?;
        self.named.contains(&(at, member.rank, member.incarnation)).then_some(at)
    }

    /// Whether a slice names `member`.
    pub(super) fn delivered(&self, member: &Member) -> bool {
        self.slice_of(member).is_some()
    }

    /// Ranks of which a slice tells its Site to run a member that is not in `keep`, whether the Site is there or not.
    pub(super) fn may_start_again(&self, keep: &[Member]) -> impl Iterator<Item = (u32, &'a str)> {
        let kept: HashSet<(u32, u64)> = keep.iter().map(|member| (member.rank, member.incarnation)).collect();
        let named = self.slices.iter().filter(|slice| !slice.deleting());
        let named = named.flat_map(|slice| slice.members.iter().map(move |member| (slice, member)));
        let left = named.filter(move |(slice, member)| {
            let key = (member.rank, member.incarnation);
            let told = slice.phase == Phase::Run || member.incarnation != slice.epoch;
            told && !slice.reports.get(&key).is_some_and(|state| state.ended()) && !kept.contains(&key)
        });
        left.map(|(slice, member)| (member.rank, slice.site.as_str()))
    }

    /// The slice at a place.
    pub(super) fn at(&self, site: &str, index: u32) -> Option<&'a Slice> {
        self.by_place.get(&(site, index)).map(|at| &self.slices[*at])
    }

    pub(super) fn fence(&self, at: usize) -> Fence {
        self.fences[at]
    }

    /// Whether the start of `member` still waits for the reservations of all members that were placed with it.
    pub(super) fn undecided(&self, member: &Member) -> bool {
        !self.started.contains(&member.incarnation)
    }

    pub(super) fn standing(&self, member: &Member) -> Standing {
        let Some(at) = self.slice_of(member) else {
            let lost = self.site(&member.site).is_some_and(|site| site.state != SiteState::Live);
            let fenced = member.incarnation <= self.fenced(&member.site);
            return if lost || fenced { Standing::Undeliverable } else { Standing::Undelivered };
        };
        let slice = &self.slices[at];
        let said = slice.reports.get(&(member.rank, member.incarnation)).copied();
        if let Some(state) = said.filter(|state| state.ended()) {
            return Standing::Said(state);
        }
        if slice.deleting() {
            return Standing::Withdrawn;
        }
        if member.incarnation <= self.fenced(&slice.site) {
            return Standing::Fenced;
        }
        match self.fences[at] {
            Fence::Past => return Standing::Fenced,
            Fence::None => {}
            fence => return Standing::CutOff(fence),
        }
        if refused(slice, said) {
            return Standing::Refused;
        }
        Standing::Said(said.unwrap_or(MemberState::Pending))
    }

    /// Ranks of which a member that is not in `keep` may still run, with how long until its fence expires.
    pub(super) fn live(&self, keep: &[Member], missing: &BTreeSet<u32>) -> HashMap<u32, Option<Millis>> {
        let kept: HashSet<(u32, u64)> = keep.iter().map(|member| (member.rank, member.incarnation)).collect();
        let mut live = HashMap::new();
        for (at, slice) in self.slices.iter().enumerate() {
            let until = match self.fences[at] {
                Fence::Past => continue,
                Fence::After(left) => Some(left),
                // Who is to be fenced runs until that is written.
                Fence::None | Fence::Held | Fence::Due => None,
            };
            let fenced = self.fenced(&slice.site);
            if slice.deletion == Deletion::Stopped {
                continue;
            }
            let mut named = BTreeSet::new();
            for member in &slice.members {
                named.insert(member.rank);
                let said = slice.reports.get(&(member.rank, member.incarnation)).copied();
                let ended = member.incarnation <= fenced
                    || said.is_some_and(MemberState::ended)
                    || never_started(slice, member.incarnation, said);
                if !ended && !kept.contains(&(member.rank, member.incarnation)) {
                    live.insert(member.rank, until);
                }
            }
            for (&(rank, incarnation), state) in &slice.reports {
                let listed = self.named.contains(&(at, rank, incarnation));
                if !listed && incarnation > fenced && !state.ended() && !kept.contains(&(rank, incarnation)) {
                    live.insert(rank, until);
                }
            }
            if slice.older_may_run && slice.epoch > fenced {
                let first = slice.index.saturating_mul(SLICE_RANKS);
                let range = missing.range(first..first.saturating_add(SLICE_RANKS));
                live.extend(range.filter(|rank| !named.contains(rank)).map(|rank| (*rank, until)));
            }
        }
        live
    }
}

/// The Site was only told to hold capacity for these, or said that it has none: none of them can have been started.
fn never_started(slice: &Slice, incarnation: u64, said: Option<MemberState>) -> bool {
    let silent = said.is_none_or(|state| state == MemberState::Pending);
    let held_only = slice.phase == Phase::Reserve && silent;
    slice.epoch == incarnation && (held_only || (said.is_none() && refused(slice, said)))
}

/// The Site has no capacity for those members of a slice that it does not run.
fn refused(slice: &Slice, said: Option<MemberState>) -> bool {
    slice.reservation == Reservation::Refused && said.is_none_or(|state| state == MemberState::Pending)
}
