//! Counters of the hardware (GPM: Hopper and later). Two samples make a measurement of the time between.

use nvml_wrapper_sys::bindings as sys;
use sys::{nvmlGpmMetricsGet_t, nvmlGpmSample_t, nvmlGpmSupport_t};

use crate::call::{Plain, check, one_into, symbol};
use crate::{Code, Device, Error, Nvml};

/// The measurements that are asked for, by NVML's numbers: shares in percent, traffic in MiB/s.
pub mod metrics {
    /// The graphics or compute engine was active.
    pub const GRAPHICS: u32 = 1;
    /// Multiprocessors that were busy.
    pub const SM: u32 = 2;
    /// Warps of those that fit.
    pub const SM_OCCUPANCY: u32 = 3;
    /// Tensor cores were active.
    pub const TENSOR: u32 = 5;
    /// Memory bandwidth used.
    pub const DRAM: u32 = 10;
    /// Sent over PCI Express.
    pub const PCIE_SENT: u32 = 20;
    /// Received over PCI Express.
    pub const PCIE_RECEIVED: u32 = 21;
}

/// A buffer for the counters of one moment.
pub struct GpmSample {
    nvml: Nvml,
    sample: nvmlGpmSample_t,
}

// SAFETY: a buffer in memory that this value alone owns; NVML may be called from any thread.
unsafe impl Send for GpmSample {}

impl GpmSample {
    /// An empty buffer.
    pub fn new(nvml: &Nvml) -> Result<Self, Error> {
        let function = symbol("nvmlGpmSampleAlloc", &nvml.symbols().nvmlGpmSampleAlloc)?;
        let mut sample: nvmlGpmSample_t = std::ptr::null_mut();
        // SAFETY: the pointer is to one handle, which the function writes.
        check("nvmlGpmSampleAlloc", unsafe { function(&raw mut sample) })?;
        Ok(Self { nvml: nvml.clone(), sample })
    }

    /// Takes the counters of a GPU now, or with its number of a GPU instance on it.
    pub fn take(&mut self, device: &Device, gpu_instance: Option<u32>) -> Result<(), Error> {
        let symbols = self.nvml.symbols();
        if let Some(id) = gpu_instance {
            let function = symbol("nvmlGpmMigSampleGet", &symbols.nvmlGpmMigSampleGet)?;
            // SAFETY: device and buffer are live, as both hold the library.
            check("nvmlGpmMigSampleGet", unsafe { function(device.handle(), id, self.sample) })
        } else {
            let function = symbol("nvmlGpmSampleGet", &symbols.nvmlGpmSampleGet)?;
            // SAFETY: as above.
            check("nvmlGpmSampleGet", unsafe { function(device.handle(), self.sample) })
        }
    }

    /// What was measured between an earlier sample and this one. Each can fail alone.
    pub fn since<const COUNT: usize>(
        &self,
        earlier: &Self,
        wanted: [u32; COUNT],
    ) -> Result<[Result<f64, Code>; COUNT], Error> {
        let function = symbol("nvmlGpmMetricsGet", &self.nvml.symbols().nvmlGpmMetricsGet)?;
        // 10 KiB; newer headers have room for more, which matters not: NVML goes by the count.
        let mut request = nvmlGpmMetricsGet_t::zeroed();
        request.version = 1;
        request.numMetrics = u32::try_from(COUNT.min(request.metrics.len())).unwrap_or(0);
        request.sample1 = earlier.sample;
        request.sample2 = self.sample;
        for (metric, id) in request.metrics.iter_mut().zip(wanted) {
            metric.metricId = id;
        }
        // SAFETY: both buffers are live, and the struct has room for as many measurements as its count says.
        check("nvmlGpmMetricsGet", unsafe { function(&raw mut request) })?;
        Ok(std::array::from_fn(|place| match request.metrics.get(place) {
            Some(metric) if metric.nvmlReturn == 0 => Ok(metric.value),
            Some(metric) => Err(Code(metric.nvmlReturn)),
            None => Err(Code::INSUFFICIENT_SIZE),
        }))
    }
}

impl Drop for GpmSample {
    fn drop(&mut self) {
        if let Ok(free) = &self.nvml.symbols().nvmlGpmSampleFree {
            // SAFETY: the buffer came from nvmlGpmSampleAlloc, is freed once, and the library is still held.
            unsafe { free(self.sample) };
        }
    }
}

impl Device {
    /// Whether it has these counters.
    pub fn has_gpm(&self) -> Result<bool, Error> {
        let request = nvmlGpmSupport_t { version: 1, ..Plain::zeroed() };
        one_into("nvmlGpmQueryDeviceSupport", &self.symbols().nvmlGpmQueryDeviceSupport, self.handle(), request)
            .map(|support| support.isSupportedDevice != 0)
    }
}
