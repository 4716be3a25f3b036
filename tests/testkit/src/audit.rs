//! The API server's audit log: what really happened, whoever says otherwise.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{Result, error::Doing as _, wait::eventually};

/// One request that the API server has answered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Raw")]
pub struct AuditEvent {
    /// create, update, patch, delete or deletecollection; reads only if they are logged.
    pub verb: String,
    /// The API group, empty for the core one.
    pub group: String,
    /// The plural name, such as `pods`.
    pub resource: String,
    /// Such as `status` or `binding`; empty for the object itself.
    pub subresource: String,
    /// Empty for what has none.
    pub namespace: String,
    /// Empty for creates with a generated name, lists and the like.
    pub name: String,
    /// Who the request acted as.
    pub user: String,
    /// The program, as it calls itself.
    pub user_agent: String,
    /// The path and query.
    pub uri: String,
    /// The HTTP status.
    pub code: u16,
    /// When the request came.
    pub received: Timestamp,
    /// When it was answered.
    pub answered: Timestamp,
}

impl AuditEvent {
    /// Whether the request changed something or tried to.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }

    /// Whether it was granted.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The field manager that the request named.
    #[must_use]
    pub fn field_manager(&self) -> Option<&str> {
        let query = self.uri.split_once('?')?.1;
        query.split('&').find_map(|pair| pair.strip_prefix("fieldManager="))
    }

    /// `clusters/status` or `pods`: what RBAC calls the resource.
    #[must_use]
    pub fn full_resource(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            sub => format!("{}/{sub}", self.resource),
        }
    }
}

/// A place in the log, to read on from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

impl Mark {
    /// How many bytes of the log are before it.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// Reads an audit log.
#[derive(Debug, Clone)]
pub struct Audit {
    path: PathBuf,
}

impl Audit {
    /// A reader of this file, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The log file, one JSON event a line.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the log now.
    pub fn mark(&self) -> Result<Mark> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Ok(Mark(metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Mark::default()),
            Err(error) => Err(error).doing(format!("look at {}", self.path.display())),
        }
    }

    /// All events from the start.
    pub fn events(&self) -> Result<Vec<AuditEvent>> {
        self.since(Mark::default())
    }

    /// The events after a mark, in the order in which they were answered.
    ///
    /// An event is written when its request has been answered, so that the
    /// last answer that a client got may be missing for some milliseconds:
    /// see [`Audit::wait_for`].
    pub fn since(&self, mark: Mark) -> Result<Vec<AuditEvent>> {
        let doing = || format!("read {}", self.path.display());
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file.doing(doing())?,
        };
        file.seek(SeekFrom::Start(mark.0)).doing(doing())?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).doing(doing())?;
        Ok(parse(&bytes))
    }

    /// The writes after a mark.
    pub fn writes_since(&self, mark: Mark) -> Result<Vec<AuditEvent>> {
        let mut events = self.since(mark)?;
        events.retain(AuditEvent::is_write);
        Ok(events)
    }

    /// Waits for an event after the mark.
    pub async fn wait_for(
        &self,
        mark: Mark,
        what: &str,
        limit: Duration,
        predicate: impl Fn(&AuditEvent) -> bool,
    ) -> Result<AuditEvent> {
        eventually(what, limit, async || {
            let events = self.since(mark).map_err(|error| error.to_string())?;
            let last = format!("{:#?}", &events[events.len().saturating_sub(5)..]);
            events.into_iter().find(&predicate).ok_or(last)
        })
        .await
    }
}

/// The events in some lines; a last line without its end is still being written.
fn parse(bytes: &[u8]) -> Vec<AuditEvent> {
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    bytes[..whole].split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// The parts of `audit.k8s.io/v1` Event that we read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    verb: String,
    user: RawUser,
    impersonated_user: Option<RawUser>,
    #[serde(default)]
    user_agent: String,
    #[serde(rename = "requestURI", default)]
    uri: String,
    #[serde(default)]
    object_ref: RawRef,
    #[serde(default)]
    response_status: RawStatus,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct RawUser {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawStatus {
    code: u16,
}

impl From<Raw> for AuditEvent {
    fn from(raw: Raw) -> Self {
        Self {
            verb: raw.verb,
            group: raw.object_ref.api_group,
            resource: raw.object_ref.resource,
            subresource: raw.object_ref.subresource,
            namespace: raw.object_ref.namespace,
            name: raw.object_ref.name,
            user: raw.impersonated_user.unwrap_or(raw.user).username,
            user_agent: raw.user_agent,
            uri: raw.uri,
            code: raw.response_status.code,
            received: raw.request_received_timestamp,
            answered: raw.stage_timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"x","stage":"ResponseComplete","requestURI":"/apis/atoll.dev/v1alpha1/namespaces/ml/clusters/llm/status?fieldManager=atoll-operator&force=true","verb":"patch","user":{"username":"admin","groups":["system:masters"]},"impersonatedUser":{"username":"ann"},"sourceIPs":["127.0.0.1"],"userAgent":"atoll-operator/0.1","objectRef":{"resource":"clusters","namespace":"ml","name":"llm","apiGroup":"atoll.dev","apiVersion":"v1alpha1","subresource":"status"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-23T00:00:00.000001Z","stageTimestamp":"2026-11-23T00:00:00.100001Z"}"#;

    #[test]
    fn an_event_says_who_did_what() {
        let event: AuditEvent = serde_json::from_str(LINE).unwrap();
        assert_eq!(event.full_resource(), "clusters/status");
        assert_eq!((event.verb.as_str(), event.group.as_str()), ("patch", "atoll.dev"));
        assert_eq!((event.namespace.as_str(), event.name.as_str()), ("ml", "llm"));
        assert_eq!(event.user, "ann", "who was acted as, not who acted");
        assert_eq!(event.field_manager(), Some("atoll-operator"));
        assert!(event.is_write() && event.succeeded());
        assert!(event.answered > event.received);
    }

    #[test]
    fn a_line_that_is_still_being_written_is_left_for_later() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::new(dir.path().join("audit.log"));
        assert_eq!(audit.mark().unwrap(), Mark::default());
        assert!(audit.events().unwrap().is_empty());

        std::fs::write(audit.path(), format!("{LINE}\n{}", &LINE[..50])).unwrap();
        assert_eq!(audit.events().unwrap().len(), 1);

        std::fs::write(audit.path(), format!("{LINE}\n")).unwrap();
        let mark = audit.mark().unwrap();
        assert!(audit.since(mark).unwrap().is_empty());
    }

    #[test]
    fn requests_for_no_object_are_events_too() {
        let line = r#"{"verb":"get","user":{},"requestURI":"/healthz","requestReceivedTimestamp":"2026-11-23T00:00:00Z","stageTimestamp":"2026-11-23T00:00:00Z"}"#;
        let event: AuditEvent = serde_json::from_str(line).unwrap();
        assert!(!event.is_write() && event.resource.is_empty());
    }
}
