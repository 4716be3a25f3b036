//! Why a device is not Healthy, each a word that docs/troubleshooting.md explains.

/// The driver no longer finds it.
pub const DEVICE_LOST: &str = "DeviceLost";
/// The driver names a recovery action.
pub const RECOVERY_ACTION_NEEDED: &str = "RecoveryActionNeeded";
/// The driver said by an event that it cannot be used.
pub const DEVICE_UNAVAILABLE: &str = "DeviceUnavailable";
/// An XID that takes it out of service.
pub const XID_FAULT: &str = "XidFault";
/// An XID that somebody should look at.
pub const XID_WARNING: &str = "XidWarning";
/// An ECC error that could not be corrected.
pub const ECC_UNCORRECTED: &str = "EccUncorrected";
/// Many corrected ECC errors.
pub const ECC_STORM: &str = "EccStorm";
/// There were uncorrected ECC errors since the last reset, and the driver names no recovery actions.
pub const RESET_ADVISED: &str = "ResetAdvised";
/// Uncorrectable errors of SRAM passed the threshold for replacement.
pub const SRAM_THRESHOLD_EXCEEDED: &str = "SramThresholdExceeded";
/// No spare row was left for a defective one.
pub const ROW_REMAP_FAILED: &str = "RowRemapFailed";
/// A defective row is replaced at the next reset.
pub const ROW_REMAP_PENDING: &str = "RowRemapPending";
/// A defective page is retired at the next reset.
pub const PAGE_RETIREMENT_PENDING: &str = "PageRetirementPending";
/// A link that was active is not.
pub const LINK_DOWN: &str = "LinkDown";
/// Errors on links.
pub const LINK_ERRORS: &str = "LinkErrors";
/// At the temperature at which it turns itself off.
pub const OVER_TEMPERATURE: &str = "OverTemperature";
/// Above the temperature at which clocks are lowered.
pub const HIGH_TEMPERATURE: &str = "HighTemperature";
/// Hardware lowers the clocks because of temperature.
pub const HARDWARE_THERMAL_SLOWDOWN: &str = "HardwareThermalSlowdown";
/// Software lowers the clocks because of temperature.
pub const SOFTWARE_THERMAL_SLOWDOWN: &str = "SoftwareThermalSlowdown";
/// The power supply asks for lower clocks.
pub const POWER_BRAKE: &str = "PowerBrake";
/// Hardware lowers the clocks for another reason.
pub const HARDWARE_SLOWDOWN: &str = "HardwareSlowdown";
/// It draws more than its power limit.
pub const POWER_ABOVE_LIMIT: &str = "PowerAboveLimit";
/// The third fault or more within an hour.
pub const REPEATED_FAULTS: &str = "RepeatedFaults";
/// Its container is gone, and it is not yet seen empty.
pub const NOT_YET_EMPTY: &str = "NotYetEmpty";
/// Processes that no container of this node accounts for.
pub const FOREIGN_PROCESSES: &str = "ForeignProcesses";
/// Memory that no container of this node accounts for.
pub const FOREIGN_MEMORY: &str = "ForeignMemory";

/// All of them.
pub const ALL: [&str; 25] = [
    DEVICE_LOST,
    RECOVERY_ACTION_NEEDED,
    DEVICE_UNAVAILABLE,
    XID_FAULT,
    XID_WARNING,
    ECC_UNCORRECTED,
    ECC_STORM,
    RESET_ADVISED,
    SRAM_THRESHOLD_EXCEEDED,
    ROW_REMAP_FAILED,
    ROW_REMAP_PENDING,
    PAGE_RETIREMENT_PENDING,
    LINK_DOWN,
    LINK_ERRORS,
    OVER_TEMPERATURE,
    HIGH_TEMPERATURE,
    HARDWARE_THERMAL_SLOWDOWN,
    SOFTWARE_THERMAL_SLOWDOWN,
    POWER_BRAKE,
    HARDWARE_SLOWDOWN,
    POWER_ABOVE_LIMIT,
    REPEATED_FAULTS,
    NOT_YET_EMPTY,
    FOREIGN_PROCESSES,
    FOREIGN_MEMORY,
];
