//! Suppliers: how much they bring.

use std::collections::HashMap;
use std::sync::Arc;

use atoll_api::conditions::{self, site};
use atoll_api::{Supplier, SupplierStatus};
use jiff::Timestamp;

use super::network::{Network, count};
use super::owned::{Owned, offered};

/// What a supplier's Sites bring.
#[derive(Clone, Copy, Debug, Default)]
struct Brought {
    sites: u64,
    gpus: u64,
    /// GPUs of connected Sites.
    offered: u64,
}

/// What is to be written, for every supplier whose status says something else.
#[must_use]
pub fn changes(network: &Network, now: Timestamp) -> Vec<Owned> {
    let mut brought: HashMap<&str, Brought> = HashMap::new();
    for (object, totals) in &network.sites {
        let own = brought.entry(&object.spec.supplier).or_default();
        own.sites += 1;
        own.gpus += totals.gpus;
        if object.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, site::CONNECTED)) {
            own.offered += totals.gpus;
        }
    }
    let change = |supplier: &Arc<Supplier>| {
        let old = supplier.status.clone().unwrap_or_default();
        let name = supplier.metadata.name.as_ref();
        let own = name.and_then(|name| brought.get(name.as_str())).copied().unwrap_or_default();
        let generation = supplier.metadata.generation;
        let new = SupplierStatus {
            observed_generation: generation,
            sites: count(own.sites),
            gpus: count(own.gpus),
            conditions: vec![offered(&old.conditions, count(own.offered), generation, now)],
        };
        Owned::changed(name, &old, &new)
    };
    network.suppliers.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use atoll_core::inventory::Totals;
    use serde_json::json;

    use super::*;

    #[test]
    fn sites_are_counted_to_their_supplier() {
        let site = |name: &str, supplier: &str, gpus| {
            let object = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": {"name": name},
                                "spec": {"supplier": supplier, "region": "eu-west"},
                                "status": {"conditions": [{"type": "Connected", "status": "True", "reason": "SessionLive",
                                           "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            (Arc::new(serde_json::from_value(object).unwrap()), Totals { nodes: 1, gpus, free: 0 })
        };
        let supplier = |name: &str| {
            let object = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "Supplier", "metadata": {"name": name},
                                "spec": {"displayName": name, "contact": "a@b.c"}});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let network = Network {
            sites: vec![site("a", "acme", 4), site("b", "acme", 8), site("c", "other", 1)],
            suppliers: vec![supplier("acme"), supplier("idle")],
            ..Network::default()
        };
        let changes = changes(&network, Timestamp::from_second(1).unwrap());
        let said = |index: usize| {
            let Owned { name, status } = &changes[index];
            format!("{name} {} {}", status["gpus"], status["conditions"][0]["reason"])
        };
        assert_eq!([said(0), said(1)], ["acme 12 \"SitesOffer\"", "idle 0 \"NoSiteOffers\""]);
    }
}
