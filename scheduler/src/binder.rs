//! Bindings, many in flight.

use std::time::{Duration, Instant};

use atoll_runtime::backoff::Backoff;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Binding as ApiBinding, ObjectReference, Pod};
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::cycle::{Binding, Event};
use crate::metrics::Metrics;
use crate::objects::ObjectKey;
use crate::permit::Permit;

/// An answer that takes longer counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// When something else is tried after a refusal. By then the watch has shown what most refusals come from: a pod that is
/// bound already, being deleted or gone.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// Sends bindings to the API server.
pub(crate) struct Binder {
    client: kube::Client,
    permit: Permit,
    metrics: Metrics,
    /// Of bindings under way that had no answer.
    backoff: Backoff<ObjectKey>,
}

/// What the API server said to a binding.
enum Answer {
    Bound,
    /// It is certain that this binding did not happen now.
    Refused(kube::Error),
    /// It may have happened or not.
    Unknown(String),
}

impl Binder {
    pub(crate) fn new(client: kube::Client, permit: Permit, metrics: Metrics) -> Self {
        Self { client, permit, metrics, backoff: Backoff::new(RETRY_BASE, RETRY_CAP) }
    }

    /// Binds what comes in, at most `in_flight` at once, and tells the outcome of each.
    pub(crate) async fn run(
        self,
        bindings: UnboundedReceiver<Binding>,
        in_flight: usize,
        outcomes: UnboundedSender<Event>,
    ) {
        let (binder, outcomes) = (&self, &outcomes);
        requests(bindings)
            .for_each_concurrent(in_flight, |binding| async move {
                if let Some(outcome) = binder.bind(binding).await {
                    // The receiver is gone only when the process ends.
                    let _ = outcomes.send(outcome);
                }
            })
            .await;
    }

    /// Until the answer is certain: as long as it may have happened, the same node is asked for again and its room
    /// stays taken. `None` when this process may not write any more.
    async fn bind(&self, binding: Binding) -> Option<Event> {
        let started = Instant::now();
        let mut unsure = false;
        loop {
            if !self.permit.may_write() {
                return None;
            }
            match self.post(&binding).await {
                Answer::Bound => {
                    self.backoff.reset(&binding.pod);
                    self.metrics.binding("bound", started.elapsed().as_secs_f64());
                    return Some(Event::Bound(binding));
                }
                // Very likely by the one without an answer. The room stays taken until the watch shows what became of
                // the pod.
                Answer::Refused(error) if unsure && is_conflict(&error) => {
                    tracing::info!(pod = %binding.pod, node = binding.node, %error, "bound already");
                    self.backoff.reset(&binding.pod);
                    self.metrics.binding("bound", started.elapsed().as_secs_f64());
                    return Some(Event::Bound(binding));
                }
                Answer::Refused(error) => {
                    tracing::warn!(pod = %binding.pod, node = binding.node, %error, "binding refused");
                    self.backoff.reset(&binding.pod);
                    self.metrics.binding("refused", started.elapsed().as_secs_f64());
                    return Some(Event::NotBound { binding, retry_after: AFTER_REFUSAL });
                }
                Answer::Unknown(error) => {
                    unsure = true;
                    let pause = self.backoff.next(&binding.pod);
                    tracing::warn!(pod = %binding.pod, node = binding.node, error, ?pause, "binding without an answer");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn post(&self, binding: &Binding) -> Answer {
        let body = ApiBinding {
            metadata: ObjectMeta {
                name: Some(binding.pod.name.clone()),
                namespace: Some(binding.pod.namespace.clone()),
                uid: Some(binding.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(binding.node.clone()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &binding.pod.namespace);
        let params = PostParams::default();
        let answer = api.create_subresource::<_, serde_json::Value>("binding", &binding.pod.name, &params, &body);
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(_)) => Answer::Bound,
            Ok(Err(error)) if is_certain(&error) => Answer::Refused(error),
            Ok(Err(error)) => Answer::Unknown(error.to_string()),
            Err(_) => Answer::Unknown("timed out".to_owned()),
        }
    }
}

/// A channel as a stream.
fn requests<T: Send + 'static>(receiver: UnboundedReceiver<T>) -> impl Stream<Item = T> {
    futures::stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|item| (item, receiver)))
}

/// The pod is bound, being deleted, or another one of its name.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Whether the API server itself refused, so that nothing was written.
fn is_certain(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 408 && status.code != 429)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// A binder whose API server gives these answers.
    fn binder(codes: &[u16]) -> Binder {
        let codes = Arc::new(Mutex::new(VecDeque::from(codes.to_vec())));
        let server = tower::service_fn(move |_: http::Request<Body>| {
            let code = codes.lock().unwrap().pop_front().expect("no more requests");
            let status = if code < 300 { "Success" } else { "Failure" };
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": status, "code": code, "message": "so"});
            let answer = http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            async { answer }
        });
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        Binder::new(kube::Client::new(server, "default"), Permit::Alone, metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_of_a_binding_that_may_have_happened_stays_taken() {
        let binding = Binding { pod: ObjectKey::new("ns", "p"), uid: "u".into(), node: "n".into(), gang: None };
        for (codes, bound) in [
            (&[201][..], true),
            (&[409], false),
            (&[404], false),
            (&[403], false),
            (&[503, 201], true),
            (&[503, 409], true),
            (&[500, 429, 409], true),
            (&[503, 404], false),
        ] {
            let outcome = binder(codes).bind(binding.clone()).await.unwrap();
            assert_eq!(matches!(outcome, Event::Bound(_)), bound, "{codes:?}: {outcome:?}");
        }
    }
}
