//! Which pod held a device while it was sampled, and which devices are held now.
//!
//! The kubelet's list of pods and their devices carries names without UIDs, so that a pod made anew under its old name
//! looks like the one before. What tells them apart is that this process answers every allocation itself. The kubelet
//! gives a device to a pod in this order: it takes it from a pod that has ended, asks `Allocate`, and only after the answer
//! counts it as the new pod's. So if a list shows a holder, a later list shows the same one, and between the beginning of
//! the first and the end of the second nobody asked to allocate this device, then it is one and the same pod, and it held
//! the device all the time between the two. Only samples that lie between such lists are labelled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::backend::DeviceId;
use crate::engine::{Clock, Handle};
use crate::kubelet::{PodResources, PodResourcesError};
use crate::state::{Holder, Round};

/// Who holds what.
pub type Holders = BTreeMap<DeviceId, BTreeSet<Holder>>;

/// A device that was allocated and that the kubelet shows nobody to hold is free after this time: it failed to admit the
/// pod. Between the answer and its list showing the holder are milliseconds.
const ALLOCATED_UNSEEN: Duration = Duration::from_secs(10);
/// Lists that are kept. A sample lies between the last two unless a list was slow.
const KEPT: usize = 4;
/// The kubelet answers within this, or a round is not labelled.
const LIST_LIMIT: Duration = Duration::from_millis(500);

/// An answer of the kubelet.
#[derive(Clone, Debug)]
pub struct Listing {
    /// When it was asked.
    pub asked: Duration,
    /// When the answer was there.
    pub answered: Duration,
    /// The answer.
    pub holders: Holders,
}

/// What is known of who holds what.
#[derive(Debug, Default)]
pub struct Ledger {
    listings: VecDeque<Listing>,
    /// The last time that each device was asked for.
    allocated: BTreeMap<DeviceId, Duration>,
    /// Devices that were given to somebody whom the kubelet has not shown yet, and since when.
    unseen: BTreeMap<DeviceId, Duration>,
}

impl Ledger {
    /// The kubelet asked to allocate a device. `now` may be late, up to the next list that is given to [`Ledger::listed`].
    pub fn allocated(&mut self, id: DeviceId, now: Duration) {
        self.unseen.insert(id.clone(), now);
        self.allocated.insert(id, now);
    }

    /// The kubelet told who holds what. Every allocation before its answer was given to [`Ledger::allocated`].
    pub fn listed(&mut self, listing: Listing) {
        self.unseen.retain(|id, since| {
            !listing.holders.contains_key(id) && listing.asked.saturating_sub(*since) < ALLOCATED_UNSEEN
        });
        self.listings.push_back(listing);
        if self.listings.len() > KEPT {
            self.listings.pop_front();
        }
        // An allocation before the oldest list cannot lie between two.
        if let Some(oldest) = self.listings.front().map(|listing| listing.asked) {
            self.allocated.retain(|_, at| *at >= oldest);
        }
    }

    /// The devices that containers hold, or are about to get. None as long as the kubelet has said nothing.
    #[must_use]
    pub fn held(&self) -> Option<BTreeSet<DeviceId>> {
        let listing = self.listings.back()?;
        Some(listing.holders.keys().chain(self.unseen.keys()).cloned().collect())
    }

    /// Who held each device during all of `span`; who did so only in part, or cannot be proven to, is left out.
    #[must_use]
    pub fn during(&self, span: (Duration, Duration)) -> Holders {
        let before = self.listings.iter().rev().find(|listing| listing.answered <= span.0);
        let after = self.listings.iter().find(|listing| listing.asked >= span.1);
        let (Some(before), Some(after)) = (before, after) else { return Holders::default() };
        let one_allocation = |id: &DeviceId| self.allocated.get(id).is_none_or(|at| *at < before.asked);
        let same = before.holders.iter().filter(|(id, holders)| after.holders.get(*id) == Some(holders));
        same.filter(|(id, _)| one_allocation(id)).map(|(id, holders)| (id.clone(), holders.clone())).collect()
    }
}

