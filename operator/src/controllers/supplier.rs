//! Suppliers: how much they bring.

use std::collections::HashMap;

use serde_json::json;

use super::network::{Network, count};
use super::owned::Owned;

/// What is to be written, for every supplier whose status says something else.
#[must_use]
pub fn changes(network: &Network) -> Vec<Owned> {
    let mut brought: HashMap<&str, (u64, u64)> = HashMap::new();
    for (site, totals) in &network.sites {
        let (sites, gpus) = brought.entry(&site.spec.supplier).or_default();
        *sites += 1;
        *gpus += totals.gpus;
    }
    let mut changes = Vec::new();
    for supplier in &network.suppliers {
        let Some(name) = supplier.metadata.name.clone() else { continue };
        let old = supplier.status.clone().unwrap_or_default();
        let (sites, gpus) = brought.get(name.as_str()).copied().unwrap_or_default();
        let generation = supplier.metadata.generation;
        if (old.sites, old.gpus, old.observed_generation) != (count(sites), count(gpus), generation) {
            let status = json!({"observedGeneration": generation, "sites": count(sites), "gpus": count(gpus)});
            changes.push(Owned { name, status });
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atoll_core::inventory::Totals;

    use super::*;

    #[test]
    fn sites_are_counted_to_their_supplier() {
        let site = |name: &str, supplier: &str, gpus| {
            let object = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": {"name": name},
                                "spec": {"supplier": supplier, "region": "eu-west"}});
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
        let changes = changes(&network);
        assert_eq!(changes.len(), 1, "a supplier without Sites has nothing to say");
        assert_eq!((changes[0].name.as_str(), &changes[0].status["gpus"]), ("acme", &json!(12)));
    }
}
