//! Sites whose session nobody keeps any more: their gateway is gone and they came to no other.
//!
//! A gateway counts as gone when its Lease is absent, was released, or has not changed for its whole duration as this
//! process saw it, by this process's clock; clocks are not compared. Every gateway watches this, and the checked write
//! lets one of them say it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::time::Duration;

use atoll_api::Site;
use atoll_api::conditions::{self, site_reason};
use atoll_core::session::SeenLease;
use atoll_runtime::backoff::Backoff;
use atoll_runtime::clock::boot_time;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Preconditions};
use tokio_util::sync::CancellationToken;

use super::shared::Gateway;
use super::sites::Loss;

/// Looks again at least so often while anything is waited for: sleeping does not count suspended time, boot time does.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Looks again at most so often: a look goes over all Sites, and a change of any of them asks for one.
const SHORTEST_SLEEP: Duration = Duration::from_millis(250);
/// Looks again so soon after Sites were called lost, in case the cache has not seen that yet; later when that failed.
const AFTER_LOSS: Duration = Duration::from_secs(1);
/// Sites called lost at once.
const IN_FLIGHT: usize = 16;
/// The Lease of a gateway that no Site names is deleted so long after its end.
const KEEP_LEASES: Duration = Duration::from_hours(1);

/// The session of a Site that is called connected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Session {
    site: String,
    gateway: String,
    number: i64,
}

impl Session {
    fn of(site: &Site) -> Option<Self> {
        let status = site.status.as_ref()?;
        let session = status.session.as_ref().filter(|session| session.last_grant.is_none())?;
        conditions::is_true(&status.conditions, conditions::site::CONNECTED).then(|| Self {
            site: site.name_any(),
            gateway: session.gateway.clone(),
            number: session.number,
        })
    }
}

/// What this process has seen, on its boot-time clock.
#[derive(Debug, Default)]
struct Observed {
    leases: HashMap<String, SeenLease>,
    /// Sessions of our own that we do not keep, and since when: noted, and failed before they began.
    unkept: HashMap<Session, Duration>,
}

impl Observed {
    /// Takes in the present Leases, the sessions that Sites name but are not kept here, and this gateway's own name.
    fn update<'a>(&mut self, leases: impl Iterator<Item = &'a Lease>, sessions: &[Session], own: &str, now: Duration) {
        let present: HashMap<String, &Lease> = leases.map(|lease| (lease.name_any(), lease)).collect();
        let named = sessions.iter().map(|session| session.gateway.clone());
        let wanted: HashSet<String> = present.keys().cloned().chain(named).collect();
        self.leases.retain(|name, _| wanted.contains(name));
        for name in wanted {
            let lease = present.get(&name);
            let version = lease.and_then(|lease| lease.resource_version());
            let lasts = lease.map_or(Duration::ZERO, |lease| lasting(lease));
            match self.leases.entry(name) {
                Entry::Occupied(mut seen) => seen.get_mut().see(version, lasts, now),
                Entry::Vacant(new) => drop(new.insert(SeenLease::new(version, lasts, now))),
            }
        }
        let present: HashSet<&Session> = sessions.iter().collect();
        self.unkept.retain(|session, _| present.contains(session));
        for session in sessions.iter().filter(|session| session.gateway == own) {
            self.unkept.entry(session.clone()).or_insert(now);
        }
    }

    /// When grants in this session ended or will end, if nothing changes.
    fn end(&self, session: &Session) -> Option<Duration> {
        self.unkept.get(session).copied().or_else(|| self.lease_end(&session.gateway))
    }

    /// The Lease that shows that a session is lost; None: it is one of our own.
    fn evidence(&self, session: &Session) -> Option<SeenLease> {
        self.leases.get(&session.gateway).filter(|_| !self.unkept.contains_key(session)).cloned()
    }

    fn lease_end(&self, gateway: &str) -> Option<Duration> {
        self.leases.get(gateway).map(SeenLease::end)
    }
}

fn lasting(lease: &Lease) -> Duration {
    let Some(spec) = &lease.spec else { return Duration::ZERO };
    if spec.holder_identity.as_deref().unwrap_or_default().is_empty() {
        return Duration::ZERO;
    }
    Duration::from_secs(spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0))
}

