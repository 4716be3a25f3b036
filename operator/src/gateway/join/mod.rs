//! Joining: a single-use token or a wallet's signature becomes a Site and its first certificate; and further certificates
//! for a key that has joined.
//!
//! What a join costs the API server: by token 2 reads and 2 writes; by a wallet 1 read and 2 writes for its first Site, then
//! 1; for a known key nothing. Suppliers and known Sites come from caches; what these do not hold yet is read.

mod token;
mod wallet;

use std::sync::Arc;

use atoll_api::names::{FIELD_MANAGER_GATEWAY, LABEL_SUPPLIER};
use atoll_api::{Site, SiteSpec, Supplier, Trust};
use atoll_wire::limits::MAX_DISPLAY_NAME_BYTES;
use atoll_wire::token::PresentedToken;
use atoll_wire::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use tonic::Status;

use self::wallet::WalletProof;
use super::authority::Authority;
use super::cache::Cache;
use super::pki::SiteKey;
use super::sites::Sites;

const MAKE_ANOTHER: &str = "make a new one with `kubectl atoll token create`";

/// What a join needs of the hub.
pub struct Joiner {
    /// Secrets of the system namespace.
    pub secrets: Api<Secret>,
    /// Sites.
    pub sites: Api<Site>,
    /// Suppliers.
    pub suppliers: Api<Supplier>,
    /// Sites as watches have shown them.
    pub known_sites: Sites,
    /// Suppliers as watches have shown them.
    pub known_suppliers: Arc<Cache<Supplier>>,
}

/// A valid request.
struct Wanted {
    by: By,
    key: SiteKey,
    region: String,
    display_name: Option<String>,
}

/// What a request shows for itself.
#[derive(Debug)]
enum By {
    /// A join token.
    Token(PresentedToken),
    /// A wallet's signature, which was verified.
    Wallet(WalletProof),
    /// Nothing but a key that has joined.
    Key,
}

impl Joiner {
    /// Turns what the request shows for itself into a certificate, and into a Site where there was none.
    ///
    /// The same key with the same token gets a certificate again: its agent did not receive the first one.
    pub async fn join(
        &self,
        authority: &Authority,
        request: &v1::JoinRequest,
        now: Timestamp,
    ) -> Result<v1::JoinResponse, Status> {
        let wanted = Wanted::of(authority, request, now)?;
        match &wanted.by {
            By::Token(token) => self.join_by_token(&wanted, token, now).await?,
            By::Wallet(proof) => self.join_by_wallet(&wanted, proof).await?,
            By::Key => self.join_again(&wanted.key).await?,
        }
        let certificate_pem = issue(authority, &wanted.key, now)?;
        tracing::info!(site = wanted.key.name(), by = ?wanted.by, "joined");
        Ok(v1::JoinResponse { site: wanted.key.name().to_owned(), certificate_pem, ca_pem: authority.bundle_pem() })
    }

    /// The next certificate of the Site that presented its present one.
    pub async fn renew(
        &self,
        authority: &Authority,
        name: &str,
        request: &v1::RenewRequest,
        now: Timestamp,
    ) -> Result<v1::RenewResponse, Status> {
        let key = SiteKey::from_csr(&request.csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if key.name() != name {
            return Err(Status::permission_denied("a certificate is renewed for the same key only"));
        }
        let site = self.known_sites.find(name).await.map_err(unavailable)?;
        let site =
            site.ok_or_else(|| Status::permission_denied("this Site is not known to the hub; join with a new token"))?;
        // A Supplier that was deleted by mistake does not take its Sites with it.
        let supplier = self.supplier(&site.spec.supplier).await?;
        standing(&site, supplier.as_deref())?;
        Ok(v1::RenewResponse { certificate_pem: issue(authority, &key, now)?, ca_pem: authority.bundle_pem() })
    }

    /// For a key that has joined. That the caller has it, the request's own signature has proved.
    async fn join_again(&self, key: &SiteKey) -> Result<(), Status> {
        let site = self.known_sites.find(key.name()).await.map_err(unavailable)?;
        let Some(site) = site.filter(|site| site.metadata.deletion_timestamp.is_none()) else {
            return Err(Status::unauthenticated(
                "this key is not known to the hub: join with a token (`kubectl atoll token create`) or with a wallet",
            ));
        };
        let Some(supplier) = self.supplier(&site.spec.supplier).await? else {
            return Err(no_supplier(&site.spec.supplier));
        };
        standing(&site, Some(&supplier))
    }

    async fn supplier(&self, name: &str) -> Result<Option<Arc<Supplier>>, Status> {
        match self.known_suppliers.get(name) {
            Some(supplier) => Ok(Some(supplier)),
            None => Ok(self.suppliers.get_opt(name).await.map_err(unavailable)?.map(Arc::new)),
        }
    }
}

impl Wanted {
    fn of(authority: &Authority, request: &v1::JoinRequest, now: Timestamp) -> Result<Self, Status> {
        let key = SiteKey::from_csr(&request.csr_der).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let display = request.display_name.trim();
        if request.display_name.len() > MAX_DISPLAY_NAME_BYTES || display.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "the display name must be readable and have at most {MAX_DISPLAY_NAME_BYTES} bytes"
            )));
        }
        // Before a signature over it is checked: it may be megabytes long.
        let shows_key_alone = request.wallet.is_none() && request.token.is_empty();
        if !shows_key_alone && !is_region(&request.region) {
            return Err(Status::invalid_argument(
                "the region must be words of lower case letters and digits joined by dashes, such as \"eu-west\"",
            ));
        }
        let by = match (&request.wallet, request.token.as_str()) {
            (None, "") => By::Key,
            (None, token) => {
                By::Token(token.parse().map_err(|error| Status::unauthenticated(format!("{error}; {MAKE_ANOTHER}")))?)
            }
            (Some(wallet), "") => By::Wallet(WalletProof::of(wallet, request, &key, &authority.pins(), now)?),
            (Some(_), _) => return Err(Status::invalid_argument("join with a token or with a wallet, not with both")),
        };
        Ok(Self {
            by,
            key,
            region: request.region.clone(),
            display_name: (!display.is_empty()).then(|| display.to_owned()),
        })
    }

    fn site(&self, supplier: &str, trust: Trust, quarantined: bool) -> Site {
        let mut site = Site::new(
            self.key.name(),
            SiteSpec {
                supplier: supplier.to_owned(),
                display_name: self.display_name.clone(),
                region: self.region.clone(),
                trust,
                suspended: false,
                quarantined,
            },
        );
        if supplier.len() <= 63 {
            site.metadata.labels = Some([(LABEL_SUPPLIER.to_owned(), supplier.to_owned())].into());
        }
        site
    }
}

