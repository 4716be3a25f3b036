//! Where the hub's CA is kept: a Secret that the first gateway makes.

use std::collections::BTreeMap;

use atoll_api::names::{FIELD_MANAGER_GATEWAY, HUB_CA_SECRET};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};

use super::pki::{HubCa, PkiError};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The CA could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The API server said no.
    #[error("cannot read or make the Secret {HUB_CA_SECRET}: {0}")]
    Api(#[from] kube::Error),
    /// What the Secret holds is not a CA.
    #[error("Secret {HUB_CA_SECRET}: {0}")]
    Pki(#[from] PkiError),
    /// The Secret lacks a key, or it is not text.
    #[error("Secret {HUB_CA_SECRET} has no text under {0:?}")]
    Missing(&'static str),
}

/// The hub's CA: the stored one, or a new one. Of several gateways that start at once, one stores its own and the
/// others take that.
pub async fn load_or_create(secrets: &Api<Secret>, now: Timestamp) -> Result<HubCa, CaError> {
    if let Some(stored) = secrets.get_opt(HUB_CA_SECRET).await? {
        return of_secret(&stored);
    }
    let (ca, key) = HubCa::generate(now)?;
    let params = PostParams { field_manager: Some(FIELD_MANAGER_GATEWAY.to_owned()), ..PostParams::default() };
    match secrets.create(&params, &secret(ca.certificate_pem(), &key)).await {
        Ok(_) => {
            tracing::info!(secret = HUB_CA_SECRET, "made the hub's CA");
            Ok(ca)
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => of_secret(&secrets.get(HUB_CA_SECRET).await?),
        Err(error) => Err(error.into()),
    }
}

fn secret(certificate: &str, key: &str) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(HUB_CA_SECRET.to_owned()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from([
            (CERTIFICATE.to_owned(), ByteString(certificate.as_bytes().to_vec())),
            (KEY.to_owned(), ByteString(key.as_bytes().to_vec())),
        ])),
        ..Secret::default()
    }
}

fn of_secret(secret: &Secret) -> Result<HubCa, CaError> {
    let text = |name: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name)).ok_or(CaError::Missing(name))?;
        String::from_utf8(bytes.0.clone()).map_err(|_| CaError::Missing(name))
    };
    Ok(HubCa::from_pem(text(CERTIFICATE)?, &text(KEY)?)?)
}
