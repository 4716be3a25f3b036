//! An API server for tests that answers as it is told.

use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::bytes::Bytes;
use tokio::net::TcpListener;

use super::Connections;
use crate::proto::{Status, wrap};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Such as `POST /api/v1/pods?limit=5`.
    pub(crate) line: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) type Log = Arc<Mutex<Vec<Asked>>>;

/// Serves until the test's runtime ends; gives connections to it and what was asked of it.
pub(crate) async fn serve(answer: impl Fn(&Asked) -> (u16, Vec<u8>) + Send + Sync + 'static) -> (Connections, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (log, answer) = (Log::default(), Arc::new(answer));
    let asked = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
            let service = service_fn(move |request: Request<Incoming>| {
                let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
                async move {
                    let (parts, body) = request.into_parts();
                    let line = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
                    let body = body.collect().await?.to_bytes();
                    let one = Asked { line, headers: parts.headers, body };
                    let (code, body) = answer(&one);
                    asked.lock().unwrap().push(one);
                    let mut response = Response::new(Full::new(Bytes::from(body)));
                    *response.status_mut() = StatusCode::from_u16(code).unwrap();
                    Ok::<_, hyper::Error>(response)
                }
            });
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    (Connections::new(&config, 2).unwrap(), log)
}

/// A `Status` as an API server writes it.
pub(crate) fn status(code: u16) -> (u16, Vec<u8>) {
    let status = Status {
        status: if code < 300 { "Success".to_owned() } else { "Failure".to_owned() },
        message: format!("so {code}"),
        code: i32::from(code),
        ..Status::default()
    };
    (code, wrap("v1", "Status", &status))
}
