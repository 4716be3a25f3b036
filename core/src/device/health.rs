//! Whether a device may be given out, from everything that was noticed about it.
//!
//! Bad news counts when it comes; good news only when readings show it: nothing gets better because time passes,
//! except that a hold ends.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::faults::Faults;
use super::occupancy::Occupancy;
use super::reading::{Fault, Reading};
use super::reasons;
use super::signals::Signals;
use super::verdict::{Reason, State, Verdict};

/// How long the times when a device went down count.
pub const MEMORY_OF_FAULTS: Duration = Duration::from_hours(1);
/// So many of them within that time, and the device is held after it recovered.
pub const FAULTS_UNTIL_HELD: usize = 3;
/// How long it is held at first; twice as long with each further fault.
pub const HOLD: Duration = Duration::from_mins(10);
/// The longest hold.
pub const LONGEST_HOLD: Duration = Duration::from_hours(1);

/// Health of one device: a whole GPU, or one instance of a divided GPU. The caller hands each event to exactly the
/// devices that it concerns, all instances of a GPU where the driver names none of them.
///
/// All times are on one monotonic clock. An event should be followed by a reading at once: it may say more.
#[derive(Clone, Debug)]
pub struct DeviceHealth {
    instance: bool,
    faults: Faults,
    signals: Signals,
    occupancy: Occupancy,
    /// Defective now, as far as faults and readings say.
    down: bool,
    /// When it went down, within [`MEMORY_OF_FAULTS`].
    went_down: Vec<Duration>,
    /// From when until when it is held.
    hold: Option<(Duration, Duration)>,
}

impl DeviceHealth {
    /// A device about which nothing is known yet counts as Healthy: read it before it is given out.
    #[must_use]
    pub fn new(instance: bool) -> Self {
        Self {
            instance,
            faults: Faults::default(),
            signals: Signals::default(),
            occupancy: Occupancy::default(),
            down: false,
            went_down: Vec::new(),
            hold: None,
        }
    }

    /// Takes note of an event of this device.
    pub fn fault(&mut self, fault: &Fault, now: Duration) {
        self.faults.fault(fault, now);
        self.follow(now);
    }

    /// Takes note of a reading of this device. While the driver is away that is one of a lost device.
    pub fn reading(&mut self, reading: &Reading, now: Duration) {
        if self.faults.reading(reading, now) {
            self.signals.found_again();
        }
        self.signals.reading(reading, self.faults.driver_known(), now);
        self.occupancy.reading(reading, now);
        self.follow(now);
    }

    /// Takes note that a container holds it, or is about to get it, or no longer does.
    pub fn occupied(&mut self, held: bool, now: Duration) {
        self.occupancy.held(held, now);
    }

    /// Whether it may be given out, and why not.
    #[must_use]
    pub fn verdict(&self, now: Duration) -> Verdict {
        let mut all: Vec<(State, Reason)> = self.defects().collect();
        // An error that is still open says more than that there was one.
        if all.iter().any(|(_, reason)| reason.code == reasons::ECC_UNCORRECTED) {
            all.retain(|(_, reason)| reason.code != reasons::RESET_ADVISED);
        }
        if let Some((since, _)) = self.hold.filter(|(_, until)| now < *until) {
            let message = format!(
                "it recovered, but went down {} times within an hour, so it is held back for a while; if this \
                 repeats, have it checked",
                self.went_down.len()
            );
            all.push((State::Unhealthy, Reason { code: reasons::REPEATED_FAULTS, message, since }));
        }
        all.extend(self.occupancy.reason());
        let rank = |code: &str| reasons::ALL.iter().position(|known| *known == code);
        all.sort_by_key(|(state, reason)| (Reverse(*state), rank(reason.code)));
        let state = all.iter().map(|(state, _)| *state).max().unwrap_or_default();
        Verdict { state, reasons: all.into_iter().map(|(_, reason)| reason).collect() }
    }

    /// When the verdict changes without anything new being noticed. A time that has passed says nothing.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.hold.map(|(_, until)| until)
    }

    /// XIDs of this device so far, by code, harmless ones too.
    #[must_use]
    pub const fn xids(&self) -> &BTreeMap<u32, u64> {
        self.faults.counts()
    }

    fn defects(&self) -> impl Iterator<Item = (State, Reason)> {
        self.faults.reasons(self.instance).chain(self.signals.reasons())
    }

    /// Counts how often it goes down, and holds it when it comes back too often.
    fn follow(&mut self, now: Duration) {
        self.hold = self.hold.filter(|(_, until)| now < *until);
        let down = self.defects().any(|(state, _)| state == State::Unhealthy);
        if down && !self.down {
            self.went_down.retain(|at| now.saturating_sub(*at) < MEMORY_OF_FAULTS);
            self.went_down.push(now);
        }
        if self.down && !down {
            let longer = hold(self.went_down.len()).map(|length| (now, now.saturating_add(length)));
            self.hold = [self.hold, longer].into_iter().flatten().max_by_key(|(_, until)| *until);
        }
        self.down = down;
    }
}

/// How long a device is held after so many faults.
fn hold(faults: usize) -> Option<Duration> {
    let beyond = u32::try_from(faults.checked_sub(FAULTS_UNTIL_HELD)?).unwrap_or(u32::MAX);
    Some(HOLD.saturating_mul(2_u32.saturating_pow(beyond)).min(LONGEST_HOLD))
}
