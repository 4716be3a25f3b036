//! How near GPUs are to each other and to processors.

use std::ffi::{c_uint, c_ulong};

use nvml_wrapper_sys::bindings::{
    nvmlAffinityScope_t, nvmlDevice_st, nvmlDevice_t, nvmlGpuP2PCapsIndex_t, nvmlGpuP2PStatus_t, nvmlGpuTopologyLevel_t,
};

use super::pointer::{Kind, Out};
use super::{Call, nvml};
use crate::code::{Answer, Code};
use crate::gpu::Gpu;
use crate::model::LinkEnd;

/// Processors of each NUMA node.
const PROCESSORS: usize = 48;

/// `nvmlGpuTopologyLevel_t` between two.
fn level(one: &Gpu, other: &Gpu) -> u32 {
    if one.slot == other.slot {
        0
    } else if one.pci().0 != other.pci().0 || one.numa() != other.numa() {
        50
    } else if one.slot / 2 == other.slot / 2 && one.model == other.model {
        one.model.neighbour
    } else {
        40
    }
}

/// Whether links join two.
fn linked(one: &Gpu, other: &Gpu) -> bool {
    let active = |gpu: &Gpu| gpu.links.iter().any(|link| link.active);
    let joined = match one.model.links.to {
        LinkEnd::Nowhere => false,
        LinkEnd::Switches => one.model == other.model,
        LinkEnd::Neighbour => one.model == other.model && one.linked_slot() == Some(other.slot),
    };
    joined && one.slot != other.slot && active(one) && active(other) && one.mig.is_none() && other.mig.is_none()
}

/// Sets bits from `first` on in an array of words; the words that are not there are left out.
fn bits(words: Out<c_ulong>, count: u32, first: usize, number: usize) -> Answer<()> {
    if count == 0 {
        return Err(Code::INVALID_ARGUMENT);
    }
    for word in 0..count as usize {
        let value = (0..64).filter(|bit| (first..first + number).contains(&(word * 64 + bit)));
        words.at(word)?.put(value.fold(0, |value, bit| value | 1 << bit))?;
    }
    Ok(())
}

fn processors(call: &Call<'_>, device: Out<nvmlDevice_st>, count: u32, words: Out<c_ulong>) -> Answer<()> {
    let gpu = call.gpu(device)?;
    bits(words, count, gpu.numa() as usize * PROCESSORS, PROCESSORS)
}

nvml! {
    fn nvmlDeviceGetTopologyCommonAncestor(
        device1: nvmlDevice_t, device2: nvmlDevice_t, pathInfo: *mut nvmlGpuTopologyLevel_t
    ) |call| {
        pathInfo.put(level(call.gpu(device1)?, call.gpu(device2)?))
    }

    fn nvmlDeviceGetTopologyNearestGpus(
        device: nvmlDevice_t, level_: nvmlGpuTopologyLevel_t, count: *mut c_uint, deviceArray: *mut nvmlDevice_t
    ) |call| {
        let gpu = call.gpu(device)?;
        if !matches!(level_, 0 | 10 | 20 | 30 | 40 | 50) {
            return Err(Code::INVALID_ARGUMENT);
        }
        let found = call.world().present().filter(|other| !other.lost && other.slot != gpu.slot && level(gpu, other) == level_);
        let handles: Vec<_> = found.map(|other| call.handle(Kind::Gpu, other.slot, 0).pointer()).collect();
        if deviceArray.is_null() {
            return count.put(u32::try_from(handles.len()).unwrap_or_default());
        }
        deviceArray.list(count, &handles)
    }

    fn nvmlSystemGetTopologyGpuSet(cpuNumber: c_uint, count: *mut c_uint, deviceArray: *mut nvmlDevice_t) |call| {
        let node = cpuNumber as usize / PROCESSORS;
        let found = call.world().present().filter(|gpu| !gpu.lost && gpu.numa() as usize == node);
        let handles: Vec<_> = found.map(|gpu| call.handle(Kind::Gpu, gpu.slot, 0).pointer()).collect();
        if deviceArray.is_null() {
            return count.put(u32::try_from(handles.len()).unwrap_or_default());
        }
        deviceArray.list(count, &handles)
    }

    fn nvmlDeviceGetP2PStatus(
        device1: nvmlDevice_t, device2: nvmlDevice_t, p2pIndex: nvmlGpuP2PCapsIndex_t, p2pStatus: *mut nvmlGpuP2PStatus_t
    ) |call| {
        let (one, other) = (call.gpu(device1)?, call.gpu(device2)?);
        if one.slot == other.slot {
            return Err(Code::INVALID_ARGUMENT);
        }
        let linked = linked(one, other);
        // GeForce boards do not reach each other's memory over the bus.
        let bus = one.model.ecc && other.model.ecc && one.mig.is_none() && other.mig.is_none();
        let works = match p2pIndex {
            0 | 1 => linked || bus,
            2 => linked,
            3 => linked || (bus && level(one, other) <= 30),
            4 => bus,
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        p2pStatus.put(if works { 0 } else { 5 })
    }

    fn nvmlDeviceGetMemoryAffinity(
        device: nvmlDevice_t, nodeSetSize: c_uint, nodeSet: *mut c_ulong, scope: nvmlAffinityScope_t
    ) |call| {
        let gpu = call.gpu(device)?;
        if scope > 1 {
            return Err(Code::INVALID_ARGUMENT);
        }
        bits(nodeSet, nodeSetSize, gpu.numa() as usize, 1)
    }

    fn nvmlDeviceGetCpuAffinityWithinScope(
        device: nvmlDevice_t, cpuSetSize: c_uint, cpuSet: *mut c_ulong, scope: nvmlAffinityScope_t
    ) |call| {
        if scope > 1 {
            return Err(Code::INVALID_ARGUMENT);
        }
        processors(call, device, cpuSetSize, cpuSet)
    }

    fn nvmlDeviceGetCpuAffinity(device: nvmlDevice_t, cpuSetSize: c_uint, cpuSet: *mut c_ulong) |call| {
        processors(call, device, cpuSetSize, cpuSet)
    }

    fn nvmlDeviceGetNumaNodeId(device: nvmlDevice_t, node: *mut c_uint) |call| {
        // Only where the GPU itself is a NUMA node (Grace Hopper); elsewhere memory affinity says where it is attached.
        call.gpu(device)?;
        if node.is_null() { Err(Code::INVALID_ARGUMENT) } else { Err(Code::NOT_SUPPORTED) }
    }
}
