//! Nodes that are kept for a large gang, so that it is not passed by small ones for ever.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::{Ending, NodeIx, Reservation, reserve};

use super::Scheduler;
use crate::queue::{Line, Order, Place, Work};

/// After how long a reservation is made anew from what is known by then, as soon as something happens.
const RENEW: Duration = Duration::from_secs(30);

/// After how long it is tried to reserve nodes for the next gang when there were none for the last one.
const PAUSE: Duration = Duration::from_secs(5);

/// For whom nodes are kept, and which.
#[derive(Debug)]
pub(super) struct Reserved {
    work: Work,
    order: Order,
    made: Duration,
    reservation: Reservation,
    nodes: Arc<BTreeSet<NodeIx>>,
}

/// Gangs that are refused.
#[derive(Debug, Default)]
pub(super) struct Reserving {
    reserved: Option<Reserved>,
    /// Gangs that nodes are reserved for at this time, if they are still refused.
    due: BTreeSet<(Duration, Work)>,
    /// Gangs that were refused for long enough.
    overdue: BTreeSet<(Order, Work)>,
    /// Everyone in these two.
    known: HashSet<Work>,
    /// No nodes were found for the last one: the next is not tried before.
    pause: Option<Duration>,
}

impl Reserving {
    pub(super) fn next_due(&self) -> Option<Duration> {
        let next = self.pause.filter(|_| !self.overdue.is_empty());
        self.due.first().map(|(at, _)| *at).into_iter().chain(next).min()
    }
}

impl Scheduler {
    /// The nodes that are closed to somebody who runs for `duration`, if that is known.
    pub(super) fn closed_to(
        &self,
        work: &Work,
        order: Order,
        duration: Option<Duration>,
        now: Duration,
    ) -> Arc<BTreeSet<NodeIx>> {
        let reserved = self.reserving.reserved.as_ref().filter(|reserved| {
            reserved.work != *work
                && order.whole
                && reserved.order.priority <= order.priority
                && !reserved.reservation.lets_pass(now, duration)
        });
        reserved.map(|reserved| Arc::clone(&reserved.nodes)).unwrap_or_default()
    }

    /// The nodes that are closed to the first of a line; to those who run for a known time they may be open.
    pub(super) fn closed_to_line(&self, line: &Line, now: Duration) -> Arc<BTreeSet<NodeIx>> {
        let Some((order, work)) = line.first() else { return Arc::default() };
        self.closed_to(work, *order, None, now)
    }

    /// A gang does not fit. Unless that changes, nodes are reserved for it after a while.
    pub(super) fn note_refused(&mut self, work: &Work, now: Duration) {
        let Some(after) = self.settings.reserve_after.filter(|_| matches!(work, Work::Gang(_))) else { return };
        if self.reserving.known.insert(work.clone()) {
            self.reserving.due.insert((now + after, work.clone()));
        }
    }

    /// Ends the reservation of a gang that waits no more, and makes the next one.
    pub(super) fn keep_reservation(&mut self, now: Duration) {
        while let Some((at, _)) = self.reserving.due.first()
            && *at <= now
        {
            let Some((_, work)) = self.reserving.due.pop_first() else { break };
            match self.queue.place(&work) {
                Some(place @ Place::Lined { .. }) => {
                    self.reserving.overdue.insert((place.order(), work));
                }
                _ => {
                    self.reserving.known.remove(&work);
                }
            }
        }
        while let Some((_, work)) = self.reserving.overdue.first()
            && !matches!(self.queue.place(work), Some(Place::Lined { .. } | Place::Ready(_)))
        {
            if let Some((_, work)) = self.reserving.overdue.pop_first() {
                self.reserving.known.remove(&work);
            }
        }
        let first = self.reserving.overdue.first().cloned();
        let stands = match (&self.reserving.reserved, &first) {
            (Some(reserved), Some((_, work))) => reserved.work == *work && now < reserved.made + RENEW,
            (None, None) => true,
            _ => false,
        };
        if stands {
            return;
        }
        if self.reserving.reserved.take().is_some() {
            self.freed();
        }
        if self.reserving.pause.is_some_and(|until| now < until) {
            return;
        }
        self.reserving.pause = None;
        if let Some((order, work)) = first {
            self.reserve_for(order, work, now);
        }
    }

    fn reserve_for(&mut self, order: Order, work: Work, now: Duration) {
        let Some((_, line)) = self.queue.line_of(&work) else { return };
        let mut request = line.request.clone();
        request.closed = Arc::default();
        let endings = self.cache.seated().map(|(pod, id, _)| {
            let at = pod.duration.map(|duration| pod.started.unwrap_or(now) + duration);
            Ending { id, at: at.map(|at| at.max(now)) }
        });
        let endings: Vec<Ending> = endings.collect();
        let found = reserve(&mut self.decider, self.cache.nodes_mut(), &request, &endings);
        let Some(reservation) = found else {
            // It would not fit if everyone ended. It is thought of again when it is refused again.
            self.reserving.known.remove(&work);
            self.reserving.overdue.remove(&(order, work));
            self.reserving.pause = Some(now + PAUSE);
            return;
        };
        let nodes = self.cache.nodes();
        let nodes = Arc::new(reservation.nodes.iter().filter_map(|name| nodes.ix(name)).collect());
        self.reserving.reserved = Some(Reserved { work, order, made: now, reservation, nodes });
    }
}
