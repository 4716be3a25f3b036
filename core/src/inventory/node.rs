//! A node as the inventory keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::units::MicroUsd;

/// What makes nodes of a Site alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PoolKey {
    // First, so that the pools of one model stand together.
    pub(crate) model: u32,
    pub(crate) memory_mib: u64,
    pub(crate) price: Option<MicroUsd>,
}

/// What a node offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) key: PoolKey,
    pub(super) allocatable: u32,
    pub(super) used_by_others: u32,
    pub(super) usable: bool,
}

/// A node that is known, or gone with members still on it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: Arc<str>,
    /// None while it is gone.
    pub(super) offer: Option<Offer>,
    /// GPUs held by Cluster UID.
    pub(super) holders: BTreeMap<String, u64>,
    /// Sum of `holders`.
    pub(super) held: u64,
    /// When the Site refused it.
    pub(super) blocked: Option<Duration>,
}

impl Node {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), offer: None, holders: BTreeMap::new(), held: 0, blocked: None }
    }

    /// GPUs that nobody has; 0 when it is overbooked or gone.
    pub(super) fn free(&self) -> u32 {
        let Some(offer) = &self.offer else { return 0 };
        let ours = offer.allocatable.saturating_sub(offer.used_by_others);
        u32::try_from(u64::from(ours).saturating_sub(self.held)).unwrap_or(0)
    }

    /// Whether Clusters hold more than there is.
    pub(super) fn overbooked(&self) -> bool {
        self.offer.as_ref().is_some_and(|offer| self.held > u64::from(offer.allocatable))
    }

    /// What it offers to new members, in terms in which more is better and everything else equal.
    pub(super) fn chance(&self) -> Option<(PoolKey, u32)> {
        let offer = self.offer.as_ref()?;
        let free = self.free();
        (offer.usable && self.blocked.is_none() && free > 0).then_some((offer.key, free))
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.offer.is_none() && self.holders.is_empty()
    }
}
