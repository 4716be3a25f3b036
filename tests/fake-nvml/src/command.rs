//! Commands: one line of words each, which change a node.

use std::str::{FromStr, SplitWhitespace};

use crate::code::Code;
use crate::gpu::{self, Gpu, Process};
use crate::model::Model;
use crate::spec::{self, Invalid, invalid};
use crate::world::{Event, Failure, NO_INSTANCE, World};

/// The words of a command that are still unread.
struct Words<'a> {
    line: &'a str,
    unread: SplitWhitespace<'a>,
    /// `name=value` words, wherever they stand.
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        for word in self.unread.by_ref() {
            match word.split_once('=') {
                Some(option) if !option.1.is_empty() && option.0.chars().all(char::is_alphabetic) => {
                    self.options.push(option);
                }
                _ => return Some(word),
            }
        }
        None
    }

    fn word(&mut self) -> Result<&'a str, Invalid> {
        let line = self.line;
        self.next().ok_or_else(|| Invalid(format!("{line}: a word is missing at the end")))
    }

    fn number<T: FromStr>(&mut self) -> Result<T, Invalid> {
        let line = self.line;
        let word = self.word()?;
        word.parse().map_err(|_| Invalid(format!("{line}: {word} is not the number that belongs here")))
    }

    /// A number, or None where the word is `auto`.
    fn number_or_auto<T: FromStr>(&mut self) -> Result<Option<T>, Invalid> {
        let line = self.line;
        match self.word()? {
            "auto" => Ok(None),
            word => word.parse().map(Some).map_err(|_| Invalid(format!("{line}: {word} is no number, and not auto"))),
        }
    }

    /// Everything was read; options are those of `known`.
    fn end(&mut self, known: &[&str]) -> Result<(), Invalid> {
        if let Some(word) = self.next() {
            return invalid(format!("{}: {word} is too much", self.line));
        }
        match self.options.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => invalid(format!("{}: there is no {name} here", self.line)),
            None => Ok(()),
        }
    }

    fn option<T: FromStr>(&self, name: &str) -> Result<Option<T>, Invalid> {
        match self.options.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => {
                value.parse().map(Some).map_err(|_| Invalid(format!("{}: {name}={value} is no number", self.line)))
            }
            None => Ok(None),
        }
    }

    fn unknown<T>(&self, what: &str) -> Result<T, Invalid> {
        invalid(format!("{}: {what} is not known", self.line))
    }
}

impl World {
    /// Does what a line says, `real` seconds after the node began, and says what the driver reports of it. A line that
    /// cannot be done changes nothing. The crate's documentation lists the commands.
    pub fn apply(&mut self, line: &str, real: f64) -> Result<Vec<Event>, Invalid> {
        let mut words = Words { line, unread: line.split_whitespace(), options: Vec::new() };
        let now = self.time(real);
        match words.word()? {
            "driver" => self.driver_command(&mut words)?,
            "clock" => self.clock_command(&mut words, real)?,
            "fail" => self.fail_command(&mut words)?,
            "work" => {
                let function = words.word()?;
                words.end(&[])?;
                self.failures.retain(|failure| failure.function != function);
            }
            "exit" => {
                let pid: u32 = words.number()?;
                words.end(&[])?;
                for gpu in &mut self.gpus {
                    gpu.count_throttling(now);
                    gpu.processes.retain(|process| process.pid != pid);
                    gpu.settle(now);
                }
            }
            "plug" => {
                let what = words.word()?;
                words.end(&[])?;
                let room = self.gpus.len() < spec::MAXIMUM;
                if let Some(gpu) = what.parse().ok().and_then(|slot: usize| self.gpus.get_mut(slot)) {
                    gpu.present = true;
                } else if let Some(model) = Model::find(what).filter(|_| room) {
                    self.add(model);
                } else {
                    return words.unknown(what);
                }
            }
            "mig" => {
                let slot = self.slot(&mut words)?;
                let what = words.word()?;
                words.end(&[])?;
                let gpu = &mut self.gpus[slot];
                if what == "off" {
                    gpu.mig = None;
                } else {
                    let layout = spec::read_layout(gpu.model, what)?;
                    self.divide(slot, &layout)?;
                }
                // Programs on instances that are gone are gone.
                self.gpus[slot].processes.clear();
                self.gpus[slot].settle(now);
                return Ok(vec![event(slot, 0x100, 0)]);
            }
            command => {
                let slot = self.slot(&mut words)?;
                return one(&mut self.gpus[slot], command, &mut words, now);
            }
        }
        Ok(Vec::new())
    }

