//! What is pending, in which order, and where it is.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::LineId;
use crate::cycle::GangKey;
use crate::objects::ObjectKey;

/// What is tried as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// A gang.
    Gang(GangKey),
    /// A pod without a gang.
    Pod(ObjectKey),
}

/// For people.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gang(gang) => write!(f, "the gang {gang}"),
            Self::Pod(pod) => write!(f, "the pod {pod}"),
        }
    }
}

/// Which is tried first: the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// False for gangs that are bound in part: nothing else comes before they are whole.
    pub whole: bool,
    /// Priority, the highest first.
    pub priority: Reverse<i32>,
    /// Creation, since the Unix epoch.
    pub created: Duration,
}

/// Where something is that is pending.
#[derive(Clone, Debug)]
pub enum Place {
    /// Tried as soon as its turn comes.
    Ready(Order),
    /// Failed: not tried before the time, whatever happens.
    Delayed(Order, Duration),
    /// Waits for something about itself to change, which pushes it, at most until the time.
    Apart {
        /// Its order.
        order: Order,
        /// Why, for people.
        why: Option<Arc<str>>,
        /// Tried then at the latest.
        until: Option<Duration>,
    },
    /// Refused with its line.
    Lined {
        /// Its order.
        order: Order,
        /// The line.
        line: LineId,
        /// Tried then at the latest.
        until: Option<Duration>,
    },
}

impl Place {
    /// Its order among the pending.
    #[must_use]
    pub fn order(&self) -> Order {
        match self {
            Self::Ready(order) | Self::Delayed(order, _) | Self::Apart { order, .. } | Self::Lined { order, .. } => {
                *order
            }
        }
    }

    pub(super) fn due(&self) -> Option<Duration> {
        match self {
            Self::Ready(_) => None,
            Self::Delayed(_, until) => Some(*until),
            Self::Apart { until, .. } | Self::Lined { until, .. } => *until,
        }
    }
}

/// What a line says to someone who asks for the same.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nothing: it has to be decided.
    Free,
    /// An older one that asks for the same has not had its turn.
    Behind,
    /// It was refused, and nothing that could help happened since.
    Refused(Arc<str>),
    /// It was refused, and something happened that could help.
    Stale(LineId),
}
