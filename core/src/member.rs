//! What an agent does with the members of one slice: what the hub wants and what the Site shows become the next steps
//! and the report.
//!
//! Everything here can be derived again after any kill: from the Site's objects and from what the hub sends. The rules:
//! nothing starts before the hub has said everything that it lists and before everything else is gone; a member's older
//! incarnations are gone before its newer one exists; an incarnation that was started once is never started again. Gone
//! is what its kubelet or its node's watchdog says has ended, and what no lease keeps alive any more: not what the Site's
//! API merely does not show.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lease::{State, Times};

mod report;
#[cfg(test)]
mod tests;

pub use crate::words::Reservation;
pub use report::{MemberPhase, MemberReport, Reason, Report, report};

/// One life of one rank. Ordered by rank, then incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Rank in the Cluster, from 0.
    pub rank: u32,
    /// Epoch that placed it.
    pub incarnation: u64,
}

/// A member and where the hub wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The member.
    pub member: Member,
    /// The Node that the hub chose.
    pub node: String,
}

/// What is to be done with members that have no pod yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Keep capacity free for them.
    Hold,
    /// Start them.
    Run,
}

/// A slice as the hub wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Epoch of the commit that it follows.
    pub epoch: u64,
    /// Generation of the object on the hub.
    pub generation: i64,
    /// Hold or run.
    pub mode: Mode,
    /// The members, in order of rank, each rank once.
    pub members: Vec<Placed>,
    /// When members stop without a lease.
    pub times: Times,
    /// Why this agent refuses such pods; `None`: it does not.
    pub refusal: Option<String>,
}

impl Wanted {
    /// Whether a slice of this epoch and generation may take the place of `self`: older ones are ignored.
    #[must_use]
    pub fn yields_to(&self, epoch: u64, generation: i64) -> bool {
        epoch > self.epoch || (epoch == self.epoch && generation >= self.generation)
    }

    fn names(&self, member: Member) -> bool {
        let at = self.members.binary_search_by_key(&member.rank, |placed| placed.member.rank);
        at.is_ok_and(|at| self.members[at].member == member)
    }
}

/// What the hub wants of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Not said yet, since this agent's start.
    #[default]
    Unsaid,
    /// These members.
    Wanted(Wanted),
    /// Nothing: it is being deleted, or the hub does not list it.
    Dropped,
}

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not on a node yet.
    Waiting,
    /// On a node, not Ready.
    Starting,
    /// Running and Ready.
    Ready,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Ended by the Site (evicted, its node gone), not by itself.
    Lost,
}

impl Phase {
    /// Whether the pod has ended and holds no GPUs any more.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Lost)
    }
}

/// A pod of a member as the Site shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// How far it has come.
    pub phase: Phase,
    /// It is being deleted.
    pub stopping: bool,
    /// It is being deleted without grace.
    pub killed: bool,
    /// Its Node is lost and nothing of it runs any more: no kubelet will remove it. It is over.
    pub abandoned: bool,
    /// The Node that it is on.
    pub node: Option<String>,
    /// Its address inside the Site.
    pub address: Option<String>,
    /// Why it ended, a word.
    pub reason: Option<String>,
    /// Why it ended, in words.
    pub message: Option<String>,
}

impl Pod {
    fn holds_gpus(&self) -> bool {
        !self.phase.is_over()
    }
}

/// A member whose pod is gone without its kubelet's word that it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The Node that it was on.
    pub node: String,
    /// When its pod was found missing, by the agent's boot-time clock.
    pub since: Duration,
}

/// What the Site's scheduler says of a gang.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet about the present specification.
    #[default]
    Pending,
    /// Capacity is held for every member.
    Reserved,
    /// Every member is bound.
    Bound,
    /// Not to be had.
    Refused,
}

/// The Gang of a slice as the Site shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gang {
    /// Epoch of the slice that it was made from.
    pub epoch: u64,
    /// Hold or run.
    pub mode: Mode,
    /// Its members, in order.
    pub members: Vec<Placed>,
    /// When members stop without a lease, as the slice said.
    pub times: Times,
    /// What the scheduler says.
    pub verdict: Verdict,
    /// Why, a word.
    pub reason: Option<String>,
    /// Why, in words.
    pub message: Option<String>,
    /// Members that the scheduler says it has bound: they have had a pod.
    pub bound: BTreeSet<Member>,
    /// Members of this and lower incarnations were stopped for want of a lease.
    pub stopped_incarnation: u64,
    /// It is being deleted.
    pub stopping: bool,
}

