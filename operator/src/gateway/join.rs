//! Joining: a single-use token becomes a Site and its first certificate; and the next certificate of a Site.

use atoll_api::names::{ANNOTATION_JOINED_WITH, FIELD_MANAGER_GATEWAY, LABEL_SUPPLIER};
use atoll_api::{Site, SiteSpec, Supplier, Trust};
use atoll_wire::limits::MAX_DISPLAY_NAME_BYTES;
use atoll_wire::token::{KEY_EXPIRES, KEY_HASH, KEY_SUPPLIER, KEY_TRUST, PresentedToken};
use atoll_wire::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use tonic::Status;

use super::pki::{HubCa, SiteKey};

const MAKE_ANOTHER: &str = "make a new one with `kubectl atoll token create`";

/// What a join needs of the hub.
pub struct Joiner {
    /// Secrets of the system namespace.
    pub secrets: Api<Secret>,
    /// Sites.
    pub sites: Api<Site>,
    /// Suppliers.
    pub suppliers: Api<Supplier>,
}

/// What a token allows, as its Secret says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    supplier: String,
    trust: Trust,
    expires: Timestamp,
    hash: String,
}

/// A valid request.
struct Wanted {
    token: PresentedToken,
    key: SiteKey,
    region: String,
    display_name: Option<String>,
}

impl Joiner {
    /// Turns a token into a Site and its first certificate.
    ///
    /// Everything that can be wrong is found before the token is used up. The same key with the same token gets a
    /// certificate again: its agent did not receive the first one, or was away until that expired.
    pub async fn join(
        &self,
        ca: &HubCa,
        request: &v1::JoinRequest,
        now: Timestamp,
    ) -> Result<v1::JoinResponse, Status> {
        let wanted = Wanted::of(request)?;
        let site = self.sites.get_opt(wanted.key.name()).await.map_err(unavailable)?;
        let stamp = stamp(&wanted.token);
        let known = site.as_ref().is_some_and(|site| site.annotations().get(ANNOTATION_JOINED_WITH) == Some(&stamp));
        if !known {
            self.join_with(&wanted, site.as_ref(), stamp, now).await?;
        } else if site.is_some_and(|site| site.spec.suspended) {
            return Err(suspended());
        }
        let certificate_pem = ca.issue_client(&wanted.key, now).map_err(|error| Status::internal(error.to_string()))?;
        tracing::info!(site = wanted.key.name(), token = wanted.token.id(), again = known, "joined");
        Ok(v1::JoinResponse {
            site: wanted.key.name().to_owned(),
            certificate_pem,
            ca_pem: ca.certificate_pem().to_owned(),
        })
    }

