//! Connections to the hub: TLS 1.3, verified by the hub's CA or, before it is known, by the pin of its key.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use atoll_wire::pin::Pin;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, PeerIncompatible, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::identity::Identity;

const CONNECT: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the hub's gateways are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubAddress {
    host: String,
    port: u16,
}

impl FromStr for HubAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST:PORT, such as hub.example.com:443");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        ServerName::try_from(host).map_err(|_| wrong())?;
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no connection to the hub.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The stored key or certificate, or the CA's, cannot be used.
    #[error("the stored identity cannot be used: {0}")]
    Identity(String),
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The address cannot be one.
    #[error("the hub's address cannot be used")]
    Address,
    /// There is no connection.
    #[error("cannot connect to the hub: {}", chain(.0))]
    Connect(#[from] tonic::transport::Error),
}

/// An error and what caused it; the outermost one of a transport says nothing.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .reduce(|all, next| if all.ends_with(&next) { all } else { format!("{all}: {next}") })
        .unwrap_or_default()
}

/// A connection for joining: the hub is who has a CA with this key.
pub async fn connect_by_pin(hub: &HubAddress, pin: Pin) -> Result<Channel, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinVerifier { pin, provider: provider.clone() });
    let config = builder(provider)?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    connect(hub, config).await
}

/// A connection without a certificate: the hub is who has one of these CAs.
pub async fn connect_to_known(hub: &HubAddress, ca_pem: &str) -> Result<Channel, TlsError> {
    let config = builder(Arc::new(rustls::crypto::ring::default_provider()))?
        .with_root_certificates(roots(ca_pem)?)
        .with_no_client_auth();
    connect(hub, config).await
}

/// A connection as this Site.
pub async fn connect_as(hub: &HubAddress, identity: &Identity) -> Result<Channel, TlsError> {
    let unusable = |error: &dyn fmt::Display| TlsError::Identity(error.to_string());
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|error| unusable(&error))?;
    let config = builder(Arc::new(rustls::crypto::ring::default_provider()))?
        .with_root_certificates(roots(&identity.ca_pem)?)
        .with_client_auth_cert(certificates(&identity.certificate_pem)?, key)?;
    connect(hub, config).await
}

fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Identity(error.to_string()))
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])
}

async fn connect(hub: &HubAddress, mut config: ClientConfig) -> Result<Channel, TlsError> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(hub.host.clone()).map_err(|_| TlsError::Address)?;
    let address = (hub.host.clone(), hub.port);
    let connector = tower::service_fn(move |_| {
        let (tls, name, address) = (tls.clone(), name.clone(), address.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            // Heartbeats are small and urgent.
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    // The connector does TLS itself; "http" keeps tonic from asking for its own.
    let endpoint = Endpoint::from_shared(format!("http://{hub}"))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// Accepts a server whose chain holds a CA with the pinned key and whose certificate that CA has issued for the name.
#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| Pin::of_certificate(certificate).is_ok_and(|pin| pin == self.pin))
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    struct Hub {
        ca: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn hub() -> Hub {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = params.self_signed(&key).unwrap().der().clone();
        Hub { issuer: Issuer::from_ca_cert_der(&ca, key).unwrap(), ca }
    }

    fn server(hub: &Hub, name: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &hub.issuer).unwrap().der().clone()
    }

    fn accepts(pin: &Hub, certificate: &CertificateDer<'_>, chain: &[CertificateDer<'_>], name: &str) -> bool {
        let verifier = PinVerifier {
            pin: Pin::of_certificate(&pin.ca).unwrap(),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(certificate, chain, &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn only_a_server_of_the_pinned_ca_and_of_the_right_name_is_the_hub() {
        let (ours, other) = (hub(), hub());
        let certificate = server(&ours, "hub.example");
        assert!(accepts(&ours, &certificate, std::slice::from_ref(&ours.ca), "hub.example"));
        assert!(!accepts(&ours, &certificate, std::slice::from_ref(&ours.ca), "other.example"), "another name");
        assert!(!accepts(&ours, &certificate, &[], "hub.example"), "no CA in the chain");
        assert!(!accepts(&other, &certificate, std::slice::from_ref(&ours.ca), "hub.example"), "another pin");
        let forged = server(&other, "hub.example");
        assert!(!accepts(&ours, &forged, &[ours.ca.clone(), other.ca.clone()], "hub.example"), "issued by another CA");
        assert!(!accepts(&ours, &ours.ca, std::slice::from_ref(&ours.ca), "hub.example"), "the CA itself is no server");
    }

    #[test]
    fn addresses_are_a_host_and_a_port() {
        for (text, shown) in
            [("hub.example:443", "hub.example:443"), ("127.0.0.1:1", "127.0.0.1:1"), ("[::1]:9", "[::1]:9")]
        {
            assert_eq!(text.parse::<HubAddress>().unwrap().to_string(), shown);
        }
        for text in ["", "hub", "hub:", "hub:http", ":443", "a b:1", "hub:99999"] {
            assert!(text.parse::<HubAddress>().is_err(), "{text}");
        }
    }
}
