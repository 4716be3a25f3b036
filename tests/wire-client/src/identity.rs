//! Certificates of Sites, made with the CA's key instead of by joining.

use std::time::{Duration, SystemTime};

use atoll_wire::pin::Pin;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// rcgen refuses.
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    /// Not PEM.
    #[error("not PEM: {0}")]
    Pem(String),
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// For a day from now.
    Now,
    /// Until an hour ago.
    Past,
}

/// A certificate authority with its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A Site's certificate and key.
#[derive(Debug)]
pub struct Identity {
    /// What the hub calls the Site that has this key.
    pub site: String,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The private key, PKCS#8.
    pub key: PrivatePkcs8KeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { site: self.site.clone(), certificate: self.certificate.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// The key as TLS wants it.
    #[must_use]
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

impl Authority {
    /// The hub's, as its Secret has it.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| PkiError::Pem(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, KeyPair::from_pem(key)?)?;
        Ok(Self { certificate, issuer })
    }

    /// Another one, of the same name.
    pub fn forged(name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { issuer: Issuer::from_ca_cert_der(&certificate, key)?, certificate })
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for a new key, as the hub would make it for a Site.
    pub fn site(&self, validity: Validity) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let site = Pin::of_spki(&key.subject_public_key_info()).site_name();
        self.named(&key, site.clone(), &site, validity)
    }

    /// A certificate for a new key that calls itself another Site.
    pub fn calling_itself(&self, other: &str) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let site = Pin::of_spki(&key.subject_public_key_info()).site_name();
        self.named(&key, site, other, Validity::Now)
    }

    fn named(&self, key: &KeyPair, site: String, subject: &str, validity: Validity) -> Result<Identity, PkiError> {
        let hour = Duration::from_hours(1);
        let now = SystemTime::now();
        let (from, to) = match validity {
            Validity::Now => (now - hour, now + 24 * hour),
            Validity::Past => (now - 25 * hour, now - hour),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.not_before = from.into();
        params.not_after = to.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?.der().clone();
        Ok(Identity { site, certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()) })
    }
}
