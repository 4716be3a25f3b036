//! Whether a Site is live or lost, and since when by this process's boot-time clock: from its own object, and from the
//! Lease of the gateway that holds its session.
//!
//! No clock of another machine is compared. What a gateway writes of a loss is how long before its last grant was; what is
//! seen for the first time counts from so long before that sight, which is never too early.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{Availability, FencedCluster, Site};
use atoll_convert::{fenced_epoch, is_connected, is_draining};
use atoll_core::cluster::{Millis, SiteState, SiteView};
use atoll_core::freeze::Loss;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

use super::state::Now;
use super::writer::version;

/// What is gone for so long is forgotten: every fence, 2 hours at most, has expired long ago, and what is not known to
/// have gone later counts as gone since the beginning.
const REMEMBERED: Duration = Duration::from_hours(24);

/// A gateway's Lease as this process saw it.
#[derive(Clone, Debug)]
struct Seen {
    /// Changes with each renewal; only compared with itself.
    renewed: Option<Timestamp>,
    duration: Duration,
    /// When this process saw that renewal first, by its own boot-time clock.
    at: Duration,
    /// Nobody holds it any more.
    released: bool,
}

/// A session that its Site's own object calls over.
#[derive(Clone, Debug)]
struct Ended {
    number: i64,
    /// When its last lease was granted, or later.
    granted: Duration,
    /// When it was noticed.
    noticed: Duration,
}

/// Whether a Site is there, by the boot-time clock of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has a live session.
    Live,
    /// Its last lease was granted at `at` or before.
    Lost {
        /// When fences start.
        at: Duration,
    },
    /// Its object is gone, at `at` or before.
    Gone {
        /// When fences start.
        at: Duration,
    },
}

/// What of a Site matters to Clusters that have something there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is there.
    pub presence: Presence,
    availability: Option<Availability>,
    fenced: Vec<FencedCluster>,
}

/// The Lease of a gateway, in the state that shows that its Sites are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Name of the Lease.
    pub lease: String,
    /// Its last renewal; None: there is no such Lease.
    pub renewed: Option<Timestamp>,
}

/// All Sites and the gateways' Leases.
#[derive(Debug, Default)]
pub struct Sites {
    objects: HashMap<String, Arc<Site>>,
    ended: HashMap<String, Ended>,
    leases: HashMap<String, Seen>,
    /// When Sites and Leases were seen to be gone. Those that were gone before count from `since`.
    gone: HashMap<String, Duration>,
    since: Duration,
}

impl Sites {
    /// Whatever is missing and was not seen to go counts as gone from `now` on.
    pub fn begin(&mut self, now: Duration) {
        self.since = now;
    }

    /// Adds or replaces a Site, unless what is known is newer. `first`: this is the first that this process sees of any
    /// Site, so what it says may have happened long ago. Says whether it was taken.
    pub fn upsert(&mut self, name: String, site: Arc<Site>, first: bool, now: Now) -> bool {
        if self.objects.get(&name).is_some_and(|known| version(&**known) > version(&*site)) {
            return false;
        }
        if is_connected(&site) {
            self.ended.remove(&name);
        } else {
            let ended = self.end(&name, &site, first, now);
            self.ended.insert(name.clone(), ended);
        }
        self.gone.remove(&name);
        self.objects.insert(name, site);
        true
    }

