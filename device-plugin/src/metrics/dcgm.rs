//! dcgm-exporter's names, with its units, so that dashboards and alerts made for it go on working.

use super::field::{Field, Kind, flag, number};
use crate::backend::{Profile, Sample};

/// The last XID of a device; 0: none since this process started.
pub(super) const XID: (&str, &str) = ("DCGM_FI_DEV_XID_ERRORS", "Last XID, 0 if there was none.");
/// A counter by its name, a rate by its values: dashboards show it as it is.
pub(super) const NVLINK: (&str, &str) =
    ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "Rate over all NVLinks of a device (in MB/s).");

fn percent(share: Option<f64>) -> Option<f64> {
    share.map(|share| (share * 100.0).round())
}

fn profile(sample: &Sample, value: fn(&Profile) -> Option<f64>) -> Option<f64> {
    sample.usage.profile.as_ref().and_then(value)
}

fn links(sample: &Sample, count: fn(&atoll_core::device::LinkCounts) -> u64) -> Option<f64> {
    let links = &sample.reading.links;
    (!links.is_empty()).then(|| number(links.iter().map(count).sum()))
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Sample) -> Option<f64>) -> Field {
    Field { name, help, kind: Kind::Gauge, label: None, value }
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Sample) -> Option<f64>) -> Field {
    Field { name, help, kind: Kind::Counter, label: None, value }
}

/// What follows from a sample. The second group is not in its default set.
#[rustfmt::skip]
pub(super) const FIELDS: &[Field] = &[
    gauge("DCGM_FI_DEV_SM_CLOCK", "SM clock (in MHz).", |s| s.usage.sm_clock_mhz.map(f64::from)),
    gauge("DCGM_FI_DEV_MEM_CLOCK", "Memory clock (in MHz).", |s| s.usage.memory_clock_mhz.map(f64::from)),
    gauge("DCGM_FI_DEV_MEMORY_TEMP", "Temperature of the memory (in C).",
        |s| s.reading.temperature.and_then(|t| t.memory).map(f64::from)),
    gauge("DCGM_FI_DEV_GPU_TEMP", "Temperature of the GPU (in C).", |s| s.reading.temperature.map(|t| f64::from(t.gpu))),
    gauge("DCGM_FI_DEV_POWER_USAGE", "Power drawn (in W).", |s| s.reading.power_milliwatts.map(|mw| number(mw) / 1000.0)),
    counter("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy since the driver was loaded (in mJ).",
        |s| s.usage.energy_millijoules.map(number)),
    counter("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "PCI Express packets sent again.", |s| s.usage.pcie_replays.map(number)),
    gauge("DCGM_FI_DEV_GPU_UTIL", "Time in which a kernel ran (in %).", |s| percent(s.usage.gpu_utilization)),
    gauge("DCGM_FI_DEV_MEM_COPY_UTIL", "Time in which memory was read or written (in %).",
        |s| percent(s.usage.memory_utilization)),
    gauge("DCGM_FI_DEV_ENC_UTIL", "Time in which the encoder worked (in %).", |s| percent(s.usage.encoder_utilization)),
    gauge("DCGM_FI_DEV_DEC_UTIL", "Time in which the decoder worked (in %).", |s| percent(s.usage.decoder_utilization)),
    gauge("DCGM_FI_DEV_FB_FREE", "Memory free (in MiB).", |s| s.usage.memory_free_mib.map(number)),
    gauge("DCGM_FI_DEV_FB_USED", "Memory used (in MiB).", |s| s.reading.memory_used_mib.map(number)),
    gauge("DCGM_FI_DEV_FB_RESERVED", "Memory that the driver keeps for itself (in MiB).",
        |s| s.usage.memory_reserved_mib.map(number)),
    counter("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "Rows remapped for uncorrectable errors.",
        |s| s.reading.remapped.map(|rows| f64::from(rows.uncorrected))),
    counter("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "Rows remapped for correctable errors.",
        |s| s.reading.remapped.map(|rows| f64::from(rows.corrected))),
    gauge("DCGM_FI_DEV_ROW_REMAP_FAILURE", "Whether remapping a row has failed.",
        |s| s.reading.remapped.map(|rows| flag(rows.failed))),
    gauge("DCGM_FI_DEV_VGPU_LICENSE_STATUS", "Whether a virtual GPU has its license; 0 for one that is not virtual.",
        |s| s.usage.vgpu_licensed.map(flag)),
    gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Share of time in which the graphics or compute engine was active.",
        |s| profile(s, |p| p.graphics_active)),
    gauge("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Share of cycles in which the tensor pipe was active.",
        |s| profile(s, |p| p.tensor_active)),
    gauge("DCGM_FI_PROF_DRAM_ACTIVE", "Share of cycles in which the memory interface was active.",
        |s| profile(s, |p| p.dram_active)),
    gauge("DCGM_FI_PROF_PCIE_TX_BYTES", "Bytes per second sent over PCI Express.", |s| profile(s, |p| p.pcie_sent)),
    gauge("DCGM_FI_PROF_PCIE_RX_BYTES", "Bytes per second received over PCI Express.", |s| profile(s, |p| p.pcie_received)),

    gauge("DCGM_FI_PROF_SM_ACTIVE", "Share of cycles in which an SM had a warp, over all SMs.",
        |s| profile(s, |p| p.sm_active)),
    gauge("DCGM_FI_PROF_SM_OCCUPANCY", "Resident warps as a share of those that fit.", |s| profile(s, |p| p.sm_occupancy)),
    gauge("DCGM_FI_DEV_POWER_MGMT_LIMIT", "Power allowed (in W).",
        |s| s.reading.power_limit_milliwatts.map(|mw| number(mw) / 1000.0)),
    counter("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "Corrected ECC errors since the driver was loaded.",
        |s| s.reading.ecc.map(|ecc| number(ecc.corrected))),
    counter("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Uncorrected ECC errors since the driver was loaded.",
        |s| s.reading.ecc.map(|ecc| number(ecc.uncorrected))),
    gauge("DCGM_FI_DEV_ROW_REMAP_PENDING", "Whether a remapped row waits for a reset.",
        |s| s.reading.remapped.map(|rows| flag(rows.pending))),
    counter("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "NVLink packets sent again.", |s| links(s, |link| link.replays)),
    counter("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "Times an NVLink was trained again.",
        |s| links(s, |link| link.recoveries)),
];
