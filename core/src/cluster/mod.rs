//! Lifecycle of a Cluster: what is to happen next, given what the API holds and what time it is.
//!
//! [`next`] is a function of facts alone, so that an operator that was killed goes on where its predecessor stopped.
//! Nothing here is remembered between two calls: what must survive stands in the commit or in a slice.

mod next;
mod ranks;
#[cfg(test)]
mod simulation;
mod slices;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

pub use crate::words::Reservation;
pub use next::next;

/// Milliseconds of wall-clock time since the Unix epoch; also spans of it.
pub type Millis = i64;

/// Most members of one slice: members of ranks `index * SLICE_RANKS ..` are in slice `index` of their Site. By rank and
/// not by count, so that no member ever moves from one slice to another.
pub const SLICE_RANKS: u32 = 500;

/// How members depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not at all.
    Pods,
    /// One failed member fails the gang; complete when all have succeeded.
    Torch,
    /// One failed member fails the gang; complete when rank 0 has succeeded.
    Ray,
}

/// What happens when a Site is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Only lost members move.
    Replace,
    /// All members start again.
    Restart,
    /// The Cluster fails.
    Fail,
}

/// What the tenant asked for, as far as lifecycle goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How members depend on each other.
    pub kind: Kind,
    /// Wanted members, at least 1.
    pub count: u32,
    /// Fewest members that are worth running, 1 to `count`.
    pub min: u32,
    /// Failures that the Cluster survives; a gang counts once however many of its members fail together.
    pub backoff_limit: u32,
    /// How long it runs once all members were Ready.
    pub duration: Option<Millis>,
    /// How long it is kept after its end.
    pub ttl: Option<Millis>,
    /// It is to hold nothing.
    pub suspend: bool,
    /// What happens when a Site is lost.
    pub policy: Policy,
}

/// A committed member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Rank, from 0.
    pub rank: u32,
    /// The epoch that placed it.
    pub incarnation: u64,
    /// Where.
    pub site: String,
    /// The Node there.
    pub node: String,
}

/// A Cluster as the API holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// What was asked for.
    pub terms: Terms,
    /// It is being deleted, or gone already while slices are left.
    pub deleting: bool,
    /// The highest epoch ever used; 0: none.
    pub epoch: u64,
    /// The commit, in order of rank.
    pub members: Vec<Member>,
    /// Failures so far, counted as for [`Terms::backoff_limit`].
    pub failures: u32,
    /// When all members were Ready for the first time.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub finished_at: Option<Millis>,
}

/// What a Site is told to do with the new members of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Hold their capacity.
    Reserve,
    /// Run them.
    Run,
}

/// Where a member stands, as its Site says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Not started.
    Pending,
    /// Started, not Ready.
    Starting,
    /// Ready.
    Ready,
    /// Being stopped.
    Stopping,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Gone without its own doing.
    Lost,
    /// Stopped because its Site was cut off from the hub.
    Expired,
}

impl MemberState {
    /// It has stopped and holds nothing.
    #[must_use]
    pub fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Lost | Self::Expired)
    }
}

/// A member in a slice's specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceMember {
    /// Rank.
    pub rank: u32,
    /// The Node.
    pub node: String,
    /// The epoch that placed it.
    pub incarnation: u64,
}

/// How far the deletion of a slice has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It stays.
    None,
    /// It is being deleted, and something of it may still run.
    Started,
    /// It is being deleted and its Site says that nothing is left.
    Stopped,
}

/// A slice as the API holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// Its Site.
    pub site: String,
    /// Which ranks, see [`SLICE_RANKS`].
    pub index: u32,
    /// Epoch of the commit that it follows.
    pub epoch: u64,
    /// What the Site is told to do.
    pub phase: Phase,
    /// Its members.
    pub members: Vec<SliceMember>,
    /// Its Site may still run members of an earlier specification: there was one, and the Site has not reported on this
    /// one.
    pub older_may_run: bool,
    /// What the Site says about the capacity, when it has seen this epoch, else Pending.
    pub reservation: Reservation,
    /// What the Site says about members, by (rank, incarnation).
    pub reports: HashMap<(u32, u64), MemberState>,
    /// Milliseconds from the last granted lease until its members count as stopped.
    pub fence: Millis,
    /// How far its deletion has come.
    pub deletion: Deletion,
}

