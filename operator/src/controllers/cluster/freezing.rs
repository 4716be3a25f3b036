//! The freeze: looked at when Sites change, told where people look.

use std::time::Duration;

use atoll_api::conditions::hub_reason;
use atoll_core::freeze::{Freeze, Millis};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

use super::state::{Now, State};

/// Whether replacing is frozen, and when to look again.
#[derive(Debug, Default)]
pub(super) struct Freezing {
    freeze: Freeze,
    again: Option<Duration>,
    /// Sites that were lost, and live, at the last look.
    lost: usize,
    live: usize,
}

impl Freezing {
    pub(super) fn is_on(&self) -> bool {
        self.freeze.is_on()
    }

    /// When, by the boot-time clock, to look again although nothing changed.
    pub(super) fn next(&self) -> Option<Duration> {
        self.again
    }

    /// Tells of a beginning or an end; an event that is lost is lost.
    pub(super) fn publish(&self, recorder: &Recorder, hub: &ObjectReference) {
        let (reason, text) = if self.is_on() {
            let text = format!("{} Sites are lost and {} live: nobody is replaced for now", self.lost, self.live);
            (hub_reason::REPLACING_FROZEN, text)
        } else {
            (hub_reason::REPLACING_RESUMED, "members of lost Sites are replaced again".to_owned())
        };
        tracing::warn!(reason, lost = self.lost, live = self.live, "{text}");
        let event = Event {
            type_: if self.is_on() { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(text),
            action: reason.to_owned(),
            secondary: None,
        };
        let (recorder, hub) = (recorder.clone(), hub.clone());
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &hub).await {
                tracing::debug!(%error, "an event could not be published");
            }
        });
    }
}

impl State {
    /// Looks at all Sites; says whether a freeze has begun or ended. Then all Clusters are decided about again.
    pub(super) fn look_at_losses(&mut self, now: Now) -> bool {
        let boot = Millis::try_from(now.boot.as_millis()).unwrap_or(Millis::MAX);
        let was_on = self.freezing.is_on();
        let (losses, live) = self.sites.losses(now.boot);
        let again = self.freezing.freeze.look(&losses, live, boot);
        (self.freezing.lost, self.freezing.live) = (losses.len(), live);
        self.freezing.again = again.map(|at| Duration::from_millis(u64::try_from(at).unwrap_or_default()) + CEIL);
        let moved = was_on != self.freezing.is_on();
        if moved {
            self.metrics.frozen.set(i64::from(self.freezing.is_on()));
            self.dirty.extend(self.entries.keys().cloned());
        }
        moved
    }
}

/// What is rounded to milliseconds is looked at when that one is over.
const CEIL: Duration = Duration::from_millis(1);
