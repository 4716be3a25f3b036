//! How long a Site may be silent.

use std::time::Duration;

use atoll_api::ClusterSlice;

/// How often a Site sends heartbeats, and after how much silence it counts as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// From the last heartbeat to being absent.
    pub patience: Duration,
}

impl Rhythm {
    /// Shortened so that a Site is found absent when its first members are asked to stop, with room for two lost
    /// heartbeats.
    #[must_use]
    pub fn of(self, shortest_stop: Option<Duration>) -> Self {
        let patience = shortest_stop.map_or(self.patience, |stop| stop.min(self.patience));
        Self { heartbeat: self.heartbeat.min(patience / 3), patience }
    }
}

/// The shortest time after which members of these slices are asked to stop; those that run on without a lease never are.
pub fn shortest_stop<'a>(slices: impl Iterator<Item = &'a ClusterSlice>) -> Option<Duration> {
    slices
        .filter(|slice| !slice.spec.autonomous)
        .map(|slice| Duration::from_secs(u64::try_from(slice.spec.fence.stop_seconds).unwrap_or(0).max(1)))
        .min()
}

/// When a Site was last heard and granted a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// When, boot time.
    heard: Duration,
    /// What was asked of it then. A slice with shorter times changes what is asked from the next heartbeat on.
    patience: Duration,
    /// When it was last granted a lease, or may have been; boot time.
    last_grant: Duration,
}

impl Pulse {
    /// A session begins. What an earlier one granted was granted before.
    #[must_use]
    pub fn begin(now: Duration, rhythm: Rhythm) -> Self {
        Self { heard: now, patience: rhythm.patience, last_grant: now }
    }

    /// A lease is about to be granted.
    pub fn grant(&mut self, now: Duration) {
        self.last_grant = now;
    }

    /// When it was last granted a lease, or may have been; boot time.
    #[must_use]
    pub fn last_grant(&self) -> Duration {
        self.last_grant
    }

    /// A heartbeat came.
    pub fn heartbeat(&mut self, now: Duration, rhythm: Rhythm) {
        self.heard = now;
        self.patience = rhythm.patience;
    }

    /// How long until the Site is absent; None: it is.
    #[must_use]
    pub fn left(&self, now: Duration) -> Option<Duration> {
        self.patience.checked_sub(now.saturating_sub(self.heard)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const DEFAULT: Rhythm = Rhythm { heartbeat: Duration::from_secs(10), patience: Duration::from_secs(30) };

    #[test]
    fn short_fences_ask_for_more_heartbeats_and_less_patience() {
        for (stop, heartbeat, patience) in [
            (None, s(10), s(30)),
            (Some(s(60)), s(10), s(30)),
            (Some(s(30)), s(10), s(30)),
            (Some(s(15)), s(5), s(15)),
            (Some(s(3)), s(1), s(3)),
        ] {
            assert_eq!(DEFAULT.of(stop), Rhythm { heartbeat, patience }, "{stop:?}");
        }
        let impatient = Rhythm { heartbeat: s(10), patience: s(6) };
        assert_eq!(impatient.of(None).heartbeat, s(2), "a heartbeat comes well within the patience");
    }

    #[test]
    fn the_shortest_stop_of_all_slices_counts() {
        let mut slices = ["a", "b"].map(|name| fixtures::slice("default", name, "site-a", 1));
        assert_eq!(shortest_stop(slices.iter()), Some(s(60)));
        slices[1].spec.fence.stop_seconds = 5;
        assert_eq!(shortest_stop(slices.iter()), Some(s(5)));
        slices[1].spec.autonomous = true;
        assert_eq!(shortest_stop(slices.iter()), Some(s(60)));
        assert_eq!(shortest_stop([].iter()), None);
    }

    #[test]
    fn a_site_is_absent_when_its_silence_is_as_long_as_the_patience_at_its_last_heartbeat() {
        let mut pulse = Pulse::begin(s(100), DEFAULT);
        assert_eq!(pulse.left(s(100)), Some(s(30)));
        assert_eq!(pulse.left(s(129)), Some(s(1)));
        assert_eq!(pulse.left(s(130)), None);
        assert_eq!(pulse.left(s(999)), None);
        pulse.heartbeat(s(125), DEFAULT.of(Some(s(6))));
        assert_eq!(pulse.left(s(130)), Some(s(1)));
        assert_eq!(pulse.left(s(131)), None);
        assert_eq!(pulse.last_grant(), s(100), "what an earlier session granted was granted before");
        pulse.grant(s(126));
        assert_eq!(pulse.last_grant(), s(126));
    }
}
