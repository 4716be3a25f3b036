use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::conditions::{condition, is_true};
use atoll_core::device::{Reason, Verdict};

use super::*;
use crate::backend::{DeviceId, Driver, Instance, Link};
use crate::state::Holder;

const H100: &str = "NVIDIA H100 80GB HBM3";

fn id(index: u32) -> DeviceId {
    format!("GPU-{index}").into()
}

fn gpu(index: u32) -> Device {
    let links = (0..4).filter(|other| *other != index);
    Device {
        id: id(index),
        index,
        gpu: id(index),
        product: H100.to_owned(),
        memory_mib: 81_559,
        numa: Some(index / 2),
        links: links
            .map(|to| Link { to: id(to), nvlinks: 18, bus: if to / 2 == index / 2 { Bus::Node } else { Bus::System } })
            .collect(),
        ..Device::default()
    }
}

fn node(devices: Vec<Device>) -> NodeDevices {
    let devices =
        devices.into_iter().map(|device| DeviceState { device: Arc::new(device), verdict: Verdict::default() });
    NodeDevices { driver: Some(Driver { version: "580.95.05".to_owned(), cuda: None }), devices: devices.collect() }
}

fn four() -> NodeDevices {
    node((0..4).map(gpu).collect())
}

fn mark(devices: &mut NodeDevices, index: usize, state: State, code: &'static str, message: &str) {
    let since = Duration::ZERO;
    devices.devices[index].verdict =
        Verdict { state, reasons: vec![Reason { code, message: message.to_owned(), since }] };
}

fn sick(index: usize) -> NodeDevices {
    let mut devices = four();
    mark(&mut devices, index, State::Unhealthy, "RowRemapFailed", "no spare row is left: replace it");
    devices
}

fn holders(index: u32, pods: &[&str]) -> Holders {
    let holder = |pod: &&str| Holder {
        namespace: "atoll-1".to_owned(),
        pod: (*pod).to_owned(),
        uid: "u".to_owned(),
        container: "main".to_owned(),
    };
    [(id(index), pods.iter().map(holder).collect::<BTreeSet<_>>())].into()
}

fn offer(_: &Device) -> Offer {
    Offer { resource: "nvidia.com/gpu".to_owned(), replicas: 1 }
}

fn status(devices: &NodeDevices, holders: &Holders, before: &GpuNodeStatus, at: i64) -> GpuNodeStatus {
    let catalogue = catalogue::shipped();
    let seen = Seen { devices, holders, offer: &offer, catalogue: &catalogue };
    seen.status("n1", before, Timestamp::from_second(at).unwrap())
}

fn first(devices: &NodeDevices) -> GpuNodeStatus {
    status(devices, &Holders::new(), &GpuNodeStatus::default(), 100)
}

#[test]
fn a_node_is_described_by_what_most_of_its_devices_are() {
    let status = first(&four());
    assert_eq!((status.product.as_str(), status.model.as_str(), status.memory_mib), (H100, "h100-sxm5-80gb", 81_559));
    assert_eq!((status.allocatable, status.unhealthy, status.driver.as_deref()), (4, 0, Some("580.95.05")));
    assert!(status.devices.iter().all(|device| device.product.is_none() && device.memory_mib.is_none()));
    let link = |to: &[i32], bus| DeviceLink { to: to.to_vec(), nvlinks: Some(18), bus };
    assert_eq!(status.devices[1].links, [link(&[0], DeviceBus::Node), link(&[2, 3], DeviceBus::System)]);
    assert!(is_true(&status.conditions, types::DRIVER_READY) && is_true(&status.conditions, types::GPUS_HEALTHY));

    let mut mixed = vec![gpu(0), gpu(1), Device { product: "NVIDIA L40S".to_owned(), memory_mib: 46_068, ..gpu(2) }];
    mixed.rotate_right(1);
    let status = first(&node(mixed));
    assert_eq!((status.product.as_str(), status.devices[0].product.as_deref()), (H100, Some("NVIDIA L40S")));
    assert_eq!(status.devices[0].memory_mib, Some(46_068));
}