    fn slot(&self, words: &mut Words<'_>) -> Result<usize, Invalid> {
        let slot: usize = words.number()?;
        if slot < self.gpus.len() { Ok(slot) } else { invalid(format!("{}: there is no GPU {slot}", words.line)) }
    }

    fn driver_command(&mut self, words: &mut Words<'_>) -> Result<(), Invalid> {
        let what = words.word()?;
        words.end(&[])?;
        match what {
            "absent" => self.driver = Err(Code::DRIVER_NOT_LOADED),
            "mismatch" => self.driver = Err(Code::LIB_RM_VERSION_MISMATCH),
            "present" => self.driver = Ok(()),
            version if version.starts_with(|first: char| first.is_ascii_digit()) => {
                version.clone_into(&mut self.version);
            }
            other => return words.unknown(other),
        }
        Ok(())
    }

    fn clock_command(&mut self, words: &mut Words<'_>, real: f64) -> Result<(), Invalid> {
        let what = words.word()?;
        words.end(&[])?;
        let now = self.time(real);
        match what {
            "stop" => self.clock.stopped = Some(now),
            "run" => {
                self.clock.stopped = None;
                self.clock.ahead = now - real;
            }
            seconds => match seconds.strip_prefix('+').and_then(|seconds| seconds.parse::<f64>().ok()) {
                Some(seconds) if seconds >= 0.0 && seconds.is_finite() => {
                    self.clock.ahead += seconds;
                    self.clock.stopped = self.clock.stopped.map(|stopped| stopped + seconds);
                }
                _ => return words.unknown(what),
            },
        }
        Ok(())
    }

    fn fail_command(&mut self, words: &mut Words<'_>) -> Result<(), Invalid> {
        let slot = match words.word()? {
            "any" => None,
            slot => match slot.parse() {
                Ok(slot) => Some(slot),
                Err(_) => return words.unknown(slot),
            },
        };
        let function = words.word()?.to_owned();
        let code = words.word()?;
        let Some(code) = Code::parse(code) else { return words.unknown(code) };
        let left = match words.next() {
            None => None,
            Some(count) => match count.parse() {
                Ok(count) => Some(count),
                Err(_) => return words.unknown(count),
            },
        };
        words.end(&[])?;
        self.failures.push(Failure { slot, function, code, left });
        Ok(())
    }
}

fn event(slot: usize, kind: u64, data: u64) -> Event {
    let slot = u32::try_from(slot).unwrap_or_default();
    Event { slot, kind, data, gpu_instance: NO_INSTANCE, compute_instance: NO_INSTANCE }
}

const EVENTS: &[(&str, u64)] = &[
    ("single-bit-ecc", 0x1),
    ("double-bit-ecc", 0x2),
    ("pstate", 0x4),
    ("clock", 0x10),
    ("power-source", 0x80),
    ("mig-change", 0x100),
    ("ecc-storm", 0x200),
    ("dram-retirement", 0x400),
    ("dram-retirement-failure", 0x800),
    ("non-fatal-poison", 0x1000),
    ("fatal-poison", 0x2000),
    ("unavailable", 0x4000),
    ("recovery-action", 0x8000),
];

