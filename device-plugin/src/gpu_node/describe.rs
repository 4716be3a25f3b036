//! From the devices of this node to the status of its `GPUNode`. Pure.

use std::collections::BTreeMap;

use atoll_api::conditions::{gpu_node as types, gpu_node_reason as reason, set_condition};
use atoll_api::{DeviceBus, DeviceHealth, DeviceHolder, DeviceLink, DeviceReason, GpuDevice, GpuModel, GpuNodeStatus};
use atoll_core::device::State;
use atoll_core::device::reasons::NOT_YET_EMPTY;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Holders, Offer, catalogue};
use crate::backend::{Bus, Device};
use crate::state::{DeviceState, NodeDevices};

/// Bounds of the schema.
const MAX_DEVICES: usize = 256;
const MAX_REASONS: usize = 8;
const MAX_MESSAGE_BYTES: usize = 512;
const MAX_HOLDERS: usize = 64;

/// What a status is made of.
pub(super) struct Seen<'a> {
    pub(super) devices: &'a NodeDevices,
    pub(super) holders: &'a Holders,
    pub(super) offer: &'a (dyn Fn(&Device) -> Offer + Send + Sync),
    pub(super) catalogue: &'a [GpuModel],
}

/// How much there is to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    None,
    /// Words for people, or that a sick device is not held any more: it may wait until it stays so.
    Words,
    /// A device was left by its container and is not seen empty yet, as after every container.
    Release,
    /// Something that decisions hang on.
    Health,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) text: String,
}

pub(super) fn is_unhealthy(device: &DeviceState) -> bool {
    device.verdict.state == State::Unhealthy
}

