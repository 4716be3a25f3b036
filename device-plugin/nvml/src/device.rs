//! What can be asked of a GPU, or of a MIG device.

use std::ffi::{c_uint, c_ulong};
use std::fmt;

use nvml_wrapper_sys::bindings as sys;
use sys::{NvmlLib, nvmlDevice_t, nvmlPciInfo_t, nvmlProcessInfo_t};

use crate::call::{Plain, Symbol, check, one, one_into, part, string, symbol, text, two, version};
use crate::{Code, Error, Nvml};

/// Processes for which there is room at first.
const PROCESSES: usize = 32;
/// How often the list is asked for again when it grew meanwhile.
const ATTEMPTS: u32 = 4;

/// A GPU or a MIG device, by NVML's handle.
#[derive(Clone)]
pub struct Device {
    nvml: Nvml,
    handle: nvmlDevice_t,
}

// SAFETY: a handle is a token that NVML accepts on any thread, and no memory is reached through it but by NVML, which
// is safe for threads.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Device({:p})", self.handle)
    }
}

/// The same handle: true only of the same device of the same initialisation.
impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.handle == other.handle
    }
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// In all.
    pub total: u64,
    /// Not in use.
    pub free: u64,
    /// In use. Includes `reserved` where that is not known.
    pub used: u64,
    /// What driver and firmware keep for themselves; older drivers do not say.
    pub reserved: Option<u64>,
}

/// How busy a device is, in percent of the driver's last period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utilization {
    /// A kernel ran.
    pub gpu: u32,
    /// Memory was read or written.
    pub memory: u32,
}

/// A process with a context on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Bytes that it uses; None where the driver cannot say.
    pub memory: Option<u64>,
}

/// What a MIG device is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigAttributes {
    /// Slices of its GPU instance.
    pub gpu_slices: u32,
    /// Slices of its compute instance.
    pub compute_slices: u32,
    /// MiB of memory.
    pub memory_mib: u64,
}

/// Uncorrectable errors of SRAM over the life of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SramErrors {
    /// So many that the GPU has to be replaced.
    pub threshold_exceeded: bool,
}

/// Who is at the other end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NvLinkPeer {
    /// A GPU, by its PCI address.
    Gpu(String),
    /// A switch.
    Switch,
    /// Something else, or nobody knows.
    Other,
}

/// A limit of temperature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// The GPU turns itself off.
    Shutdown,
    /// The clocks are lowered.
    Slowdown,
}

/// What two GPUs have in common on the way over the bus, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topology {
    /// The board.
    Internal,
    /// One PCI Express switch.
    Single,
    /// Several of them.
    Multiple,
    /// The host bridge.
    HostBridge,
    /// The NUMA node.
    Node,
    /// The machine.
    System,
}

impl Device {
    pub(crate) fn new(nvml: Nvml, handle: nvmlDevice_t) -> Self {
        Self { nvml, handle }
    }

    pub(crate) fn handle(&self) -> nvmlDevice_t {
        self.handle
    }

    pub(crate) fn symbols(&self) -> &NvmlLib {
        self.nvml.symbols()
    }

    /// "GPU-…" or "MIG-…".
    pub fn uuid(&self) -> Result<String, Error> {
        let function = symbol("nvmlDeviceGetUUID", &self.symbols().nvmlDeviceGetUUID)?;
        // SAFETY: the handle is live; `text` passes a buffer and its length.
        text::<96>("nvmlDeviceGetUUID", |buffer, length| unsafe { function(self.handle, buffer, length) })
    }

    /// Product name; of a MIG device followed by its profile.
    pub fn name(&self) -> Result<String, Error> {
        let function = symbol("nvmlDeviceGetName", &self.symbols().nvmlDeviceGetName)?;
        // SAFETY: as above.
        text::<96>("nvmlDeviceGetName", |buffer, length| unsafe { function(self.handle, buffer, length) })
    }

    /// Number of its file below /dev.
    pub fn minor_number(&self) -> Result<u32, Error> {
        one("nvmlDeviceGetMinorNumber", &self.symbols().nvmlDeviceGetMinorNumber, self.handle)
    }

    /// PCI address, such as "00000000:1B:00.0".
    pub fn pci_address(&self) -> Result<String, Error> {
        let info = one("nvmlDeviceGetPciInfo_v3", &self.symbols().nvmlDeviceGetPciInfo_v3, self.handle)?;
        Ok(address(&info))
    }

