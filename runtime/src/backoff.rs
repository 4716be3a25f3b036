//! Exponential backoff with full jitter, per object.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long to wait before the next attempt at each object.
///
/// Full jitter (a uniform draw from zero to the exponential bound) spreads retries of many objects that failed
/// together; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Debug)]
pub struct Backoff<K> {
    base: Duration,
    cap: Duration,
    attempts: Mutex<HashMap<K, u32>>,
}

impl<K: Hash + Eq + Clone> Backoff<K> {
    /// The first wait is at most `base`, each later one at most twice the one before, never more than `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempts: Mutex::new(HashMap::new()) }
    }

    /// The wait before the next attempt at `key`, at least a tenth of the bound so that no loop is hot.
    #[must_use]
    pub fn next(&self, key: &K) -> Duration {
        let attempt = {
            let mut attempts = self.lock();
            let count = attempts.entry(key.clone()).or_insert(0);
            let now = *count;
            *count = count.saturating_add(1);
            now
        };
        let bound = bound(self.base, self.cap, attempt);
        bound.mul_f64(rand::random_range(0.1..=1.0))
    }

    /// `key` succeeded, or is gone: its next failure waits shortly again.
    pub fn reset(&self, key: &K) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        // Counters stay consistent even if a holder panicked.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bound(base: Duration, cap: Duration, attempt: u32) -> Duration {
    2u32.checked_pow(attempt.min(30)).and_then(|factor| base.checked_mul(factor)).map_or(cap, |bound| bound.min(cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_cap() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(2));
        let bounds: Vec<u128> = (0..7).map(|n| bound(base, cap, n).as_millis()).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(bound(base, cap, u32::MAX), cap);
    }

    #[test]
    fn waits_stay_within_bounds_and_start_again_after_a_reset() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for attempt in 0..20 {
            let wait = backoff.next(&"a");
            let limit = bound(Duration::from_millis(100), Duration::from_secs(1), attempt);
            assert!(wait <= limit && wait >= limit / 11, "attempt {attempt}: {wait:?} of {limit:?}");
        }
        backoff.reset(&"a");
        assert!(backoff.next(&"a") <= Duration::from_millis(100));
    }
}
