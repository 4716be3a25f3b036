//! Sites whose session nobody keeps any more: their gateway is gone and they came to no other.
//!
//! A gateway counts as gone when its Lease is absent, was released, or has not changed for its whole duration as this
//! process saw it, by this process's clock; clocks are not compared. Every gateway watches this, and the checked write
//! lets one of them say it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use atoll_api::Site;
use atoll_api::conditions::{self, site_reason};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Preconditions};
use tokio_util::sync::CancellationToken;

use super::Gateway;
use super::sites::Loss;
use atoll_runtime::clock::boot_time;

/// Looks again at least so often while anything is waited for: sleeping does not count suspended time, boot time does.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// A Lease that nobody refers to is deleted so long after its end.
const KEEP_LEASES: Duration = Duration::from_hours(1);

/// What this process has seen of gateways' Leases, on its boot-time clock.
#[derive(Debug, Default)]
struct Observed {
    gateways: HashMap<String, Seen>,
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    version: Option<String>,
    since: Duration,
    /// How long it lasts from `since`; zero: it is over.
    lasts: Duration,
}

/// A Site to be called lost.
#[derive(Debug, PartialEq, Eq)]
struct Orphan {
    site: String,
    gateway: String,
    number: i64,
    /// How long ago its gateway's Lease ended.
    ended_before: Duration,
}

impl Observed {
    /// Takes in the present Leases, and which gateways Sites name.
    fn update<'a>(&mut self, leases: &[impl AsRef<Lease>], named: impl Iterator<Item = &'a str>, now: Duration) {
        let present: HashMap<String, &Lease> =
            leases.iter().map(|lease| (lease.as_ref().name_any(), lease.as_ref())).collect();
        let wanted: HashSet<String> = present.keys().cloned().chain(named.map(str::to_owned)).collect();
        self.gateways.retain(|name, _| wanted.contains(name));
        for name in wanted {
            let lease = present.get(&name);
            let version = lease.and_then(|lease| lease.resource_version());
            let lasts = lease.map_or(Duration::ZERO, |lease| lasting(lease));
            let known = self.gateways.get(&name);
            if known.is_none_or(|seen| seen.version != version) {
                self.gateways.insert(name, Seen { version, since: now, lasts });
            }
        }
    }

    /// When the Lease of this gateway ended or will end, if nothing changes.
    fn end(&self, gateway: &str) -> Option<Duration> {
        self.gateways.get(gateway).map(|seen| seen.since + seen.lasts)
    }
}

fn lasting(lease: &Lease) -> Duration {
    let spec = lease.spec.clone().unwrap_or_default();
    if spec.holder_identity.unwrap_or_default().is_empty() {
        return Duration::ZERO;
    }
    Duration::from_secs(spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0))
}

/// The Sites that are lost at `now`, and how long nothing else will be. Sites in `kept` are this gateway's own.
fn orphans<'a>(
    sites: impl Iterator<Item = &'a Site>,
    kept: impl Fn(&str) -> bool,
    observed: &Observed,
    patience: Duration,
    now: Duration,
) -> (Vec<Orphan>, Option<Duration>) {
    let (mut lost, mut next) = (Vec::new(), None);
    for site in sites {
        let name = site.name_any();
        let Some((gateway, number)) = session(site) else { continue };
        if kept(&name) {
            continue;
        }
        let Some(end) = observed.end(gateway) else { continue };
        match (end + patience).checked_sub(now) {
            Some(wait) if !wait.is_zero() => next = Some(next.map_or(wait, |next: Duration| next.min(wait))),
            _ => lost.push(Orphan {
                site: name,
                gateway: gateway.to_owned(),
                number,
                ended_before: now.saturating_sub(end),
            }),
        }
    }
    (lost, next)
}

/// The session of a Site that is called connected.
fn session(site: &Site) -> Option<(&str, i64)> {
    let status = site.status.as_ref()?;
    let session = status.session.as_ref().filter(|session| session.last_grant.is_none())?;
    conditions::is_true(&status.conditions, conditions::site::CONNECTED)
        .then_some((session.gateway.as_str(), session.number))
}

/// Watches for Sites whose gateway is gone, until `shutdown`.
pub async fn watch(gateway: &Gateway, shutdown: CancellationToken) {
    let (mut sites, mut leases) = (gateway.caches.sites.subscribe(), gateway.caches.leases.subscribe());
    let mut observed = Observed::default();
    loop {
        let (all, present) = (gateway.caches.sites.all(), gateway.caches.leases.all());
        let now = boot_time();
        let named = all.iter().filter_map(|site| session(site)).map(|(gateway, _)| gateway);
        observed.update(&present, named, now);
        // A session of ours that we do not keep was claimed, and failed before it began.
        let kept = |site: &str| gateway.registry.contains(site);
        let patience = gateway.settings.suspect_after;
        let (lost, next) = orphans(all.iter().map(AsRef::as_ref), kept, &observed, patience, now);
        for orphan in &lost {
            if orphan.gateway == gateway.name && !observed_absent(&observed, &gateway.name) {
                continue;
            }
            let last_grant = Timestamp::now()
                .checked_sub(jiff::SignedDuration::try_from(orphan.ended_before).unwrap_or_default())
                .unwrap_or_else(|_| Timestamp::now());
            let loss = Loss {
                gateway: orphan.gateway.clone(),
                number: orphan.number,
                last_grant,
                reason: site_reason::GATEWAY_LOST,
            };
            gateway.sites.lose(&orphan.site, &loss, &shutdown).await;
        }
        delete_old(gateway, &observed, &all, &present, now).await;
        let sleep = if lost.is_empty() { next.unwrap_or(KEEP_LEASES).min(LONGEST_SLEEP) } else { Duration::ZERO };
        tokio::select! {
            () = shutdown.cancelled() => return,
            result = sites.changed() => if result.is_err() { return },
            result = leases.changed() => if result.is_err() { return },
            () = tokio::time::sleep(sleep.max(Duration::from_millis(100))) => {}
        }
    }
}
