//! A Site's end of the stream: the hub's slices become members here, and what becomes of them is told to the hub.
//!
//! Tasks and what they pass to each other:
//!
//! - [`session`] talks to a gateway: the hub's wishes go to the manager, reports and inventory to the hub, and grants
//!   into a watched value.
//! - [`manager`] alone knows what is wanted and what is there, has `atoll_core::member` decide, and has a
//!   [`runtime::MemberRuntime`] take the steps; [`kubernetes`] is the one there is.
//! - [`inventory`] watches Nodes and other pods.
//! - [`nodes`] answers the nodes' watchdogs with what the manager says.
//! - [`identity`] joins and renews the certificate.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod args;
pub mod convert;
#[cfg(test)]
mod fixtures;
pub mod identity;
pub mod inventory;
pub mod kubernetes;
pub mod manager;
pub mod metrics;
pub mod naming;
pub mod nodes;
pub mod outbox;
pub mod pod;
pub mod process;
pub mod runtime;
pub mod session;
pub mod tls;
