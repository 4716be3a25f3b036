//! `/debug/scheduler`: what waits, and why.

use std::fmt::Write;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::cycle::{GangKind, PendingView, WaitsFor};
use crate::objects::since_epoch;

/// How long the cycle may take to answer: it looks between two turns.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// One who asks; dropped when the answer came too late.
pub(crate) type Question = oneshot::Sender<Vec<PendingView>>;

/// What the cycle is asked by the page.
#[derive(Debug)]
pub struct Questions(mpsc::Receiver<Question>);

impl Questions {
    pub(crate) async fn next(&mut self) -> Option<Question> {
        self.0.recv().await
    }
}

/// The page, and what it asks of the cycle.
pub fn page() -> (Router, Questions) {
    let (ask, asked) = mpsc::channel(4);
    (Router::new().route("/debug/scheduler", get(show)).with_state(ask), Questions(asked))
}

#[derive(Deserialize)]
struct Asked {
    format: Option<String>,
}

async fn show(State(ask): State<mpsc::Sender<Question>>, Query(asked): Query<Asked>, headers: HeaderMap) -> Response {
    let (question, answer) = oneshot::channel();
    let view = async {
        ask.send(question).await.ok()?;
        answer.await.ok()
    };
    let Ok(Some(pending)) = tokio::time::timeout(ANSWERS_WITHIN, view).await else {
        let words = "no answer: this process does not schedule, because it does not lead or has just begun\n";
        return (StatusCode::SERVICE_UNAVAILABLE, words).into_response();
    };
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let now = since_epoch(&Timestamp::now());
    let rows: Vec<Row> = pending.iter().map(|pending| Row::of(pending, now)).collect();
    match asked.format.as_deref() {
        Some("json") => axum::Json(rows).into_response(),
        None if accepts.starts_with("application/json") => axum::Json(rows).into_response(),
        None | Some("text") => table(&rows).into_response(),
        Some(other) => (StatusCode::BAD_REQUEST, format!("no format {other:?}: text or json\n")).into_response(),
    }
}

/// One gang or pod that waits.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    kind: &'static str,
    namespace: String,
    name: String,
    priority: i32,
    /// Members that wait.
    members: usize,
    /// Since its creation.
    seconds: u64,
    waits_for: String,
    reason: Option<String>,
}

impl Row {
    fn of(pending: &PendingView, now: Duration) -> Self {
        Self {
            kind: kind(pending.gang),
            namespace: pending.key.namespace.to_string(),
            name: pending.key.name.to_string(),
            priority: pending.priority,
            members: pending.members,
            seconds: now.saturating_sub(pending.since).as_secs(),
            waits_for: match &pending.waits_for {
                WaitsFor::Change(changes) => changes.join(", "),
                WaitsFor::Time(at) => format!("{} s", at.saturating_sub(now).as_secs()),
                WaitsFor::Turn => "its turn".to_owned(),
                WaitsFor::Parts => "its parts".to_owned(),
                WaitsFor::Victims => "victims".to_owned(),
            },
            reason: pending.reason.as_deref().map(str::to_owned),
        }
    }
}

/// What is pending, in one word.
fn kind(gang: Option<GangKind>) -> &'static str {
    match gang {
        None => "pod",
        Some(GangKind::Object | GangKind::Label) => "gang",
        Some(GangKind::PodGroup) => "podgroup",
    }
}

fn table(rows: &[Row]) -> String {
    let head = ["KIND", "NAMESPACE", "NAME", "PRIORITY", "MEMBERS", "AGE", "WAITS FOR", "REASON"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        [
            row.kind.to_owned(),
            row.namespace.clone(),
            row.name.clone(),
            row.priority.to_string(),
            row.members.to_string(),
            format!("{} s", row.seconds),
            row.waits_for.clone(),
            row.reason.clone().unwrap_or_default(),
        ]
    });
    let lines: Vec<[String; 8]> = std::iter::once(head).chain(cells).collect();
    let mut widths = [0; 8];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut written = String::new();
        for (width, cell) in widths.iter().zip(line) {
            // Writing to a string does not fail.
            let _ = write!(written, "{cell:width$}  ");
        }
        text.push_str(written.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::ObjectKey;

    fn pending() -> PendingView {
        PendingView {
            key: ObjectKey::new("team", "training"),
            gang: Some(GangKind::Label),
            priority: 10,
            since: Duration::from_secs(100),
            members: 8,
            reason: Some("8 members need 8 GPUs; the most that is free is 4".into()),
            waits_for: WaitsFor::Change(vec!["nodes", "room"]),
        }
    }

    #[test]
    fn each_pending_gang_is_a_line_with_its_reason() {
        let mut pod = pending();
        (pod.gang, pod.reason, pod.waits_for) = (None, None, WaitsFor::Time(Duration::from_secs(163)));
        let now = Duration::from_secs(160);
        let text = table(&[Row::of(&pending(), now), Row::of(&pod, now)]);
        let expected = "\
KIND  NAMESPACE  NAME      PRIORITY  MEMBERS  AGE   WAITS FOR    REASON
gang  team       training  10        8        60 s  nodes, room  8 members need 8 GPUs; the most that is free is 4
pod   team       training  10        8        60 s  3 s
";
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn the_page_asks_the_cycle_and_says_when_there_is_none() {
        let (ask, asked) = mpsc::channel(1);
        let mut questions = Questions(asked);
        let answers = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                question.send(vec![pending()]).unwrap();
            }
        });
        for (format, accept, code, begins) in [
            (None, "*/*", 200, "KIND "),
            (None, "application/json", 200, "[{\"kind\":\"gang\""),
            (Some("json"), "*/*", 200, "[{\"kind\":\"gang\""),
            (Some("text"), "application/json", 200, "KIND "),
            (Some("xml"), "*/*", 400, "no format"),
        ] {
            let headers = [(header::ACCEPT, accept.parse().unwrap())].into_iter().collect();
            let asked = Query(Asked { format: format.map(str::to_owned) });
            let response = show(State(ask.clone()), asked, headers).await;
            assert_eq!(response.status().as_u16(), code, "{format:?} {accept}");
            let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            assert!(body.starts_with(begins.as_bytes()), "{format:?} {accept}: {body:?}");
        }
        answers.abort();
        let _ = answers.await;
        let response = show(State(ask), Query(Asked { format: None }), HeaderMap::new()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