    /// The next certificate of a Site that presented its present one.
    pub fn renew(
        ca: &HubCa,
        site: &Site,
        request: &v1::RenewRequest,
        now: Timestamp,
    ) -> Result<v1::RenewResponse, Status> {
        let key = SiteKey::from_csr(&request.csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if key.name() != site.name_any() {
            return Err(Status::permission_denied("a certificate is renewed for the same key only"));
        }
        if site.spec.suspended {
            return Err(suspended());
        }
        let certificate_pem = ca.issue_client(&key, now).map_err(|error| Status::internal(error.to_string()))?;
        Ok(v1::RenewResponse { certificate_pem, ca_pem: ca.certificate_pem().to_owned() })
    }

    async fn join_with(
        &self,
        wanted: &Wanted,
        site: Option<&Site>,
        stamp: String,
        now: Timestamp,
    ) -> Result<(), Status> {
        let name = wanted.token.secret_name();
        let unknown = || Status::unauthenticated(format!("this join token is unknown or was used; {MAKE_ANOTHER}"));
        let secret = self.secrets.get_opt(&name).await.map_err(unavailable)?.ok_or_else(unknown)?;
        let grant = Grant::of(&secret).map_err(|what| {
            tracing::error!(secret = name, what, "the Secret of a join token is not as it should be");
            Status::internal(format!("the hub's record of this join token is damaged; {MAKE_ANOTHER}"))
        })?;
        if !same(&grant.hash, &wanted.token.secret_hash()) {
            return Err(unknown());
        }
        if grant.expires <= now {
            return Err(Status::unauthenticated(format!(
                "this join token expired at {}; {MAKE_ANOTHER}",
                grant.expires
            )));
        }
        if self.suppliers.get_opt(&grant.supplier).await.map_err(unavailable)?.is_none() {
            return Err(Status::failed_precondition(format!(
                "the supplier {:?} of this join token does not exist; ask the operators of the hub to make it",
                grant.supplier
            )));
        }
        match site {
            Some(site) if site.spec.suspended => return Err(suspended()),
            Some(site) if site.spec.supplier != grant.supplier => {
                return Err(Status::failed_precondition(format!(
                    "this key is the Site {} of another supplier; use a token of that supplier or a new key",
                    site.name_any()
                )));
            }
            _ => {}
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
        let params = PostParams { field_manager: Some(FIELD_MANAGER_GATEWAY.to_owned()), ..PostParams::default() };
        match self.sites.create(&params, &new_site(wanted, &grant, stamp)).await {
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

impl Wanted {
    fn of(request: &v1::JoinRequest) -> Result<Self, Status> {
        let token: PresentedToken =
            request.token.parse().map_err(|error| Status::unauthenticated(format!("{error}; {MAKE_ANOTHER}")))?;
        let key = SiteKey::from_csr(&request.csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !is_region(&request.region) {
            return Err(Status::invalid_argument(format!(
                "the region {:?} must be words of lower case letters and digits joined by dashes, such as \"eu-west\"",
                request.region
            )));
        }
        let display = request.display_name.trim();
        if display.len() > MAX_DISPLAY_NAME_BYTES || display.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "the display name must be readable and have at most {MAX_DISPLAY_NAME_BYTES} bytes"
            )));
        }
        Ok(Self {
            token,
            key,
            region: request.region.clone(),
            display_name: (!display.is_empty()).then(|| display.to_owned()),
        })
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
    let mut site = Site::new(
        wanted.key.name(),
        SiteSpec {
            supplier: grant.supplier.clone(),
            display_name: wanted.display_name.clone(),
            region: wanted.region.clone(),
            trust: grant.trust,
            suspended: false,
            quarantined: false,
        },
    );
    site.metadata.annotations = Some([(ANNOTATION_JOINED_WITH.to_owned(), stamp)].into());
    if grant.supplier.len() <= 63 {
        site.metadata.labels = Some([(LABEL_SUPPLIER.to_owned(), grant.supplier.clone())].into());
    }
    site
}

/// Identifies a token without telling it.
fn stamp(token: &PresentedToken) -> String {
    format!("{}.{}", token.id(), token.secret_hash())
}

fn is_region(region: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
    region.len() <= 63 && region.split('-').all(word)
}

/// Compares hashes in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

fn suspended() -> Status {
    Status::permission_denied("this Site is suspended; ask the operators of the hub")
}

#[allow(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unavailable(error: kube::Error) -> Status {
    tracing::warn!(%error, "the API server does not answer a join");
    Status::unavailable("the hub cannot look this up now; try again")
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
    fn regions_are_as_the_crd_has_them() {
        for region in ["eu-west", "us-east-1", "a", "1"] {
            assert!(is_region(region), "{region}");
        }
        for region in ["", "EU", "eu--west", "-eu", "eu-", "eu west", "eu_west", &"a".repeat(64)] {
            assert!(!is_region(region), "{region}");
        }
    }

    #[test]
    fn a_request_is_refused_before_its_token_is_used() {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr_der = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let secret = "A".repeat(43);
        let good = v1::JoinRequest {
            token: format!("0001020304050607.{secret}"),
            csr_der,
            display_name: "Basement".to_owned(),
            region: "eu-west".to_owned(),
            agent_version: "0.1.0".to_owned(),
            wallet: None,
        };
        assert!(Wanted::of(&good).is_ok());
        for (code, request) in [
            (tonic::Code::Unauthenticated, v1::JoinRequest { token: "junk".to_owned(), ..good.clone() }),
            (tonic::Code::InvalidArgument, v1::JoinRequest { csr_der: vec![1, 2], ..good.clone() }),
            (tonic::Code::InvalidArgument, v1::JoinRequest { region: "Mars!".to_owned(), ..good.clone() }),
            (tonic::Code::InvalidArgument, v1::JoinRequest { display_name: "x".repeat(64), ..good.clone() }),
            (tonic::Code::InvalidArgument, v1::JoinRequest { display_name: "a\nb".to_owned(), ..good.clone() }),
        ] {
            assert_eq!(Wanted::of(&request).err().map(|status| status.code()), Some(code), "{request:?}");
        }
    }

    #[test]
    fn hashes_are_compared_whole() {
        assert!(same("abc", "abc"));
        assert!(!same("abc", "abd") && !same("abc", "ab") && !same("", "a"));
    }
}