/// The sessions that are lost at `now`, each with how long ago its grants ended; and when there may be more.
fn lost<'a>(
    sessions: &'a [Session],
    observed: &Observed,
    patience: Duration,
    now: Duration,
) -> (Vec<(&'a Session, Duration)>, Option<Duration>) {
    let (mut lost, mut next) = (Vec::new(), None::<Duration>);
    for session in sessions {
        let Some(end) = observed.end(session) else { continue };
        let wait = (end + patience).saturating_sub(now);
        if wait.is_zero() {
            lost.push((session, now.saturating_sub(end)));
        } else {
            next = Some(next.map_or(wait, |next| next.min(wait)));
        }
    }
    (lost, next)
}

/// Watches for Sites whose gateway is gone, until `shutdown`.
pub async fn watch(gateway: &Gateway, leases: &Api<Lease>, shutdown: CancellationToken) {
    let (mut sites_changed, mut leases_changed) = (gateway.caches.sites.subscribe(), gateway.caches.leases.subscribe());
    let mut observed = Observed::default();
    let backoff = Backoff::new(AFTER_LOSS, LONGEST_SLEEP);
    loop {
        let present = gateway.caches.leases.all();
        let sessions: Vec<Session> = gateway
            .caches
            .sites
            .all()
            .iter()
            .filter(|site| !gateway.registry.keeps(&site.name_any()))
            .filter_map(|site| Session::of(site))
            .collect();
        let now = boot_time();
        observed.update(present.iter().map(AsRef::as_ref), &sessions, &gateway.name, now);
        let (gone, next) = lost(&sessions, &observed, gateway.settings.rhythm.patience, now);
        let mut sleep = next.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
        if !gone.is_empty() {
            let losses: Vec<_> =
                gone.into_iter().map(|(session, before)| (observed.evidence(session), loss(session, before))).collect();
            let all = tokio::select! {
                () = shutdown.cancelled() => return,
                all = call_lost(gateway, leases, losses) => all,
            };
            sleep = if all { AFTER_LOSS } else { AFTER_LOSS.max(backoff.next(&())) };
            if all {
                backoff.reset(&());
            }
        }
        let named: HashSet<&str> = sessions.iter().map(|session| session.gateway.as_str()).collect();
        for lease in &present {
            let name = lease.name_any();
            let needed = name == gateway.name || named.contains(name.as_str());
            if !needed && observed.lease_end(&name).is_some_and(|end| now > end + KEEP_LEASES) {
                delete(leases, lease).await;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SHORTEST_SLEEP) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(sleep.saturating_sub(SHORTEST_SLEEP)) => {}
            changed = sites_changed.changed() => if changed.is_err() { return },
            changed = leases_changed.changed() => if changed.is_err() { return },
        }
    }
}

/// One attempt for each Site; whether all of them succeeded. A watch that stands still shows no renewals either, so a
/// Lease is read before anybody is called lost for it.
async fn call_lost(gateway: &Gateway, leases: &Api<Lease>, losses: Vec<(Option<SeenLease>, (String, Loss))>) -> bool {
    let attempts = losses.into_iter().map(|(evidence, (site, loss))| async move {
        if let Some(seen) = evidence {
            match leases.get_opt(&loss.gateway).await {
                Ok(lease) if lease.as_ref().and_then(ResourceExt::resource_version).as_deref() == seen.version() => {}
                Ok(_) => return false,
                Err(error) => {
                    tracing::warn!(site, %error, "cannot read the Lease of a gateway that seems to be gone; trying again");
                    return false;
                }
            }
        }
        let done = gateway.sites.lose_once(&site, &loss).await;
        if let Err(error) = &done {
            tracing::warn!(site, %error, "cannot note that the Site is absent; trying again");
        }
        done.is_ok()
    });
    stream::iter(attempts).buffer_unordered(IN_FLIGHT).fold(true, |all, one| ready(all && one)).await
}

/// What is written of a session whose grants ended so long ago.
fn loss(session: &Session, ended_before: Duration) -> (String, Loss) {
    let loss = Loss {
        gateway: session.gateway.clone(),
        number: session.number,
        last_grant: boot_time().saturating_sub(ended_before),
        reason: site_reason::GATEWAY_LOST,
    };
    (session.site.clone(), loss)
}

async fn delete(api: &Api<Lease>, lease: &Lease) {
    let conditions = Preconditions { uid: lease.uid(), resource_version: lease.resource_version() };
    let name = lease.name_any();
    match api.delete(&name, &DeleteParams::default().preconditions(conditions)).await {
        Ok(_) => tracing::info!(lease = name, "deleted the Lease of a gateway that is long gone"),
        Err(error) => tracing::debug!(%error, lease = name, "cannot delete the Lease of a gateway that is long gone"),
    }
}

#[cfg(test)]
mod tests {
    use atoll_api::{SiteSession, SiteStatus};
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use kube::api::ObjectMeta;

    use jiff::Timestamp;

    use super::super::fixtures;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(name: &str, version: u64, holder: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                resource_version: Some(version.to_string()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(300),
                ..LeaseSpec::default()
            }),
        }
    }

    fn session(gateway: &str) -> Session {
        Session { site: "site-a".to_owned(), gateway: gateway.to_owned(), number: 1 }
    }

    fn verdict(observed: &Observed, gateway: &str, now: u64) -> Result<Duration, Option<Duration>> {
        let sessions = [session(gateway)];
        let (lost, next) = lost(&sessions, observed, PATIENCE, s(now));
        lost.first().map(|(_, ended_before)| *ended_before).ok_or(next)
    }

    #[test]
    fn a_gateways_lease_lasts_from_when_it_was_seen_to_change() {
        let mut observed = Observed::default();
        let sessions = [session("old")];
        observed.update([lease("old", 1, "old")].iter(), &sessions, "new", s(1_000));
        assert_eq!(verdict(&observed, "old", 1_100), Err(Some(s(230))));
        observed.update([lease("old", 1, "old")].iter(), &sessions, "new", s(1_100));
        assert_eq!(verdict(&observed, "old", 1_330), Ok(s(30)), "seeing it again does not prolong it");
        observed.update([lease("old", 2, "old")].iter(), &sessions, "new", s(1_200));
        assert_eq!(verdict(&observed, "old", 1_330), Err(Some(s(200))), "a renewal does");
    }

    #[test]
    fn a_released_or_absent_lease_is_over_when_it_is_first_seen_so() {
        for leases in [vec![], vec![lease("old", 9, "")]] {
            let mut observed = Observed::default();
            observed.update(leases.iter(), &[session("old")], "new", s(1_000));
            observed.update(leases.iter(), &[session("old")], "new", s(1_020));
            assert_eq!(verdict(&observed, "old", 1_029), Err(Some(s(1))));
            assert_eq!(verdict(&observed, "old", 1_030), Ok(s(30)));
        }
    }

    #[test]
    fn a_session_of_our_own_that_never_began_is_lost_although_our_lease_lives() {
        let mut observed = Observed::default();
        for now in [1_000, 1_020] {
            observed.update([lease("me", now, "me")].iter(), &[session("me")], "me", s(now));
        }
        assert_eq!(verdict(&observed, "me", 1_020), Err(Some(s(10))));
        assert_eq!(verdict(&observed, "me", 1_030), Ok(s(30)));
    }

    #[test]
    fn only_sites_that_are_called_connected_are_looked_at() {
        let now = Timestamp::UNIX_EPOCH;
        let mut site = fixtures::site("site-a");
        assert_eq!(Session::of(&site), None);
        let mut status = SiteStatus {
            session: Some(SiteSession { number: 1, gateway: "old".to_owned(), ..SiteSession::default() }),
            ..SiteStatus::default()
        };
        conditions::set_condition(&mut status.conditions, conditions::site::CONNECTED, true, "R", "", None, now);
        site.status = Some(status.clone());
        assert_eq!(Session::of(&site), Some(session("old")));
        conditions::set_condition(&mut status.conditions, conditions::site::CONNECTED, false, "R", "", None, now);
        site.status = Some(status);
        assert_eq!(Session::of(&site), None);
    }
}
