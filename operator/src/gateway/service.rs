//! The gRPC service: who calls, and what is called.

use std::net::SocketAddr;
use std::sync::Arc;

use atoll_runtime::clock::boot_time;
use atoll_wire::limits::MAX_MESSAGE_BYTES;
use atoll_wire::v1::gateway_server::{Gateway as Protocol, GatewayServer};
use atoll_wire::v1::{AgentMessage, HubMessage, JoinRequest, JoinResponse, RenewRequest, RenewResponse};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::door::{Full, Wish};
use super::metrics::Refused;
use super::serve::Occupied;
use super::shared::Gateway;
use super::{pki, session};

/// Messages to one agent that wait to be sent; each may be a slice of a megabyte.
const OUTBOX: usize = 16;

/// The service with its limits.
pub type Server = GatewayServer<Service>;

/// The service of a gateway.
#[derive(Clone)]
pub struct Service(Arc<Gateway>);

impl Service {
    /// The service with its limits.
    pub fn server(gateway: Arc<Gateway>) -> Server {
        GatewayServer::new(Self(gateway))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl Protocol for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.admit(request.remote_addr())?;
        let authority = Arc::clone(&self.0.authority.borrow());
        let by = shown(request.get_ref());
        let result = self.0.joiner.join(&authority, request.get_ref(), Timestamp::now()).await;
        self.0.metrics.join(by, result.as_ref().map_or_else(Status::code, |_| Code::Ok));
        if let Err(status) = &result {
            tracing::info!(code = ?status.code(), message = status.message(), "join refused");
        }
        result.map(Response::new)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let name = self.caller(&request)?;
        let authority = Arc::clone(&self.0.authority.borrow());
        self.0.joiner.renew(&authority, &name, request.get_ref(), Timestamp::now()).await.map(Response::new)
    }

    type SessionStream = ReceiverStream<Result<HubMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let site = self.caller(&request)?;
        if self.0.shutdown.is_cancelled() {
            return Err(Status::unavailable("this gateway is going away; try another"));
        }
        let (outbox, messages) = mpsc::channel(OUTBOX);
        // The connection is in use for as long as this is.
        let occupied = request.extensions().get::<Occupied>().cloned();
        let session = session::run(Arc::clone(&self.0), site, request.into_inner(), outbox);
        self.0.tasks.spawn(async move {
            session.await;
            drop(occupied);
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Service {
    /// Lets a join in, or says when to come again.
    fn admit(&self, source: Option<SocketAddr>) -> Result<(), Status> {
        let source = source.ok_or_else(|| Status::internal("the connection has no address"))?;
        self.0.door.join(source.ip(), boot_time()).map_err(|full| {
            self.0.metrics.turned_away(Wish::Join, full);
            Status::resource_exhausted(match full {
                Full::Source | Full::SourceAtOnce => "too many joins from this address; try again in a minute",
                Full::Overall => "too many joins at this hub now; try again in some seconds",
            })
        })
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<String, Status> {
        caller(request).inspect_err(|_| self.0.metrics.refused(Refused::Caller))
    }
}

/// What a join shows for itself; a label value.
fn shown(request: &JoinRequest) -> &'static str {
    match (&request.wallet, request.token.as_str()) {
        (Some(_), _) => "wallet",
        (None, "") => "key",
        (None, _) => "token",
    }
}

/// The Site whose certificate the connection came with.
fn caller<T>(request: &Request<T>) -> Result<String, Status> {
    let certificates = request.peer_certs();
    let certificate = certificates
        .as_ref()
        .and_then(|certificates| certificates.first())
        .ok_or_else(|| Status::unauthenticated("this needs the certificate of a Site; join first"))?;
    pki::site_of(certificate).map_err(|error| Status::unauthenticated(error.to_string()))
}
