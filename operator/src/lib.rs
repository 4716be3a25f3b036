//! The hub: controllers and gateway.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod controllers;
pub mod gateway;
pub mod metrics;
