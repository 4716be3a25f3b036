//! Divided GPUs (MIG).

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlComputeInstance_st, nvmlComputeInstance_t, nvmlComputeInstanceInfo_t, nvmlComputeInstancePlacement_t,
    nvmlComputeInstanceProfileInfo_t, nvmlComputeInstanceProfileInfo_v2_t, nvmlDevice_st, nvmlDevice_t,
    nvmlDeviceAttributes_t, nvmlGpuInstance_st, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t,
    nvmlGpuInstanceProfileInfo_t, nvmlGpuInstanceProfileInfo_v2_t,
};

use super::pointer::{Handle, Kind, Out, array};
use super::{Call, Subject, nvml};
use crate::code::{Answer, Code};
use crate::gpu::Gpu;
use crate::mig::{ComputeInstance, GpuInstance, Profile};

/// Most devices that a GPU can be divided into.
const MAXIMUM: u32 = 7;

/// What the driver calls a part: "1g.10gb", or "1c.3g.40gb" where it has only some of the slices.
pub(super) fn part_name(instance: &GpuInstance, compute: &ComputeInstance) -> String {
    if compute.slices == instance.profile.slices {
        instance.profile.name.to_owned()
    } else {
        format!("{}c.{}", compute.slices, instance.profile.name)
    }
}

/// How the driver counts it among the parts of its GPU.
pub(super) fn index(gpu: &Gpu, wanted: &ComputeInstance) -> Option<u32> {
    let mut parts = gpu.mig.iter().flatten().flat_map(|instance| &instance.compute);
    parts.position(|compute| compute.serial == wanted.serial).and_then(|index| u32::try_from(index).ok())
}

/// Slices of a profile of compute instances by its number (`NVML_COMPUTE_INSTANCE_PROFILE_…`).
fn compute_slices(number: u32) -> Answer<u32> {
    match number {
        0 | 7 => Ok(1),
        1 => Ok(2),
        2 => Ok(3),
        3 => Ok(4),
        4 => Ok(7),
        5 | 6 => Err(Code::NOT_SUPPORTED),
        _ => Err(Code::INVALID_ARGUMENT),
    }
}

fn compute_number(slices: u32) -> u32 {
    if slices == 7 { 4 } else { slices - 1 }
}

fn divisible<'a>(call: &'a Call<'_>, device: Out<nvmlDevice_st>) -> Answer<(&'a Gpu, &'static [Profile])> {
    let gpu = call.gpu(device)?;
    let table = gpu.model.mig.ok_or(Code::NOT_SUPPORTED)?;
    Ok((gpu, table.profiles))
}

fn divided<'a>(call: &'a Call<'_>, device: Out<nvmlDevice_st>) -> Answer<(&'a Gpu, &'a [GpuInstance])> {
    let (gpu, _) = divisible(call, device)?;
    Ok((gpu, gpu.mig.as_deref().ok_or(Code::NOT_SUPPORTED)?))
}

