//! What follows from all that was noticed about a device.

use std::time::Duration;

/// Whether a device may be given out, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be given out.
    pub state: State,
    /// Why it is not Healthy, the gravest first. Empty when it is.
    pub reasons: Vec<Reason>,
}

/// Whether a device may be given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It may.
    #[default]
    Healthy,
    /// It may, and somebody should look at it.
    Degraded,
    /// It may not.
    Unhealthy,
}

/// Why a device is not Healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A word of the set that docs/troubleshooting.md explains, such as `RowRemapPending`.
    pub code: &'static str,
    /// What happened and what to do, for people.
    pub message: String,
    /// When it was first noticed, on the clock of the observations.
    pub since: Duration,
}