impl Seen<'_> {
    /// The status, where `before` was the last one: what has not changed keeps its times.
    pub(super) fn status(&self, node: &str, before: &GpuNodeStatus, now: Timestamp) -> GpuNodeStatus {
        let offers: Vec<Offer> = self.devices.devices.iter().map(|device| (self.offer)(&device.device)).collect();
        let all = || self.devices.devices.iter().zip(&offers).take(MAX_DEVICES);
        let kinds: Vec<(String, u64)> =
            all().map(|(state, offer)| (kind(&state.device, offer), state.device.memory_mib)).collect();
        let (product, memory) = most(&kinds);
        let devices = all().zip(&kinds).map(|((state, offer), (own_kind, own_memory))| {
            let mut device = self.device(state, offer);
            device.product = (*own_kind != product).then(|| own_kind.clone());
            device.memory_mib = (*own_memory != memory).then(|| signed(*own_memory));
            let known = before.devices.iter().find(|known| known.uuid == device.uuid);
            device.since = match known.filter(|known| standing(known) == standing(&device)) {
                Some(known) => known.since.clone(),
                None => Some(Time(seconds(now))),
            };
            device
        });
        let devices: Vec<GpuDevice> = devices.collect();
        let offered = all().filter(|(state, _)| !is_unhealthy(state)).map(|(_, offer)| offer.replicas.max(1));
        let mut status = GpuNodeStatus {
            node: node.to_owned(),
            model: catalogue::model(self.catalogue, &product, memory),
            memory_mib: signed(memory),
            allocatable: i32::try_from(offered.fold(0, u32::saturating_add)).unwrap_or(i32::MAX),
            unhealthy: number(devices.iter().filter(|device| device.health == DeviceHealth::Unhealthy).count()),
            driver: self.devices.driver.as_ref().map(|driver| driver.version.clone()).filter(|text| !text.is_empty()),
            product,
            devices,
            conditions: before.conditions.clone(),
            ..GpuNodeStatus::default()
        };
        self.set_conditions(&mut status, now);
        status
    }

    fn device(&self, state: &DeviceState, offer: &Offer) -> GpuDevice {
        let device = &state.device;
        let reasons = state.verdict.reasons.iter().take(MAX_REASONS).map(|reason| DeviceReason {
            code: reason.code.to_owned(),
            message: cut(&reason.message, MAX_MESSAGE_BYTES),
        });
        let holders = self.holders.get(&device.id).into_iter().flatten().filter(|_| is_unhealthy(state));
        GpuDevice {
            uuid: device.id.to_string(),
            index: i32::try_from(device.index).ok(),
            health: match state.verdict.state {
                State::Healthy => DeviceHealth::Healthy,
                State::Degraded => DeviceHealth::Degraded,
                State::Unhealthy => DeviceHealth::Unhealthy,
            },
            reasons: reasons.collect(),
            profile: device.instance.as_ref().map(|instance| instance.profile.clone()),
            resource: Some(offer.resource.clone()).filter(|resource| !resource.is_empty()),
            replicas: i32::try_from(offer.replicas).ok().filter(|count| *count > 1),
            numa: device.numa.and_then(|numa| i32::try_from(numa).ok()),
            links: self.links(device),
            holders: holders
                .take(MAX_HOLDERS)
                .map(|holder| DeviceHolder {
                    namespace: holder.namespace.clone(),
                    pod: holder.pod.clone(),
                    uid: (!holder.uid.is_empty()).then(|| holder.uid.clone()),
                })
                .collect(),
            ..GpuDevice::default()
        }
    }

    /// Nearest first, equally near ones in one entry.
    fn links(&self, device: &Device) -> Vec<DeviceLink> {
        let mut by_way: BTreeMap<(std::cmp::Reverse<u32>, DeviceBus), Vec<i32>> = BTreeMap::new();
        for link in &device.links {
            let other = self.devices.devices.iter().find(|other| other.device.gpu == link.to);
            let Some(index) = other.and_then(|other| i32::try_from(other.device.index).ok()) else { continue };
            by_way.entry((std::cmp::Reverse(link.nvlinks), bus(link.bus))).or_default().push(index);
        }
        let links = by_way.into_iter().map(|((nvlinks, bus), mut to)| {
            to.sort_unstable();
            to.dedup();
            DeviceLink { to, nvlinks: i32::try_from(nvlinks.0).ok().filter(|count| *count > 0), bus }
        });
        links.collect()
    }

    fn set_conditions(&self, status: &mut GpuNodeStatus, now: Timestamp) {
        let sick = status.devices.iter().filter(|device| device.health == DeviceHealth::Unhealthy);
        let sick: Vec<String> = sick.map(|device| format!("{} ({})", device.uuid, codes(device))).collect();
        let message = match sick.len() {
            0 => "no GPU is Unhealthy".to_owned(),
            1..=4 => sick.join(", "),
            many => format!("{}, and {} more", sick[..4].join(", "), many - 4),
        };
        let (healthy, now) = (sick.is_empty(), seconds(now));
        let why = if healthy { reason::ALL_HEALTHY } else { reason::GPU_UNHEALTHY };
        set_condition(&mut status.conditions, types::GPUS_HEALTHY, healthy, why, &message, None, now);
        let (answers, why, message) = match &self.devices.driver {
            Some(_) => (true, reason::DRIVER_ANSWERS, "the driver answers"),
            None => (false, reason::NO_DRIVER, "the GPU driver does not answer; is it installed, and loaded?"),
        };
        set_condition(&mut status.conditions, types::DRIVER_READY, answers, why, message, None, now);
    }
}

/// What a device is known by in a catalogue. An instance or a shared device is no model of any.
fn kind(device: &Device, offer: &Offer) -> String {
    let mut kind = device.product.clone();
    if let Some(instance) = &device.instance {
        kind.push_str(" MIG ");
        kind.push_str(&instance.profile);
    }
    if offer.replicas > 1 {
        kind.push_str(" SHARED");
    }
    cut(&kind, 192)
}

/// The one that there are most of; the first of these.
fn most(kinds: &[(String, u64)]) -> (String, u64) {
    let mut best: Option<(usize, &(String, u64))> = None;
    for kind in kinds {
        let count = kinds.iter().filter(|other| *other == kind).count();
        if best.is_none_or(|(most, _)| count > most) {
            best = Some((count, kind));
        }
    }
    best.map(|(_, kind)| kind.clone()).unwrap_or_default()
}