fn issue(authority: &Authority, key: &SiteKey, now: Timestamp) -> Result<String, Status> {
    authority.issue_client(key, now).map_err(|error| Status::internal(error.to_string()))
}

/// Whether a Site and its Supplier are in good standing.
fn standing(site: &Site, supplier: Option<&Supplier>) -> Result<(), Status> {
    if site.spec.suspended {
        return Err(Status::permission_denied("this Site is suspended; ask the operators of the hub"));
    }
    supplier.map_or(Ok(()), in_good_standing)
}

fn in_good_standing(supplier: &Supplier) -> Result<(), Status> {
    if supplier.spec.suspended {
        return Err(Status::permission_denied(format!(
            "the supplier {} of this Site is suspended; ask the operators of the hub",
            supplier.name_any()
        )));
    }
    Ok(())
}

fn no_supplier(name: &str) -> Status {
    Status::failed_precondition(format!(
        "the supplier {name:?} of this Site does not exist; ask the operators of the hub to make it"
    ))
}

fn others_key(site: &Site) -> Status {
    Status::failed_precondition(format!(
        "this key is the Site {} of another supplier; join for that supplier or use a new key",
        site.name_any()
    ))
}

fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER_GATEWAY.to_owned()), ..PostParams::default() }
}

fn is_region(region: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
    region.len() <= 63 && region.split('-').all(word)
}

#[allow(clippy::needless_pass_by_value, reason = "used by map_err")]
fn unavailable(error: kube::Error) -> Status {
    tracing::warn!(%error, "the API server does not answer a join");
    Status::unavailable("the hub cannot look this up now; try again")
}

#[cfg(test)]
mod tests {
    use atoll_wire::pin::Pin;
    use atoll_wire::wallet::{Statement, WalletSigner};
    use rcgen::PublicKeyData as _;
    use tonic::Code;

    use super::super::authority::tests::settled;
    use super::super::fixtures;
    use super::*;

    /// The wallet whose seed is all sevens.
    const WALLET: &str = "[7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,\
         234,74,108,99,226,156,82,10,190,245,80,123,19,46,197,249,149,71,118,174,190,190,123,146,66,30,234,105,20,70,210,44]";

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    struct Asked {
        authority: Authority,
        key: Pin,
        request: v1::JoinRequest,
    }

    fn asked() -> Asked {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr_der = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        Asked {
            authority: Authority::of(&settled(now())).unwrap(),
            key: Pin::of_spki(&key.subject_public_key_info()),
            request: v1::JoinRequest {
                token: format!("0001020304050607.{}", "A".repeat(43)),
                csr_der,
                display_name: "Basement".to_owned(),
                region: "eu-west".to_owned(),
                agent_version: "0.1.0".to_owned(),
                wallet: None,
            },
        }
    }

    impl Asked {
        fn code(&self, request: &v1::JoinRequest) -> Option<Code> {
            Wanted::of(&self.authority, request, now()).err().map(|status| status.code())
        }

