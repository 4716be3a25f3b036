//! Connections: TLS 1.3, HTTP/2, and gRPC's frames in it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::{HeaderMap, Request};
use prost::Message;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::Identity;

/// Path of the method.
pub const JOIN: &str = "/atoll.gateway.v1.Gateway/Join";
/// Path of the method.
pub const RENEW: &str = "/atoll.gateway.v1.Gateway/Renew";
/// Path of the method.
pub const SESSION: &str = "/atoll.gateway.v1.Gateway/Session";

/// No answer of a gateway is longer.
pub const MAX_FRAME: usize = atoll_wire::limits::MAX_MESSAGE_BYTES;
/// Length of what stands before each message.
const HEAD: usize = 5;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection or its handshake.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// HTTP/2, a stream that was reset included.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The gateway answered with a status that is not OK.
    #[error("{message} (gRPC code {code})")]
    Status {
        /// gRPC's code.
        code: i32,
        /// Its message.
        message: String,
    },
    /// What came is not a frame or not a message.
    #[error("{0}")]
    Garbage(String),
}

/// Where a gateway is, and whom it must be certified by.
#[derive(Clone)]
pub struct Endpoint {
    address: SocketAddr,
    roots: Arc<RootCertStore>,
    window: u32,
}

impl Endpoint {
    /// A gateway at `address` with a certificate of `ca`.
    pub fn new(address: SocketAddr, ca: &CertificateDer<'static>) -> Result<Self, LinkError> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        Ok(Self { address, roots: Arc::new(roots), window: 1 << 20 })
    }

    /// Takes so many bytes that are not read yet.
    #[must_use]
    pub fn reading(self, window: u32) -> Self {
        Self { window, ..self }
    }

    /// A TLS connection, with or without a certificate.
    pub async fn tls(&self, identity: Option<&Identity>) -> Result<TlsStream<TcpStream>, LinkError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = match identity {
            Some(identity) => {
                builder.with_client_auth_cert(vec![identity.certificate.clone()], identity.private_key())?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        Ok(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?)
    }

    /// An HTTP/2 connection, with or without a certificate.
    pub async fn connect(&self, identity: Option<&Identity>) -> Result<Link, LinkError> {
        let tls = self.tls(identity).await?;
        let (requests, connection) = client::Builder::new()
            .initial_window_size(self.window)
            .initial_connection_window_size(1 << 20)
            .enable_push(false)
            .handshake::<_, Bytes>(tls)
            .await?;
        // How a connection ends is seen on its streams.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Link { requests, driver })
    }
}

/// An HTTP/2 connection; it is cut when this is dropped.
pub struct Link {
    requests: client::SendRequest<Bytes>,
    driver: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// Begins a call of a method.
    pub async fn open(&self, path: &str) -> Result<Call, LinkError> {
        let request = Request::post(format!("https://gateway{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| LinkError::Garbage(error.to_string()))?;
        self.request(request).await
    }

    /// Begins any request.
    pub async fn request(&self, request: Request<()>) -> Result<Call, LinkError> {
        let mut ready = self.requests.clone().ready().await?;
        let (response, send) = ready.send_request(request, false)?;
        Ok(Call { send, incoming: Incoming { response: Some(response), body: None, buffer: BytesMut::new() } })
    }

    /// A call with one message each way.
    pub async fn unary<A: Message + Default>(&self, path: &str, request: &impl Message) -> Result<A, LinkError> {
        let mut call = self.open(path).await?;
        call.send.send_data(frame(request), true)?;
        let answer = call.incoming.next().await?.ok_or_else(|| LinkError::Garbage("no answer".to_owned()))?;
        message(&answer)
    }
}

/// A call: what is sent, and what comes.
pub struct Call {
    /// To the gateway.
    pub send: SendStream<Bytes>,
    /// From the gateway.
    pub incoming: Incoming,
}

impl Call {
    /// Sends a message. What does not fit into the gateway's window is kept until it does.
    pub fn message(&mut self, message: &impl Message) -> Result<(), LinkError> {
        Ok(self.send.send_data(frame(message), false)?)
    }

    /// Sends these bytes, which need not be a message.
    pub fn bytes(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        Ok(self.send.send_data(bytes, false)?)
    }
}

/// What comes of a call.
pub struct Incoming {
    response: Option<client::ResponseFuture>,
    body: Option<RecvStream>,
    buffer: BytesMut,
}

impl Incoming {
    /// The bytes of the next message; None when the call has ended well.
    pub async fn next(&mut self) -> Result<Option<Bytes>, LinkError> {
        if let Some(response) = &mut self.response {
            let (head, body) = response.await?.into_parts();
            self.response = None;
            if head.status != http::StatusCode::OK {
                return Err(LinkError::Status { code: i32::from(head.status.as_u16()), message: String::new() });
            }
            judged(&head.headers)?;
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            if let Some(bytes) = split(&mut self.buffer)? {
                return Ok(Some(bytes));
            }
            let Some(data) = body.data().await else {
                if let Some(trailers) = body.trailers().await? {
                    judged(&trailers)?;
                }
                return Ok(None);
            };
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            self.buffer.extend_from_slice(&data);
        }
    }
}

/// One message with its head, as gRPC frames it.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for it.
    let _: Result<(), prost::EncodeError> = message.encode(&mut bytes);
    bytes.freeze()
}

/// What a frame says.
pub fn message<M: Message + Default>(bytes: &Bytes) -> Result<M, LinkError> {
    M::decode(bytes.clone()).map_err(|error| LinkError::Garbage(error.to_string()))
}

fn split(buffer: &mut BytesMut) -> Result<Option<Bytes>, LinkError> {
    let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
    let [compressed, length @ ..] = *head;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if compressed != 0 || length > MAX_FRAME {
        return Err(LinkError::Garbage(format!("a frame of {length} bytes, compression {compressed}")));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn judged(headers: &HeaderMap) -> Result<(), LinkError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status").and_then(|code| code.parse().ok()) {
        None | Some(0) => Ok(()),
        Some(code) => Err(LinkError::Status { code, message: text("grpc-message").unwrap_or_default().to_owned() }),
    }
}
