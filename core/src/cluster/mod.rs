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
    /// As Replace, but members that are cut off run on: two of one rank may run until their Site comes back.
    Autonomous,
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

/// What the hub knows of a Site's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteState {
    /// It has a live session.
    Live,
    /// It has none.
    Lost {
        /// How long ago its last lease was granted, at least.
        ago: Millis,
    },
    /// It is not in the API any more: no session can begin, and there is nothing to write a fence to.
    Gone {
        /// How long ago its last lease was granted, at least.
        ago: Millis,
    },
}

/// What the hub knows of a Site, as far as one Cluster is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteView {
    /// Its session.
    pub state: SiteState,
    /// The Cluster's members of this and lower incarnations count as stopped there, because the API says so. 0: none.
    pub fenced: u64,
    /// Its supplier wants members to leave.
    pub draining: bool,
    /// Nobody is replaced now, see [`crate::freeze`].
    pub frozen: bool,
}

impl From<SiteState> for SiteView {
    fn from(state: SiteState) -> Self {
        Self { state, fenced: 0, draining: false, frozen: false }
    }
}

impl SiteView {
    /// How far the fence of members there is, which lasts `fence`; `replacing`: it is to let others take their place.
    fn fence(self, fence: Millis, replacing: bool) -> Fence {
        let (ago, expired) = match self.state {
            SiteState::Live => return Fence::None,
            SiteState::Lost { ago } => (ago, Fence::Due),
            SiteState::Gone { ago } => (ago, Fence::Past),
        };
        match fence.saturating_sub(ago) {
            left if left > 0 => Fence::After(left),
            _ if self.frozen && replacing => Fence::Held,
            _ => expired,
        }
    }
}

/// How far the fence of a Site's members is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    /// The Site is live.
    None,
    /// It expires so much later.
    After(Millis),
    /// Its time is over, and replacing is frozen.
    Held,
    /// Its time is over, and it has to be written before anybody counts as stopped.
    Due,
    /// Its time is over, and no session can begin there: they count as stopped.
    Past,
}

/// A fence that is to be written to its Site, checked against every change since the Site was seen lost, and read back.
/// A session that began meanwhile makes that fail, and then nobody is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fencing {
    /// The Site.
    pub site: String,
    /// Members of this and lower incarnations count as stopped from then on.
    pub epoch: u64,
}

/// Whether the fence of `epoch` at `site` has done its work: nothing there is left that it would keep from starting.
#[must_use]
pub fn fence_is_over(site: &str, epoch: u64, cluster: &Cluster, slices: &[Slice]) -> bool {
    let listed = |member: &Member| member.site == site && member.incarnation <= epoch;
    (cluster.deleting || !cluster.members.iter().any(listed))
        && !slices.iter().any(|slice| slice.site == site && slice.epoch <= epoch)
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
    /// Their Site is draining, and there is another place for them.
    Drained,
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

/// Members that are to leave draining Sites, each when there is a place for it elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Who stays whatever is found.
    pub keep: Vec<Member>,
    /// What is to be placed elsewhere.
    pub want: Want,
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
    /// Of these, members whose fence would have expired, were replacing not frozen.
    pub frozen: u32,
    /// Members on Sites that are draining.
    pub draining: u32,
    /// The draining Sites of these.
    pub draining_sites: BTreeSet<String>,
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
    /// Members to move, when nothing else is to be committed; see [`Step::drained`].
    pub drain: Option<Drain>,
    /// Fences to write. Who stands behind one counts as running until it is read back.
    pub fence: Vec<Fencing>,
    /// Nodes that a Site refused: (Site, Nodes).
    pub refused: Vec<(String, Vec<String>)>,
    /// What to do to slices; only when no commit is to be written.
    pub slices: Vec<SliceAction>,
    /// The Cluster itself is to be deleted: its time after the end is over.
    pub delete: bool,
    /// How long until to look again although nothing changed.
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

    /// The ranks that [`Step::drain`] wants and that were placed leave where they are. Their slices there go first, and
    /// their new ones follow when they have stopped.
    pub fn drained(&mut self, placed: &BTreeSet<u32>) {
        self.drain = None;
        self.keep.retain(|member| !placed.contains(&member.rank));
        self.cause = Some(Cause::Drained);
    }

    fn wake_after(&mut self, wait: Millis) {
        self.wake = Some(self.wake.map_or(wait, |earlier| earlier.min(wait)));
    }
}
