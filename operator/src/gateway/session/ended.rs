//! How a session ends, and what its agent is told of it.

use std::time::Duration;

use atoll_wire::v1::{self, goodbye::Reason};
use tokio::sync::mpsc;
use tonic::Status;

use super::super::registry::End;

/// How long an agent may take to read what it is sent before its session ends.
pub const SLOW_READER: Duration = Duration::from_secs(20);

/// Messages to an agent, bounded.
pub type Outbox = mpsc::Sender<Result<v1::HubMessage, Status>>;

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its agent went away, or does not read.
    Closed,
    /// No heartbeat for too long.
    Silent,
    /// The agent broke the protocol.
    Protocol(String),
    /// The gateway is going away, or must not grant any more.
    Shutdown(&'static str),
    /// Something happened to the Site.
    Told(End),
}

impl Ended {
    /// What the agent is told; None: there is nobody to tell.
    #[must_use]
    pub fn goodbye(&self) -> Option<v1::Goodbye> {
        let (reason, message) = match self {
            Self::Closed => return None,
            Self::Silent => (Reason::Silent, "no heartbeat for too long"),
            Self::Protocol(message) => (Reason::Protocol, message.as_str()),
            Self::Shutdown(message) => (Reason::Shutdown, *message),
            Self::Told(End::Superseded) => (Reason::Superseded, "a newer session of this Site has begun"),
            Self::Told(End::Suspended) => (Reason::Suspended, "this Site is suspended"),
            Self::Told(End::SupplierSuspended) => (Reason::Suspended, "the supplier of this Site is suspended"),
            Self::Told(End::CalledLost) => (Reason::Silent, "the hub has called this Site absent"),
            Self::Told(End::Unknown) => (Reason::Suspended, "this Site is not known to the hub any more"),
        };
        Some(v1::Goodbye { reason: reason.into(), message: message.to_owned() })
    }
}
