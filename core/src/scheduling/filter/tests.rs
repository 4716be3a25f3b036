use std::sync::Arc;

use proptest::prelude::*;

use super::super::nodes::Stage;
use super::super::pod::{ExclusiveVolume, HostPort, Identity, NodeTerm, Toleration, TolerationValue, VolumeNeeds};
use super::super::selector::{Operator, Requirement};
use super::super::{POD_SLOT, RESOURCE_PODS};
use super::*;

/// Amounts in thousandths, by resource.
type Asked<'a> = &'a [(&'a str, i128)];
/// Labels of a node.
type Labels<'a> = &'a [(&'a str, &'a str)];
/// Values of labels, by name.
type Zones<'a> = &'a [(&'a str, &'a [&'a str])];

const GPU: &str = "nvidia.com/gpu";
const ZONE: &str = "topology.kubernetes.io/zone";
const OLD_ZONE: &str = "failure-domain.beta.kubernetes.io/zone";

fn amounts(of: Asked<'_>) -> Amounts {
    of.iter().map(|(resource, milli)| ((*resource).to_owned(), *milli)).collect()
}

fn node() -> NodeState {
    NodeState {
        name: "a".into(),
        allocatable: amounts(&[("cpu", 8000), ("memory", 64_000), (GPU, 8000), (RESOURCE_PODS, 10 * POD_SLOT)]),
        ..NodeState::default()
    }
}

fn labelled(labels: Labels<'_>) -> NodeState {
    NodeState { labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), ..node() }
}

fn shape(of: Asked<'_>) -> Shape {
    let mut requests = amounts(of);
    requests.set(RESOURCE_PODS, POD_SLOT);
    Shape { requests, ..Shape::default() }
}

fn put(nodes: &mut Nodes, shape: &Shape) {
    let occupant =
        Occupant { shape: Arc::new(shape.clone()), identity: Arc::new(Identity::default()), stage: Stage::Bound };
    nodes.put("a", occupant);
}

/// The answer for a node with these pods on it, after asking that [`room_for`] agrees.
fn judge(node: &NodeState, there: &[&Shape], shape: &Shape) -> Option<Why> {
    let mut nodes = Nodes::default();
    nodes.set(node.clone());
    for one in there {
        put(&mut nodes, one);
    }
    let ix = nodes.ix("a").unwrap();
    let why = why_not(&nodes, ix, shape);
    assert_eq!(why.is_none(), room_for(&nodes, ix, shape) > 0, "room against {why:?}");
    why
}

fn taint(key: &str, value: &str, effect: Effect) -> Taint {
    Taint { key: key.into(), value: value.into(), effect }
}

fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
    Requirement { key: key.into(), operator, values: values.iter().map(|v| (*v).to_owned()).collect() }
}

#[test]
fn taints_keep_away_who_does_not_tolerate_them() {
    use Effect::{NoExecute, NoSchedule, PreferNoSchedule};
    use TolerationValue::{Above, Any, Below, Equal};
    let equal = |value: &str| Equal(value.to_owned());
    let cases = [
        // (taint, key, value, effect of the toleration, tolerated)
        (("k", "v", NoSchedule), Some("k"), equal("v"), Some(NoSchedule), true),
        (("k", "v", NoSchedule), Some("k"), equal("v"), None, true),
        (("k", "v", NoSchedule), Some("k"), equal("w"), None, false),
        (("k", "v", NoSchedule), Some("l"), equal("v"), None, false),
        (("k", "v", NoSchedule), Some("k"), equal("v"), Some(NoExecute), false),
        (("k", "v", NoExecute), Some("k"), Any, Some(NoExecute), true),
        (("k", "v", NoExecute), None, Any, None, true),
        (("k", "v", NoExecute), None, Any, Some(NoSchedule), false),
        (("k", "", NoSchedule), Some("k"), equal(""), None, true),
        (("k", "5", NoSchedule), Some("k"), Above(4), None, true),
        (("k", "5", NoSchedule), Some("k"), Above(5), None, false),
        (("k", "-5", NoSchedule), Some("k"), Below(-4), None, true),
        (("k", "0", NoSchedule), Some("k"), Below(1), None, true),
        (("k", "05", NoSchedule), Some("k"), Above(4), None, false),
        (("k", "+5", NoSchedule), Some("k"), Above(4), None, false),
        (("k", "-0", NoSchedule), Some("k"), Above(-4), None, false),
        (("k", "five", NoSchedule), Some("k"), Above(4), None, false),
        (("k", "99999999999999999999", NoSchedule), Some("k"), Above(4), None, false),
        (("k", "v", PreferNoSchedule), Some("other"), Any, None, true),
    ];
    for ((key, value, effect), toleration_key, toleration_value, toleration_effect, tolerated) in cases {
        let node = NodeState { taints: vec![taint(key, value, effect)], ..node() };
        let toleration = Toleration {
            key: toleration_key.map(ToOwned::to_owned),
            value: toleration_value,
            effect: toleration_effect,
        };
        let shape = Shape { tolerations: vec![toleration.clone()], ..shape(&[]) };
        let expected = (!tolerated).then(|| Why::Tainted(taint(key, value, effect)));
        assert_eq!(judge(&node, &[], &shape), expected, "{key}={value}:{effect:?} against {toleration:?}");
    }
}

#[test]
fn a_cordoned_node_takes_only_who_tolerates_that() {
    let node = NodeState { unschedulable: true, ..node() };
    assert_eq!(judge(&node, &[], &shape(&[])), Some(Why::Cordoned));
    let any = Toleration { key: None, value: TolerationValue::Any, effect: None };
    assert_eq!(judge(&node, &[], &Shape { tolerations: vec![any], ..shape(&[]) }), None);
}

#[test]
fn an_unusable_or_unknown_node_takes_nobody() {
    let unusable = NodeState { unusable: true, ..node() };
    assert_eq!(judge(&unusable, &[], &shape(&[])), Some(Why::Unusable));
    let mut nodes = Nodes::default();
    put(&mut nodes, &shape(&[]));
    let ix = nodes.ix("a").unwrap();
    assert_eq!(why_not(&nodes, ix, &shape(&[])), Some(Why::Unusable));
    assert_eq!(room_for(&nodes, ix, &shape(&[])), 0);
}

#[test]
fn comparisons_of_labels_are_those_of_kubernetes() {
    use Operator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
    let node = labelled(&[("gpu", "h100"), ("count", "8"), ("odd", "+8")]);
    let cases: [(&str, Operator, &[&str], bool); 20] = [
        ("gpu", In, &["a100", "h100"], true),
        ("gpu", In, &["a100"], false),
        ("gpu", In, &[], false),
        ("none", In, &["h100"], false),
        ("gpu", NotIn, &["a100"], true),
        ("gpu", NotIn, &["h100"], false),
        ("none", NotIn, &["h100"], true),
        ("none", NotIn, &[], false),
        ("gpu", Exists, &[], true),
        ("none", Exists, &[], false),
        ("gpu", Exists, &["h100"], false),
        ("none", DoesNotExist, &[], true),
        ("gpu", DoesNotExist, &[], false),
        ("count", Gt, &["7"], true),
        ("count", Gt, &["8"], false),
        ("count", Lt, &["9"], true),
        ("count", Lt, &["9", "10"], false),
        ("count", Gt, &["seven"], false),
        ("gpu", Gt, &["7"], false),
        ("odd", Gt, &["7"], true),
    ];
    for (key, operator, values, selected) in cases {
        let term = NodeTerm { labels: vec![requirement(key, operator, values)], name: vec![] };
        let shape = Shape { affinity: Some(vec![term]), ..shape(&[]) };
        let expected = (!selected).then_some(Why::NotSelected);
        assert_eq!(judge(&node, &[], &shape), expected, "{key} {operator:?} {values:?}");
    }
}

#[test]
fn one_term_and_the_whole_selector_must_match() {
    let node = labelled(&[("gpu", "h100"), ("pool", "x")]);
    let is = |key: &str, value: &str| requirement(key, Operator::In, &[value]);
    let labels = |labels: Vec<Requirement>| NodeTerm { labels, name: vec![] };
    let name = |operator, values: &[&str]| NodeTerm {
        labels: vec![],
        name: vec![requirement("metadata.name", operator, values)],
    };
    let cases = [
        ("no term", vec![], false),
        ("an empty term", vec![NodeTerm::default()], false),
        ("an empty term beside one that matches", vec![NodeTerm::default(), labels(vec![is("gpu", "h100")])], true),
        ("the second term", vec![labels(vec![is("gpu", "a100")]), labels(vec![is("pool", "x")])], true),
        ("half of a term", vec![labels(vec![is("gpu", "h100"), is("pool", "y")])], false),
        ("its name", vec![name(Operator::In, &["a"])], true),
        ("another name", vec![name(Operator::In, &["b"])], false),
        ("not its name", vec![name(Operator::NotIn, &["a"])], false),
        ("names cannot be several", vec![name(Operator::In, &["a", "b"])], false),
        ("names cannot exist", vec![name(Operator::Exists, &[])], false),
        (
            "name and another label",
            vec![NodeTerm { labels: vec![is("gpu", "a100")], ..name(Operator::In, &["a"]) }],
            false,
        ),
    ];
    for (what, terms, selected) in cases {
        let shape = Shape { affinity: Some(terms), ..shape(&[]) };
        assert_eq!(judge(&node, &[], &shape), (!selected).then_some(Why::NotSelected), "{what}");
    }
    let selector = |value: &str| Shape { node_selector: [("pool".into(), value.into())].into(), ..shape(&[]) };
    assert_eq!(judge(&node, &[], &selector("x")), None);
    assert_eq!(judge(&node, &[], &selector("y")), Some(Why::NotSelected));
}

fn with_port(protocol: &str, ip: &str, port: u16) -> Shape {
    let port = HostPort { protocol: protocol.into(), ip: ip.into(), port };
    Shape { host_ports: [port].into(), ..shape(&[]) }
}

#[test]
fn a_port_of_the_node_is_given_once() {
    let cases = [
        (("TCP", "0.0.0.0", 80), ("TCP", "0.0.0.0", 80), true),
        (("TCP", "0.0.0.0", 80), ("TCP", "10.0.0.1", 80), true),
        (("TCP", "10.0.0.1", 80), ("TCP", "0.0.0.0", 80), true),
        (("TCP", "10.0.0.1", 80), ("TCP", "10.0.0.1", 80), true),
        (("TCP", "10.0.0.1", 80), ("TCP", "10.0.0.2", 80), false),
        (("TCP", "0.0.0.0", 80), ("UDP", "0.0.0.0", 80), false),
        (("TCP", "0.0.0.0", 80), ("TCP", "0.0.0.0", 81), false),
    ];
    for ((p, ip, port), (q, jp, qort), taken) in cases {
        let why = judge(&node(), &[&with_port(q, jp, qort)], &with_port(p, ip, port));
        assert_eq!(why, taken.then_some(Why::PortTaken), "{p} {ip}:{port} beside {q} {jp}:{qort}");
    }
}

#[test]
fn resources_are_compared_with_what_is_free() {
    let cases: [(&str, Asked<'_>, Asked<'_>, Option<Why>); 9] = [
        ("all of it", &[], &[("cpu", 8000), (GPU, 8000)], None),
        ("more than there is", &[], &[("cpu", 8001)], Some(Why::TooSmall("cpu".into()))),
        ("more than is free", &[("cpu", 1000)], &[("cpu", 7001)], Some(Why::InUse("cpu".into()))),
        ("a device that the node lacks", &[], &[("amd.com/gpu", 1000)], Some(Why::TooSmall("amd.com/gpu".into()))),
        ("devices are named first", &[], &[("cpu", 9000), (GPU, 9000)], Some(Why::TooSmall(GPU.into()))),
        ("none of a device that the node lacks", &[], &[("amd.com/gpu", 0)], None),
        ("nothing where too much is taken", &[("cpu", 9000)], &[], None),
        ("nothing of what is overdrawn", &[("cpu", 9000)], &[(GPU, 1000)], None),
        ("some of what is overdrawn", &[(GPU, 9000)], &[(GPU, 1000)], Some(Why::InUse(GPU.into()))),
    ];
    for (what, used, asked, expected) in cases {
        assert_eq!(judge(&node(), &[&shape(used)], &shape(asked)), expected, "{what}");
    }
    let full = vec![shape(&[]); 10];
    let full: Vec<&Shape> = full.iter().collect();
    assert_eq!(judge(&node(), &full, &shape(&[])), Some(Why::InUse(RESOURCE_PODS.into())));
    assert_eq!(judge(&node(), &full[1..], &shape(&[])), None);
}

fn with_volumes(volumes: VolumeNeeds) -> Shape {
    Shape { volumes, ..shape(&[]) }
}

#[test]
fn volumes_that_cannot_be_shared_are_used_by_one_pod_or_only_read() {
    let using = |id: &str, read_only, anywhere| {
        let volume = ExclusiveVolume { id: id.into(), read_only, anywhere };
        with_volumes(VolumeNeeds { exclusive: [volume].into(), ..VolumeNeeds::default() })
    };
    let cases = [
        (using("d", false, false), using("d", false, false), true),
        (using("d", true, false), using("d", false, false), true),
        (using("d", false, false), using("d", true, false), true),
        (using("d", true, false), using("d", true, false), false),
        (using("d", false, false), using("e", false, false), false),
        (using("c", true, true), using("c", true, true), true),
    ];
    for (mine, theirs, taken) in cases {
        let why = judge(&node(), &[&theirs], &mine);
        assert_eq!(why, taken.then_some(Why::VolumeTaken), "{mine:?} beside {theirs:?}");
    }
}

#[test]
fn a_driver_attaches_each_volume_once_and_not_more_than_its_limit() {
    let attaching = |driver: &str, volumes: &[&str]| {
        let volumes = volumes.iter().map(|v| (*v).to_owned()).collect();
        with_volumes(VolumeNeeds { attached: [(driver.to_owned(), volumes)].into(), ..VolumeNeeds::default() })
    };
    let limited = |driver: &str, limit| NodeState { volume_limits: [(driver.to_owned(), limit)].into(), ..node() };
    let cases = [
        ("up to the limit", limited("d", 3), vec!["a", "b"], vec!["c"], true),
        ("beyond it", limited("d", 2), vec!["a", "b"], vec!["c"], false),
        ("one that is attached already", limited("d", 2), vec!["a", "b"], vec!["b"], true),
        ("only those that are attached, over the limit", limited("d", 1), vec!["a", "b"], vec!["b"], true),
        ("none may be attached", limited("d", 0), vec![], vec!["a"], false),
        ("another driver's limit", limited("e", 0), vec![], vec!["a"], true),
    ];
    for (what, node, there, mine, fits) in cases {
        let why = judge(&node, &[&attaching("d", &there)], &attaching("d", &mine));
        assert_eq!(why, (!fits).then(|| Why::TooManyVolumes("d".into())), "{what}");
    }
}

#[test]
fn volumes_must_be_reachable() {
    let is = |key: &str, value: &str| requirement(key, Operator::In, &[value]);
    let zone = |value: &str| NodeTerm { labels: vec![is(ZONE, value)], name: vec![] };
    let named = |operator, values: &[&str]| NodeTerm {
        labels: vec![],
        name: vec![requirement("metadata.name", operator, values)],
    };
    let node = labelled(&[(ZONE, "z1")]);
    let cases = [
        ("in its zone", vec![vec![zone("z1")]], true),
        ("in one of two zones", vec![vec![zone("z2"), zone("z1")]], true),
        ("elsewhere", vec![vec![zone("z2")]], false),
        ("one of two volumes elsewhere", vec![vec![zone("z1")], vec![zone("z2")]], false),
        ("an affinity without terms", vec![vec![]], false),
        ("a name is not looked at", vec![vec![named(Operator::In, &["other"])]], true),
        ("a comparison of names that cannot be made", vec![vec![named(Operator::Exists, &[])]], false),
    ];
    for (what, affinities, reachable) in cases {
        let shape = with_volumes(VolumeNeeds { affinities, ..VolumeNeeds::default() });
        assert_eq!(judge(&node, &[], &shape), (!reachable).then_some(Why::VolumeElsewhere), "{what}");
        assert_eq!(suits(&node, &shape).is_none(), reachable, "{what}");
    }
}

#[test]
fn volumes_with_a_zone_stay_in_it() {
    let region = "topology.kubernetes.io/region";
    let cases: [(&str, Labels<'_>, Zones<'_>, bool); 8] = [
        ("the same zone", &[(ZONE, "z1")], &[(ZONE, &["z1"])], true),
        ("one of its zones", &[(ZONE, "z1")], &[(ZONE, &["z2", "z1"])], true),
        ("another zone", &[(ZONE, "z1")], &[(ZONE, &["z2"])], false),
        ("a node outside of all zones", &[], &[(ZONE, &["z1"])], true),
        ("a node with a region only", &[(region, "r1")], &[(ZONE, &["z1"])], false),
        ("the old name on both", &[(OLD_ZONE, "z1")], &[(OLD_ZONE, &["z1"])], true),
        ("the old name on the volume", &[(ZONE, "z1")], &[(OLD_ZONE, &["z1"])], true),
        ("the old name on the node", &[(OLD_ZONE, "z1")], &[(ZONE, &["z1"])], false),
    ];
    for (what, labels, zones, reachable) in cases {
        let zones = zones
            .iter()
            .map(|(key, values)| ((*key).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()))
            .collect();
        let shape = with_volumes(VolumeNeeds { zones, ..VolumeNeeds::default() });
        let why = judge(&labelled(labels), &[], &shape);
        assert_eq!(why, (!reachable).then_some(Why::VolumeElsewhere), "{what}");
    }
}

#[test]
fn preferences_add_up_and_a_taint_to_avoid_outweighs_each() {
    let is = |value: &str| NodeTerm { labels: vec![requirement("gpu", Operator::In, &[value])], name: vec![] };
    let shape =
        Shape { preferred_nodes: vec![(100, is("h100")), (10, is("a100")), (1, NodeTerm::default())], ..shape(&[]) };
    let avoided = taint("spot", "", Effect::PreferNoSchedule);
    let of = |gpu, taints| preference(&NodeState { taints, ..labelled(&[("gpu", gpu)]) }, &shape);
    assert_eq!(of("v100", vec![]), 0);
    assert_eq!(of("a100", vec![]), 20);
    assert_eq!(of("h100", vec![]), 200);
    assert!(of("h100", vec![avoided.clone()]) < of("v100", vec![]));
    let toleration = Toleration { key: Some("spot".into()), value: TolerationValue::Any, effect: None };
    let tolerant = Shape { tolerations: vec![toleration], ..shape };
    assert_eq!(preference(&NodeState { taints: vec![avoided], ..labelled(&[("gpu", "a100")]) }, &tolerant), 20);
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let resources = (0..4i128, 0..3i128, 0..3i128);
    let port = prop::option::weighted(0.2, (0..2u8, 1..3u16));
    let exclusive = prop::option::weighted(0.2, (0..2u8, any::<bool>(), any::<bool>()));
    let attached = prop::collection::btree_set(0..6u8, 0..3);
    (resources, port, exclusive, attached).prop_map(|((cpu, memory, gpu), port, exclusive, attached)| Shape {
        host_ports: port
            .map(|(ip, port)| HostPort {
                protocol: "TCP".into(),
                ip: ["0.0.0.0", "10.0.0.1"][usize::from(ip)].into(),
                port,
            })
            .into_iter()
            .collect(),
        volumes: VolumeNeeds {
            exclusive: exclusive
                .map(|(id, read_only, anywhere)| ExclusiveVolume { id: id.to_string(), read_only, anywhere })
                .into_iter()
                .collect(),
            attached: [("d".to_owned(), attached.into_iter().map(|v| v.to_string()).collect())].into(),
            ..VolumeNeeds::default()
        },
        ..shape(&[("cpu", 700 * cpu), ("memory", 9000 * memory), (GPU, 1000 * gpu)])
    })
}

proptest! {
    #[test]
    fn there_is_room_for_as_many_as_can_be_put_until_something_objects(
        there in prop::collection::vec(any_shape(), 0..5),
        shape in any_shape(),
        limit in prop::option::of(0..5u32),
        cordoned in prop::bool::weighted(0.05),
    ) {
        let mut nodes = Nodes::default();
        let volume_limits = limit.map(|limit| ("d".to_owned(), limit)).into_iter().collect();
        nodes.set(NodeState { volume_limits, unschedulable: cordoned, ..node() });
        for one in &there {
            put(&mut nodes, one);
        }
        let ix = nodes.ix("a").unwrap();
        let room = room_for(&nodes, ix, &shape);
        let mut copies = 0;
        while why_not(&nodes, ix, &shape).is_none() {
            put(&mut nodes, &shape);
            copies += 1;
            prop_assert!(copies <= 10, "ten pods are allowed");
        }
        prop_assert_eq!(room, copies);
    }
}
