//! Bindings, many in flight.

use std::time::{Duration, Instant};

use atoll_runtime::backoff::Backoff;
use futures::StreamExt;
use http::StatusCode;
use prost::bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::api::{Connections, Method, Reply};
use crate::cycle::{Binding, Event};
use crate::load::Load;
use crate::metrics::Metrics;
use crate::objects::ObjectKey;
use crate::permit::Permit;
use crate::proto;

/// An answer that takes longer counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(5);
/// When something else is tried after a refusal. By then the watch has shown what most refusals come from: a pod that is
/// bound already, being deleted or gone.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// Sends bindings to the API server.
pub(crate) struct Binder {
    connections: Connections,
    permit: Permit,
    metrics: Metrics,
    load: Load,
    /// Of bindings under way that had no answer.
    backoff: Backoff<ObjectKey>,
}

impl Binder {
    pub(crate) fn new(connections: Connections, permit: Permit, metrics: Metrics, load: Load) -> Self {
        Self { connections, permit, metrics, load, backoff: Backoff::new(RETRY_BASE, RETRY_CAP) }
    }

    /// Binds what comes in, at most `in_flight` at once, and tells the outcome of each. Each one was counted in the load
    /// before it came.
    pub(crate) async fn run(
        self,
        bindings: UnboundedReceiver<Binding>,
        in_flight: usize,
        outcomes: UnboundedSender<Event>,
    ) {
        let (binder, outcomes) = (&self, &outcomes);
        UnboundedReceiverStream::new(bindings)
            .for_each_concurrent(in_flight, |binding| async move {
                let outcome = binder.bind(binding).await;
                binder.load.less();
                if let Some(outcome) = outcome {
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
                Reply::Done => {}
                // Very likely by the one without an answer. The room stays taken until the watch shows what became of
                // the pod.
                Reply::Refused { code: StatusCode::CONFLICT, message } if unsure => {
                    tracing::info!(pod = %binding.pod, node = &*binding.node, message, "bound already");
                }
                Reply::Refused { message, .. } => {
                    tracing::warn!(pod = %binding.pod, node = &*binding.node, message, "binding refused");
                    self.settle(&binding, unsure, "refused", started);
                    return Some(Event::NotBound { binding, retry_after: AFTER_REFUSAL });
                }
                Reply::Unsure(message) => {
                    unsure = true;
                    let pause = self.backoff.next(&binding.pod);
                    tracing::warn!(pod = %binding.pod, node = &*binding.node, message, ?pause, "binding without an answer");
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            self.settle(&binding, unsure, "bound", started);
            return Some(Event::Bound(binding));
        }
    }

    fn settle(&self, binding: &Binding, unsure: bool, result: &str, started: Instant) {
        if unsure {
            self.backoff.reset(&binding.pod);
        }
        self.metrics.binding(result, started.elapsed().as_secs_f64());
    }

    async fn post(&self, binding: &Binding) -> Reply {
        let ObjectKey { namespace, name } = &binding.pod;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
        let body = proto::Binding::to_node(namespace, name, &binding.uid, &binding.node);
        let body = Bytes::from(proto::wrap(proto::Binding::API_VERSION, proto::Binding::KIND, &body));
        Reply::of(self.connections.send(Method::Create, &path, body, ANSWER_WITHIN).await)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;
    use crate::api::scripted::{self, Log};

    /// A binder whose API server gives these answers.
    async fn binder(codes: &[u16]) -> (Binder, Log) {
        let codes = Mutex::new(VecDeque::from(codes.to_vec()));
        let (connections, log) =
            scripted::serve(move |_| scripted::status(codes.lock().unwrap().pop_front().expect("no more requests")))
                .await;
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        (Binder::new(connections, Permit::Alone, metrics, Load::default()), log)
    }

    fn binding() -> Binding {
        Binding { pod: ObjectKey::new("ns", "p"), uid: "u".into(), node: "n".into(), gang: None }
    }

    #[tokio::test]
    async fn the_room_of_a_binding_that_may_have_happened_stays_taken() {
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
            let (binder, log) = binder(codes).await;
            let outcome = binder.bind(binding()).await.unwrap();
            assert_eq!(matches!(outcome, Event::Bound(_)), bound, "{codes:?}: {outcome:?}");
            assert_eq!(log.lock().unwrap().len(), codes.len());
        }
    }

    #[tokio::test]
    async fn a_binding_is_protobuf_with_the_uid_as_precondition() {
        let (binder, log) = binder(&[201]).await;
        binder.bind(binding()).await.unwrap();
        let asked = log.lock().unwrap().pop().unwrap();
        assert_eq!(asked.line, "POST /api/v1/namespaces/ns/pods/p/binding");
        assert_eq!(asked.headers[http::header::CONTENT_TYPE], proto::CONTENT_TYPE);
        let sent: proto::Binding = proto::decode(asked.body).unwrap();
        assert_eq!(sent, proto::Binding::to_node("ns", "p", "u", "n"));
    }
}
