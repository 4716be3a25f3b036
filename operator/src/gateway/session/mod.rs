//! The session of a Site: from its hello until it is noted as absent, superseded, or the gateway ends.
//!
//! A session has two parts. While its stream lives it grants leases and carries slices, reports and inventory. After
//! that it waits, silent, for as long as the Site may be silent, and notes the Site as absent if no newer session came.

mod ended;
mod stream;
mod sync;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::conditions::site_reason;
use atoll_api::{Availability, ClusterSlice, Site};
use atoll_runtime::clock::boot_time;
use atoll_wire::limits::{HELLO_SECONDS, MAX_SLICES, MAX_WORD_BYTES};
use atoll_wire::v1::{self, agent_message::Message as FromAgent, goodbye::Reason, hub_message::Message as ToAgent};
use futures::{Stream, StreamExt as _};
use kube::api::ListParams;
use tokio::sync::watch;
use tonic::Status;

use self::ended::{Ended, Outbox, SLOW_READER};
use self::stream::Live;
use super::pulse::Pulse;
use super::registry::{End, Mailbox};
use super::shared::Gateway;
use super::sites::{ClaimError, Claimant, Loss};

/// How long a new session waits for the one before it to fall silent.
const SUPERSEDE: Duration = Duration::from_secs(5);
/// How long the cache may take to be as new as the API server.
const CATCH_UP: Duration = Duration::from_secs(10);
/// The list that the cache is compared with is asked for anew so often.
const LIST_AGAIN: Duration = Duration::from_secs(1);

