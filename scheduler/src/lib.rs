//! The pod scheduler of a Site: gangs are bound all or nothing, single pods alone.
//!
//! [`watch`] reads everything that matters from the API server, and `cycle` is told of each change: a plain state
//! machine that takes events and the time, decides by `atoll_core::scheduling`, assumes the result and gives out
//! actions. Bindings go out by [`binder`], many at once; what is said of pods and gangs by [`writer`], beside them.
//! All state is derived again from the API after a restart. Only [`api`] and those who use it see the API server.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
mod binder;
pub mod cache;
pub mod cycle;
pub mod debug;
mod evictor;
mod gangs;
mod load;
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
