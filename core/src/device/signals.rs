//! Defects that readings show: each is there or not in every reading, counts from the first that shows it, and is over
//! when readings have shown none of it for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::reading::{ClockLimits, LinkCounts, Reading, RecoveryAction};
use super::reasons;
use super::verdict::{Reason, State};

/// How long readings have to be clean until a defect counts as over: long enough that a driver has updated what it
/// says after a fault, and that clocks which are limited every other second are limited. With a reading every 5 s or
/// more often, a recovered device is Healthy within 10 s.
pub const SETTLE: Duration = Duration::from_secs(5);

/// Degrees Celsius below a limit at which a temperature is fine again.
const MARGIN: i32 = 3;
/// Growth of link counters that is worth a word, without a pause of [`SETTLE`] in between.
const REPLAYS: u64 = 10;
const RECOVERIES: u64 = 2;
const CRC_ERRORS: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Signal {
    Lost,
    Recovery,
    SramThreshold,
    RemapFailed,
    RetirementPending,
    LinkDown,
    OverTemperature,
    HardwareThermal,
    PowerBrake,
    HardwareSlowdown,
    RemapPending,
    ResetAdvised,
    LinkErrors,
    HighTemperature,
    SoftwareThermal,
    PowerAboveLimit,
}

use Signal as S;

const ALL: [Signal; 16] = [
    S::Lost,
    S::Recovery,
    S::SramThreshold,
    S::RemapFailed,
    S::RetirementPending,
    S::LinkDown,
    S::OverTemperature,
    S::HardwareThermal,
    S::PowerBrake,
    S::HardwareSlowdown,
    S::RemapPending,
    S::ResetAdvised,
    S::LinkErrors,
    S::HighTemperature,
    S::SoftwareThermal,
    S::PowerAboveLimit,
];

impl Signal {
    /// Seconds until it is a reason at all, and until the device is Unhealthy for it. What stands in the driver's
    /// books counts at once; what passes in normal operation has to last.
    const fn seconds(self) -> (u64, Option<u64>) {
        match self {
            S::Lost
            | S::Recovery
            | S::SramThreshold
            | S::RemapFailed
            | S::RetirementPending
            | S::LinkDown
            | S::OverTemperature => (0, Some(0)),
            S::HardwareThermal | S::PowerBrake => (3, Some(60)),
            S::HardwareSlowdown => (10, Some(60)),
            S::RemapPending | S::ResetAdvised | S::LinkErrors => (0, None),
            S::HighTemperature => (10, None),
            S::SoftwareThermal | S::PowerAboveLimit => (60, None),
        }
    }

    const fn code(self) -> &'static str {
        match self {
            S::Lost => reasons::DEVICE_LOST,
            S::Recovery => reasons::RECOVERY_ACTION_NEEDED,
            S::SramThreshold => reasons::SRAM_THRESHOLD_EXCEEDED,
            S::RemapFailed => reasons::ROW_REMAP_FAILED,
            S::RetirementPending => reasons::PAGE_RETIREMENT_PENDING,
            S::LinkDown => reasons::LINK_DOWN,
            S::OverTemperature => reasons::OVER_TEMPERATURE,
            S::HardwareThermal => reasons::HARDWARE_THERMAL_SLOWDOWN,
            S::PowerBrake => reasons::POWER_BRAKE,
            S::HardwareSlowdown => reasons::HARDWARE_SLOWDOWN,
            S::RemapPending => reasons::ROW_REMAP_PENDING,
            S::ResetAdvised => reasons::RESET_ADVISED,
            S::LinkErrors => reasons::LINK_ERRORS,
            S::HighTemperature => reasons::HIGH_TEMPERATURE,
            S::SoftwareThermal => reasons::SOFTWARE_THERMAL_SLOWDOWN,
            S::PowerAboveLimit => reasons::POWER_ABOVE_LIMIT,
        }
    }
}

#[derive(Clone, Debug)]
struct Noted {
    since: Duration,
    seen: Duration,
    /// Made when it was first seen: figures that change with every reading would make every reading news.
    message: String,
}

/// Defects of one device that are there now or were until recently.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    noted: BTreeMap<Signal, Noted>,
    links: Links,
}

