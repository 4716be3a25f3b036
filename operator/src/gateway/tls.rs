//! TLS of the gateway: its own certificate, which changes while it runs, and the hub's CA for those of Sites.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use atoll_runtime::clock::boot_time;
use jiff::Timestamp;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::authority::Authority;
use super::door::{Door, Wish};
use super::metrics::Metrics;
use super::pki::{PkiError, SERVER_LIFETIME, ServerCertificate};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many handshakes run at once; more connections wait unaccepted.
const HANDSHAKES: usize = 1024;
/// Pause after an accept failed, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate for this gateway.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// rustls refuses it.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// Certificates of Sites could not be verified.
    #[error("TLS: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// TLS with a certificate of this gateway's own, of the hub's present CA.
fn config(authority: &Authority, names: &[String], now: Timestamp) -> Result<Arc<ServerConfig>, TlsError> {
    let own = authority.issue_server(names, now)?;
    Ok(Arc::new(server_config(authority, own)?))
}

/// The first configuration, and those that follow it for as long as the future is polled: when the hub's CAs change, and
/// when the gateway's certificate has lived half its life.
pub fn configs(
    mut authority: watch::Receiver<Arc<Authority>>,
    names: Vec<String>,
    now: Timestamp,
) -> Result<(watch::Receiver<Arc<ServerConfig>>, impl Future<Output = ()> + Send), TlsError> {
    let first = config(&authority.borrow_and_update(), &names, now)?;
    let (sender, receiver) = watch::channel(first);
    let keep_fresh = async move {
        let mut wait = SERVER_LIFETIME / 2;
        loop {
            tokio::select! {
                changed = authority.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
            let present = Arc::clone(&authority.borrow_and_update());
            wait = match config(&present, &names, Timestamp::now()) {
                Ok(fresh) => {
                    sender.send_replace(fresh);
                    SERVER_LIFETIME / 2
                }
                Err(error) => {
                    tracing::error!(%error, "cannot renew the gateway's own certificate");
                    SERVER_LIFETIME / 100
                }
            };
        }
    };
    Ok((receiver, keep_fresh))
}

/// TLS 1.3 with HTTP/2. A client certificate is optional, because a Site that joins has none; one that is given must be
/// of the hub's CAs.
fn server_config(authority: &Authority, own: ServerCertificate) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in authority.trusted() {
        roots.add(certificate.clone())?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(own.chain, own.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session does not show its certificate again, and would outlive it.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Connections whose handshake is done. A slow or failing handshake holds up no other.
pub fn incoming(
    listener: TcpListener,
    configs: watch::Receiver<Arc<ServerConfig>>,
    door: Arc<Door<RandomState>>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> ReceiverStream<std::io::Result<TlsStream<TcpStream>>> {
    let (ready, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (tcp, source) = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let acceptor = TlsAcceptor::from(Arc::clone(&configs.borrow()));
            let (door, ready, metrics) = (Arc::clone(&door), ready.clone(), metrics.clone());
            tokio::spawn(async move {
                let _place = place;
                let _inside = match door.handshake(source.ip(), boot_time()) {
                    Ok(inside) => inside,
                    Err(full) => return metrics.turned_away(Wish::Handshake, full),
                };
                // Grants are small and urgent.
                if let Err(error) = tcp.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                    // The receiver is gone only when the server is.
                    Ok(Ok(tls)) => drop(ready.send(Ok(tls)).await),
                    Ok(Err(error)) => {
                        metrics.handshake_failed();
                        tracing::debug!(%error, "TLS handshake failed");
                    }
                    Err(_) => metrics.handshake_failed(),
                }
            });
        }
    });
    ReceiverStream::new(connections)
}
