//! Every decision of Atoll, pure: no client, no clock, no IO.
//!
//! Time and randomness are arguments. The other rooms fetch what a decision needs, validate it into the types here,
//! and apply what comes out.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod catalogue;
pub mod cluster;
pub mod device;
pub mod freeze;
pub mod inventory;
pub mod lease;
pub mod member;
pub mod nodes;
pub mod packing;
pub mod placement;
pub mod scheduling;
pub mod session;
pub mod units;
pub mod watchdog;
pub mod words;
