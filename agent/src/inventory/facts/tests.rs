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
    assert!(facts.set_node("gpu-1", node(&node_of(|_| {}))));
    assert_eq!(facts.nodes()["gpu-1"].used_by_others, 3);
    assert!(!facts.set_node("gpu-1", node(&node_of(|_| {}))), "the same again is no news");
    assert_eq!(facts.set_pod("n/p", None), BTreeSet::from(["gpu-1".to_owned()]));
    assert_eq!(facts.nodes()["gpu-1"].used_by_others, 0);
}

proptest! {
    #[test]
    fn use_is_the_sum_of_what_pods_hold_whatever_came_before(
        steps in prop::collection::vec((0u8..6, prop::option::of((0u8..3, 1u32..5))), 0..60)
    ) {
        let mut facts = Facts::default();
        for name in ["0", "1", "2"] {
            let described = node(&node_of(|_| {})).map(|node| v1::Node { name: name.into(), ..node });
            facts.set_node(name, described);
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
            prop_assert_eq!(node.used_by_others, sum);
        }
    }
}
