//! Events: waiting for what the driver has to tell.

use std::time::Duration;

use nvml_wrapper_sys::bindings as sys;
use sys::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t};

use crate::call::{Plain, check, one, symbol};
use crate::{Code, Device, Error, Nvml};

/// Kinds of events, as bits. The bindings stop at 0x100.
pub mod event_bits {
    /// An uncorrectable ECC error.
    pub const DOUBLE_BIT_ECC: u64 = 0x2;
    /// An XID.
    pub const XID: u64 = 0x8;
    /// Corrected ECC errors above a threshold.
    pub const SINGLE_BIT_ECC_STORM: u64 = 0x200;
    /// A page or row of memory is retired.
    pub const DRAM_RETIREMENT: u64 = 0x400;
    /// Retiring one failed.
    pub const DRAM_RETIREMENT_FAILURE: u64 = 0x800;
    /// Poisoned data was met, and contained.
    pub const NON_FATAL_POISON: u64 = 0x1000;
    /// Poisoned data was met, and not contained.
    pub const FATAL_POISON: u64 = 0x2000;
    /// The GPU cannot be used.
    pub const GPU_UNAVAILABLE: u64 = 0x4000;
    /// The recovery action changed.
    pub const RECOVERY_ACTION: u64 = 0x8000;
}

/// What stands for "no instance" in an event.
const NO_INSTANCE: u32 = u32::MAX;

/// An event.
#[derive(Clone, Debug)]
pub struct EventData {
    /// The device; None where the driver does not say.
    pub device: Option<Device>,
    /// Its kind: one of [`event_bits`], or one that is newer.
    pub kind: u64,
    /// The XID, in the event of one.
    pub data: u64,
    /// The GPU instance, where the driver says.
    pub gpu_instance: Option<u32>,
    /// The compute instance within it, where the driver says.
    pub compute_instance: Option<u32>,
}

/// A set of devices whose events one waits for.
pub struct EventSet {
    nvml: Nvml,
    set: nvmlEventSet_t,
}

// SAFETY: NVML may be called from any thread, and this is the only owner of the set; nothing in it belongs to the
// thread that made it.
unsafe impl Send for EventSet {}

impl EventSet {
    /// A set without devices.
    pub fn new(nvml: &Nvml) -> Result<Self, Error> {
        let function = symbol("nvmlEventSetCreate", &nvml.symbols().nvmlEventSetCreate)?;
        let mut set: nvmlEventSet_t = std::ptr::null_mut();
        // SAFETY: the pointer is to one handle, which the function writes.
        check("nvmlEventSetCreate", unsafe { function(&raw mut set) })?;
        Ok(Self { nvml: nvml.clone(), set })
    }

    /// Adds a device, for those of the wanted kinds that it can report, and says which they are.
    pub fn register(&mut self, device: &Device, wanted: u64) -> Result<u64, Error> {
        let symbols = self.nvml.symbols();
        let supported =
            one("nvmlDeviceGetSupportedEventTypes", &symbols.nvmlDeviceGetSupportedEventTypes, device.handle())?;
        let kinds = wanted & supported;
        let function = symbol("nvmlDeviceRegisterEvents", &symbols.nvmlDeviceRegisterEvents)?;
        // SAFETY: device and set are live, as both hold the library.
        check("nvmlDeviceRegisterEvents", unsafe { function(device.handle(), kinds, self.set) })?;
        Ok(kinds)
    }

    /// The next event; None when none came in time.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<EventData>, Error> {
        let function = symbol("nvmlEventSetWait_v2", &self.nvml.symbols().nvmlEventSetWait_v2)?;
        let milliseconds = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        let mut data = nvmlEventData_t::zeroed();
        // SAFETY: the set is live, and the pointer is to one struct, which the function fills in.
        match check("nvmlEventSetWait_v2", unsafe { function(self.set, &raw mut data, milliseconds) }) {
            Ok(()) => Ok(Some(self.event(&data))),
            Err(error) if error.code() == Some(Code::TIMEOUT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn event(&self, data: &nvmlEventData_t) -> EventData {
        let instance = |id: u32| (id != NO_INSTANCE).then_some(id);
        let handle: nvmlDevice_t = data.device;
        EventData {
            device: (!handle.is_null()).then(|| Device::new(self.nvml.clone(), handle)),
            kind: data.eventType,
            data: data.eventData,
            gpu_instance: instance(data.gpuInstanceId),
            compute_instance: instance(data.computeInstanceId),
        }
    }
}

impl Drop for EventSet {
    fn drop(&mut self) {
        if let Ok(free) = &self.nvml.symbols().nvmlEventSetFree {
            // SAFETY: the set came from nvmlEventSetCreate, is freed once, and the library is still held.
            unsafe { free(self.set) };
        }
    }
}
