//! Where members go.

use crate::units::MicroUsd;

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
