//! Where the members of a Cluster go.
//!
//! Filters come first (model, memory, workload, usable, open, region, supplier, trust, price, survivors, refused), see
//! [`Filter`]. Of what is left a decision takes as many members as it can, then the fewest Sites, then the lowest
//! price, then the nodes that are left fullest, then the first by name. Equal inventories give equal decisions.

mod choose;
mod explain;
mod filter;
mod message;
mod probe;
mod refusal;
mod survey;
#[cfg(test)]
mod tests;

pub use explain::{Explanation, explain};
pub use filter::Filter;
pub use refusal::{Asked, Capacity, Change, Fit, Place, Refusal, RefusalKind};
pub use survey::FilterCount;

use crate::inventory::Inventory;
use crate::units::MicroUsd;
use crate::words::{Selection, Span, Trust, Workload};

/// Members to place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// UID of the Cluster.
    pub cluster: String,
    /// What the members do.
    pub workload: Workload,
    /// Names of models; with `families` empty too: any that suits the workload.
    pub models: Vec<String>,
    /// Families of models.
    pub families: Vec<String>,
    /// Least memory of each GPU, MiB.
    pub min_memory_mib: u64,
    /// GPUs of each member, all on one node; 0 counts as 1.
    pub gpus_per_member: u32,
    /// Ranks to place now, ascending.
    pub ranks: Vec<u32>,
    /// Place at least so many of them, the first ones, or none. 0 counts as 1, more than there are as all.
    pub min_new: u32,
    /// How far apart members may be.
    pub span: Span,
    /// The Site where members run already; with span `Site` the others join them there.
    pub anchored_site: Option<String>,
    /// The region where members run already; with span `Region` the others join them there.
    pub anchored_region: Option<String>,
    /// Regions of Sites.
    pub regions: Selection,
    /// Suppliers of Sites.
    pub suppliers: Selection,
    /// Least trust of Sites.
    pub min_trust: Trust,
    /// Most for a GPU and hour.
    pub max_price: Option<MicroUsd>,
}

impl Request {
    fn gpus(&self) -> u32 {
        self.gpus_per_member.max(1)
    }

    fn want(&self) -> u64 {
        self.ranks.len() as u64
    }

    fn need(&self) -> u64 {
        u64::from(self.min_new).max(1).min(self.want())
    }
}

/// Where members go: the first so many of the ranks asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The Sites, in order of the ranks there.
    pub sites: Vec<SiteShare>,
}

impl Decision {
    /// How many members are placed.
    #[must_use]
    pub fn members(&self) -> u64 {
        self.sites.iter().flat_map(|site| &site.nodes).map(|node| u64::from(node.count)).sum()
    }
}

/// Members on one Site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteShare {
    /// Name of the Site.
    pub site: String,
    /// Price per GPU and hour: the highest among its nodes.
    pub price: MicroUsd,
    /// Its nodes. One that takes ranks with gaps in between stands here once for each run of consecutive ranks.
    pub nodes: Vec<NodeShare>,
}

/// Members of consecutive ranks on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeShare {
    /// Name of the node at its Site.
    pub node: String,
    /// First rank.
    pub first_rank: u32,
    /// How many ranks.
    pub count: u32,
}

/// Places members, as many of `ranks` as fit and at least `min_new` of them, or says why not.
pub fn place(inventory: &Inventory, request: &Request) -> Result<Decision, Refusal> {
    if request.ranks.is_empty() {
        return Ok(Decision::default());
    }
    choose::choose(inventory, request).ok_or_else(|| refusal::refuse(request, survey::survey(inventory, request)))
}
