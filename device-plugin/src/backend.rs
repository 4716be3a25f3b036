//! What a kind of hardware has to say for itself. Everything else here works with any backend.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::device::{Fault, Reading};
use thiserror::Error;

/// Name of a device: the UUID of a GPU or of a MIG instance; stable over restarts and resets.
pub type DeviceId = Arc<str>;

/// Why a backend has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BackendError {
    /// There is no driver on this node, or it does not answer; it may come later.
    #[error("the driver does not answer: {0}; is it installed, and loaded?")]
    NoDriver(String),
    /// One call failed.
    #[error("{call} failed: {message}")]
    Call {
        /// The driver's function.
        call: &'static str,
        /// What the driver says.
        message: String,
    },
    /// The device is not, or no longer, there.
    #[error("device {0} is not there")]
    Unknown(DeviceId),
}

/// One kind of hardware. Calls block, so a backend lives on a thread of its own.
pub trait Backend: Send {
    /// Version of the driver and what belongs to it. Asked again after the driver was away.
    fn driver(&mut self) -> Result<Driver, BackendError>;

    /// What is there now: whole GPUs, and where a GPU is divided, its instances in place of it. In a stable order.
    /// A GPU that exists but cannot be asked is listed with what is still known and [`Device::lost`].
    /// Called at start and once a period, to notice hot-plug and changed instances: cheap where nothing changed.
    fn devices(&mut self) -> Result<Vec<Device>, BackendError>;

    /// Waits for events of these devices; for a thread of its own. Made again when the set of devices changes.
    fn events(&mut self, devices: &[Device]) -> Result<Box<dyn Events>, BackendError>;

    /// One sample of a device. A value that cannot be read is None; it fails only when nothing can.
    fn sample(&mut self, device: &Device) -> Result<Sample, BackendError>;

    /// What a container needs to use these devices. Pure of side effects: no device is changed.
    fn prepare(&mut self, devices: &[Device]) -> Result<ContainerEdits, BackendError>;
}

/// Events of the driver.
pub trait Events: Send {
    /// The next events; empty when none came within `limit`.
    fn wait(&mut self, limit: Duration) -> Result<Vec<Event>, BackendError>;
}

/// An event that the driver reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whom it concerns.
    pub subject: Subject,
    /// What happened.
    pub fault: Fault,
}

/// Whom an event concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A whole GPU (by its own UUID, also where it is divided) and everything on it.
    Gpu(DeviceId),
    /// One instance of a divided GPU.
    Instance(DeviceId),
    /// The driver does not say: every device has to be looked at.
    Unknown,
}

/// The driver on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// Version, such as "580.95.05".
    pub version: String,
    /// Highest CUDA version that it supports, as (major, minor).
    pub cuda: Option<(u32, u32)>,
}

/// A device that a container can get: a GPU, or an instance of a divided one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its UUID.
    pub id: DeviceId,
    /// Number of the GPU on this node as the driver counts.
    pub index: u32,
    /// UUID of the GPU itself: equals `id` unless it is an instance.
    pub gpu: DeviceId,
    /// Set for an instance of a divided GPU.
    pub instance: Option<Instance>,
    /// Product name of the GPU, such as "NVIDIA H100 80GB HBM3".
    pub product: String,
    /// MiB of memory in all.
    pub memory_mib: u64,
    /// PCI address, such as "00000000:1B:00.0"; empty where there is none.
    pub pci_address: String,
    /// NUMA node that it is attached to.
    pub numa: Option<u32>,
    /// Minor number of its device file.
    pub minor: Option<u32>,
    /// Compute capability as (major, minor).
    pub compute: Option<(u32, u32)>,
    /// Links to other GPUs of this node.
    pub links: Vec<Link>,
    /// The driver knows that it exists and cannot reach it.
    pub lost: bool,
}

/// An instance of a divided GPU (MIG).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// GPU instance.
    pub gpu_instance: u32,
    /// Compute instance within it.
    pub compute_instance: u32,
    /// Profile, such as "1g.10gb".
    pub profile: String,
}

/// How near another GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// UUID of the other GPU.
    pub to: DeviceId,
    /// Links (`NVLink`) between the two, direct or through a switch; 0: none.
    pub nvlinks: u32,
    /// The way over the bus.
    pub bus: Bus,
}

/// The way between two GPUs over the bus, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bus {
    /// Both on one board.
    Internal,
    /// Through one PCI Express switch.
    Single,
    /// Through several PCI Express switches.
    Multiple,
    /// Through one host bridge.
    HostBridge,
    /// Within a NUMA node.
    Node,
    /// Across NUMA nodes.
    System,
}

/// What one sample of a device says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// What its health follows from.
    pub reading: Reading,
    /// What is only measured.
    pub usage: Usage,
}

/// Measurements that health does not depend on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Clock of the multiprocessors, MHz.
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory, MHz.
    pub memory_clock_mhz: Option<u32>,
    /// Energy since the driver was loaded, millijoules.
    pub energy_millijoules: Option<u64>,
    /// Share of time in which a kernel ran, 0 to 1.
    pub gpu_utilization: Option<f64>,
    /// Share of time in which memory was read or written, 0 to 1.
    pub memory_utilization: Option<f64>,
    /// Share of time in which the encoder worked, 0 to 1.
    pub encoder_utilization: Option<f64>,
    /// Share of time in which the decoder worked, 0 to 1.
    pub decoder_utilization: Option<f64>,
    /// MiB free.
    pub memory_free_mib: Option<u64>,
    /// MiB that the driver keeps for itself.
    pub memory_reserved_mib: Option<u64>,
    /// PCI Express packets sent again since the driver was loaded.
    pub pcie_replays: Option<u64>,
    /// Bytes over all `NVLink`s since the driver was loaded.
    pub nvlink_bytes: Option<u64>,
    /// It is a virtual GPU that has its license; None: the driver cannot say.
    pub vgpu_licensed: Option<bool>,
    /// Counters of the hardware (GPM, Hopper and later).
    pub profile: Option<Profile>,
}

/// What the hardware's own counters say of the time since the sample before; shares from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Profile {
    /// The graphics or compute engine was active.
    pub graphics_active: Option<f64>,
    /// The tensor cores were active.
    pub tensor_active: Option<f64>,
    /// The memory interface was active.
    pub dram_active: Option<f64>,
    /// Multiprocessors that had work.
    pub sm_active: Option<f64>,
    /// Warps of those that fit.
    pub sm_occupancy: Option<f64>,
    /// Bytes per second sent over PCI Express.
    pub pcie_sent: Option<f64>,
    /// Bytes per second received over PCI Express.
    pub pcie_received: Option<f64>,
}

/// What a container needs to use devices, in the terms of the Container Device Interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerEdits {
    /// Variables, as (name, value).
    pub env: Vec<(String, String)>,
    /// Device files of the host, with the same path inside.
    pub device_files: Vec<PathBuf>,
    /// Files and folders of the host to mount read-only, as (on the host, inside).
    pub mounts: Vec<(PathBuf, PathBuf)>,
}