    /// Compute capability as (major, minor).
    pub fn compute_capability(&self) -> Result<(u32, u32), Error> {
        let found = &self.symbols().nvmlDeviceGetCudaComputeCapability;
        let (major, minor) = two("nvmlDeviceGetCudaComputeCapability", found, self.handle)?;
        Ok((major.unsigned_abs(), minor.unsigned_abs()))
    }

    /// The NUMA nodes that it is attached to, the lowest 64 of them as bits.
    pub fn memory_affinity(&self) -> Result<u64, Error> {
        let function = symbol("nvmlDeviceGetMemoryAffinity", &self.symbols().nvmlDeviceGetMemoryAffinity)?;
        let mut nodes: c_ulong = 0;
        // SAFETY: the handle is live, and the pointer is to as many words as the second argument says.
        check("nvmlDeviceGetMemoryAffinity", unsafe { function(self.handle, 1, &raw mut nodes, 0) })?;
        Ok(nodes)
    }

    /// Memory. Drivers before 510 do not say what is reserved.
    pub fn memory(&self) -> Result<Memory, Error> {
        let symbols = self.symbols();
        let request = sys::nvmlMemory_v2_t { version: version::<sys::nvmlMemory_v2_t>(2), ..Plain::zeroed() };
        match one_into("nvmlDeviceGetMemoryInfo_v2", &symbols.nvmlDeviceGetMemoryInfo_v2, self.handle, request) {
            Ok(memory) => {
                let sys::nvmlMemory_v2_t { total, reserved, free, used, .. } = memory;
                Ok(Memory { total, free, used, reserved: Some(reserved) })
            }
            Err(Error::Call { code: Code::FUNCTION_NOT_FOUND | Code::ARGUMENT_VERSION_MISMATCH, .. }) => {
                let memory = one("nvmlDeviceGetMemoryInfo", &symbols.nvmlDeviceGetMemoryInfo, self.handle)?;
                Ok(Memory { total: memory.total, free: memory.free, used: memory.used, reserved: None })
            }
            Err(error) => Err(error),
        }
    }

    /// How busy it is. Divided GPUs do not say.
    pub fn utilization(&self) -> Result<Utilization, Error> {
        let rates = one("nvmlDeviceGetUtilizationRates", &self.symbols().nvmlDeviceGetUtilizationRates, self.handle)?;
        Ok(Utilization { gpu: rates.gpu, memory: rates.memory })
    }

    /// How busy the encoder is, in percent.
    pub fn encoder_utilization(&self) -> Result<u32, Error> {
        let found = &self.symbols().nvmlDeviceGetEncoderUtilization;
        two("nvmlDeviceGetEncoderUtilization", found, self.handle).map(|(percent, _)| percent)
    }

    /// How busy the decoder is, in percent.
    pub fn decoder_utilization(&self) -> Result<u32, Error> {
        let found = &self.symbols().nvmlDeviceGetDecoderUtilization;
        two("nvmlDeviceGetDecoderUtilization", found, self.handle).map(|(percent, _)| percent)
    }

    /// Clock of the multiprocessors, MHz.
    pub fn sm_clock(&self) -> Result<u32, Error> {
        let found = &self.symbols().nvmlDeviceGetClockInfo;
        part("nvmlDeviceGetClockInfo", found, self.handle, sys::nvmlClockType_enum_NVML_CLOCK_SM)
    }

    /// Clock of the memory, MHz.
    pub fn memory_clock(&self) -> Result<u32, Error> {
        let found = &self.symbols().nvmlDeviceGetClockInfo;
        part("nvmlDeviceGetClockInfo", found, self.handle, sys::nvmlClockType_enum_NVML_CLOCK_MEM)
    }

    /// Why clocks are limited now, as bits; the name of the function changed with driver 535.
    pub fn clock_limits(&self) -> Result<u64, Error> {
        let symbols = self.symbols();
        let newer = &symbols.nvmlDeviceGetCurrentClocksEventReasons;
        match one("nvmlDeviceGetCurrentClocksEventReasons", newer, self.handle) {
            Err(Error::Call { code: Code::FUNCTION_NOT_FOUND, .. }) => {
                let older = &symbols.nvmlDeviceGetCurrentClocksThrottleReasons;
                one("nvmlDeviceGetCurrentClocksThrottleReasons", older, self.handle)
            }
            answer => answer,
        }
    }

