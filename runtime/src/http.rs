//! `/livez`, `/readyz` and `/metrics` of a process.

use std::future::Future;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::readiness::Readiness;

/// The listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for probes and metrics (choose another with --http-address): {source}")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Opens the listener and gives the server to run; it ends when `shutdown` does. `pages` are served beside the probes
/// and metrics.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    registry: Registry,
    pages: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<impl Future<Output = std::io::Result<()>> + Send, ListenError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ListenError { address, source })?;
    Ok(
        async move {
            axum::serve(listener, router(readiness, registry).merge(pages)).with_graceful_shutdown(shutdown).await
        },
    )
}

fn router(readiness: Readiness, registry: Registry) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(metrics).with_state(registry))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.missing();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready, missing: {}\n", missing.join(", "))).into_response()
}

async fn metrics(State(registry): State<Registry>) -> Response {
    let encoder = TextEncoder::new();
    let mut body = Vec::new();
    match encoder.encode(&registry.gather(), &mut body) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
