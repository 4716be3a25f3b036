//! The pod scheduler of a Site: gangs are bound all or nothing, single pods alone.
//!
//! Watches feed the [`cache`] and wake the [`queue`]; the [`cycle`] takes one gang or pod after the other, decides by
//! `atoll_core::gang`, assumes the result and hands it to the [`binder`], which has many bindings in flight. All
//! state is derived again from the API after a restart. Only [`run`], [`watch`], [`binder`] and [`writer`] see a
//! client; the cycle is a plain state machine that takes events and the time and gives out actions.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod binder;
pub mod cache;
pub mod cycle;
mod gang;
pub mod metrics;
pub mod objects;
pub mod permit;
pub mod proto;
pub mod queue;
pub mod run;
#[cfg(test)]
mod tests;
mod watch;
mod writer;
