//! Sessions of Sites: who may grant a lease, and from when it counts.
//!
//! All times are of the boot-time clock of whoever calls, which runs on while a machine sleeps; clocks of different
//! machines are never compared. The rules: an agent counts a lease from when it sent the heartbeat that the grant answers,
//! and takes grants of its present session only; a gateway notes a grant before it sends it, and grants only while it
//! holds its own Lease, counted from when it sent the renewal; others count that Lease from when they saw it change.

use std::collections::VecDeque;
use std::time::Duration;

/// Heartbeats of one session that wait for their grant. A new session begins with none, so that no grant of an older one
/// counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeats {
    newest: u64,
    unanswered: VecDeque<(u64, Duration)>,
}

impl Heartbeats {
    /// The sequence number of a heartbeat that is sent after `now`.
    pub fn next(&mut self, now: Duration) -> u64 {
        self.newest += 1;
        self.unanswered.push_back((self.newest, now));
        self.newest
    }

    /// When the heartbeat was sent that a grant answers; it answers the earlier ones too. None: the grant answers none of
    /// this session, or one that was answered before.
    pub fn answered(&mut self, sequence: u64) -> Option<Duration> {
        let at = self.unanswered.iter().position(|(sent, _)| *sent == sequence)?;
        self.unanswered.drain(..=at).next_back().map(|(_, sent)| sent)
    }
}

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

/// What a gateway does with a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Grants: noted already, to be sent now.
    Grant,
    /// Nothing: it may not grant now.
    Withhold,
}

/// A heartbeat that came after a later one: the agent broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("heartbeat {0} came after a later one")]
pub struct OutOfOrder(pub u64);

/// When a Site was last heard and granted a lease in a session; made when the session's number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    heard: Duration,
    /// What was asked of it then. A slice with shorter times changes what is asked from the next heartbeat on.
    patience: Duration,
    last_grant: Duration,
    newest: Option<u64>,
}

impl Pulse {
    /// A session begins. What an earlier one granted was granted before.
    #[must_use]
    pub fn begin(now: Duration, rhythm: Rhythm) -> Self {
        Self { heard: now, patience: rhythm.patience, last_grant: now, newest: None }
    }

    /// A heartbeat came; `lease_held`: the gateway holds its own Lease. A grant counts from here, before it is sent: the
    /// agent counts from when it sent the heartbeat, which was before this.
    ///
    /// # Errors
    /// [`OutOfOrder`]: the sequence does not grow.
    pub fn heartbeat(
        &mut self,
        sequence: u64,
        now: Duration,
        rhythm: Rhythm,
        lease_held: bool,
    ) -> Result<Answer, OutOfOrder> {
        if self.newest.is_some_and(|newest| sequence <= newest) {
            return Err(OutOfOrder(sequence));
        }
        self.newest = Some(sequence);
        self.heard = now;
        self.patience = rhythm.patience;
        if !lease_held {
            return Ok(Answer::Withhold);
        }
        self.last_grant = now;
        Ok(Answer::Grant)
    }

    /// How long until the Site is absent; None: it is.
    #[must_use]
    pub fn left(&self, now: Duration) -> Option<Duration> {
        self.patience.checked_sub(now.saturating_sub(self.heard)).filter(|left| !left.is_zero())
    }

    /// When it was last granted a lease, or may have been.
    #[must_use]
    pub fn last_grant(&self) -> Duration {
        self.last_grant
    }
}

/// Until when a gateway holds its own Lease. Others count the Sites of a gateway as lost when its Lease has not changed for
/// its whole duration, so the gateway counts from before it sent the renewal, and a little less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    until: Duration,
}

impl Tenure {
    /// Grants end so much before the Lease does, for what is under way.
    pub const MARGIN: Duration = Duration::from_millis(500);

    /// A renewal that was sent at `sent` has succeeded.
    #[must_use]
    pub fn renewed(sent: Duration, lasts: Duration) -> Self {
        Self { until: sent + lasts.saturating_sub(Self::MARGIN) }
    }

