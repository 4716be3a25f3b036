use atoll_api::Gang;
use atoll_core::gang::{Effect, POD_SLOT, RESOURCE_PODS};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::*;

const US: &str = "atoll-scheduler";

fn pod(spec: Value, status: &Value) -> PodFacts {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{ "name": "c" }]);
    }
    spec["schedulerName"] = json!(US);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "ns", "uid": "u", "labels": { "atoll.dev/gang": "g" } },
        "spec": spec,
        "status": status,
    }))
    .unwrap();
    PodFacts::of(&pod, US)
}

fn cpu(amount: &str) -> Value {
    json!({ "requests": { "cpu": amount } })
}

#[test]
fn requests_are_what_kubernetes_counts() {
    let container = |name: &str, amount: &str| json!({ "name": name, "resources": cpu(amount) });
    let sidecar =
        |name: &str, amount: &str| json!({ "name": name, "resources": cpu(amount), "restartPolicy": "Always" });
    let cases = [
        ("containers add up", json!({ "containers": [container("a", "1"), container("b", "500m")] }), 1500),
        (
            "the largest init container",
            json!({ "containers": [container("a", "1")], "initContainers": [container("i", "3"), container("j", "2")] }),
            3000,
        ),
        (
            "sidecars run beside containers",
            json!({ "containers": [container("a", "1")], "initContainers": [sidecar("s", "2")] }),
            3000,
        ),
        (
            "an init container after a sidecar runs beside it",
            json!({ "containers": [container("a", "1")], "initContainers": [sidecar("s", "2"), container("i", "4")] }),
            6000,
        ),
        (
            "an init container before it does not",
            json!({ "containers": [container("a", "1")], "initContainers": [container("i", "2"), sidecar("s", "2")] }),
            3000,
        ),
        ("overhead is added", json!({ "containers": [container("a", "1")], "overhead": { "cpu": "250m" } }), 1250),
        (
            "pod-level requests go before the sum",
            json!({ "containers": [container("a", "1")], "resources": cpu("4"), "overhead": { "cpu": "1" } }),
            5000,
        ),
    ];
    for (name, spec, milli) in cases {
        let facts = pod(spec, &json!({}));
        assert_eq!(facts.not_supported, None, "{name}");
        assert_eq!(facts.shape.requests.get("cpu"), milli, "{name}");
        assert_eq!(facts.shape.requests.get(RESOURCE_PODS), POD_SLOT, "{name}");
    }
}

#[test]
fn a_resize_on_its_way_counts_with_the_larger_amount() {
    let spec = json!({ "nodeName": "n", "containers": [{ "name": "c", "resources": cpu("1") }] });
    let given = |status: &Value| json!({ "containerStatuses": [status] });
    let base = json!({ "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0 });
    for (field, value) in [("resources", cpu("3")), ("allocatedResources", json!({ "cpu": "3" }))] {
        let mut status = base.clone();
        status[field] = value;
        assert_eq!(pod(spec.clone(), &given(&status)).shape.requests.get("cpu"), 3000, "{field}");
    }
}

#[test]
fn what_a_pod_uses_that_is_not_supported_is_named() {
    let volume = |source: Value| {
        let mut volume = json!({ "name": "v" });
        volume.as_object_mut().unwrap().append(&mut source.as_object().unwrap().clone());
        json!({ "volumes": [volume] })
    };
    let term = json!({ "topologyKey": "zone", "labelSelector": {} });
    let placed = "volumes that a scheduler must place";
    let cases = [
        (
            json!({ "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term] } } }),
            "pod affinity",
        ),
        (json!({ "affinity": { "podAntiAffinity": {} } }), "pod anti-affinity"),
        (
            json!({ "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution":
                [{ "weight": 1, "preference": {} }] } } }),
            "preferred node affinity",
        ),
        (
            json!({ "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule" }] }),
            "topology spread constraints",
        ),
        (json!({ "containers": [{ "name": "c", "ports": [{ "containerPort": 80, "hostPort": 80 }] }] }), "host ports"),
        (volume(json!({ "persistentVolumeClaim": { "claimName": "x" } })), placed),
        (volume(json!({ "ephemeral": {} })), placed),
        (volume(json!({ "csi": { "driver": "x" } })), placed),
        (json!({ "resourceClaims": [{ "name": "gpu" }] }), "resource claims"),
        (json!({ "schedulingGroup": { "podGroupName": "x" } }), "scheduling groups"),
    ];
    for (spec, feature) in cases {
        let facts = pod(spec, &json!({}));
        assert_eq!(facts.not_supported, Some(NotSupported::Features(vec![feature])));
    }
    for fine in [json!({ "emptyDir": {} }), json!({ "configMap": { "name": "x" } }), json!({ "secret": {} })] {
        assert_eq!(pod(volume(fine), &json!({})).not_supported, None);
    }
    let unknown = json!({ "tolerations": [{ "key": "k", "operator": "Gt", "value": "3" }] });
    assert_eq!(pod(unknown, &json!({})).not_supported, Some(NotSupported::Toleration("Gt".to_owned())));
    let field = json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution":
        { "nodeSelectorTerms": [{ "matchFields": [{ "key": "spec.x", "operator": "In", "values": ["a"] }] }] } } } });
    assert_eq!(pod(field, &json!({})).not_supported, Some(NotSupported::NodeAffinity("spec.x".to_owned())));
}

