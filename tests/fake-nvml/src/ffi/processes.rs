//! Processes on GPUs.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_st, nvmlDevice_t, nvmlEnableState_t, nvmlProcessDetail_v1_t, nvmlProcessDetailList_t, nvmlProcessInfo_t,
    nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t, nvmlProcessUtilizationInfo_v1_t, nvmlProcessUtilizationSample_t,
    nvmlProcessesUtilizationInfo_t,
};

use super::pointer::{Out, Param as _};
use super::{Call, nvml};
use crate::code::{Answer, Code};
use crate::gpu::Process;
use crate::world::NO_INSTANCE;

const MIB: u64 = 1 << 20;

/// Those of a device: on an instance its own, on a divided GPU all.
fn running<'a>(call: &'a Call<'_>, device: Out<nvmlDevice_st>, graphics: bool) -> Answer<Vec<&'a Process>> {
    let (gpu, instance) = super::parent(call.subject(device)?);
    let wanted = instance.map(|(instance, compute)| (instance.id, compute.id));
    let processes = gpu.processes.iter().filter(|process| process.graphics == graphics);
    Ok(processes.filter(|process| wanted.is_none() || process.instance == wanted).collect())
}

fn info(process: &Process) -> nvmlProcessInfo_t {
    let (gpu_instance, compute_instance) = process.instance.unwrap_or((NO_INSTANCE, NO_INSTANCE));
    nvmlProcessInfo_t {
        pid: process.pid,
        usedGpuMemory: process.memory_mib * MIB,
        gpuInstanceId: gpu_instance,
        computeInstanceId: compute_instance,
    }
}

fn list(
    call: &Call<'_>,
    device: Out<nvmlDevice_st>,
    graphics: bool,
    count: Out<u32>,
    infos: Out<nvmlProcessInfo_t>,
) -> Answer<()> {
    let processes = running(call, device, graphics)?;
    infos.list(count, &processes.into_iter().map(info).collect::<Vec<_>>())
}

fn list_v1(
    call: &Call<'_>,
    device: Out<nvmlDevice_st>,
    graphics: bool,
    count: Out<u32>,
    infos: Out<nvmlProcessInfo_v1_t>,
) -> Answer<()> {
    let processes = running(call, device, graphics)?;
    let short = |process: &Process| nvmlProcessInfo_v1_t { pid: process.pid, usedGpuMemory: process.memory_mib * MIB };
    infos.list(count, &processes.into_iter().map(short).collect::<Vec<_>>())
}

/// Percent of the multiprocessors that each process uses: an equal share of what is used.
fn shares(call: &Call<'_>, device: Out<nvmlDevice_st>) -> Answer<Vec<(u32, u32)>> {
    let gpu = call.gpu(device)?;
    if gpu.mig.is_some() {
        return Err(Code::NOT_SUPPORTED);
    }
    let share = gpu.utilization(call.now()) / u32::try_from(gpu.processes.len().max(1)).unwrap_or(1);
    Ok(gpu.processes.iter().map(|process| (process.pid, share)).collect())
}