impl Gang {
    fn answers(&self, wanted: &Wanted) -> bool {
        self.epoch == wanted.epoch
            && self.mode == wanted.mode
            && self.times == wanted.times
            && self.members == wanted.members
    }
}

/// Everything known about one slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// What the hub wants.
    pub wish: Wish,
    /// Its Gang.
    pub gang: Option<Gang>,
    /// Its pods.
    pub pods: BTreeMap<Member, Pod>,
    /// Members without a pod of which something may still run, see [`crate::nodes::Nodes::may_run`]; here as pods are.
    pub orphans: BTreeMap<Member, Orphan>,
    /// Members whose pod has been there, as this process has seen or done.
    pub started: BTreeSet<Member>,
    /// Pods that had ended before they were removed, as they were last.
    pub ended: BTreeMap<Member, Pod>,
    /// Members that hold a GPU that is Unhealthy, or did when they ended: which GPU, and what is wrong with it.
    pub ailing: BTreeMap<Member, String>,
    /// As [`Gang::stopped_incarnation`], as this process has decided; the higher of both counts.
    pub stopped_incarnation: u64,
}

impl Slice {
    /// When members stop without a lease: as the hub last said, else as the Site's Gang remembers.
    #[must_use]
    pub fn times(&self) -> Option<Times> {
        match &self.wish {
            Wish::Wanted(wanted) => Some(wanted.times),
            Wish::Unsaid | Wish::Dropped => self.gang.as_ref().map(|gang| gang.times),
        }
    }

    /// The highest epoch seen of this slice.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        let said = if let Wish::Wanted(wanted) = &self.wish { wanted.epoch } else { 0 };
        said.max(self.gang.as_ref().map_or(0, |gang| gang.epoch))
    }

    /// Members that hold GPUs here and that the hub does not name.
    pub fn strangers(&self) -> impl Iterator<Item = Member> + '_ {
        self.holding().filter(|member| match &self.wish {
            Wish::Unsaid | Wish::Dropped => true,
            Wish::Wanted(wanted) => !wanted.names(*member),
        })
    }

    /// Members that hold GPUs here, or may.
    fn holding(&self) -> impl Iterator<Item = Member> + '_ {
        self.pods
            .iter()
            .filter(|(_, pod)| pod.holds_gpus())
            .map(|(member, _)| *member)
            .chain(self.orphans.keys().copied())
    }

    /// Members that are here: none of their ranks may start again.
    pub fn present(&self) -> impl Iterator<Item = Member> + '_ {
        self.pods.keys().chain(self.orphans.keys()).copied()
    }

    /// Whether any member here holds GPUs.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.holding().next().is_some()
    }

    /// Nothing of it is left on the Site.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.present().next().is_none() && self.gang.is_none()
    }

    /// Members of this and lower incarnations were stopped for want of a lease and never start again.
    #[must_use]
    pub fn stopped(&self) -> u64 {
        self.stopped_incarnation.max(self.gang.as_ref().map_or(0, |gang| gang.stopped_incarnation))
    }

    fn was_started(&self, member: Member) -> bool {
        self.started.contains(&member) || self.gang.as_ref().is_some_and(|gang| gang.bound.contains(&member))
    }
}

/// The namespace of a Cluster on the Site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// There is none.
    #[default]
    Absent,
    /// It is there; what belongs into it may be missing.
    Bare,
    /// It is there with all that members need.
    Furnished,
    /// It is being deleted.
    Stopping,
}

/// What surrounds a slice.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The namespace of its Cluster.
    pub namespace: Namespace,
    /// The hub has said everything that it lists in this session, and everything else is gone.
    pub may_start: bool,
    /// What the lease allows this slice.
    pub lease: State,
    /// Members of the same Cluster that are here in another slice.
    pub elsewhere: &'a BTreeSet<Member>,
}

