//! How busy a GPU is: a wave around a level, so that its integral is known exactly at any time.

/// Share of time in which a GPU works, over time. Times are seconds on the node's virtual clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Activity {
    since: f64,
    level: f64,
    phase: f64,
    /// Busy seconds up to `since`.
    before: f64,
    /// A smoothed level at `since`: what the temperature follows.
    warmth: f64,
}

/// Seconds of one wave.
const PERIOD: f64 = 97.0;
/// Seconds in which two thirds of a change of temperature happen.
const LAG: f64 = 35.0;
const OMEGA: f64 = std::f64::consts::TAU / PERIOD;

impl Activity {
    /// Idle. The phase (radians) keeps GPUs from moving in step.
    #[must_use]
    pub fn new(phase: f64) -> Self {
        Self { since: 0.0, level: 0.0, phase, before: 0.0, warmth: 0.0 }
    }

    /// From now on, as busy as `level` (0 to 1) on average.
    pub fn set(&mut self, level: f64, now: f64) {
        (self.before, self.warmth) = (self.busy(now), self.warmth(now));
        (self.since, self.level) = (now, level.clamp(0.0, 1.0));
    }

    /// The average that it was set to.
    #[must_use]
    pub fn level(&self) -> f64 {
        self.level
    }

    fn amplitude(&self) -> f64 {
        0.3 * self.level.min(1.0 - self.level)
    }

    /// Share now, 0 to 1.
    #[must_use]
    pub fn share(&self, now: f64) -> f64 {
        self.level + self.amplitude() * (OMEGA * now + self.phase).sin()
    }

    /// Seconds of full work since the driver was loaded; never falls.
    #[must_use]
    pub fn busy(&self, now: f64) -> f64 {
        let now = now.max(self.since);
        let wave = (OMEGA * self.since + self.phase).cos() - (OMEGA * now + self.phase).cos();
        self.before + self.level * (now - self.since) + self.amplitude() / OMEGA * wave
    }

    /// 0 (as cold as idle) to 1 (as warm as after long full work).
    #[must_use]
    pub fn warmth(&self, now: f64) -> f64 {
        let left = (-(now - self.since).max(0.0) / LAG).exp();
        self.level + (self.warmth - self.level) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_the_integral_of_share_across_changes() {
        let mut activity = Activity::new(1.0);
        let (mut sum, mut now) = (0.0, 0.0);
        for level in [0.0, 0.7, 1.0, 0.2] {
            activity.set(level, now);
            for _ in 0..100_000 {
                sum += activity.share(now) * 0.001;
                now += 0.001;
            }
            assert!((activity.busy(now) - sum).abs() < 0.05, "{} {sum}", activity.busy(now));
        }
        assert!((activity.warmth(now) - 0.2).abs() < 0.1);
    }
}
