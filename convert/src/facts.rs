//! What the network has: `GPUModel`, `Site` and `GPUNode` as facts of the inventory.

use atoll_api::conditions::{is_true, site as site_condition};
use atoll_api::{Availability, GpuModel, GpuNode, Site};
use atoll_core::inventory::{ModelFacts, NodeFacts, SiteFacts};
use atoll_core::units::MicroUsd;

use crate::error::{InvalidSpec, Problem, amount, count};
use crate::words;

/// The facts of a catalogue entry.
pub fn model_facts(model: &GpuModel) -> Result<ModelFacts, InvalidSpec> {
    let spec = &model.spec;
    Ok(ModelFacts {
        name: model.metadata.name.clone().ok_or_else(|| Problem::Missing.of("metadata.name"))?,
        family: spec.family.clone(),
        memory_mib: amount("spec.memoryMib", spec.memory_mib)?,
        workloads: spec.workloads.iter().copied().map(words::workload).collect(),
        reference_price: price("spec.referencePrice", &spec.reference_price)?,
        aliases: spec.aliases.clone(),
    })
}

/// The facts of a Site. It is open when it is accepted, connected, neither suspended nor in quarantine, not being deleted,
/// and its supplier wants members.
pub fn site_facts(site: &Site) -> Result<SiteFacts, InvalidSpec> {
    let name = site.metadata.name.clone().ok_or_else(|| Problem::Missing.of("metadata.name"))?;
    let holds = |type_: &str| site.status.as_ref().is_some_and(|status| is_true(&status.conditions, type_));
    let open = holds(site_condition::ACCEPTED)
        && holds(site_condition::CONNECTED)
        && !site.spec.suspended
        && !site.spec.quarantined
        && site.status.as_ref().and_then(|status| status.availability).unwrap_or_default() == Availability::Accepting
        && site.metadata.deletion_timestamp.is_none();
    Ok(SiteFacts {
        display: site.spec.display_name.clone().unwrap_or_else(|| name.clone()),
        name,
        supplier: site.spec.supplier.clone(),
        region: site.spec.region.clone(),
        trust: words::trust(site.spec.trust),
        open,
    })
}

/// The facts of the hub's copy of a node.
///
/// One whose status was not written yet is [`Problem::Missing`].
pub fn node_facts(node: &GpuNode) -> Result<NodeFacts, InvalidSpec> {
    let status = node.status.as_ref().ok_or_else(|| Problem::Missing.of("status"))?;
    if status.site.is_empty() {
        return Err(Problem::Missing.of("status.site"));
    }
    if status.node.is_empty() {
        return Err(Problem::Missing.of("status.node"));
    }
    let price = node.spec.price_per_gpu_hour.as_deref().filter(|price| !price.is_empty());
    Ok(NodeFacts {
        site: status.site.clone(),
        node: status.node.clone(),
        model: status.model.clone(),
        memory_mib: amount("status.memoryMib", status.memory_mib)?,
        allocatable: count("status.allocatable", status.allocatable, 0)?,
        used_by_others: count("status.usedByOthers", status.used_by_others, 0)?,
        usable: status.ready && !node.spec.unschedulable && node.metadata.deletion_timestamp.is_none(),
        price: price.map(|price| self::price("spec.pricePerGpuHour", price)).transpose()?,
    })
}