impl Signals {
    /// Takes note of a reading; `driver_known`: the driver names recovery actions.
    pub fn reading(&mut self, reading: &Reading, driver_known: bool, now: Duration) {
        self.links.reading(&reading.links, now);
        for signal in ALL {
            match self.shown(signal, reading, driver_known) {
                Some(true) => {
                    let message = || self.links.message(signal).unwrap_or_else(|| message(signal, reading));
                    self.noted.entry(signal).and_modify(|noted| noted.seen = now).or_insert_with(|| Noted {
                        since: now,
                        seen: now,
                        message: message(),
                    });
                }
                Some(false) if self.settled(signal, now) => {
                    self.noted.remove(&signal);
                }
                // What cannot be read proves nothing, neither way.
                Some(false) | None => {}
            }
        }
    }

    fn settled(&self, signal: Signal, now: Duration) -> bool {
        self.noted.get(&signal).is_some_and(|noted| now.saturating_sub(noted.seen) >= SETTLE)
    }

    /// The device was lost and is there again: what was known of it before no longer counts.
    pub fn found_again(&mut self) {
        self.noted.retain(|signal, _| *signal == S::Lost);
        self.links.previous.clear();
    }

    pub fn reasons(&self) -> impl Iterator<Item = (State, Reason)> {
        self.noted.iter().filter_map(|(signal, noted)| {
            let age = noted.seen.saturating_sub(noted.since).as_secs();
            let (degraded, unhealthy) = signal.seconds();
            let state = match unhealthy {
                Some(limit) if age >= limit => State::Unhealthy,
                _ if age >= degraded => State::Degraded,
                _ => return None,
            };
            Some((state, Reason { code: signal.code(), message: noted.message.clone(), since: noted.since }))
        })
    }

    /// Whether a reading shows a defect; None where it does not say.
    fn shown(&self, signal: Signal, reading: &Reading, driver_known: bool) -> Option<bool> {
        if reading.lost {
            return (signal == S::Lost).then_some(true);
        }
        // Near a limit, what was above it before still is.
        let above = |value: i32, limit: i32| {
            value >= limit || (self.noted.contains_key(&signal) && value > limit.saturating_sub(MARGIN))
        };
        let clocks = |test: fn(ClockLimits) -> bool| reading.clock_limits.map(test);
        match signal {
            S::Lost => Some(false),
            S::Recovery => reading.recovery_action.map(|action| action != RecoveryAction::None),
            S::SramThreshold => reading.sram_threshold_exceeded,
            S::RemapFailed => reading.remapped.map(|rows| rows.failed),
            S::RemapPending => reading.remapped.map(|rows| rows.pending),
            S::RetirementPending => reading.retirement_pending,
            // A driver that names recovery actions says better whether errors of the past still matter.
            S::ResetAdvised if driver_known => Some(false),
            S::ResetAdvised => reading.ecc.map(|ecc| ecc.uncorrected > 0),
            S::LinkDown => (!reading.links.is_empty()).then(|| self.links.down().is_some()),
            S::LinkErrors => {
                (!reading.links.is_empty()).then(|| self.links.many(self.noted.contains_key(&S::LinkErrors)))
            }
            S::OverTemperature => reading.temperature.and_then(|t| Some(above(t.gpu, t.shutdown?))),
            S::HighTemperature => reading.temperature.and_then(|t| Some(above(t.gpu, t.slowdown?))),
            S::HardwareThermal => clocks(|limits| limits.hardware_thermal),
            S::SoftwareThermal => clocks(|limits| limits.software_thermal),
            S::PowerBrake => clocks(|limits| limits.power_brake),
            S::HardwareSlowdown => clocks(|limits| limits.hardware && !limits.hardware_thermal && !limits.power_brake),
            S::PowerAboveLimit => {
                let limit = reading.power_limit_milliwatts.filter(|limit| *limit > 0)?;
                Some(reading.power_milliwatts? > limit.saturating_add(limit / 10))
            }
        }
    }
}

/// What happened and what to do.
fn message(signal: Signal, reading: &Reading) -> String {
    let text = match signal {
        S::Lost => {
            "the driver no longer finds the GPU; look for XID 79 in the kernel's log, restart the machine, and check \
             the GPU's seat and power if it stays away"
        }
        S::Recovery => return recovery(reading.recovery_action.unwrap_or(RecoveryAction::None)),
        S::SramThreshold => "uncorrectable errors of SRAM passed NVIDIA's threshold; have the GPU replaced",
        S::RemapFailed => "memory rows are defective and no spare ones are left; have the GPU replaced",
        S::RetirementPending => {
            "defective memory pages are in use until the next reset; end what runs on the GPU and reset it"
        }
        S::RemapPending => {
            "defective memory rows are replaced at the next reset; reset the GPU when nothing runs on it"
        }
        S::ResetAdvised => {
            "there were uncorrectable memory errors since the last reset; reset the GPU when nothing runs on it"
        }
        S::OverTemperature => "the GPU is as hot as it can get before it turns itself off; check its cooling",
        S::HighTemperature => "the GPU is hotter than the limit at which its clocks are lowered; check its cooling",
        S::HardwareThermal => "the hardware halves the clocks because of heat; check cooling and airflow",
        S::SoftwareThermal => "the driver lowers the clocks because of heat, for a minute or more; check the cooling",
        S::PowerBrake => "the power supply asks for lower clocks; check the machine's power supplies",
        S::HardwareSlowdown => {
            "the hardware halves the clocks and does not say why; check power cables, power supply and cooling"
        }
        S::PowerAboveLimit => {
            "the GPU draws over 10 % more than its power limit, for a minute or more; check `nvidia-smi -q -d POWER`"
        }
        S::LinkDown => "a link is down; reset the GPU together with its peers",
        S::LinkErrors => "there are many errors on links; see `nvidia-smi nvlink -e`",
    };
    text.to_owned()
}

