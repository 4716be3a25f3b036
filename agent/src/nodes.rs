//! What the watchdogs of the Site's nodes ask this agent: how old the Site's lease is. Nothing is believed and nothing is
//! answered without the Site's key.

mod key;
mod nonces;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use atoll_core::member::Member;
use atoll_core::nodes::Running;
use atoll_runtime::backoff::Backoff;
use atoll_wire::limits::{
    MAX_NODE_NAME_BYTES, MAX_RUNNING_MEMBERS, MAX_UUID_BYTES, MAX_WATCHDOG_MESSAGE_BYTES, MAX_WORD_BYTES,
};
use atoll_wire::mac::Sealed as _;
use atoll_wire::watchdog::leases_server::{Leases, LeasesServer};
use atoll_wire::watchdog::{AskRequest, AskResponse, RunningMember};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::metrics::Metrics;
use nonces::Nonces;

pub use key::{Key, KeyError, KeySource};

/// How long a connection may take to say something, and a request to be answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests of one connection that are under way at once: a watchdog asks one after the other.
const REQUESTS_OF_ONE: usize = 4;

/// A watchdog's question, for the manager.
#[derive(Debug)]
pub struct Ask {
    /// The node.
    pub node: String,
    /// Changes with each boot of the node.
    pub boot_id: String,
    /// What runs there.
    pub running: Vec<Running>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// The manager's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Since the heartbeat that the newest grant answers was sent; `None`: there was no grant in this process.
    pub age: Option<Duration>,
    /// UIDs of pods to be killed.
    pub kill: Vec<String>,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("the request is not as the protocol has it")]
    Malformed,
    #[error("its MAC is not made with the key of this Site")]
    Mac,
    #[error("it was sent before")]
    Replayed,
}

impl Refused {
    /// The value of the label `reason` of [`Metrics::watchdog_refused`].
    fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Mac => "mac",
            Self::Replayed => "replayed",
        }
    }
}

/// The service.
pub struct Service {
    key: Key,
    nonces: Mutex<Nonces>,
    asks: mpsc::Sender<Ask>,
    metrics: Metrics,
}

impl Service {
    /// Answers who has `key` with what the receiver of `asks` says.
    #[must_use]
    pub fn new(key: Key, asks: mpsc::Sender<Ask>, metrics: Metrics) -> Self {
        Self { key, nonces: Mutex::default(), asks, metrics }
    }

    /// The request, if it is a watchdog's and was not seen before.
    fn check(&self, request: AskRequest) -> Result<AskRequest, Refused> {
        let request = request.open(self.key.as_bytes()).ok_or(Refused::Mac)?;
        let is_member = |member: &RunningMember| {
            [&member.pod_uid, &member.cluster_uid].iter().all(|uid| !uid.is_empty() && uid.len() <= MAX_UUID_BYTES)
        };
        let well_formed = crate::naming::is_name(&request.node)
            && request.node.len() <= MAX_NODE_NAME_BYTES
            && request.boot_id.len() <= MAX_WORD_BYTES
            && request.running.len() <= MAX_RUNNING_MEMBERS
            && request.running.iter().all(is_member);
        let nonce = request.nonce.as_slice().try_into().ok().filter(|_| well_formed).ok_or(Refused::Malformed)?;
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        if nonces.take(&request.node, nonce) { Ok(request) } else { Err(Refused::Replayed) }
    }
}

#[tonic::async_trait]
impl Leases for Service {
    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        let peer = request.remote_addr();
        let AskRequest { node, nonce, running, boot_id, .. } = self.check(request.into_inner()).map_err(|refused| {
            self.metrics.watchdog_refused.with_label_values(&[refused.label()]).inc();
            tracing::warn!(?peer, error = %refused, "a watchdog's request is refused");
            Status::permission_denied(refused.to_string())
        })?;
        self.metrics.watchdog_asks.inc();
        let running = running.into_iter().map(|running| Running {
            cluster_uid: running.cluster_uid,
            member: Member { rank: running.rank, incarnation: running.incarnation },
            pod_uid: running.pod_uid,
        });
        let (answer, answered) = oneshot::channel();
        let ask = Ask { node, boot_id, running: running.collect(), answer };
        let unavailable = || Status::unavailable("the agent ends");
        self.asks.send(ask).await.map_err(|_| unavailable())?;
        let Answer { age, kill } = answered.await.map_err(|_| unavailable())?;
        let answer = AskResponse {
            nonce,
            granted: age.is_some(),
            // Rounded up: a lease must not seem younger than it is.
            age_milliseconds: age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX).saturating_add(1)),
            kill,
            mac: Vec::new(),
        };
        Ok(Response::new(answer.seal(self.key.as_bytes())))
    }
}

/// Serves watchdogs on `address`, until `shutdown`. What keeps it from that is tried again: members here are under their
/// leases meanwhile, as far as this process and the Site's API reach.
pub async fn serve(
    address: SocketAddr,
    key: KeySource,
    asks: mpsc::Sender<Ask>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let served = tokio::select! {
            () = shutdown.cancelled() => return,
            served = try_serve(address, &key, &asks, &metrics) => served,
        };
        let error = served.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        let wait = backoff.next(&());
        tracing::error!(%address, error, ?wait, "watchdogs are not answered");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn try_serve(
    address: SocketAddr,
    key: &KeySource,
    asks: &mpsc::Sender<Ask>,
    metrics: &Metrics,
) -> Result<(), ServeError> {
    let service = LeasesServer::new(Service::new(key.load().await?, asks.clone(), metrics.clone()))
        .max_decoding_message_size(MAX_WATCHDOG_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_WATCHDOG_MESSAGE_BYTES);
    let incoming = TcpIncoming::bind(address).map_err(ServeError::Listen)?.with_nodelay(Some(true));
    tracing::info!(%address, "watchdogs are answered");
    Server::builder()
        .timeout(PATIENCE)
        .concurrency_limit_per_connection(REQUESTS_OF_ONE)
        .http2_keepalive_interval(Some(PATIENCE))
        .http2_keepalive_timeout(Some(PATIENCE))
        .add_service(service)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// Why watchdogs are not answered.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot listen: {0}")]
    Listen(std::io::Error),
    #[error(transparent)]
    Serve(#[from] tonic::transport::Error),
}
