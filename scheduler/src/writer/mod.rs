//! Writes what the cycle says: statuses, conditions and events. Bindings and evictions pass through here on their way,
//! so that nothing else is in flight about their pods.

mod desk;
mod pace;
mod requests;

use std::time::Duration;

use atoll_api::names::SCHEDULER_NAME;
use atoll_runtime::backoff::Backoff;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::{Connections, Reply};
use crate::cycle::{Action, Binding, Object, ObjectKind};
use crate::evictor::Eviction;
use crate::load::Load;
use crate::objects::since_epoch;
use crate::permit::Permit;

use desk::{Desk, Target};
use pace::Pace;
pub(crate) use requests::{Request, deletion, disruption};

const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// An answer that takes longer counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longest note that an event may have, in bytes.
const MAX_NOTE: usize = 1024;
const EVENT_ACTION: &str = "Scheduling";
const REASON_FAILED_SCHEDULING: &str = "FailedScheduling";

/// Writes what the cycle says.
#[derive(Clone)]
pub(crate) struct Writer {
    connections: Connections,
    recorder: Recorder,
    permit: Permit,
    load: Load,
}

/// Where actions go on that are no status.
pub(crate) struct Onward {
    pub(crate) bindings: UnboundedSender<Binding>,
    pub(crate) evictions: UnboundedSender<Eviction>,
}

impl Onward {
    /// The receivers end only when the process does.
    fn send(&self, action: Action) {
        let _ = match action {
            Action::Bind(binding) => self.bindings.send(binding).is_ok(),
            Action::Evict { pod, uid, preemptor, message } => {
                self.evictions.send(Eviction { pod, uid, preempted: preemptor.is_some(), message }).is_ok()
            }
            _ => false,
        };
    }
}

/// What one write led to: the target, and the write itself when it is to be tried again.
struct Done {
    target: Target,
    again: Option<Action>,
}

impl Writer {
    pub(crate) fn new(client: kube::Client, connections: Connections, permit: Permit, load: Load) -> Self {
        let reporter = Reporter { controller: SCHEDULER_NAME.to_owned(), instance: None };
        let recorder = Recorder::new(client, reporter);
        Self { connections, recorder, permit, load }
    }

    /// Writes what comes in until the sender is gone and everything is written.
    pub(crate) async fn run(self, mut actions: UnboundedReceiver<Action>, onward: Onward) {
        let backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        let mut desk = Desk::default();
        let mut writes: JoinSet<Done> = JoinSet::new();
        let mut pauses: JoinSet<Target> = JoinSet::new();
        let mut pace = Pace::default();
        let mut open = true;
        while open || !writes.is_empty() || !pauses.is_empty() || !desk.is_empty() {
            while let Some((target, action)) = desk.next(pace.most(self.load.bindings())) {
                writes.spawn(self.clone().write(target, action));
            }
            let goes_on = tokio::select! {
                action = actions.recv(), if open => {
                    open = action.is_some();
                    action.and_then(|action| desk.put(action))
                }
                Some(done) = writes.join_next() => match done {
                    Ok(Done { target, again }) => {
                        let pause = again.as_ref().map(|_| backoff.next(&target));
                        if target.yields() {
                            pace.ended(Instant::now());
                        }
                        desk.ended(&target, again);
                        if let Some(pause) = pause {
                            pauses.spawn(async move {
                                tokio::time::sleep(pause).await;
                                target
                            });
                            None
                        } else {
                            backoff.reset(&target);
                            desk.free(target)
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "a write ended badly");
                        None
                    }
                },
                Some(Ok(target)) = pauses.join_next() => desk.free(target),
                () = self.load.idle() => None,
                () = pace.over() => None,
            };
            if let Some(action) = goes_on {
                onward.send(action);
            }
        }
    }

