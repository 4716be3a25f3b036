//! The cycle against a Site in memory.

mod properties;
mod scenarios;
pub(crate) mod world;
