//! What a request admits.

use super::request::Request;
use crate::catalogue::memory_agrees;
use crate::inventory::{ModelFacts, PoolKey, SiteFacts, Tally};
use crate::units::MicroUsd;
use crate::words::Span;

/// What keeps GPUs from being chosen, in the order in which it is asked; GPUs count for the first that they fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    /// Of another model or family, or not in the catalogue.
    Model,
    /// Too little memory.
    Memory,
    /// The model does not suit the workload.
    Workload,
    /// The node is not Ready, or unschedulable.
    Usable,
    /// The Site is not accepted, not connected or suspended.
    Open,
    /// The Site is in another region.
    Region,
    /// The Site is another supplier's.
    Supplier,
    /// The Site is trusted too little.
    Trust,
    /// The GPU costs too much.
    Price,
    /// Members run already on another Site or in another region.
    Survivors,
    /// The Site refused the node a moment ago.
    Refused,
}

impl Filter {
    /// All, in order.
    pub const ALL: [Self; 11] = [
        Self::Model,
        Self::Memory,
        Self::Workload,
        Self::Usable,
        Self::Open,
        Self::Region,
        Self::Supplier,
        Self::Trust,
        Self::Price,
        Self::Survivors,
        Self::Refused,
    ];
}

/// What one filter leaves out of what the filters before it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterCount {
    /// The filter.
    pub filter: Filter,
    /// Nodes and their GPUs, free or not.
    pub excluded: Tally,
}

/// Filters of one request that GPUs fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failed(u16);

impl Failed {
    fn note(&mut self, filter: Filter, failed: bool) {
        if failed {
            self.0 |= 1 << filter as u16;
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn none(self) -> bool {
        self.0 == 0
    }

    /// Nothing but perhaps this one.
    pub(super) fn at_most(self, filter: Filter) -> bool {
        self.0 & !(1 << filter as u16) == 0
    }

    pub(super) fn first(self) -> Option<Filter> {
        Filter::ALL.into_iter().find(|filter| self.0 & (1 << *filter as u16) != 0)
    }
}

/// What a model fails; None: a model that is not in the catalogue.
pub(super) fn model(request: &Request, facts: Option<&ModelFacts>) -> Failed {
    let mut failed = Failed::default();
    let Some(facts) = facts else {
        failed.note(Filter::Model, true);
        return failed;
    };
    let any = request.models.is_empty() && request.families.is_empty();
    failed.note(
        Filter::Model,
        !(any || request.models.contains(&facts.name) || request.families.contains(&facts.family)),
    );
    failed.note(Filter::Workload, !facts.workloads.contains(&request.workload));
    failed
}

/// What a Site fails; None: a Site that is not known.
pub(super) fn site(request: &Request, facts: Option<&SiteFacts>) -> Failed {
    let mut failed = Failed::default();
    let Some(facts) = facts else {
        failed.note(Filter::Open, true);
        return failed;
    };
    failed.note(Filter::Open, !facts.open);
    failed.note(Filter::Region, !request.regions.admits(&facts.region));
    failed.note(Filter::Supplier, !request.suppliers.admits(&facts.supplier));
    failed.note(Filter::Trust, facts.trust < request.min_trust);
    let elsewhere = match request.span {
        Span::Site => request.anchored_site.as_ref().is_some_and(|site| *site != facts.name),
        Span::Region => request.anchored_region.as_ref().is_some_and(|region| *region != facts.region),
        Span::Any => false,
    };
    failed.note(Filter::Survivors, elsewhere);
    failed
}

/// What a pool of nodes fails beside its model and its Site.
pub(super) fn pool(request: &Request, key: &PoolKey, facts: &ModelFacts) -> Failed {
    let mut failed = Failed::default();
    failed.note(Filter::Memory, memory(key, facts) < request.min_memory_mib);
    failed.note(Filter::Price, request.max_price.is_some_and(|cap| price(key, facts) > cap));
    failed
}

/// MiB that a GPU counts as: what its model has nominally, where the report agrees or is missing. Drivers keep some
/// memory for themselves, and who asks for "24Gi" means a GPU that is sold as one of 24.
fn memory(key: &PoolKey, facts: &ModelFacts) -> u64 {
    if key.memory_mib == 0 || memory_agrees(key.memory_mib, facts.memory_mib) {
        key.memory_mib.max(facts.memory_mib)
    } else {
        key.memory_mib
    }
}

pub(super) fn price(key: &PoolKey, facts: &ModelFacts) -> MicroUsd {
    key.price.unwrap_or(facts.reference_price)
}
