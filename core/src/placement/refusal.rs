//! Why members were not placed.

use super::filter::{Filter, FilterCount};
use super::request::Request;
use crate::inventory::Tally;
use crate::units::MicroUsd;
use crate::words::{Span, Trust, Workload};

/// Why members were not placed: what was asked, what there is, what would fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In one word.
    pub kind: RefusalKind,
    /// What was asked.
    pub asked: Box<Asked>,
    /// What each filter left out, every filter, in order.
    pub filters: Vec<FilterCount>,
    /// What there is.
    pub capacity: Box<Capacity>,
    /// What would be placed now, simplest change first. Each holds by itself.
    pub fits: Vec<Fit>,
}

/// A refusal in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// No GPU in the network, free or not, passes the filters for model, memory and workload.
    NoSuchGpu,
    /// Such GPUs exist, and too few of them can be had.
    InsufficientCapacity,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Members to place.
    pub members: u64,
    /// At least so many of them.
    pub at_least: u64,
    /// GPUs of each member.
    pub gpus_per_member: u32,
    /// Names of models.
    pub models: Vec<String>,
    /// Families of models.
    pub families: Vec<String>,
    /// Least memory, MiB.
    pub min_memory_mib: u64,
    /// What the members do.
    pub workload: Workload,
    /// How far apart members may be.
    pub span: Span,
    /// The Site, or for span `Region` the region, where members run that these must join.
    pub joins: Option<String>,
    /// Other members of the Cluster hold GPUs already.
    pub more: bool,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// GPUs that pass the filters for model, memory and workload, free or not.
    pub exist: u64,
    /// GPUs that pass all filters and are free.
    pub free: u64,
    /// Where most of the free ones are: which Site (span `Site`) or region (span `Region`).
    pub largest: Option<Place>,
    /// Most free ones on one node.
    pub largest_node: u32,
}

/// A Site or a region with free GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the Site; None for a region.
    pub site: Option<String>,
    /// Its region.
    pub region: String,
    /// GPUs that pass all filters and are free there.
    pub gpus: u64,
}

/// A change to the request with which members would be placed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// The change.
    pub change: Change,
    /// How many members at most, of those asked.
    pub members: u64,
}

/// A change to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// No change but the number of members.
    Members,
    /// This span.
    Span(Span),
    /// This model, no other and no family.
    Model(String),
    /// This highest price, the lowest one that is enough.
    MaxPrice(MicroUsd),
    /// This least trust, the highest one that is enough.
    MinTrust(Trust),
    /// This region besides the ones admitted.
    Region(String),
    /// This supplier besides the ones admitted.
    Supplier(String),
}

impl Refusal {
    pub(super) fn excluded(&self, filter: Filter) -> Tally {
        self.filters.iter().find(|count| count.filter == filter).map_or_else(Tally::default, |count| count.excluded)
    }
}

impl Asked {
    /// `more`: other members of the Cluster hold GPUs already.
    pub(super) fn of(request: &Request, more: bool) -> Self {
        Self {
            members: request.want(),
            at_least: request.need(),
            gpus_per_member: request.gpus(),
            models: request.models.clone(),
            families: request.families.clone(),
            min_memory_mib: request.min_memory_mib,
            workload: request.workload,
            span: request.span,
            joins: match request.span {
                Span::Site => request.anchored_site.clone(),
                Span::Region => request.anchored_region.clone(),
                Span::Any => None,
            },
            more,
        }
    }
}