    /// Temperature, degrees Celsius.
    pub fn temperature(&self) -> Result<u32, Error> {
        part("nvmlDeviceGetTemperature", &self.symbols().nvmlDeviceGetTemperature, self.handle, 0)
    }

    /// A limit of temperature, degrees Celsius. Newer GPUs answer in [`Device::temperature_margin`] only.
    pub fn temperature_threshold(&self, threshold: Threshold) -> Result<u32, Error> {
        let number = match threshold {
            Threshold::Shutdown => sys::nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SHUTDOWN,
            Threshold::Slowdown => sys::nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
        };
        let found = &self.symbols().nvmlDeviceGetTemperatureThreshold;
        part("nvmlDeviceGetTemperatureThreshold", found, self.handle, number)
    }

    /// Degrees that are left to the temperature for which the GPU is made.
    pub fn temperature_margin(&self) -> Result<i32, Error> {
        let request =
            sys::nvmlMarginTemperature_t { version: version::<sys::nvmlMarginTemperature_t>(1), marginTemperature: 0 };
        let found = &self.symbols().nvmlDeviceGetMarginTemperature;
        one_into("nvmlDeviceGetMarginTemperature", found, self.handle, request).map(|margin| margin.marginTemperature)
    }

    /// Power drawn, milliwatts; from Ampere on averaged over a second.
    pub fn power(&self) -> Result<u32, Error> {
        one("nvmlDeviceGetPowerUsage", &self.symbols().nvmlDeviceGetPowerUsage, self.handle)
    }

    /// Power that is allowed, milliwatts.
    pub fn power_limit(&self) -> Result<u32, Error> {
        one("nvmlDeviceGetEnforcedPowerLimit", &self.symbols().nvmlDeviceGetEnforcedPowerLimit, self.handle)
    }

    /// Errors of SRAM; drivers from 550 on.
    pub fn sram_errors(&self) -> Result<SramErrors, Error> {
        type Status = sys::nvmlEccSramErrorStatus_t;
        let request = Status { version: version::<Status>(1), ..Plain::zeroed() };
        let found = &self.symbols().nvmlDeviceGetSramEccErrorStatus;
        let status = one_into("nvmlDeviceGetSramEccErrorStatus", found, self.handle, request)?;
        Ok(SramErrors { threshold_exceeded: status.bThresholdExceeded != 0 })
    }

    /// Whether a virtual GPU has its license; None where none is needed.
    pub fn vgpu_licensed(&self) -> Result<Option<bool>, Error> {
        let found = &self.symbols().nvmlDeviceGetGridLicensableFeatures_v4;
        let features = one("nvmlDeviceGetGridLicensableFeatures_v4", found, self.handle)?;
        if features.isGridLicenseSupported == 0 {
            return Ok(None);
        }
        let count = usize::try_from(features.licensableFeaturesCount).unwrap_or(usize::MAX);
        Ok(Some(features.gridLicensableFeatures.iter().take(count).any(|feature| feature.featureState != 0)))
    }

    /// Processes that compute.
    pub fn compute_processes(&self) -> Result<Vec<Process>, Error> {
        let found = &self.symbols().nvmlDeviceGetComputeRunningProcesses_v3;
        self.processes("nvmlDeviceGetComputeRunningProcesses_v3", found)
    }

    /// Processes that draw.
    pub fn graphics_processes(&self) -> Result<Vec<Process>, Error> {
        let found = &self.symbols().nvmlDeviceGetGraphicsRunningProcesses_v3;
        self.processes("nvmlDeviceGetGraphicsRunningProcesses_v3", found)
    }