    async fn write(self, target: Target, action: Action) -> Done {
        if !self.permit.may_write() {
            return Done { target, again: None };
        }
        if let Action::Tell { on, warning, reason, message } = &action {
            self.publish(on, *warning, reason, message).await;
            return Done { target, again: None };
        }
        let Some(Request { method, path, body }) = requests::request(&action, since_epoch(&Timestamp::now())) else {
            return Done { target, again: None };
        };
        match Reply::of(self.connections.send(method, &path, body, ANSWER_WITHIN).await) {
            Reply::Done => {
                if let Action::Unschedulable { pod, uid, message, event: true, .. } = &action {
                    let on = Object { kind: ObjectKind::Pod, key: pod.clone(), uid: uid.clone() };
                    self.publish(&on, true, REASON_FAILED_SCHEDULING, message).await;
                }
                Done { target, again: None }
            }
            // An API server that starts denies for a moment what it allows afterwards.
            Reply::Refused { code, message } if !matches!(code.as_u16(), 401 | 403) => {
                tracing::info!(path, message, "status not written");
                Done { target, again: None }
            }
            Reply::Refused { message, .. } | Reply::Unsure(message) => {
                tracing::warn!(path, message, "writing a status, will try again");
                Done { target, again: Some(action) }
            }
        }
    }

    async fn publish(&self, on: &Object, warning: bool, reason: &str, message: &str) {
        let event = KubeEvent {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(shortened(message)),
            action: EVENT_ACTION.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &requests::reference(on)).await {
            tracing::info!(object = %on.key, %error, "event not written");
        }
    }
}

/// As much of a message as fits an event.
fn shortened(message: &str) -> String {
    message
        .chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= MAX_NOTE).then_some(c)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::scripted;
    use crate::cycle::Nominate;
    use crate::objects::ObjectKey;

    fn said(nominate: Nominate) -> Action {
        let (pod, uid) = (ObjectKey::new("ns", "p"), "u".into());
        Action::Unschedulable { pod, uid, message: "no room".into(), turned: true, event: false, nominate }
    }

    /// Writes one action to an API server that gives these answers; what it was asked.
    async fn write(codes: &'static [u16], action: Action) -> Vec<scripted::Asked> {
        let answers = Mutex::new(codes.iter());
        let (connections, log) =
            scripted::serve(move |_| scripted::status(*answers.lock().unwrap().next().expect("no more requests")))
                .await;
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let writer = Writer::new(client, connections, Permit::Alone, Load::default());
        let (actions, received) = tokio::sync::mpsc::unbounded_channel();
        let onward = Onward {
            bindings: tokio::sync::mpsc::unbounded_channel().0,
            evictions: tokio::sync::mpsc::unbounded_channel().0,
        };
        actions.send(action).unwrap();
        drop(actions);
        writer.run(received, onward).await;
        let asked = log.lock().unwrap().clone();
        assert_eq!(asked.len(), codes.len(), "{codes:?}");
        asked
    }

    #[tokio::test]
    async fn what_may_be_taken_later_is_tried_again() {
        for codes in [&[200][..], &[400], &[404], &[409], &[422], &[403, 200], &[401, 429, 503, 408, 500, 200]] {
            write(codes, said(Nominate::Leave)).await;
        }
    }

    #[tokio::test]
    async fn a_pod_is_told_in_its_status_and_nominated_there() {
        for (nominate, expected) in [
            (Nominate::Leave, None),
            (Nominate::Clear, Some(Value::Null)),
            (Nominate::Node("n-1".into()), Some(json!("n-1"))),
        ] {
            let asked = write(&[200], said(nominate)).await.remove(0);
            assert_eq!(asked.line, "PATCH /api/v1/namespaces/ns/pods/p/status?fieldManager=atoll-scheduler");
            assert_eq!(asked.headers["content-type"], "application/strategic-merge-patch+json");
            let body: Value = serde_json::from_slice(&asked.body).unwrap();
            assert_eq!(body["metadata"], json!({ "uid": "u" }));
            assert_eq!(body["status"].get("nominatedNodeName"), expected.as_ref());
            let condition = &body["status"]["conditions"][0];
            assert_eq!(
                (&condition["type"], &condition["status"], &condition["reason"], &condition["message"]),
                (&json!("PodScheduled"), &json!("False"), &json!("Unschedulable"), &json!("no room"))
            );
        }
    }

    #[test]
    fn notes_of_events_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let cut = shortened(&"ä".repeat(1000));
        assert_eq!(cut.len(), MAX_NOTE);
    }
}