/// What this process says of a status that was read.
pub(super) fn own(status: GpuNodeStatus) -> GpuNodeStatus {
    GpuNodeStatus { site: String::new(), used_by_others: 0, ready: false, ..status }
}

/// How much `wanted` differs from what is `known`.
pub(super) fn news(known: &GpuNodeStatus, wanted: &GpuNodeStatus) -> News {
    if known == wanted {
        return News::None;
    }
    let mut without_words = wanted.clone();
    let mut released = false;
    for (device, known) in without_words.devices.iter_mut().zip(&known.devices) {
        if device.uuid == known.uuid && known.health != DeviceHealth::Unhealthy && is_being_left(device) {
            released = true;
            device.clone_from(known);
        } else if device.uuid != known.uuid || standing(device) != standing(known) {
            return News::Health;
        }
        device.reasons.clone_from(&known.reasons);
        // Somebody new is news at once; somebody gone may be a kubelet that does not answer.
        if device.holders.iter().all(|holder| known.holders.contains(holder)) {
            device.holders.clone_from(&known.holders);
        }
    }
    without_words.conditions.clone_from(&known.conditions);
    if released {
        (without_words.allocatable, without_words.unhealthy) = (known.allocatable, known.unhealthy);
    }
    match (without_words == *known, released) {
        (true, true) => News::Release,
        (true, false) => News::Words,
        (false, _) => News::Health,
    }
}

fn is_being_left(device: &GpuDevice) -> bool {
    !device.reasons.is_empty() && device.reasons.iter().all(|reason| reason.code == NOT_YET_EMPTY)
}

/// What `since` dates.
fn standing(device: &GpuDevice) -> (DeviceHealth, Vec<&str>) {
    (device.health, device.reasons.iter().map(|reason| reason.code.as_str()).collect())
}

/// Events for devices whose health changed.
pub(super) fn notes(before: &GpuNodeStatus, now: &GpuNodeStatus) -> Vec<Note> {
    let notes = now.devices.iter().filter_map(|device| {
        let known = before.devices.iter().find(|known| known.uuid == device.uuid);
        let health = known.map_or(DeviceHealth::Healthy, |known| known.health);
        if health == device.health {
            return None;
        }
        let place = device.index.map(|index| format!(" (GPU {index})")).unwrap_or_default();
        let why = device.reasons.iter().map(|reason| format!("{}: {}", reason.code, reason.message));
        let why = why.collect::<Vec<_>>().join("; ");
        let (reason, what) = match device.health {
            DeviceHealth::Healthy => (reason::GPU_HEALTHY, "is Healthy again".to_owned()),
            DeviceHealth::Degraded => (reason::GPU_DEGRADED, format!("is Degraded and given out. {why}")),
            DeviceHealth::Unhealthy => (reason::GPU_UNHEALTHY, format!("is Unhealthy and not given out. {why}")),
        };
        // 1024 bytes are the most that an event takes.
        let text = cut(&format!("{}{place} {what}", device.uuid), 1_000);
        Some(Note { warning: device.health != DeviceHealth::Healthy, reason, text })
    });
    notes.collect()
}

fn codes(device: &GpuDevice) -> String {
    device.reasons.iter().map(|reason| reason.code.as_str()).collect::<Vec<_>>().join(", ")
}

fn bus(bus: Bus) -> DeviceBus {
    match bus {
        Bus::Internal => DeviceBus::Internal,
        Bus::Single => DeviceBus::Single,
        Bus::Multiple => DeviceBus::Multiple,
        Bus::HostBridge => DeviceBus::HostBridge,
        Bus::Node => DeviceBus::Node,
        Bus::System => DeviceBus::System,
    }
}

/// The API server keeps whole seconds; what is read back has to be equal.
fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
