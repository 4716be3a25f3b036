//! Whether a Site is live or lost, from its own object and the Lease of the gateway that holds its session.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::Site;
use atoll_convert::site_state;
use atoll_core::cluster::{Millis, SiteState};
use k8s_openapi::api::coordination::v1::Lease;

/// What is gone for so long is forgotten: every fence, 2 hours at most, has expired long ago, and what is not known to
/// have gone later counts as gone since the beginning.
const REMEMBERED: Millis = 24 * 3_600 * 1_000;

/// A gateway's Lease as this process saw it.
#[derive(Clone, Debug)]
struct Seen {
    /// When its holder last renewed it, by the holder's clock.
    renewed: Millis,
    /// For how long.
    duration: Duration,
    /// When this process saw that, by its own boot-time clock.
    at: Duration,
    /// Nobody holds it any more.
    released: bool,
}

/// All Sites and the gateways' Leases.
#[derive(Debug, Default)]
pub struct Sites {
    objects: HashMap<String, Arc<Site>>,
    leases: HashMap<String, Seen>,
    /// When Sites and Leases were seen to be gone. Those that were gone before count from `since`.
    gone: HashMap<String, Millis>,
    since: Millis,
}

impl Sites {
    /// Whatever is missing and was not seen to go counts as gone from `now` on.
    pub fn begin(&mut self, now: Millis) {
        self.since = now;
    }

    /// Adds or replaces a Site.
    pub fn upsert(&mut self, name: String, site: Arc<Site>) {
        self.gone.remove(&name);
        self.objects.insert(name, site);
    }

    /// Removes a Site.
    pub fn remove(&mut self, name: &str, now: Millis) {
        if self.objects.remove(name).is_some() {
            self.note_gone(name.to_owned(), now);
        }
    }

    /// A Site.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Site>> {
        self.objects.get(name)
    }

    /// All Sites, in no order.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Arc<Site>)> {
        self.objects.iter()
    }

    /// A Lease was seen at `boot`; says whether it is a renewal.
    pub fn upsert_lease(&mut self, lease: &Lease, boot: Duration) {
        let (Some(name), Some(spec)) = (lease.metadata.name.clone(), lease.spec.as_ref()) else { return };
        let renewed = spec.renew_time.as_ref().map_or(0, |time| time.0.as_millisecond());
        let released = spec.holder_identity.as_deref().unwrap_or_default().is_empty();
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        let known = self.leases.get(&name).filter(|seen| seen.renewed == renewed && seen.released == released);
        let at = known.map_or(boot, |seen| seen.at);
        self.gone.remove(&lease_key(&name));
        self.leases.insert(name, Seen { renewed, duration: Duration::from_secs(seconds), at, released });
    }

    /// A Lease is gone.
    pub fn remove_lease(&mut self, name: &str, now: Millis) {
        if self.leases.remove(name).is_some() {
            self.note_gone(lease_key(name), now);
        }
    }

    fn note_gone(&mut self, key: String, now: Millis) {
        self.gone.retain(|_, since| now.saturating_sub(*since) < REMEMBERED);
        self.gone.insert(key, now);
    }

    /// Names of all Leases.
    pub fn leases(&self) -> impl Iterator<Item = &String> {
        self.leases.keys()
    }

    /// Whether a Site is live. A gateway that died cannot write that its sessions ended: its Lease says so, when it has
    /// expired by this process's own clock.
    #[must_use]
    pub fn state(&self, name: &str, boot: Duration) -> SiteState {
        let Some(site) = self.objects.get(name) else {
            return SiteState::Lost { since: self.gone.get(name).copied().unwrap_or(self.since) };
        };
        match site_state(Some(site)) {
            SiteState::Live => self.gateway(site, boot),
            lost @ SiteState::Lost { .. } => lost,
        }
    }

    fn gateway(&self, site: &Site, boot: Duration) -> SiteState {
        let Some(session) = site.status.as_ref().and_then(|status| status.session.as_ref()) else {
            return SiteState::Live;
        };
        let Some(seen) = self.leases.get(&session.gateway) else {
            let since = self.gone.get(&lease_key(&session.gateway)).copied().unwrap_or(self.since);
            return SiteState::Lost { since };
        };
        if seen.released {
            return SiteState::Lost { since: seen.renewed };
        }
        if boot.saturating_sub(seen.at) > seen.duration {
            let span = Millis::try_from(seen.duration.as_millis()).unwrap_or(Millis::MAX);
            return SiteState::Lost { since: seen.renewed.saturating_add(span) };
        }
        SiteState::Live
    }

    /// When, by the boot-time clock, the next Lease expires unless it is renewed.
    #[must_use]
    pub fn next_expiry(&self, boot: Duration) -> Option<Duration> {
        let ends = self.leases.values().filter(|seen| !seen.released).map(|seen| seen.at + seen.duration);
        ends.filter(|end| *end >= boot).min()
    }
}

