//! One GPU: what is true of it now.

use crate::activity::Activity;
use crate::mig::GpuInstance;
use crate::model::{LinkEnd, Model};

/// One GPU. Times are seconds on the node's virtual clock.
#[derive(Clone, Debug)]
#[allow(missing_docs, clippy::struct_excessive_bools, reason = "the names say it; each is true or not by itself")]
pub struct Gpu {
    pub model: &'static Model,
    /// Place in the machine; does not change.
    pub slot: u32,
    pub uuid: String,
    pub serial: String,
    /// Whether it is in the machine.
    pub present: bool,
    /// It fell off the bus.
    pub lost: bool,
    pub activity: Activity,
    /// Set by a command; otherwise follows from the processes.
    pub load: Option<f64>,
    pub processes: Vec<Process>,
    /// MiB in use without a process.
    pub leaked_mib: u64,
    /// Since the driver was loaded.
    pub volatile: Ecc,
    /// Over its life.
    pub aggregate: Ecc,
    pub sram_threshold_exceeded: bool,
    pub remap: Remap,
    /// Addresses, single-bit and double-bit.
    pub retired: [Vec<u64>; 2],
    pub retirement_pending: bool,
    pub links: Vec<Link>,
    /// Degrees Celsius, where a command fixed it.
    pub temperature: Option<i32>,
    pub memory_temperature: Option<i32>,
    /// Milliwatts, where a command fixed it.
    pub power: Option<u32>,
    /// Bits of `nvmlClocksEventReason…` that a command set.
    pub throttle: u64,
    /// Nanoseconds of each bit up to `throttle_since`.
    pub throttled: [u64; 9],
    pub throttle_since: f64,
    /// `NVML_GPU_RECOVERY_ACTION_…`.
    pub recovery: u32,
    pub pcie_replays: u32,
    /// Whether a virtual GPU has its licence; None: it is not virtual.
    pub license: Option<bool>,
    /// None: not divided.
    pub mig: Option<Vec<GpuInstance>>,
}

/// A process on a GPU.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Process {
    pub pid: u32,
    pub memory_mib: u64,
    pub graphics: bool,
    /// (GPU instance, compute instance) on a divided GPU.
    pub instance: Option<(u32, u32)>,
    pub name: Option<String>,
    /// When it began.
    pub since: f64,
}

/// Counts of ECC errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Ecc {
    pub corrected_dram: u64,
    pub uncorrected_dram: u64,
    pub corrected_sram: u64,
    pub uncorrected_sram: u64,
}

impl Ecc {
    /// Of one kind (`nvmlMemoryErrorType_t`), everywhere.
    #[must_use]
    pub fn total(&self, uncorrected: bool) -> u64 {
        self.dram(uncorrected) + self.sram(uncorrected)
    }

    /// Of one kind in memory.
    #[must_use]
    pub fn dram(&self, uncorrected: bool) -> u64 {
        if uncorrected { self.uncorrected_dram } else { self.corrected_dram }
    }

    /// Of one kind in caches and registers.
    #[must_use]
    pub fn sram(&self, uncorrected: bool) -> u64 {
        if uncorrected { self.uncorrected_sram } else { self.corrected_sram }
    }
}

/// Rows of memory that were replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Remap {
    pub corrected: u32,
    pub uncorrected: u32,
    pub pending: bool,
    pub failed: bool,
}

/// One `NVLink`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Link {
    pub active: bool,
    pub replays: u64,
    pub recoveries: u64,
    pub crc_flit: u64,
    pub crc_data: u64,
    pub ecc: u64,
}

/// The clocks are limited because nothing runs.
pub const IDLE: u64 = 0x1;
/// Software, to stay below the power limit.
pub const SOFTWARE_POWER: u64 = 0x4;
/// Hardware, for any of the two below.
pub const HARDWARE: u64 = 0x8;
/// Software, because of temperature.
pub const SOFTWARE_THERMAL: u64 = 0x20;
/// Hardware, because of temperature.
pub const HARDWARE_THERMAL: u64 = 0x40;
/// Hardware, because the power supply asked.
pub const POWER_BRAKE: u64 = 0x80;

/// splitmix64: spreads a number over all bits.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A UUID that follows from two numbers.
pub(crate) fn uuid(prefix: &str, seed: u64, number: u64) -> String {
    let (high, low) = (mix(seed ^ mix(number)), mix(mix(seed).wrapping_add(number)));
    format!(
        "{prefix}-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0x0fff | 0x4000,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "values of sensors"
)]
impl Gpu {
    /// A new one.
    #[must_use]
    pub fn new(model: &'static Model, slot: u32, seed: u64) -> Self {
        let link = Link { active: true, replays: 0, recoveries: 0, crc_flit: 0, crc_data: 0, ecc: 0 };
        let random = mix(seed ^ u64::from(slot) << 32);
        Self {
            model,
            slot,
            uuid: uuid("GPU", seed, u64::from(slot) + 1),
            serial: format!("16{:011}", random % 100_000_000_000),
            present: true,
            lost: false,
            activity: Activity::new((random & 0xffff) as f64 / 10_000.0),
            load: None,
            processes: Vec::new(),
            leaked_mib: 0,
            volatile: Ecc::default(),
            aggregate: Ecc::default(),
            sram_threshold_exceeded: false,
            remap: Remap::default(),
            retired: [Vec::new(), Vec::new()],
            retirement_pending: false,
            links: vec![link; model.links.count as usize],
            temperature: None,
            memory_temperature: None,
            power: None,
            throttle: 0,
            throttled: [0; 9],
            throttle_since: 0.0,
            recovery: 0,
            pcie_replays: 0,
            license: None,
            mig: None,
        }
    }