        fn signed(&self, change: impl FnOnce(&mut Statement<'_>)) -> v1::JoinRequest {
            let mut statement = Statement {
                hub: self.authority.pins()[0],
                key: self.key,
                signed_at: now().as_second(),
                region: &self.request.region,
                display_name: &self.request.display_name,
            };
            change(&mut statement);
            let wallet = WalletSigner::from_file_text(WALLET).unwrap().sign(&statement);
            v1::JoinRequest { token: String::new(), wallet: Some(wallet), ..self.request.clone() }
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
        let asked = asked();
        let good = asked.request.clone();
        assert_eq!(asked.code(&good), None);
        let mut forged = good.csr_der.clone();
        *forged.last_mut().unwrap() ^= 1;
        for (code, request) in [
            (Code::Unauthenticated, v1::JoinRequest { token: "junk".to_owned(), ..good.clone() }),
            (Code::InvalidArgument, v1::JoinRequest { csr_der: vec![1, 2], ..good.clone() }),
            (Code::InvalidArgument, v1::JoinRequest { csr_der: forged.clone(), ..good.clone() }),
            (Code::InvalidArgument, v1::JoinRequest { csr_der: forged, token: String::new(), ..good.clone() }),
            (Code::InvalidArgument, v1::JoinRequest { region: "Mars!".to_owned(), ..good.clone() }),
            (Code::InvalidArgument, v1::JoinRequest { display_name: "x".repeat(64), ..good.clone() }),
            (Code::InvalidArgument, v1::JoinRequest { display_name: "a\nb".to_owned(), ..good.clone() }),
            (Code::InvalidArgument, v1::JoinRequest { wallet: Some(v1::Wallet::default()), ..good.clone() }),
        ] {
            assert_eq!(asked.code(&request), Some(code), "{request:?}");
        }
    }

    #[test]
    fn a_wallet_s_signature_is_for_one_hub_one_key_and_one_moment() {
        let asked = asked();
        let stranger = Pin::of_spki(b"somebody else");
        assert_eq!(asked.code(&asked.signed(|_| {})), None);
        let second = now().as_second();
        for (what, request) in [
            ("another hub", asked.signed(|s| s.hub = stranger)),
            ("another key", asked.signed(|s| s.key = stranger)),
            ("too old", asked.signed(|s| s.signed_at = second - 901)),
            ("from the future", asked.signed(|s| s.signed_at = second + 901)),
            ("another region", asked.signed(|s| s.region = "eu-east")),
            ("another name", asked.signed(|s| s.display_name = "Attic")),
        ] {
            assert_eq!(asked.code(&request), Some(Code::Unauthenticated), "{what}");
        }
        // Seen on its way and sent with a key of one's own.
        let other = self::asked();
        let stolen = v1::JoinRequest { csr_der: other.request.csr_der, ..asked.signed(|_| {}) };
        assert_eq!(asked.code(&stolen), Some(Code::Unauthenticated));
        // Sent in the name of another wallet.
        let mut renamed = asked.signed(|_| {});
        renamed.wallet.as_mut().unwrap().public_key[0] ^= 1;
        assert_eq!(asked.code(&renamed), Some(Code::Unauthenticated));
        for public_key in [vec![], vec![0; 32], vec![1; 31]] {
            let mut wrong = asked.signed(|_| {});
            wrong.wallet.as_mut().unwrap().public_key = public_key;
            assert_eq!(asked.code(&wrong), Some(Code::Unauthenticated));
        }
    }

    #[test]
    fn with_nothing_to_show_a_request_is_for_a_known_key_and_says_nothing_new_of_its_site() {
        let asked = asked();
        let bare = v1::JoinRequest { token: String::new(), region: String::new(), ..asked.request.clone() };
        let wanted = Wanted::of(&asked.authority, &bare, now()).unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(wanted.by, By::Key));
        assert_eq!(wanted.key.pin(), asked.key);
    }

    #[test]
    fn a_site_stands_as_well_as_itself_and_its_supplier() {
        let supplier = |suspended| {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "atoll.dev/v1alpha1", "kind": "Supplier", "metadata": { "name": "acme" },
                "spec": { "displayName": "Acme", "suspended": suspended },
            }))
            .unwrap()
        };
        let words = |suspended: bool, supplier: Option<Supplier>| {
            let mut site = fixtures::site("site-a");
            site.spec.suspended = suspended;
            standing(&site, supplier.as_ref()).map_err(|status| (status.code(), status.message().to_owned()))
        };
        assert_eq!(words(false, None), Ok(()));
        assert_eq!(words(false, Some(supplier(false))), Ok(()));
        for (refused, says) in [
            (words(true, None), "this Site is suspended"),
            (words(true, Some(supplier(true))), "this Site is suspended"),
            (words(false, Some(supplier(true))), "supplier acme of this Site is suspended"),
        ] {
            let (code, message) = refused.unwrap_err();
            assert!(code == Code::PermissionDenied && message.contains(says), "{message}");
        }
    }
}
