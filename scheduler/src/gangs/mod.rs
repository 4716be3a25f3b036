//! What is known of each gang.

mod group;
mod object;

pub(crate) use group::{Group, MemberAt, Readiness};
pub(crate) use object::{GangEntry, MemberState, StatusChange};
