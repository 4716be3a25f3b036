//! TLS of the gateway: its own certificate, which changes while it runs, and the hub's CA for those of Sites.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::pki::{HubCa, PkiError, SERVER_LIFETIME};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many handshakes run at once; more connections wait unaccepted.
const HANDSHAKES: usize = 256;
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

/// This gateway's certificate, replaced at half its life.
#[derive(Debug)]
pub struct OwnCertificate {
    names: Vec<String>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl OwnCertificate {
    /// The first one.
    pub fn issue(ca: &HubCa, names: Vec<String>, now: Timestamp) -> Result<Self, TlsError> {
        let current = RwLock::new(certified(ca, &names, now)?);
        Ok(Self { names, current })
    }

    /// Replaces it at half its life, until `shutdown`.
    pub async fn keep_fresh(&self, ca: &HubCa, shutdown: CancellationToken) {
        let mut wait = SERVER_LIFETIME / 2;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = match certified(ca, &self.names, Timestamp::now()) {
                Ok(fresh) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                    SERVER_LIFETIME / 2
                }
                Err(error) => {
                    tracing::error!(%error, "cannot renew the gateway's own certificate");
                    SERVER_LIFETIME / 100
                }
            };
        }
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn certified(ca: &HubCa, names: &[String], now: Timestamp) -> Result<Arc<CertifiedKey>, TlsError> {
    let issued = ca.issue_server(names, now)?;
    Ok(Arc::new(CertifiedKey::from_der(issued.chain, issued.key, &rustls::crypto::ring::default_provider())?))
}

/// TLS 1.3 with HTTP/2. A client certificate is optional, because a Site that joins has none; one that is given must be
/// of the hub's CA.
pub fn server_config(ca: &HubCa, own: Arc<OwnCertificate>) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone())?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would keep a certificate that has expired meanwhile, and memory for who never comes back.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// Connections whose handshake is done. A slow or failing handshake holds up no other.
pub fn incoming(
    listener: TcpListener,
    config: ServerConfig,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> ReceiverStream<std::io::Result<TlsStream<TcpStream>>> {
    let (ready, connections) = mpsc::channel(16);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let tcp = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((tcp, _)) => tcp,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (acceptor, ready, metrics) = (acceptor.clone(), ready.clone(), metrics.clone());
            tokio::spawn(async move {
                let _place = place;
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
