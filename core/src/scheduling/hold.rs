//! What a gang goes through from its first decision to its last bound pod.

use std::time::Duration;

/// What the gang's owner wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Keep the capacity free, for a while.
    Hold,
    /// Bind the members.
    Run,
}

/// Why a gang is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedFor {
    /// It does not fit.
    InsufficientCapacity,
    /// The hold was not followed by Run in time.
    ReservationExpired,
    /// What it asks for cannot be understood or is not supported.
    NotSupported,
}

/// Where a gang stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not decided for this generation.
    Pending,
    /// Capacity is held for every member that is not bound.
    Reserved {
        /// When the hold ends, since the Unix epoch; `None` in [`Mode::Run`], where it lasts until the pods are bound.
        until: Option<Duration>,
    },
    /// Every member is bound.
    Bound,
    /// Not to be had; nothing is held.
    Refused(RefusedFor),
}

/// The state of one gang: Pending → Reserved → Bound, or Refused.
///
/// A new generation starts over, except that a hold goes on through the change to Run. In Hold, a refusal is the
/// answer to that generation: who asked has long withdrawn the gang elsewhere, and a later hold would keep capacity
/// from others for nobody. In Run it is tried again, as pods are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    generation: i64,
    mode: Mode,
    phase: Phase,
}

impl Hold {
    /// A gang that was not looked at yet.
    #[must_use]
    pub fn new(generation: i64, mode: Mode) -> Self {
        Self { generation, mode, phase: Phase::Pending }
    }

    /// A gang whose capacity was held, or that was bound or refused, before this process started.
    #[must_use]
    pub fn restored(generation: i64, mode: Mode, phase: Phase) -> Self {
        let phase = match (phase, mode) {
            (Phase::Reserved { .. }, Mode::Run) => Phase::Reserved { until: None },
            (phase, _) => phase,
        };
        Self { generation, mode, phase }
    }

    /// Generation of the spec that the phase answers.
    #[must_use]
    pub fn generation(&self) -> i64 {
        self.generation
    }

    /// What is wanted.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes note of the spec. True when it has to be decided (again).
    pub fn observe(&mut self, generation: i64, mode: Mode) -> bool {
        if generation == self.generation && mode == self.mode {
            return false;
        }
        self.generation = generation;
        self.mode = mode;
        self.phase = Phase::Pending;
        true
    }

    /// Whether members that are neither bound nor held are to be decided.
    #[must_use]
    pub fn wants_decision(&self) -> bool {
        !matches!((self.phase, self.mode), (Phase::Refused(_), Mode::Hold))
    }

    /// The members fit and are held from `now`. A hold that stands already is not made longer.
    pub fn fits(&mut self, now: Duration, hold: Duration) {
        self.phase = match (self.mode, self.phase) {
            (Mode::Run, _) => Phase::Reserved { until: None },
            (Mode::Hold, Phase::Reserved { until: Some(until) }) => Phase::Reserved { until: Some(until) },
            (Mode::Hold, _) => Phase::Reserved { until: Some(whole_seconds(now + hold)) },
        };
    }

    /// The members cannot be had.
    pub fn refuse(&mut self, reason: RefusedFor) {
        self.phase = Phase::Refused(reason);
    }

    /// Every member is bound.
    pub fn all_bound(&mut self) {
        self.phase = Phase::Bound;
    }

    /// When [`Hold::expire`] has to be called.
    #[must_use]
    pub fn expires_at(&self) -> Option<Duration> {
        match self.phase {
            Phase::Reserved { until } => until,
            _ => None,
        }
    }

    /// Ends a hold whose time is over. True when it did.
    pub fn expire(&mut self, now: Duration) -> bool {
        let over = self.expires_at().is_some_and(|until| now >= until);
        if over {
            self.phase = Phase::Refused(RefusedFor::ReservationExpired);
        }
        over
    }
}

/// Rounded up, because Kubernetes keeps times in whole seconds and a hold must not be shorter than it was announced.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(15);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_hold_lasts_at_least_as_long_as_announced_and_then_ends_once() {
        let mut hold = Hold::new(1, Mode::Hold);
        hold.fits(at(100.5), HOLD);
        assert_eq!(hold.phase(), Phase::Reserved { until: Some(at(116.0)) });
        assert!(!hold.expire(at(115.9)));
        assert!(hold.expire(at(116.0)));
        assert_eq!(hold.phase(), Phase::Refused(RefusedFor::ReservationExpired));
        assert!(!hold.expire(at(200.0)));
    }

    #[test]
    fn deciding_again_does_not_make_a_hold_longer() {
        let mut hold = Hold::new(1, Mode::Hold);
        hold.fits(at(100.0), HOLD);
        hold.fits(at(110.0), HOLD);
        assert_eq!(hold.expires_at(), Some(at(115.0)));
    }

    #[test]
    fn run_keeps_capacity_without_an_end() {
        let mut hold = Hold::new(1, Mode::Hold);
        hold.fits(at(100.0), HOLD);
        assert!(hold.observe(2, Mode::Run));
        hold.fits(at(101.0), HOLD);
        assert_eq!(hold.phase(), Phase::Reserved { until: None });
        assert!(!hold.expire(at(1_000.0)));
        hold.all_bound();
        assert_eq!(hold.phase(), Phase::Bound);
    }

    #[test]
    fn a_refusal_is_final_for_a_hold_and_tried_again_in_run() {
        for (mode, again) in [(Mode::Hold, false), (Mode::Run, true)] {
            let mut hold = Hold::new(1, mode);
            hold.refuse(RefusedFor::InsufficientCapacity);
            assert_eq!(hold.wants_decision(), again, "{mode:?}");
            assert!(hold.observe(2, mode));
            assert!(hold.wants_decision());
        }
    }

    #[test]
    fn a_restored_hold_in_run_does_not_expire() {
        let restored = Hold::restored(3, Mode::Run, Phase::Reserved { until: Some(at(5.0)) });
        assert_eq!(restored.expires_at(), None);
        let restored = Hold::restored(3, Mode::Hold, Phase::Reserved { until: Some(at(5.0)) });
        assert_eq!(restored.expires_at(), Some(at(5.0)));
    }
}
