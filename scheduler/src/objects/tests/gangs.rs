//! What makes pods a gang.

use atoll_api::Gang;
use atoll_core::scheduling::{POD_SLOT, RESOURCE_PODS};
use serde_json::{Value, json};

use super::*;
use crate::proto::PodSchedulingGroup;

const GANG: (&str, &str) = ("atoll.dev/gang", "g");
const SIZE: (&str, &str) = ("atoll.dev/gang-size", "8");
const MIN: (&str, &str) = ("atoll.dev/gang-min", "4");

fn pod(labels: Pairs, annotations: Pairs, group: Option<&str>) -> PodFacts {
    let meta = ObjectMeta { labels: map(labels), annotations: entries(annotations), ..meta("p") };
    let scheduling_group = group.map(|name| PodSchedulingGroup { pod_group_name: Some(name.to_owned()) });
    facts_with(meta, PodSpec { scheduling_group, ..PodSpec::default() }, PodStatus::default())
}

#[test]
fn the_gang_of_a_pod_is_an_object_its_labels_or_a_pod_group() {
    let label = |size, min| Some(GangName::Label { name: "g".to_owned(), size, min });
    let object = Some(GangName::Object("g".to_owned()));
    let group = Some(GangName::PodGroup("group".to_owned()));
    let cases: [(Pairs, Pairs, Option<&str>, Option<GangName>); 9] = [
        (&[], &[], None, None),
        (&[GANG], &[], None, object.clone()),
        (&[GANG, SIZE], &[], None, label(8, 8)),
        (&[GANG], &[SIZE], None, label(8, 8)),
        (&[GANG, SIZE], &[MIN], None, label(8, 4)),
        (&[SIZE], &[MIN], None, None),
        (&[], &[], Some("group"), group),
        (&[], &[], Some(""), None),
        (&[GANG], &[], Some("group"), object),
    ];
    for (labels, annotations, group, expected) in cases {
        let facts = pod(labels, annotations, group);
        assert_eq!((facts.gang, facts.not_supported), (expected, None));
    }
}

#[test]
fn a_gang_whose_numbers_make_no_sense_is_refused() {
    for (size, min, why) in [
        ("0", None, "atoll.dev/gang-size must be a whole number from 1, not \"0\""),
        ("many", None, "atoll.dev/gang-size must be a whole number from 1, not \"many\""),
        ("8", Some("9"), "atoll.dev/gang-min must be a whole number from 1 to 8, not \"9\""),
        ("8", Some("0"), "atoll.dev/gang-min must be a whole number from 1 to 8, not \"0\""),
    ] {
        let mut annotations = vec![("atoll.dev/gang-size", size)];
        annotations.extend(min.map(|min| ("atoll.dev/gang-min", min)));
        let facts = pod(&[("atoll.dev/gang", "g")], &annotations, None);
        assert_eq!(facts.gang, None);
        assert_eq!(facts.not_supported.unwrap().to_string(), why);
    }
}

#[test]
fn topology_is_read_for_gangs_of_labels_coarse_to_fine() {
    let annotations = [("atoll.dev/required-topology", "zone, rack,"), ("atoll.dev/preferred-topology", "island,rack")];
    let sized = [("atoll.dev/gang", "g"), ("atoll.dev/gang-size", "2")];
    let levels: Vec<_> = pod(&sized, &annotations, None).topology.into_iter().map(|l| (l.key, l.required)).collect();
    let expected = [("zone".to_owned(), true), ("rack".to_owned(), true), ("island".to_owned(), false)];
    assert_eq!(levels, expected);
    assert!(pod(&sized[..1], &annotations, None).topology.is_empty(), "the Gang object says it");
}

#[test]
fn ranks_come_from_the_label_or_from_kubernetes_own() {
    for (labels, rank) in [
        (&[("atoll.dev/rank", "3"), ("apps.kubernetes.io/pod-index", "5")][..], Some(3)),
        (&[("apps.kubernetes.io/pod-index", "5")], Some(5)),
        (&[("batch.kubernetes.io/job-completion-index", "7")], Some(7)),
        (&[("atoll.dev/rank", "first")], None),
        (&[], None),
    ] {
        assert_eq!(pod(labels, &[], None).rank, rank);
    }
}

#[test]
fn the_duration_is_annotated_or_the_deadline() {
    let read = |annotations: Pairs, deadline| {
        let meta = ObjectMeta { annotations: entries(annotations), ..meta("p") };
        let spec = PodSpec { active_deadline_seconds: deadline, ..PodSpec::default() };
        facts_with(meta, spec, PodStatus::default()).duration.map(|d| d.as_secs())
    };
    assert_eq!(read(&[("atoll.dev/duration", "1h30m")], Some(60)), Some(5400));
    assert_eq!(read(&[("atoll.dev/duration", "soon")], Some(60)), Some(60));
    assert_eq!(read(&[], None), None);
}

fn gang(shapes: &Value, members: &Value, topology: &Value) -> GangFacts {
    let gang: Gang = serde_json::from_value(json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "Gang",
        "metadata": { "name": "g", "namespace": "ns", "uid": "u", "generation": 3 },
        "spec": { "mode": "Hold", "shapes": shapes, "members": members, "topology": topology },
    }))
    .unwrap();
    GangFacts::of(&gang, &Interner::default())
}

#[test]
fn a_gang_that_cannot_be_understood_says_why() {
    let shape = |gpus: &str| json!([{ "requests": { "nvidia.com/gpu": gpus } }]);
    let member = |pod: &str, shape: i32| json!({ "pod": pod, "rank": 0, "shape": shape });
    let good = gang(&shape("8"), &json!([member("a", 0), member("b", 0)]), &json!([])).spec;
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
        assert_eq!(gang(&shapes, &members, &json!([])).spec.members.unwrap_err().to_string(), why);
    }
}

#[test]
fn a_gang_names_its_topology_coarse_to_fine() {
    let topology = json!([{ "key": "rack", "mode": "Required" }, { "key": "island", "mode": "Preferred" }]);
    let shapes = json!([{ "requests": {}, "tolerations": [{ "key": "k", "operator": "Exists" }] }]);
    let spec = gang(&shapes, &json!([]), &topology).spec;
    let levels: Vec<_> = spec.topology.iter().map(|level| (level.key.as_str(), level.required)).collect();
    assert_eq!(levels, [("rack", true), ("island", false)]);
}
