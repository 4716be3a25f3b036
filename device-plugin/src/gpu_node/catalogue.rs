//! The models that this version knows. A hub's own catalogue may be another and decides there; this one is for those who
//! look at the Site.

use atoll_api::GpuModel;
use atoll_core::catalogue::{self, Entry};

const SHIPPED: &str = include_str!("../../../api/catalogue/gpumodels.yaml");

/// The models that this version ships with.
pub(super) fn shipped() -> Vec<GpuModel> {
    serde_saphyr::from_multiple(SHIPPED).unwrap_or_else(|error| {
        // A test reads them all.
        tracing::error!(%error, "the catalogue cannot be read; models are not named");
        Vec::new()
    })
}

/// Name of the model that reports itself so; empty: none.
pub(super) fn model(models: &[GpuModel], product: &str, memory_mib: u64) -> String {
    let entries = models.iter().map(|model| Entry {
        name: model.metadata.name.as_deref().unwrap_or_default(),
        memory_mib: u64::try_from(model.spec.memory_mib).unwrap_or(0),
        aliases: &model.spec.aliases,
    });
    catalogue::identify(product, memory_mib, entries).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nvml_reports_is_found() {
        let models = shipped();
        assert!(models.len() > 50);
        for (product, memory, name) in [
            ("NVIDIA H100 80GB HBM3", 81_559, "h100-sxm5-80gb"),
            ("NVIDIA GeForce RTX 4090", 24_564, "rtx-4090"),
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9_984, ""),
            ("NVIDIA H100 80GB HBM3 SHARED", 81_559, ""),
            ("", 0, ""),
        ] {
            assert_eq!(model(&models, product, memory), name, "{product}");
        }
    }
}
