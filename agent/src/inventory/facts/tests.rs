use proptest::prelude::*;
use serde_json::json;

use super::*;

type Edit = fn(&mut serde_json::Value);

fn node_of(edit: impl FnOnce(&mut serde_json::Value)) -> core::Node {
    let mut node = json!({
        "metadata": {"name": "gpu-1", "labels": {
            "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559",
            "nvidia.com/cuda.driver-version.full": "550.54.15",
        }},
        "status": {"allocatable": {"nvidia.com/gpu": "8", "cpu": "64"}, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    edit(&mut node);
    serde_json::from_value(node).unwrap()
}

fn pod_of(edit: impl FnOnce(&mut serde_json::Value)) -> core::Pod {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"nodeName": "gpu-1", "containers": [
            {"name": "a", "resources": {"limits": {"nvidia.com/gpu": "2"}}},
            {"name": "b", "resources": {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}},
        ]},
        "status": {"phase": "Running"},
    });
    edit(&mut pod);
    serde_json::from_value(pod).unwrap()
}

/// Without a word of the device plugin's.
fn node(node: &core::Node) -> Option<v1::Node> {
    describe(&node.name_any(), &machine(node), None, 0, false)
}

#[test]
fn a_node_says_what_gpu_feature_discovery_says() {
    let told = node(&node_of(|_| {})).unwrap();
    assert_eq!((told.name.as_str(), told.product.as_str()), ("gpu-1", "NVIDIA-H100-80GB-HBM3"));
    assert_eq!((told.memory_mib, told.allocatable, told.driver.as_str()), (81_559, 8, "550.54.15"));
    assert!(told.ready && !told.unschedulable);
    assert_eq!(told.price_per_gpu_hour, "");
}

#[test]
fn our_own_labels_do_where_discovery_does_not_run_and_prices_must_be_prices() {
    let labels = json!({"atoll.dev/gpu.product": "RTX 4090", "atoll.dev/gpu.memory": "24564"});
    let told = node(&node_of(|node| {
        node["metadata"]["labels"] = labels.clone();
        node["metadata"]["annotations"] = json!({"atoll.dev/price-per-gpu-hour": "0.40"});
    }))
    .unwrap();
    assert_eq!((told.product.as_str(), told.memory_mib, told.price_per_gpu_hour.as_str()), ("RTX 4090", 24_564, "0.4"));
    let junk = node(&node_of(|node| {
        node["metadata"]["annotations"] = json!({"atoll.dev/price-per-gpu-hour": "cheap"});
    }));
    assert_eq!(junk.unwrap().price_per_gpu_hour, "");
}

#[test]
fn nodes_that_cannot_serve_say_so_and_nodes_without_gpus_are_not_told() {
    let usable = |edit: Edit| node(&node_of(edit)).map(|node| (node.ready, node.unschedulable));
    assert_eq!(
        usable(|node| node["status"]["conditions"] = json!([{"type": "Ready", "status": "Unknown"}])),
        Some((false, false))
    );
    assert_eq!(usable(|node| node["spec"] = json!({"unschedulable": true})), Some((true, true)));
    assert_eq!(usable(|node| node["status"]["allocatable"] = json!({"cpu": "8"})), None);
    assert_eq!(usable(|node| node["status"]["allocatable"]["nvidia.com/gpu"] = "0".into()), None);
    assert_eq!(usable(|node| node["metadata"]["labels"] = json!({})), None);
}

#[test]
fn the_lower_of_what_kubelet_and_device_plugin_say_is_offered_and_nothing_is_taken_off_twice() {
    // Of eight GPUs: capacity and allocatable of the kubelet, Unhealthy ones of the plugin; offered, Unhealthy told.
    for (capacity, allocatable, sick, offered, unhealthy, what) in [
        (8, 8, Some(0), Some(8), 0, "all is well"),
        (8, 8, Some(1), Some(7), 1, "the plugin's word came first"),
        (8, 7, Some(1), Some(7), 1, "both know"),
        (8, 7, Some(0), Some(7), 0, "it has recovered, and the kubelet does not give it out yet"),
        (8, 0, Some(0), Some(0), 0, "the kubelet has lost the plugin"),
        (0, 0, Some(0), Some(0), 0, "the kubelet does not know the plugin yet"),
        (8, 0, Some(8), Some(0), 8, "all are sick, and the node is still there to say so"),
        (8, 8, None, Some(8), 0, "another device plugin"),
        (8, 6, None, Some(6), 2, "another device plugin, and the kubelet knows of two"),
        (8, 0, None, Some(0), 8, "another device plugin, and all are sick"),
        (0, 0, None, None, 0, "no GPUs"),
    ] {
        let node = node_of(|node| {
            node["status"]["capacity"] = json!({"nvidia.com/gpu": capacity.to_string()});
            node["status"]["allocatable"] = json!({"nvidia.com/gpu": allocatable.to_string()});
        });
        let devices = sick.map(|sick| Devices {
            counted: 8,
            healthy: 8 - sick,
            unhealthy: sick,
            product: "NVIDIA H100 80GB HBM3".to_owned(),
            memory_mib: 81_559,
            ..Devices::default()
        });
        let told = describe("gpu-1", &machine(&node), devices.as_ref(), 8, false);
        assert_eq!(told.as_ref().map(|told| told.allocatable), offered, "{what}");
        if let Some(told) = told {
            assert_eq!(told.unhealthy, unhealthy, "{what}");
            assert_eq!(told.used_by_others, told.allocatable, "{what}: a gateway believes no more than is offered");
        }
    }
}

