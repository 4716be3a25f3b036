//! From a Site's `GPUNode`s, which its device plugins write, to what the hub is told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use atoll_api::gpu_node::HUB_DEVICES_BYTES;
use atoll_api::{DeviceHealth, GpuDevice, GpuNode, names};
use atoll_core::member::Member;
use atoll_core::units::MicroUsd;
use atoll_wire::v1::device::Health;
use atoll_wire::{limits, v1};
use kube::ResourceExt as _;

use crate::convert::cut;
use crate::naming::member_of_pod_name;

/// The most bytes of a message about one device that the hub is told.
const MESSAGE_BYTES: usize = 200;

/// Members that hold GPUs that are Unhealthy, by their namespace on the Site: which GPU, and what is wrong with it.
pub type Ailing = BTreeMap<(String, Member), String>;

/// What a device plugin says of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Devices {
    /// Devices that members' GPUs are of, healthy or not.
    pub(super) counted: u32,
    /// Of these, how many containers can have one, by their health.
    pub(super) healthy: u32,
    /// Devices of any kind that may not be given out.
    pub(super) unhealthy: u32,
    /// The product of all that are counted; several, joined, are no model of any catalogue: who asks for a GPU of such
    /// a node cannot say of which.
    pub(super) product: String,
    /// MiB of each; 0 where they differ in product.
    pub(super) memory_mib: u64,
    pub(super) driver: Option<String>,
    /// The supplier's wishes.
    pub(super) unschedulable: bool,
    pub(super) price: Option<MicroUsd>,
    /// Single devices, as many as fit into the hub's copy.
    pub(super) told: Vec<v1::Device>,
    pub(super) ailing: Ailing,
}

/// Reads a Site's own `GPUNode`; `None`: its device plugin has said nothing yet, or it is a hub's copy.
pub(super) fn devices(node: &GpuNode) -> Option<Devices> {
    if node.labels().contains_key(names::LABEL_SITE) {
        return None;
    }
    let status = node.status.as_ref()?;
    let of_members = |device: &&GpuDevice| device.resource.as_deref() == Some(names::RESOURCE_NVIDIA_GPU);
    let product = |device: &GpuDevice| device.product.clone().unwrap_or_else(|| status.product.clone());
    let containers = |device: &GpuDevice| device.replicas.and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
    let given_out = |device: &&GpuDevice| device.health != DeviceHealth::Unhealthy;
    let counted = || status.devices.iter().filter(of_members);
    let products: BTreeSet<String> = counted().map(product).collect();
    let memory_mib = match products.len() {
        1 => counted().map(|device| device.memory_mib.unwrap_or(status.memory_mib)).min().unwrap_or(0),
        _ => 0,
    };
    Some(Devices {
        counted: number(counted().count()),
        healthy: counted().filter(given_out).map(containers).fold(0, u32::saturating_add),
        unhealthy: number(status.devices.iter().filter(|device| !given_out(device)).count()),
        product: products.into_iter().collect::<Vec<_>>().join(" + "),
        memory_mib: u64::try_from(memory_mib).unwrap_or(0),
        driver: status.driver.clone(),
        unschedulable: node.spec.unschedulable,
        price: node.spec.price_per_gpu_hour.as_deref().and_then(|price| MicroUsd::parse(price).ok()),
        told: told(&status.devices),
        ailing: ailing(&status.devices),
    })
}

fn ailing(devices: &[GpuDevice]) -> Ailing {
    let mut ailing = Ailing::new();
    for device in devices.iter().filter(|device| device.health == DeviceHealth::Unhealthy) {
        let what = match device.reasons.first() {
            Some(reason) => format!("{} is Unhealthy, {}: {}", device.uuid, reason.code, reason.message),
            None => format!("{} is Unhealthy", device.uuid),
        };
        for holder in &device.holders {
            let Some(member) = member_of_pod_name(&holder.pod) else { continue };
            let said = ailing.entry((holder.namespace.clone(), member)).or_default();
            if !said.is_empty() {
                said.push_str("; ");
            }
            said.push_str(&what);
        }
    }
    ailing
}

/// Those that are not Healthy first and in few words, and as many as fit into the hub's copy.
fn told(devices: &[GpuDevice]) -> Vec<v1::Device> {
    let mut told: Vec<GpuDevice> = devices.iter().map(brief).collect();
    told.sort_by_key(|device| std::cmp::Reverse(device.health));
    told.truncate(limits::MAX_DEVICES_PER_NODE);
    while !fits(&told) && told.last().is_some_and(|last| last.health == DeviceHealth::Healthy) {
        told.pop();
    }
    if !fits(&told) {
        told.iter_mut().flat_map(|device| &mut device.reasons).for_each(|reason| reason.message.clear());
    }
    while !fits(&told) {
        told.pop();
    }
    told.iter().map(to_wire).collect()
}

/// Without what only the Site needs to know.
fn brief(device: &GpuDevice) -> GpuDevice {
    let readable = |text: &str, bytes: usize| cut(&text.replace(char::is_control, " "), bytes);
    let mut reasons = device.reasons.clone();
    reasons.truncate(limits::MAX_DEVICE_REASONS);
    for reason in &mut reasons {
        reason.message = readable(&reason.message, MESSAGE_BYTES);
    }
    GpuDevice {
        uuid: device.uuid.clone(),
        health: device.health,
        reasons,
        product: device.product.as_ref().map(|product| readable(product, limits::MAX_PRODUCT_BYTES)),
        memory_mib: device.memory_mib,
        profile: device.profile.clone(),
        ..GpuDevice::default()
    }
}

fn fits(devices: &[GpuDevice]) -> bool {
    serde_json::to_vec(devices).is_ok_and(|json| json.len() <= HUB_DEVICES_BYTES)
}

fn to_wire(device: &GpuDevice) -> v1::Device {
    v1::Device {
        uuid: device.uuid.clone(),
        health: match device.health {
            DeviceHealth::Healthy => Health::Healthy,
            DeviceHealth::Degraded => Health::Degraded,
            DeviceHealth::Unhealthy => Health::Unhealthy,
        }
        .into(),
        reasons: device
            .reasons
            .iter()
            .map(|reason| v1::DeviceReason { code: reason.code.clone(), message: reason.message.clone() })
            .collect(),
        product: device.product.clone().unwrap_or_default(),
        memory_mib: device.memory_mib.and_then(|memory| u64::try_from(memory).ok()).unwrap_or(0),
        profile: device.profile.clone().unwrap_or_default(),
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
