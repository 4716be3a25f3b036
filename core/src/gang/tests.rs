use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const GPU: &str = "nvidia.com/gpu";

fn amounts(gpus: i128, cpu: i128) -> Amounts {
    [(GPU.to_owned(), gpus * 1000), ("cpu".to_owned(), cpu * 1000), (RESOURCE_PODS.to_owned(), POD_SLOT)]
        .into_iter()
        .collect()
}

fn node(name: &str, gpus: i128, cpu: i128) -> NodeState {
    let mut allocatable = amounts(gpus, cpu);
    allocatable.set(RESOURCE_PODS, 110 * POD_SLOT);
    NodeState { name: name.to_owned(), allocatable, ready: true, ..NodeState::default() }
}

fn shape(gpus: i128, cpu: i128) -> Arc<Shape> {
    Arc::new(Shape { requests: amounts(gpus, cpu), ..Shape::default() })
}

fn nodes(states: impl IntoIterator<Item = NodeState>) -> Nodes {
    let mut nodes = Nodes::default();
    for state in states {
        nodes.set(state);
    }
    nodes
}

fn gang(members: &[(&Arc<Shape>, Option<&str>)]) -> GangRequest {
    GangRequest {
        members: members
            .iter()
            .enumerate()
            .map(|(rank, (shape, node))| MemberRequest {
                pod: format!("m-{rank}"),
                shape: Arc::clone(shape),
                node: node.map(str::to_owned),
            })
            .collect(),
    }
}

fn taint(key: &str, value: &str, effect: Effect) -> Taint {
    Taint { key: key.to_owned(), value: value.to_owned(), effect }
}

#[test]
fn members_get_the_nodes_that_they_name() {
    let nodes = nodes([node("a", 8, 64), node("b", 8, 64), node("c", 8, 64)]);
    let eight = shape(8, 4);
    let decided = decide(&nodes, &gang(&[(&eight, Some("c")), (&eight, Some("a"))])).unwrap();
    assert_eq!(decided.nodes, ["c", "a"]);
}

#[test]
fn a_named_node_that_is_full_is_replaced_and_the_others_stay() {
    let mut nodes = nodes([node("a", 8, 64), node("b", 8, 64), node("c", 8, 64)]);
    nodes.take("c", &amounts(1, 1));
    let eight = shape(8, 4);
    let decided = decide(&nodes, &gang(&[(&eight, Some("c")), (&eight, Some("a"))])).unwrap();
    assert_eq!(decided.nodes, ["b", "a"]);
}

#[test]
fn the_node_that_is_left_fullest_is_taken() {
    let mut nodes = nodes([node("a", 8, 64), node("b", 8, 64), node("c", 8, 64)]);
    nodes.take("b", &amounts(6, 1));
    let one = shape(1, 1);
    let decided = decide(&nodes, &gang(&[(&one, None), (&one, None), (&one, None)])).unwrap();
    assert_eq!(decided.nodes, ["b", "b", "a"]);
}

#[test]
fn a_pod_without_a_gpu_avoids_free_gpus() {
    let mut nodes = nodes([node("a", 8, 4), node("b", 0, 64), node("c", 8, 64)]);
    nodes.take("c", &amounts(8, 1));
    let cpu_only = Arc::new(Shape {
        requests: [("cpu".to_owned(), 1000), (RESOURCE_PODS.to_owned(), POD_SLOT)].into_iter().collect(),
        ..Shape::default()
    });
    assert_eq!(decide(&nodes, &gang(&[(&cpu_only, None)])).unwrap().nodes, ["c"]);
}

