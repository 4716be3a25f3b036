//! Health of devices: what was noticed about one, and whether it may be given out.

pub mod preferred;
mod reading;
mod verdict;

pub use reading::{
    ClockLimits, EccCounts, Fault, LinkCounts, Process, Reading, RecoveryAction, RemappedRows, Temperature,
};
pub use verdict::{Reason, State, Verdict};
