//! Those that ask for the same.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::{GangRequest, Helps, Level, Shape};

use super::{Order, Work};

/// Number of a [`Line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineId(pub(super) u64);

/// A shape by its place in memory: equal shapes are kept once.
#[derive(Clone, Debug)]
pub struct ShapeRef(pub Arc<Shape>);

impl PartialEq for ShapeRef {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ShapeRef {}

impl Hash for ShapeRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// What makes two requests the same for a decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Alike {
    /// Priority.
    pub priority: i32,
    /// Whether it may preempt.
    pub preempts: bool,
    /// Shapes of the members and how many have each, in the order in which they first appear.
    pub shapes: Vec<(ShapeRef, usize)>,
    /// How many must fit.
    pub minimum: usize,
    /// Levels of topology.
    pub topology: Vec<Level>,
    /// Namespace and labels, where other pods make a difference.
    pub identity: Option<(String, BTreeMap<String, String>)>,
    /// Whether nodes that are reserved for others are closed to it.
    pub closed: bool,
}

/// Names a line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LineKey {
    /// Everything that asks for this.
    Alike(Arc<Alike>),
    /// Nothing else asks for the same.
    Alone(Work),
}

/// Counts changes by what they can help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock([u64; KINDS.len()]);

const KINDS: [Helps; 4] = [Helps::NODES, Helps::ROOM, Helps::PODS, Helps::VOLUMES];

impl Clock {
    pub(super) fn tick(&mut self, what: Helps) {
        for (count, kind) in self.0.iter_mut().zip(KINDS) {
            *count += u64::from(what.intersects(kind));
        }
    }

    pub(super) fn drop(&mut self, what: Helps) {
        for (count, kind) in self.0.iter_mut().zip(KINDS) {
            *count = count.saturating_sub(u64::from(what.intersects(kind)));
        }
    }

    /// Whether one of these kinds has a count.
    pub(super) fn any(&self, what: Helps) -> bool {
        self.0.iter().zip(KINDS).any(|(count, kind)| *count > 0 && what.intersects(kind))
    }

    /// Whether something of these kinds happened since.
    pub(super) fn helped(&self, since: &Self, by: Helps) -> bool {
        self.0.iter().zip(since.0).zip(KINDS).any(|((now, then), kind)| *now != then && by.intersects(kind))
    }
}

/// A refusal that stands.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// In words.
    pub message: Arc<str>,
    /// Which changes could help.
    pub helped_by: Helps,
    /// It is not looked at before this, whatever happens.
    pub again: Option<Duration>,
    /// It is tried at this time even if there is no room, if something that could help happened: others may have to
    /// make room.
    pub preempt_at: Option<Duration>,
    /// The changes that it knows of; [`super::Queue::refuse`] says.
    pub seen: Clock,
}

impl Verdict {
    /// A refusal.
    #[must_use]
    pub fn new(message: Arc<str>, helped_by: Helps) -> Self {
        Self { message, helped_by, again: None, preempt_at: None, seen: Clock::default() }
    }
}

/// Works that ask for the same, in their order.
#[derive(Debug)]
pub struct Line {
    pub(super) key: LineKey,
    /// What they ask for, as the last one that was decided did.
    pub request: GangRequest,
    pub(super) parked: BTreeSet<(Order, Work)>,
    /// The one that is ready or being tried for all of them.
    pub(super) head: Option<(Order, Work)>,
    /// `None` while the head is on its way.
    pub verdict: Option<Verdict>,
    /// The last refusal in words.
    pub message: Arc<str>,
    /// It is opened then, see [`Verdict::preempt_at`].
    pub(super) reopen: Option<Duration>,
    pub(super) refusals: u32,
    pub(super) wordings: u32,
    /// What all of its members are told, or will be.
    pub told: Arc<str>,
    /// They are going to be told the last refusal.
    pub telling: bool,
    /// The refusal is going to be put in new words.
    pub aging: bool,
}

impl Line {
    pub(super) fn new(key: LineKey, request: GangRequest) -> Self {
        Self {
            key,
            request,
            parked: BTreeSet::new(),
            head: None,
            verdict: None,
            message: Arc::from(""),
            reopen: None,
            refusals: 0,
            wordings: 0,
            told: Arc::from(""),
            telling: false,
            aging: false,
        }
    }

    /// Who is tried first.
    #[must_use]
    pub fn first(&self) -> Option<&(Order, Work)> {
        self.parked.first()
    }

    pub(super) fn order(&self) -> Option<Order> {
        self.parked.first().map(|(order, _)| *order)
    }

    /// What it is that asks.
    #[must_use]
    pub fn key(&self) -> &LineKey {
        &self.key
    }

    /// How often its refusal was put in new words since somebody of it went.
    #[must_use]
    pub fn wordings(&self) -> u32 {
        self.wordings
    }

    /// Everyone who waits in it.
    pub fn members(&self) -> impl Iterator<Item = &Work> {
        self.parked.iter().map(|(_, work)| work)
    }
}
