//! Where a Site's identity is kept: in a Secret of the Site, or in a directory of the machine.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use atoll_api::names::{FIELD_MANAGER_AGENT, LABEL_MANAGED_BY, MANAGED_BY_AGENT};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rcgen::KeyPair;
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use super::{Identity, IdentityError};

const KEY: &str = "tls.key";
const CERTIFICATE: &str = "tls.crt";
const CA: &str = "ca.crt";
const SITE: &str = "site";
/// What a file is called until it is whole.
const UNFINISHED: &str = "unfinished";

/// Where the identity is kept.
pub enum IdentityStore {
    /// A Secret of this name.
    Secret(Box<Api<Secret>>, String),
    /// Files in this directory, which nobody but their owner may read.
    Directory(PathBuf),
}

impl IdentityStore {
    /// What is stored: the key, and the identity if the Site has joined.
    pub async fn load(&self) -> Result<(Option<String>, Option<Identity>), IdentityError> {
        let mut parts = match self {
            Self::Secret(api, name) => {
                let data = api.get_opt(name).await?.and_then(|secret| secret.data).unwrap_or_default();
                let text = |(key, bytes): (String, ByteString)| Some((key, String::from_utf8(bytes.0).ok()?));
                data.into_iter().filter_map(text).collect()
            }
            Self::Directory(path) => read(path).await?,
        };
        let key_pem = parts.remove(KEY).filter(|key| KeyPair::from_pem(key).is_ok());
        let identity = (|| {
            Some(Identity {
                site: parts.remove(SITE)?.trim().to_owned(),
                key_pem: key_pem.clone()?,
                certificate_pem: parts.remove(CERTIFICATE)?,
                ca_pem: parts.remove(CA)?,
            })
        })();
        Ok((key_pem, identity.filter(|identity| identity.validity().is_ok())))
    }

    /// Stores a key before it is used, so that a crash while joining does not lose it.
    pub(super) async fn store_key(&self, key_pem: &str) -> Result<(), IdentityError> {
        self.store(&[(KEY, key_pem)]).await
    }

    /// Stores an identity.
    pub(super) async fn store_identity(&self, identity: &Identity) -> Result<(), IdentityError> {
        let parts = [
            (KEY, identity.key_pem.as_str()),
            (CA, &identity.ca_pem),
            (CERTIFICATE, &identity.certificate_pem),
            // The last one: with it the identity counts as complete.
            (SITE, &identity.site),
        ];
        self.store(&parts).await
    }

    async fn store(&self, parts: &[(&str, &str)]) -> Result<(), IdentityError> {
        match self {
            Self::Secret(api, name) => apply(api, name, parts).await,
            Self::Directory(path) => {
                write(path, parts).await.map_err(|error| IdentityError::Directory(path.clone(), error))
            }
        }
    }
}

async fn apply(api: &Api<Secret>, name: &str, parts: &[(&str, &str)]) -> Result<(), IdentityError> {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(LABEL_MANAGED_BY.to_owned(), MANAGED_BY_AGENT.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(parts.iter().map(|(key, text)| ((*key).to_owned(), bytes(text))).collect()),
        ..Secret::default()
    };
    let params = PatchParams::apply(FIELD_MANAGER_AGENT).force();
    api.patch(name, &params, &Patch::Apply(&secret)).await?;
    Ok(())
}

async fn read(directory: &Path) -> Result<BTreeMap<String, String>, IdentityError> {
    let mut parts = BTreeMap::new();
    for name in [KEY, CERTIFICATE, CA, SITE] {
        match fs::read_to_string(directory.join(name)).await {
            Ok(text) => drop(parts.insert(name.to_owned(), text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(IdentityError::Directory(directory.to_owned(), error)),
        }
    }
    Ok(parts)
}

/// Each file is replaced whole, in this order.
async fn write(directory: &Path, parts: &[(&str, &str)]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).await?;
    for (name, text) in parts {
        let unfinished = directory.join(UNFINISHED);
        // A file that is left from before may be open to others.
        match fs::remove_file(&unfinished).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).await?;
        file.write_all(text.as_bytes()).await?;
        file.sync_all().await?;
        fs::rename(&unfinished, directory.join(name)).await?;
    }
    fs::File::open(directory).await?.sync_all().await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::tests::identity;
    use super::*;

    #[tokio::test]
    async fn a_directory_gives_back_what_it_was_given_and_shows_it_to_nobody_else() {
        let scratch = atoll_testkit::scratch::Scratch::new("identity").unwrap();
        let path = scratch.path().join("deep/identity");
        let store = IdentityStore::Directory(path.clone());
        assert_eq!(store.load().await.unwrap(), (None, None));
        let first = identity(2026, 2027);
        store.store_key(&first.key_pem).await.unwrap();
        assert_eq!(store.load().await.unwrap(), (Some(first.key_pem.clone()), None));
        for identity in [first.clone(), Identity { certificate_pem: identity(2027, 2028).certificate_pem, ..first }] {
            std::fs::write(path.join(UNFINISHED), "left behind").unwrap();
            store.store_identity(&identity).await.unwrap();
            assert_eq!(store.load().await.unwrap(), (Some(identity.key_pem.clone()), Some(identity)));
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for name in [KEY, CERTIFICATE, CA, SITE] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        assert!(!path.join(UNFINISHED).exists());
        std::fs::write(path.join(KEY), "junk").unwrap();
        assert_eq!(store.load().await.unwrap(), (None, None), "a damaged key is no identity");
    }
}
