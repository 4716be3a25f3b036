//! The protocols between a Site's agent and a gateway of the hub, and between a node's watchdog and the agent: generated
//! code, limits, digests, MACs, join tokens and key pins. Both ends use these, so that they cannot differ.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod digest;
pub mod limits;
pub mod mac;
pub mod pin;
pub mod token;

/// Generated from `proto/atoll/watchdog/v1/watchdog.proto`, which documents it.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod watchdog {
    include!("generated/atoll.watchdog.v1.rs");
}

/// Generated from `proto/atoll/gateway/v1/gateway.proto`, which documents it.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!("generated/atoll.gateway.v1.rs");
}
