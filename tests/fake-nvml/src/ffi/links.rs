//! `NVLink`.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_st, nvmlDevice_t, nvmlEnableState_t, nvmlGpuFabricInfo_t, nvmlGpuFabricInfoV_t,
    nvmlIntNvLinkDeviceType_t, nvmlNvLinkCapability_t, nvmlNvLinkErrorCounter_t, nvmlPciInfo_t,
};

use super::pointer::{Out, array};
use super::{Call, nvml};
use crate::code::{Answer, Code};
use crate::gpu::{Gpu, Link};
use crate::model::LinkEnd;

/// A link of a GPU.
pub(super) fn link(gpu: &Gpu, number: u32) -> Answer<&Link> {
    if gpu.links.is_empty() {
        return Err(if number < 18 { Code::NOT_SUPPORTED } else { Code::INVALID_ARGUMENT });
    }
    gpu.links.get(number as usize).ok_or(Code::INVALID_ARGUMENT)
}

fn remote(call: &Call<'_>, device: Out<nvmlDevice_st>, number: u32) -> Answer<nvmlPciInfo_t> {
    let gpu = call.gpu(device)?;
    link(gpu, number)?;
    let (domain, bus, pci_device) = match gpu.model.links.to {
        LinkEnd::Switches => (gpu.slot / 8, 0x05 + number % 4, 0x22a3_10de),
        LinkEnd::Neighbour | LinkEnd::Nowhere => {
            let other =
                gpu.linked_slot().and_then(|slot| call.world().gpus.get(slot as usize)).ok_or(Code::NOT_SUPPORTED)?;
            (other.pci().0, other.pci().1, other.model.pci_device)
        }
    };
    Ok(nvmlPciInfo_t {
        busIdLegacy: array(&format!("{domain:04X}:{bus:02X}:00.0")),
        domain,
        bus,
        device: 0,
        pciDeviceId: pci_device,
        pciSubSystemId: 0,
        busId: array(&format!("{domain:08X}:{bus:02X}:00.0")),
    })
}

/// GPUs behind switches belong to a fabric from Hopper on.
fn fabric(gpu: &Gpu) -> bool {
    gpu.model.links.to == LinkEnd::Switches && gpu.model.architecture >= 9
}

/// What the third version of the struct has before its last field, which the second has not.
#[repr(C)]
#[derive(Clone, Copy)]
struct FabricV2 {
    version: c_uint,
    cluster: [u8; 16],
    status: c_uint,
    clique: c_uint,
    state: u8,
    health: c_uint,
}

/// Bandwidth is not degraded, no route is being recovered or unhealthy, and so on: two bits each say "no".
const HEALTHY: u32 = 0x2 | 0x2 << 2 | 0x2 << 4 | 0x2 << 6 | 0x1 << 8;

nvml! {
    fn nvmlDeviceGetNvLinkState(device: nvmlDevice_t, link_: c_uint, isActive: *mut nvmlEnableState_t) |call| {
        isActive.put(u32::from(link(call.gpu(device)?, link_)?.active))
    }

    fn nvmlDeviceGetNvLinkVersion(device: nvmlDevice_t, link_: c_uint, version: *mut c_uint) |call| {
        let gpu = call.gpu(device)?;
        link(gpu, link_)?;
        version.put(gpu.model.links.version)
    }

    fn nvmlDeviceGetNvLinkCapability(
        device: nvmlDevice_t, link_: c_uint, capability: nvmlNvLinkCapability_t, capResult: *mut c_uint
    ) |call| {
        link(call.gpu(device)?, link_)?;
        match capability {
            0..=3 | 5 => capResult.put(1),
            4 => capResult.put(0),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: nvmlDevice_t, link: c_uint, pci: *mut nvmlPciInfo_t) |call| {
        pci.put(remote(call, device, link)?)
    }
    fn nvmlDeviceGetNvLinkRemotePciInfo(device: nvmlDevice_t, link: c_uint, pci: *mut nvmlPciInfo_t) |call| {
        pci.put(remote(call, device, link)?)
    }

    fn nvmlDeviceGetNvLinkRemoteDeviceType(
        device: nvmlDevice_t, link_: c_uint, pNvLinkDeviceType: *mut nvmlIntNvLinkDeviceType_t
    ) |call| {
        let gpu = call.gpu(device)?;
        link(gpu, link_)?;
        pNvLinkDeviceType.put(if gpu.model.links.to == LinkEnd::Switches { 2 } else { 0 })
    }

    fn nvmlDeviceGetNvLinkErrorCounter(
        device: nvmlDevice_t, link_: c_uint, counter: nvmlNvLinkErrorCounter_t, counterValue: *mut c_ulonglong
    ) |call| {
        let link = link(call.gpu(device)?, link_)?;
        counterValue.put(match counter {
            0 => link.replays,
            1 => link.recoveries,
            2 => link.crc_flit,
            3 => link.crc_data,
            4 => link.ecc,
            _ => return Err(Code::INVALID_ARGUMENT),
        })
    }

    fn nvmlDeviceGetGpuFabricInfo(device: nvmlDevice_t, gpuFabricInfo: *mut nvmlGpuFabricInfo_t) |call| {
        let fabric = fabric(call.gpu(device)?);
        gpuFabricInfo.put(nvmlGpuFabricInfo_t {
            clusterUuid: [0; 16], status: 0, cliqueId: 0, state: if fabric { 3 } else { 0 },
        })
    }

    fn nvmlDeviceGetGpuFabricInfoV(device: nvmlDevice_t, gpuFabricInfo: *mut nvmlGpuFabricInfoV_t) |call| {
        let fabric = fabric(call.gpu(device)?);
        let (state, health) = if fabric { (3, HEALTHY) } else { (0, 0) };
        let v2 = gpuFabricInfo.beginning::<FabricV2>();
        let newest = gpuFabricInfo.version(3).is_ok();
        if !newest {
            v2.version(2)?;
        }
        if newest {
            return gpuFabricInfo.edit(|info| {
                (info.clusterUuid, info.status, info.cliqueId) = ([0; 16], 0, 0);
                (info.state, info.healthMask, info.healthSummary) = (state, health, u8::from(fabric));
            });
        }
        v2.edit(|info| {
            (info.cluster, info.status, info.clique) = ([0; 16], 0, 0);
            (info.state, info.health) = (state, health);
        })
    }
}
