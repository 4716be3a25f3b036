//! What the parts of this process tell each other.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::device::Verdict;

use crate::backend::{Device, DeviceId, Driver, Sample};

/// The devices of this node and how they are; made anew, and sent to everybody, whenever something in it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDevices {
    /// None while the driver does not answer.
    pub driver: Option<Driver>,
    /// In a stable order.
    pub devices: Vec<DeviceState>,
}

/// A device and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// What it is.
    pub device: Arc<Device>,
    /// How it is.
    pub verdict: Verdict,
}

/// One sample of all devices.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// When the first of them was begun and the last was ended, on the monotonic clock of this process.
    pub span: (Duration, Duration),
    /// One per device that answered.
    pub samples: Vec<(Arc<Device>, Arc<Sample>)>,
    /// XIDs since this process started, as (device, XID, count).
    pub xids: Vec<(DeviceId, u32, u64)>,
    /// The last XID of each device that had one since this process started.
    pub last_xids: Vec<(DeviceId, u32)>,
}

/// Who holds a device, as the kubelet says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod; empty where it is not known.
    pub uid: String,
    /// Name of the container.
    pub container: String,
}
