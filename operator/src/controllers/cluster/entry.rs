//! One Cluster as the engine knows it: what the watches say, and what of its own writes has not come back yet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{Cluster, ClusterSlice};
use atoll_core::placement::Request;
use jiff::Timestamp;
use kube::ResourceExt;

use super::writer::{GONE, Outcome, version};

/// Who goes first among those that wait: higher priority, then older, then by UID.
pub type Order = (Reverse<i32>, Timestamp, String);

/// A request whose answer was lost is not taken any more after this: an API server gives one up after a minute.
pub const DOUBT: Duration = Duration::from_secs(90);

/// One Cluster, or what is left of one.
#[derive(Debug, Default)]
pub struct Entry {
    /// The Cluster, as the watch brought it.
    pub cluster: Option<Arc<Cluster>>,
    /// Its slices by name, as the watch brought them.
    pub slices: BTreeMap<String, Arc<ClusterSlice>>,
    /// A job is being performed.
    pub in_flight: bool,
    /// resourceVersion that the watch of Clusters must reach: what was written has to be read back.
    pub awaits_cluster: Option<u64>,
    /// The same for slices, by name; [`GONE`]: until it is gone.
    pub awaits_slices: HashMap<String, u64>,
    /// Slices whose creation was tried more than once, by name: until then, by the boot-time clock, a lost attempt may still
    /// be taken. As long as there is a slice of that name it is refused, so that one does not go before.
    pub doubts: HashMap<String, Duration>,
    /// A write was refused: nothing is decided before then, by the boot-time clock.
    pub paused_until: Option<Duration>,
    /// When to decide again although nothing changed, by the boot-time clock.
    pub wake: Option<Duration>,
    /// What could not be placed.
    pub unmet: Option<Request>,
    /// While it was busy, capacity came up for `unmet` and is held until the next decision.
    pub promised: bool,
    /// The last write of the status, by the boot-time clock.
    pub written: Option<Duration>,
    /// A read has shown that the Cluster is gone.
    pub confirmed_gone: bool,
}

impl Entry {
    /// Nothing may be decided now: a write is under way or has not been read back, or a pause lasts.
    #[must_use]
    pub fn busy(&self, boot: Duration) -> bool {
        self.in_flight
            || self.awaits_cluster.is_some()
            || !self.awaits_slices.is_empty()
            || self.pause_left(boot).is_some()
    }

    /// Until when a slice stays because a lost creation of it may still be taken.
    #[must_use]
    pub fn doubt(&self, name: &str, boot: Duration) -> Option<Duration> {
        self.doubts.get(name).copied().filter(|until| *until > boot)
    }

    /// What is left of the pause after a refused write.
    #[must_use]
    pub fn pause_left(&self, boot: Duration) -> Option<Duration> {
        self.paused_until?.checked_sub(boot).filter(|left| !left.is_zero())
    }

    /// Nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cluster.is_none() && self.slices.is_empty() && !self.in_flight
    }

    /// The watch brought the Cluster. What is older than what is known is ignored.
    pub fn see_cluster(&mut self, cluster: Arc<Cluster>) {
        let seen = version(&*cluster);
        if self.cluster.as_ref().is_some_and(|known| version(&**known) > seen) {
            return;
        }
        if self.awaits_cluster.is_some_and(|awaited| awaited <= seen) {
            self.awaits_cluster = None;
        }
        self.confirmed_gone = false;
        self.cluster = Some(cluster);
    }

    /// The watch says that the Cluster is gone.
    pub fn lose_cluster(&mut self) {
        self.cluster = None;
        self.awaits_cluster = None;
    }

    /// The watch brought a slice.
    pub fn see_slice(&mut self, slice: Arc<ClusterSlice>) {
        let (name, seen) = (slice.name_any(), version(&*slice));
        if self.slices.get(&name).is_some_and(|known| version(&**known) > seen) {
            return;
        }
        if self.awaits_slices.get(&name).is_some_and(|awaited| *awaited <= seen) {
            self.awaits_slices.remove(&name);
        }
        self.slices.insert(name, slice);
    }

    /// The watch began anew: what is not in `names` is gone, and what was awaited of it comes no more.
    pub fn keep_slices(&mut self, names: &HashSet<&str>) {
        self.slices.retain(|name, _| names.contains(name.as_str()));
        self.awaits_slices.retain(|name, _| names.contains(name.as_str()));
    }

    /// The watch says that a slice is gone.
    pub fn lose_slice(&mut self, name: &str) {
        self.slices.remove(name);
        self.awaits_slices.remove(name);
    }

    /// A job has ended: what it wrote is awaited in the watches, unless it came already.
    pub fn settle(&mut self, outcome: &Outcome, boot: Duration) {
        self.in_flight = false;
        self.confirmed_gone |= outcome.confirmed_gone;
        if outcome.committed {
            self.written = Some(boot);
        }
        self.doubts.retain(|_, until| *until > boot);
        self.doubts.extend(outcome.doubtful.iter().map(|name| (name.clone(), boot + DOUBT)));
        if let Some(cluster) = &self.cluster {
            self.awaits_cluster = outcome.cluster.filter(|awaited| version(&**cluster) < *awaited);
        }
        for (name, awaited) in &outcome.applied {
            if self.slices.get(name).is_none_or(|known| version(&**known) < *awaited) {
                self.awaits_slices.insert(name.clone(), *awaited);
            }
        }
        for (name, awaited) in &outcome.leaving {
            if self.slices.get(name).is_some_and(|known| version(&**known) < *awaited) {
                self.awaits_slices.insert(name.clone(), *awaited);
            }
        }
        for name in &outcome.gone {
            if self.slices.contains_key(name) {
                self.awaits_slices.insert(name.clone(), GONE);
            }
        }
    }

    /// Where it stands in the queue.
    #[must_use]
    pub fn order(&self, uid: &str) -> Order {
        let cluster = self.cluster.as_ref();
        let priority = cluster.map_or(i32::MAX, |cluster| cluster.spec.priority);
        let created = cluster.and_then(|cluster| cluster.metadata.creation_timestamp.as_ref());
        (Reverse(priority), created.map_or(Timestamp::MIN, |time| time.0), uid.to_owned())
    }

    /// The term of its commit.
    #[must_use]
    pub fn term(&self) -> i64 {
        let status = self.cluster.as_ref().and_then(|cluster| cluster.status.as_ref());
        status.and_then(|status| status.placement.as_ref()).map_or(0, |placement| placement.term)
    }

    /// Whether a slice names this member.
    #[must_use]
    pub fn delivered(&self, rank: u32, incarnation: u64) -> bool {
        self.slices.values().flat_map(|slice| &slice.spec.members).any(|member| {
            u32::try_from(member.rank) == Ok(rank) && u64::try_from(member.incarnation) == Ok(incarnation)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_stays_while_a_lost_creation_of_it_may_still_be_taken() {
        let mut entry = Entry::default();
        let at = Duration::from_secs;
        entry.settle(&Outcome { doubtful: vec!["train-1".to_owned()], ..Outcome::default() }, at(100));
        assert_eq!(entry.doubt("train-1", at(100)), Some(at(100) + DOUBT));
        assert_eq!(entry.doubt("train-2", at(100)), None);
        // Other writes change nothing of it.
        entry.settle(&Outcome::default(), at(150));
        assert!(entry.doubt("train-1", at(99) + DOUBT).is_some());
        assert_eq!(entry.doubt("train-1", at(100) + DOUBT), None);
        entry.settle(&Outcome::default(), at(100) + DOUBT);
        assert!(entry.doubts.is_empty(), "and is forgotten then");
    }
}
