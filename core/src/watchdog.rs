//! What the watchdog of a node does: how long the node's lease holds, and which members die when it does not.
//!
//! The lease of a node begins when its watchdog asked, minus the age that the agent answered: earlier than it really was,
//! never later. It is counted on the node's boot-time clock, so that no two machines' clocks are compared. The wall clock
//! serves for one thing: where it moves against boot time, the machine was stopped without either noticing (a paused
//! virtual machine), or somebody set it, and what boot time says of a lease is not believed any more.
//!
//! The agent asks members to stop; the watchdog only kills, and only members: pods that say so by their labels.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lease::{self, State, Times};

mod file;
#[cfg(test)]
mod tests;

pub use file::{Admission, Pod, Refusal, Saved, UnreadableError, admission};

/// How far wall clock and boot time may move against each other while a lease holds. Clocks that are corrected gently move
/// by a thousandth of it between two answers; one that is set moves more, or does no harm.
pub const JUMP: Duration = Duration::from_secs(1);
/// Members that a watchdog finds at its first start since the node booted run so long without a lease: until it has asked.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Both clocks of a node at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clocks {
    /// Since the node booted, suspended time included.
    pub boot: Duration,
    /// Since 1970, as the node believes.
    pub wall: Duration,
}

impl Clocks {
    /// By how much one clock moved more than the other between the two moments.
    #[must_use]
    pub fn moved(self, other: Self) -> Duration {
        self.wall.saturating_add(other.boot).abs_diff(other.wall.saturating_add(self.boot))
    }
}

/// The times of a member, as the annotation of its pod says them. A pod whose annotation is missing (agents did not always
/// write it) or says anything else has the times that Clusters have by default.
#[must_use]
pub fn times_of_annotation(text: Option<&str>) -> Times {
    text.and_then(Times::parse).unwrap_or_else(|| Times::from_seconds(60, 90))
}

/// The lease of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lease {
    /// None was granted since the node booted. Members that were found run until then, so that the agent can be asked.
    None {
        /// On the boot-time clock.
        until: Duration,
    },
    /// The clocks moved against each other since it was granted: there is none until the agent answers anew.
    Jumped,
    /// It was granted.
    Granted {
        /// When, on the boot-time clock; earlier than it really was.
        granted: Duration,
        /// The clocks when the request was sent whose answer said so.
        asked: Clocks,
    },
}

impl Lease {
    /// What it is at `now`: the clocks may have moved.
    #[must_use]
    pub fn at(self, now: Clocks) -> Self {
        match self {
            Self::Granted { asked, .. } if asked.moved(now) > JUMP => Self::Jumped,
            lease => lease,
        }
    }

    /// What it allows at `now` to members with these times.
    #[must_use]
    pub fn state(self, now: Clocks, times: Times) -> State {
        match self.at(now) {
            _ if times == Times::Never => State::Live,
            Self::Granted { granted, .. } => lease::state(granted, now.boot, times),
            Self::None { until } if now.boot < until => State::Stop,
            Self::None { .. } | Self::Jumped => State::Kill,
        }
    }

    /// Whether a container of a member with these times may start at `now`.
    #[must_use]
    pub fn may_start(self, now: Clocks, times: Times) -> bool {
        self.state(now, times) == State::Live
    }

    /// Its age at `now`; `None` without one.
    #[must_use]
    pub fn age(self, now: Clocks) -> Option<Duration> {
        match self.at(now) {
            Self::Granted { granted, .. } => Some(now.boot.saturating_sub(granted)),
            Self::None { .. } | Self::Jumped => None,
        }
    }

    /// When members with these times are killed, if nothing else happens.
    fn kill_at(self, times: Times) -> Option<Duration> {
        let kill = times.kill()?;
        Some(match self {
            Self::Granted { granted, .. } => granted.saturating_add(kill),
            Self::None { until } => until,
            Self::Jumped => Duration::ZERO,
        })
    }
}

/// What an agent answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// How old its newest grant is; `None`: it has had none since its start.
    pub age: Option<Duration>,
    /// UIDs of pods that are to be killed at once.
    pub kill: Vec<String>,
}

/// What an answer did to the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is younger now.
    Renewed,
    /// It stays as it was: the agent has heard nothing newer.
    Unchanged,
    /// It stays as it was: the agent has no grant, or one from before this node booted.
    NotGranted,
    /// The answer was ignored: a later request has been answered, or the clocks moved since this one was sent.
    Late,
}

