//! Which devices there are and what they are.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlBrandType_t, nvmlBusType_t, nvmlC2cModeInfo_v1_t, nvmlComputeMode_t, nvmlDevice_st, nvmlDevice_t,
    nvmlDeviceArchitecture_t, nvmlDeviceCapabilities_t, nvmlEnableState_t, nvmlGpuVirtualizationMode_t,
    nvmlGridLicensableFeatures_t, nvmlInforomObject_t, nvmlPciInfo_t, nvmlPciInfoExt_t, nvmlPlatformInfo_t, nvmlUUID_t,
};

use super::pointer::{Kind, Out, array};
use super::{Call, Subject, nvml};
use crate::code::{Answer, Code};
use crate::gpu::Gpu;

pub(super) fn bus_id(gpu: &Gpu) -> String {
    let (domain, bus) = gpu.pci();
    format!("{domain:08X}:{bus:02X}:00.0")
}

fn pci_info(gpu: &Gpu) -> nvmlPciInfo_t {
    let (domain, bus) = gpu.pci();
    nvmlPciInfo_t {
        busIdLegacy: array(&format!("{domain:04X}:{bus:02X}:00.0")),
        domain,
        bus,
        device: 0,
        pciDeviceId: gpu.model.pci_device,
        pciSubSystemId: gpu.model.pci_subsystem,
        busId: array(&bus_id(gpu)),
    }
}

fn by_index(call: &Call<'_>, index: u32, device: Out<nvmlDevice_t>) -> Answer<()> {
    let gpu = call.world().present().nth(index as usize).ok_or(Code::INVALID_ARGUMENT)?;
    device.put(call.gpu_handle(gpu)?.pointer())
}

fn by_bus_id(call: &Call<'_>, wanted: Out<c_char>, device: Out<nvmlDevice_t>) -> Answer<()> {
    let wanted = wanted.string()?.to_uppercase();
    // Domains may be written with four digits or eight.
    let found = call.world().present().find(|gpu| {
        let known = bus_id(gpu);
        known == wanted || known.get(4..) == Some(wanted.as_str()) || known.get(9..) == Some(wanted.as_str())
    });
    device.put(call.gpu_handle(found.ok_or(Code::NOT_FOUND)?)?.pointer())
}

fn by_uuid(call: &Call<'_>, wanted: &str, device: Out<nvmlDevice_t>) -> Answer<()> {
    for gpu in call.world().present() {
        if gpu.uuid == wanted {
            return device.put(call.gpu_handle(gpu)?.pointer());
        }
        for compute in gpu.mig.iter().flatten().flat_map(|instance| &instance.compute) {
            if compute.uuid == wanted {
                call.slot(gpu.slot)?;
                return device.put(call.handle(Kind::Instance, gpu.slot, compute.serial).pointer());
            }
        }
    }
    Err(Code::NOT_FOUND)
}

fn count(call: &Call<'_>, count: Out<u32>) -> Answer<()> {
    count.put(u32::try_from(call.world().present().count()).unwrap_or_default())
}

fn pci(call: &Call<'_>, device: Out<nvmlDevice_st>, pci: Out<nvmlPciInfo_t>) -> Answer<()> {
    pci.put(pci_info(call.gpu(device)?))
}

