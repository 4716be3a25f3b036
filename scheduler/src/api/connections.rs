//! HTTP/2 connections to the API server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Ready, ready};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::ConfigExt;
use prost::bytes::Bytes;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt};

use crate::proto;

/// What a new connection may take, name resolution and handshakes together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A connection without an answer to a ping for [`PING_ANSWER_WITHIN`] is dead. TCP itself finds out after minutes.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What may be under way to us: of one answer, and of all together. A watch that is not read must not stop the others.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const MAX_FRAME: u32 = 1 << 20;
/// How often a request that provably was not sent is tried on another connection.
const UNSENT_TRIES: usize = 3;

/// Accepted answers: objects in protobuf, and JSON of kinds that have none.
const ACCEPT_OBJECT: HeaderValue =
    HeaderValue::from_static("application/vnd.kubernetes.protobuf, application/json;q=0.9");

type Sender = http2::SendRequest<Full<Bytes>>;
type Authorize = BoxCloneSyncService<Request<Full<Bytes>>, Response<()>, BoxError>;

/// A fixed number of connections to one API server, opened when needed and used in turn.
#[derive(Clone)]
pub struct Connections {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    lines: Vec<Mutex<Option<Sender>>>,
    turn: AtomicUsize,
}

/// Where the connections go, and as whom.
struct Target {
    dial: Dial,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    scheme: Scheme,
    authority: Authority,
    /// Path before every path, without a slash at its end.
    base: String,
    headers: HeaderMap,
    /// `None` when the certificate says it all.
    authorize: Option<Authorize>,
}

#[derive(Clone)]
enum Dial {
    Direct(HttpConnector),
    Proxy(Tunnel<HttpConnector>),
}

