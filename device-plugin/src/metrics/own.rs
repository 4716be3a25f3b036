//! `atoll_gpu_*`: base units, one metric per quantity.

use super::field::{Field, Kind, flag, number};
use crate::backend::{Profile, Sample};
use atoll_core::device::{ClockLimits, RemappedRows};

const MIB: f64 = 1_048_576.0;

/// Who a device is: labels `gpu`, `uuid`, of an instance `gpu_instance` and `compute_instance`, and `model`, `profile`,
/// `pci_bus_id`, `numa_node`; always 1.
pub(super) const INFO: (&str, &str) = ("atoll_gpu_info", "What a GPU or an instance of a divided GPU is; always 1");
/// One series per state.
pub(super) const HEALTH: (&str, &str) = ("atoll_gpu_health", "1 for the state that a device is in");
/// One series per reason.
pub(super) const HEALTH_REASON: (&str, &str) =
    ("atoll_gpu_health_reason", "Why a device is not healthy: 1 for each reason");
/// One series per holder.
pub(super) const HOLDER: (&str, &str) =
    ("atoll_gpu_holder", "The containers that held a device during the whole of its last sample; always 1");
/// Per XID.
pub(super) const XIDS: (&str, &str) = ("atoll_gpu_xid_errors_total", "XIDs since this process started");
/// Version.
pub(super) const DRIVER: (&str, &str) =
    ("atoll_gpu_driver_info", "The driver that answers, and the highest CUDA version that it supports; always 1");
/// Alive.
pub(super) const DRIVER_UP: (&str, &str) = ("atoll_gpu_driver_up", "1 while the driver answers");
/// Cost of a round.
pub(super) const ROUND: (&str, &str) =
    ("atoll_gpu_sample_round_seconds", "Time that the last sample of all devices took");
/// Of a resource.
pub(super) const KUBELET: (&str, &str) =
    ("atoll_gpu_kubelet_connected", "1 while the kubelet follows the devices of a resource");
/// Of a resource.
pub(super) const REGISTRATIONS: (&str, &str) =
    ("atoll_gpu_kubelet_registrations_total", "Registrations with the kubelet since this process started");

fn clock_limit(sample: &Sample, limit: fn(&ClockLimits) -> bool) -> Option<f64> {
    sample.reading.clock_limits.as_ref().map(|limits| flag(limit(limits)))
}

fn profile(sample: &Sample, value: fn(&Profile) -> Option<f64>) -> Option<f64> {
    sample.usage.profile.as_ref().and_then(value)
}

fn remapped(sample: &Sample, value: fn(&RemappedRows) -> f64) -> Option<f64> {
    sample.reading.remapped.as_ref().map(value)
}

fn links(sample: &Sample, count: fn(&atoll_core::device::LinkCounts) -> u64) -> Option<f64> {
    let links = &sample.reading.links;
    (!links.is_empty()).then(|| number(links.iter().map(count).sum()))
}

fn bytes(mib: Option<u64>) -> Option<f64> {
    mib.map(|mib| number(mib) * MIB)
}

fn watts(milliwatts: Option<u64>) -> Option<f64> {
    milliwatts.map(|milliwatts| number(milliwatts) / 1000.0)
}

fn hertz(mhz: Option<u32>) -> Option<f64> {
    mhz.map(|mhz| f64::from(mhz) * 1e6)
}

const TEMPERATURE: &str = "Temperature by sensor";
const UTILIZATION: &str = "Share of time in which a part of the device was busy, 0 to 1";
const PROFILE: &str = "Share of time or of capacity in use by the hardware's own counters, 0 to 1";
const THROTTLED: &str = "1 while clocks are lowered for a reason";
const CLOCK: &str = "Clock by domain";
const PCIE: &str = "Bytes per second over PCI Express by the hardware's own counters";
const ECC: &str = "ECC errors since the driver was loaded";
const NVLINK_ERRORS: &str = "Errors of all NVLinks of a device since the driver was loaded";
const NVLINKS: &str = "NVLinks of a device that carry data, and that do not";
const ROWS: &str = "Rows of memory replaced by spare ones over the life of the device";

