//! The boot-time clock: it never jumps, and it counts the time that the machine was suspended.

use std::time::Duration;

/// Time since the machine booted (`CLOCK_BOOTTIME`).
///
/// Leases are judged by this clock: a suspended machine must find its lease expired when it wakes up.
#[must_use]
pub fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Boot time is never negative and its nanoseconds are below one second.
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
