//! What waits to be sent to the hub: of each slice only the newest report.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use atoll_wire::v1::SliceReport;
use tokio::sync::Notify;

use crate::naming::SliceId;

/// Reports on their way. Bounded by the number of slices: a newer report takes the place of the older one.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    reports: BTreeMap<SliceId, SliceReport>,
    order: VecDeque<SliceId>,
}

impl Outbox {
    /// Puts the newest report of a slice in line, where its predecessor stood if that was not sent yet.
    pub fn put(&self, id: SliceId, report: SliceReport) {
        {
            let mut waiting = self.lock();
            if waiting.reports.insert(id.clone(), report).is_none() {
                waiting.order.push_back(id);
            }
        }
        self.news.notify_one();
    }

    /// Takes the report that waits longest.
    pub fn take(&self) -> Option<SliceReport> {
        let mut waiting = self.lock();
        let id = waiting.order.pop_front()?;
        waiting.reports.remove(&id)
    }

    /// Forgets everything: a new session begins, and everything is reported anew.
    pub fn clear(&self) {
        *self.lock() = Waiting::default();
    }

    /// Waits until something was put since the last wait.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_report_of_a_slice_keeps_its_place_in_line() {
        let outbox = Outbox::default();
        let id = |name: &str| SliceId { name: name.into(), ..SliceId::default() };
        let report = |epoch| SliceReport { observed_epoch: epoch, ..SliceReport::default() };
        outbox.put(id("a"), report(1));
        outbox.put(id("b"), report(2));
        outbox.put(id("a"), report(3));
        let sent: Vec<u64> = std::iter::from_fn(|| outbox.take()).map(|report| report.observed_epoch).collect();
        assert_eq!(sent, [3, 2]);
        outbox.put(id("a"), report(4));
        outbox.clear();
        assert_eq!(outbox.take(), None);
    }
}