fn numbered(profiles: &'static [Profile], number: u32) -> Answer<&'static Profile> {
    let found = profiles.iter().find(|profile| profile.number == number);
    found.ok_or(if number < 17 { Code::NOT_SUPPORTED } else { Code::INVALID_ARGUMENT })
}

fn with_id(profiles: &'static [Profile], id: u32) -> Answer<&'static Profile> {
    profiles.iter().find(|profile| profile.id == id).ok_or(Code::INVALID_ARGUMENT)
}

fn profile_info(profile: &Profile) -> nvmlGpuInstanceProfileInfo_t {
    nvmlGpuInstanceProfileInfo_t {
        id: profile.id,
        isP2pSupported: 0,
        sliceCount: profile.slices,
        instanceCount: u32::try_from(profile.starts.len()).unwrap_or_default(),
        multiprocessorCount: profile.multiprocessors,
        copyEngineCount: profile.copy_engines,
        decoderCount: profile.decoders,
        encoderCount: 0,
        jpegCount: profile.jpeg,
        ofaCount: profile.optical_flow,
        memorySizeMB: profile.memory_mib,
    }
}

fn profile_info_v2(profile: &Profile, into: Out<nvmlGpuInstanceProfileInfo_v2_t>) -> Answer<()> {
    let info = profile_info(profile);
    into.edit(|v2| {
        *v2 = nvmlGpuInstanceProfileInfo_v2_t {
            version: v2.version,
            id: info.id,
            isP2pSupported: info.isP2pSupported,
            sliceCount: info.sliceCount,
            instanceCount: info.instanceCount,
            multiprocessorCount: info.multiprocessorCount,
            copyEngineCount: info.copyEngineCount,
            decoderCount: info.decoderCount,
            encoderCount: info.encoderCount,
            jpegCount: info.jpegCount,
            ofaCount: info.ofaCount,
            memorySizeMB: info.memorySizeMB,
            name: array(&format!("MIG {}", profile.name)),
        };
    })
}

fn compute_info(instance: &GpuInstance, number: u32, engine: u32) -> Answer<nvmlComputeInstanceProfileInfo_t> {
    let slices = compute_slices(number)?;
    if engine != 0 {
        return Err(Code::INVALID_ARGUMENT);
    }
    let profile = instance.profile;
    if slices > profile.slices || number == 7 {
        return Err(Code::NOT_SUPPORTED);
    }
    Ok(nvmlComputeInstanceProfileInfo_t {
        id: number,
        sliceCount: slices,
        instanceCount: profile.slices / slices,
        multiprocessorCount: profile.multiprocessors / profile.slices * slices,
        sharedCopyEngineCount: profile.copy_engines,
        sharedDecoderCount: profile.decoders,
        sharedEncoderCount: 0,
        sharedJpegCount: profile.jpeg,
        sharedOfaCount: profile.optical_flow,
    })
}

fn used_slices(instance: &GpuInstance) -> u32 {
    instance.compute.iter().map(|compute| compute.slices).sum()
}

impl Call<'_> {
    fn gpu_instance(&self, seen: Out<nvmlGpuInstance_st>) -> Answer<(&Gpu, &GpuInstance)> {
        let handle = Handle::of(seen, Kind::GpuInstance)?;
        let gpu = self.slot(handle.slot())?;
        let found = gpu.mig.iter().flatten().find(|instance| instance.serial == handle.serial());
        found.map(|instance| (gpu, instance)).ok_or(Code::INVALID_ARGUMENT)
    }
}

fn placements(profile: &Profile) -> Vec<nvmlGpuInstancePlacement_t> {
    let size = profile.memory_slices;
    let mut starts = profile.starts.to_vec();
    starts.sort_unstable();
    starts.into_iter().map(|start| nvmlGpuInstancePlacement_t { start, size }).collect()
}

fn occupied(instances: &[GpuInstance]) -> u32 {
    instances.iter().fold(0, |used, one| used | ((1 << one.profile.memory_slices) - 1) << one.start)
}

fn attributes(call: &Call<'_>, device: Out<nvmlDevice_st>, into: Out<nvmlDeviceAttributes_t>) -> Answer<()> {
    let Subject::Instance(_, instance, compute) = call.subject(device)? else { return Err(Code::NOT_SUPPORTED) };
    let profile = instance.profile;
    into.put(nvmlDeviceAttributes_t {
        multiprocessorCount: profile.multiprocessors / profile.slices * compute.slices,
        sharedCopyEngineCount: profile.copy_engines,
        sharedDecoderCount: profile.decoders,
        sharedEncoderCount: 0,
        sharedJpegCount: profile.jpeg,
        sharedOfaCount: profile.optical_flow,
        gpuInstanceSliceCount: profile.slices,
        computeInstanceSliceCount: compute.slices,
        memorySizeMB: profile.memory_mib,
    })
}

fn possible_placements(
    call: &Call<'_>,
    device: Out<nvmlDevice_st>,
    id: u32,
    into: Out<nvmlGpuInstancePlacement_t>,
    count: Out<u32>,
) -> Answer<()> {
    let found = placements(with_id(divisible(call, device)?.1, id)?);
    if into.is_null() {
        return count.put(u32::try_from(found.len()).unwrap_or_default());
    }
    into.list(count, &found)
}

fn compute_instance_info(
    call: &Call<'_>,
    seen: Out<nvmlComputeInstance_st>,
    into: Out<nvmlComputeInstanceInfo_t>,
) -> Answer<()> {
    let handle = Handle::of(seen, Kind::ComputeInstance)?;
    let gpu = call.slot(handle.slot())?;
    for instance in gpu.mig.iter().flatten() {
        let mut start = 0;
        for compute in &instance.compute {
            if compute.serial == handle.serial() {
                return into.put(nvmlComputeInstanceInfo_t {
                    device: call.handle(Kind::Gpu, gpu.slot, 0).pointer(),
                    gpuInstance: call.handle(Kind::GpuInstance, gpu.slot, instance.serial).pointer(),
                    id: compute.id,
                    profileId: compute_number(compute.slices),
                    placement: nvmlComputeInstancePlacement_t { start, size: compute.slices },
                });
            }
            start += compute.slices;
        }
    }
    Err(Code::INVALID_ARGUMENT)
}

nvml! {
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, currentMode: *mut c_uint, pendingMode: *mut c_uint) |call| {
        let mode = u32::from(divisible(call, device)?.0.mig.is_some());
        currentMode.put(mode)?;
        pendingMode.put(mode)
    }

    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) |call| {
        let gpu = call.gpu(device)?;
        count.put(if gpu.mig.is_some() { MAXIMUM } else { 0 })
    }

    fn nvmlDeviceGetMigDeviceHandleByIndex(device: nvmlDevice_t, index: c_uint, migDevice: *mut nvmlDevice_t) |call| {
        let (gpu, instances) = divided(call, device)?;
        if index >= MAXIMUM {
            return Err(Code::INVALID_ARGUMENT);
        }
        let mut parts = instances.iter().flat_map(|instance| &instance.compute);
        let part = parts.nth(index as usize).ok_or(Code::NOT_FOUND)?;
        migDevice.put(call.handle(Kind::Instance, gpu.slot, part.serial).pointer())
    }

    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(migDevice: nvmlDevice_t, device: *mut nvmlDevice_t) |call| {
        match call.subject(migDevice)? {
            Subject::Instance(gpu, ..) => device.put(call.handle(Kind::Gpu, gpu.slot, 0).pointer()),
            Subject::Gpu(_) => Err(Code::INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, isMigDevice: *mut c_uint) |call| {
        isMigDevice.put(u32::from(matches!(call.subject(device)?, Subject::Instance(..))))
    }

    fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, id: *mut c_uint) |call| {
        match call.subject(device)? {
            Subject::Instance(_, instance, _) => id.put(instance.id),
            Subject::Gpu(_) => Err(Code::INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, id: *mut c_uint) |call| {
        match call.subject(device)? {
            Subject::Instance(_, _, compute) => id.put(compute.id),
            Subject::Gpu(_) => Err(Code::INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceGetAttributes_v2(device: nvmlDevice_t, attributes_: *mut nvmlDeviceAttributes_t) |call| {
        attributes(call, device, attributes_)
    }
    fn nvmlDeviceGetAttributes(device: nvmlDevice_t, attributes_: *mut nvmlDeviceAttributes_t) |call| {
        attributes(call, device, attributes_)
    }

    fn nvmlDeviceGetGpuInstanceProfileInfo(
        device: nvmlDevice_t, profile: c_uint, info: *mut nvmlGpuInstanceProfileInfo_t
    ) |call| {
        info.put(profile_info(numbered(divisible(call, device)?.1, profile)?))
    }
    fn nvmlDeviceGetGpuInstanceProfileInfoV(
        device: nvmlDevice_t, profile: c_uint, info: *mut nvmlGpuInstanceProfileInfo_v2_t
    ) |call| {
        info.version(2)?;
        profile_info_v2(numbered(divisible(call, device)?.1, profile)?, info)
    }
    fn nvmlDeviceGetGpuInstanceProfileInfoByIdV(
        device: nvmlDevice_t, profileId: c_uint, info: *mut nvmlGpuInstanceProfileInfo_v2_t
    ) |call| {
        info.version(2)?;
        profile_info_v2(with_id(divisible(call, device)?.1, profileId)?, info)
    }
    fn nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        device: nvmlDevice_t, profileId: c_uint, placements: *mut nvmlGpuInstancePlacement_t, count: *mut c_uint
    ) |call| {
        possible_placements(call, device, profileId, placements, count)
    }
    fn nvmlDeviceGetGpuInstancePossiblePlacements(
        device: nvmlDevice_t, profileId: c_uint, placements: *mut nvmlGpuInstancePlacement_t, count: *mut c_uint
    ) |call| {
        possible_placements(call, device, profileId, placements, count)
    }
    fn nvmlDeviceGetGpuInstanceRemainingCapacity(device: nvmlDevice_t, profileId: c_uint, count: *mut c_uint) |call| {
        let (_, instances) = divided(call, device)?;
        let profile = with_id(divisible(call, device)?.1, profileId)?;
        // How many more fit beside each other, from the first slice on.
        let mut used = occupied(instances);
        let compute: u32 = instances.iter().map(|instance| instance.profile.slices).sum();
        let mut fit = 0;
        for placement in placements(profile) {
            let slices = ((1 << placement.size) - 1) << placement.start;
            if used & slices == 0 && compute + (fit + 1) * profile.slices <= MAXIMUM {
                used |= slices;
                fit += 1;
            }
        }
        count.put(fit)
    }

    fn nvmlDeviceGetGpuInstances(
        device: nvmlDevice_t, profileId: c_uint, gpuInstances: *mut nvmlGpuInstance_t, count: *mut c_uint
    ) |call| {
        let (gpu, instances) = divided(call, device)?;
        with_id(divisible(call, device)?.1, profileId)?;
        let found = instances.iter().filter(|instance| instance.profile.id == profileId);
        let handles: Vec<_> = found.map(|one| call.handle(Kind::GpuInstance, gpu.slot, one.serial).pointer()).collect();
        // The caller has room for as many as the profile allows, and does not say it.
        for (place, handle) in handles.iter().enumerate() {
            gpuInstances.at(place)?.put(*handle)?;
        }
        count.put(u32::try_from(handles.len()).unwrap_or_default())
    }
    fn nvmlDeviceGetGpuInstanceById(device: nvmlDevice_t, id: c_uint, gpuInstance: *mut nvmlGpuInstance_t) |call| {
        let (gpu, instances) = divided(call, device)?;
        let found = instances.iter().find(|instance| instance.id == id).ok_or(Code::NOT_FOUND)?;
        gpuInstance.put(call.handle(Kind::GpuInstance, gpu.slot, found.serial).pointer())
    }
    fn nvmlGpuInstanceGetInfo(gpuInstance: nvmlGpuInstance_t, info: *mut nvmlGpuInstanceInfo_t) |call| {
        let (gpu, instance) = call.gpu_instance(gpuInstance)?;
        info.put(nvmlGpuInstanceInfo_t {
            device: call.handle(Kind::Gpu, gpu.slot, 0).pointer(),
            id: instance.id,
            profileId: instance.profile.id,
            placement: nvmlGpuInstancePlacement_t { start: instance.start, size: instance.profile.memory_slices },
        })
    }

    fn nvmlGpuInstanceGetComputeInstanceProfileInfo(
        gpuInstance: nvmlGpuInstance_t, profile: c_uint, engProfile: c_uint, info: *mut nvmlComputeInstanceProfileInfo_t
    ) |call| {
        info.put(compute_info(call.gpu_instance(gpuInstance)?.1, profile, engProfile)?)
    }
    fn nvmlGpuInstanceGetComputeInstanceProfileInfoV(
        gpuInstance: nvmlGpuInstance_t, profile: c_uint, engProfile: c_uint,
        info: *mut nvmlComputeInstanceProfileInfo_v2_t
    ) |call| {
        info.version(2)?;
        let (_, instance) = call.gpu_instance(gpuInstance)?;
        let found = compute_info(instance, profile, engProfile)?;
        let name = if found.sliceCount == instance.profile.slices {
            instance.profile.name.to_owned()
        } else {
            format!("{}c.{}", found.sliceCount, instance.profile.name)
        };
        info.edit(|v2| {
            *v2 = nvmlComputeInstanceProfileInfo_v2_t {
                version: v2.version,
                id: found.id,
                sliceCount: found.sliceCount,
                instanceCount: found.instanceCount,
                multiprocessorCount: found.multiprocessorCount,
                sharedCopyEngineCount: found.sharedCopyEngineCount,
                sharedDecoderCount: found.sharedDecoderCount,
                sharedEncoderCount: found.sharedEncoderCount,
                sharedJpegCount: found.sharedJpegCount,
                sharedOfaCount: found.sharedOfaCount,
                name: array(&format!("MIG {name}")),
            };
        })
    }
    fn nvmlGpuInstanceGetComputeInstanceRemainingCapacity(
        gpuInstance: nvmlGpuInstance_t, profileId: c_uint, count: *mut c_uint
    ) |call| {
        let (_, instance) = call.gpu_instance(gpuInstance)?;
        count.put((instance.profile.slices - used_slices(instance)) / compute_slices(profileId)?)
    }
    fn nvmlGpuInstanceGetComputeInstancePossiblePlacements(
        gpuInstance: nvmlGpuInstance_t, profileId: c_uint, placements: *mut nvmlComputeInstancePlacement_t,
        count: *mut c_uint
    ) |call| {
        let (_, instance) = call.gpu_instance(gpuInstance)?;
        let size = compute_slices(profileId)?;
        let found: Vec<_> = (0..instance.profile.slices / size)
            .map(|place| nvmlComputeInstancePlacement_t { start: place * size, size })
            .collect();
        if placements.is_null() {
            return count.put(u32::try_from(found.len()).unwrap_or_default());
        }
        placements.list(count, &found)
    }
    fn nvmlGpuInstanceGetComputeInstances(
        gpuInstance: nvmlGpuInstance_t, profileId: c_uint, computeInstances: *mut nvmlComputeInstance_t, count: *mut c_uint
    ) |call| {
        let (gpu, instance) = call.gpu_instance(gpuInstance)?;
        let slices = compute_slices(profileId)?;
        let found = instance.compute.iter().filter(|compute| compute.slices == slices);
        let handles: Vec<_> = found.map(|one| call.handle(Kind::ComputeInstance, gpu.slot, one.serial).pointer()).collect();
        for (place, handle) in handles.iter().enumerate() {
            computeInstances.at(place)?.put(*handle)?;
        }
        count.put(u32::try_from(handles.len()).unwrap_or_default())
    }
    fn nvmlGpuInstanceGetComputeInstanceById(
        gpuInstance: nvmlGpuInstance_t, id: c_uint, computeInstance: *mut nvmlComputeInstance_t
    ) |call| {
        let (gpu, instance) = call.gpu_instance(gpuInstance)?;
        let found = instance.compute.iter().find(|compute| compute.id == id).ok_or(Code::NOT_FOUND)?;
        computeInstance.put(call.handle(Kind::ComputeInstance, gpu.slot, found.serial).pointer())
    }
    fn nvmlComputeInstanceGetInfo_v2(computeInstance: nvmlComputeInstance_t, info: *mut nvmlComputeInstanceInfo_t) |call| {
        compute_instance_info(call, computeInstance, info)
    }
    fn nvmlComputeInstanceGetInfo(computeInstance: nvmlComputeInstance_t, info: *mut nvmlComputeInstanceInfo_t) |call| {
        compute_instance_info(call, computeInstance, info)
    }
}
