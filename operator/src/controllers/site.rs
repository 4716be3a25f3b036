//! Sites: whether they may be hired, and what they have. The rest of a Site's status is the gateway's.

use std::sync::Arc;

use atoll_api::conditions::{self, site, site_reason};
use atoll_api::{Site, SiteStatus, Supplier};
use atoll_core::inventory::Totals;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::network::{Network, count};
use super::owned::{Owned, condition};

/// What is to be written, for every Site whose status says something else.
#[must_use]
pub fn changes(network: &Network, now: Timestamp) -> Vec<Owned> {
    network.sites.iter().filter_map(|(site, totals)| change(site, *totals, now)).collect()
}

fn change(object: &Site, totals: Totals, now: Timestamp) -> Option<Owned> {
    let name = object.metadata.name.clone()?;
    let old = object.status.clone().unwrap_or_default();
    let accepted = accepted(object, &old, now);
    let counts = (count(totals.nodes), count(totals.gpus), count(totals.free));
    let same = conditions::condition(&old.conditions, site::ACCEPTED) == Some(&accepted)
        && (old.nodes, old.gpus, old.free_gpus) == counts
        && old.observed_generation == object.metadata.generation;
    (!same).then(|| Owned { name, status: status(object, &accepted, counts) })
}

/// A Site that is to leave quarantine, as it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Promotion {
    /// The Site.
    pub site: Arc<Site>,
    /// For how long it has been connected without a loss.
    pub connected: SignedDuration,
}

impl Promotion {
    /// The patch: refused if the Site has changed in any way since it was seen.
    #[must_use]
    pub fn patch(&self) -> Value {
        json!({
            "metadata": {"uid": self.site.metadata.uid, "resourceVersion": self.site.metadata.resource_version},
            "spec": {"quarantined": false},
        })
    }
}

/// Sites in quarantine that have been connected without a loss for `least` and offer GPUs.
#[must_use]
pub fn promotions(network: &Network, least: SignedDuration, now: Timestamp) -> Vec<Promotion> {
    let ready = network.sites.iter().filter_map(|(site, totals)| {
        let connected = conditions::condition(&site.status.as_ref()?.conditions, site::CONNECTED)?;
        let since = Some(connected.last_transition_time.0).filter(|_| connected.status == "True")?;
        let promotion = Promotion { site: Arc::clone(site), connected: now.duration_since(since) };
        let spec = &site.spec;
        let waits = spec.quarantined
            && !spec.suspended
            && !is_barred(network, &spec.supplier)
            && site.metadata.deletion_timestamp.is_none();
        (waits && totals.gpus > 0 && promotion.connected >= least).then_some(promotion)
    });
    ready.collect()
}

/// Whether a supplier is suspended, with all its Sites.
fn is_barred(network: &Network, supplier: &str) -> bool {
    let named = |known: &&Arc<Supplier>| known.metadata.name.as_deref() == Some(supplier);
    network.suppliers.iter().find(named).is_some_and(|supplier| supplier.spec.suspended)
}

/// Only the fields that this controller owns.
fn status(object: &Site, accepted: &Condition, (nodes, gpus, free): (i32, i32, i32)) -> Value {
    json!({
        "observedGeneration": object.metadata.generation,
        "conditions": [accepted],
        "nodes": nodes,
        "gpus": gpus,
        "freeGpus": free,
    })
}

fn accepted(object: &Site, old: &SiteStatus, now: Timestamp) -> Condition {
    let (holds, reason, message) = if object.spec.suspended {
        (false, site_reason::SUSPENDED, "spec.suspended is true")
    } else if object.spec.quarantined {
        (false, site_reason::QUARANTINED, "spec.quarantined is true: it is seen, and not hired before it is promoted")
    } else {
        (true, site_reason::JOINED, "it has joined and may be hired")
    };
    condition(&old.conditions, (site::ACCEPTED, holds), (reason, message), object.metadata.generation, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(suspended: bool, status: &Value) -> Arc<Site> {
        let object = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": {"name": "site-a", "generation": 3},
            "spec": {"supplier": "acme", "region": "eu-west", "suspended": suspended}, "status": status,
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn at(site: Arc<Site>, totals: Totals) -> Vec<Owned> {
        let network = Network { sites: vec![(site, totals)], ..Network::default() };
        changes(&network, Timestamp::from_second(1_000).unwrap())
    }

    #[test]
    fn a_site_is_accepted_unless_it_is_suspended_and_what_is_written_already_is_not_written_again() {
        let totals = Totals { nodes: 2, gpus: 16, free: 9 };
        for suspended in [false, true] {
            let first = at(site(suspended, &json!({})), totals);
            assert_eq!(first[0].status["conditions"][0]["status"], if suspended { "False" } else { "True" });
            assert_eq!(first[0].status["freeGpus"], 9);
            assert!(at(site(suspended, &first[0].status), totals).is_empty());
            assert_eq!(at(site(!suspended, &first[0].status), totals).len(), 1);
            assert_eq!(at(site(suspended, &first[0].status), Totals { free: 8, ..totals }).len(), 1);
        }
    }

    #[test]
    fn a_site_leaves_quarantine_when_it_has_stayed_connected_long_enough_with_gpus_to_offer() {
        let connected = |status: &str| {
            json!({"conditions": [{"type": "Connected", "status": status, "reason": "R", "message": "",
                                   "lastTransitionTime": "1970-01-01T01:00:00Z"}]})
        };
        let some = Totals { nodes: 1, gpus: 8, free: 8 };
        let day = SignedDuration::from_hours(24);
        for (what, status, totals, hours, quarantined, promoted) in [
            ("long enough", "True", some, 25, true, true),
            ("not yet", "True", some, 24, true, false),
            ("lost", "False", some, 99, true, false),
            ("nothing to offer", "True", Totals::default(), 99, true, false),
            ("not in quarantine", "True", some, 99, false, false),
        ] {
            let mut object = Site::clone(&site(false, &connected(status)));
            object.spec.quarantined = quarantined;
            let network = Network { sites: vec![(Arc::new(object), totals)], ..Network::default() };
            let now = Timestamp::from_second(hours * 3_600).unwrap();
            assert_eq!(promotions(&network, day, now).len(), usize::from(promoted), "{what}");
        }
    }

    #[test]
    fn a_site_in_quarantine_is_not_accepted() {
        let mut object = Site::clone(&site(false, &json!({})));
        object.spec.quarantined = true;
        let said = at(Arc::new(object), Totals::default())[0].status["conditions"][0].clone();
        assert_eq!((&said["status"], &said["reason"]), (&json!("False"), &json!("Quarantined")));
    }

    #[test]
    fn what_the_gateway_owns_is_not_written() {
        let status = json!({"session": {"number": 4, "gateway": "g"}, "conditions": [{
            "type": "Connected", "status": "True", "reason": "SessionLive", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        let change = at(site(false, &status), Totals::default());
        assert!(change[0].status.get("session").is_none());
        assert_eq!(change[0].status["conditions"].as_array().unwrap().len(), 1);
    }
}
