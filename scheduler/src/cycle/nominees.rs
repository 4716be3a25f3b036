//! Who others make room for, and who they are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Attempt, Scheduler};
use crate::gangs::Group;
use crate::objects::{ObjectKey, PodFacts};
use crate::queue::Work;

/// Others are being evicted for something.
#[derive(Debug)]
pub(super) struct Preemption {
    /// Pods that are not gone yet.
    pub(super) victims: BTreeSet<ObjectKey>,
    /// Why it did not fit without, for people.
    pub(super) message: Arc<str>,
}

impl Scheduler {
    /// What is tried as a whole when this pod is.
    pub(super) fn work_of(pod: &PodFacts) -> Work {
        match Group::key_of(pod).filter(|_| pod.ours) {
            Some(gang) => Work::Gang(gang),
            None => Work::Pod(pod.key.clone()),
        }
    }

    /// Keeps room for a pod where another scheduler, or this one before it was stopped, nominated it.
    pub(super) fn note_nominee(&mut self, pod: &PodFacts) {
        let work = Self::work_of(pod);
        if self.preemptions.contains_key(&work) {
            return;
        }
        let nominated = pod.nominated.as_deref().filter(|_| pod.node.is_none() && !pod.finished && !pod.deleting);
        let known = self.cache.held(&work, &pod.key).map(|claim| Arc::clone(&claim.node));
        if known.as_deref() == nominated {
            return;
        }
        if known.is_some() {
            self.cache.release(&work, |held| *held == pod.key);
            self.freed();
            if self.cache.holds(&work).next().is_none() {
                self.nominees.retain(|(_, nominee)| *nominee != work);
            }
        }
        if let Some(node) = nominated {
            self.cache.hold(&work, &pod.key, node, &pod.shape);
            self.nominees.insert((pod.priority, work));
        }
    }

    /// What it says while those that make room for it are not gone yet.
    pub(super) fn awaited(&self, work: &Work) -> Option<Arc<str>> {
        let preemption = self.preemptions.get(work).filter(|preemption| !preemption.victims.is_empty())?;
        let count = preemption.victims.len();
        let (pods, end) = if count == 1 { ("pod", "ends") } else { ("pods", "end") };
        Some(Arc::from(format!("{}; waits until {count} {pods} {end} there", preemption.message)))
    }

    /// Nothing is kept for it as a nominee any more; who is being evicted goes all the same.
    pub(super) fn end_preemption(&mut self, work: &Work) {
        if let Some(preemption) = self.preemptions.remove(work) {
            for victim in preemption.victims {
                if let Some(waiting) = self.evicting.get_mut(&victim) {
                    waiting.retain(|waiting| waiting != work);
                }
            }
        }
        if !self.nominees.is_empty() {
            self.nominees.retain(|(_, nominee)| nominee != work);
        }
    }

    /// It wants the room no more that others make for it, or has lost it to a higher priority.
    pub(super) fn withdraw(&mut self, work: &Work, attempt: &mut Attempt) {
        let nominee = self.nominees.iter().any(|(_, nominee)| nominee == work);
        if !nominee {
            return;
        }
        self.end_preemption(work);
        let released = self.cache.release(work, |_| true);
        if !released.is_empty() {
            self.freed();
        }
        for pod in released.keys() {
            self.clear_nomination(pod, attempt);
        }
    }

    /// A pod that is evicted is gone, has finished, or stays after all.
    pub(super) fn victim_settled(&mut self, pod: &ObjectKey) {
        for work in self.evicting.remove(pod).unwrap_or_default() {
            let Some(preemption) = self.preemptions.get_mut(&work) else { continue };
            preemption.victims.remove(pod);
            if preemption.victims.is_empty() {
                self.queue_work(&work);
            }
        }
    }

    /// The API server does not let a pod be evicted.
    pub(super) fn not_evicted(&mut self, pod: &ObjectKey, uid: &str, now: Duration) {
        let Some(facts) = self.cache.pod(pod).filter(|facts| *facts.uid == *uid).cloned() else { return };
        self.spared.insert(pod.clone());
        let of_preemption = self.evicting.get(pod).is_some_and(|waiting| !waiting.is_empty());
        self.victim_settled(pod);
        self.set_member(&facts);
        let Some(gang) = Group::key_of(&facts).filter(|_| facts.ours) else { return };
        if let Some(group) =
            self.groups.get_mut(&gang).filter(|group| !(group.is_bound() || of_preemption && group.whole))
        {
            // Still in part: it is tried again to complete it, then to undo it.
            group.half_bound = true;
            group.stuck_since = Some(now);
        }
        self.queue_gang(&gang);
    }
}
