//! Evictions: pods that make room for others, and members of gangs that cannot be completed.

use std::sync::Arc;
use std::time::Duration;

use atoll_runtime::backoff::Backoff;
use futures::StreamExt;
use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::api::{Connections, Reply};
use crate::cycle::Event;
use crate::metrics::Metrics;
use crate::objects::{ObjectKey, since_epoch};
use crate::permit::Permit;
use crate::writer::{Request, deletion, disruption};

/// A large gang may need hundreds of pods to go; somebody waits for the last of them.
const IN_FLIGHT: usize = 32;
/// An answer that takes longer counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(5);

/// A pod that is to go.
#[derive(Debug)]
pub(crate) struct Eviction {
    pub(crate) pod: ObjectKey,
    pub(crate) uid: Arc<str>,
    /// For one of higher priority, which its status is to say first.
    pub(crate) preempted: bool,
    pub(crate) message: Arc<str>,
}

/// Deletes pods.
pub(crate) struct Evictor {
    connections: Connections,
    permit: Permit,
    metrics: Metrics,
    backoff: Backoff<ObjectKey>,
}

/// What the API server said to one request about a pod.
enum Said {
    Yes,
    /// There is no such pod.
    Gone,
    /// Another pod of its name is there, or the pod changed too often meanwhile.
    Conflict,
    No(String),
    /// This process may not write any more.
    Silent,
}

impl Evictor {
    pub(crate) fn new(connections: Connections, permit: Permit, metrics: Metrics) -> Self {
        Self { connections, permit, metrics, backoff: Backoff::new(RETRY_BASE, RETRY_CAP) }
    }

    /// Deletes what comes in and tells the outcome of each.
    pub(crate) async fn run(self, evictions: UnboundedReceiver<Eviction>, outcomes: UnboundedSender<Event>) {
        let (evictor, outcomes) = (&self, &outcomes);
        UnboundedReceiverStream::new(evictions)
            .for_each_concurrent(IN_FLIGHT, |eviction| async move {
                if let Some(outcome) = evictor.evict(eviction).await {
                    // The receiver is gone only when the process ends.
                    let _ = outcomes.send(outcome);
                }
            })
            .await;
    }

    async fn evict(&self, eviction: Eviction) -> Option<Event> {
        let Eviction { pod, uid, preempted, message } = eviction;
        let mut said = Said::Yes;
        if preempted {
            let now = since_epoch(&Timestamp::now());
            said = self.ask(&pod, || disruption(&pod, &uid, &message, now)).await;
        }
        // The deletion is sure to be of this very pod.
        if matches!(said, Said::Yes | Said::Conflict) {
            said = self.ask(&pod, || deletion(&pod, &uid)).await;
        }
        match said {
            Said::Yes => {
                tracing::info!(%pod, message = &*message, "evicted");
                self.metrics.eviction("evicted");
                Some(Event::Evicted { pod, uid })
            }
            Said::Gone | Said::Conflict => {
                self.metrics.eviction("gone");
                Some(Event::Evicted { pod, uid })
            }
            Said::No(why) => {
                tracing::warn!(%pod, why, "not evicted");
                self.metrics.eviction("refused");
                Some(Event::NotEvicted { pod, uid, why })
            }
            Said::Silent => None,
        }
    }

    /// Asks until the answer is certain; both requests can be sent twice.
    async fn ask(&self, pod: &ObjectKey, request: impl Fn() -> Request) -> Said {
        loop {
            if !self.permit.may_write() {
                return Said::Silent;
            }
            let Request { method, path, body } = request();
            let said = match Reply::of(self.connections.send(method, &path, body, ANSWER_WITHIN).await) {
                Reply::Done => Said::Yes,
                Reply::Refused { code: StatusCode::NOT_FOUND, .. } => Said::Gone,
                Reply::Refused { code: StatusCode::CONFLICT, .. } => Said::Conflict,
                Reply::Refused { message, .. } => Said::No(message),
                Reply::Unsure(message) => {
                    let pause = self.backoff.next(pod);
                    tracing::warn!(%pod, message, ?pause, "eviction without an answer");
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            self.backoff.reset(pod);
            return said;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;
    use crate::api::scripted;

    async fn evict(codes: &[u16], preempted: bool) -> (Event, Vec<String>) {
        let answers = Mutex::new(VecDeque::from(codes.to_vec()));
        let (connections, log) =
            scripted::serve(move |_| scripted::status(answers.lock().unwrap().pop_front().expect("no more requests")))
                .await;
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let evictor = Evictor::new(connections, Permit::Alone, metrics);
        let pod = ObjectKey::new("ns", "p");
        let eviction = Eviction { pod, uid: "u".into(), preempted, message: "for another".into() };
        let event = evictor.evict(eviction).await.unwrap();
        let asked: Vec<String> = log.lock().unwrap().iter().map(|asked| asked.line.clone()).collect();
        assert_eq!(asked.len(), codes.len(), "{codes:?}");
        (event, asked)
    }

    #[tokio::test]
    async fn a_pod_that_is_preempted_says_so_before_it_goes() {
        let status = "PATCH /api/v1/namespaces/ns/pods/p/status?fieldManager=atoll-scheduler";
        let delete = "DELETE /api/v1/namespaces/ns/pods/p";
        assert_eq!(evict(&[200, 200], true).await.1, [status, delete]);
        assert_eq!(evict(&[200], false).await.1, [delete]);
        assert_eq!(evict(&[503, 200, 500, 200], true).await.1, [status, status, delete, delete]);
    }

    #[tokio::test]
    async fn a_pod_that_is_gone_is_evicted_and_a_refusal_is_told() {
        for (codes, preempted, evicted) in [
            (&[404][..], true, true),
            (&[200, 404], true, true),
            (&[409], false, true),
            (&[409, 200], true, true),
            (&[403], false, false),
            (&[422], true, false),
            (&[429, 200], false, true),
        ] {
            let event = evict(codes, preempted).await.0;
            assert_eq!(matches!(event, Event::Evicted { .. }), evicted, "{codes:?}: {event:?}");
        }
    }
}
