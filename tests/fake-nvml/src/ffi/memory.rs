//! Memory: how much is used, and its errors.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlBAR1Memory_t, nvmlDevice_st, nvmlDevice_t, nvmlEccCounterType_t, nvmlEccErrorCounts_t,
    nvmlEccSramErrorStatus_t, nvmlEccSramUniqueUncorrectedErrorCounts_t, nvmlEnableState_t, nvmlMemory_t,
    nvmlMemory_v2_t, nvmlMemoryErrorType_t, nvmlMemoryLocation_t, nvmlPageRetirementCause_t, nvmlRepairStatus_t,
    nvmlRowRemapperHistogramValues_t,
};

use super::pointer::Out;
use super::{Call, Subject, nvml};
use crate::code::{Answer, Code};
use crate::gpu::{Ecc, Gpu};

const MIB: u64 = 1 << 20;

/// MiB (total, reserved, used) of a device; what the driver keeps is not in what is used.
fn sizes(subject: &Subject<'_>) -> (u64, u64, u64) {
    match subject {
        Subject::Gpu(gpu) => (gpu.model.memory_mib, gpu.model.reserved_mib, gpu.used_mib()),
        Subject::Instance(gpu, instance, _) => {
            let processes = gpu.processes.iter();
            let own = processes.filter(|process| process.instance.is_some_and(|(id, _)| id == instance.id));
            let used: u64 = own.map(|process| process.memory_mib).sum();
            (instance.profile.memory_mib, 16, used.min(instance.profile.memory_mib - 16))
        }
    }
}

fn with_ecc<'a>(call: &'a Call<'_>, device: Out<nvmlDevice_st>) -> Answer<&'a Gpu> {
    let (gpu, _) = super::parent(call.subject(device)?);
    if gpu.model.ecc { Ok(gpu) } else { Err(Code::NOT_SUPPORTED) }
}

fn counts(gpu: &Gpu, kind: u32) -> Answer<&Ecc> {
    match kind {
        0 => Ok(&gpu.volatile),
        1 => Ok(&gpu.aggregate),
        _ => Err(Code::INVALID_ARGUMENT),
    }
}

fn uncorrected(kind: u32) -> Answer<bool> {
    if kind < 2 { Ok(kind == 1) } else { Err(Code::INVALID_ARGUMENT) }
}

/// Rows are replaced from Ampere on, where memory has ECC of its own; pages were retired before.
fn remaps(gpu: &Gpu) -> bool {
    gpu.model.ecc
}

fn retired(
    call: &Call<'_>,
    device: Out<nvmlDevice_st>,
    cause: u32,
    count: Out<u32>,
    addresses: Out<u64>,
    times: Option<Out<u64>>,
) -> Answer<()> {
    let gpu = with_ecc(call, device)?;
    let pages = gpu.retired.get(cause as usize).ok_or(Code::INVALID_ARGUMENT)?;
    addresses.list(count, pages)?;
    if let Some(times) = times {
        for place in 0..pages.len() {
            times.at(place)?.put(1_700_000_000)?;
        }
    }
    Ok(())
}

