//! What a watchdog leaves on its node: for its own restart, and for the device plugin, which asks before a container of a
//! member starts.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Write as _};
use std::time::Duration;

use thiserror::Error;

use super::{Cause, Clocks, Lease};
use crate::lease::{State, Times};
use crate::member::Member;

/// The first line; another number is another format.
const FORMAT: &str = "atoll-watchdog 1";

/// A member of which something runs on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `namespace/name`.
    pub name: String,
    /// UID of its Cluster.
    pub cluster_uid: String,
    /// Which member it is.
    pub member: Member,
    /// When it stops and is killed without a lease.
    pub times: Times,
    /// It is being killed, and why.
    pub condemned: Option<Cause>,
}

/// The lease, and the members that the watchdog knows of. Printed and parsed as lines of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Changes with each boot of the node.
    pub boot_id: String,
    /// The lease.
    pub lease: Lease,
    /// The members of which anything runs here, by the UIDs of their pods. No name in it has white space.
    pub pods: BTreeMap<String, Pod>,
}

impl Display for Saved {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{FORMAT}")?;
        writeln!(f, "boot {}", self.boot_id)?;
        f.write_str("lease ")?;
        // Nanoseconds.
        match self.lease {
            Lease::None { until } => write!(f, "none {}", until.as_nanos())?,
            Lease::Jumped => f.write_str("jumped")?,
            Lease::Granted { granted, asked } => {
                write!(f, "granted {} {} {}", granted.as_nanos(), asked.boot.as_nanos(), asked.wall.as_nanos())?;
            }
        }
        f.write_char('\n')?;
        self.pods.iter().try_for_each(|(uid, pod)| {
            let Pod { name, cluster_uid, member: Member { rank, incarnation }, times, condemned } = pod;
            let condemned = condemned.map_or("-", Cause::word);
            writeln!(f, "pod {uid} {name} {cluster_uid} {rank} {incarnation} {times} {condemned}")
        })
    }
}

/// The text is not what a watchdog writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not what a watchdog of this version writes")]
pub struct UnreadableError;

impl std::str::FromStr for Saved {
    type Err = UnreadableError;

    fn from_str(text: &str) -> Result<Self, UnreadableError> {
        let mut lines = text.lines();
        let mut line = |word: &str| lines.next().and_then(|line| line.strip_prefix(word)).ok_or(UnreadableError);
        line(FORMAT).and_then(|rest| if rest.is_empty() { Ok(()) } else { Err(UnreadableError) })?;
        let boot_id = line("boot ")?.to_owned();
        let lease = lease(line("lease ")?).ok_or(UnreadableError)?;
        let pods = lines.map(|line| pod(line.strip_prefix("pod ")?));
        Ok(Self { boot_id, lease, pods: pods.collect::<Option<_>>().ok_or(UnreadableError)? })
    }
}

fn lease(text: &str) -> Option<Lease> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let times: Vec<Duration> = words.map(|word| word.parse().ok().map(Duration::from_nanos)).collect::<Option<_>>()?;
    match (kind, times.as_slice()) {
        ("none", &[until]) => Some(Lease::None { until }),
        ("jumped", []) => Some(Lease::Jumped),
        ("granted", &[granted, boot, wall]) if granted <= boot => {
            Some(Lease::Granted { granted, asked: Clocks { boot, wall } })
        }
        _ => None,
    }
}

fn pod(text: &str) -> Option<(String, Pod)> {
    let words: Vec<&str> = text.split(' ').collect();
    let &[uid, name, cluster_uid, rank, incarnation, times, condemned] = words.as_slice() else { return None };
    let pod = Pod {
        name: name.to_owned(),
        cluster_uid: cluster_uid.to_owned(),
        member: Member { rank: rank.parse().ok()?, incarnation: incarnation.parse().ok()? },
        times: Times::parse(times)?,
        condemned: if condemned == "-" { None } else { Some(Cause::of_word(condemned)?) },
    };
    Some((uid.to_owned(), pod))
}

/// Whether a container of a pod may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Granted,
    /// The watchdog does not know the pod yet: it looks at the container runtime as soon as that says that a pod is new.
    Unlisted,
    /// It may not.
    Refused(Refusal),
}

/// Why a container of a member may not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No watchdog has run since the node booted.
    #[error(
        "the watchdog has written nothing since this node booted: see that its DaemonSet atoll-watchdog runs on this node"
    )]
    OtherBoot,
    /// The agent has not granted anything.
    #[error(
        "this node has had no lease since it booted: see that the agent runs, that it is connected to the hub, and that the \
         watchdog reaches it"
    )]
    NeverGranted,
    /// The clocks moved against each other.
    #[error(
        "the wall clock moved against boot time since this node's lease was granted: it ends by itself with the agent's next \
         answer to the watchdog"
    )]
    ClockJump,
    /// The pod is being killed.
    #[error("the watchdog is killing this pod ({}): the hub starts a new one when it may", .0.word())]
    Condemned(Cause),
    /// The lease is too old.
    #[error(
        "this node's lease is {}.{:03} s old, and this member stops at {} s: see that the agent is connected to the hub, and \
         that the watchdog runs and reaches the agent", .age.as_secs(), .age.subsec_millis(), .stop.as_secs()
    )]
    Expired {
        /// How old it is.
        age: Duration,
        /// When the member stops.
        stop: Duration,
    },
}

/// Whether a container of the pod `namespace/name` may start at `now` by what the watchdog has written.
#[must_use]
pub fn admission(saved: &Saved, boot_id: &str, now: Clocks, pod: &str) -> Admission {
    let stale = matches!(saved.lease, Lease::Granted { asked, .. } if asked.boot > now.boot);
    if saved.boot_id != boot_id || stale {
        return Admission::Refused(Refusal::OtherBoot);
    }
    // Two pods have one name while the older one of them ends: both have to be allowed.
    let mut pods = saved.pods.values().filter(|known| known.name == pod).peekable();
    if pods.peek().is_none() {
        return Admission::Unlisted;
    }
    pods.find_map(|pod| refusal(saved.lease.at(now), now, pod)).map_or(Admission::Granted, Admission::Refused)
}

fn refusal(lease: Lease, now: Clocks, pod: &Pod) -> Option<Refusal> {
    if let Some(cause) = pod.condemned {
        return Some(Refusal::Condemned(cause));
    }
    let Times::At { stop, .. } = pod.times else { return None };
    if lease.state(now, pod.times) == State::Live {
        return None;
    }
    Some(match lease {
        Lease::Granted { granted, .. } => Refusal::Expired { age: now.boot.saturating_sub(granted), stop },
        Lease::None { .. } => Refusal::NeverGranted,
        Lease::Jumped => Refusal::ClockJump,
    })
}
