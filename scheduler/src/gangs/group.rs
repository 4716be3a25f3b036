//! A gang of which its pods, and perhaps a `PodGroup`, say all that there is to know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cache::Cache;
use crate::cycle::{GangKey, GangKind, Written};
use crate::objects::{GangName, ObjectKey, PodFacts, PodGroupFacts};

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberAt {
    /// Has no node.
    Waiting,
    /// On its way to the API server.
    Binding,
    /// Bound; it may have finished.
    Bound,
    /// Gated, being deleted or evicted: no part of the gang now.
    Out,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    rank: u32,
    at: MemberAt,
}

/// Whether a gang can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Nobody waits, or answers to bindings are awaited.
    Nothing,
    /// So many more members are needed.
    Incomplete {
        /// Members that are there.
        there: usize,
    },
    /// More members may come; it is decided at this time without them.
    Gathering {
        /// Members that are there.
        there: usize,
        /// When.
        until: Duration,
    },
    /// All that wait can be decided.
    Ready {
        /// So many of them must fit.
        minimum: usize,
    },
}

/// The pods that name a gang.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GangKey,
    /// The `PodGroup`, when it is one and is there.
    pub(crate) object: Option<PodGroupFacts>,
    members: BTreeMap<ObjectKey, Member>,
    /// Members without a node, by rank.
    waiting: BTreeSet<(u32, ObjectKey)>,
    binding: usize,
    bound: usize,
    size: u32,
    min: u32,
    /// It was decided as a whole and is not bound as a whole yet.
    pub(crate) half_bound: bool,
    /// Its minimum was bound since it was decided as a whole, or before this process was started.
    pub(crate) whole: bool,
    /// Since when the rest of a half-bound gang cannot be had.
    pub(crate) stuck_since: Option<Duration>,
    enough_since: Option<Duration>,
    /// Since when members wait for others to come.
    pub(crate) incomplete_since: Option<Duration>,
    /// What was last written to the `PodGroup`: scheduled, and the words.
    pub(crate) written: Option<Written>,
}

impl Group {
    pub(crate) fn new(key: GangKey) -> Self {
        Self {
            key,
            object: None,
            members: BTreeMap::new(),
            waiting: BTreeSet::new(),
            binding: 0,
            bound: 0,
            size: 1,
            min: 1,
            half_bound: false,
            whole: false,
            stuck_since: None,
            enough_since: None,
            incomplete_since: None,
            written: None,
        }
    }

    /// The gang that a pod names.
    pub(crate) fn key_of(pod: &PodFacts) -> Option<GangKey> {
        let name = pod.gang.as_ref()?;
        let kind = match name {
            GangName::Object(_) => GangKind::Object,
            GangName::Label { .. } => GangKind::Label,
            GangName::PodGroup(_) => GangKind::PodGroup,
        };
        Some(GangKey { kind, key: ObjectKey::new(&pod.key.namespace, name.name()) })
    }

    /// Takes note of a member. `assumed`: the API server was asked to bind it, or took it already.
    pub(crate) fn set(&mut self, pod: &PodFacts, assumed: bool, evicted: bool) {
        if let Some(GangName::Label { size, min, .. }) = &pod.gang {
            (self.size, self.min) = (*size, *min);
        }
        let before = self.members.get(&pod.key).map(|member| member.at);
        let at = if pod.deleting || evicted {
            MemberAt::Out
        } else if pod.node.is_some() {
            // Nobody but this process, or one before it, binds pods of ours.
            if before == Some(MemberAt::Waiting) && !pod.finished {
                self.half_bound = true;
            }
            MemberAt::Bound
        } else if !pod.waits() {
            MemberAt::Out
        } else if assumed {
            if before == Some(MemberAt::Binding) { MemberAt::Binding } else { MemberAt::Bound }
        } else {
            MemberAt::Waiting
        };
        self.put(&pod.key, Some(Member { rank: pod.rank.unwrap_or(u32::MAX), at }));
        self.settle();
    }

    /// A pod is gone, or names another gang.
    pub(crate) fn remove(&mut self, pod: &ObjectKey) {
        self.put(pod, None);
        self.settle();
    }

    /// A member's binding is on its way, is taken, or failed.
    pub(crate) fn mark(&mut self, pod: &ObjectKey, at: MemberAt) {
        if let Some(member) = self.members.get(pod).copied() {
            self.put(pod, Some(Member { at, ..member }));
            self.settle();
        }
    }

