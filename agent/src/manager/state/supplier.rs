//! What the supplier's policy does to slices: who may start, and that everything stops when a drain's deadline is over.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::PresentMembers;
use atoll_core::member::Wish;

use super::{Entry, State};
use crate::naming::SliceId;
use crate::policy::Policy;

/// What the supplier wants.
#[derive(Default)]
pub(super) struct Supplier {
    policy: Arc<Policy>,
    /// The deadline of a drain is over.
    pub(super) drained: bool,
}

impl State {
    /// Takes in what the supplier lets members do. Those that have started are not touched by it.
    pub(in super::super) fn set_policy(&mut self, policy: Arc<Policy>) {
        self.supplier.policy = policy;
        let ids: Vec<SliceId> = self.slices.keys().cloned().collect();
        for id in ids {
            self.judge(&id);
        }
    }

    /// Decides whether the members of a slice that have not started yet may. A refusal stands until the hub says something new of
    /// the slice: it takes such members back, and would not expect to see them start.
    pub(super) fn judge(&mut self, id: &SliceId) {
        let others = self.supplier.policy.caps.max.map_or(0, |_| {
            self.slices.iter().filter(|(other, _)| *other != id).map(|(_, entry)| entry.members()).sum()
        });
        let Some(entry) = self.slices.get_mut(id) else { return };
        self.dirty.insert(id.clone());
        let Some(spec) = &entry.spec else { return };
        let new = entry.slice.unstarted().count();
        let admitted = self.supplier.policy.admit(&spec.spec, others + entry.here() + new);
        if let (Wish::Wanted(wanted), Err(objection)) = (&mut entry.slice.wish, admitted)
            && new > 0
            && wanted.refusal.is_none()
        {
            wanted.refusal = Some(objection.to_string());
        }
    }

    /// Takes in whether the deadline of a drain is over.
    pub(super) fn pass_deadline(&mut self, now: Duration) {
        let drained = self.supplier.policy.deadline.is_some_and(|deadline| now >= deadline);
        if drained == self.supplier.drained {
            return;
        }
        self.supplier.drained = drained;
        if drained {
            tracing::warn!("the deadline of the supplier's drain is over: what is left here stops");
        }
        for (id, entry) in &mut self.slices {
            entry.waiting = false;
            self.dirty.insert(id.clone());
        }
    }

    /// When a drain that is under way is over, while there is anything to stop.
    pub(super) fn next_deadline(&self, now: Duration) -> Option<Duration> {
        self.supplier
            .policy
            .deadline
            .filter(|deadline| *deadline > now && self.slices.values().any(|entry| entry.slice.is_live()))
    }

    /// Members that hold GPUs here.
    pub(in super::super) fn present(&self) -> PresentMembers {
        let count = |members: usize| i32::try_from(members).unwrap_or(i32::MAX);
        let pods =
            || self.slices.values().flat_map(|entry| entry.slice.pods.values()).filter(|pod| !pod.phase.is_over());
        let orphans: usize = self.slices.values().map(|entry| entry.slice.orphans.len()).sum();
        PresentMembers {
            running: count(pods().filter(|pod| !pod.stopping).count()),
            leaving: count(pods().filter(|pod| pod.stopping).count() + orphans),
        }
    }
}

impl Entry {
    /// Members that hold GPUs here, or may.
    fn here(&self) -> usize {
        self.slice.pods.values().filter(|pod| !pod.phase.is_over()).count() + self.slice.orphans.len()
    }

    /// Members that are here, or are about to be.
    fn members(&self) -> usize {
        let refused = matches!(&self.slice.wish, Wish::Wanted(wanted) if wanted.refusal.is_some());
        self.here() + if refused { 0 } else { self.slice.unstarted().count() }
    }
}
