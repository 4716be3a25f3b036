use serde_json::{Value, json};

use super::*;

fn gpu_node(edit: impl FnOnce(&mut Value)) -> GpuNode {
    let devices: Vec<Value> = (0..8)
        .map(|index| json!({"uuid": format!("GPU-{index:036}"), "index": index, "resource": "nvidia.com/gpu"}))
        .collect();
    let mut node = json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": "gpu-1"}, "spec": {},
        "status": {"product": "NVIDIA H100 80GB HBM3", "memoryMib": 81_559, "driver": "580.95.05", "devices": devices},
    });
    edit(&mut node);
    serde_json::from_value(node).unwrap()
}

fn sicken(node: &mut Value, index: usize, message: &str) {
    let device = &mut node["status"]["devices"][index];
    device["health"] = "Unhealthy".into();
    device["reasons"] = json!([{"code": "RowRemapFailed", "message": message}]);
}

fn read(edit: impl FnOnce(&mut Value)) -> Devices {
    devices(&gpu_node(edit)).unwrap()
}

#[test]
fn unhealthy_devices_are_counted_and_not_offered() {
    let well = read(|_| {});
    assert_eq!((well.counted, well.healthy, well.unhealthy), (8, 8, 0));
    assert_eq!((well.product.as_str(), well.memory_mib), ("NVIDIA H100 80GB HBM3", 81_559));
    let sick = read(|node| {
        sicken(node, 3, "replace it");
        node["status"]["devices"][4]["health"] = "Degraded".into();
    });
    assert_eq!((sick.counted, sick.healthy, sick.unhealthy), (8, 7, 1));
    let told: Vec<_> =
        sick.told.iter().take(3).map(|device| (device.uuid.ends_with(['3', '4']), device.health())).collect();
    assert_eq!(told, [(true, Health::Unhealthy), (true, Health::Degraded), (false, Health::Healthy)]);
    assert_eq!(sick.told.len(), 8);
}

#[test]
fn a_hubs_copy_and_a_node_that_nothing_was_said_of_are_no_devices() {
    let copy = gpu_node(|node| node["metadata"]["labels"] = json!({"atoll.dev/site": "site-1"}));
    assert_eq!(devices(&copy), None);
    assert_eq!(devices(&gpu_node(|node| drop(node.as_object_mut().unwrap().remove("status")))), None);
}

#[test]
fn only_devices_of_the_resource_that_members_ask_for_count() {
    let some = read(|node| {
        for index in 0..6 {
            node["status"]["devices"][index]["resource"] = "nvidia.com/mig-1g.10gb".into();
        }
        sicken(node, 0, "");
    });
    assert_eq!((some.counted, some.healthy, some.unhealthy), (2, 2, 1));
    let none = read(|node| node["status"]["devices"].as_array_mut().unwrap().clear());
    assert_eq!((none.counted, none.product.as_str()), (0, ""));
}

#[test]
fn several_products_under_one_resource_are_no_model() {
    let mixed = read(|node| {
        node["status"]["devices"][7]["product"] = "NVIDIA L40S".into();
        node["status"]["devices"][7]["memoryMib"] = 46_068.into();
    });
    assert_eq!((mixed.product.as_str(), mixed.memory_mib), ("NVIDIA H100 80GB HBM3 + NVIDIA L40S", 0));
    let apart = read(|node| {
        node["status"]["devices"][7]["product"] = "NVIDIA L40S".into();
        node["status"]["devices"][7]["resource"] = "nvidia.com/l40s".into();
    });
    assert_eq!((apart.product.as_str(), apart.healthy), ("NVIDIA H100 80GB HBM3", 7));
}

#[test]
fn shared_devices_count_as_often_as_the_kubelet_counts_them() {
    let shared = read(|node| {
        for index in 0..8 {
            node["status"]["devices"][index]["replicas"] = 4.into();
        }
        sicken(node, 0, "");
    });
    assert_eq!((shared.counted, shared.healthy), (8, 28));
}

#[test]
fn what_the_hub_is_told_fits_into_its_copy_and_keeps_the_sick_ones_longest() {
    let bytes = |devices: &Devices| {
        let api: Vec<GpuDevice> = devices
            .told
            .iter()
            .map(|device| GpuDevice {
                uuid: device.uuid.clone(),
                health: match device.health() {
                    Health::Unhealthy => DeviceHealth::Unhealthy,
                    _ => DeviceHealth::Healthy,
                },
                reasons: device
                    .reasons
                    .iter()
                    .map(|r| atoll_api::DeviceReason { code: r.code.clone(), message: r.message.clone() })
                    .collect(),
                ..GpuDevice::default()
            })
            .collect();
        serde_json::to_vec(&api).unwrap().len()
    };
    for (count, sick, told, with_words) in [
        (8, 0, 8, true),
        (16, 0, 16, true),
        (112, 0, 19, true),
        (16, 3, 3, true),
        (16, 8, 8, false),
        (112, 112, 8, false),
    ] {
        let devices = read(|node| {
            let all: Vec<Value> = (0..count).map(|i| json!({"uuid": format!("GPU-{i:036}")})).collect();
            node["status"]["devices"] = all.into();
            for index in 0..sick {
                sicken(node, index, &"no spare row is left,\nso \"replace\" the GPU; ".repeat(9));
            }
        });
        let words = devices.told.iter().filter(|device| device.health() == Health::Unhealthy);
        let words = words.flat_map(|device| &device.reasons).all(|reason| !reason.message.is_empty());
        assert!(bytes(&devices) <= HUB_DEVICES_BYTES, "{}", bytes(&devices));
        assert!(devices.told.iter().take(sick).all(|device| device.health() == Health::Unhealthy));
        assert!(devices.told.len() >= told, "{count} devices, {sick} sick: {} told", devices.told.len());
        assert_eq!(words, with_words, "{count} devices, {sick} sick");
    }
}

#[test]
fn members_that_hold_unhealthy_gpus_are_named_with_what_is_wrong() {
    let holder = |pod: &str| json!([{"namespace": "atoll-1", "pod": pod, "uid": "u"}]);
    let devices = read(|node| {
        sicken(node, 3, "replace it");
        sicken(node, 4, "replace it");
        node["status"]["devices"][3]["holders"] = holder("train-2-7");
        node["status"]["devices"][4]["holders"] = holder("train-2-7");
        node["status"]["devices"][5]["holders"] = holder("train-3-7");
        sicken(node, 6, "");
        node["status"]["devices"][6]["holders"] = holder("notebook");
    });
    let member = Member { rank: 2, incarnation: 7 };
    assert_eq!(devices.ailing.keys().collect::<Vec<_>>(), [&("atoll-1".to_owned(), member)]);
    let what = &devices.ailing[&("atoll-1".to_owned(), member)];
    assert!(what.contains("3 is Unhealthy, RowRemapFailed: replace it; GPU-"), "{what}");
}
