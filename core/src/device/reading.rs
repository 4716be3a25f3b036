//! What a driver says about the health of one device. What it does not say is None.

/// What the driver says is needed until a device works again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecoveryAction {
    /// Nothing.
    None,
    /// A reset of the GPU.
    ResetGpu,
    /// A restart of the machine.
    RebootNode,
    /// The processes on it have to end, then a reset of its peers in the same link domain.
    DrainPeerToPeer,
    /// The processes on it have to end, then a reset.
    DrainAndReset,
    /// A reset of the bus below it.
    ResetBus,
    /// One that this version does not know, by the driver's number.
    Other(u32),
}

/// A fault that the driver reported as an event, of a device or of an instance on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An XID.
    Xid(u32),
    /// An uncorrectable ECC error.
    EccUncorrected,
    /// Corrected ECC errors above the driver's threshold within a short time.
    EccStorm,
    /// The device cannot be used, as the driver says, until the recovery action was taken.
    Unavailable,
    /// The recovery action changed: the next reading says to what.
    RecoveryActionChanged,
    /// An event of another kind, by the driver's number.
    Other(u64),
}

/// What one sample says about the health of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The driver no longer finds the device.
    pub lost: bool,
    /// What the driver says is needed.
    pub recovery_action: Option<RecoveryAction>,
    /// ECC errors since the driver was loaded.
    pub ecc: Option<EccCounts>,
    /// Uncorrectable errors of SRAM passed the threshold at which the device has to be replaced.
    pub sram_threshold_exceeded: Option<bool>,
    /// Rows of memory that were replaced by spare ones.
    pub remapped: Option<RemappedRows>,
    /// Pages of memory (before Ampere) wait for a reset to be retired.
    pub retirement_pending: Option<bool>,
    /// One per link that exists.
    pub links: Vec<LinkCounts>,
    /// Temperature and where it becomes dangerous.
    pub temperature: Option<Temperature>,
    /// Why the clocks are limited now.
    pub clock_limits: Option<ClockLimits>,
    /// Watts ×1000 drawn now.
    pub power_milliwatts: Option<u64>,
    /// Watts ×1000 that are allowed.
    pub power_limit_milliwatts: Option<u64>,
    /// Processes that have a context on the device; None: not known.
    pub processes: Option<Vec<Process>>,
    /// MiB in use, without what the driver keeps for itself.
    pub memory_used_mib: Option<u64>,
}

/// ECC errors since the driver was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EccCounts {
    /// Corrected.
    pub corrected: u64,
    /// Not corrected.
    pub uncorrected: u64,
}

/// Rows of memory replaced by spare ones over the life of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemappedRows {
    /// For corrected errors.
    pub corrected: u32,
    /// For uncorrectable errors.
    pub uncorrected: u32,
    /// A remapping takes effect at the next reset.
    pub pending: bool,
    /// A remapping failed: no spare row was left.
    pub failed: bool,
}

/// Errors of one link (`NVLink`) since the driver was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Number of the link on its device.
    pub link: u32,
    /// It carries data.
    pub active: bool,
    /// Packets sent again.
    pub replays: u64,
    /// Times the link was trained again.
    pub recoveries: u64,
    /// Checksum errors of flits and of data.
    pub crc_errors: u64,
}

/// Temperature in degrees Celsius and its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Temperature {
    /// Of the GPU.
    pub gpu: i32,
    /// Of its memory, where it has a sensor.
    pub memory: Option<i32>,
    /// Above this the clocks are lowered.
    pub slowdown: Option<i32>,
    /// Above this the device turns itself off.
    pub shutdown: Option<i32>,
}

/// Why the clocks are limited. Idle clocks and limits that somebody set are no news and not here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "one flag per reason that the driver names")]
pub struct ClockLimits {
    /// Software, to stay below the power limit: normal under load.
    pub software_power: bool,
    /// Software, because of temperature.
    pub software_thermal: bool,
    /// Hardware, for any of the following two or others.
    pub hardware: bool,
    /// Hardware, because of temperature.
    pub hardware_thermal: bool,
    /// Hardware, because the power supply asked for it.
    pub power_brake: bool,
}

/// A process on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id in the host's namespace.
    pub pid: u32,
    /// MiB that it uses.
    pub memory_mib: Option<u64>,
}
