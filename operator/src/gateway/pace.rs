//! Writes of Sites, one after another at a pace that the API server bears, when many Sites come or go at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// From one write to the next: 180 a second.
const INTERVAL: Duration = Duration::from_micros(5_556);
/// What a late timer may make up for.
const SLACK: Duration = Duration::from_millis(20);
/// Writes that the API server has not answered yet. What waits there while it stands still comes all at once when it goes on.
const IN_FLIGHT: usize = 12;
/// A loss with another one so close to it is one of many.
const CROWDED: Duration = Duration::from_secs(1);

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The session of a Site with slices: leases hang on it.
    Members,
    /// The session of a Site without.
    Session,
    /// That a Site is absent.
    Loss,
}

/// A loss, and the one before it.
#[derive(Debug)]
pub struct LossSeen {
    at: Instant,
    before: Option<Instant>,
}

/// Lines of those who wait to write. Who gives up leaves its line at no cost.
#[derive(Debug)]
pub struct Pace {
    /// When the next write may happen. Who holds this waits for it.
    next: tokio::sync::Mutex<Instant>,
    /// Of each less urgent kind only the first one stands in the line for `next`.
    sessions: tokio::sync::Mutex<()>,
    losses: tokio::sync::Mutex<()>,
    in_flight: Semaphore,
    last_loss: Mutex<Option<Instant>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            next: tokio::sync::Mutex::new(Instant::now()),
            sessions: tokio::sync::Mutex::default(),
            losses: tokio::sync::Mutex::default(),
            in_flight: Semaphore::new(IN_FLIGHT),
            last_loss: Mutex::default(),
        }
    }
}

impl Pace {
    /// Waits until it is this one's turn to write. What is returned is held until the write is answered.
    pub async fn turn(&self, turn: Turn) -> Option<SemaphorePermit<'_>> {
        let _loss = if turn == Turn::Loss { Some(self.losses.lock().await) } else { None };
        let _session = if turn == Turn::Members { None } else { Some(self.sessions.lock().await) };
        let mut next = self.next.lock().await;
        // Never closed.
        let permit = self.in_flight.acquire().await.ok();
        sleep_until(*next).await;
        let now = Instant::now();
        *next = (*next + INTERVAL).max(now.checked_sub(SLACK).unwrap_or(now));
        permit
    }

    /// A Site is lost, now.
    pub fn loss(&self) -> LossSeen {
        let at = Instant::now();
        LossSeen { at, before: self.last_loss().replace(at) }
    }

    /// Whether a Site was lost alone; known a second later. Of many at once people hear by other ways, and each Event
    /// would be one more write. What counts is when losses were seen: how soon they are written is the API server's.
    pub async fn alone(&self, seen: &LossSeen) -> bool {
        sleep_until(seen.at + CROWDED).await;
        seen.before.is_none_or(|before| seen.at - before > CROWDED) && *self.last_loss() == Some(seen.at)
    }

    fn last_loss(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.last_loss.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_sees_more_than_200_turns_and_the_urgent_come_first() {
        let (pace, start) = (Arc::new(Pace::default()), Instant::now());
        let done = Arc::new(Mutex::new(Vec::new()));
        let turns = [Turn::Loss, Turn::Session, Turn::Members];
        let tasks: Vec<_> = turns
            .into_iter()
            .flat_map(|turn| std::iter::repeat_n(turn, 200))
            .map(|turn| {
                let (pace, done) = (Arc::clone(&pace), Arc::clone(&done));
                tokio::spawn(async move {
                    pace.turn(turn).await;
                    done.lock().unwrap().push((turn, start.elapsed()));
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let done = done.lock().unwrap();
        for (_, at) in done.iter() {
            let within = done.iter().filter(|(_, other)| *other >= *at && *other < *at + Duration::from_secs(1));
            assert!(within.count() <= 200);
        }
        assert!(done.last().unwrap().1 < Duration::from_secs(4), "and 600 take little more than three");
        let last_of = |turn| done.iter().rposition(|(done, _)| *done == turn).unwrap();
        assert!(last_of(Turn::Members) < last_of(Turn::Session) && last_of(Turn::Session) < last_of(Turn::Loss));
        assert!(last_of(Turn::Members) < 210, "only one of the others stood before them");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_costs_nothing() {
        let pace = Pace::default();
        pace.turn(Turn::Session).await;
        for _ in 0..100 {
            drop(tokio::time::timeout(Duration::from_micros(10), pace.turn(Turn::Session)).await);
        }
        let began = Instant::now();
        pace.turn(Turn::Members).await;
        assert!(began.elapsed() <= INTERVAL * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_loss_is_alone_and_each_of_many_is_not() {
        let pace = Pace::default();
        let lonely = pace.loss();
        assert!(pace.alone(&lonely).await);
        let (first, second) = (pace.loss(), pace.loss());
        let (first, second) = tokio::join!(pace.alone(&first), pace.alone(&second));
        assert!(!first && !second);
        tokio::time::sleep(CROWDED * 2).await;
        let (seen, written_late) = (pace.loss(), CROWDED * 5);
        tokio::time::sleep(written_late).await;
        assert!(pace.alone(&seen).await);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_api_server_answers_nothing_few_writes_wait_there() {
        let pace = Pace::default();
        let mut unanswered = Vec::new();
        for _ in 0..IN_FLIGHT {
            unanswered.push(pace.turn(Turn::Session).await);
        }
        assert!(tokio::time::timeout(CROWDED, pace.turn(Turn::Members)).await.is_err());
        unanswered.pop();
        assert!(tokio::time::timeout(CROWDED, pace.turn(Turn::Members)).await.is_ok());
    }
}