    fn end(&self, name: &str, site: &Site, first: bool, now: Now) -> Ended {
        let session = site.status.as_ref().and_then(|status| status.session.as_ref());
        let number = session.map_or(0, |session| session.number);
        if let Some(known) = self.ended.get(name).filter(|known| known.number == number) {
            return known.clone();
        }
        // Where there never was a session nothing was granted.
        let age = session.map_or(REMEMBERED, |session| millis(session.last_grant_age_milliseconds.unwrap_or_default()));
        let mut granted = now.boot.saturating_sub(age);
        let mut noticed = now.boot.checked_sub(if first { wall_age(site, now.wall) } else { Duration::ZERO });
        // Its gateway's Lease may have said so before.
        let told = |before: &&Arc<Site>| session_number(before) == number && self.knows_lease_of(before);
        let before = self.objects.get(name).filter(told);
        if let Some(Presence::Lost { at }) = before.and_then(|before| self.by_lease(before, now.boot)) {
            granted = granted.min(at);
            noticed = noticed.map(|noticed| noticed.min(at));
        }
        Ended { number, granted, noticed: noticed.unwrap_or_default() }
    }

    /// Removes a Site.
    pub fn remove(&mut self, name: &str, now: Duration) {
        self.ended.remove(name);
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

    /// A Lease was seen at `boot`.
    pub fn upsert_lease(&mut self, lease: &Lease, boot: Duration) {
        let (Some(name), Some(spec)) = (lease.metadata.name.clone(), lease.spec.as_ref()) else { return };
        let renewed = renewed(lease);
        let released = spec.holder_identity.as_deref().unwrap_or_default().is_empty();
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        let known = self.leases.get(&name).filter(|seen| seen.renewed == renewed && seen.released == released);
        let at = known.map_or(boot, |seen| seen.at);
        self.gone.remove(&lease_key(&name));
        self.leases.insert(name, Seen { renewed, duration: Duration::from_secs(seconds), at, released });
    }

    /// A Lease is gone.
    pub fn remove_lease(&mut self, name: &str, now: Duration) {
        if self.leases.remove(name).is_some() {
            self.note_gone(lease_key(name), now);
        }
    }

    fn note_gone(&mut self, key: String, now: Duration) {
        self.gone.retain(|_, since| now.saturating_sub(*since) < REMEMBERED);
        self.gone.insert(key, now);
    }

    /// Names of all Leases.
    pub fn leases(&self) -> impl Iterator<Item = &String> {
        self.leases.keys()
    }

    /// Whether a Site is there. A gateway that died cannot write that its sessions ended: its Lease says so, when it has not
    /// changed for its whole duration.
    #[must_use]
    pub fn presence(&self, name: &str, boot: Duration) -> Presence {
        let Some(site) = self.objects.get(name) else {
            return Presence::Gone { at: self.gone.get(name).copied().unwrap_or(self.since) };
        };
        if let Some(ended) = self.ended.get(name) {
            return Presence::Lost { at: ended.granted };
        }
        self.by_lease(site, boot).unwrap_or(Presence::Live)
    }

    /// What matters of a Site; for one that is gone too.
    #[must_use]
    pub fn standing(&self, name: &str, boot: Duration) -> Standing {
        let status = self.objects.get(name).and_then(|site| site.status.as_ref());
        Standing {
            presence: self.presence(name, boot),
            availability: status.and_then(|status| status.availability),
            fenced: status.map(|status| status.fenced.clone()).unwrap_or_default(),
        }
    }

    /// A Site as the Cluster with this UID sees it.
    #[must_use]
    pub fn view(&self, name: &str, cluster: &str, boot: Duration, frozen: bool) -> SiteView {
        let ago = |at: Duration| Millis::try_from(boot.saturating_sub(at).as_millis()).unwrap_or(Millis::MAX);
        let state = match self.presence(name, boot) {
            Presence::Live => SiteState::Live,
            Presence::Lost { at } => SiteState::Lost { ago: ago(at) },
            Presence::Gone { at } => SiteState::Gone { ago: ago(at) },
        };
        let site = self.objects.get(name);
        SiteView {
            state,
            fenced: site.map_or(0, |site| fenced_epoch(site, cluster)),
            draining: site.is_some_and(|site| is_draining(site)),
            frozen,
        }
    }

    /// What a Site is lost by, where it is not its own object: to be read again before its members count as stopped,
    /// because a watch that hangs shows a Lease unchanged.
    #[must_use]
    pub fn evidence(&self, name: &str) -> Option<Evidence> {
        let session =
            self.objects.get(name).filter(|_| !self.ended.contains_key(name))?.status.as_ref()?.session.as_ref()?;
        let renewed = self.leases.get(&session.gateway).and_then(|seen| seen.renewed);
        Some(Evidence { lease: session.gateway.clone(), renewed })
    }

    /// Sites that the hub wants and that are lost, and how many are live, for the freeze.
    #[must_use]
    pub fn losses(&self, boot: Duration) -> (Vec<Loss<'_>>, usize) {
        let (mut losses, mut live) = (Vec::new(), 0);
        // Who joined by himself and waits in quarantine does not count: anybody may, and leave together.
        let counted = self.objects.iter().filter(|(_, site)| !site.spec.suspended && !site.spec.quarantined);
        for (name, site) in counted {
            let at = match self.presence(name, boot) {
                Presence::Live => {
                    live += 1;
                    continue;
                }
                Presence::Gone { at } => at,
                Presence::Lost { at } => self.ended.get(name).map_or(at, |ended| ended.noticed),
            };
            let at = Millis::try_from(at.as_millis()).unwrap_or(Millis::MAX);
            losses.push(Loss { at, supplier: &site.spec.supplier });
        }
        (losses, live)
    }

    /// Whether the Lease of a Site's gateway was ever seen: before that its absence says nothing.
    fn knows_lease_of(&self, site: &Site) -> bool {
        let session = site.status.as_ref().and_then(|status| status.session.as_ref());
        session.is_some_and(|session| {
            self.leases.contains_key(&session.gateway) || self.gone.contains_key(&lease_key(&session.gateway))
        })
    }

    fn by_lease(&self, site: &Site, boot: Duration) -> Option<Presence> {
        let session = site.status.as_ref()?.session.as_ref()?;
        let Some(seen) = self.leases.get(&session.gateway) else {
            return Some(Presence::Lost {
                at: self.gone.get(&lease_key(&session.gateway)).copied().unwrap_or(self.since),
            });
        };
        if seen.released {
            // It stopped granting before it released it.
            return Some(Presence::Lost { at: seen.at });
        }
        let end = seen.at + seen.duration;
        (boot > end).then_some(Presence::Lost { at: end })
    }

    /// When, by the boot-time clock, the next Lease expires unless it is renewed.
    #[must_use]
    pub fn next_expiry(&self, boot: Duration) -> Option<Duration> {
        let ends = self.leases.values().filter(|seen| !seen.released).map(|seen| seen.at + seen.duration);
        ends.filter(|end| *end >= boot).min()
    }
}

/// When a Lease was renewed, by its holder's clock.
#[must_use]
pub fn renewed(lease: &Lease) -> Option<Timestamp> {
    Some(lease.spec.as_ref()?.renew_time.as_ref()?.0)
}

/// Sites and Leases share one map of what is gone; no name of a Site has a slash.
fn lease_key(name: &str) -> String {
    format!("lease/{name}")
}

fn session_number(site: &Site) -> i64 {
    site.status.as_ref().and_then(|status| status.session.as_ref()).map_or(0, |session| session.number)
}

fn millis(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// How long ago a Site is said to have been lost: the one place where clocks of machines are compared. It decides on a freeze
/// only, which makes fences later and never earlier.
fn wall_age(site: &Site, now: Timestamp) -> Duration {
    let conditions = site.status.iter().flat_map(|status| &status.conditions);
    let connected = conditions.filter(|condition| condition.type_ == atoll_api::conditions::site::CONNECTED);
    let at = connected.map(|condition| condition.last_transition_time.0).next();
    at.map_or(REMEMBERED, |at| Duration::try_from(now.duration_since(at)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UID: &str = "u";

    fn site_at(version: u32, connected: &str, session: &Value) -> Arc<Site> {
        let object = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Site",
            "metadata": {"name": "a", "resourceVersion": version.to_string()},
            "spec": {"supplier": "acme", "region": "eu-west"},
            "status": {"session": session, "conditions": [{"type": "Connected", "status": connected, "reason": "R",
                       "message": "", "lastTransitionTime": "1970-01-01T00:00:05Z"}]},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn site(connected: &str, session: &Value) -> Arc<Site> {
        site_at(1, connected, session)
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

    /// The wall clock is far from everything that Sites say, to show that it does not matter.
    fn at(seconds: u64) -> Now {
        Now { wall: Timestamp::from_second(4_000_000_000).unwrap(), boot: secs(seconds) }
    }

    fn ended(number: i64, age: i64) -> Value {
        json!({"number": number, "gateway": "gw-1", "lastGrant": "2038-01-01T00:00:00Z", "lastGrantAgeMilliseconds": age})
    }

    #[test]
    fn a_loss_counts_from_its_first_sight_less_the_age_of_the_last_grant() {
        let mut sites = Sites::default();
        sites.upsert("a".to_owned(), site("False", &ended(1, 30_500)), true, at(1_000));
        let lost = Presence::Lost { at: Duration::from_millis(969_500) };
        assert_eq!(sites.presence("a", secs(1_001)), lost);
        sites.upsert("a".to_owned(), site_at(2, "False", &ended(1, 30_500)), false, at(1_100));
        assert_eq!(sites.presence("a", secs(1_101)), lost, "seeing it again changes nothing");
        sites.upsert("a".to_owned(), site_at(3, "True", &json!({"number": 2, "gateway": "gw-1"})), false, at(1_110));
        sites.upsert("a".to_owned(), site_at(4, "False", &ended(2, 30_000)), false, at(1_200));
        assert_eq!(sites.presence("a", secs(1_201)), Presence::Lost { at: secs(1_170) });
        // It came back and was lost again, and the watch showed only that.
        sites.upsert("a".to_owned(), site_at(6, "False", &ended(3, 1_000)), false, at(1_300));
        assert_eq!(sites.presence("a", secs(1_301)), Presence::Lost { at: secs(1_299) });
        // A gateway of a release that wrote no age.
        sites.upsert("a".to_owned(), site_at(7, "False", &json!({"number": 4, "gateway": "gw-1"})), false, at(1_400));
        assert_eq!(sites.presence("a", secs(1_401)), Presence::Lost { at: secs(1_400) });
        assert_eq!(sites.view("a", UID, secs(1_410), false).state, SiteState::Lost { ago: 10_000 });
    }

    #[test]
    fn what_is_older_than_what_is_known_is_ignored() {
        let mut sites = Sites::default();
        assert!(sites.upsert("a".to_owned(), site_at(9, "False", &ended(1, 0)), false, at(10)));
        let live = json!({"number": 1, "gateway": "gw-1"});
        assert!(!sites.upsert("a".to_owned(), site_at(8, "True", &live), false, at(11)));
        assert_eq!(sites.presence("a", secs(12)), Presence::Lost { at: secs(10) });
    }

    #[test]
    fn a_dead_gateway_loses_its_sites_when_its_lease_has_expired_as_this_process_saw_it() {
        let mut sites = Sites::default();
        sites.begin(secs(77));
        sites.upsert("a".to_owned(), site("True", &json!({"number": 1, "gateway": "gw-1"})), true, at(80));
        assert_eq!(sites.presence("a", secs(80)), Presence::Lost { at: secs(77) }, "no such gateway");
        assert_eq!(sites.evidence("a"), Some(Evidence { lease: "gw-1".to_owned(), renewed: None }));
        sites.upsert_lease(&lease("gw", "2038-01-01T00:00:10.000000Z"), secs(1_000));
        assert_eq!(sites.presence("a", secs(1_300)), Presence::Live);
        assert_eq!(sites.next_expiry(secs(1_000)), Some(secs(1_300)));
        assert_eq!(sites.presence("a", secs(1_301)), Presence::Lost { at: secs(1_300) });
        // The same renewal seen again counts from when it was seen first.
        sites.upsert_lease(&lease("gw", "2038-01-01T00:00:10.000000Z"), secs(1_290));
        assert_eq!(sites.presence("a", secs(1_301)), Presence::Lost { at: secs(1_300) });
        sites.upsert_lease(&lease("gw", "1970-01-01T00:04:10.000000Z"), secs(1_295));
        assert_eq!(sites.presence("a", secs(1_301)), Presence::Live);
        let known = sites.evidence("a").unwrap();
        assert_eq!(known.renewed, renewed(&lease("gw", "1970-01-01T00:04:10.000000Z")));
        sites.upsert_lease(&lease("", "1970-01-01T00:04:20.000000Z"), secs(1_296));
        assert_eq!(sites.presence("a", secs(1_301)), Presence::Lost { at: secs(1_296) });
        sites.remove_lease("gw-1", secs(1_400));
        assert_eq!(sites.presence("a", secs(1_401)), Presence::Lost { at: secs(1_400) });
    }

    #[test]
    fn a_gateway_that_writes_what_a_lease_has_shown_starts_no_fence_anew() {
        let mut sites = Sites::default();
        sites.upsert("a".to_owned(), site("True", &json!({"number": 1, "gateway": "gw-1"})), true, at(0));
        sites.upsert_lease(&lease("gw", "2038-01-01T00:00:10.000000Z"), secs(1_000));
        sites.upsert("a".to_owned(), site_at(2, "False", &ended(1, 0)), false, at(1_330));
        assert_eq!(sites.presence("a", secs(1_331)), Presence::Lost { at: secs(1_300) });
        assert_eq!(sites.evidence("a"), None, "its own object says it");
    }

    #[test]
    fn a_deleted_site_is_gone_from_when_it_was_seen_to_go() {
        let mut sites = Sites::default();
        sites.begin(secs(5));
        assert_eq!(sites.presence("a", secs(6)), Presence::Gone { at: secs(5) });
        sites.upsert("a".to_owned(), site("True", &json!(null)), true, at(7));
        assert_eq!(sites.presence("a", secs(8)), Presence::Live);
        sites.remove("a", secs(9));
        assert_eq!(sites.presence("a", secs(10)), Presence::Gone { at: secs(9) });
    }

    #[test]
    fn what_is_gone_for_long_is_forgotten_and_stays_gone() {
        let mut sites = Sites::default();
        sites.begin(secs(5));
        for n in 0..100 {
            sites.upsert(format!("site-{n}"), site("True", &json!(null)), false, at(9));
            sites.remove(&format!("site-{n}"), secs(9) + n * REMEMBERED);
        }
        assert_eq!(sites.gone.len(), 1);
        assert_eq!(sites.presence("site-0", secs(10)), Presence::Gone { at: secs(5) });
    }

    #[test]
    fn only_what_is_seen_first_of_all_is_dated_by_the_wall_clock() {
        let wall = Timestamp::from_second(65).unwrap();
        for (first, noticed) in [(true, 940_000), (false, 1_000_000)] {
            let mut sites = Sites::default();
            sites.upsert("a".to_owned(), site("False", &ended(1, 30_000)), first, Now { wall, boot: secs(1_000) });
            let (losses, live) = sites.losses(secs(1_001));
            assert_eq!((losses.len(), losses[0].at, live), (1, noticed, 0));
        }
        let mut sites = Sites::default();
        let mut quarantined = Site::clone(&site("False", &ended(1, 0)));
        quarantined.spec.quarantined = true;
        sites.upsert("a".to_owned(), Arc::new(quarantined), false, at(1));
        assert_eq!(sites.losses(secs(2)).0, []);
    }
}
