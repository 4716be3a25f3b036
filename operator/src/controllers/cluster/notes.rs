//! Events on a Cluster: one for each transition that its owner wants to know of, none for a retry.

use std::sync::Arc;

use atoll_api::conditions::{self, cluster as types};
use atoll_api::{Cluster, ClusterStatus};
use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::sync::Semaphore;

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Something went wrong or waits.
    pub warning: bool,
    /// Reason, a constant of `conditions::cluster_reason`.
    pub reason: String,
    /// In words.
    pub text: String,
}

/// The transitions from `old` to `new` that are worth an event.
#[must_use]
pub fn notes(old: &ClusterStatus, new: &ClusterStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    let moved = |type_: &str| {
        let now = conditions::condition(&new.conditions, type_)?;
        let before = conditions::condition(&old.conditions, type_);
        before.is_none_or(|before| (&before.status, &before.reason) != (&now.status, &now.reason)).then_some(now)
    };
    let ended = [types::COMPLETE, types::FAILED].iter().any(|type_| conditions::is_true(&new.conditions, type_));
    for type_ in [types::COMPLETE, types::FAILED] {
        if let Some(now) = moved(type_) {
            let warning = type_ == types::FAILED;
            notes.push(Note { warning, reason: now.reason.clone(), text: now.message.clone() });
        }
    }
    if ended {
        return notes;
    }
    let epoch = |status: &ClusterStatus| status.placement.as_ref().map(|placement| placement.epoch);
    if let Some(placement) = new.placement.as_ref().filter(|_| epoch(old) != epoch(new)) {
        let placed = placement.sites.iter().flat_map(|site| &site.nodes);
        let new_members: i32 = placed.filter(|n| n.incarnation == placement.epoch).map(|n| n.count).sum();
        if new_members > 0 {
            let place = new.location.as_deref().unwrap_or_default();
            let text = format!("{new_members} members placed, {} in all, at {place}", new.total);
            notes.push(Note { warning: false, reason: conditions::cluster_reason::PLACED.to_owned(), text });
        }
    }
    if let Some(now) = moved(types::PLACED).filter(|now| now.status == "False") {
        notes.push(Note { warning: true, reason: now.reason.clone(), text: now.message.clone() });
    }
    // Each further member that is concerned is news.
    if let Some(now) = conditions::condition(&new.conditions, types::GPUS_HEALTHY) {
        let before = conditions::condition(&old.conditions, types::GPUS_HEALTHY);
        let ailing = now.status == "False";
        if before.is_none_or(|before| before.status != now.status || ailing && before.message != now.message) {
            notes.push(Note { warning: ailing, reason: now.reason.clone(), text: now.message.clone() });
        }
    }
    if let Some(now) = moved(types::READY) {
        let warnings = [
            conditions::cluster_reason::SITE_LOST,
            conditions::cluster_reason::REPLACING_FROZEN,
            conditions::cluster_reason::SITE_DRAINING,
        ];
        let lost = warnings.contains(&now.reason.as_str());
        if now.status == "True" || lost {
            notes.push(Note { warning: lost, reason: now.reason.clone(), text: now.message.clone() });
        }
    }
    notes
}

/// Publishes `notes` without making anybody wait: an event that is lost is lost. At most so many at once as `places` has.
pub fn publish(recorder: &Recorder, places: &Arc<Semaphore>, cluster: &Cluster, notes: Vec<Note>) {
    if notes.is_empty() {
        return;
    }
    let (recorder, places, reference) = (recorder.clone(), Arc::clone(places), cluster.object_ref(&()));
    tokio::spawn(async move {
        for note in notes {
            let _place = places.acquire().await;
            let event = Event {
                type_: if note.warning { EventType::Warning } else { EventType::Normal },
                action: note.reason.clone(),
                reason: note.reason,
                note: Some(note.text),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::debug!(%error, "an event could not be published");
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn with(type_: &str, holds: bool, reason: &str, message: &str) -> ClusterStatus {
        let mut status = ClusterStatus::default();
        conditions::set_condition(&mut status.conditions, type_, holds, reason, message, None, Timestamp::UNIX_EPOCH);
        status
    }

    #[test]
    fn a_reason_is_told_once_whatever_its_message_says() {
        let none = ClusterStatus::default();
        let first = with(types::PLACED, false, "InsufficientCapacity", "3 free");
        let later = with(types::PLACED, false, "InsufficientCapacity", "2 free");
        let other = with(types::PLACED, false, "NoSuchGPU", "none");
        assert_eq!(notes(&none, &first).len(), 1);
        assert!(notes(&first, &later).is_empty());
        assert_eq!(notes(&later, &other)[0].reason, "NoSuchGPU");
    }

    #[test]
    fn each_member_on_an_unhealthy_gpu_is_told_and_so_is_the_end_of_it() {
        let of = |healthy, reason, message| with(types::GPUS_HEALTHY, healthy, reason, message);
        let (none, one) = (ClusterStatus::default(), of(false, "GPUUnhealthy", "rank 0"));
        let (two, well) = (of(false, "GPUUnhealthy", "rank 0; rank 3"), of(true, "AllHealthy", "none"));
        for (old, new, told) in
            [(&none, &one, 1), (&one, &one, 0), (&one, &two, 1), (&two, &well, 1), (&well, &well, 0), (&none, &none, 0)]
        {
            assert_eq!(notes(old, new).len(), told, "{old:?} {new:?}");
        }
        assert!(notes(&none, &one)[0].warning && !notes(&one, &well)[0].warning);
    }

    #[test]
    fn an_end_is_told_and_nothing_else_with_it() {
        let failed = with(types::FAILED, true, "BackoffLimitExceeded", "7 failures");
        let told = notes(&with(types::PLACED, true, "Placed", ""), &failed);
        assert_eq!(
            told,
            [Note { warning: true, reason: "BackoffLimitExceeded".to_owned(), text: "7 failures".to_owned() }]
        );
        assert!(notes(&failed, &failed).is_empty());
    }
}