    /// Whether grants are allowed.
    #[must_use]
    pub fn held(self, now: Duration) -> bool {
        now < self.until
    }

    /// When they end.
    #[must_use]
    pub fn until(self) -> Duration {
        self.until
    }
}

/// A Lease of somebody else as this process saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenLease {
    version: Option<String>,
    since: Duration,
    lasts: Duration,
}

impl SeenLease {
    /// It was seen at `now` for the first time. `version` changes with each renewal, `None`: there is no such Lease; `lasts`
    /// is zero when nobody holds it.
    #[must_use]
    pub fn new(version: Option<String>, lasts: Duration, now: Duration) -> Self {
        Self { version, since: now, lasts }
    }

    /// It was seen again. Only a change prolongs it.
    pub fn see(&mut self, version: Option<String>, lasts: Duration, now: Duration) {
        if self.version != version {
            *self = Self::new(version, lasts, now);
        }
    }

    /// The version that was seen.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// When it ends unless it changes.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.since + self.lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const DEFAULT: Rhythm = Rhythm { heartbeat: Duration::from_secs(10), patience: Duration::from_secs(30) };

    #[test]
    fn a_grant_counts_from_when_its_own_heartbeat_was_sent() {
        let mut heartbeats = Heartbeats::default();
        let sequences: Vec<u64> = (1..=4).map(|n| heartbeats.next(s(n * 10))).collect();
        assert_eq!(sequences, [1, 2, 3, 4]);
        assert_eq!(heartbeats.answered(2), Some(s(20)));
        assert_eq!(heartbeats.answered(1), None, "an earlier one is answered already");
        assert_eq!(heartbeats.answered(9), None, "one that was never sent");
        assert_eq!(heartbeats.answered(4), Some(s(40)));
        assert_eq!(heartbeats.answered(4), None, "a grant counts once");
    }

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
    fn a_site_is_absent_when_its_silence_is_as_long_as_the_patience_at_its_last_heartbeat() {
        let mut pulse = Pulse::begin(s(100), DEFAULT);
        assert_eq!(pulse.left(s(100)), Some(s(30)));
        assert_eq!(pulse.left(s(129)), Some(s(1)));
        assert_eq!(pulse.left(s(130)), None);
        assert_eq!(pulse.left(s(999)), None);
        assert_eq!(pulse.heartbeat(1, s(125), DEFAULT.of(Some(s(6))), true), Ok(Answer::Grant));
        assert_eq!(pulse.left(s(130)), Some(s(1)));
        assert_eq!(pulse.left(s(131)), None);
    }

    #[test]
    fn a_grant_is_noted_only_when_it_is_given_and_heartbeats_grow() {
        let mut pulse = Pulse::begin(s(100), DEFAULT);
        assert_eq!(pulse.heartbeat(1, s(110), DEFAULT, true), Ok(Answer::Grant));
        assert_eq!(pulse.heartbeat(2, s(120), DEFAULT, false), Ok(Answer::Withhold));
        assert_eq!(pulse.last_grant(), s(110));
        assert_eq!(pulse.heartbeat(2, s(130), DEFAULT, true), Err(OutOfOrder(2)));
        assert_eq!(pulse.last_grant(), s(110));
    }

    #[test]
    fn a_gateway_stops_granting_before_others_count_its_lease_as_over() {
        let tenure = Tenure::renewed(s(100), s(300));
        assert!(tenure.held(s(399)));
        assert!(!tenure.held(s(400)));
        assert!(!Tenure::default().held(s(0)));
        // Whoever sees the renewal sees it after it was sent.
        let mut seen = SeenLease::new(Some("1".into()), s(300), s(100));
        seen.see(Some("1".into()), s(300), s(200));
        assert_eq!(seen.end(), s(400), "seeing it again does not prolong it");
        seen.see(Some("2".into()), s(300), s(200));
        assert_eq!(seen.end(), s(500));
        seen.see(None, Duration::ZERO, s(210));
        assert_eq!(seen.end(), s(210));
    }
}
