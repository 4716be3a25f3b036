//! Where each member of a commit stands, and which ranks still have a former member somewhere.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Cluster, Deletion, Fence, Member, MemberState, Millis, Phase, Reservation, SLICE_RANKS, SiteState, Slice};

/// Where a committed member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No slice names it yet.
    Undelivered,
    /// No slice names it yet, and its Site is lost.
    Undeliverable,
    /// Its Site refused the capacity before anything was started.
    Refused,
    /// Its slice is being deleted, though the commit names it.
    Withdrawn,
    /// Its Site is lost, and the member counts as stopped from then on.
    CutOff(Millis),
    /// Its Site is lost and the fence has expired.
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
    fences: Vec<Fence>,
    lost: HashSet<&'a str>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        slices: &'a [Slice],
        site: &dyn Fn(&str) -> SiteState,
        now: Millis,
    ) -> Self {
        let mut view = Self {
            slices,
            by_place: HashMap::with_capacity(slices.len()),
            named: HashSet::new(),
            started: BTreeSet::new(),
            fences: Vec::with_capacity(slices.len()),
            lost: HashSet::new(),
        };
        for (at, slice) in slices.iter().enumerate() {
            view.by_place.insert((&slice.site, slice.index), at);
            view.fences.push(site(&slice.site).fenced(slice.fence, now));
            for member in &slice.members {
                view.named.insert((at, member.rank, member.incarnation));
                if slice.phase == Phase::Run || member.incarnation != slice.epoch {
                    view.started.insert(member.incarnation);
                }
            }
        }
        let mut sites: Vec<&str> = cluster.members.iter().map(|member| member.site.as_str()).collect();
        sites.dedup();
        for name in sites {
            if matches!(site(name), SiteState::Lost { .. }) {
                view.lost.insert(name);
            }
        }
        view
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
            return if self.lost.contains(member.site.as_str()) {
                Standing::Undeliverable
            } else {
                Standing::Undelivered
            };
        };
        let slice = &self.slices[at];
        let said = slice.reports.get(&(member.rank, member.incarnation)).copied();
        if let Some(state) = said.filter(|state| state.ended()) {
            return Standing::Said(state);
        }
        if slice.deleting() {
            return Standing::Withdrawn;
        }
        match self.fences[at] {
            Fence::Expired => return Standing::Fenced,
            Fence::At(at) => return Standing::CutOff(at),
            Fence::None => {}
        }
        if refused(slice, said) {
            return Standing::Refused;
        }
        Standing::Said(said.unwrap_or(MemberState::Pending))
    }

    /// Ranks of which a member that is not in `keep` may still run, with the fence that ends it at the latest.
    pub(super) fn live(&self, keep: &[Member], missing: &BTreeSet<u32>) -> HashMap<u32, Option<Millis>> {
        let kept: HashSet<(u32, u64)> = keep.iter().map(|member| (member.rank, member.incarnation)).collect();
        let mut live = HashMap::new();
        for (at, slice) in self.slices.iter().enumerate() {
            let until = match self.fences[at] {
                Fence::Expired => continue,
                Fence::At(at) => Some(at),
                Fence::None => None,
            };
            if slice.deletion == Deletion::Stopped {
                continue;
            }
            let mut named = BTreeSet::new();
            for member in &slice.members {
                named.insert(member.rank);
                let said = slice.reports.get(&(member.rank, member.incarnation)).copied();
                let ended = said.is_some_and(MemberState::ended) || never_started(slice, member.incarnation, said);
                if !ended && !kept.contains(&(member.rank, member.incarnation)) {
                    live.insert(member.rank, until);
                }
            }
            for (&(rank, incarnation), state) in &slice.reports {
                let listed = self.named.contains(&(at, rank, incarnation));
                if !listed && !state.ended() && !kept.contains(&(rank, incarnation)) {
                    live.insert(rank, until);
                }
            }
            if slice.older_may_run {
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