fn recovery(action: RecoveryAction) -> String {
    let text = match action {
        RecoveryAction::None => "the driver asks for nothing",
        RecoveryAction::ResetGpu => {
            "the driver asks for a reset of the GPU: end what runs on it, then `nvidia-smi --gpu-reset`"
        }
        RecoveryAction::RebootNode => "the driver asks for a restart of the machine",
        RecoveryAction::DrainPeerToPeer => {
            "the driver asks to end all work that uses several GPUs together; then it says what else is needed"
        }
        RecoveryAction::DrainAndReset => {
            "the driver asks to let running work end, to start none, and to reset the GPU then: \
             `nvidia-smi --gpu-reset`"
        }
        RecoveryAction::ResetBus => "the driver asks for a reset of the GPU's PCI Express bus; restart the machine",
        RecoveryAction::Other(number) => {
            return format!("the driver asks for recovery action {number}; see `nvidia-smi -q` and NVIDIA's manual");
        }
    };
    text.to_owned()
}

/// What is remembered about links.
#[derive(Clone, Debug, Default)]
struct Links {
    /// Links that were active once. Others have perhaps nothing at the other end.
    active_once: BTreeSet<u32>,
    previous: Vec<LinkCounts>,
    /// Growth since the last pause.
    burst: LinkCounts,
    grew: Option<Duration>,
    now: Duration,
}

impl Links {
    fn reading(&mut self, links: &[LinkCounts], now: Duration) {
        self.now = now;
        if links.is_empty() {
            return;
        }
        if self.grew.is_some_and(|grew| now.saturating_sub(grew) >= SETTLE) {
            self.burst = LinkCounts::default();
        }
        for link in links {
            if link.active {
                self.active_once.insert(link.link);
            }
            // Counters that fell were set back; they count from there.
            let Some(before) = self.previous.iter().find(|before| before.link == link.link) else { continue };
            let replays = link.replays.saturating_sub(before.replays);
            let recoveries = link.recoveries.saturating_sub(before.recoveries);
            let crc_errors = link.crc_errors.saturating_sub(before.crc_errors);
            if replays > 0 || recoveries > 0 || crc_errors > 0 {
                self.burst.link = link.link;
                self.burst.replays = self.burst.replays.saturating_add(replays);
                self.burst.recoveries = self.burst.recoveries.saturating_add(recoveries);
                self.burst.crc_errors = self.burst.crc_errors.saturating_add(crc_errors);
                self.grew = Some(now);
            }
        }
        self.previous.clear();
        self.previous.extend_from_slice(links);
    }

    /// A link that was active and is not.
    fn down(&self) -> Option<u32> {
        let down = self.previous.iter().find(|link| !link.active && self.active_once.contains(&link.link))?;
        Some(down.link)
    }

    /// Errors grew just now, and enough of them in all; any growth keeps what was `noted` going.
    fn many(&self, noted: bool) -> bool {
        let enough =
            self.burst.replays >= REPLAYS || self.burst.recoveries >= RECOVERIES || self.burst.crc_errors >= CRC_ERRORS;
        self.grew == Some(self.now) && (noted || enough)
    }

    fn message(&self, signal: Signal) -> Option<String> {
        match signal {
            S::LinkDown => {
                let link = self.down()?;
                Some(format!("NVLink {link} was active and is down; reset the GPU together with its peers"))
            }
            S::LinkErrors => Some(format!(
                "errors on NVLink grow fast, last on link {}; see `nvidia-smi nvlink -e`, check the seat of GPU and \
                 bridge",
                self.burst.link
            )),
            _ => None,
        }
    }
}
