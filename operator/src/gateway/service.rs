//! The gRPC service: who calls, and what is called.

use std::sync::Arc;

use atoll_wire::limits::MAX_MESSAGE_BYTES;
use atoll_wire::v1::gateway_server::{Gateway as Protocol, GatewayServer};
use atoll_wire::v1::{AgentMessage, HubMessage, JoinRequest, JoinResponse, RenewRequest, RenewResponse};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::join::Joiner;
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
        let result = self.0.joiner.join(&self.0.ca, request.get_ref(), Timestamp::now()).await;
        self.0.metrics.join(result.as_ref().map_or_else(Status::code, |_| Code::Ok));
        if let Err(status) = &result {
            tracing::info!(code = ?status.code(), message = status.message(), "join refused");
        }
        result.map(Response::new)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let name = self.caller(&request)?;
        let site = self.0.sites.find(&name).await.map_err(|error| {
            tracing::warn!(%error, site = name, "the API server does not answer a renewal");
            Status::unavailable("the hub cannot look this up now; try again")
        })?;
        let site =
            site.ok_or_else(|| Status::permission_denied("this Site is not known to the hub; join with a new token"))?;
        Joiner::renew(&self.0.ca, &site, request.get_ref(), Timestamp::now()).map(Response::new)
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
    fn caller<T>(&self, request: &Request<T>) -> Result<String, Status> {
        caller(request).inspect_err(|_| self.0.metrics.refused(Refused::Caller))
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
