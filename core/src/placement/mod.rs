//! Where the members of a Cluster go.
//!
//! Filters come first (model, memory, workload, usable, open, region, supplier, trust, price, survivors, refused), see
//! [`Filter`]. Of what is left a decision takes as many members as it can, then the fewest Sites, then the lowest
//! price, then the nodes that are left fullest, then the first by name. Equal inventories give equal decisions.

mod alternatives;
mod choose;
mod decision;
mod filter;
mod message;
mod place;
mod refusal;
mod request;
mod survey;
#[cfg(test)]
mod tests;

pub use decision::{Decision, NodeShare, SiteShare};
pub use filter::{Filter, FilterCount};
pub use place::{Explanation, explain, place};
pub use refusal::{Asked, Capacity, Change, Fit, Place, Refusal, RefusalKind};
pub use request::Request;