/// A session could not be begun.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error("no hello within {HELLO_SECONDS} seconds")]
    NoHello,
    #[error("the first message of a session is a hello")]
    NotHello,
    #[error("{0}")]
    BadHello(&'static str),
    #[error("{0}")]
    NotNow(&'static str),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("a newer session of this Site has begun")]
    Superseded,
}

impl BeginError {
    /// What the agent is told: a goodbye where it tells what to do, else a status.
    fn answer(&self) -> Result<v1::HubMessage, Status> {
        let reason = match self {
            Self::NoHello | Self::NotHello | Self::BadHello(_) => Reason::Protocol,
            Self::Claim(ClaimError::Suspended) => Reason::Suspended,
            Self::Superseded => Reason::Superseded,
            Self::Claim(ClaimError::Unknown) => return Err(Status::permission_denied(self.to_string())),
            Self::Claim(_) | Self::NotNow(_) => return Err(Status::unavailable(self.to_string())),
        };
        let goodbye = v1::Goodbye { reason: reason.into(), message: self.to_string() };
        Ok(v1::HubMessage { message: Some(ToAgent::Goodbye(goodbye)) })
    }
}

/// What a session has when it begins.
struct Begun {
    site: Site,
    number: i64,
    hello: v1::Hello,
    pulse: Pulse,
    /// Tells of lapses of the gateway's Lease since before the session was noted.
    lapses: watch::Receiver<u64>,
}

/// Serves the session of `name` until it is over.
pub async fn run(
    gateway: Arc<Gateway>,
    name: String,
    mut inbound: impl Stream<Item = Result<v1::AgentMessage, Status>> + Send + Unpin,
    outbox: Outbox,
) {
    let hello = match hello(&mut inbound).await {
        Ok(hello) => hello,
        Err(error) => return refuse(&gateway, &name, &outbox, &error).await,
    };
    gateway.metrics.received("hello");
    let (mailbox, older) = gateway.registry.begin(&name);
    let begun = match begin(&gateway, &name, hello, &mailbox, older).await {
        Ok(begun) => begun,
        Err(error) => {
            mailbox.quiet.cancel();
            gateway.registry.forget(&name, &mailbox);
            return refuse(&gateway, &name, &outbox, &error).await;
        }
    };
    let Begun { site, number, hello, pulse, lapses } = begun;
    tracing::info!(site = name, session = number, agent = hello.agent_version, "session begins");
    let guard = gateway.metrics.session();
    let mut live = Live::new(&gateway, &mailbox, site, pulse, outbox);
    let welcomed = live.welcome(&hello).await;
    // It may name ten thousand slices, and is not needed any more.
    drop(hello);
    let ended = match welcomed {
        Ok(()) => live.serve(lapses, &mut inbound).await,
        Err(ended) => ended,
    };
    let pulse = live.close(&ended);
    mailbox.quiet.cancel();
    drop(guard);
    drop(inbound);
    tracing::info!(site = name, session = number, ?ended, "session ends");
    after(&gateway, &name, number, &mailbox, pulse, &ended).await;
    gateway.registry.forget(&name, &mailbox);
}

async fn refuse(gateway: &Gateway, name: &str, outbox: &Outbox, error: &BeginError) {
    tracing::info!(site = name, %error, "session refused");
    gateway.metrics.sent("refusal");
    // An agent that has gone needs no answer.
    drop(tokio::time::timeout(SLOW_READER, outbox.send(error.answer())).await);
}

async fn hello(
    inbound: &mut (impl Stream<Item = Result<v1::AgentMessage, Status>> + Unpin),
) -> Result<v1::Hello, BeginError> {
    let first = tokio::time::timeout(Duration::from_secs(HELLO_SECONDS), inbound.next());
    match first.await.map_err(|_| BeginError::NoHello)? {
        Some(Ok(v1::AgentMessage { message: Some(FromAgent::Hello(hello)) })) => checked(hello),
        _ => Err(BeginError::NotHello),
    }
}

fn checked(hello: v1::Hello) -> Result<v1::Hello, BeginError> {
    if hello.slices.len() > MAX_SLICES {
        return Err(BeginError::BadHello("the hello lists more slices than a Site can have"));
    }
    if hello.boot_id.len() > MAX_WORD_BYTES || hello.agent_version.len() > MAX_WORD_BYTES {
        return Err(BeginError::BadHello("the hello's boot id or version is too long"));
    }
    Ok(hello)
}

/// Ends the older session here, notes this one, and makes sure that the cached slices are not older than that.
async fn begin(
    gateway: &Gateway,
    name: &str,
    hello: v1::Hello,
    mailbox: &Mailbox,
    older: Option<Arc<Mailbox>>,
) -> Result<Begun, BeginError> {
    if let Some(older) = older
        && tokio::time::timeout(SUPERSEDE, older.quiet.cancelled()).await.is_err()
    {
        return Err(BeginError::NotNow("the older session of this Site does not end; try again"));
    }
    let lapses = gateway.lease.lapses();
    if !gateway.lease.held(boot_time()) {
        return Err(BeginError::NotNow("this gateway may not grant leases now; try another"));
    }
    let claimant = Claimant {
        gateway: gateway.name.clone(),
        boot_id: hello.boot_id.clone(),
        agent_version: hello.agent_version.clone(),
        availability: availability(hello.availability()),
    };
    let site = tokio::select! {
        _ = mailbox.ended() => return Err(BeginError::Superseded),
        site = gateway.sites.claim(name, &claimant) => site?,
    };
    let number = site.status.as_ref().and_then(|status| status.session.as_ref()).map_or(0, |session| session.number);
    mailbox.numbered(number);
    // What was seen of the Site before the number was known.
    gateway.registry.site_changed(name, gateway.caches.sites.get(name).as_deref().or(Some(&site)));
    let rhythm = gateway.rhythm(name);
    let pulse = Pulse::begin(boot_time(), rhythm);
    let caught_up = tokio::select! {
        _ = mailbox.ended() => return Err(BeginError::Superseded),
        caught_up = tokio::time::timeout(CATCH_UP, catch_up(gateway, name)) => caught_up,
    };
    match caught_up {
        Ok(Ok(())) => Ok(Begun { site, number, hello, pulse, lapses }),
        Ok(Err(error)) => Err(ClaimError::Api(error).into()),
        Err(_) => Err(BeginError::NotNow("this gateway lags behind the hub's API; try another")),
    }
}

/// Waits until the cached slices of a Site are as new as the API server's, so that an agent is not told to stop what
/// was just placed there, nor to start what was fenced meanwhile.
async fn catch_up(gateway: &Gateway, site: &str) -> Result<(), kube::Error> {
    let mut changes = gateway.caches.slices.subscribe();
    let params = ListParams::default().fields(&format!("spec.site={site}"));
    loop {
        let list = gateway.slices.list_metadata(&params).await?;
        let version = list.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0);
        let behind = || {
            let cached: Vec<Arc<ClusterSlice>> = gateway.caches.slices.group(site);
            let listed = list.items.iter().map(|item| &item.metadata);
            sync::is_behind(cached.iter().map(AsRef::as_ref), listed, version)
        };
        let wait = async {
            while behind() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(LIST_AGAIN, wait).await.is_ok() {
            return Ok(());
        }
        tracing::debug!(site, "the cache of slices lags behind");
    }
}

/// What follows when the stream is gone.
async fn after(gateway: &Gateway, site: &str, number: i64, mailbox: &Mailbox, pulse: Pulse, ended: &Ended) {
    let reason = match ended {
        // Another session is the Site's by now, or other gateways find it orphaned.
        Ended::Told(End::Superseded | End::Unknown | End::CalledLost) | Ended::Shutdown(_) => return,
        Ended::Told(End::Suspended) => site_reason::SUSPENDED,
        Ended::Silent => site_reason::HEARTBEATS_MISSED,
        Ended::Closed | Ended::Protocol(_) => match linger(gateway, mailbox, pulse).await {
            Some(reason) => reason,
            None => return,
        },
    };
    let loss = Loss { gateway: gateway.name.clone(), number, last_grant: pulse.last_grant(), reason };
    // A suspension has ended the mailbox already, so it cannot tell of a newer session; the checked write does.
    let until = if matches!(ended, Ended::Told(_)) { &gateway.shutdown } else { mailbox.end_token() };
    tokio::select! {
        () = gateway.shutdown.cancelled() => {}
        () = gateway.sites.lose(site, &loss, until) => {}
    }
}

/// Waits for as long as the Site may be silent; None when somebody else cares for it meanwhile.
async fn linger(gateway: &Gateway, mailbox: &Mailbox, pulse: Pulse) -> Option<&'static str> {
    let mut lapses = gateway.lease.lapses();
    while let Some(left) = pulse.left(boot_time()) {
        tokio::select! {
            () = gateway.shutdown.cancelled() => return None,
            _ = lapses.changed() => return None,
            end = mailbox.ended() => return (end == End::Suspended).then_some(site_reason::SUSPENDED),
            () = tokio::time::sleep(left) => {}
        }
    }
    Some(site_reason::HEARTBEATS_MISSED)
}