#[test]
fn the_device_plugins_word_goes_before_labels_and_the_suppliers_on_it_before_annotations() {
    let node = node_of(|node| {
        node["metadata"]["labels"] = json!({});
        node["metadata"]["annotations"] = json!({"atoll.dev/price-per-gpu-hour": "0.40"});
    });
    let mut devices = Devices {
        counted: 8,
        healthy: 8,
        product: "NVIDIA L40S".to_owned(),
        memory_mib: 46_068,
        driver: Some("580.95.05".to_owned()),
        ..Devices::default()
    };
    let told = describe("gpu-1", &machine(&node), Some(&devices), 0, false).unwrap();
    assert_eq!((told.product.as_str(), told.memory_mib, told.driver.as_str()), ("NVIDIA L40S", 46_068, "580.95.05"));
    assert_eq!((told.price_per_gpu_hour.as_str(), told.unschedulable), ("0.4", false));
    devices.price = MicroUsd::parse("0.5").ok();
    devices.unschedulable = true;
    let told = describe("gpu-1", &machine(&node), Some(&devices), 0, false).unwrap();
    assert_eq!((told.price_per_gpu_hour.as_str(), told.unschedulable), ("0.5", true));
    devices.counted = 0;
    assert!(
        describe("gpu-1", &machine(&node), Some(&devices), 0, false).is_none(),
        "its devices are of another resource"
    );
}

#[test]
fn devices_may_come_before_their_node_and_stay_while_it_is_away() {
    let mut facts = Facts::default();
    let devices = Devices { counted: 8, healthy: 7, product: "p".to_owned(), ..Devices::default() };
    assert!(facts.set_devices("gpu-1", Some(devices)).is_empty());
    for _ in 0..2 {
        assert_eq!(facts.set_machine("gpu-1", Some(machine(&node_of(|_| {})))).len(), 1);
        assert_eq!(facts.nodes()["gpu-1"].allocatable, 7);
        assert_eq!(facts.set_machine("gpu-1", None).len(), 1);
        assert!(facts.nodes().is_empty());
    }
}

#[test]
fn only_living_pods_of_others_on_a_node_use_its_gpus() {
    let on = |gpus| Some(("gpu-1".to_owned(), gpus));
    let cases: [(Edit, Option<(String, u32)>); 8] = [
        (|_| {}, on(3)),
        (|pod| pod["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "atoll-agent"}), None),
        (|pod| pod["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "Helm"}), on(3)),
        (|pod| pod["status"]["phase"] = "Succeeded".into(), None),
        (|pod| pod["status"]["phase"] = "Failed".into(), None),
        (|pod| pod["spec"]["nodeName"] = json!(null), None),
        (|pod| pod["spec"]["containers"] = json!([{"name": "a"}]), None),
        (
            |pod| {
                pod["spec"]["initContainers"] = json!([
                    {"name": "side", "restartPolicy": "Always", "resources": {"limits": {"nvidia.com/gpu": "1"}}},
                    {"name": "once", "resources": {"limits": {"nvidia.com/gpu": "5"}}},
                ]);
            },
            on(6),
        ),
    ];
    for (index, (edit, expected)) in cases.into_iter().enumerate() {
        assert_eq!(use_of(&pod_of(edit)), expected, "case {index}");
    }
}

#[test]
fn pods_seen_before_their_node_count_when_it_comes() {
    let mut facts = Facts::default();
    assert_eq!(facts.set_pod("n/p", Some(("gpu-1".into(), 3))), BTreeSet::new());
    let this = BTreeSet::from(["gpu-1".to_owned()]);
    assert_eq!(facts.set_machine("gpu-1", Some(machine(&node_of(|_| {})))), this);
    assert_eq!(facts.nodes()["gpu-1"].used_by_others, 3);
    assert!(facts.set_machine("gpu-1", Some(machine(&node_of(|_| {})))).is_empty(), "the same again is no news");
    assert_eq!(facts.set_pod("n/p", None), this);
    assert_eq!(facts.nodes()["gpu-1"].used_by_others, 0);
}

proptest! {
    #[test]
    fn use_is_the_sum_of_what_pods_hold_whatever_came_before(
        steps in prop::collection::vec((0u8..6, prop::option::of((0u8..3, 1u32..5))), 0..60)
    ) {
        let mut facts = Facts::default();
        for name in ["0", "1", "2"] {
            facts.set_machine(name, Some(machine(&node_of(|_| {}))));
        }
        let mut pods = BTreeMap::new();
        for (pod, holds) in steps {
            let holds = holds.map(|(node, gpus)| (node.to_string(), gpus));
            let before: Vec<u32> = facts.nodes().values().map(|node| node.used_by_others).collect();
            let changed = facts.set_pod(&pod.to_string(), holds.clone());
            let after: Vec<u32> = facts.nodes().values().map(|node| node.used_by_others).collect();
            let differ = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            prop_assert_eq!(changed.len(), differ);
            pods.insert(pod, holds);
        }
        for (name, node) in facts.nodes() {
            let sum: u32 = pods.values().flatten().filter(|(on, _)| on == name).map(|(_, gpus)| gpus).sum();
            prop_assert_eq!(node.used_by_others, sum.min(node.allocatable));
        }
    }
}