impl Slice {
    fn deleting(&self) -> bool {
        self.deletion != Deletion::None
    }
}

/// What the hub knows of a Site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteState {
    /// It has a live session.
    Live,
    /// It has none; its last lease was granted at `since` or earlier.
    Lost {
        /// When fences start.
        since: Millis,
    },
}

impl SiteState {
    /// Whether members there count as stopped, and when they will.
    fn fenced(self, fence: Millis, now: Millis) -> Fence {
        match self {
            Self::Live => Fence::None,
            Self::Lost { since } if now >= since.saturating_add(fence) => Fence::Expired,
            Self::Lost { since } => Fence::At(since.saturating_add(fence)),
        }
    }
}

/// Whether the members of a Site count as stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    /// The Site is live.
    None,
    /// They will then.
    At(Millis),
    /// They do.
    Expired,
}

/// Why a Cluster ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All members succeeded.
    Succeeded,
    /// It ran as long as was asked.
    DurationReached,
    /// More failures than [`Terms::backoff_limit`].
    BackoffLimitExceeded,
    /// A Site was lost and the policy is Fail.
    MembersLost,
}

impl End {
    /// It ended well.
    #[must_use]
    pub fn well(self) -> bool {
        matches!(self, Self::Succeeded | Self::DurationReached)
    }
}

/// Why members leave the commit; where there are several reasons, the one that says most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// `count` shrank.
    Shrunk,
    /// A commit of a higher term holds their GPUs.
    Revoked,
    /// A Site refused them.
    Refused,
    /// They were lost, or their Site was.
    Lost,
    /// They failed.
    Failed,
    /// The Cluster is suspended.
    Suspended,
    /// The Cluster ended.
    Ended,
}

/// Ranks that are to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The ranks, ascending.
    pub ranks: Vec<u32>,
    /// At least so many of the first of them, or none.
    pub min_new: u32,
}

/// What is to be done to a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceAction {
    /// Write it.
    Apply {
        /// Its Site.
        site: String,
        /// Which ranks.
        index: u32,
        /// Epoch of the commit that it follows.
        epoch: u64,
        /// What the Site is told to do.
        phase: Phase,
        /// Its members, by rank.
        members: Vec<SliceMember>,
    },
    /// Start its deletion.
    Delete {
        /// Its name.
        name: String,
    },
    /// Take its finalizer away: nothing of it runs any more.
    Release {
        /// Its name.
        name: String,
    },
}

/// How many members stand where; of the commit's members only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ready members.
    pub ready: u32,
    /// Members that ended well.
    pub succeeded: u32,
    /// Members on Sites that are lost and not fenced yet.
    pub cut_off: u32,
    /// The lost Sites of these.
    pub lost_sites: BTreeSet<String>,
    /// Members whose start waits for other Sites' reservations.
    pub reserving: u32,
    /// Ranks whose former member has not stopped yet.
    pub stopping: u32,
}

/// What is to happen next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Members that stay. Differs from the commit: a new commit is to be written, before anything else.
    pub keep: Vec<Member>,
    /// Why members leave the commit.
    pub cause: Option<Cause>,
    /// The slices hold a later epoch than the Cluster: its status was lost, and this is adopted from them.
    pub adopt: Option<u64>,
    /// Failures, with those that this step found.
    pub failures: u32,
    /// The Cluster ends with this step.
    pub end: Option<End>,
    /// All members are Ready for the first time.
    pub started: bool,
    /// Ranks to place, into the same commit where one is to be written.
    pub want: Option<Want>,
    /// Nodes that a Site refused: (Site, Nodes).
    pub refused: Vec<(String, Vec<String>)>,
    /// What to do to slices; only when no commit is to be written.
    pub slices: Vec<SliceAction>,
    /// The Cluster itself is to be deleted: its time after the end is over.
    pub delete: bool,
    /// When to look again although nothing changed.
    pub wake: Option<Millis>,
    /// How members stand.
    pub tally: Tally,
}

impl Step {
    /// Whether a new commit is to be written whatever placement says.
    #[must_use]
    pub fn recommits(&self) -> bool {
        self.cause.is_some() || self.adopt.is_some() || self.end.is_some()
    }

    fn wake_at(&mut self, at: Millis) {
        self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at)));
    }
}