/// One step on the Site. Steps are taken in order; creations of pods that follow each other may be taken together, and so
/// may deletions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the namespace and what belongs into it as it should be.
    Furnish,
    /// Make the Gang as the slice wants it.
    ApplyGang,
    /// Remember on the Gang that members up to this incarnation were stopped for want of a lease. Comes before their
    /// deletion, so that no kill in between lets them start again.
    MarkStopped(u64),
    /// Create the pod of a member.
    CreatePod(Member),
    /// Delete the pod of a member.
    DeletePod {
        /// The member.
        member: Member,
        /// Without grace.
        kill: bool,
    },
    /// Remove the pod of a member at once, which nobody else will: nothing of it runs any more.
    RemovePod(Member),
    /// Delete the Gang.
    DeleteGang,
}

/// The next steps for a slice; none when the Site is as it should be, or something is awaited.
#[must_use]
pub fn plan(slice: &Slice, around: &Around<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    let stopped = stop_expired(slice, around.lease, &mut actions);
    let kill = around.lease == State::Kill;
    for (member, pod) in &slice.pods {
        // Wanted or not: should its node come back, it must not find it.
        if pod.abandoned {
            actions.push(Action::RemovePod(*member));
            continue;
        }
        let unwanted = match &slice.wish {
            Wish::Unsaid => false,
            Wish::Wanted(wanted) => !wanted.names(*member),
            Wish::Dropped => true,
        };
        let expired = member.incarnation <= stopped && pod.holds_gpus();
        let due = !pod.stopping || (kill && pod.holds_gpus() && !pod.killed);
        if (unwanted || expired) && due {
            actions.push(Action::DeletePod { member: *member, kill: kill && pod.holds_gpus() });
        }
    }
    match &slice.wish {
        Wish::Unsaid => {}
        Wish::Dropped => {
            if slice.present().next().is_none() && slice.gang.as_ref().is_some_and(|gang| !gang.stopping) {
                actions.push(Action::DeleteGang);
            }
        }
        Wish::Wanted(wanted) => start(slice, wanted, around, stopped, &mut actions),
    }
    actions
}

/// Up to which incarnation members are stopped for want of a lease; marks it first when that is news.
fn stop_expired(slice: &Slice, lease: State, actions: &mut Vec<Action>) -> u64 {
    let stopped = slice.stopped();
    if lease == State::Live || slice.wish == Wish::Dropped {
        return stopped;
    }
    match slice.holding().map(|member| member.incarnation).max() {
        Some(newest) if newest > stopped => {
            actions.push(Action::MarkStopped(newest));
            newest
        }
        _ => stopped,
    }
}

fn start(slice: &Slice, wanted: &Wanted, around: &Around<'_>, stopped: u64, actions: &mut Vec<Action>) {
    let gang_stopping = slice.gang.as_ref().is_some_and(|gang| gang.stopping);
    if !around.may_start
        || around.lease != State::Live
        || wanted.refusal.is_some()
        || wanted.members.is_empty()
        || gang_stopping
        || around.namespace == Namespace::Stopping
    {
        return;
    }
    // Whoever is here under a rank, here or in another slice of the Cluster, is gone before the rank's next one comes; and
    // the gang waits for that too, since the capacity that the scheduler is to judge is still taken.
    let held: BTreeMap<u32, BTreeSet<u64>> = {
        let mut held = BTreeMap::<u32, BTreeSet<u64>>::new();
        for member in slice.present().chain(around.elsewhere.iter().copied()) {
            held.entry(member.rank).or_default().insert(member.incarnation);
        }
        held
    };
    let rank_is_held =
        |member: Member| held.get(&member.rank).is_some_and(|at| at.iter().any(|i| *i != member.incarnation));
    let absent = |member: &Member| !slice.pods.contains_key(member) && !slice.orphans.contains_key(member);
    if wanted.members.iter().map(|placed| placed.member).any(|member| absent(&member) && rank_is_held(member)) {
        return;
    }
    if around.namespace != Namespace::Furnished {
        actions.push(Action::Furnish);
    }
    if !slice.gang.as_ref().is_some_and(|gang| gang.answers(wanted)) {
        actions.push(Action::ApplyGang);
    }
    if wanted.mode == Mode::Run {
        let new = wanted.members.iter().map(|placed| placed.member).filter(|member| {
            absent(member)
                && !around.elsewhere.contains(member)
                && !slice.was_started(*member)
                && member.incarnation > stopped
        });
        actions.extend(new.map(Action::CreatePod));
    }
}