/// Sites and Leases share one map of what is gone; no name of a Site has a slash.
fn lease_key(name: &str) -> String {
    format!("lease/{name}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn site(connected: &str, session: &serde_json::Value) -> Arc<Site> {
        let object = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": {"name": "a"},
            "spec": {"supplier": "acme", "region": "eu-west"},
            "status": {"session": session, "conditions": [{"type": "Connected", "status": connected, "reason": "R",
                       "message": "", "lastTransitionTime": "1970-01-01T00:00:05Z"}]},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn lease(holder: &str, renewed: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "gw-1"},
            "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 300},
        }))
        .unwrap()
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_site_is_lost_when_it_says_so_from_its_last_grant_on() {
        let mut sites = Sites::default();
        let session = json!({"number": 1, "gateway": "gw-1", "lastGrant": "1970-01-01T00:00:03Z"});
        sites.upsert("a".to_owned(), site("False", &session));
        assert_eq!(sites.state("a", secs(0)), SiteState::Lost { since: 3_000 });
    }

    #[test]
    fn a_dead_gateway_loses_its_sites_when_its_lease_has_expired_as_this_process_saw_it() {
        let mut sites = Sites::default();
        sites.begin(77);
        sites.upsert("a".to_owned(), site("True", &json!({"number": 1, "gateway": "gw-1"})));
        assert_eq!(sites.state("a", secs(0)), SiteState::Lost { since: 77 }, "no such gateway");
        sites.upsert_lease(&lease("gw", "1970-01-01T00:00:10.000000Z"), secs(1_000));
        assert_eq!(sites.state("a", secs(1_300)), SiteState::Live);
        assert_eq!(sites.next_expiry(secs(1_000)), Some(secs(1_300)));
        assert_eq!(sites.state("a", secs(1_301)), SiteState::Lost { since: 310_000 });
        // The same renewal seen again counts from when it was seen first.
        sites.upsert_lease(&lease("gw", "1970-01-01T00:00:10.000000Z"), secs(1_290));
        assert_eq!(sites.state("a", secs(1_301)), SiteState::Lost { since: 310_000 });
        sites.upsert_lease(&lease("gw", "1970-01-01T00:04:10.000000Z"), secs(1_295));
        assert_eq!(sites.state("a", secs(1_301)), SiteState::Live);
        sites.upsert_lease(&lease("", "1970-01-01T00:04:20.000000Z"), secs(1_296));
        assert_eq!(sites.state("a", secs(1_301)), SiteState::Lost { since: 260_000 });
        sites.remove_lease("gw-1", 99);
        assert_eq!(sites.state("a", secs(1_301)), SiteState::Lost { since: 99 });
    }

    #[test]
    fn a_deleted_site_is_lost_from_when_it_was_seen_to_go() {
        let mut sites = Sites::default();
        sites.begin(5);
        assert_eq!(sites.state("a", secs(0)), SiteState::Lost { since: 5 });
        sites.upsert("a".to_owned(), site("True", &json!(null)));
        assert_eq!(sites.state("a", secs(0)), SiteState::Live);
        sites.remove("a", 9);
        assert_eq!(sites.state("a", secs(0)), SiteState::Lost { since: 9 });
    }

    #[test]
    fn what_is_gone_for_long_is_forgotten_and_stays_lost() {
        let mut sites = Sites::default();
        sites.begin(5);
        for n in 0..100 {
            sites.upsert(format!("site-{n}"), site("True", &json!(null)));
            sites.remove(&format!("site-{n}"), 9 + n * REMEMBERED);
        }
        assert_eq!(sites.gone.len(), 1);
        assert_eq!(sites.state("site-0", secs(0)), SiteState::Lost { since: 5 });
    }
}
