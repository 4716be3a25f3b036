//! What is asked for.

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
    pub(super) fn gpus(&self) -> u32 {
        self.gpus_per_member.max(1)
    }

    pub(super) fn want(&self) -> u64 {
        self.ranks.len() as u64
    }

    pub(super) fn need(&self) -> u64 {
        u64::from(self.min_new).max(1).min(self.want())
    }
}
