//! Which nodes of a Site the members of a gang get: all of them or none.
//!
//! [`Nodes`] is what a Site's machines have and what is taken on them. [`decide`] answers one [`GangRequest`] on it,
//! changing nothing; the caller then takes what was decided. [`Hold`] is what a gang goes through from its first
//! decision to its last bound pod.

mod amounts;
mod decide;
mod hold;
mod node;
mod refusal;
#[cfg(test)]
mod tests;

pub use amounts::{Amounts, POD_SLOT, RESOURCE_PODS};
pub use decide::{Assignment, GangRequest, MemberRequest, decide};
pub use hold::{Hold, Mode, Phase, RefusedFor};
pub use node::{Effect, NodeState, NodeTerm, Nodes, Operator, Requirement, Shape, Taint, Toleration, Why};
pub use refusal::GangRefusal;
