//! What is known of models, Sites and nodes, and what Clusters hold.

use crate::catalogue::Entry;
use crate::units::MicroUsd;
use crate::words::{Trust, Workload};

/// A model of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// Name, such as "h100-sxm5-80gb".
    pub name: String,
    /// Generation, such as "hopper".
    pub family: String,
    /// MiB of memory, nominal.
    pub memory_mib: u64,
    /// What it suits.
    pub workloads: Vec<Workload>,
    /// Price per GPU and hour where a node names none.
    pub reference_price: MicroUsd,
    /// Product names that it reports.
    pub aliases: Vec<String>,
}

impl ModelFacts {
    /// What [`crate::catalogue::identify`] needs of it.
    #[must_use]
    pub fn entry(&self) -> Entry<'_> {
        Entry { name: &self.name, memory_mib: self.memory_mib, aliases: &self.aliases }
    }
}

/// A Site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteFacts {
    /// Name.
    pub name: String,
    /// Name for people.
    pub display: String,
    /// Name of its supplier.
    pub supplier: String,
    /// Region, such as "eu-west".
    pub region: String,
    /// How far it is trusted.
    pub trust: Trust,
    /// Accepted, connected and not suspended: members may be placed there.
    pub open: bool,
}

/// A node at a Site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Name of the Site.
    pub site: String,
    /// Name of the node at its Site.
    pub node: String,
    /// Name of the model; one that is not in the catalogue (such as "") is never placed on.
    pub model: String,
    /// MiB of memory of each GPU, as reported; 0: not known.
    pub memory_mib: u64,
    /// GPUs that the Site offers.
    pub allocatable: u32,
    /// Of these, in use by others than the hub's Clusters.
    pub used_by_others: u32,
    /// Ready and not unschedulable.
    pub usable: bool,
    /// Price per GPU and hour; None: the model's reference price.
    pub price: Option<MicroUsd>,
}

/// GPUs that one member of a Cluster holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holding {
    /// Rank of the member.
    pub rank: u32,
    /// Incarnation of the member.
    pub incarnation: u64,
    /// Name of the Site.
    pub site: String,
    /// Name of the node at its Site.
    pub node: String,
    /// GPUs.
    pub gpus: u32,
}

/// Counts of nodes and GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Nodes.
    pub nodes: u64,
    /// GPUs that these offer.
    pub gpus: u64,
    /// Of these on usable nodes, held by no Cluster and not in use by others.
    pub free: u64,
}
