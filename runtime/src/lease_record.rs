//! What a Lease says, and what an elector does about it. Pure: times are the caller's boot-time clock.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A Lease as this process last saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The object, None when it does not exist.
    lease: Option<Lease>,
    /// Until when its holder may lead, on this process's boot-time clock. The holder's own times are not compared with
    /// ours: their clocks may differ.
    until: Duration,
    /// The highest term seen so far.
    term: i64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No Lease: create it with this term.
    Create {
        /// The new term.
        term: i64,
    },
    /// Nobody holds it, or its holder is silent for too long: take it over with this term.
    TakeOver {
        /// The new term.
        term: i64,
    },
    /// Somebody holds it: look again after so long, unless it changes before.
    Wait(Duration),
}

impl Seen {
    /// The Lease is seen as `lease` at `now`; `before` is how it was seen last. `identity` is this process's own, and
    /// `usual` what a Lease lasts that does not say how long.
    pub fn new(before: Option<&Self>, lease: Option<Lease>, identity: &str, usual: Duration, now: Duration) -> Self {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let until = match (&lease, before) {
            // Seen again: its holder did not renew it.
            (Some(lease), Some(before)) if before.lease.as_ref().is_some_and(|b| version(b) == version(lease)) => {
                before.until
            }
            // Ours, although we do not lead: the answer to our write was lost.
            (Some(lease), _) if is_held_by(lease, "") || is_held_by(lease, identity) => now,
            (Some(lease), _) => now + duration_of(lease).unwrap_or(usual),
            // Deleted: its holder may lead until it notices.
            (None, Some(before)) => before.until,
            (None, None) => now,
        };
        let term = lease.as_ref().map_or(0, term_of).max(before.map_or(0, |before| before.term));
        Self { lease, until, term }
    }

    /// What an elector does about it.
    pub fn verdict(&self, now: Duration) -> Verdict {
        let left = self.until.saturating_sub(now);
        let term = self.term + 1;
        match &self.lease {
            _ if !left.is_zero() => Verdict::Wait(left),
            Some(_) => Verdict::TakeOver { term },
            None => Verdict::Create { term },
        }
    }

    /// Its metadata, to write over exactly this version.
    pub fn metadata(&self) -> ObjectMeta {
        self.lease.as_ref().map(|lease| lease.metadata.clone()).unwrap_or_default()
    }
}

/// Whether a Lease names `identity`; empty: whether it names nobody.
pub(crate) fn is_held_by(lease: &Lease, identity: &str) -> bool {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default() == identity
}

/// The term that a Lease carries.
pub(crate) fn term_of(lease: &Lease) -> i64 {
    i64::from(lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0))
}

fn duration_of(lease: &Lease) -> Option<Duration> {
    let seconds = lease.spec.as_ref()?.lease_duration_seconds?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    const OWN: Duration = Duration::from_secs(15);

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn held(holder: &str, transitions: i32, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(10),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    fn seen(before: Option<&Seen>, lease: impl Into<Option<Lease>>, at: u64) -> Seen {
        Seen::new(before, lease.into(), "me", OWN, s(at))
    }

    #[test]
    fn absent_lease_is_created() {
        assert_eq!(seen(None, None::<Lease>, 0).verdict(s(0)), Verdict::Create { term: 1 });
    }

    #[test]
    fn held_lease_is_waited_for_by_its_own_duration_from_when_it_was_seen() {
        let seen = seen(None, held("a", 3, "1"), 100);
        assert_eq!(seen.verdict(s(104)), Verdict::Wait(s(6)));
        assert_eq!(seen.verdict(s(110)), Verdict::TakeOver { term: 4 });
    }

    #[test]
    fn a_renewal_is_waited_for_anew_and_the_same_lease_seen_again_is_not() {
        let first = seen(None, held("a", 3, "1"), 100);
        let again = seen(Some(&first), held("a", 3, "1"), 109);
        assert_eq!(again.verdict(s(110)), Verdict::TakeOver { term: 4 });
        let renewed = seen(Some(&again), held("a", 3, "2"), 109);
        assert_eq!(renewed.verdict(s(110)), Verdict::Wait(s(9)));
    }

    #[test]
    fn a_lease_that_does_not_say_how_long_it_lasts_lasts_as_long_as_our_own() {
        let mut lease = held("a", 3, "1");
        lease.spec.as_mut().unwrap().lease_duration_seconds = None;
        assert_eq!(seen(None, lease, 100).verdict(s(100)), Verdict::Wait(OWN));
    }

    #[test]
    fn released_lease_is_taken_at_once_with_a_higher_term() {
        let before = seen(None, held("a", 7, "1"), 95);
        assert_eq!(seen(Some(&before), held("", 7, "2"), 100).verdict(s(100)), Verdict::TakeOver { term: 8 });
    }

    #[test]
    fn our_own_lease_whose_answer_was_lost_is_taken_at_once_with_a_higher_term() {
        let before = seen(None, held("a", 3, "1"), 100);
        assert_eq!(seen(Some(&before), held("me", 4, "2"), 111).verdict(s(111)), Verdict::TakeOver { term: 5 });
    }

    #[test]
    fn a_deleted_lease_is_waited_for_like_a_held_one_and_its_term_is_not_used_again() {
        let before = seen(None, held("a", 7, "1"), 100);
        let deleted = seen(Some(&before), None::<Lease>, 104);
        assert_eq!(deleted.verdict(s(104)), Verdict::Wait(s(6)));
        assert_eq!(deleted.verdict(s(110)), Verdict::Create { term: 8 });
    }
}