#[test]
fn a_pod_takes_room_while_it_is_bound_and_not_finished() {
    let bound = json!({ "nodeName": "n" });
    let running = pod(bound.clone(), &json!({ "phase": "Running" }));
    assert_eq!((running.occupies(), running.waits()), (Some("n"), false));
    for phase in ["Succeeded", "Failed"] {
        assert_eq!(pod(bound.clone(), &json!({ "phase": phase })).occupies(), None);
    }
    let condition = json!({ "type": "PodScheduled", "status": "False", "message": "no room" });
    let waiting = pod(json!({}), &json!({ "phase": "Pending", "conditions": [condition] }));
    assert_eq!((waiting.occupies(), waiting.waits()), (None, true));
    assert_eq!((waiting.gang.as_deref(), waiting.unschedulable.as_deref()), (Some("g"), Some("no room")));
    assert!(!pod(json!({ "schedulingGates": [{ "name": "quota" }] }), &json!({})).waits());
}

#[test]
fn tolerations_are_read_as_kubernetes_does() {
    let facts = pod(
        json!({ "tolerations": [
            { "operator": "Exists" },
            { "key": "a", "effect": "NoExecute" },
            { "key": "b", "operator": "Equal", "value": "1", "effect": "PreferNoSchedule" },
        ] }),
        &json!({}),
    );
    let all = Toleration { key: None, value: None, effect: None };
    let one = Toleration { key: Some("a".to_owned()), value: Some(String::new()), effect: Some(Effect::NoExecute) };
    assert_eq!(facts.shape.tolerations, [all, one]);
}

#[test]
fn a_node_is_read_without_its_heartbeats() {
    let at = |time: &str, ready: &str| -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": "n", "labels": { "zone": "a" } },
            "spec": {
                "unschedulable": true,
                "taints": [{ "key": "k", "effect": "NoSchedule" }, { "key": "soft", "effect": "PreferNoSchedule" }],
            },
            "status": {
                "allocatable": { "cpu": "3500m", "nvidia.com/gpu": "8", "pods": "110" },
                "conditions": [{ "type": "Ready", "status": ready, "lastHeartbeatTime": time }],
            },
        }))
        .unwrap()
    };
    let state = node_state(&at("2026-01-01T00:00:00Z", "True"));
    assert_eq!(state, node_state(&at("2026-01-01T00:00:10Z", "True")));
    assert!(state.ready && state.unschedulable);
    assert_eq!(state.taints.len(), 1);
    assert_eq!((state.allocatable.get("cpu"), state.allocatable.get("nvidia.com/gpu")), (3500, 8000));
    assert!(!node_state(&at("2026-01-01T00:00:00Z", "Unknown")).ready);
}

#[test]
fn a_gang_that_cannot_be_understood_says_why() {
    let gang = |shapes: Value, members: Value| -> GangFacts {
        let gang: Gang = serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Gang",
            "metadata": { "name": "g", "namespace": "ns", "uid": "u", "generation": 3 },
            "spec": { "mode": "Hold", "shapes": shapes, "members": members },
        }))
        .unwrap();
        GangFacts::of(&gang)
    };
    let shape = |gpus: &str| json!([{ "requests": { "nvidia.com/gpu": gpus } }]);
    let member = |pod: &str, shape: i32| json!({ "pod": pod, "rank": 0, "shape": shape });
    let good = gang(shape("8"), json!([member("a", 0), member("b", 0)])).spec;
    let members = good.members.unwrap();
    assert_eq!((good.generation, members.len()), (3, 2));
    assert_eq!(members[0].shape.requests.get("nvidia.com/gpu"), 8000);
    assert_eq!(members[0].shape.requests.get(RESOURCE_PODS), POD_SLOT);
    let cases = [
        (shape("-1"), json!([]), "the amount of nvidia.com/gpu is no valid quantity: \"-1\""),
        (shape("many"), json!([]), "the amount of nvidia.com/gpu is no valid quantity: \"many\""),
        (shape("1"), json!([member("a", 1)]), "member a has shape 1, of 1"),
        (shape("1"), json!([member("a", -1)]), "member a has shape -1, of 1"),
        (shape("1"), json!([member("a", 0), member("a", 0)]), "two members have the pod a"),
    ];
    for (shapes, members, why) in cases {
        assert_eq!(gang(shapes, members).spec.members.unwrap_err().to_string(), why);
    }
}

#[test]
fn times_round_trip_in_whole_seconds() {
    let time = Duration::from_secs(1_800_000_001);
    assert_eq!(since_epoch(&api_time(time).0), time);
}