/// Why there can be no connections with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Certificates, keys or tokens are not there or wrong.
    #[error("credentials for the API server: {0}")]
    Credentials(#[source] Box<kube::Error>),
    /// The API server's address or name.
    #[error("{0:?} is no address of an API server")]
    Address(String),
    /// A proxy that is not spoken to.
    #[error("a proxy like {0} is not supported, only http://host:port")]
    Proxy(Uri),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No connection: the request was not sent.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        source: BoxError,
    },
    /// No token: the request was not sent.
    #[error("no authorization for the request: {0}")]
    Authorize(#[source] BoxError),
    /// The path is none; the request was not sent.
    #[error("no valid request: {0}")]
    Invalid(#[from] http::Error),
    /// The connection broke: the request may have been served or not.
    #[error("connection to the API server: {0}")]
    Broken(#[from] hyper::Error),
    /// Nothing in time: it may have been served or not.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// POST of an object in protobuf.
    Create,
    /// DELETE with options, in JSON.
    Delete,
    /// PATCH by strategic merge, in JSON.
    StrategicPatch,
    /// PATCH by server-side apply, in JSON.
    Apply,
}

/// An answer as a whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// An object or a `Status`; in protobuf, or in JSON when its kind has none.
    pub body: Bytes,
}

impl Answer {
    /// Whether the API server did it.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// What the API server says about a failure.
    #[must_use]
    pub fn message(&self) -> String {
        if let Ok(status) = proto::decode::<proto::Status>(self.body.clone()) {
            return format!("{} ({})", status.message, self.status.as_u16());
        }
        match serde_json::from_slice::<kube::core::Status>(&self.body) {
            Ok(status) => format!("{} ({})", status.message, self.status.as_u16()),
            Err(_) => self.status.to_string(),
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { target, lines, .. } = &*self.shared;
        f.debug_struct("Connections").field("to", &target.authority).field("count", &lines.len()).finish()
    }
}

impl Connections {
    /// Connections by this configuration; none is opened yet. At least one, whatever `count` says.
    pub fn new(config: &kube::Config, count: usize) -> Result<Self, SetupError> {
        let target = Target::of(config)?;
        let lines = (0..count.max(1)).map(|_| Mutex::new(None)).collect();
        Ok(Self { shared: Arc::new(Shared { target, lines, turn: AtomicUsize::new(0) }) })
    }

    /// Sends one request and waits for its whole answer, at most `within`. `path` begins with a slash.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Answer, RequestError> {
        let (method, content_type) = match method {
            Method::Create => (http::Method::POST, proto::CONTENT_TYPE),
            Method::Delete => (http::Method::DELETE, "application/json"),
            Method::StrategicPatch => (http::Method::PATCH, "application/strategic-merge-patch+json"),
            Method::Apply => (http::Method::PATCH, "application/apply-patch+yaml"),
        };
        let answer = async {
            let mut request = self.request(path, ACCEPT_OBJECT, body).await?;
            *request.method_mut() = method;
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            let (parts, body) = self.dispatch(request).await?.into_parts();
            Ok(Answer { status: parts.status, body: body.collect().await?.to_bytes() })
        };
        tokio::time::timeout(within, answer).await.unwrap_or(Err(RequestError::Timeout(within)))
    }

    /// Sends a GET and gives the answer as soon as it begins, at most `within`; its body comes as the API server sends
    /// it. `path` begins with a slash and may have a query.
    pub async fn open(
        &self,
        path: &str,
        accept: &'static str,
        within: Duration,
    ) -> Result<Response<Incoming>, RequestError> {
        let answer = async {
            let request = self.request(path, HeaderValue::from_static(accept), Bytes::new()).await?;
            self.dispatch(request).await
        };
        tokio::time::timeout(within, answer).await.unwrap_or(Err(RequestError::Timeout(within)))
    }

    async fn request(
        &self,
        path: &str,
        accept: HeaderValue,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let target = &self.shared.target;
        let mut request = Request::new(Full::new(body));
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = target.uri(path)?;
        request.headers_mut().clone_from(&target.headers);
        request.headers_mut().insert(header::ACCEPT, accept);
        if let Some(authorization) = target.authorization().await.map_err(RequestError::Authorize)? {
            request.headers_mut().insert(header::AUTHORIZATION, authorization);
        }
        Ok(request)
    }

    async fn dispatch(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, RequestError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.sender().await?.try_send_request(request).await {
                Ok(response) => return Ok(response),
                // The API server was closing the connection: the request is still here, so it was not sent.
                Err(mut error) => match error.take_message().filter(|_| tries < UNSENT_TRIES) {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
    }

    /// The next connection, opened again where it is closed.
    async fn sender(&self) -> Result<Sender, RequestError> {
        let Shared { target, lines, turn } = &*self.shared;
        let turn = turn.fetch_add(1, Ordering::Relaxed) % lines.len().max(1);
        let Some(line) = lines.get(turn) else {
            return Err(target.unreachable("no connection was asked for".into()));
        };
        let mut line = line.lock().await;
        if let Some(open) = line.as_ref().filter(|open| !open.is_closed()) {
            return Ok(open.clone());
        }
        let fresh = match tokio::time::timeout(CONNECT_WITHIN, target.connect()).await {
            Ok(fresh) => fresh.map_err(|source| target.unreachable(source))?,
            Err(_) => return Err(target.unreachable("timed out".into())),
        };
        *line = Some(fresh.clone());
        Ok(fresh)
    }
}

impl Target {
    fn of(config: &kube::Config) -> Result<Self, SetupError> {
        let url = &config.cluster_url;
        let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
            return Err(SetupError::Address(url.to_string()));
        };
        let credentials = |error| SetupError::Credentials(Box::new(error));
        let tls = if *scheme == Scheme::HTTPS {
            let mut tls = config.rustls_client_config().map_err(credentials)?;
            tls.alpn_protocols = vec![b"h2".to_vec()];
            let host = config.tls_server_name.as_deref().unwrap_or(authority.host());
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned()).map_err(|_| SetupError::Address(host.to_owned()))?;
            Some((TlsConnector::from(Arc::new(tls)), name))
        } else {
            None
        };
        Ok(Self {
            dial: Dial::of(config)?,
            tls,
            scheme: scheme.clone(),
            authority: authority.clone(),
            base: url.path().trim_end_matches('/').to_owned(),
            headers: extra_headers(config).map_err(credentials)?,
            authorize: config.auth_layer().map_err(credentials)?.map(|layer| {
                // The layer puts a valid token into each request that passes it; here only the token is taken.
                BoxCloneSyncService::new(layer.layer(tower::service_fn(echo_headers)))
            }),
        })
    }

    fn uri(&self, path: &str) -> Result<Uri, http::Error> {
        let path = if self.base.is_empty() {
            PathAndQuery::try_from(path)?
        } else {
            PathAndQuery::from_maybe_shared(Bytes::from(format!("{}{path}", self.base)))?
        };
        Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(path).build()
    }

    async fn authorization(&self) -> Result<Option<HeaderValue>, BoxError> {
        match &self.authorize {
            Some(authorize) => {
                let mut echo = authorize.clone().oneshot(Request::new(Full::default())).await?;
                Ok(echo.headers_mut().remove(header::AUTHORIZATION))
            }
            None => Ok(None),
        }
    }

    async fn connect(&self) -> Result<Sender, BoxError> {
        let to = self.uri("/")?;
        let tcp = match self.dial.clone() {
            Dial::Direct(dial) => dial.oneshot(to).await?,
            Dial::Proxy(dial) => dial.oneshot(to).await?,
        };
        match &self.tls {
            Some((tls, name)) => handshake(TokioIo::new(tls.connect(name.clone(), tcp.into_inner()).await?)).await,
            None => handshake(tcp).await,
        }
    }

    fn unreachable(&self, source: BoxError) -> RequestError {
        RequestError::Connect { address: self.authority.to_string(), source }
    }
}

impl Dial {
    fn of(config: &kube::Config) -> Result<Self, SetupError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        match &config.proxy_url {
            None => Ok(Self::Direct(tcp)),
            Some(proxy) if proxy.scheme() == Some(&Scheme::HTTP) && !proxy.to_string().contains('@') => {
                Ok(Self::Proxy(Tunnel::new(proxy.clone(), tcp)))
            }
            Some(proxy) => Err(SetupError::Proxy(proxy.clone())),
        }
    }
}

/// Starts HTTP/2 on a stream; its connection lives in a task until the stream ends.
async fn handshake<T>(stream: T) -> Result<Sender, BoxError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER_WITHIN)
        .keep_alive_while_idle(true)
        .handshake(stream)
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::info!(%error, "connection to the API server ended");
        }
    });
    Ok(sender)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of a service")]
fn echo_headers(request: Request<Full<Bytes>>) -> Ready<Result<Response<()>, BoxError>> {
    let mut echo = Response::new(());
    echo.headers_mut().clone_from(request.headers());
    ready(Ok(echo))
}

/// The headers that go with every request: user agent and impersonation.
fn extra_headers(config: &kube::Config) -> Result<HeaderMap, kube::Error> {
    let seen = |request: Request<()>| ready(Ok::<_, std::convert::Infallible>(request.headers().clone()));
    let headers = config.extra_headers_layer()?.layer(tower::service_fn(seen)).oneshot(Request::new(()));
    // Neither the layer nor the function waits.
    Ok(headers.now_or_never().and_then(Result::ok).unwrap_or_default())
}
