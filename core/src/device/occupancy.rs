//! Who else uses a device. What is known about processes and memory while no container holds it is evidence; a list
//! that cannot be had is none.

use std::fmt::Write as _;
use std::time::Duration;

use super::reading::{Process, Reading};
use super::reasons;
use super::verdict::{Reason, State};

/// MiB in use up to which a device counts as empty: drivers and monitoring keep some.
pub const EMPTY_BELOW_MIB: u64 = 128;
/// How long processes have to be there to count as foreign: tools that look at a device come and go.
pub const FOREIGN_PROCESSES_AFTER: Duration = Duration::from_secs(5);
/// How long memory has to be in use, by no process that is known, to count as foreign.
pub const FOREIGN_MEMORY_AFTER: Duration = Duration::from_mins(1);

/// What a container leaves behind takes this long at most to go; afterwards it is named.
const LEAVING: Duration = Duration::from_secs(30);
/// A reading this old still says whether a device is empty.
const FRESH: Duration = Duration::from_secs(2);
/// Processes that a message names.
const NAMED: usize = 3;

#[derive(Clone, Debug)]
struct Span {
    since: Duration,
    seen: Duration,
}

impl Span {
    fn lasts(&self) -> Duration {
        self.seen.saturating_sub(self.since)
    }

    fn note(span: &mut Option<Self>, now: Duration) {
        span.get_or_insert(Self { since: now, seen: now }).seen = now;
    }
}

/// Use of one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Occupancy {
    held: bool,
    /// The last reading that showed it empty.
    empty: Option<Duration>,
    /// When it was released without being seen empty since.
    leaving: Option<Duration>,
    processes: Option<Span>,
    named: Vec<Process>,
    memory: Option<Span>,
}

impl Occupancy {
    pub fn held(&mut self, held: bool, now: Duration) {
        if held == self.held {
            return;
        }
        let empty = self.empty.filter(|at| now.saturating_sub(*at) <= FRESH);
        *self = Self { held, empty, ..Self::default() };
        if !held && empty.is_none() {
            self.leaving = Some(now);
        }
    }

    pub fn reading(&mut self, reading: &Reading, now: Duration) {
        if reading.lost {
            return;
        }
        let processes = reading.processes.as_deref();
        let busy = processes.map(|processes| !processes.is_empty());
        let full = reading.memory_used_mib.map(|used| used > EMPTY_BELOW_MIB);
        if busy != Some(true) && full != Some(true) {
            self.empty = Some(now);
            self.leaving = None;
        } else {
            self.empty = None;
        }
        if self.held {
            return;
        }
        match processes {
            Some([]) => self.processes = None,
            Some(processes) => {
                if self.processes.is_none() || !self.named.iter().any(|named| is_there(processes, *named)) {
                    self.named = processes.iter().copied().take(NAMED).collect();
                }
                Span::note(&mut self.processes, now);
            }
            None => {}
        }
        match full {
            Some(true) => Span::note(&mut self.memory, now),
            Some(false) => self.memory = None,
            None => {}
        }
    }

    pub fn reason(&self) -> Option<(State, Reason)> {
        if self.held {
            return None;
        }
        let after = if self.leaving.is_some() { LEAVING } else { FOREIGN_PROCESSES_AFTER };
        if let Some(span) = self.processes.as_ref().filter(|span| span.lasts() >= after) {
            return Some(reason(reasons::FOREIGN_PROCESSES, self.foreign_processes(), span.since));
        }
        if let Some(span) = self.memory.as_ref().filter(|span| span.lasts() >= FOREIGN_MEMORY_AFTER) {
            let message = format!(
                "more than {EMPTY_BELOW_MIB} MiB of its memory are in use, and neither a container nor a known \
                 process accounts for it; see `nvidia-smi`, end what uses it, or reset the GPU"
            );
            return Some(reason(reasons::FOREIGN_MEMORY, message, span.since));
        }
        let message = "its container ended, and processes or memory of it are still there; this passes by itself";
        self.leaving.map(|since| reason(reasons::NOT_YET_EMPTY, message.to_owned(), since))
    }

    fn foreign_processes(&self) -> String {
        let mut message = "processes that belong to no container of this node use it:".to_owned();
        for (index, process) in self.named.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing into a String cannot fail.
            let _ = write!(message, "{comma} {}", process.pid);
        }
        message.push_str("; end them (`ps -fp PID` says what they are) or keep this GPU out of the cluster");
        message
    }
}

fn is_there(processes: &[Process], one: Process) -> bool {
    processes.iter().any(|process| process.pid == one.pid)
}

fn reason(code: &'static str, message: String, since: Duration) -> (State, Reason) {
    (State::Unhealthy, Reason { code, message, since })
}
