//! When a drain began, also for an agent that was started since. Pure.

use std::time::Duration;

use atoll_api::{Availability, SitePolicy};
use k8s_openapi::jiff::Timestamp;

/// A drain that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drain {
    /// When an agent first saw it, as the policy's status keeps it.
    pub(super) since: Timestamp,
    /// When this process first saw it, by the boot-time clock, and how long it had been under way then.
    seen: (Duration, Duration),
}

impl Drain {
    /// The drain that `policy` asks for, if it does; `before` is what this process knew.
    ///
    /// Time that passed before this process was there is counted by the wall clock, and never below zero.
    pub(super) fn of(policy: &SitePolicy, before: Option<Self>, now: Duration, wall: Timestamp) -> Option<Self> {
        if policy.spec.availability != Availability::Draining {
            return None;
        }
        Some(before.unwrap_or_else(|| {
            let since = policy.status.as_ref().and_then(|status| status.draining_since.as_ref());
            let since = since.map_or(wall, |time| time.0);
            let before = wall.duration_since(since);
            Self { since, seen: (now, Duration::try_from(before).unwrap_or(Duration::ZERO)) }
        }))
    }

    /// When its deadline is over, by the boot-time clock.
    pub(super) fn deadline(&self, policy: &SitePolicy) -> Duration {
        let (seen, before) = self.seen;
        let patience = Duration::from_secs(u64::try_from(policy.spec.drain_seconds).unwrap_or(0));
        seen.saturating_add(patience.saturating_sub(before))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(availability: &str, seconds: i32, since: Option<i64>) -> SitePolicy {
        let mut policy = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "SitePolicy", "metadata": {"name": "default"},
            "spec": {"availability": availability, "drainSeconds": seconds},
        });
        if let Some(since) = since {
            policy["status"] = json!({"drainingSince": at(since).to_string()});
        }
        serde_json::from_value(policy).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_drain_counts_from_when_it_was_first_seen_whatever_was_restarted_since() {
        for (since, deadline) in [
            (None, 1300),
            // By an earlier process, or by this one if the status came back before.
            (Some(0), 1300),
            (Some(-100), 1200),
            (Some(-300), 1000),
            (Some(-9999), 1000),
            // A clock that was turned back.
            (Some(50), 1300),
        ] {
            let policy = policy("Draining", 300, since);
            let drain = Drain::of(&policy, None, s(1000), at(0)).unwrap();
            assert_eq!(drain.deadline(&policy), s(deadline), "{since:?}");
            assert_eq!(drain.since, at(since.unwrap_or(0)));
        }
    }

    #[test]
    fn a_drain_goes_on_by_the_boot_time_clock_and_may_become_longer_or_shorter() {
        let began = Drain::of(&policy("Draining", 300, None), None, s(1000), at(0));
        let later = policy("Draining", 100, Some(0));
        // The wall clock jumps meanwhile.
        let goes_on = Drain::of(&later, began, s(1050), at(500_000));
        assert_eq!(goes_on, began);
        assert_eq!(goes_on.unwrap().deadline(&later), s(1100));
    }

    #[test]
    fn a_drain_that_was_called_off_is_forgotten() {
        let began = Drain::of(&policy("Draining", 300, None), None, s(1000), at(0));
        assert_eq!(Drain::of(&policy("Paused", 300, Some(0)), began, s(1001), at(1)), None);
    }
}
