//! The boot-time clock: it never jumps, and it counts the time that the machine was suspended. And the wall clock beside
//! it, for those who ask whether the two agree.

use std::time::Duration;

/// Time since the machine booted (`CLOCK_BOOTTIME`).
///
/// Leases are judged by this clock: a suspended machine must find its lease expired when it wakes up.
#[must_use]
pub fn boot_time() -> Duration {
    now(rustix::time::ClockId::Boottime)
}

/// Boot time and wall clock (since 1970) at one moment.
#[must_use]
pub fn both_clocks() -> (Duration, Duration) {
    // Whoever is held up between the two looks would see clocks that disagree.
    const MOMENT: Duration = Duration::from_millis(10);
    loop {
        let (boot, wall) = (boot_time(), now(rustix::time::ClockId::Realtime));
        if boot_time().saturating_sub(boot) <= MOMENT {
            return (boot, wall);
        }
    }
}

fn now(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    // Neither is negative (a wall clock before 1970 counts as 1970), and nanoseconds are below one second.
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What changes with each boot of the machine.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
