//! Writes that follow news: at once after quiet time, then at most one a second per object with the newest content;
//! urgent news waits only for the write before it. One write per object is in flight.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The least time between two writes of one object that are not urgent.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Pause before a failed write is tried again; doubled each time up to [`RETRY_CAP`].
const RETRY: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(10);

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written.
    Written,
    /// Nothing to write, or nothing that will ever work.
    Dropped,
    /// Try again, unless something newer came.
    Retry,
}

type Write<V> = Box<dyn Fn(String, V) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Writes values by key.
pub struct Coalescer<V> {
    slots: Mutex<HashMap<String, Slot<V>>>,
    write: Write<V>,
    places: Semaphore,
    tasks: TaskTracker,
    closing: CancellationToken,
}

struct Slot<V> {
    pending: Option<V>,
    urgent: bool,
    news: Arc<Notify>,
}

impl<V: Clone + Send + Sync + 'static> Coalescer<V> {
    /// Writes with `write`, at most `in_flight` objects at once.
    pub fn new(
        in_flight: usize,
        write: impl Fn(String, V) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            slots: Mutex::default(),
            write: Box::new(write),
            places: Semaphore::new(in_flight),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Has `value` written under `key`; an older one that has not been written yet is forgotten.
    pub fn submit(self: &Arc<Self>, key: &str, value: V, urgent: bool) {
        let mut slots = self.lock();
        if let Some(slot) = slots.get_mut(key) {
            slot.pending = Some(value);
            slot.urgent |= urgent;
            slot.news.notify_one();
            return;
        }
        let news = Arc::new(Notify::new());
        slots.insert(key.to_owned(), Slot { pending: Some(value), urgent, news: Arc::clone(&news) });
        let (this, key) = (Arc::clone(self), key.to_owned());
        self.tasks.spawn(async move { this.drive(key, news).await });
    }

    /// Writes everything that is pending without further pauses, for at most `limit`.
    pub async fn close(&self, limit: Duration) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(objects = self.lock().len(), "some writes were not done before the shutdown");
        }
    }

    async fn drive(&self, key: String, news: Arc<Notify>) {
        let mut failures = 0;
        let mut not_before = Instant::now();
        loop {
            self.pause(&key, &news, not_before, failures > 0).await;
            let Ok(place) = self.places.acquire().await else { return };
            let Some(value) = self.take(&key) else {
                drop(place);
                if self.retire(&key, not_before) {
                    return;
                }
                continue;
            };
            let outcome = (self.write)(key.clone(), value.clone()).await;
            drop(place);
            not_before = Instant::now();
            match outcome {
                Outcome::Retry if !self.closing.is_cancelled() => {
                    self.put_back(&key, value);
                    not_before += RETRY_CAP.min(RETRY * 2_u32.saturating_pow(failures));
                    failures = failures.saturating_add(1);
                }
                Outcome::Written => {
                    failures = 0;
                    not_before += INTERVAL;
                }
                Outcome::Retry | Outcome::Dropped => failures = 0,
            }
        }
    }

    /// Waits until the next write may happen. After a failure urgency does not shorten it: the server is in trouble.
    async fn pause(&self, key: &str, news: &Notify, not_before: Instant, failed: bool) {
        let sleep = tokio::time::sleep_until(not_before);
        tokio::pin!(sleep);
        loop {
            if self.closing.is_cancelled() || !failed && self.is_urgent(key) {
                return;
            }
            tokio::select! {
                () = &mut sleep => return,
                () = self.closing.cancelled() => return,
                () = news.notified() => {}
            }
        }
    }

    fn is_urgent(&self, key: &str) -> bool {
        self.lock().get(key).is_some_and(|slot| slot.urgent && slot.pending.is_some())
    }

    fn take(&self, key: &str) -> Option<V> {
        let mut slots = self.lock();
        let slot = slots.get_mut(key)?;
        slot.urgent = false;
        slot.pending.take()
    }

    fn put_back(&self, key: &str, value: V) {
        if let Some(slot) = self.lock().get_mut(key) {
            slot.pending.get_or_insert(value);
        }
    }

    /// Forgets a key for which nothing is pending; its next value is written at once.
    fn retire(&self, key: &str, not_before: Instant) -> bool {
        let mut slots = self.lock();
        let idle = slots.get(key).is_none_or(|slot| slot.pending.is_none());
        let quiet = self.closing.is_cancelled() || Instant::now() >= not_before;
        if idle && quiet {
            slots.remove(key);
        }
        idle && quiet
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot<V>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    type Log = Arc<Mutex<Vec<(u64, u32)>>>;

    /// A coalescer that logs (milliseconds since the start, value), each write taking 10 ms.
    fn logging(results: impl Fn(u32) -> Outcome + Send + Sync + 'static) -> (Arc<Coalescer<u32>>, Log) {
        let (log, start) = (Log::default(), Instant::now());
        let (results, of_task) = (Arc::new(results), Arc::clone(&log));
        let coalescer = Coalescer::new(4, move |_, value| {
            let (log, results) = (Arc::clone(&of_task), Arc::clone(&results));
            async move {
                log.lock().unwrap().push((u64::try_from(start.elapsed().as_millis()).unwrap(), value));
                tokio::time::sleep(Duration::from_millis(10)).await;
                results(value)
            }
            .boxed()
        });
        (coalescer, log)
    }

    async fn after(milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_written_at_once_and_later_ones_once_a_second_with_the_newest_content() {
        let (coalescer, log) = logging(|_| Outcome::Written);
        for value in 0..20 {
            coalescer.submit("a", value, false);
            after(100).await;
        }
        after(5_000).await;
        coalescer.submit("a", 99, false);
        after(50).await;
        let log = log.lock().unwrap();
        assert_eq!(log[0], (0, 0));
        assert_eq!(log.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [0, 10, 19, 99]);
        assert!(log[1].0 >= 1_000 && log[2].0 - log[1].0 >= 1_000, "{log:?}");
        assert_eq!(log[3].0, 7_000, "at once after quiet time");
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_news_waits_for_the_write_before_it_only() {
        let (coalescer, log) = logging(|_| Outcome::Written);
        coalescer.submit("a", 1, false);
        after(5).await;
        coalescer.submit("a", 2, true);
        after(50).await;
        coalescer.submit("a", 3, false);
        coalescer.submit("a", 4, true);
        after(50).await;
        assert_eq!(*log.lock().unwrap(), [(0, 1), (10, 2), (55, 4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_tried_again_with_growing_pauses_and_gives_way_to_newer_content() {
        let (coalescer, log) = logging(|value| if value == 1 { Outcome::Retry } else { Outcome::Written });
        coalescer.submit("a", 1, true);
        after(700).await;
        assert_eq!(log.lock().unwrap().len(), 3, "at 0, 210 and 620");
        coalescer.submit("a", 2, true);
        after(3_000).await;
        assert_eq!(log.lock().unwrap()[3..], [(1_430, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_writes_what_is_pending_without_pauses() {
        let (coalescer, log) = logging(|_| Outcome::Written);
        coalescer.submit("a", 1, false);
        after(20).await;
        coalescer.submit("a", 2, false);
        coalescer.close(Duration::from_secs(1)).await;
        assert_eq!(*log.lock().unwrap(), [(0, 1), (20, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn objects_do_not_wait_for_each_other_beyond_the_places() {
        let (coalescer, log) = logging(|_| Outcome::Written);
        for value in 0..8 {
            coalescer.submit(&format!("object-{value}"), value, false);
        }
        after(100).await;
        let times: Vec<u64> = log.lock().unwrap().iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 0, 0, 0, 10, 10, 10, 10]);
    }
}
