//! The hub's certificate authority: who may call itself the hub, and which key is which Site.
//!
//! Agents know the hub by the pin of this CA's key, which their join token carries; so the CA certificate is part of the
//! chain that the gateway presents. Gateways know a Site by the hash of its key; what a certificate calls it is for
//! people.

use std::time::Duration;

use atoll_wire::pin::{Pin, PinError};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKey, PublicKeyData as _, SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// How long the CA lasts.
const CA_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// How long a gateway's own certificate lasts; it is renewed at half of it.
pub const SERVER_LIFETIME: Duration = Duration::from_hours(7 * 24);
/// How long a Site's certificate lasts; its agent renews it at half of it.
pub const CLIENT_LIFETIME: Duration = Duration::from_hours(24);
/// Certificates count from a little earlier, for clocks that lag behind.
const BACKDATE: Duration = Duration::from_mins(5);

/// A certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The stored CA cannot be read.
    #[error("the stored CA cannot be read: {0}")]
    Stored(String),
    /// A certificate cannot be read.
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// A request that cannot be granted.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Larger than any real one.
    #[error("the certificate signing request is longer than {} bytes", atoll_wire::limits::MAX_CSR_BYTES)]
    Size,
    /// Not a request, or not signed by the key that it names.
    #[error("the certificate signing request is not valid: {0}")]
    Invalid(rcgen::Error),
}

/// The hub's CA.
pub struct HubCa {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A key that proved to be its sender's, and the Site that it is.
pub struct SiteKey {
    key: PublicKey,
    pin: Pin,
    site: String,
}

/// A certificate with its chain and key, as a TLS server needs them.
pub struct ServerCertificate {
    /// The certificate, then the CA's.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl HubCa {
    /// A new CA and its key in PEM.
    pub fn generate(now: Timestamp) -> Result<(Self, String), PkiError> {
        let key = KeyPair::generate()?;
        let mut params = lasting(now, CA_LIFETIME);
        for_ca(&mut params, &key);
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Ok((Self::from_pem(certificate_pem, &key_pem)?, key_pem))
    }

    /// The CA that was stored before.
    pub fn from_pem(certificate_pem: String, key_pem: &str) -> Result<Self, PkiError> {
        let stored = |error: String| PkiError::Stored(error);
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| stored(e.to_string()))?;
        let key = KeyPair::from_pem(key_pem).map_err(|e| stored(e.to_string()))?;
        if Pin::of_certificate(&certificate)? != Pin::of_spki(&key.subject_public_key_info()) {
            return Err(stored("its certificate is for another key".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| stored(e.to_string()))?;
        Ok(Self { certificate, certificate_pem, issuer })
    }

    /// The word of this CA for one that was generated, PEM: who knows this one accepts what the other one issues.
    pub fn certify(&self, other: &Self, now: Timestamp) -> Result<String, PkiError> {
        let mut params = lasting(now, CA_LIFETIME);
        for_ca(&mut params, other.issuer.key());
        Ok(params.signed_by(other.issuer.key(), &self.issuer)?.pem())
    }

    /// The CA's certificate in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for a gateway that is reached by these DNS names and IP addresses.
    pub fn issue_server(&self, names: &[String], now: Timestamp) -> Result<ServerCertificate, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = lasting(now, SERVER_LIFETIME);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.distinguished_name.push(DnType::CommonName, "Atoll gateway");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServerCertificate {
            chain: vec![certificate.der().clone(), self.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// A certificate in PEM for a Site. Of the request only the key is used.
    pub fn issue_client(&self, site: &SiteKey, now: Timestamp) -> Result<String, PkiError> {
        let mut params = lasting(now, CLIENT_LIFETIME);
        params.distinguished_name.push(DnType::CommonName, site.name());
        params.subject_alt_names = vec![SanType::URI(format!("atoll://sites/{}", site.name()).try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(&site.key, &self.issuer)?.pem())
    }
}

impl SiteKey {
    /// The key of a certificate signing request, which its signature proves to be the sender's.
    pub fn from_csr(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > atoll_wire::limits::MAX_CSR_BYTES {
            return Err(RequestError::Size);
        }
        let request = CertificateSigningRequestParams::from_der(&der.into()).map_err(RequestError::Invalid)?;
        let pin = Pin::of_spki(&request.public_key.subject_public_key_info());
        Ok(Self { key: request.public_key, pin, site: pin.site_name() })
    }

    /// The key itself.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// Name of the Site that has this key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.site
    }
}

/// Name of the Site that presented this certificate, which the TLS handshake has verified.
pub fn site_of(certificate: &CertificateDer<'_>) -> Result<String, PkiError> {
    Ok(Pin::of_certificate(certificate)?.site_name())
}

/// What all certificates of one CA's key have in common. Each CA has a name of its own, so that who knows two of them need
/// not try both.
fn for_ca(params: &mut CertificateParams, key: &KeyPair) {
    let pin = Pin::of_spki(&key.subject_public_key_info());
    params.distinguished_name.push(DnType::CommonName, format!("Atoll hub CA {pin}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}

fn lasting(now: Timestamp, lifetime: Duration) -> CertificateParams {
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now.saturating_add(lifetime);
    params.use_authority_key_identifier_extension = true;
    params
}

#[cfg(test)]
mod tests {
    use x509_parser::pem::parse_x509_pem;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-01T12:00:00Z".parse().unwrap()
    }

    fn request(key: &KeyPair, params: &CertificateParams) -> Vec<u8> {
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_stored_ca_is_the_same_ca() {
        let (ca, key) = HubCa::generate(now()).unwrap();
        let again = HubCa::from_pem(ca.certificate_pem().to_owned(), &key).unwrap();
        assert_eq!(again.certificate(), ca.certificate());
        let (_, other) = HubCa::generate(now()).unwrap();
        assert!(matches!(HubCa::from_pem(ca.certificate_pem().to_owned(), &other), Err(PkiError::Stored(_))));
        assert!(matches!(HubCa::from_pem("junk".to_owned(), &key), Err(PkiError::Stored(_))));
    }

    #[test]
    fn a_sites_certificate_names_its_key_lasts_a_day_and_takes_nothing_else_from_the_request() {
        let (ca, _) = HubCa::generate(now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(["hub.example".to_owned()]).unwrap();
        wish.distinguished_name.push(DnType::CommonName, "site-of-somebody-else");
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let site = SiteKey::from_csr(&request(&key, &wish)).unwrap();
        assert_eq!(site.name(), Pin::of_spki(&key.subject_public_key_info()).site_name());

        let pem = ca.issue_client(&site, now()).unwrap();
        let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&block.contents).unwrap();
        assert_eq!(site_of(&block.contents.as_slice().into()).unwrap(), site.name());
        assert_eq!(certificate.subject().to_string(), format!("CN={}", site.name()));
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let end = certificate.validity().not_after.timestamp();
        assert_eq!(end - now().as_second(), 24 * 3600);
        let (_, root) = X509Certificate::from_der(ca.certificate()).unwrap();
        certificate.verify_signature(Some(root.public_key())).unwrap();
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let key = KeyPair::generate().unwrap();
        let good = request(&key, &CertificateParams::default());
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert!(SiteKey::from_csr(&good).is_ok());
        assert!(matches!(SiteKey::from_csr(&bad), Err(RequestError::Invalid(_))));
        assert!(matches!(SiteKey::from_csr(b"junk"), Err(RequestError::Invalid(_))));
        assert!(matches!(SiteKey::from_csr(&vec![0; 20_000]), Err(RequestError::Size)));
    }
}
