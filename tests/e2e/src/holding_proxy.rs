//! A way to the API server on which one request can be held: a write that was decided, sent, and arrives late.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use kube::Client;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

/// Passes requests on as the user of its client, and holds commits of one Cluster.
#[derive(Debug)]
pub struct HoldingProxy {
    address: SocketAddr,
    held: mpsc::Receiver<Held>,
    _server: AbortOnDropHandle<()>,
}

/// A commit that waits at the proxy.
#[derive(Debug)]
pub struct Held {
    go: oneshot::Sender<()>,
    done: oneshot::Receiver<StatusCode>,
}

impl Held {
    /// Lets the commit go on to the API server; gives the answer's status.
    pub async fn release(self) -> Result<StatusCode> {
        let _ = self.go.send(());
        self.done.await.context("the held commit was not answered")
    }
}

struct Proxy {
    client: Client,
    /// Requests with this suffix that carry a placement are held.
    path: String,
    held: mpsc::Sender<Held>,
}

impl HoldingProxy {
    /// Holds each PUT of the status of `namespace`/`cluster` that carries a placement.
    pub async fn start(client: Client, namespace: &str, cluster: &str) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("open the proxy's port")?;
        let address = listener.local_addr().context("read the proxy's port")?;
        let (sender, held) = mpsc::channel(16);
        let path = format!("/namespaces/{namespace}/clusters/{cluster}/status");
        let proxy = Arc::new(Proxy { client, path, held: sender });
        let router = Router::new().fallback(forward).with_state(proxy);
        let server = AbortOnDropHandle::new(tokio::spawn(async move {
            // Ends with the test.
            let _ = axum::serve(listener, router).await;
        }));
        Ok(Self { address, held, _server: server })
    }

    /// A kubeconfig that goes through the proxy.
    pub fn kubeconfig(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("holding-proxy.kubeconfig");
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "users": [{"name": "proxy", "user": {}}],
        });
        std::fs::write(&path, config.to_string()).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The next commit that is held.
    pub async fn next(&mut self, limit: Duration) -> Result<Held> {
        let held = tokio::time::timeout(limit, self.held.recv()).await;
        held.with_context(|| format!("no commit came within {limit:?}"))?.context("the proxy ended")
    }
}

async fn forward(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    match try_forward(&proxy, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

async fn try_forward(proxy: &Proxy, request: Request) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 8 << 20).await?;
    let commits = parts.method == Method::PUT
        && parts.uri.path().ends_with(&proxy.path)
        && serde_json::from_slice::<serde_json::Value>(&bytes)
            .is_ok_and(|body| body["status"]["placement"].is_object());
    let mut answered = None;
    if commits {
        let (go, released) = oneshot::channel();
        let (done, waiting) = oneshot::channel();
        proxy.held.send(Held { go, done: waiting }).await?;
        released.await?;
        answered = Some(done);
    }
    parts.headers.remove("host");
    let response = proxy.client.send(Request::from_parts(parts, bytes.to_vec().into())).await?;
    if let Some(answered) = answered {
        let _ = answered.send(response.status());
    }
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, Body::new(body)))
}