    fn processes<E>(&self, name: &'static str, found: &Symbol<Processes, E>) -> Result<Vec<Process>, Error> {
        let function = symbol(name, found)?;
        let mut room = PROCESSES;
        for _ in 0..ATTEMPTS {
            let mut entries = vec![nvmlProcessInfo_t::zeroed(); room];
            let mut count = c_uint::try_from(room).unwrap_or(0);
            // SAFETY: the handle is live; the function fills in at most `count` structs and writes how many there are.
            let answer = check(name, unsafe { function(self.handle, &raw mut count, entries.as_mut_ptr()) });
            let count = usize::try_from(count).unwrap_or(0);
            match answer {
                Ok(()) => return Ok(entries.iter().take(count).map(process).collect()),
                // More can start until the next try.
                Err(error) if error.code() == Some(Code::INSUFFICIENT_SIZE) => room = count.max(room) + PROCESSES,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Call { function: name, code: Code::INSUFFICIENT_SIZE })
    }

    /// Whether this link carries data. A link that the device does not have is an error.
    pub fn link_active(&self, link: u32) -> Result<bool, Error> {
        part("nvmlDeviceGetNvLinkState", &self.symbols().nvmlDeviceGetNvLinkState, self.handle, link)
            .map(|state| state != 0)
    }

    /// Who is at the other end of a link.
    pub fn link_peer(&self, link: u32) -> Result<NvLinkPeer, Error> {
        let symbols = self.symbols();
        let kind = &symbols.nvmlDeviceGetNvLinkRemoteDeviceType;
        match part("nvmlDeviceGetNvLinkRemoteDeviceType", kind, self.handle, link)? {
            sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU => {
                let found = &symbols.nvmlDeviceGetNvLinkRemotePciInfo_v2;
                let info = part("nvmlDeviceGetNvLinkRemotePciInfo_v2", found, self.handle, link)?;
                Ok(NvLinkPeer::Gpu(address(&info)))
            }
            sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH => Ok(NvLinkPeer::Switch),
            _ => Ok(NvLinkPeer::Other),
        }
    }

    /// What it has in common with another GPU.
    pub fn topology(&self, other: &Self) -> Result<Topology, Error> {
        let name = "nvmlDeviceGetTopologyCommonAncestor";
        let function = symbol(name, &self.symbols().nvmlDeviceGetTopologyCommonAncestor)?;
        let mut level = 0;
        // SAFETY: both handles are live, and the pointer is to one number, which the function writes.
        check(name, unsafe { function(self.handle, other.handle, &raw mut level) })?;
        Ok(match level {
            0 => Topology::Internal,
            1..=10 => Topology::Single,
            11..=20 => Topology::Multiple,
            21..=30 => Topology::HostBridge,
            31..=40 => Topology::Node,
            _ => Topology::System,
        })
    }

    /// Whether it is divided now.
    pub fn mig_enabled(&self) -> Result<bool, Error> {
        two("nvmlDeviceGetMigMode", &self.symbols().nvmlDeviceGetMigMode, self.handle).map(|(current, _)| current == 1)
    }

    /// The MIG devices on it.
    pub fn mig_devices(&self) -> Result<Vec<Self>, Error> {
        let symbols = self.symbols();
        let most = one("nvmlDeviceGetMaxMigDeviceCount", &symbols.nvmlDeviceGetMaxMigDeviceCount, self.handle)?;
        let found = &symbols.nvmlDeviceGetMigDeviceHandleByIndex;
        let mut devices = Vec::new();
        for index in 0..most {
            match part("nvmlDeviceGetMigDeviceHandleByIndex", found, self.handle, index) {
                Ok(handle) => devices.push(Self::new(self.nvml.clone(), handle)),
                // A place without a device; others may follow.
                Err(Error::Call { code: Code::NOT_FOUND | Code::INVALID_ARGUMENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(devices)
    }

    /// Number of the GPU instance of a MIG device.
    pub fn gpu_instance(&self) -> Result<u32, Error> {
        one("nvmlDeviceGetGpuInstanceId", &self.symbols().nvmlDeviceGetGpuInstanceId, self.handle)
    }

    /// Number of the compute instance of a MIG device.
    pub fn compute_instance(&self) -> Result<u32, Error> {
        one("nvmlDeviceGetComputeInstanceId", &self.symbols().nvmlDeviceGetComputeInstanceId, self.handle)
    }

    /// What a MIG device is made of.
    pub fn mig_attributes(&self) -> Result<MigAttributes, Error> {
        let found = &self.symbols().nvmlDeviceGetAttributes_v2;
        let attributes = one("nvmlDeviceGetAttributes_v2", found, self.handle)?;
        Ok(MigAttributes {
            gpu_slices: attributes.gpuInstanceSliceCount,
            compute_slices: attributes.computeInstanceSliceCount,
            memory_mib: attributes.memorySizeMB,
        })
    }
}

type Processes = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut nvmlProcessInfo_t) -> sys::nvmlReturn_t;

fn process(entry: &nvmlProcessInfo_t) -> Process {
    // All ones: the driver cannot say.
    Process { pid: entry.pid, memory: (entry.usedGpuMemory != u64::MAX).then_some(entry.usedGpuMemory) }
}

fn address(info: &nvmlPciInfo_t) -> String {
    string(&info.busId).to_uppercase()
}
