mod day;
mod families;
mod holds;
mod occupancy;
mod properties;
mod xids;

use std::time::Duration;

use super::*;
use crate::device::{ClockLimits, EccCounts, LinkCounts, Process, RecoveryAction, RemappedRows, Temperature};

/// A device that is watched once a second.
#[derive(Clone)]
struct Watched {
    health: DeviceHealth,
    now: Duration,
    /// What the next reading says.
    reading: Reading,
}

impl Watched {
    /// Of a driver that names recovery actions, or of an older one.
    fn new(instance: bool, driver_names_action: bool) -> Self {
        let mut watched = Self {
            health: DeviceHealth::new(instance),
            now: Duration::from_secs(1000),
            reading: clean(driver_names_action),
        };
        watched.seconds(3);
        assert_eq!(watched.state(), State::Healthy);
        watched
    }

    fn modern() -> Self {
        Self::new(false, true)
    }

    fn seconds(&mut self, count: u64) {
        for _ in 0..count {
            self.now += Duration::from_secs(1);
            self.health.reading(&self.reading, self.now);
        }
    }

    fn fault(&mut self, fault: &Fault) {
        self.now += Duration::from_millis(100);
        self.health.fault(fault, self.now);
    }

    fn verdict(&self) -> Verdict {
        self.health.verdict(self.now)
    }

    fn state(&self) -> State {
        self.verdict().state
    }

    fn codes(&self) -> Vec<&'static str> {
        self.verdict().reasons.iter().map(|reason| reason.code).collect()
    }

    /// It is like this for one reason, which has something to say.
    fn is(&self, state: State, code: &str) {
        let verdict = self.verdict();
        assert_eq!(verdict.state, state, "{verdict:?}");
        assert_eq!(self.codes(), [code]);
        assert!(verdict.reasons[0].message.len() > 30, "{verdict:?}");
        assert!(verdict.reasons[0].since <= self.now);
    }

    fn healthy_within(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.seconds(1);
            if self.state() == State::Healthy {
                assert_eq!(self.codes(), Vec::<&str>::new());
                return;
            }
        }
        panic!("after {seconds} s: {:?}", self.verdict());
    }

    fn stays(&mut self, state: State, seconds: u64) {
        for _ in 0..seconds {
            self.seconds(1);
            assert_eq!(self.state(), state, "{:?}", self.verdict());
        }
    }
}

/// What a GPU says with which all is well.
fn clean(driver_names_action: bool) -> Reading {
    Reading {
        lost: false,
        recovery_action: driver_names_action.then_some(RecoveryAction::None),
        ecc: Some(EccCounts::default()),
        sram_threshold_exceeded: Some(false),
        remapped: Some(RemappedRows::default()),
        retirement_pending: Some(false),
        links: (0..4).map(|link| LinkCounts { link, active: link < 3, ..LinkCounts::default() }).collect(),
        temperature: Some(Temperature { gpu: 40, memory: Some(45), slowdown: Some(87), shutdown: Some(92) }),
        clock_limits: Some(ClockLimits::default()),
        power_milliwatts: Some(90_000),
        power_limit_milliwatts: Some(700_000),
        processes: Some(Vec::new()),
        memory_used_mib: Some(4),
    }
}

fn lost() -> Reading {
    Reading { lost: true, ..Reading::default() }
}