nvml! {
    fn nvmlDeviceGetCount_v2(deviceCount: *mut c_uint) |call| { count(call, deviceCount) }
    fn nvmlDeviceGetCount(deviceCount: *mut c_uint) |call| { count(call, deviceCount) }
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) |call| { by_index(call, index, device) }
    fn nvmlDeviceGetHandleByIndex(index: c_uint, device: *mut nvmlDevice_t) |call| { by_index(call, index, device) }
    fn nvmlDeviceGetHandleByPciBusId_v2(pciBusId: *const c_char, device: *mut nvmlDevice_t) |call| {
        by_bus_id(call, pciBusId, device)
    }
    fn nvmlDeviceGetHandleByPciBusId(pciBusId: *const c_char, device: *mut nvmlDevice_t) |call| {
        by_bus_id(call, pciBusId, device)
    }
    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) |call| {
        by_uuid(call, &uuid.string()?, device)
    }

    fn nvmlDeviceGetHandleByUUIDV(uuid: *const nvmlUUID_t, device: *mut nvmlDevice_t) |call| {
        uuid.version(1)?;
        let uuid = uuid.get()?;
        if uuid.type_ != 1 {
            return Err(if uuid.type_ == 2 { Code::NOT_SUPPORTED } else { Code::INVALID_ARGUMENT });
        }
        // SAFETY: the type says that it is text, and every byte is valid for it.
        let text = unsafe { uuid.value.str_ };
        let text = text.iter().take_while(|byte| **byte != 0).map(|byte| char::from(byte.cast_unsigned()));
        by_uuid(call, &text.collect::<String>(), device)
    }

    fn nvmlDeviceGetHandleBySerial(serial: *const c_char, device: *mut nvmlDevice_t) |call| {
        let wanted = serial.string()?;
        let found = call.world().present().find(|gpu| gpu.serial == wanted && gpu.model.ecc).ok_or(Code::NOT_FOUND)?;
        device.put(call.gpu_handle(found)?.pointer())
    }

    fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) |call| {
        match call.subject(device)? {
            Subject::Gpu(gpu) => name.text(length, gpu.model.name),
            Subject::Instance(gpu, instance, compute) => {
                let part = super::mig::part_name(instance, compute);
                name.text(length, &format!("{} MIG {part}", gpu.model.name))
            }
        }
    }

    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) |call| {
        match call.subject(device)? {
            Subject::Gpu(gpu) => uuid.text(length, &gpu.uuid),
            Subject::Instance(_, _, compute) => uuid.text(length, &compute.uuid),
        }
    }

    fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) |call| {
        let found = match call.subject(device)? {
            Subject::Gpu(gpu) => call.world().index(gpu.slot),
            Subject::Instance(gpu, _, compute) => super::mig::index(gpu, compute),
        };
        index.put(found.ok_or(Code::UNKNOWN)?)
    }

    fn nvmlDeviceGetBrand(device: nvmlDevice_t, type_: *mut nvmlBrandType_t) |call| {
        type_.put(call.gpu(device)?.model.brand)
    }

    fn nvmlDeviceGetSerial(device: nvmlDevice_t, serial: *mut c_char, length: c_uint) |call| {
        let gpu = call.gpu(device)?;
        // Boards for desktops have none that can be read.
        if gpu.model.ecc { serial.text(length, &gpu.serial) } else { Err(Code::NOT_SUPPORTED) }
    }

    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minorNumber: *mut c_uint) |call| {
        minorNumber.put(call.gpu(device)?.slot)
    }

    fn nvmlDeviceGetModuleId(device: nvmlDevice_t, moduleId: *mut c_uint) |call| {
        moduleId.put(call.gpu(device)?.slot % 8 + 1)
    }

    fn nvmlDeviceGetBoardId(device: nvmlDevice_t, boardId: *mut c_uint) |call| {
        let (domain, bus) = call.gpu(device)?.pci();
        boardId.put(domain << 16 | bus << 8)
    }

    fn nvmlDeviceGetMultiGpuBoard(device: nvmlDevice_t, multiGpuBool: *mut c_uint) |call| {
        call.gpu(device)?;
        multiGpuBool.put(0)
    }

    fn nvmlDeviceGetBoardPartNumber(device: nvmlDevice_t, partNumber: *mut c_char, length: c_uint) |call| {
        let part = call.gpu(device)?.model.part;
        if part.is_empty() { Err(Code::NOT_SUPPORTED) } else { partNumber.text(length, part) }
    }

    fn nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) |call| {
        version.text(length, call.gpu(device)?.model.vbios)
    }

    fn nvmlDeviceGetInforomVersion(
        device: nvmlDevice_t, object: nvmlInforomObject_t, version: *mut c_char, length: c_uint
    ) |call| {
        let gpu = call.gpu(device)?;
        match object {
            0 => version.text(length, "2.1"),
            1 if gpu.model.ecc => version.text(length, "7.16"),
            1 | 2 => Err(Code::NOT_SUPPORTED),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceGetInforomImageVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) |call| {
        version.text(length, match call.gpu(device)?.model.key {
            "h100" => "G520.0200.00.05",
            "a100" => "G506.0210.00.03",
            "a100-pcie" => "1001.0230.00.03",
            "l40s" => "G133.0242.00.03",
            _ => "G002.0000.00.03",
        })
    }

    fn nvmlDeviceGetInforomConfigurationChecksum(device: nvmlDevice_t, checksum: *mut c_uint) |call| {
        checksum.put(call.gpu(device)?.model.pci_subsystem.rotate_left(7))
    }

    fn nvmlDeviceValidateInforom(device: nvmlDevice_t) |call| { call.gpu(device).map(|_| ()) }

    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci_: *mut nvmlPciInfo_t) |call| { pci(call, device, pci_) }
    fn nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, pci_: *mut nvmlPciInfo_t) |call| { pci(call, device, pci_) }
    fn nvmlDeviceGetPciInfo(device: nvmlDevice_t, pci_: *mut nvmlPciInfo_t) |call| {
        // The first version of the struct had no longer bus id at its end.
        let info = pci_info(call.gpu(device)?);
        pci_.beginning::<[c_uint; 9]>().get()?;
        pci_.beginning::<[c_char; 16]>().put(info.busIdLegacy)?;
        let numbers = [info.domain, info.bus, info.device, info.pciDeviceId, info.pciSubSystemId];
        for (place, number) in (4..).zip(numbers) {
            pci_.beginning::<c_uint>().at(place)?.put(number)?;
        }
        Ok(())
    }

    fn nvmlDeviceGetPciInfoExt(device: nvmlDevice_t, pci: *mut nvmlPciInfoExt_t) |call| {
        pci.version(1)?;
        let info = pci_info(call.gpu(device)?);
        pci.edit(|ext| {
            (ext.domain, ext.bus, ext.device) = (info.domain, info.bus, info.device);
            (ext.pciDeviceId, ext.pciSubSystemId) = (info.pciDeviceId, info.pciSubSystemId);
            (ext.baseClass, ext.subClass, ext.busId) = (3, 2, info.busId);
        })
    }

    fn nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) |call| {
        let (gpu, _) = super::parent(&call.subject(device)?);
        major.put(gpu.model.compute.0)?;
        minor.put(gpu.model.compute.1)
    }

    fn nvmlDeviceGetArchitecture(device: nvmlDevice_t, arch: *mut nvmlDeviceArchitecture_t) |call| {
        arch.put(super::parent(&call.subject(device)?).0.model.architecture)
    }

    fn nvmlDeviceGetNumGpuCores(device: nvmlDevice_t, numCores: *mut c_uint) |call| {
        let gpu = call.gpu(device)?;
        if gpu.mig.is_some() { Err(Code::NOT_SUPPORTED) } else { numCores.put(gpu.model.cores) }
    }

    fn nvmlDeviceGetMemoryBusWidth(device: nvmlDevice_t, busWidth: *mut c_uint) |call| {
        busWidth.put(call.gpu(device)?.model.memory_bus_bits)
    }

    fn nvmlDeviceGetIrqNum(device: nvmlDevice_t, irqNum: *mut c_uint) |call| { irqNum.put(120 + call.gpu(device)?.slot) }

    fn nvmlDeviceGetBusType(device: nvmlDevice_t, type_: *mut nvmlBusType_t) |call| {
        call.gpu(device)?;
        type_.put(2)
    }

    fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: *mut nvmlComputeMode_t) |call| {
        call.subject(device)?;
        mode.put(0)
    }

    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) |call| {
        call.gpu(device)?;
        mode.put(1)
    }

    fn nvmlDeviceGetDisplayMode(device: nvmlDevice_t, display: *mut nvmlEnableState_t) |call| {
        call.gpu(device)?;
        display.put(0)
    }

    fn nvmlDeviceGetDisplayActive(device: nvmlDevice_t, isActive: *mut nvmlEnableState_t) |call| {
        call.gpu(device)?;
        isActive.put(0)
    }

    fn nvmlDeviceGetGspFirmwareVersion(device: nvmlDevice_t, version: *mut c_char) |call| {
        call.gpu(device)?;
        version.text(64, &call.world().version)
    }

    fn nvmlDeviceGetGspFirmwareMode(device: nvmlDevice_t, isEnabled: *mut c_uint, defaultMode: *mut c_uint) |call| {
        call.gpu(device)?;
        isEnabled.put(1)?;
        defaultMode.put(1)
    }

    fn nvmlDeviceGetPlatformInfo(device: nvmlDevice_t, platformInfo: *mut nvmlPlatformInfo_t) |call| {
        platformInfo.version(2)?;
        call.gpu(device)?;
        // Only racks of GB200 and later are such platforms.
        Err(Code::NOT_SUPPORTED)
    }

    fn nvmlDeviceGetVirtualizationMode(device: nvmlDevice_t, pVirtualMode: *mut nvmlGpuVirtualizationMode_t) |call| {
        call.gpu(device)?;
        pVirtualMode.put(0)
    }

    fn nvmlDeviceGetCapabilities(device: nvmlDevice_t, caps: *mut nvmlDeviceCapabilities_t) |call| {
        caps.version(1)?;
        call.gpu(device)?;
        caps.edit(|capabilities| capabilities.capMask = 0)
    }

    fn nvmlDeviceGetC2cModeInfoV(device: nvmlDevice_t, c2cModeInfo: *mut nvmlC2cModeInfo_v1_t) |call| {
        call.gpu(device)?;
        c2cModeInfo.put(nvmlC2cModeInfo_v1_t { isC2cEnabled: 0 })
    }

    fn nvmlDeviceGetGridLicensableFeatures_v4(
        device: nvmlDevice_t, pGridLicensableFeatures: *mut nvmlGridLicensableFeatures_t
    ) |call| {
        let license = call.gpu(device)?.license;
        pGridLicensableFeatures.edit(|features| {
            features.isGridLicenseSupported = c_int::from(license.is_some());
            features.licensableFeaturesCount = u32::from(license.is_some());
            features.gridLicensableFeatures[0].featureState = u32::from(license == Some(true));
        })
    }

    fn nvmlDeviceOnSameBoard(device1: nvmlDevice_t, device2: nvmlDevice_t, onSameBoard: *mut c_int) |call| {
        onSameBoard.put(c_int::from(call.gpu(device1)?.slot == call.gpu(device2)?.slot))
    }
}