nvml! {
    fn nvmlDeviceGetComputeRunningProcesses_v3(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t
    ) |call| { list(call, device, false, infoCount, infos) }
    fn nvmlDeviceGetComputeRunningProcesses_v2(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t
    ) |call| { list(call, device, false, infoCount, infos) }
    fn nvmlDeviceGetComputeRunningProcesses(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t
    ) |call| { list_v1(call, device, false, infoCount, infos) }
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t
    ) |call| { list(call, device, true, infoCount, infos) }
    fn nvmlDeviceGetGraphicsRunningProcesses_v2(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t
    ) |call| { list(call, device, true, infoCount, infos) }
    fn nvmlDeviceGetGraphicsRunningProcesses(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t
    ) |call| { list_v1(call, device, true, infoCount, infos) }
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t
    ) |call| {
        call.subject(device)?;
        infos.list(infoCount, &[])
    }
    fn nvmlDeviceGetMPSComputeRunningProcesses_v2(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t
    ) |call| {
        call.subject(device)?;
        infos.list(infoCount, &[])
    }
    fn nvmlDeviceGetMPSComputeRunningProcesses(
        device: nvmlDevice_t, infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t
    ) |call| {
        call.subject(device)?;
        infos.list(infoCount, &[])
    }

    fn nvmlDeviceGetRunningProcessDetailList(device: nvmlDevice_t, plist: *mut nvmlProcessDetailList_t) |call| {
        plist.version(1)?;
        let wanted = plist.get()?;
        let processes = match wanted.mode {
            0 => running(call, device, false)?,
            1 => running(call, device, true)?,
            2 => Vec::new(),
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        let details: Vec<_> = processes.into_iter().map(info).map(|info| nvmlProcessDetail_v1_t {
            pid: info.pid,
            usedGpuMemory: info.usedGpuMemory,
            gpuInstanceId: info.gpuInstanceId,
            computeInstanceId: info.computeInstanceId,
            usedGpuCcProtectedMemory: 0,
        }).collect();
        plist.edit(|list| list.numProcArrayEntries = u32::try_from(details.len()).unwrap_or(u32::MAX))?;
        if details.len() > wanted.numProcArrayEntries as usize {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        // SAFETY: the struct says that there is room for so many.
        let room = unsafe { wanted.procArray.take() };
        for (place, detail) in details.into_iter().enumerate() {
            room.at(place)?.put(detail)?;
        }
        Ok(())
    }

    fn nvmlDeviceGetProcessUtilization(
        device: nvmlDevice_t, utilization: *mut nvmlProcessUtilizationSample_t, processSamplesCount: *mut c_uint,
        lastSeenTimeStamp: c_ulonglong
    ) |call| {
        let shares = shares(call, device)?;
        let stamp = call.timestamp();
        if shares.is_empty() || stamp <= lastSeenTimeStamp {
            return Err(Code::NOT_FOUND);
        }
        let samples: Vec<_> = shares.into_iter().map(|(pid, share)| nvmlProcessUtilizationSample_t {
            pid, timeStamp: stamp, smUtil: share, memUtil: share / 2, encUtil: 0, decUtil: 0,
        }).collect();
        utilization.list(processSamplesCount, &samples)
    }

    fn nvmlDeviceGetProcessesUtilizationInfo(
        device: nvmlDevice_t, procesesUtilInfo: *mut nvmlProcessesUtilizationInfo_t
    ) |call| {
        procesesUtilInfo.version(1)?;
        let shares = shares(call, device)?;
        let (stamp, wanted) = (call.timestamp(), procesesUtilInfo.get()?);
        if shares.is_empty() || stamp <= wanted.lastSeenTimeStamp {
            return Err(Code::NOT_FOUND);
        }
        procesesUtilInfo.edit(|info| info.processSamplesCount = u32::try_from(shares.len()).unwrap_or(u32::MAX))?;
        if shares.len() > wanted.processSamplesCount as usize {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        // SAFETY: the struct says that there is room for so many.
        let room = unsafe { wanted.procUtilArray.take() };
        for (place, (pid, share)) in shares.into_iter().enumerate() {
            room.at(place)?.put(nvmlProcessUtilizationInfo_v1_t {
                timeStamp: stamp, pid, smUtil: share, memUtil: share / 2, encUtil: 0, decUtil: 0, jpgUtil: 0, ofaUtil: 0,
            })?;
        }
        Ok(())
    }

    fn nvmlDeviceGetAccountingMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) |call| {
        call.subject(device)?;
        mode.put(0)
    }
    fn nvmlDeviceGetAccountingPids(device: nvmlDevice_t, count: *mut c_uint, pids: *mut c_uint) |call| {
        call.subject(device)?;
        pids.list(count, &[])
    }
    fn nvmlDeviceGetAccountingBufferSize(device: nvmlDevice_t, bufferSize: *mut c_uint) |call| {
        call.subject(device)?;
        bufferSize.put(4000)
    }
}
