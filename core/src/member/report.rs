//! What the hub is told of a slice.

use super::{Member, Phase, Slice, Verdict, Wanted, Wish};
use crate::words::Reservation;

/// Why, a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Nothing to say.
    #[default]
    None,
    /// This agent refuses such pods.
    PodRefused,
    /// Stopped for want of a lease.
    LeaseExpired,
    /// The pod is gone, by nobody that this agent knows.
    Vanished,
    /// It runs, and a GPU that it holds is Unhealthy.
    GpuUnhealthy,
    /// A word of the Site's.
    Site(String),
}

impl Reason {
    fn site(word: Option<&String>) -> Self {
        word.map_or(Self::None, |word| Self::Site(word.clone()))
    }
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberPhase {
    /// Not started yet.
    Pending,
    /// On a node, not Ready.
    Starting,
    /// Running and Ready.
    Ready,
    /// Being stopped; holds its GPUs.
    Stopping,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Gone without its own doing.
    Lost,
}

/// What became of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// The member.
    pub member: Member,
    /// Where it stands.
    pub phase: MemberPhase,
    /// The Node that it is on.
    pub node: Option<String>,
    /// Its address inside the Site.
    pub address: Option<String>,
    /// Why, a word.
    pub reason: Reason,
    /// Why, in words.
    pub message: String,
}

/// What the hub is told of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Epoch that it answers.
    pub epoch: u64,
    /// Generation that it answers.
    pub generation: i64,
    /// Whether capacity is held.
    pub reservation: Reservation,
    /// Why not, a word.
    pub reason: Reason,
    /// Why not, in words.
    pub message: String,
    /// Every member that the slice names, and those that still hold GPUs here.
    pub members: Vec<MemberReport>,
    /// Nothing is left here.
    pub gone: bool,
}

/// What the hub is told of a slice; `None` while it has not said what it wants.
#[must_use]
pub fn report(slice: &Slice) -> Option<Report> {
    match &slice.wish {
        Wish::Unsaid => None,
        Wish::Dropped => Some(Report {
            epoch: slice.epoch(),
            members: slice.strangers().filter_map(|member| describe(slice, member, true)).collect(),
            gone: slice.is_gone(),
            ..Report::default()
        }),
        Wish::Wanted(wanted) => {
            let (reservation, reason, message) = reservation(slice, wanted);
            let mut members: Vec<MemberReport> =
                wanted.members.iter().filter_map(|placed| describe(slice, placed.member, false)).collect();
            members.extend(slice.strangers().filter_map(|member| describe(slice, member, true)));
            members.sort_by_key(|report| report.member);
            Some(Report {
                epoch: wanted.epoch,
                generation: wanted.generation,
                reservation,
                reason,
                message,
                members,
                gone: false,
            })
        }
    }
}

fn reservation(slice: &Slice, wanted: &Wanted) -> (Reservation, Reason, String) {
    if let Some(refusal) = &wanted.refusal {
        return (Reservation::Refused, Reason::PodRefused, refusal.clone());
    }
    let Some(gang) = slice.gang.as_ref().filter(|gang| !gang.stopping && gang.answers(wanted)) else {
        return (Reservation::Pending, Reason::None, String::new());
    };
    let reservation = match gang.verdict {
        Verdict::Pending => Reservation::Pending,
        Verdict::Reserved | Verdict::Bound => Reservation::Reserved,
        Verdict::Refused => Reservation::Refused,
    };
    (reservation, Reason::site(gang.reason.as_ref()), gang.message.clone().unwrap_or_default())
}

/// `unwanted`: it is stopped because the slice does not name it.
fn describe(slice: &Slice, member: Member, unwanted: bool) -> Option<MemberReport> {
    let without_pod = |phase, reason, message: &str| {
        Some(MemberReport { member, phase, node: None, address: None, reason, message: message.to_owned() })
    };
    let Some(pod) = slice.pods.get(&member).or_else(|| slice.ended.get(&member)) else {
        if let Some(orphan) = slice.orphans.get(&member) {
            let expired = member.incarnation <= slice.stopped();
            return Some(MemberReport {
                member,
                phase: MemberPhase::Stopping,
                node: Some(orphan.node.clone()),
                address: None,
                reason: if expired { Reason::LeaseExpired } else { Reason::Vanished },
                message: "its pod is gone; its node's watchdog has not said yet that nothing of it runs".to_owned(),
            });
        }
        if member.incarnation <= slice.stopped() {
            return without_pod(MemberPhase::Lost, Reason::LeaseExpired, "stopped: no lease from the hub in time");
        }
        if slice.was_started(member) {
            return without_pod(MemberPhase::Lost, Reason::Vanished, "its pod was removed by the Site");
        }
        return without_pod(MemberPhase::Pending, Reason::None, "");
    };
    let phase = match pod.phase {
        Phase::Succeeded => MemberPhase::Succeeded,
        Phase::Failed => MemberPhase::Failed,
        Phase::Lost => MemberPhase::Lost,
        Phase::Waiting | Phase::Starting | Phase::Ready if pod.stopping || unwanted => MemberPhase::Stopping,
        Phase::Waiting => MemberPhase::Pending,
        Phase::Starting => MemberPhase::Starting,
        Phase::Ready => MemberPhase::Ready,
    };
    let expired = matches!(phase, MemberPhase::Stopping | MemberPhase::Lost) && member.incarnation <= slice.stopped();
    let mut reason = if expired { Reason::LeaseExpired } else { Reason::site(pod.reason.as_ref()) };
    let mut message = pod.message.clone().unwrap_or_default();
    if let Some(ailment) = slice.ailing.get(&member).filter(|_| phase != MemberPhase::Succeeded) {
        // Whatever else is to be said of the member goes first.
        if reason == Reason::None {
            reason = Reason::GpuUnhealthy;
        }
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(ailment);
    }
    Some(MemberReport { member, phase, node: pod.node.clone(), address: pod.address.clone(), reason, message })
}