    /// Where a member is.
    pub(crate) fn at(&self, pod: &ObjectKey) -> Option<MemberAt> {
        self.members.get(pod).map(|member| member.at)
    }

    fn put(&mut self, pod: &ObjectKey, member: Option<Member>) {
        let old = match member {
            Some(member) => self.members.insert(pod.clone(), member),
            None => self.members.remove(pod),
        };
        if let Some(old) = old {
            match old.at {
                MemberAt::Waiting => {
                    self.waiting.remove(&(old.rank, pod.clone()));
                }
                MemberAt::Binding => self.binding -= 1,
                MemberAt::Bound => self.bound -= 1,
                MemberAt::Out => {}
            }
        }
        match member {
            Some(Member { at: MemberAt::Waiting, rank }) => {
                self.waiting.insert((rank, pod.clone()));
            }
            Some(Member { at: MemberAt::Binding, .. }) => self.binding += 1,
            Some(Member { at: MemberAt::Bound, .. }) => self.bound += 1,
            Some(Member { at: MemberAt::Out, .. }) | None => {}
        }
    }

    fn settle(&mut self) {
        self.whole |= self.bound >= self.min();
        if self.whole && self.bound == 0 && self.binding > 0 {
            // Those that the others were to join are gone: the others are the beginning of a new whole.
            (self.whole, self.half_bound) = (false, true);
        }
        if self.bound >= self.min() || (self.bound == 0 && self.binding == 0) {
            self.half_bound = false;
            self.stuck_since = None;
        }
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.object.is_none()
    }

    /// Members without a node, by rank and name.
    pub(crate) fn waiting(&self) -> impl ExactSizeIterator<Item = &ObjectKey> {
        self.waiting.iter().map(|(_, pod)| pod)
    }

    /// Every member with where it is.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&ObjectKey, MemberAt)> {
        self.members.iter().map(|(pod, member)| (pod, member.at))
    }

    /// Members that are bound.
    pub(crate) fn bound(&self) -> impl Iterator<Item = &ObjectKey> {
        self.members().filter(|(_, at)| *at == MemberAt::Bound).map(|(pod, _)| pod)
    }

    /// How many must be bound for any to be bound.
    pub(crate) fn min(&self) -> usize {
        let min = self.object.as_ref().map_or(self.min, |object| object.min);
        usize::try_from(min).unwrap_or(usize::MAX)
    }

    /// How many there will be, as far as known.
    pub(crate) fn size(&self) -> usize {
        if self.object.is_some() { self.min() } else { usize::try_from(self.size).unwrap_or(usize::MAX) }
    }

    /// Whether its minimum is bound.
    pub(crate) fn is_bound(&self) -> bool {
        self.binding == 0 && self.bound >= self.min()
    }

    /// Whether answers to bindings are awaited.
    pub(crate) fn is_binding(&self) -> bool {
        self.binding > 0
    }

    /// Whether it can be decided now.
    pub(crate) fn readiness(&mut self, now: Duration, gather: Duration) -> Readiness {
        let placed = self.bound + self.binding;
        let waiting = self.waiting.len();
        if self.binding > 0 || waiting == 0 {
            return Readiness::Nothing;
        }
        if placed > 0 {
            // Who comes to a gang that was whole once joins it alone; the rest of one that was not is one decision.
            let minimum = if self.half_bound { self.min().saturating_sub(placed).max(1) } else { 1 };
            if waiting < minimum {
                return Readiness::Incomplete { there: placed + waiting };
            }
            return Readiness::Ready { minimum };
        }
        if waiting < self.min() {
            self.enough_since = None;
            return Readiness::Incomplete { there: waiting };
        }
        let until = *self.enough_since.get_or_insert(now) + gather;
        if waiting < self.size() && now < until {
            return Readiness::Gathering { there: waiting, until };
        }
        Readiness::Ready { minimum: self.min() }
    }

    /// Whether an earlier process bound a part of it and was stopped: some of those that wait were there already when
    /// the bound ones started. Pods that came later take the place of lost ones.
    pub(crate) fn was_left_half_bound(&self, cache: &Cache) -> bool {
        if self.bound == 0 || self.bound >= self.min() || self.waiting.is_empty() {
            return false;
        }
        let started = |pod: &ObjectKey| cache.pod(pod).map(|pod| pod.started.unwrap_or(Duration::MAX));
        let first_start = self.bound().filter_map(started).min().unwrap_or(Duration::MAX);
        self.waiting().filter_map(|pod| cache.pod(pod)).any(|pod| pod.created <= first_start)
    }
}
