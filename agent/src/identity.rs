//! Who this Site is to the hub: a key that never leaves it, and the certificate that the hub gave for it.
//!
//! Kept at the Site, so that an agent that starts again is the same Site and needs no new token.

mod obtain;
mod store;

use std::path::PathBuf;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use x509_parser::pem::parse_x509_pem;

pub use obtain::{Join, ObtainError, Proof, keep_fresh, obtain};
pub use store::IdentityStore;

/// A Site's identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the Site.
    pub site: String,
    /// PEM of the private key.
    pub key_pem: String,
    /// PEM of the certificate.
    pub certificate_pem: String,
    /// PEM of the hub's CAs.
    pub ca_pem: String,
}

// Logs get these by accident; the key must not come along.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("site", &self.site).finish_non_exhaustive()
    }
}

/// What is wrong with an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The Secret cannot be read or written.
    #[error("the Secret of the Site's identity: {0}")]
    Store(#[from] kube::Error),
    /// The directory cannot be read or written.
    #[error("the Site's identity in {0}: {1}")]
    Directory(PathBuf, #[source] std::io::Error),
    /// A key or request could not be made.
    #[error("the Site's key: {0}")]
    Key(#[from] rcgen::Error),
    /// The certificate cannot be read.
    #[error("the Site's certificate cannot be read")]
    Certificate,
}

impl Identity {
    /// When the certificate begins and ends, since the Unix epoch.
    pub fn validity(&self) -> Result<(Duration, Duration), IdentityError> {
        let (_, pem) = parse_x509_pem(self.certificate_pem.as_bytes()).map_err(|_| IdentityError::Certificate)?;
        let certificate = pem.parse_x509().map_err(|_| IdentityError::Certificate)?;
        let seconds = |at: i64| Duration::from_secs(u64::try_from(at).unwrap_or(0));
        let validity = certificate.validity();
        Ok((seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp())))
    }

    /// Whether the certificate has ended at `now`, since the Unix epoch.
    #[must_use]
    pub fn is_expired(&self, now: Duration) -> bool {
        self.validity().is_ok_and(|(_, end)| now >= end)
    }

    /// How long until the certificate is to be renewed: at half its life.
    #[must_use]
    pub fn renew_in(&self, now: Duration) -> Duration {
        self.validity()
            .map_or(Duration::ZERO, |(start, end)| (start + end.saturating_sub(start) / 2).saturating_sub(now))
    }
}

/// A request to certify this key, DER.
fn request(key_pem: &str) -> Result<Vec<u8>, IdentityError> {
    let key = KeyPair::from_pem(key_pem)?;
    Ok(CertificateParams::default().serialize_request(&key)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData as _;

    use super::*;

    /// An identity whose certificate begins and ends with these years.
    pub(super) fn identity(start: i32, end: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(start, 1, 1);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        Identity {
            site: "site-0".into(),
            certificate_pem: params.self_signed(&key).unwrap().pem(),
            key_pem: key.serialize_pem(),
            ca_pem: String::new(),
        }
    }

    #[test]
    fn a_certificate_is_renewed_at_half_its_life() {
        let identity = identity(1970, 1972);
        let year = Duration::from_hours(8760);
        assert_eq!(identity.renew_in(Duration::ZERO), year);
        assert_eq!(identity.renew_in(year * 3 / 2), Duration::ZERO);
        assert!(!identity.is_expired((year * 2).checked_sub(Duration::from_secs(1)).unwrap()));
        assert!(identity.is_expired(year * 2));
    }

    #[test]
    fn a_request_is_for_the_key_and_signed_by_it() {
        let key = KeyPair::generate().unwrap();
        let request = request(&key.serialize_pem()).unwrap();
        let parsed = rcgen::CertificateSigningRequestParams::from_der(&request.as_slice().into()).unwrap();
        assert_eq!(parsed.public_key.subject_public_key_info(), key.subject_public_key_info());
    }

    #[test]
    fn debug_output_holds_no_key() {
        assert!(!format!("{:?}", identity(1970, 1971)).contains("PRIVATE"));
    }
}
