//! Connections of agents: HTTP/2 within bounds, and gRPC's service on it.
//!
//! What one connection may hold here is bounded before anything of it is understood: streams, headers, windows, what
//! waits to be sent, resets. A connection that nothing happens on is closed, one without a certificate soon anyway.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::transport::server::{Connected as _, TcpConnectInfo, TlsConnectInfo};

use super::metrics::{Metrics, Refused};
use super::pki;
use super::service::Server;

/// Requests of one connection at once: a session, and a renewal beside it.
const STREAMS: u32 = 4;
/// What may be on its way to us and not taken yet, of a stream and of a connection: a large message comes in parts.
const WINDOW: u32 = 64 * 1024;
/// What may wait in HTTP/2 to be sent on a stream; more waits in the session's bounded outbox.
const SEND_BUFFER: usize = 64 * 1024;
/// All headers of a request together; gRPC needs some hundred bytes.
const HEADERS: u32 = 4 * 1024;
/// Streams that the peer resets before they were looked at, and those that we reset for its faults: more end the
/// connection.
const RESETS: usize = 16;
/// A connection without a request is closed after so long.
const IDLE: Duration = Duration::from_secs(15);
/// How long a request may take until its answer begins.
const ANSWER: Duration = Duration::from_secs(30);
/// A connection without a certificate may join, and has no other use.
const NAMELESS: Duration = Duration::from_mins(1);
/// How long a connection may take to end once it was asked to.
const FAREWELL: Duration = Duration::from_secs(5);
/// Connections of one Site at once: a new one may come while older ones are not found dead yet.
const OF_ONE_SITE: usize = 4;

/// A connection whose handshake is done.
type Tls = TlsStream<TcpStream>;

/// Serves connections until there are no more, and those that there are until `shutdown`.
pub async fn connections(
    incoming: impl Stream<Item = std::io::Result<Tls>>,
    server: Server,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS);
    let crowd = Arc::new(Crowd::default());
    let tasks = TaskTracker::new();
    let mut incoming = pin!(incoming);
    while let Some(Ok(tls)) = incoming.next().await {
        let peer = tls.connect_info();
        let place = match peer.peer_certs().as_deref().map(|chain| chain.first().map(pki::site_of)) {
            Some(Some(Ok(site))) => {
                let Some(place) = crowd.enter(site) else {
                    metrics.refused(Refused::Connection);
                    continue;
                };
                Some(place)
            }
            _ => None,
        };
        let age = place.is_none().then_some(NAMELESS);
        let busy = Arc::new(Busy::default());
        let front = Front { server: server.clone(), peer, busy: Arc::clone(&busy) };
        let connection = http.serve_connection(TokioIo::new(tls), front);
        let (shutdown, metrics) = (shutdown.clone(), metrics.clone());
        // Boxed once: what the task moves is small.
        tasks.spawn(Box::pin(async move {
            let _place = place;
            let mut connection = pin!(connection);
            let too_old = async {
                match age {
                    Some(age) => tokio::time::sleep(age).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // How it ended is the agent's to say.
                ended = connection.as_mut() => return drop(ended),
                () = shutdown.cancelled() => {}
                () = busy.idle(IDLE) => metrics.refused(Refused::Idle),
                () = too_old => metrics.refused(Refused::Idle),
            }
            connection.as_mut().graceful_shutdown();
            drop(tokio::time::timeout(FAREWELL, connection).await);
        }));
    }
    tasks.close();
    tasks.wait().await;
}

/// The service as one connection sees it.
struct Front {
    server: Server,
    peer: TlsConnectInfo<TcpConnectInfo>,
    busy: Arc<Busy>,
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        let occupied = Busy::occupy(&self.busy);
        request.extensions_mut().insert(occupied.clone());
        let answer = self.server.clone().call(request.map(Body::new));
        Box::pin(async move {
            let _occupied = occupied;
            match tokio::time::timeout(ANSWER, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(Status::deadline_exceeded("the request took too long to arrive").into_http()),
            }
        })
    }
}

/// Whether a connection has requests under way.
#[derive(Debug, Default)]
struct Busy {
    requests: AtomicUsize,
    free: Notify,
}

/// A request under way; it travels with it.
#[derive(Clone, Debug)]
pub struct Occupied {
    // Only its end matters.
    _request: Arc<Under>,
}

#[derive(Debug)]
struct Under(Arc<Busy>);

impl Busy {
    fn occupy(this: &Arc<Self>) -> Occupied {
        this.requests.fetch_add(1, Ordering::SeqCst);
        Occupied { _request: Arc::new(Under(Arc::clone(this))) }
    }

    /// Waits until there was no request for so long.
    async fn idle(&self, length: Duration) {
        loop {
            while self.requests.load(Ordering::SeqCst) > 0 {
                self.free.notified().await;
            }
            // A request that begins and ends meanwhile leaves its mark, and the time begins anew.
            if tokio::time::timeout(length, self.free.notified()).await.is_err()
                && self.requests.load(Ordering::SeqCst) == 0
            {
                return;
            }
        }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::SeqCst);
        self.0.free.notify_one();
    }
}

/// How many connections each Site has.
#[derive(Debug, Default)]
struct Crowd(Mutex<HashMap<String, usize>>);

/// A connection of a Site, counted until this is dropped.
struct Place {
    crowd: Arc<Crowd>,
    site: String,
}

impl Crowd {
    fn enter(self: &Arc<Self>, site: String) -> Option<Place> {
        let mut sites = self.lock();
        let count = sites.entry(site.clone()).or_default();
        if *count >= OF_ONE_SITE {
            return None;
        }
        *count += 1;
        drop(sites);
        Some(Place { crowd: Arc::clone(self), site })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sites = self.crowd.lock();
        if let Some(count) = sites.get_mut(&self.site) {
            *count -= 1;
            if *count == 0 {
                sites.remove(&self.site);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_site_has_few_connections_and_another_its_own() {
        let crowd = Arc::new(Crowd::default());
        let places: Vec<Place> = (0..OF_ONE_SITE).filter_map(|_| crowd.enter("site-a".to_owned())).collect();
        assert_eq!(places.len(), OF_ONE_SITE);
        assert!(crowd.enter("site-a".to_owned()).is_none());
        let other = crowd.enter("site-b".to_owned());
        assert!(other.is_some());
        drop((places, other));
        assert!(crowd.lock().is_empty(), "nothing is kept of who has gone");
        assert!(crowd.enter("site-a".to_owned()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_it_had_no_request_for_long_enough() {
        let busy = Arc::new(Busy::default());
        let mut idle = pin!(busy.idle(IDLE));
        assert_eq!(idle.as_mut().now_or_never(), None);
        tokio::time::advance(IDLE / 2).await;
        let request = Busy::occupy(&busy);
        let travelling = request.clone();
        drop(request);
        tokio::time::advance(IDLE * 10).await;
        assert_eq!(idle.as_mut().now_or_never(), None, "a session may be long");
        drop(travelling);
        assert_eq!(idle.as_mut().now_or_never(), None);
        tokio::time::advance(IDLE + Duration::from_millis(1)).await;
        assert_eq!(idle.now_or_never(), Some(()));
    }
}