    /// PCI (domain, bus): eight in a domain.
    #[must_use]
    pub fn pci(&self) -> (u32, u32) {
        const BUSES: [u32; 8] = [0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf];
        (self.slot / 8, BUSES[self.slot as usize % 8])
    }

    /// NUMA node: two in a machine, the first eight slots and later ones split in the middle.
    #[must_use]
    pub fn numa(&self) -> u32 {
        self.slot % 8 / 4
    }

    /// Where its links end: the slot of the neighbour, if not at switches.
    #[must_use]
    pub fn linked_slot(&self) -> Option<u32> {
        (self.model.links.to == LinkEnd::Neighbour).then_some(self.slot ^ 1)
    }

    /// After the processes or the load changed.
    pub fn settle(&mut self, now: f64) {
        let busy = if self.processes.is_empty() { 0.0 } else { 0.75 };
        self.activity.set(self.load.unwrap_or(busy), now);
    }

    /// MiB in use, without what the driver keeps.
    #[must_use]
    pub fn used_mib(&self) -> u64 {
        let used = self.leaked_mib + self.processes.iter().map(|process| process.memory_mib).sum::<u64>();
        used.min(self.model.memory_mib - self.model.reserved_mib)
    }

    /// Percent of time in which a kernel ran.
    #[must_use]
    pub fn utilization(&self, now: f64) -> u32 {
        (self.activity.share(now) * 100.0).round() as u32
    }

    /// Degrees Celsius.
    #[must_use]
    pub fn temperature(&self, now: f64) -> i32 {
        let heat = &self.model.heat;
        let warm = f64::from(heat.full - heat.idle) * self.activity.warmth(now);
        self.temperature.unwrap_or(heat.idle + warm.round() as i32)
    }

    /// Degrees Celsius; None without a sensor.
    #[must_use]
    pub fn memory_temperature(&self, now: f64) -> Option<i32> {
        let heat = &self.model.heat;
        heat.memory_sensor.then(|| self.memory_temperature.unwrap_or_else(|| self.temperature(now) + 7))
    }

    fn dynamic_milliwatts(&self) -> f64 {
        f64::from(self.model.power.limit - self.model.power.idle)
    }

    /// Milliwatts.
    #[must_use]
    pub fn milliwatts(&self, now: f64) -> u32 {
        let drawn = self.dynamic_milliwatts() * self.activity.share(now);
        self.power.unwrap_or(self.model.power.idle + drawn as u32)
    }

    /// Millijoules since the driver was loaded.
    #[must_use]
    pub fn millijoules(&self, now: f64) -> u64 {
        (f64::from(self.model.power.idle) * now + self.dynamic_milliwatts() * self.activity.busy(now)) as u64
    }

    /// Why the clocks are limited, as bits: what a command set, and what follows from temperature and load.
    #[must_use]
    pub fn clock_reasons(&self, now: f64) -> u64 {
        let mut reasons = self.throttle;
        if self.temperature(now) >= self.model.heat.slowdown {
            reasons |= HARDWARE | HARDWARE_THERMAL;
        }
        if reasons & (HARDWARE_THERMAL | POWER_BRAKE) != 0 {
            reasons |= HARDWARE;
        }
        if self.activity.level() == 0.0 {
            reasons |= IDLE;
        }
        if self.milliwatts(now) > self.model.power.limit / 100 * 98 {
            reasons |= SOFTWARE_POWER;
        }
        reasons
    }

    /// Nanoseconds in which the clocks were limited for one reason (one bit), since the driver was loaded.
    #[must_use]
    pub fn throttled_nanoseconds(&self, reason: u64, now: f64) -> u64 {
        let before = self.throttled.get(reason.trailing_zeros() as usize).copied().unwrap_or(0);
        let running = if self.clock_reasons(now) & reason == 0 { 0.0 } else { (now - self.throttle_since).max(0.0) };
        before + (running * 1e9) as u64
    }

    /// Has to be called before anything changes that the reasons follow from.
    pub fn count_throttling(&mut self, now: f64) {
        for bit in 0..self.throttled.len() {
            self.throttled[bit] = self.throttled_nanoseconds(1 << bit, now);
        }
        self.throttle_since = now;
    }

    /// MHz of the multiprocessors.
    #[must_use]
    pub fn graphics_mhz(&self, now: f64) -> u32 {
        let (idle, highest) = self.model.clocks.graphics;
        let reasons = self.clock_reasons(now);
        if reasons & HARDWARE != 0 {
            highest / 2
        } else if reasons & IDLE != 0 {
            idle
        } else if reasons & (SOFTWARE_POWER | SOFTWARE_THERMAL) != 0 {
            highest / 20 * 17
        } else {
            highest
        }
    }

    /// MHz of the memory.
    #[must_use]
    pub fn memory_mhz(&self) -> u32 {
        let (idle, highest) = self.model.clocks.memory;
        if self.activity.level() == 0.0 { idle } else { highest }
    }

    /// KiB over one link in one direction since the driver was loaded.
    #[must_use]
    pub fn link_kib(&self, now: f64) -> u64 {
        (f64::from(self.model.links.speed) * 1000.0 * 1000.0 / 1024.0 * 0.2 * self.activity.busy(now)) as u64
    }

    /// Bytes over PCI Express since the driver was loaded, (sent, received).
    #[must_use]
    pub fn pcie_bytes(&self, now: f64) -> (u64, u64) {
        let busy = self.activity.busy(now);
        ((busy * 1.2e9) as u64, (busy * 2.5e9) as u64)
    }
}