/// A command that concerns one GPU.
fn one(gpu: &mut Gpu, command: &str, words: &mut Words<'_>, now: f64) -> Result<Vec<Event>, Invalid> {
    let slot = gpu.slot as usize;
    match command {
        "xid" => {
            let mut raised = event(slot, 0x8, words.number()?);
            words.end(&["gi", "ci"])?;
            raised.gpu_instance = words.option("gi")?.unwrap_or(NO_INSTANCE);
            raised.compute_instance = words.option("ci")?.unwrap_or(NO_INSTANCE);
            return Ok(vec![raised]);
        }
        "event" => {
            let kind = words.word()?;
            words.end(&["data", "gi", "ci"])?;
            let known = EVENTS.iter().find(|(name, _)| *name == kind).map(|(_, bit)| *bit);
            let Some(bit) = known.or_else(|| kind.parse().ok()) else { return words.unknown(kind) };
            let mut raised = event(slot, bit, words.option("data")?.unwrap_or(0));
            raised.gpu_instance = words.option("gi")?.unwrap_or(NO_INSTANCE);
            raised.compute_instance = words.option("ci")?.unwrap_or(NO_INSTANCE);
            return Ok(vec![raised]);
        }
        "recovery" => {
            let action = match words.word()? {
                "none" => 0,
                "reset" => 1,
                "reboot" => 2,
                "drain-p2p" => 3,
                "drain-and-reset" => 4,
                "bus-reset" => 6,
                number => match number.parse() {
                    Ok(number) => number,
                    Err(_) => return words.unknown(number),
                },
            };
            words.end(&[])?;
            let changed = gpu.recovery != action;
            gpu.recovery = action;
            return Ok(if changed { vec![event(slot, 0x8000, u64::from(action))] } else { Vec::new() });
        }
        "ecc" => return ecc(gpu, words),
        "process" => process(gpu, words, now)?,
        "remap" => remap(gpu, words)?,
        "retire" => retire(gpu, words)?,
        "nvlink" => nvlink(gpu, words)?,
        "temperature" | "memory-temperature" | "power" | "load" | "throttle" => sensor(gpu, command, words, now)?,
        "memory" => {
            let leaked = words.number()?;
            words.end(&[])?;
            gpu.leaked_mib = leaked;
        }
        "pcie-replays" => {
            let more: u32 = words.number()?;
            words.end(&[])?;
            gpu.pcie_replays = gpu.pcie_replays.wrapping_add(more);
        }
        "license" => {
            let licensed = match words.word()? {
                "on" => true,
                "off" => false,
                other => return words.unknown(other),
            };
            words.end(&[])?;
            gpu.license = Some(licensed);
        }
        "lost" | "found" => {
            words.end(&[])?;
            gpu.lost = command == "lost";
        }
        "unplug" => {
            words.end(&[])?;
            gpu.present = false;
        }
        "reset" => {
            words.end(&[])?;
            reset(gpu, now);
        }
        other => return words.unknown(other),
    }
    Ok(Vec::new())
}

/// What a reset of a GPU mends.
fn reset(gpu: &mut Gpu, now: f64) {
    gpu.count_throttling(now);
    gpu.processes.clear();
    (gpu.leaked_mib, gpu.load) = (0, None);
    gpu.settle(now);
    (gpu.lost, gpu.recovery, gpu.throttle) = (false, 0, 0);
    gpu.volatile = gpu::Ecc::default();
    gpu.remap.pending = false;
    gpu.retirement_pending = false;
    for link in &mut gpu.links {
        *link = gpu::Link { active: true, replays: 0, recoveries: 0, crc_flit: 0, crc_data: 0, ecc: 0 };
    }
}

fn process(gpu: &mut Gpu, words: &mut Words<'_>, now: f64) -> Result<(), Invalid> {
    let (pid, memory_mib) = (words.number()?, words.number()?);
    let graphics = match words.next() {
        None => false,
        Some("graphics") => true,
        Some(other) => return words.unknown(other),
    };
    words.end(&["gi", "ci", "name"])?;
    let instance = match (words.option("gi")?, words.option("ci")?) {
        (Some(gi), ci) => Some((gi, ci.unwrap_or(0))),
        (None, Some(_)) => return invalid(format!("{}: a compute instance needs gi=", words.line)),
        (None, None) => None,
    };
    match (&gpu.mig, instance) {
        (None, None) => {}
        (Some(instances), Some((gi, ci)))
            if instances.iter().any(|known| known.id == gi && known.compute.iter().any(|known| known.id == ci)) => {}
        _ => return invalid(format!("{}: on a divided GPU, and only there, gi= and ci= name an instance", words.line)),
    }
    let name = words.option("name")?;
    gpu.count_throttling(now);
    gpu.processes.retain(|process| process.pid != pid || process.instance != instance);
    gpu.processes.push(Process { pid, memory_mib, graphics, instance, name, since: now });
    gpu.settle(now);
    Ok(())
}

