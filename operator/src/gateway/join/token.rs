//! Joining by a token, which the hub's operators made for a supplier and which works once.

use atoll_api::names::{ANNOTATION_JOINED_WITH, FIELD_MANAGER_GATEWAY};
use atoll_api::{Site, Trust};
use atoll_wire::token::{KEY_EXPIRES, KEY_HASH, KEY_SUPPLIER, KEY_TRUST, PresentedToken};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use tonic::Status;

use super::{Joiner, MAKE_ANOTHER, Wanted, in_good_standing, no_supplier, others_key, post, standing, unavailable};

/// What a token allows, as its Secret says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    supplier: String,
    trust: Trust,
    expires: Timestamp,
    hash: String,
}

impl Joiner {
    /// Everything that can be wrong is found before the token is used up.
    pub(super) async fn join_by_token(
        &self,
        wanted: &Wanted,
        token: &PresentedToken,
        now: Timestamp,
    ) -> Result<(), Status> {
        let site = self.sites.get_opt(wanted.key.name()).await.map_err(unavailable)?;
        let stamp = stamp(token);
        if let Some(site) = &site
            && site.annotations().get(ANNOTATION_JOINED_WITH) == Some(&stamp)
        {
            let supplier = self.supplier(&site.spec.supplier).await?;
            return standing(site, supplier.as_deref());
        }
        let name = token.secret_name();
        let unknown = || Status::unauthenticated(format!("this join token is unknown or was used; {MAKE_ANOTHER}"));
        let secret = self.secrets.get_opt(&name).await.map_err(unavailable)?.ok_or_else(unknown)?;
        let grant = Grant::of(&secret).map_err(|what| {
            tracing::error!(secret = name, what, "the Secret of a join token is not as it should be");
            Status::internal(format!("the hub's record of this join token is damaged; {MAKE_ANOTHER}"))
        })?;
        if !same(&grant.hash, &token.secret_hash()) {
            return Err(unknown());
        }
        if grant.expires <= now {
            return Err(Status::unauthenticated(format!(
                "this join token expired at {}; {MAKE_ANOTHER}",
                grant.expires
            )));
        }
        let supplier = self.supplier(&grant.supplier).await?.ok_or_else(|| no_supplier(&grant.supplier))?;
        in_good_standing(&supplier)?;
        if let Some(site) = &site {
            if site.spec.supplier != grant.supplier {
                return Err(others_key(site));
            }
            standing(site, Some(&supplier))?;
        }

        // Of all who hold this token, the one who deletes its Secret has used it.
        let exactly = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
        match self.secrets.delete(&name, &DeleteParams::default().preconditions(exactly)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => return Err(unknown()),
            Err(error) => return Err(unavailable(error)),
        }
        if site.is_some() {
            let annotations = serde_json::json!({ ANNOTATION_JOINED_WITH: stamp });
            let patch = serde_json::json!({ "metadata": { "annotations": annotations } });
            let params =
                PatchParams { field_manager: Some(FIELD_MANAGER_GATEWAY.to_owned()), ..PatchParams::default() };
            self.sites.patch(wanted.key.name(), &params, &Patch::Merge(&patch)).await.map_err(unavailable)?;
            return Ok(());
        }
        match self.sites.create(&post(), &new_site(wanted, &grant, stamp)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => {
                tracing::error!(%error, site = wanted.key.name(), "a token was used and its Site could not be made");
                Err(Status::internal(format!(
                    "the hub could not make the Site and the token is used up; {MAKE_ANOTHER}"
                )))
            }
        }
    }
}

impl Grant {
    fn of(secret: &Secret) -> Result<Self, &'static str> {
        let text = |key: &str| {
            let bytes = secret.data.as_ref()?.get(key)?;
            std::str::from_utf8(&bytes.0).ok().map(|text| text.trim().to_owned())
        };
        let trust = match text(KEY_TRUST).as_deref() {
            Some("Untrusted") => Trust::Untrusted,
            Some("Contracted") => Trust::Contracted,
            Some("Attested") => Trust::Attested,
            _ => return Err("trust"),
        };
        Ok(Self {
            supplier: text(KEY_SUPPLIER).ok_or("supplier")?,
            trust,
            expires: text(KEY_EXPIRES).and_then(|text| text.parse().ok()).ok_or("expires")?,
            hash: text(KEY_HASH).ok_or("sha256")?,
        })
    }
}

fn new_site(wanted: &Wanted, grant: &Grant, stamp: String) -> Site {
    let mut site = wanted.site(&grant.supplier, grant.trust, false);
    site.metadata.annotations = Some([(ANNOTATION_JOINED_WITH.to_owned(), stamp)].into());
    site
}

/// Identifies a token without telling it.
fn stamp(token: &PresentedToken) -> String {
    format!("{}.{}", token.id(), token.secret_hash())
}

/// Compares hashes in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(entries: &[(&str, &str)]) -> Secret {
        let data = entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn a_tokens_secret_is_read_or_its_wrong_part_is_named() {
        let good = [
            (KEY_HASH, "abc"),
            (KEY_SUPPLIER, "acme"),
            (KEY_TRUST, "Contracted"),
            (KEY_EXPIRES, "2026-11-23T02:00:00Z"),
        ];
        let grant = Grant::of(&secret(&good)).unwrap();
        assert_eq!((grant.supplier.as_str(), grant.trust, grant.hash.as_str()), ("acme", Trust::Contracted, "abc"));
        for missing in [KEY_HASH, KEY_SUPPLIER, KEY_TRUST, KEY_EXPIRES] {
            let rest: Vec<_> = good.iter().copied().filter(|(key, _)| *key != missing).collect();
            assert_eq!(Grant::of(&secret(&rest)), Err(missing));
        }
    }

    #[test]
    fn hashes_are_compared_whole() {
        assert!(same("abc", "abc"));
        assert!(!same("abc", "abd") && !same("abc", "ab") && !same("", "a"));
    }
}