pub(crate) fn price(field: &'static str, value: &str) -> Result<MicroUsd, InvalidSpec> {
    MicroUsd::parse(value).map_err(|cause| Problem::Unreadable(cause).of(field))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn site(suspended: bool, conditions: &[(&str, &str)]) -> Site {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(type_, status)| {
                json!({"type": type_, "status": status, "reason": "R", "message": "",
                       "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": {"name": "site-1"},
            "spec": {"supplier": "acme", "region": "eu-west", "trust": "Contracted", "suspended": suspended},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn only_an_accepted_connected_site_that_is_not_suspended_is_open() {
        let both = [("Accepted", "True"), ("Connected", "True")];
        assert!(site_facts(&site(false, &both)).unwrap().open);
        assert!(!site_facts(&site(true, &both)).unwrap().open);
        let lacking: [&[(&str, &str)]; 5] = [
            &[("Accepted", "True")],
            &[("Connected", "True")],
            &[("Accepted", "True"), ("Connected", "False")],
            &[("Accepted", "True"), ("Connected", "Unknown")],
            &[],
        ];
        for conditions in lacking {
            assert!(!site_facts(&site(false, conditions)).unwrap().open, "{conditions:?}");
        }
    }

    #[test]
    fn nothing_is_placed_where_the_supplier_or_the_hub_does_not_want_it_yet() {
        let mut site = site(false, &[("Accepted", "True"), ("Connected", "True")]);
        for (availability, open) in [
            (None, true),
            (Some(Availability::Accepting), true),
            (Some(Availability::Paused), false),
            (Some(Availability::Draining), false),
        ] {
            site.status.as_mut().unwrap().availability = availability;
            assert_eq!(site_facts(&site).unwrap().open, open, "{availability:?}");
        }
        site.status.as_mut().unwrap().availability = None;
        site.spec.quarantined = true;
        assert!(!site_facts(&site).unwrap().open);
    }

    #[test]
    fn a_site_without_a_display_name_is_shown_by_its_name() {
        assert_eq!(site_facts(&site(false, &[])).unwrap().display, "site-1");
    }

    fn node(spec: &serde_json::Value, status: &serde_json::Value) -> GpuNode {
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": "site-1.n1"},
            "spec": spec, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_node_is_usable_when_ready_and_schedulable() {
        for (ready, unschedulable, usable) in
            [(true, false, true), (true, true, false), (false, false, false), (false, true, false)]
        {
            let node = node(
                &json!({"unschedulable": unschedulable}),
                &json!({"site": "site-1", "node": "n1", "ready": ready, "allocatable": 8}),
            );
            assert_eq!(node_facts(&node).unwrap().usable, usable, "ready {ready}, unschedulable {unschedulable}");
        }
    }

    #[test]
    fn a_bad_node_names_the_field() {
        let table = [
            (json!({}), json!({}), "status.site"),
            (json!({}), json!({"site": "s"}), "status.node"),
            (json!({}), json!({"site": "s", "node": "n", "allocatable": -1}), "status.allocatable"),
            (json!({}), json!({"site": "s", "node": "n", "usedByOthers": -1}), "status.usedByOthers"),
            (json!({}), json!({"site": "s", "node": "n", "memoryMib": -1}), "status.memoryMib"),
            (json!({"pricePerGpuHour": "two"}), json!({"site": "s", "node": "n"}), "spec.pricePerGpuHour"),
        ];
        for (spec, status, field) in table {
            assert_eq!(node_facts(&node(&spec, &status)).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_model_carries_its_catalogue_entry() {
        let mut model: GpuModel = serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUModel", "metadata": {"name": "rtx-4090"},
            "spec": {"displayName": "RTX 4090", "vendor": "NVIDIA", "family": "ada", "aliases": ["NVIDIA GeForce RTX 4090"],
                     "memoryMib": 24564, "computeScore": 1000, "workloads": ["Inference", "Batch"],
                     "referencePrice": "0.40"},
        }))
        .unwrap();
        let facts = model_facts(&model).unwrap();
        assert_eq!(facts.name, "rtx-4090");
        assert_eq!(facts.reference_price, MicroUsd::parse("0.4").unwrap());
        assert_eq!(facts.memory_mib, 24_564);
        model.spec.reference_price = "cheap".to_owned();
        assert_eq!(model_facts(&model).unwrap_err().field, "spec.referencePrice");
        model.spec.reference_price = "1".to_owned();
        model.spec.memory_mib = -1;
        assert_eq!(model_facts(&model).unwrap_err().field, "spec.memoryMib");
    }
}
