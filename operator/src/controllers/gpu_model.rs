//! GPU models: how many of them the network has.

use std::sync::Arc;

use atoll_api::{GpuModel, GpuModelStatus};
use atoll_core::inventory::Totals;
use jiff::Timestamp;

use super::network::{Network, count};
use super::owned::{Owned, offered};

/// What is to be written, for every model whose status says something else.
#[must_use]
pub fn changes(network: &Network, now: Timestamp) -> Vec<Owned> {
    let change = |(model, totals): &(Arc<GpuModel>, Totals)| {
        let old = model.status.clone().unwrap_or_default();
        let (gpus, generation) = (count(totals.gpus), model.metadata.generation);
        let new = GpuModelStatus {
            observed_generation: generation,
            gpus,
            free_gpus: count(totals.free),
            conditions: vec![offered(&old.conditions, gpus, generation, now)],
        };
        Owned::changed(model.metadata.name.as_ref(), &old, &new)
    };
    network.models.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_written_when_they_change() {
        let mut model: GpuModel = serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUModel", "metadata": {"name": "rtx-4090", "generation": 1},
            "spec": {"displayName": "RTX 4090", "vendor": "NVIDIA", "family": "ada", "aliases": [], "memoryMib": 24564,
                     "computeScore": 1000, "workloads": [], "referencePrice": "0.40"}
        }))
        .unwrap();
        let totals = Totals { nodes: 1, gpus: 4, free: 3 };
        let network =
            |model: &GpuModel| Network { models: vec![(Arc::new(model.clone()), totals)], ..Network::default() };
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = changes(&network(&model), at(1));
        assert_eq!((&first[0].status["gpus"], &first[0].status["freeGpus"]), (&json!(4), &json!(3)));
        assert_eq!(first[0].status["conditions"][0]["status"], "True");
        model.status = serde_json::from_value(first[0].status.clone()).unwrap();
        assert!(changes(&network(&model), at(2)).is_empty());
    }
}