fn ecc(gpu: &mut Gpu, words: &mut Words<'_>) -> Result<Vec<Event>, Invalid> {
    let kind = words.word()?;
    if kind == "threshold" {
        words.end(&[])?;
        gpu.sram_threshold_exceeded = true;
        return Ok(Vec::new());
    }
    let count: u64 = words.number()?;
    let place = words.next().unwrap_or("dram");
    words.end(&[])?;
    for counts in [&mut gpu.volatile, &mut gpu.aggregate] {
        let counter = match (kind, place) {
            ("corrected", "dram") => &mut counts.corrected_dram,
            ("corrected", "sram") => &mut counts.corrected_sram,
            ("uncorrected", "dram") => &mut counts.uncorrected_dram,
            ("uncorrected", "sram") => &mut counts.uncorrected_sram,
            _ => return words.unknown(kind),
        };
        *counter = counter.saturating_add(count);
    }
    Ok(vec![event(gpu.slot as usize, if kind == "corrected" { 0x1 } else { 0x2 }, count)])
}

fn remap(gpu: &mut Gpu, words: &mut Words<'_>) -> Result<(), Invalid> {
    let mut rows = gpu.remap;
    match words.word()? {
        "pending" => rows.pending = true,
        "failed" => rows.failed = true,
        "none" => rows = gpu::Remap::default(),
        "corrected" => rows.corrected = rows.corrected.saturating_add(words.number()?),
        "uncorrected" => rows.uncorrected = rows.uncorrected.saturating_add(words.number()?),
        other => return words.unknown(other),
    }
    words.end(&[])?;
    gpu.remap = rows;
    Ok(())
}

fn retire(gpu: &mut Gpu, words: &mut Words<'_>) -> Result<(), Invalid> {
    let what = words.word()?;
    let cause = match what {
        "single" => 0,
        "double" => 1,
        "pending" | "none" => {
            words.end(&[])?;
            gpu.retirement_pending = what == "pending";
            return Ok(());
        }
        other => return words.unknown(other),
    };
    let count: u64 = words.number()?;
    words.end(&[])?;
    let first = gpu.retired[cause].len() as u64;
    gpu.retired[cause].extend((first..first + count.min(64)).map(|page| 0x1000_0000 + page * 0x1000));
    gpu.retirement_pending = true;
    Ok(())
}

fn nvlink(gpu: &mut Gpu, words: &mut Words<'_>) -> Result<(), Invalid> {
    let links = gpu.links.len();
    let number: usize = words.number()?;
    let what = words.word()?;
    let count: u64 = if matches!(what, "up" | "down") { 0 } else { words.number()? };
    words.end(&[])?;
    let Some(link) = gpu.links.get_mut(number) else {
        return invalid(format!("{}: GPU {} has {links} links", words.line, gpu.slot));
    };
    let counter = match what {
        "up" | "down" => {
            link.active = what == "up";
            return Ok(());
        }
        "replays" => &mut link.replays,
        "recoveries" => &mut link.recoveries,
        "crc" => &mut link.crc_flit,
        "crc-data" => &mut link.crc_data,
        "ecc" => &mut link.ecc,
        other => return words.unknown(other),
    };
    *counter = counter.saturating_add(count);
    Ok(())
}

fn sensor(gpu: &mut Gpu, command: &str, words: &mut Words<'_>, now: f64) -> Result<(), Invalid> {
    let mut throttle = 0;
    let mut number: Option<i64> = None;
    if command == "throttle" {
        throttle = match words.word()? {
            "none" => 0,
            "sw-power" => gpu.throttle | gpu::SOFTWARE_POWER,
            "sw-thermal" => gpu.throttle | gpu::SOFTWARE_THERMAL,
            "hw" => gpu.throttle | gpu::HARDWARE,
            "hw-thermal" => gpu.throttle | gpu::HARDWARE_THERMAL,
            "power-brake" => gpu.throttle | gpu::POWER_BRAKE,
            other => return words.unknown(other),
        };
    } else {
        number = words.number_or_auto()?;
    }
    words.end(&[])?;
    let small = number.map(|number| i32::try_from(number.clamp(-100, 1000)).unwrap_or_default());
    gpu.count_throttling(now);
    match command {
        "throttle" => gpu.throttle = throttle,
        "temperature" => gpu.temperature = small,
        "memory-temperature" => gpu.memory_temperature = small,
        "power" => gpu.power = number.map(|number| u32::try_from(number).unwrap_or_default()),
        _ => {
            gpu.load = small.map(|percent| f64::from(percent.clamp(0, 100)) / 100.0);
            gpu.settle(now);
        }
    }
    Ok(())
}