#[test]
fn several_shapes_are_rearranged_before_they_are_refused() {
    let mut pinned = (*shape(4, 1)).clone();
    pinned.node_selector.insert("disk".to_owned(), "ssd".to_owned());
    let pinned = Arc::new(pinned);
    let mut ssd = node("a", 4, 64);
    ssd.labels.insert("disk".to_owned(), "ssd".to_owned());
    let nodes = nodes([ssd, node("b", 4, 64)]);
    let any = shape(4, 2);
    let decided = decide(&nodes, &gang(&[(&any, Some("a")), (&pinned, None)])).unwrap();
    assert_eq!(decided.nodes, ["b", "a"]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_filter_keeps_a_node_out_and_a_toleration_lets_it_in() {
    let tolerate = |key: Option<&str>, value: Option<&str>, effect| Toleration {
        key: key.map(str::to_owned),
        value: value.map(str::to_owned),
        effect,
    };
    let with = |change: &dyn Fn(&mut NodeState)| {
        let mut state = node("a", 8, 64);
        change(&mut state);
        state
    };
    let asks = |change: &dyn Fn(&mut Shape)| {
        let mut asked = (*shape(1, 1)).clone();
        change(&mut asked);
        asked
    };
    let one = |key: &str, operator, values: &[&str]| Requirement {
        key: key.to_owned(),
        operator,
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    };
    let affinity = |requirement: Requirement| {
        move |s: &mut Shape| s.affinity = Some(vec![NodeTerm { labels: vec![requirement.clone()], name: vec![] }])
    };
    let zone = |s: &mut NodeState| {
        s.labels.insert("zone".to_owned(), "5".to_owned());
    };
    let ml = |effect| move |s: &mut NodeState| s.taints.push(taint("team", "ml", effect));
    let plain = |_: &mut Shape| {};
    let cases: Vec<(&str, NodeState, Shape, bool)> = vec![
        ("as it is", with(&|_| {}), asks(&plain), true),
        ("not ready", with(&|s| s.ready = false), asks(&plain), false),
        ("cordoned", with(&|s| s.unschedulable = true), asks(&plain), false),
        (
            "cordon tolerated",
            with(&|s| s.unschedulable = true),
            asks(&|s| s.tolerations.push(tolerate(None, None, None))),
            true,
        ),
        ("NoSchedule", with(&ml(Effect::NoSchedule)), asks(&plain), false),
        ("NoExecute", with(&ml(Effect::NoExecute)), asks(&plain), false),
        (
            "key and value tolerated",
            with(&ml(Effect::NoSchedule)),
            asks(&|s| s.tolerations.push(tolerate(Some("team"), Some("ml"), Some(Effect::NoSchedule)))),
            true,
        ),
        (
            "other value tolerated",
            with(&ml(Effect::NoSchedule)),
            asks(&|s| s.tolerations.push(tolerate(Some("team"), Some("web"), None))),
            false,
        ),
        (
            "other effect tolerated",
            with(&ml(Effect::NoExecute)),
            asks(&|s| s.tolerations.push(tolerate(Some("team"), None, Some(Effect::NoSchedule)))),
            false,
        ),
        (
            "selector met",
            with(&zone),
            asks(&|s| {
                s.node_selector.insert("zone".to_owned(), "5".to_owned());
            }),
            true,
        ),
        (
            "selector not met",
            with(&|_| {}),
            asks(&|s| {
                s.node_selector.insert("zone".to_owned(), "5".to_owned());
            }),
            false,
        ),
        ("In", with(&zone), asks(&affinity(one("zone", Operator::In, &["4", "5"]))), true),
        ("In, absent", with(&|_| {}), asks(&affinity(one("zone", Operator::In, &["5"]))), false),
        ("NotIn", with(&zone), asks(&affinity(one("zone", Operator::NotIn, &["5"]))), false),
        ("NotIn, absent", with(&|_| {}), asks(&affinity(one("zone", Operator::NotIn, &["5"]))), true),
        ("Exists", with(&zone), asks(&affinity(one("zone", Operator::Exists, &[]))), true),
        ("DoesNotExist", with(&zone), asks(&affinity(one("zone", Operator::DoesNotExist, &[]))), false),
        ("Gt", with(&zone), asks(&affinity(one("zone", Operator::Gt, &["4"]))), true),
        ("Gt, equal", with(&zone), asks(&affinity(one("zone", Operator::Gt, &["5"]))), false),
        ("Lt", with(&zone), asks(&affinity(one("zone", Operator::Lt, &["6"]))), true),
        ("no term", with(&|_| {}), asks(&|s| s.affinity = Some(vec![])), false),
        ("empty term", with(&|_| {}), asks(&|s| s.affinity = Some(vec![NodeTerm::default()])), false),
        (
            "by name",
            with(&|_| {}),
            asks(&|s| {
                s.affinity =
                    Some(vec![NodeTerm { labels: vec![], name: vec![one("metadata.name", Operator::In, &["a"])] }]);
            }),
            true,
        ),
        ("no slot", with(&|s| s.allocatable.set(RESOURCE_PODS, 0)), asks(&plain), false),
        ("too many GPUs", with(&|_| {}), asks(&|s| s.requests.set(GPU, 9000)), false),
        ("unknown device", with(&|_| {}), asks(&|s| s.requests.set("amd.com/gpu", 1000)), false),
    ];
    for (name, state, asked, fits) in cases {
        let decided = decide(&nodes([state]), &gang(&[(&Arc::new(asked), None)]));
        assert_eq!(decided.is_ok(), fits, "{name}: {decided:?}");
    }
}

#[test]
fn a_refusal_says_what_was_asked_what_is_there_and_why_it_is_out() {
    let mut states: Vec<NodeState> =
        (0..50).map(|i| node(&format!("n{i:02}"), if i < 6 { 8 } else { 4 }, 64)).collect();
    states[0].unschedulable = true;
    states[1].allocatable.set("cpu", 1000);
    states[2].ready = false;
    states[3].taints.push(taint("team", "ml", Effect::NoSchedule));
    let mut nodes = nodes(states);
    nodes.take("n04", &amounts(1, 1));
    let eight = shape(8, 4);
    let refusal = decide(&nodes, &gang(&[(&eight, None), (&eight, None)])).unwrap_err();
    assert_eq!((refusal.members, refusal.room_for), (2, 1));
    assert_eq!(
        refusal.to_string(),
        "2 members need 8 nvidia.com/gpu, 4 cpu each; room for 1 of them; 1 of 50 nodes have room: 44 have too little \
         nvidia.com/gpu in all, 1 is not ready, 1 is cordoned, 1 has the taint team=ml:NoSchedule, 1 has too little cpu \
         in all, 1 has too little nvidia.com/gpu free; most free on one node: 8 nvidia.com/gpu"
    );
    let refusal = decide(&Nodes::default(), &gang(&[(&eight, None)])).unwrap_err();
    assert_eq!(refusal.to_string(), "needs 8 nvidia.com/gpu, 4 cpu on one node; there are no nodes");
}

#[test]
fn amounts_read_as_people_write_them() {
    let cases: [(&str, i128, &str); 5] = [
        ("memory", 16 << 30, "16Gi memory"),
        ("memory", 1_000_000, "1000000 memory"),
        ("cpu", 4, "4 cpu"),
        ("memory", 3 << 20, "3Mi memory"),
        (GPU, 1024, "1Ki nvidia.com/gpu"),
    ];
    for (resource, units, text) in cases {
        let amounts: Amounts = [(resource.to_owned(), units * 1000)].into_iter().collect();
        assert_eq!(amounts.to_string(), text);
    }
    assert_eq!([("cpu".to_owned(), 500)].into_iter().collect::<Amounts>().to_string(), "500m cpu");
    assert_eq!(Amounts::default().to_string(), "room for a pod");
}

#[test]
fn what_is_taken_survives_a_node_that_goes_and_comes_back() {
    let mut nodes = Nodes::default();
    nodes.take("a", &amounts(8, 1));
    assert!(nodes.set(node("a", 8, 64)));
    assert!(!nodes.set(node("a", 8, 64)), "the same again is no change");
    let one = shape(1, 1);
    assert!(decide(&nodes, &gang(&[(&one, None)])).is_err());
    assert!(nodes.remove("a"));
    assert!(!nodes.remove("a"));
    nodes.set(node("a", 8, 64));
    assert!(decide(&nodes, &gang(&[(&one, None)])).is_err());
    nodes.give_back("a", &amounts(8, 1));
    assert!(decide(&nodes, &gang(&[(&one, None)])).is_ok());
}

#[derive(Clone, Debug)]
struct Case {
    nodes: Vec<(i128, i128, bool, bool)>,
    taken: Vec<(i128, i128)>,
    shapes: Vec<(i128, i128, bool)>,
    members: Vec<(usize, Option<usize>)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let nodes = prop::collection::vec((0..5_i128, 1..6_i128, prop::bool::weighted(0.9), any::<bool>()), 1..4);
    let taken = prop::collection::vec((0..3_i128, 0..3_i128), 3);
    let shapes = prop::collection::vec((0..4_i128, 1..4_i128, prop::bool::weighted(0.2)), 1..4);
    let members = prop::collection::vec((0..3_usize, prop::option::of(0..3_usize)), 1..5);
    (nodes, taken, shapes, members).prop_map(|(nodes, taken, shapes, members)| Case { nodes, taken, shapes, members })
}

impl Case {
    fn build(&self) -> (Nodes, GangRequest) {
        let mut all = Nodes::default();
        for (index, ((gpus, cpu, ready, ssd), taken)) in self.nodes.iter().zip(&self.taken).enumerate() {
            let mut state = node(&format!("n{index}"), *gpus, *cpu);
            state.ready = *ready;
            if *ssd {
                state.labels.insert("disk".to_owned(), "ssd".to_owned());
            }
            all.set(state);
            all.take(&format!("n{index}"), &amounts(taken.0, taken.1));
        }
        let shapes: Vec<Arc<Shape>> = self
            .shapes
            .iter()
            .map(|(gpus, cpu, ssd)| {
                let mut one = (*shape(*gpus, *cpu)).clone();
                if *ssd {
                    one.node_selector.insert("disk".to_owned(), "ssd".to_owned());
                }
                Arc::new(one)
            })
            .collect();
        let named: Vec<(&Arc<Shape>, Option<String>)> = self
            .members
            .iter()
            .map(|(shape, node)| (&shapes[shape % shapes.len()], node.map(|n| format!("n{n}"))))
            .collect();
        let request = gang(&named.iter().map(|(s, n)| (*s, n.as_deref())).collect::<Vec<_>>());
        (all, request)
    }
}

/// Whether these nodes hold for these members, checked without any of the code above.
fn valid(nodes: &Nodes, request: &GangRequest, chosen: &[&str]) -> bool {
    let mut total: BTreeMap<(&str, String), i128> = BTreeMap::new();
    for (member, name) in request.members.iter().zip(chosen) {
        let Some(state) = nodes.get(name) else { return false };
        if !state.ready || member.shape.node_selector.iter().any(|(k, v)| state.labels.get(k) != Some(v)) {
            return false;
        }
        for (resource, milli) in member.shape.requests.iter() {
            *total.entry((name, resource.to_owned())).or_default() += milli;
        }
    }
    total.iter().all(|((name, resource), milli)| {
        nodes.get(name).is_some_and(|state| milli + nodes.used(name).get(resource) <= state.allocatable.get(resource))
    })
}

fn brute_force(nodes: &Nodes, request: &GangRequest) -> bool {
    let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
    let members = u32::try_from(request.members.len()).unwrap();
    (0..names.len().pow(members)).any(|mut index| {
        let chosen: Vec<&str> = (0..members)
            .map(|_| {
                let name = names[index % names.len()];
                index /= names.len();
                name
            })
            .collect();
        valid(nodes, request, &chosen)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_assignment_is_whole_and_never_over_capacity_and_a_refusal_is_true(case in cases()) {
        let (nodes, request) = case.build();
        match decide(&nodes, &request) {
            Ok(decided) => {
                let chosen: Vec<&str> = decided.nodes.iter().map(String::as_str).collect();
                prop_assert_eq!(chosen.len(), request.members.len());
                prop_assert!(valid(&nodes, &request, &chosen), "{:?}", chosen);
            }
            Err(refusal) => {
                prop_assert!(!brute_force(&nodes, &request), "{}", refusal);
                prop_assert!(refusal.to_string().len() <= 1000);
            }
        }
    }

    #[test]
    fn when_all_named_nodes_fit_they_are_taken(case in cases()) {
        let (nodes, request) = case.build();
        let named: Option<Vec<&str>> = request.members.iter().map(|m| m.node.as_deref()).collect();
        if let Some(named) = named && valid(&nodes, &request, &named) {
            let decided = decide(&nodes, &request).unwrap();
            prop_assert_eq!(decided.nodes, named);
        }
    }
}
