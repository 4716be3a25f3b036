//! How long members may run without news from the hub.
//!
//! Times are counted from when the agent sent the heartbeat that the newest grant answers, on a clock that runs on
//! while the machine sleeps. Before the first grant of a process they are counted from its start.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

/// When members stop without a lease; counted from the newest grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Times {
    /// They stop and die by these times.
    At {
        /// They are asked to stop.
        stop: Duration,
        /// They are killed; after `stop`.
        kill: Duration,
    },
    /// They run on without a lease.
    Never,
}

impl Times {
    /// Whole seconds; a kill at or before the stop is moved to one second after it, so that the order of the two holds
    /// whatever was sent.
    #[must_use]
    pub fn from_seconds(stop: u64, kill: u64) -> Self {
        Self::At { stop: Duration::from_secs(stop), kill: Duration::from_secs(kill.max(stop.saturating_add(1))) }
    }

    /// Reads what [`Display`] writes; `None`: something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == NEVER {
            return Some(Self::Never);
        }
        let (stop, kill) = text.split_once('/')?;
        Some(Self::from_seconds(stop.parse().ok()?, kill.parse().ok()?))
    }

    /// When they are killed; `None`: never.
    #[must_use]
    pub fn kill(&self) -> Option<Duration> {
        match self {
            Self::At { kill, .. } => Some(*kill),
            Self::Never => None,
        }
    }

    /// The longest that a pod may take to end, whole seconds: one second below the gap between stop and kill, at least 1.
    #[must_use]
    pub fn longest_grace_seconds(&self) -> u64 {
        match self {
            Self::At { stop, kill } => kill.saturating_sub(*stop).as_secs().saturating_sub(1).max(1),
            Self::Never => u64::MAX,
        }
    }
}

/// How [`Times::Never`] is written.
const NEVER: &str = "none";

/// Whole seconds until stop and kill as "60/90", or "none".
impl Display for Times {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { stop, kill } => write!(f, "{}/{}", stop.as_secs(), kill.as_secs()),
            Self::Never => f.write_str(NEVER),
        }
    }
}

/// What a lease allows, in rising severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Members run, new ones may start.
    #[default]
    Live,
    /// Members are asked to stop, none starts.
    Stop,
    /// Members are killed.
    Kill,
}

/// What the lease granted at `granted` allows at `now`.
#[must_use]
pub fn state(granted: Duration, now: Duration, times: Times) -> State {
    let Times::At { stop, kill } = times else { return State::Live };
    let age = now.saturating_sub(granted);
    if age >= kill {
        State::Kill
    } else if age >= stop {
        State::Stop
    } else {
        State::Live
    }
}

/// When [`state`] changes next; `None` once it is `Kill`, and where it never changes.
#[must_use]
pub fn next_change(granted: Duration, now: Duration, times: Times) -> Option<Duration> {
    let Times::At { stop, kill } = times else { return None };
    match state(granted, now, times) {
        State::Live => Some(granted.saturating_add(stop)),
        State::Stop => Some(granted.saturating_add(kill)),
        State::Kill => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn members_stop_then_die_at_their_times() {
        let times = Times::from_seconds(60, 90);
        for (now, state_then, next) in [
            (100, State::Live, Some(160)),
            (159, State::Live, Some(160)),
            (160, State::Stop, Some(190)),
            (189, State::Stop, Some(190)),
            (190, State::Kill, None),
            (9_999_999, State::Kill, None),
        ] {
            assert_eq!(state(s(100), s(now), times), state_then, "at {now}");
            assert_eq!(next_change(s(100), s(now), times), next.map(s), "at {now}");
        }
    }

    #[test]
    fn a_grant_from_the_future_is_live() {
        assert_eq!(state(s(100), s(50), Times::from_seconds(10, 20)), State::Live);
    }

    #[test]
    fn who_never_stops_is_live_for_ever() {
        assert_eq!(state(s(0), Duration::MAX, Times::Never), State::Live);
        assert_eq!(next_change(s(0), s(100), Times::Never), None);
        assert_eq!(Times::Never.kill(), None);
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, times) in [("60/90", Times::from_seconds(60, 90)), ("none", Times::Never)] {
            assert_eq!(times.to_string(), text);
            assert_eq!(Times::parse(text), Some(times));
        }
        for other in ["", "60", "60/", "/", "a/b", "-1/5", "None"] {
            assert_eq!(Times::parse(other), None, "{other}");
        }
    }

    #[test]
    fn grace_stays_below_the_gap_between_stop_and_kill() {
        assert_eq!(Times::from_seconds(60, 90).longest_grace_seconds(), 29);
        assert_eq!(Times::from_seconds(60, 61).longest_grace_seconds(), 1);
        assert_eq!(Times::from_seconds(60, 5).longest_grace_seconds(), 1);
    }

    proptest! {
        #[test]
        fn severity_only_rises_with_time(granted in 0u64..1000, a in 0u64..3000, b in 0u64..3000, stop in 0u64..500, gap in 0u64..500) {
            let times = Times::from_seconds(stop, stop + gap);
            let (early, late) = (a.min(b), a.max(b));
            prop_assert!(state(s(granted), s(early), times) <= state(s(granted), s(late), times));
        }

        #[test]
        fn the_state_holds_until_its_next_change_and_not_longer(granted in 0u64..1000, now in 0u64..3000, stop in 0u64..500, gap in 0u64..500) {
            let times = Times::from_seconds(stop, stop + gap);
            let (granted, now) = (s(granted), s(now));
            if let Some(at) = next_change(granted, now, times) {
                prop_assert!(at > now || now < granted);
                prop_assert!(state(granted, at, times) > state(granted, now, times));
                let before = at.saturating_sub(Duration::from_nanos(1));
                if before >= now {
                    prop_assert_eq!(state(granted, before, times), state(granted, now, times));
                }
            }
        }
    }
}
