//! Joining the hub, and renewing the certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_runtime::backoff::Backoff;
use atoll_wire::pin::Pin;
use atoll_wire::token::JoinToken;
use atoll_wire::v1::gateway_client::GatewayClient;
use atoll_wire::v1::{JoinRequest, RenewRequest};
use atoll_wire::wallet::{Statement, WalletSigner};
use rcgen::{KeyPair, PublicKeyData as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use super::{Identity, IdentityError, IdentityStore, request};
use crate::tls::{self, HubAddress, TlsError};

/// How long one call may take.
const CALL: Duration = Duration::from_secs(30);
/// Longest sleep before the wall clock is looked at again: it runs on while the machine is suspended.
const LONGEST_SLEEP: Duration = Duration::from_mins(10);

/// What a Site shows for itself when it joins.
#[derive(Debug)]
pub enum Proof {
    /// Nothing: it must have joined before.
    None,
    /// A join token.
    Token(JoinToken),
    /// A wallet that signs for the Site's key, and the pin of the hub's CA, as the hub's operators publish it.
    Wallet(WalletSigner, Pin),
}

/// What a Site says of itself when it joins.
#[derive(Debug)]
pub struct Join {
    /// What it shows for itself.
    pub proof: Proof,
    /// Name for people.
    pub display_name: String,
    /// Region, such as "eu-west".
    pub region: String,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// The Site has not joined, and there is no token to join with.
    #[error("this Site has not joined a hub yet: give the token that `kubectl atoll token create` printed")]
    NoToken,
    /// The hub refuses.
    #[error("the hub refuses: {0}")]
    Refused(String),
    /// The hub could not be reached, or failed.
    #[error("the hub: {0}")]
    Unavailable(String),
    /// No connection.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key, the certificate or where they are kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The process is to end.
    #[error("interrupted")]
    Interrupted,
}

impl From<tonic::Status> for ObtainError {
    fn from(status: tonic::Status) -> Self {
        let message = format!("{} ({:?})", status.message(), status.code());
        match status.code() {
            Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::FailedPrecondition => Self::Refused(message),
            _ => Self::Unavailable(message),
        }
    }
}

impl ObtainError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Tls(TlsError::Connect(_)) | Self::Identity(IdentityError::Store(_)))
    }
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The stored identity, with a new certificate where the stored one has ended; or a new identity. What may pass is tried again until `shutdown`; what cannot is an error.
pub async fn obtain(
    store: &IdentityStore,
    hub: &HubAddress,
    join: &Join,
    shutdown: &CancellationToken,
) -> Result<Identity, ObtainError> {
    let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let error = match attempt(store, hub, join).await {
            Ok(identity) => return Ok(identity),
            Err(error) if !error.may_pass() => return Err(error),
            Err(error) => error,
        };
        let wait = backoff.next(&());
        tracing::warn!(%error, ?wait, "no identity yet");
        tokio::select! {
            () = shutdown.cancelled() => return Err(ObtainError::Interrupted),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn attempt(store: &IdentityStore, hub: &HubAddress, join: &Join) -> Result<Identity, ObtainError> {
    let (key_pem, identity) = store.load().await?;
    match identity {
        Some(identity) if !identity.is_expired(wall_clock()) => return Ok(identity),
        Some(identity) => match ask_again(hub, &identity).await {
            Ok(fresh) => {
                store.store_identity(&fresh).await?;
                return Ok(fresh);
            }
            Err(error) if matches!(join.proof, Proof::None) => return Err(error),
            Err(error) => tracing::warn!(%error, "the certificate has ended and the hub gave no new one; joining anew"),
        },
        None if matches!(join.proof, Proof::None) => return Err(ObtainError::NoToken),
        None => {}
    }
    let key_pem = if let Some(key_pem) = key_pem {
        key_pem
    } else {
        let key_pem = KeyPair::generate().map_err(IdentityError::from)?.serialize_pem();
        store.store_key(&key_pem).await?;
        key_pem
    };
    let (pin, token, wallet) = match &join.proof {
        Proof::None => return Err(ObtainError::NoToken),
        Proof::Token(token) => (token.pin(), token.presented().to_string(), None),
        Proof::Wallet(wallet, pin) => {
            let key = KeyPair::from_pem(&key_pem).map_err(IdentityError::from)?;
            let statement = Statement {
                hub: *pin,
                key: Pin::of_spki(&key.subject_public_key_info()),
                signed_at: i64::try_from(wall_clock().as_secs()).unwrap_or(i64::MAX),
                region: &join.region,
                display_name: &join.display_name,
            };
            (*pin, String::new(), Some(wallet.sign(&statement)))
        }
    };
    let request = JoinRequest {
        token,
        csr_der: request(&key_pem)?,
        display_name: join.display_name.clone(),
        region: join.region.clone(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        wallet,
    };
    let identity = send(tls::connect_by_pin(hub, pin).await?, request, key_pem).await?;
    // The token is used up; what it bought must not be lost to a moment's trouble of the Site's API server.
    let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    while let Err(error) = store.store_identity(&identity).await {
        let wait = backoff.next(&());
        tracing::error!(%error, ?wait, "joined, and the identity cannot be stored yet");
        tokio::time::sleep(wait).await;
    }
    tracing::info!(site = identity.site, "joined the hub");
    Ok(identity)
}

/// A new certificate for a key that has joined, when the old one has ended. The hub is who the stored CAs say.
async fn ask_again(hub: &HubAddress, known: &Identity) -> Result<Identity, ObtainError> {
    let request = JoinRequest {
        csr_der: request(&known.key_pem)?,
        agent_version: env!("CARGO_PKG_VERSION").into(),
        ..JoinRequest::default()
    };
    let fresh = send(tls::connect_to_known(hub, &known.ca_pem).await?, request, known.key_pem.clone()).await?;
    tracing::info!(site = fresh.site, "the certificate had ended; the hub gave a new one");
    Ok(fresh)
}

async fn send(channel: Channel, request: JoinRequest, key_pem: String) -> Result<Identity, ObtainError> {
    let mut call = tonic::Request::new(request);
    call.set_timeout(CALL);
    let joined = GatewayClient::new(channel).join(call).await?.into_inner();
    let identity =
        Identity { site: joined.site, key_pem, certificate_pem: joined.certificate_pem, ca_pem: joined.ca_pem };
    identity.validity()?;
    Ok(identity)
}

/// Renews the certificate at half its life, or asks for a new one when it has ended, until `shutdown`.
pub async fn keep_fresh(
    store: IdentityStore,
    hub: HubAddress,
    identity: watch::Sender<Arc<Identity>>,
    shutdown: CancellationToken,
) {
    let backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(5));
    loop {
        let present = identity.borrow().clone();
        let wait = match present.renew_in(wall_clock()) {
            Duration::ZERO => match renew(&store, &hub, &present).await {
                Ok(fresh) => {
                    backoff.reset(&());
                    tracing::info!(site = fresh.site, "certificate renewed");
                    identity.send_replace(Arc::new(fresh));
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificate could not be renewed yet");
                    backoff.next(&())
                }
            },
            wait => wait.min(LONGEST_SLEEP),
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(store: &IdentityStore, hub: &HubAddress, present: &Identity) -> Result<Identity, ObtainError> {
    if present.is_expired(wall_clock()) {
        let fresh = ask_again(hub, present).await?;
        store.store_identity(&fresh).await?;
        return Ok(fresh);
    }
    let channel = tls::connect_as(hub, present).await?;
    let mut call = tonic::Request::new(RenewRequest { csr_der: request(&present.key_pem)? });
    call.set_timeout(CALL);
    let renewed = GatewayClient::new(channel).renew(call).await?.into_inner();
    let fresh = Identity { certificate_pem: renewed.certificate_pem, ca_pem: renewed.ca_pem, ..present.clone() };
    if fresh.validity()? == present.validity()? {
        return Err(ObtainError::Refused("the renewed certificate lasts no longer than the present one".into()));
    }
    store.store_identity(&fresh).await?;
    Ok(fresh)
}