const fn row(
    name: &'static str,
    help: &'static str,
    kind: Kind,
    label: Option<(&'static str, &'static str)>,
    value: fn(&Sample) -> Option<f64>,
) -> Field {
    Field { name, help, kind, label, value }
}

use Kind::{Condition, Counter, Gauge};

/// What follows from a sample.
#[rustfmt::skip]
pub(super) const FIELDS: &[Field] = &[
    row("atoll_gpu_temperature_celsius", TEMPERATURE, Gauge, Some(("sensor", "gpu")),
        |s| s.reading.temperature.map(|t| f64::from(t.gpu))),
    row("atoll_gpu_temperature_celsius", TEMPERATURE, Gauge, Some(("sensor", "memory")),
        |s| s.reading.temperature.and_then(|t| t.memory).map(f64::from)),
    row("atoll_gpu_temperature_limit_celsius", "Above this clocks are lowered, or the device turns itself off", Condition,
        Some(("limit", "slowdown")), |s| s.reading.temperature.and_then(|t| t.slowdown).map(f64::from)),
    row("atoll_gpu_temperature_limit_celsius", "Above this clocks are lowered, or the device turns itself off", Condition,
        Some(("limit", "shutdown")), |s| s.reading.temperature.and_then(|t| t.shutdown).map(f64::from)),
    row("atoll_gpu_power_watts", "Power drawn", Gauge, None, |s| watts(s.reading.power_milliwatts)),
    row("atoll_gpu_power_limit_watts", "Power allowed", Condition, None, |s| watts(s.reading.power_limit_milliwatts)),
    row("atoll_gpu_energy_joules_total", "Energy since the driver was loaded", Counter, None,
        |s| s.usage.energy_millijoules.map(|energy| number(energy) / 1000.0)),
    row("atoll_gpu_utilization_ratio", UTILIZATION, Gauge, Some(("part", "gpu")), |s| s.usage.gpu_utilization),
    row("atoll_gpu_utilization_ratio", UTILIZATION, Gauge, Some(("part", "memory")), |s| s.usage.memory_utilization),
    row("atoll_gpu_utilization_ratio", UTILIZATION, Gauge, Some(("part", "encoder")), |s| s.usage.encoder_utilization),
    row("atoll_gpu_utilization_ratio", UTILIZATION, Gauge, Some(("part", "decoder")), |s| s.usage.decoder_utilization),
    row("atoll_gpu_profile_ratio", PROFILE, Gauge, Some(("part", "graphics")), |s| profile(s, |p| p.graphics_active)),
    row("atoll_gpu_profile_ratio", PROFILE, Gauge, Some(("part", "tensor")), |s| profile(s, |p| p.tensor_active)),
    row("atoll_gpu_profile_ratio", PROFILE, Gauge, Some(("part", "dram")), |s| profile(s, |p| p.dram_active)),
    row("atoll_gpu_profile_ratio", PROFILE, Gauge, Some(("part", "sm")), |s| profile(s, |p| p.sm_active)),
    row("atoll_gpu_profile_ratio", PROFILE, Gauge, Some(("part", "occupancy")), |s| profile(s, |p| p.sm_occupancy)),
    row("atoll_gpu_pcie_bytes_per_second", PCIE, Gauge, Some(("direction", "sent")), |s| profile(s, |p| p.pcie_sent)),
    row("atoll_gpu_pcie_bytes_per_second", PCIE, Gauge, Some(("direction", "received")),
        |s| profile(s, |p| p.pcie_received)),
    row("atoll_gpu_pcie_replays_total", "PCI Express packets sent again since the driver was loaded", Counter, None,
        |s| s.usage.pcie_replays.map(number)),
    row("atoll_gpu_memory_used_bytes", "Memory in use, without what the driver keeps for itself", Gauge, None,
        |s| bytes(s.reading.memory_used_mib)),
    row("atoll_gpu_memory_free_bytes", "Memory free", Gauge, None, |s| bytes(s.usage.memory_free_mib)),
    row("atoll_gpu_memory_reserved_bytes", "Memory that the driver keeps for itself", Gauge, None,
        |s| bytes(s.usage.memory_reserved_mib)),
    row("atoll_gpu_clock_hertz", CLOCK, Gauge, Some(("domain", "sm")), |s| hertz(s.usage.sm_clock_mhz)),
    row("atoll_gpu_clock_hertz", CLOCK, Gauge, Some(("domain", "memory")), |s| hertz(s.usage.memory_clock_mhz)),
    row("atoll_gpu_throttled", THROTTLED, Gauge, Some(("reason", "software_power")),
        |s| clock_limit(s, |l| l.software_power)),
    row("atoll_gpu_throttled", THROTTLED, Gauge, Some(("reason", "software_thermal")),
        |s| clock_limit(s, |l| l.software_thermal)),
    row("atoll_gpu_throttled", THROTTLED, Gauge, Some(("reason", "hardware")), |s| clock_limit(s, |l| l.hardware)),
    row("atoll_gpu_throttled", THROTTLED, Gauge, Some(("reason", "hardware_thermal")),
        |s| clock_limit(s, |l| l.hardware_thermal)),
    row("atoll_gpu_throttled", THROTTLED, Gauge, Some(("reason", "power_brake")), |s| clock_limit(s, |l| l.power_brake)),
    row("atoll_gpu_processes", "Processes that have a context on the device", Gauge, None,
        |s| s.reading.processes.as_ref().map(|processes| number(processes.len() as u64))),
    row("atoll_gpu_ecc_errors_total", ECC, Counter, Some(("kind", "corrected")),
        |s| s.reading.ecc.map(|ecc| number(ecc.corrected))),
    row("atoll_gpu_ecc_errors_total", ECC, Counter, Some(("kind", "uncorrected")),
        |s| s.reading.ecc.map(|ecc| number(ecc.uncorrected))),
    row("atoll_gpu_remapped_rows", ROWS, Condition, Some(("kind", "corrected")),
        |s| remapped(s, |rows| f64::from(rows.corrected))),
    row("atoll_gpu_remapped_rows", ROWS, Condition, Some(("kind", "uncorrected")),
        |s| remapped(s, |rows| f64::from(rows.uncorrected))),
    row("atoll_gpu_row_remap_pending", "1 while a remapped row waits for a reset", Condition, None,
        |s| remapped(s, |rows| flag(rows.pending))),
    row("atoll_gpu_row_remap_failed", "1 when no spare row was left", Condition, None,
        |s| remapped(s, |rows| flag(rows.failed))),
    row("atoll_gpu_page_retirement_pending", "1 while a retired page waits for a reset (before Ampere)", Condition, None,
        |s| s.reading.retirement_pending.map(flag)),
    row("atoll_gpu_nvlinks", NVLINKS, Condition, Some(("state", "active")),
        |s| links(s, |link| u64::from(link.active))),
    row("atoll_gpu_nvlinks", NVLINKS, Condition, Some(("state", "inactive")),
        |s| links(s, |link| u64::from(!link.active))),
    row("atoll_gpu_nvlink_bytes_total", "Bytes over all NVLinks of a device since the driver was loaded", Counter, None,
        |s| s.usage.nvlink_bytes.map(number)),
    row("atoll_gpu_nvlink_errors_total", NVLINK_ERRORS, Counter, Some(("kind", "replay")),
        |s| links(s, |link| link.replays)),
    row("atoll_gpu_nvlink_errors_total", NVLINK_ERRORS, Counter, Some(("kind", "recovery")),
        |s| links(s, |link| link.recoveries)),
    row("atoll_gpu_nvlink_errors_total", NVLINK_ERRORS, Counter, Some(("kind", "crc")),
        |s| links(s, |link| link.crc_errors)),
];
