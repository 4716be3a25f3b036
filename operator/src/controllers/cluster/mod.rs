//! Clusters: decided by one task, the engine, from everything that the hub knows.

mod barrier;
pub mod commit;
mod decide;
pub mod engine;
pub mod entry;
pub mod fences;
mod freezing;
mod intake;
pub mod notes;
pub mod sites;
pub mod slices;
mod state;
pub mod status;
#[cfg(test)]
mod status_tests;
pub mod writer;