#[test]
fn instances_and_shared_gpus_are_no_model() {
    let instance = Instance { gpu_instance: 1, compute_instance: 0, profile: "1g.10gb".to_owned() };
    let divided = Device { instance: Some(instance), memory_mib: 9_984, ..gpu(0) };
    let status = first(&node(vec![divided]));
    assert_eq!((status.product.as_str(), status.model.as_str()), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", ""));
    assert_eq!(status.devices[0].profile.as_deref(), Some("1g.10gb"));

    let (devices, catalogue) = (four(), catalogue::shipped());
    let shared = |_: &Device| Offer { resource: "nvidia.com/gpu".to_owned(), replicas: 3 };
    let seen = Seen { devices: &devices, holders: &Holders::new(), offer: &shared, catalogue: &catalogue };
    let status = seen.status("n1", &GpuNodeStatus::default(), Timestamp::UNIX_EPOCH);
    assert_eq!((status.model.as_str(), status.allocatable, status.devices[0].replicas), ("", 12, Some(3)));
}

#[test]
fn a_sick_device_is_named_with_who_holds_it_and_nobody_else_is() {
    let status = status(&sick(2), &holders(2, &["train-0-1"]), &first(&four()), 200);
    assert_eq!((status.allocatable, status.unhealthy), (3, 1));
    let device = &status.devices[2];
    assert_eq!((device.health, device.reasons[0].code.as_str()), (DeviceHealth::Unhealthy, "RowRemapFailed"));
    assert_eq!(device.holders[0].pod, "train-0-1");
    assert_eq!(
        (device.since.as_ref().unwrap().0.as_second(), &status.devices[1].since),
        (200, &first(&four()).devices[1].since)
    );
    let said = condition(&status.conditions, types::GPUS_HEALTHY).unwrap();
    assert_eq!((said.reason.as_str(), said.message.as_str()), (reason::GPU_UNHEALTHY, "GPU-2 (RowRemapFailed)"));
    let healthy = self::status(&four(), &holders(2, &["train-0-1"]), &GpuNodeStatus::default(), 100);
    assert!(healthy.devices.iter().all(|device| device.holders.is_empty()), "who holds a healthy one is no news");
}

#[test]
fn without_a_driver_there_is_a_reason() {
    let status = first(&NodeDevices::default());
    let said = condition(&status.conditions, types::DRIVER_READY).unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", reason::NO_DRIVER));
    assert_eq!((status.allocatable, status.devices.len(), status.product.as_str()), (0, 0, ""));
}

#[test]
fn only_what_decisions_hang_on_is_written_at_once() {
    let (none, one, two) = (Holders::new(), holders(2, &["a-0-1"]), holders(2, &["a-0-1", "b-0-1"]));
    let mut hotter = sick(2);
    mark(&mut hotter, 2, State::Unhealthy, "RowRemapFailed", "other words");
    let mut worse = sick(2);
    mark(&mut worse, 2, State::Unhealthy, "Lost", "it is gone");
    let mut unplugged = sick(2);
    unplugged.devices.pop();
    let mut updated = sick(2);
    updated.driver = Some(Driver { version: "590".to_owned(), cuda: None });
    let before = status(&sick(2), &one, &first(&four()), 200);
    for (what, devices, holders, expected) in [
        ("the same later", sick(2), &one, News::None),
        ("other words", hotter, &one, News::Words),
        ("nobody holds it any more", sick(2), &none, News::Words),
        ("somebody else holds it too", sick(2), &two, News::Health),
        ("another reason", worse, &one, News::Health),
        ("it recovered", four(), &one, News::Health),
        ("a device is gone", unplugged, &one, News::Health),
        ("a new driver", updated, &one, News::Health),
    ] {
        let after = status(&devices, holders, &before, 300);
        assert_eq!(news(&before, &after), expected, "{what}");
    }
    assert_eq!(news(&GpuNodeStatus::default(), &first(&four())), News::Health);

    let mut left = sick(2);
    mark(&mut left, 0, State::Unhealthy, NOT_YET_EMPTY, "its container is gone");
    let after = status(&left, &one, &before, 300);
    assert_eq!(news(&before, &after), News::Release);
    assert_eq!(news(&after, &before), News::Health, "it is empty");
    mark(&mut left, 1, State::Unhealthy, "Lost", "it is gone");
    assert_eq!(news(&before, &status(&left, &one, &before, 300)), News::Health, "another one is lost meanwhile");
}

#[test]
fn each_change_of_health_is_told_once() {
    let (well, ill) = (first(&four()), first(&sick(2)));
    let mut limping = four();
    mark(&mut limping, 1, State::Degraded, "CorrectableErrors", "watch it");
    let limping = first(&limping);
    let told = |before: &GpuNodeStatus, now: &GpuNodeStatus| {
        notes(before, now).into_iter().map(|note| (note.warning, note.reason)).collect::<Vec<_>>()
    };
    assert_eq!(told(&GpuNodeStatus::default(), &well), [], "a healthy start is no news");
    assert_eq!(told(&GpuNodeStatus::default(), &ill), [(true, reason::GPU_UNHEALTHY)]);
    assert_eq!(told(&well, &ill), [(true, reason::GPU_UNHEALTHY)]);
    assert_eq!(told(&ill, &ill), []);
    assert_eq!(told(&ill, &well), [(false, reason::GPU_HEALTHY)]);
    assert_eq!(told(&well, &limping), [(true, reason::GPU_DEGRADED)]);
    let text = &notes(&well, &ill)[0].text;
    assert_eq!(text, "GPU-2 (GPU 2) is Unhealthy and not given out. RowRemapFailed: no spare row is left: replace it");
}

#[test]
fn what_is_read_back_is_what_was_written() {
    let written = status(&sick(2), &holders(2, &["a-0-1"]), &GpuNodeStatus::default(), 200);
    let mut json = serde_json::to_value(&written).unwrap();
    json["usedByOthers"] = 0.into();
    let read: GpuNodeStatus = serde_json::from_value(json).unwrap();
    assert_eq!(own(read), written);
}
