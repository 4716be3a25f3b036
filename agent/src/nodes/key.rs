//! The key that the agent and the watchdogs of its Site have in common.

use std::collections::BTreeMap;
use std::path::PathBuf;

use atoll_api::names::{FIELD_MANAGER_AGENT, LABEL_MANAGED_BY, MANAGED_BY_AGENT, WATCHDOG_KEY};
use atoll_wire::mac::MIN_KEY_BYTES;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

/// A key of a Site.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

// Logs get these by accident; the key must not come along.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("the key for watchdogs: {0}")]
    File(#[from] std::io::Error),
    /// The Secret cannot be read or made.
    #[error("the Secret of the key for watchdogs: {0}")]
    Store(#[from] kube::Error),
    /// It can be guessed.
    #[error("the key for watchdogs has {0} bytes, and needs {MIN_KEY_BYTES}")]
    Short(usize),
}

impl Key {
    /// These bytes; too few are refused.
    pub fn new(bytes: Vec<u8>) -> Result<Self, KeyError> {
        if bytes.len() < MIN_KEY_BYTES { Err(KeyError::Short(bytes.len())) } else { Ok(Self(bytes)) }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Where the key is.
#[derive(Clone)]
pub enum KeySource {
    /// In a file, all of it.
    File(PathBuf),
    /// In a Secret of the Site, which is made when there is none.
    Secret {
        /// The Site.
        client: kube::Client,
        /// Namespace of the Secret.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl KeySource {
    /// The key.
    pub async fn load(&self) -> Result<Key, KeyError> {
        match self {
            Self::File(path) => Key::new(tokio::fs::read(path).await?),
            Self::Secret { client, namespace, name } => {
                from_secret(&Api::namespaced(client.clone(), namespace), name, rand::random()).await
            }
        }
    }
}

async fn from_secret(api: &Api<Secret>, name: &str, random: [u8; MIN_KEY_BYTES]) -> Result<Key, KeyError> {
    let kept = |secret: Secret| secret.data.and_then(|mut data| data.remove(WATCHDOG_KEY)).unwrap_or_default().0;
    if let Some(secret) = api.get_opt(name).await? {
        return Key::new(kept(secret));
    }
    let new = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(LABEL_MANAGED_BY.to_owned(), MANAGED_BY_AGENT.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(WATCHDOG_KEY.to_owned(), ByteString(random.to_vec()))])),
        // Watchdogs have it mounted: another key under them would cut all of them off.
        immutable: Some(true),
        ..Secret::default()
    };
    let params = PostParams { field_manager: Some(FIELD_MANAGER_AGENT.into()), ..PostParams::default() };
    match api.create(&params, &new).await {
        Ok(secret) => Key::new(kept(secret)),
        // Another agent was faster.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Key::new(kept(api.get(name).await?)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_can_be_guessed_is_none_and_none_is_logged() {
        assert!(matches!(Key::new(vec![7; 31]), Err(KeyError::Short(31))));
        assert_eq!(format!("{:?}", Key::new(vec![7; 32]).unwrap()), "Key(..)");
    }
}
