//! The cycle against a Site in memory.

mod disorder;
mod gangs;
mod lines;
mod preemption;
mod properties;
mod scenarios;
pub(crate) mod world;