nvml! {
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) |call| {
        let (total, reserved, used) = sizes(&call.subject(device)?);
        memory.put(nvmlMemory_t {
            total: total * MIB,
            free: (total - reserved - used) * MIB,
            used: (reserved + used) * MIB,
        })
    }

    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) |call| {
        memory.version(2)?;
        let (total, reserved, used) = sizes(&call.subject(device)?);
        memory.edit(|memory| {
            (memory.total, memory.reserved) = (total * MIB, reserved * MIB);
            (memory.free, memory.used) = ((total - reserved - used) * MIB, used * MIB);
        })
    }

    fn nvmlDeviceGetBAR1MemoryInfo(device: nvmlDevice_t, bar1Memory: *mut nvmlBAR1Memory_t) |call| {
        let (gpu, instance) = super::parent(call.subject(device)?);
        let total = instance.map_or(gpu.model.bar1_mib, |(instance, _)| {
            gpu.model.bar1_mib / 8 * u64::from(instance.profile.memory_slices)
        });
        bar1Memory.put(nvmlBAR1Memory_t { bar1Total: total * MIB, bar1Free: (total - 1) * MIB, bar1Used: MIB })
    }

    fn nvmlDeviceGetEccMode(device: nvmlDevice_t, current: *mut nvmlEnableState_t, pending: *mut nvmlEnableState_t) |call| {
        with_ecc(call, device)?;
        current.put(1)?;
        pending.put(1)
    }
    fn nvmlDeviceGetDefaultEccMode(device: nvmlDevice_t, defaultMode: *mut nvmlEnableState_t) |call| {
        with_ecc(call, device)?;
        defaultMode.put(1)
    }

    fn nvmlDeviceGetTotalEccErrors(
        device: nvmlDevice_t, errorType: nvmlMemoryErrorType_t, counterType: nvmlEccCounterType_t,
        eccCounts: *mut c_ulonglong
    ) |call| {
        let gpu = with_ecc(call, device)?;
        eccCounts.put(counts(gpu, counterType)?.total(uncorrected(errorType)?))
    }

    fn nvmlDeviceGetMemoryErrorCounter(
        device: nvmlDevice_t, errorType: nvmlMemoryErrorType_t, counterType: nvmlEccCounterType_t,
        locationType: nvmlMemoryLocation_t, count: *mut c_ulonglong
    ) |call| {
        let gpu = with_ecc(call, device)?;
        let (counts, uncorrected) = (counts(gpu, counterType)?, uncorrected(errorType)?);
        match locationType {
            2 => count.put(counts.dram(uncorrected)),
            7 => count.put(counts.sram(uncorrected)),
            // From Ampere on, caches and registers are counted together.
            0 | 1 | 3..=6 => Err(Code::NOT_SUPPORTED),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceGetDetailedEccErrors(
        device: nvmlDevice_t, errorType: nvmlMemoryErrorType_t, counterType: nvmlEccCounterType_t,
        eccCounts: *mut nvmlEccErrorCounts_t
    ) |call| {
        let gpu = with_ecc(call, device)?;
        let (counts, uncorrected) = (counts(gpu, counterType)?, uncorrected(errorType)?);
        eccCounts.put(nvmlEccErrorCounts_t {
            l1Cache: 0,
            l2Cache: counts.sram(uncorrected),
            deviceMemory: counts.dram(uncorrected),
            registerFile: 0,
        })
    }

    fn nvmlDeviceGetSramEccErrorStatus(device: nvmlDevice_t, status: *mut nvmlEccSramErrorStatus_t) |call| {
        status.version(1)?;
        let gpu = with_ecc(call, device)?;
        status.edit(|status| {
            *status = nvmlEccSramErrorStatus_t {
                version: status.version,
                aggregateUncParity: 0,
                aggregateUncSecDed: gpu.aggregate.uncorrected_sram,
                aggregateCor: gpu.aggregate.corrected_sram,
                volatileUncParity: 0,
                volatileUncSecDed: gpu.volatile.uncorrected_sram,
                volatileCor: gpu.volatile.corrected_sram,
                aggregateUncBucketL2: gpu.aggregate.uncorrected_sram,
                aggregateUncBucketSm: 0,
                aggregateUncBucketPcie: 0,
                aggregateUncBucketMcu: 0,
                aggregateUncBucketOther: 0,
                bThresholdExceeded: u32::from(gpu.sram_threshold_exceeded),
            };
        })
    }

    fn nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts(
        device: nvmlDevice_t, errorCounts: *mut nvmlEccSramUniqueUncorrectedErrorCounts_t
    ) |call| {
        errorCounts.version(1)?;
        with_ecc(call, device)?;
        errorCounts.edit(|counts| counts.entryCount = 0)
    }

    fn nvmlDeviceGetRemappedRows(
        device: nvmlDevice_t, corrRows: *mut c_uint, uncRows: *mut c_uint, isPending: *mut c_uint,
        failureOccurred: *mut c_uint
    ) |call| {
        let gpu = call.gpu(device)?;
        if !remaps(gpu) {
            return Err(Code::NOT_SUPPORTED);
        }
        corrRows.put(gpu.remap.corrected)?;
        uncRows.put(gpu.remap.uncorrected)?;
        isPending.put(u32::from(gpu.remap.pending))?;
        failureOccurred.put(u32::from(gpu.remap.failed))
    }

    fn nvmlDeviceGetRowRemapperHistogram(device: nvmlDevice_t, values: *mut nvmlRowRemapperHistogramValues_t) |call| {
        let gpu = call.gpu(device)?;
        if !remaps(gpu) {
            return Err(Code::NOT_SUPPORTED);
        }
        let banks = gpu.model.memory_bus_bits / 8;
        let none = u32::from(gpu.remap.failed);
        let partial = (gpu.remap.corrected + gpu.remap.uncorrected).min(banks - none);
        let max = banks - none - partial;
        values.put(nvmlRowRemapperHistogramValues_t { max, high: 0, partial, low: 0, none })
    }

    fn nvmlDeviceGetRepairStatus(device: nvmlDevice_t, repairStatus: *mut nvmlRepairStatus_t) |call| {
        repairStatus.version(1)?;
        with_ecc(call, device)?;
        repairStatus.edit(|status| (status.bChannelRepairPending, status.bTpcRepairPending) = (0, 0))
    }

    fn nvmlDeviceGetRetiredPages(
        device: nvmlDevice_t, cause: nvmlPageRetirementCause_t, pageCount: *mut c_uint, addresses: *mut c_ulonglong
    ) |call| {
        retired(call, device, cause, pageCount, addresses, None)
    }
    fn nvmlDeviceGetRetiredPages_v2(
        device: nvmlDevice_t, cause: nvmlPageRetirementCause_t, pageCount: *mut c_uint, addresses: *mut c_ulonglong,
        timestamps: *mut c_ulonglong
    ) |call| {
        retired(call, device, cause, pageCount, addresses, Some(timestamps))
    }
    fn nvmlDeviceGetRetiredPagesPendingStatus(device: nvmlDevice_t, isPending: *mut nvmlEnableState_t) |call| {
        isPending.put(u32::from(with_ecc(call, device)?.retirement_pending))
    }
}
