//! How fast what yields to bindings is written.

use std::time::Duration;

use tokio::time::Instant;

use super::desk::WRITES;

/// The pause after each write that yields, while there are bindings. Ten thousand pods that do not fit are told so
/// within seconds once nothing is bound; until then their conditions must not cost the API server's time.
const PAUSE: Duration = Duration::from_millis(50);

/// When the next write that yields may begin.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pauses_until: Option<Instant>,
}

impl Pace {
    /// How many writes that yield may be in flight beside so many bindings.
    pub(super) fn most(&self, bindings: usize) -> usize {
        match (bindings, self.pauses_until) {
            (0, _) => WRITES,
            (_, None) => 1,
            (_, Some(_)) => 0,
        }
    }

    /// A write that yields ended.
    pub(super) fn ended(&mut self, now: Instant) {
        self.pauses_until = Some(now + PAUSE);
    }

    /// Returns when the pause is over; never without one.
    pub(super) async fn over(&mut self) {
        match self.pauses_until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
        self.pauses_until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beside_bindings_one_write_follows_another_after_a_pause() {
        let mut pace = Pace::default();
        assert_eq!((pace.most(0), pace.most(9)), (WRITES, 1));
        let ended = Instant::now();
        pace.ended(ended);
        assert_eq!((pace.most(0), pace.most(9)), (WRITES, 0));
        pace.over().await;
        assert!(ended.elapsed() >= PAUSE);
        assert_eq!(pace.most(9), 1);
    }
}
