//! The cycle against an API server in memory.

mod properties;
mod scenarios;
mod world;
