//! What a Lease says, and what an elector does about it. Pure: times are the caller's boot-time clock.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

/// A Lease as this process last saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The object, None when it does not exist.
    pub lease: Option<Lease>,
    /// When it was first seen so, on this process's boot-time clock. The holder's own times are not compared with
    /// ours: their clocks may differ.
    pub at: Duration,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No Lease: create it.
    Create,
    /// Nobody holds it, or its holder is silent for too long: take it over with this term.
    TakeOver {
        /// The new term.
        term: i64,
    },
    /// Somebody holds it: look again after so long, unless it changes before.
    Wait(Duration),
}

/// What an elector does about what it saw.
pub(crate) fn verdict(seen: &Seen, own_duration: Duration, now: Duration) -> Verdict {
    let Some(lease) = &seen.lease else { return Verdict::Create };
    let spec = lease.spec.clone().unwrap_or_default();
    let next = Verdict::TakeOver { term: i64::from(spec.lease_transitions.unwrap_or(0)) + 1 };
    if spec.holder_identity.as_deref().unwrap_or("").is_empty() {
        return next;
    }
    let duration = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(own_duration, Duration::from_secs);
    let left = duration.saturating_sub(now.saturating_sub(seen.at));
    if left.is_zero() { next } else { Verdict::Wait(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    const OWN: Duration = Duration::from_secs(15);

    fn held(holder: &str, transitions: i32) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(10),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn absent_lease_is_created() {
        let seen = Seen { lease: None, at: Duration::ZERO };
        assert_eq!(verdict(&seen, OWN, Duration::ZERO), Verdict::Create);
    }

    #[test]
    fn held_lease_is_waited_for_by_its_own_duration_from_when_it_was_seen() {
        let seen = Seen { lease: Some(held("a", 3)), at: Duration::from_secs(100) };
        assert_eq!(verdict(&seen, OWN, Duration::from_secs(104)), Verdict::Wait(Duration::from_secs(6)));
        assert_eq!(verdict(&seen, OWN, Duration::from_secs(110)), Verdict::TakeOver { term: 4 });
    }

    #[test]
    fn released_lease_is_taken_at_once_with_a_higher_term() {
        let seen = Seen { lease: Some(held("", 7)), at: Duration::from_secs(100) };
        assert_eq!(verdict(&seen, OWN, Duration::from_secs(100)), Verdict::TakeOver { term: 8 });
    }
}