/// What a supplier wants, in the words of the API. An agent that says nothing accepts.
fn availability(said: v1::Availability) -> Availability {
    match said {
        v1::Availability::Unspecified | v1::Availability::Accepting => Availability::Accepting,
        v1::Availability::Paused => Availability::Paused,
        v1::Availability::Draining => Availability::Draining,
    }
}

/// Adds what is fenced at a Site, by UID of the Cluster. What was fenced once in a session stays so: the cache of slices may
/// lag behind that of Sites, where a fence goes when its slices have.
fn learn_fences(fenced: &mut HashMap<String, i64>, site: &Site) {
    for entry in site.status.iter().flat_map(|status| &status.fenced) {
        let known = fenced.entry(entry.cluster_uid.clone()).or_insert(entry.epoch);
        *known = entry.epoch.max(*known);
    }
}

#[cfg(test)]
mod tests {
    use atoll_api::{FencedCluster, SiteStatus};

    use super::super::fixtures;
    use super::*;

    #[test]
    fn what_was_fenced_once_in_a_session_stays_fenced() {
        let with = |entries: &[(&str, i64)]| {
            let fenced =
                entries.iter().map(|(uid, epoch)| FencedCluster { cluster_uid: (*uid).to_owned(), epoch: *epoch });
            Site {
                status: Some(SiteStatus { fenced: fenced.collect(), ..SiteStatus::default() }),
                ..fixtures::site("site-a")
            }
        };
        let mut fenced = HashMap::new();
        for entries in [vec![("a", 3)], vec![], vec![("a", 2), ("b", 1)]] {
            learn_fences(&mut fenced, &with(&entries));
        }
        assert_eq!(fenced, HashMap::from([("a".to_owned(), 3), ("b".to_owned(), 1)]));
    }
}
