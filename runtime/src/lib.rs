//! What every Atoll process shares: logs, probes and metrics over HTTP, shutdown, per-object backoff, leader election.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod backoff;
pub mod clock;
pub mod http;
pub mod leader;
mod lease_record;
pub mod logs;
pub mod process;
pub mod readiness;
mod renewal;
