//! Health of devices: what was noticed about one, and whether it may be given out.

mod faults;
mod health;
mod occupancy;
pub mod preferred;
mod reading;
pub mod reasons;
mod signals;
mod verdict;
mod xid;

pub use health::{DeviceHealth, FAULTS_UNTIL_HELD, HOLD, LONGEST_HOLD, MEMORY_OF_FAULTS};
pub use occupancy::{EMPTY_BELOW_MIB, FOREIGN_MEMORY_AFTER, FOREIGN_PROCESSES_AFTER};
pub use reading::{
    ClockLimits, EccCounts, Fault, LinkCounts, Process, Reading, RecoveryAction, RemappedRows, Temperature,
};
pub use signals::SETTLE;
pub use verdict::{Reason, State, Verdict};
pub use xid::{Advice, Response, Xid, catalogue, xid};
