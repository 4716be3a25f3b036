//! What is pending, for the debug view and the metrics.

use std::collections::BTreeMap;

use atoll_core::scheduling::Helps;

use super::{GangKind, PendingView, Scheduler, WaitsFor};
use crate::queue::{Place, Work};

/// Sizes, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Gangs that wait for a decision.
    pub gangs: usize,
    /// Pods without a gang that wait for a decision.
    pub pods: usize,
    /// Lines of those that ask for the same.
    pub lines: usize,
    /// Pods that are known.
    pub known_pods: usize,
    /// Members that room is held for.
    pub holds: usize,
    /// Gangs and pods that others make room for.
    pub preemptors: usize,
    /// Pods that are being evicted.
    pub victims: usize,
}

impl Scheduler {
    /// Everything that waits, and why; in no order.
    pub fn pending(&self) -> impl Iterator<Item = PendingView> {
        self.queue.pending().map(|(work, place)| self.view(work, place))
    }

    /// Sizes of what is kept.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (gangs, pods) = self.queue.len();
        Counts {
            gangs,
            pods,
            lines: self.queue.lines(),
            known_pods: self.cache.len(),
            holds: self.cache.holds_in_all(),
            preemptors: self.preemptions.len(),
            victims: self.evicting.len(),
        }
    }

    /// How many gangs and pods wait for each kind of thing: "turn", "change", "parts", "time", "victims".
    #[must_use]
    pub fn pending_by_reason(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (work, place) in self.queue.pending() {
            let kind = match place {
                Place::Ready(_) => "turn",
                Place::Delayed(..) => "time",
                Place::Apart { .. } if self.preemptions.contains_key(work) => "victims",
                Place::Apart { .. } => "parts",
                Place::Lined { .. } => "change",
            };
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }

    fn view(&self, work: &Work, place: &Place) -> PendingView {
        let order = place.order();
        let (key, gang, members) = match work {
            Work::Pod(pod) => (pod.clone(), None, 1),
            Work::Gang(gang) => {
                let object = self.objects.get(&gang.key).filter(|_| gang.kind == GangKind::Object);
                let group = self.groups.get(gang);
                let waiting = group.map_or(0, |group| group.waiting().len());
                (gang.key.clone(), Some(gang.kind), object.map_or(waiting, |entry| entry.members().len()))
            }
        };
        let waits_for = match place {
            Place::Ready(_) => WaitsFor::Turn,
            Place::Delayed(_, until) => WaitsFor::Time(*until),
            Place::Apart { .. } if self.preemptions.contains_key(work) => WaitsFor::Victims,
            Place::Apart { .. } => WaitsFor::Parts,
            Place::Lined { line, .. } => {
                let verdict = self.queue.line(*line).and_then(|line| line.verdict.as_ref());
                verdict.map_or(WaitsFor::Turn, |verdict| WaitsFor::Change(kinds(verdict.helped_by)))
            }
        };
        PendingView {
            key,
            gang,
            priority: order.priority.0,
            since: order.created,
            members,
            reason: self.queue.why(work),
            waits_for,
        }
    }
}

fn kinds(helps: Helps) -> Vec<&'static str> {
    [(Helps::NODES, "nodes"), (Helps::ROOM, "room"), (Helps::PODS, "pods"), (Helps::VOLUMES, "volumes")]
        .into_iter()
        .filter(|(kind, _)| helps.intersects(*kind))
        .map(|(_, name)| name)
        .collect()
}