/// A round of samples, and who held the devices meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Attributed {
    /// The samples.
    pub round: Arc<Round>,
    /// Those before.
    pub previous: Arc<Round>,
    /// Who held a device during all of the round.
    pub holders: Holders,
}

/// Where it is asked who holds what: the kubelet.
pub trait Lister: Send {
    /// Why there is no answer.
    type Error: std::fmt::Display;
    /// Who holds what now.
    fn holders(&mut self) -> impl Future<Output = Result<Holders, Self::Error>> + Send;
}

impl Lister for PodResources {
    type Error = PodResourcesError;

    async fn holders(&mut self) -> Result<Holders, PodResourcesError> {
        Self::holders(self).await
    }
}

/// The parts that [`keep`] connects.
pub struct Parts<L> {
    /// To tell which devices are held.
    pub engine: Handle,
    /// What is sampled.
    pub rounds: watch::Receiver<Arc<Round>>,
    /// Devices that the kubelet asked to allocate, sent before it gets its answer.
    pub allocated: mpsc::UnboundedReceiver<DeviceId>,
    /// The kubelet.
    pub lister: L,
    /// The clock of the engine.
    pub clock: Clock,
    /// Where rounds go with their holders.
    pub attributed: watch::Sender<Arc<Attributed>>,
    /// Who holds what now; changes when the kubelet says something else.
    pub holders: watch::Sender<Arc<Holders>>,
}

/// Asks the kubelet once after each round, labels the round, and tells the engine which devices are held.
pub async fn keep<L: Lister>(mut parts: Parts<L>, stop: CancellationToken) {
    let mut ledger = Ledger::default();
    let mut complained = false;
    loop {
        let round = Arc::clone(&parts.rounds.borrow_and_update());
        match parts.list(&mut ledger).await {
            Ok(()) => complained = false,
            Err(error) if !complained => {
                tracing::warn!(%error, "the kubelet does not say which pods hold devices; samples have no pod labels");
                complained = true;
            }
            Err(_) => {}
        }
        parts.publish(round, &ledger);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                allocated = parts.allocated.recv() => {
                    let Some(id) = allocated else { return };
                    ledger.allocated(id, (parts.clock)());
                    parts.tell(&ledger);
                }
                changed = parts.rounds.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
    }
}

impl<L: Lister> Parts<L> {
    async fn list(&mut self, ledger: &mut Ledger) -> Result<(), String> {
        self.take_allocations(ledger);
        let asked = (self.clock)();
        let answer = tokio::time::timeout(LIST_LIMIT, self.lister.holders()).await;
        let answered = (self.clock)();
        // What the list may show was asked of this process before, and is taken into account before the list is.
        self.take_allocations(ledger);
        let holders = match answer {
            Ok(Ok(holders)) => holders,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no answer in time".to_owned()),
        };
        self.holders.send_if_modified(|last| {
            let changed = **last != holders;
            if changed {
                *last = Arc::new(holders.clone());
            }
            changed
        });
        ledger.listed(Listing { asked, answered, holders });
        self.tell(ledger);
        Ok(())
    }

    fn take_allocations(&mut self, ledger: &mut Ledger) {
        while let Ok(id) = self.allocated.try_recv() {
            ledger.allocated(id, (self.clock)());
        }
    }

    fn tell(&self, ledger: &Ledger) {
        if let Some(held) = ledger.held() {
            self.engine.occupied(held);
        }
    }

    fn publish(&self, round: Arc<Round>, ledger: &Ledger) {
        let previous = Arc::clone(&self.attributed.borrow().round);
        if round.span != previous.span {
            let holders = ledger.during(round.span);
            self.attributed.send_replace(Arc::new(Attributed { round, previous, holders }));
        }
    }
}

#[cfg(test)]
mod tests;