/// Why a member is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The lease is older than the member's time to kill.
    Expired,
    /// No lease was granted since the node booted.
    NeverGranted,
    /// The clocks moved against each other.
    ClockJump,
    /// The agent named it.
    Named,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Expired, Self::NeverGranted, Self::ClockJump, Self::Named];

    /// The cause that this word says.
    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.word() == word)
    }

    /// One word, as metrics and logs say it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NeverGranted => "never_granted",
            Self::ClockJump => "clock_jump",
            Self::Named => "named",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// UIDs of pods to kill now; again as long as they run.
    pub kill: BTreeMap<String, Cause>,
    /// When the next member is killed, on the boot-time clock, if nothing else happens before.
    pub next: Option<Duration>,
}

/// The watchdog of a node. Members are called by the UIDs of their pods, which never come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    lease: Lease,
    /// Answers to requests that were sent before this are ignored.
    newest: Duration,
    /// Who is killed stays so until it runs no more, whatever is granted meanwhile: half of it may be dead.
    condemned: BTreeMap<String, Cause>,
}

impl Watchdog {
    /// A watchdog that starts, with what an earlier one left. Of the same boot, it goes on as if it had never ended.
    #[must_use]
    pub fn start(saved: Option<&Saved>, boot_id: &str, now: Clocks) -> Self {
        let saved = saved.filter(|saved| saved.boot_id == boot_id);
        let lease = match saved.map(|saved| saved.lease) {
            // Another boot's: boot time never runs backwards.
            Some(Lease::Granted { asked, .. }) if asked.boot > now.boot => None,
            Some(Lease::None { until }) if until > now.boot.saturating_add(PATIENCE) => None,
            lease => lease,
        };
        let lease = lease.unwrap_or(Lease::None { until: now.boot.saturating_add(PATIENCE) });
        let newest = if let Lease::Granted { asked, .. } = lease { asked.boot } else { Duration::ZERO };
        let pods = saved.iter().flat_map(|saved| &saved.pods);
        let condemned = pods.filter_map(|(uid, pod)| Some((uid.clone(), pod.condemned?))).collect();
        Self { lease, newest, condemned }
    }

    /// The lease as it was last looked at.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lease
    }

    /// Takes the answer to the request that was sent at `asked`. Whom it names dies in any case.
    pub fn answered(&mut self, asked: Clocks, now: Clocks, answer: &Answer) -> Taken {
        self.look(now);
        self.condemned.extend(answer.kill.iter().map(|uid| (uid.clone(), Cause::Named)));
        if asked.boot < self.newest || asked.moved(now) > JUMP {
            return Taken::Late;
        }
        self.newest = asked.boot;
        // One from before the boot could only be counted from a later moment than it was granted at.
        let Some(granted) = answer.age.and_then(|age| asked.boot.checked_sub(age)) else { return Taken::NotGranted };
        // An older one than is known comes from an agent that heard of it later, or whose answer took longer. What is
        // known keeps the clocks that it came with: they vouch for this lease only.
        if let Lease::Granted { granted: known, .. } = self.lease
            && known >= granted
        {
            return Taken::Unchanged;
        }
        self.lease = Lease::Granted { granted, asked };
        Taken::Renewed
    }

    /// Whom of `members`, by the UIDs of their pods everybody of whom anything runs here, to kill now.
    pub fn decide(&mut self, now: Clocks, members: &BTreeMap<String, Times>) -> Decision {
        self.look(now);
        self.condemned.retain(|uid, _| members.contains_key(uid));
        let cause = match self.lease {
            Lease::Granted { .. } => Cause::Expired,
            Lease::None { .. } => Cause::NeverGranted,
            Lease::Jumped => Cause::ClockJump,
        };
        let dead = members.iter().filter(|(_, times)| self.lease.state(now, **times) == State::Kill);
        for (uid, _) in dead {
            self.condemned.entry(uid.clone()).or_insert(cause);
        }
        let alive = members.iter().filter(|(uid, _)| !self.condemned.contains_key(*uid));
        let next = alive.filter_map(|(_, times)| self.lease.kill_at(*times)).min();
        Decision { kill: self.condemned.clone(), next }
    }

    /// Notices when the clocks moved against each other.
    fn look(&mut self, now: Clocks) {
        let lease = self.lease.at(now);
        if lease != self.lease {
            self.lease = lease;
            self.newest = now.boot;
        }
    }
}
