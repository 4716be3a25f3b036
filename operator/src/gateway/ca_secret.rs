//! Where the hub's CA is kept: a Secret that the first gateway makes and all gateways follow.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::hub_ca::{self, CERTIFICATE, Data, KEY, Stage};
use atoll_api::names::{FIELD_MANAGER_GATEWAY, HUB_CA_SECRET};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_of};
use tokio::sync::watch;

use super::authority::{Authority, AuthorityError};
use super::pki::{HubCa, PkiError};

/// Longest sleep before the wall clock is looked at again: it runs on while the machine is suspended.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// The CA could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The API server said no.
    #[error("cannot read or write the Secret {HUB_CA_SECRET}: {0}")]
    Api(#[from] kube::Error),
    /// No CA could be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// What the Secret holds is not a CA.
    #[error("Secret {HUB_CA_SECRET}: {0}")]
    Stored(#[from] AuthorityError),
}

/// The hub's CA: the stored one, or a new one. Of several gateways that start at once, one stores its own and the
/// others take that.
pub async fn load_or_create(secrets: &Api<Secret>, now: Timestamp) -> Result<Authority, CaError> {
    if let Some(stored) = secrets.get_opt(HUB_CA_SECRET).await? {
        return Ok(at(stored, now)?.authority);
    }
    let (ca, key) = HubCa::generate(now)?;
    let params = PostParams { field_manager: Some(FIELD_MANAGER_GATEWAY.to_owned()), ..PostParams::default() };
    match secrets.create(&params, &secret(ca.certificate_pem(), &key)).await {
        Ok(made) => {
            tracing::info!(secret = HUB_CA_SECRET, "made the hub's CA");
            Ok(at(made, now)?.authority)
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            Ok(at(secrets.get(HUB_CA_SECRET).await?, now)?.authority)
        }
        Err(error) => Err(error.into()),
    }
}

/// Follows the Secret and its dates, for as long as it is polled. What the dates say holds at once; any one gateway
/// writes it down.
pub async fn follow(secrets: Api<Secret>, authority: watch::Sender<Arc<Authority>>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={HUB_CA_SECRET}"));
    let mut events = std::pin::pin!(watch_of(secrets.clone(), config).default_backoff());
    let mut seen: Option<Secret> = None;
    loop {
        let sleep = tokio::time::sleep(seen.as_ref().map_or(LONGEST_SLEEP, |secret| pause(secret, Timestamp::now())));
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Apply(secret) | Event::InitApply(secret))) => seen = Some(secret),
                Some(Ok(Event::Delete(_))) => {
                    tracing::error!(secret = HUB_CA_SECRET, "the hub's CA was deleted: put it back, or every Site joins anew");
                    seen = None;
                    continue;
                }
                Some(Ok(Event::Init | Event::InitDone)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(%error, "watch failed; trying again");
                    continue;
                }
                None => return,
            },
            () = sleep => {}
        }
        let Some(secret) = seen.clone() else { continue };
        match step(&secrets, secret, &authority, Timestamp::now()).await {
            Ok(()) => {}
            // The other one's write comes by the watch.
            Err(CaError::Api(kube::Error::Api(status))) if status.is_conflict() => {}
            Err(error) => tracing::error!(%error, "the hub's CA stays as it was"),
        }
    }
}

/// Takes over what the Secret says at `now`, and writes what it does not say yet.
async fn step(
    secrets: &Api<Secret>,
    secret: Secret,
    authority: &watch::Sender<Arc<Authority>>,
    now: Timestamp,
) -> Result<(), CaError> {
    let At { secret, mut changed, authority: present } = at(secret, now)?;
    let mut secret = secret;
    let data = secret.data.get_or_insert_default();
    match hub_ca::stage(data) {
        Stage::Wanted => {
            // Not taken over before it is stored: another gateway may store another one.
            present.stage_next(data, now)?;
            changed = true;
        }
        Stage::Damaged(key) => {
            tracing::error!(
                secret = HUB_CA_SECRET,
                key,
                "the rotation of the hub's CA stands still: its date cannot be read"
            );
        }
        Stage::Settled | Stage::Staged(_) | Stage::Following(_) => {}
    }
    authority.send_if_modified(|known| {
        let other = known.bundle_pem() != present.bundle_pem();
        if other {
            *known = Arc::new(present);
        }
        other
    });
    if changed {
        let stage = hub_ca::stage(data);
        let params = PostParams { field_manager: Some(FIELD_MANAGER_GATEWAY.to_owned()), ..PostParams::default() };
        secrets.replace(HUB_CA_SECRET, &params, &secret).await?;
        tracing::info!(?stage, "the hub's CA");
    }
    Ok(())
}

/// A Secret as it holds at one moment.
struct At {
    secret: Secret,
    changed: bool,
    authority: Authority,
}

fn at(mut secret: Secret, now: Timestamp) -> Result<At, AuthorityError> {
    let data = secret.data.get_or_insert_default();
    let changed = hub_ca::advance(data, now);
    let authority = Authority::of(data)?;
    Ok(At { secret, changed, authority })
}

/// How long until the next stage begins, or the Secret is written again.
fn pause(secret: &Secret, now: Timestamp) -> Duration {
    let until = secret.data.as_ref().and_then(|data| hub_ca::stage(data).until());
    let left = until.map_or(LONGEST_SLEEP, |until| until.duration_since(now).try_into().unwrap_or_default());
    // A write that failed a moment ago is not repeated at once.
    left.clamp(Duration::from_secs(1), LONGEST_SLEEP)
}

fn secret(certificate: &str, key: &str) -> Secret {
    let part = |name: &str, text: &str| (name.to_owned(), ByteString(text.as_bytes().to_vec()));
    Secret {
        metadata: ObjectMeta { name: Some(HUB_CA_SECRET.to_owned()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(Data::from([part(CERTIFICATE, certificate), part(KEY, key)])),
        ..Secret::default()
    }
}
