//! How many messages of an agent are taken: what is beyond waits unread, and then HTTP/2 makes the agent wait.

use std::time::Duration;

use atoll_wire::limits::MAX_SLICES;
use tokio::time::Instant;

/// Messages taken each second, on average.
const RATE: u32 = 1_000;
/// Messages taken at once after quiet time: reports of all slices, twice.
const BURST: usize = 2 * MAX_SLICES;

/// What an agent may still say.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// When everything that was said is paid for.
    paid: Instant,
}

impl Allowance {
    /// All of it.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// A message was taken.
    pub fn take(&mut self, now: Instant) {
        self.paid = self.paid.max(now) + Duration::from_secs(1) / RATE;
    }

    /// How long until the next one may be.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        let burst = Duration::from_secs(1) / RATE * u32::try_from(BURST).unwrap_or(u32::MAX);
        self.paid.saturating_duration_since(now).saturating_sub(burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_taken_at_the_rate_and_everything_that_a_site_can_have_to_say_at_once() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        for _ in 0..BURST {
            assert_eq!(allowance.wait(start), Duration::ZERO);
            allowance.take(start);
        }
        allowance.take(start);
        assert_eq!(allowance.wait(start), Duration::from_millis(1));
        assert_eq!(allowance.wait(start + Duration::from_millis(1)), Duration::ZERO);
        let later = start + Duration::from_hours(1);
        allowance.take(later);
        assert_eq!(allowance.wait(later), Duration::ZERO);
    }
}
