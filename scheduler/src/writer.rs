//! Writes statuses, conditions and events: one at a time for each object, the newest last.

use std::collections::HashMap;
use std::time::Duration;

use atoll_api::names::{FIELD_MANAGER_SCHEDULER, SCHEDULER_NAME};
use atoll_api::{GROUP, Gang, VERSION};
use atoll_runtime::backoff::Backoff;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use crate::cycle::Action;
use crate::objects::{ObjectKey, api_time, since_epoch};
use crate::permit::Permit;

const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// Longest note that an event may have.
const MAX_NOTE: usize = 1024;
const EVENT_ACTION: &str = "Scheduling";
const REASON_FAILED_SCHEDULING: &str = "FailedScheduling";
const REASON_UNSCHEDULABLE: &str = "Unschedulable";

/// Writes what the cycle says.
pub(crate) struct Writer {
    client: kube::Client,
    permit: Permit,
    recorder: Recorder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Gang,
    Pod,
}

type Target = (Kind, ObjectKey);

/// What one write led to: the target, and the write itself when it is to be tried again.
struct Done {
    target: Target,
    again: Option<Action>,
}

impl Writer {
    pub(crate) fn new(client: kube::Client, permit: Permit) -> Self {
        let reporter = Reporter { controller: SCHEDULER_NAME.to_owned(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, permit, recorder }
    }

    /// Writes what comes in until the sender is gone and everything is written.
    pub(crate) async fn run(self, mut actions: UnboundedReceiver<Action>) {
        let backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        // An object with an entry has a write in flight; the entry is what comes after it.
        let mut next: HashMap<Target, Option<Action>> = HashMap::new();
        let mut writes: JoinSet<Option<Done>> = JoinSet::new();
        let mut open = true;
        while open || !writes.is_empty() {
            tokio::select! {
                action = actions.recv(), if open => match action {
                    None => open = false,
                    Some(action) => match target(&action) {
                        None => self.spawn_event(action, &mut writes),
                        Some(target) => if let Some(waiting) = next.get_mut(&target) {
                            *waiting = Some(action);
                        } else {
                            next.insert(target.clone(), None);
                            self.spawn(target, action, Duration::ZERO, &mut writes);
                        },
                    },
                },
                Some(done) = writes.join_next() => {
                    let Ok(Some(Done { target, again })) = done else { continue };
                    let pause = if again.is_some() { backoff.next(&target) } else { Duration::ZERO };
                    if again.is_none() {
                        backoff.reset(&target);
                    }
                    if let Some(action) = next.remove(&target).flatten().or(again) {
                        next.insert(target.clone(), None);
                        self.spawn(target, action, pause, &mut writes);
                    }
                }
            }
        }
    }

    fn spawn(&self, target: Target, action: Action, pause: Duration, writes: &mut JoinSet<Option<Done>>) {
        let (client, permit, recorder) = (self.client.clone(), self.permit.clone(), self.recorder.clone());
        writes.spawn(async move {
            tokio::time::sleep(pause).await;
            if !permit.may_write() {
                return Some(Done { target, again: None });
            }
            let again = match write(&client, &recorder, &action).await {
                Ok(()) => None,
                Err(error) if is_final(&error) => {
                    tracing::info!(object = %target.1, %error, "status not written");
                    None
                }
                Err(error) => {
                    tracing::warn!(object = %target.1, %error, "writing a status, will try again");
                    Some(action)
                }
            };
            Some(Done { target, again })
        });
    }

    fn spawn_event(&self, action: Action, writes: &mut JoinSet<Option<Done>>) {
        let (permit, recorder) = (self.permit.clone(), self.recorder.clone());
        writes.spawn(async move {
            if permit.may_write()
                && let Action::GangRefused { gang, uid, reason, message } = action
            {
                let reference = ObjectReference {
                    api_version: Some(format!("{GROUP}/{VERSION}")),
                    kind: Some("Gang".to_owned()),
                    ..reference(&gang, &uid)
                };
                publish(&recorder, &reference, &reason, &message).await;
            }
            None
        });
    }
}

/// Whether the same write can never be taken: its object is gone, or another one of its name, or it makes no sense. An
/// API server that starts denies for a moment (401, 403) what it allows afterwards.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if (400..500).contains(&status.code) && !matches!(status.code, 401 | 403 | 408 | 429))
}

fn target(action: &Action) -> Option<Target> {
    match action {
        Action::GangStatus { gang, .. } => Some((Kind::Gang, gang.clone())),
        Action::Unschedulable { pod, .. } => Some((Kind::Pod, pod.clone())),
        Action::Bind(_) | Action::GangRefused { .. } => None,
    }
}

async fn write(client: &kube::Client, recorder: &Recorder, action: &Action) -> Result<(), kube::Error> {
    match action {
        Action::GangStatus { gang, uid, status } => {
            let api: Api<Gang> = Api::namespaced(client.clone(), &gang.namespace);
            let body = json!({
                "apiVersion": format!("{GROUP}/{VERSION}"),
                "kind": "Gang",
                "metadata": { "name": gang.name, "uid": uid },
                "status": status,
            });
            let params = PatchParams::apply(FIELD_MANAGER_SCHEDULER).force();
            api.patch_status(&gang.name, &params, &Patch::Apply(body)).await?;
        }
        Action::Unschedulable { pod, uid, message, first } => {
            let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
            let condition = json!({
                "type": "PodScheduled",
                "status": "False",
                "reason": REASON_UNSCHEDULABLE,
                "message": message,
                "lastTransitionTime": api_time(since_epoch(&Timestamp::now())),
            });
            let body = json!({ "metadata": { "uid": uid }, "status": { "conditions": [condition] } });
            let params = PatchParams { field_manager: Some(FIELD_MANAGER_SCHEDULER.to_owned()), ..Default::default() };
            api.patch_status(&pod.name, &params, &Patch::Strategic(body)).await?;
            if *first {
                let reference = ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    ..reference(pod, uid)
                };
                publish(recorder, &reference, REASON_FAILED_SCHEDULING, message).await;
            }
        }
        Action::Bind(_) | Action::GangRefused { .. } => {}
    }
    Ok(())
}

fn reference(key: &ObjectKey, uid: &str) -> ObjectReference {
    ObjectReference {
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

async fn publish(recorder: &Recorder, reference: &ObjectReference, reason: &str, message: &str) {
    let event = KubeEvent {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: Some(message.chars().take(MAX_NOTE).collect()),
        action: EVENT_ACTION.to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, reference).await {
        tracing::info!(object = reference.name, %error, "event not written");
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_may_be_taken_later_is_tried_again() {
        for (code, last) in [
            (400, true),
            (401, false),
            (403, false),
            (404, true),
            (408, false),
            (409, true),
            (422, true),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let status = Status { code, ..Status::default() };
            assert_eq!(is_final(&kube::Error::Api(status.boxed())), last, "{code}");
        }
    }
}
