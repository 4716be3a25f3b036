//! What the small controllers see: Sites, models and suppliers with the inventory's counts.

use std::sync::Arc;

use atoll_api::{GpuModel, Site, Supplier};
use atoll_core::inventory::Totals;

/// A picture of the network at one moment. Counts are at most a second old.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Sites and what they have.
    pub sites: Vec<(Arc<Site>, Totals)>,
    /// Models and what there is of them.
    pub models: Vec<(Arc<GpuModel>, Totals)>,
    /// Suppliers.
    pub suppliers: Vec<Arc<Supplier>>,
}

/// A count as the API's integers have it.
#[must_use]
pub fn count(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
