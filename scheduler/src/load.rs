//! How busy the bindings are, for what has to yield to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts bindings that wait or are in flight; shared by all clones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    bindings: AtomicUsize,
    idle: Notify,
}

impl Load {
    /// One more.
    pub(crate) fn more(&self) {
        self.shared.bindings.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub(crate) fn less(&self) {
        if self.shared.bindings.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.idle.notify_one();
        }
    }

    /// How many there are.
    pub(crate) fn bindings(&self) -> usize {
        self.shared.bindings.load(Ordering::Relaxed)
    }

    /// Returns when the last binding ended, perhaps before the call.
    pub(crate) async fn idle(&self) {
        self.shared.idle.notified().await;
    }
}
