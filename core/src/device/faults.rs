//! Faults that the driver reported as events: open until there is evidence that they are over.
//!
//! Where the driver names a recovery action, that is the evidence: any action but none keeps a fault open, none for
//! [`SETTLE`] ends it. Where it names none (older drivers), a fault stays open until a reset was seen: the device was
//! lost and is found again (the caller says lost also while the driver is away), or its ECC counters, which count
//! since the last reset, are back at zero. Nothing outlives this process: what was reported before it started is
//! known only as far as readings still show it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reading::{EccCounts, Fault, Reading, RecoveryAction};
use super::reasons;
use super::signals::SETTLE;
use super::verdict::{Reason, State};
use super::xid::{Response, xid};

/// XID 94 this much before or after an uncorrected error says that it was contained.
const CONTAINED_WITHIN: Duration = Duration::from_secs(10);
/// XID of a contained memory error.
const CONTAINED: u32 = 94;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Unavailable,
    Xid(u32),
    /// An uncorrected ECC error, however it was noticed.
    Memory,
    /// Many corrected ECC errors.
    Storm,
}

impl What {
    fn response(self) -> Response {
        match self {
            Self::Unavailable => Response::Reset,
            // Codes that are newer than the catalogue come from drivers that name recovery actions.
            Self::Xid(code) => xid(code).map_or(Response::DriverDecides, super::xid::Xid::response),
            Self::Memory => Response::Memory,
            Self::Storm => Response::Watch,
        }
    }
}

#[derive(Clone, Debug)]
struct Open {
    what: What,
    since: Duration,
    /// The last event of it.
    event: Duration,
    /// The last time there was reason to believe that it is not over.
    seen: Duration,
    /// A reset was seen since its last event, or the error was contained.
    over: bool,
}

/// Faults of one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    open: Vec<Open>,
    counts: BTreeMap<u32, u64>,
    driver_known: bool,
    lost: bool,
    contained: Option<Duration>,
    ecc: Option<EccCounts>,
}

impl Faults {
    /// Takes note of an event.
    pub fn fault(&mut self, fault: &Fault, now: Duration) {
        match *fault {
            Fault::Xid(code) => {
                let count = self.counts.entry(code).or_default();
                *count = count.saturating_add(1);
                if code == CONTAINED {
                    self.contained(now);
                }
                match What::Xid(code).response() {
                    Response::Nothing | Response::Application => {}
                    Response::Memory => self.open(What::Memory, now),
                    _ => self.open(What::Xid(code), now),
                }
            }
            Fault::EccUncorrected => self.open(What::Memory, now),
            Fault::EccStorm => self.open(What::Storm, now),
            Fault::Unavailable => self.open(What::Unavailable, now),
            // The next reading says what follows; other events are no faults.
            Fault::RecoveryActionChanged | Fault::Other(_) => {}
        }
    }

    /// Takes note of a reading. True: the device was lost until now.
    pub fn reading(&mut self, reading: &Reading, now: Duration) -> bool {
        if reading.lost {
            self.lost = true;
            for fault in &mut self.open {
                fault.seen = now;
            }
            return false;
        }
        let found_again = std::mem::take(&mut self.lost);
        self.driver_known |= reading.recovery_action.is_some();
        let corrected_more = self.counters(reading.ecc, found_again, now);
        if found_again {
            for fault in &mut self.open {
                fault.over = true;
            }
        }
        for fault in &mut self.open {
            let going_on = match (fault.what, reading.recovery_action) {
                (_, Some(action)) if action != RecoveryAction::None => true,
                (What::Storm, _) => corrected_more,
                (_, Some(_)) => false,
                (_, None) => !fault.over,
            };
            if going_on {
                fault.seen = now;
            }
        }
        self.open.retain(|fault| now.saturating_sub(fault.seen) < SETTLE);
        found_again
    }

    /// Follows the ECC counters. True: more errors were corrected.
    fn counters(&mut self, ecc: Option<EccCounts>, found_again: bool, now: Duration) -> bool {
        let Some(ecc) = ecc else { return false };
        let Some(before) = self.ecc.replace(ecc) else { return false };
        let nothing = EccCounts::default();
        if ecc == nothing && before != nothing {
            for fault in self.open.iter_mut().filter(|fault| fault.what.response().ends_with_reset()) {
                fault.over = true;
            }
        }
        // A reset takes the counters back, so after one they say nothing new until they grow again.
        if ecc.uncorrected > before.uncorrected && !found_again {
            self.open(What::Memory, now);
        }
        ecc.corrected > before.corrected
    }

    fn open(&mut self, what: What, now: Duration) {
        let contained = self.contained.is_some_and(|at| now.saturating_sub(at) <= CONTAINED_WITHIN);
        let over = what == What::Memory && contained;
        match self.open.iter_mut().find(|fault| fault.what == what) {
            Some(fault) => {
                fault.event = now;
                fault.seen = now;
                fault.over = over;
            }
            None => self.open.push(Open { what, since: now, event: now, seen: now, over }),
        }
    }

    fn contained(&mut self, now: Duration) {
        self.contained = Some(now);
        let recent = |fault: &&mut Open| now.saturating_sub(fault.event) <= CONTAINED_WITHIN;
        for fault in self.open.iter_mut().filter(|fault| fault.what == What::Memory).filter(recent) {
            fault.over = true;
        }
    }

    /// The driver names recovery actions.
    pub const fn driver_known(&self) -> bool {
        self.driver_known
    }

    /// XIDs so far, by code.
    pub const fn counts(&self) -> &BTreeMap<u32, u64> {
        &self.counts
    }

    pub fn reasons(&self, instance: bool) -> impl Iterator<Item = (State, Reason)> {
        self.open.iter().map(move |fault| {
            let condemns = fault.what.response().condemns(self.driver_known);
            let state = if condemns { State::Unhealthy } else { State::Degraded };
            let (code, message) = describe(fault.what, condemns, instance);
            (state, Reason { code, message, since: fault.since })
        })
    }
}

fn describe(what: What, condemns: bool, instance: bool) -> (&'static str, String) {
    let of = if instance { " on this instance" } else { "" };
    let remedy = what.response().remedy();
    let all = if instance && condemns { " (a reset ends the work on all instances of the GPU)" } else { "" };
    match what {
        What::Unavailable => {
            (reasons::DEVICE_UNAVAILABLE, format!("the driver says that the device cannot be used; {remedy}{all}"))
        }
        What::Memory => {
            (reasons::ECC_UNCORRECTED, format!("memory had an error{of} that ECC could not correct; {remedy}{all}"))
        }
        What::Storm => (
            reasons::ECC_STORM,
            format!("ECC corrects many errors{of}; if it repeats, reset the GPU when nothing runs on it"),
        ),
        What::Xid(code) => {
            let reason = if condemns { reasons::XID_FAULT } else { reasons::XID_WARNING };
            let message = match xid(code) {
                Some(row) => format!("XID {code}{of}, {}; {remedy}{all}", row.about),
                None => format!("XID {code}{of}, which is newer than our catalogue; {remedy}{all}"),
            };
            (reason, message)
        }
    }
}
