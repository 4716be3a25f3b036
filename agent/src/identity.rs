//! Who this Site is to the hub: a key that never leaves it, and the certificate that the hub gave for it.
//!
//! Kept in a Secret of the Site, so that an agent that starts again is the same Site and needs no new token.

mod obtain;

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_api::names::{FIELD_MANAGER_AGENT, LABEL_MANAGED_BY, MANAGED_BY_AGENT};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rcgen::{CertificateParams, KeyPair};
use x509_parser::pem::parse_x509_pem;

pub use obtain::{Join, ObtainError, keep_fresh, obtain};

const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const CA: &str = "ca.crt";
const SITE: &str = "site";

/// A Site's identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the Site.
    pub site: String,
    /// PEM of the private key.
    pub key_pem: String,
    /// PEM of the certificate.
    pub certificate_pem: String,
    /// PEM of the hub's CA.
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

/// The Secret that holds the identity.
pub struct IdentityStore {
    api: Api<Secret>,
    name: String,
}

impl IdentityStore {
    /// The Secret of this name.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, name: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name }
    }

    /// What is stored: the key, and the identity if the Site has joined.
    pub async fn load(&self) -> Result<(Option<String>, Option<Identity>), IdentityError> {
        let Some(secret) = self.api.get_opt(&self.name).await? else { return Ok((None, None)) };
        let mut data = secret.data.unwrap_or_default();
        let mut text = |key: &str| data.remove(key).and_then(|bytes| String::from_utf8(bytes.0).ok());
        let key_pem = text(KEY).filter(|key| KeyPair::from_pem(key).is_ok());
        let identity = (|| {
            Some(Identity {
                site: text(SITE)?,
                key_pem: key_pem.clone()?,
                certificate_pem: text(CERTIFICATE)?,
                ca_pem: text(CA)?,
            })
        })();
        Ok((key_pem, identity.filter(|identity| identity.validity().is_ok())))
    }

    /// Stores a key before it is used, so that a crash while joining does not lose it.
    async fn store_key(&self, key_pem: &str) -> Result<(), IdentityError> {
        self.store([(KEY, key_pem)]).await
    }

    /// Stores an identity.
    async fn store_identity(&self, identity: &Identity) -> Result<(), IdentityError> {
        self.store([
            (KEY, identity.key_pem.as_str()),
            (CERTIFICATE, &identity.certificate_pem),
            (CA, &identity.ca_pem),
            (SITE, &identity.site),
        ])
        .await
    }

    async fn store<const N: usize>(&self, data: [(&str, &str); N]) -> Result<(), IdentityError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([(LABEL_MANAGED_BY.to_owned(), MANAGED_BY_AGENT.to_owned())])),
                ..ObjectMeta::default()
            },
            data: Some(
                data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec()))).collect(),
            ),
            ..Secret::default()
        };
        let params = PatchParams::apply(FIELD_MANAGER_AGENT).force();
        self.api.patch(&self.name, &params, &Patch::Apply(&secret)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData as _;

    use super::*;

    fn identity(start: i32, end: i32) -> Identity {
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
