//! Objects of Atoll's API as the facts and requests that `atoll-core` decides on.
//!
//! Pure: no client, no clock, no IO. The operator and `kubectl atoll` both go through here, so what `explain` and
//! `simulate` say is what the operator decides on.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod error;
mod facts;
mod holdings;
mod state;
mod terms;
mod words;

pub use error::{InvalidSpec, Problem};
pub use facts::{model_facts, node_facts, site_facts};
pub use holdings::holdings;
pub use state::{
    cluster_state, committed, fenced_epoch, is_connected, is_draining, orphan_state, site_view, slice_state,
};
pub use terms::{ClusterTerms, FenceTimes};
pub use words::{kind, selection, span, trust, workload};
