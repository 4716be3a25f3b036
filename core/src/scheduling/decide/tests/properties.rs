use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PORT: u16 = 80;

/// GPUs, CPUs, cordoned, has an SSD, rack, island, closed.
type Given = (i128, i128, bool, bool, Option<u8>, Option<u8>, bool);

/// Few nodes, few members; everything that a decision on one node alone looks at.
#[derive(Clone, Debug)]
struct Case {
    nodes: Vec<Given>,
    taken: Vec<(i128, i128, bool)>,
    /// GPUs, CPUs, needs an SSD, takes a port.
    shapes: Vec<(i128, i128, bool, bool)>,
    members: Vec<(usize, Option<usize>)>,
    optional: usize,
    topology: Vec<Level>,
}

fn cases(kinds: usize) -> impl Strategy<Value = Case> {
    let often = prop::bool::weighted(0.9);
    let seldom = prop::bool::weighted(0.15);
    let domain = prop::option::weighted(0.85, 0..2_u8);
    let nodes = prop::collection::vec(
        (0..5_i128, 1..6_i128, often.prop_map(|ready| !ready), any::<bool>(), domain.clone(), domain, seldom),
        1..5,
    );
    let taken = prop::collection::vec((0..3_i128, 0..3_i128, seldom), 4);
    let shapes = prop::collection::vec((0..4_i128, 1..4_i128, seldom, seldom), 1..=kinds);
    let members = prop::collection::vec((0..kinds, prop::option::of(0..4_usize)), 1..5);
    let level = |key: &str| {
        let key = key.to_owned();
        prop::option::of(any::<bool>())
            .prop_map(move |required| required.map(|required| Level { key: key.clone(), required }))
    };
    let topology = (level(RACK), level("island")).prop_map(|(rack, island)| rack.into_iter().chain(island).collect());
    (nodes, taken, shapes, members, prop_oneof![3 => Just(0_usize), 1 => 0..4_usize], topology).prop_map(
        |(nodes, taken, shapes, members, optional, topology)| Case {
            nodes,
            taken,
            shapes,
            members,
            optional,
            topology,
        },
    )
}

fn port() -> HostPort {
    HostPort { protocol: "TCP".to_owned(), ip: "0.0.0.0".to_owned(), port: PORT }
}

impl Case {
    fn state(&self, index: usize) -> NodeState {
        let (gpus, cpu, cordoned, ssd, rack, island, _) = self.nodes[index];
        let mut state = node(&format!("n{index}"), gpus, cpu);
        state.unschedulable = cordoned;
        state.labels.extend(ssd.then(|| ("disk".to_owned(), "ssd".to_owned())));
        state.labels.extend(rack.map(|rack| (RACK.to_owned(), rack.to_string())));
        state.labels.extend(island.map(|island| ("island".to_owned(), island.to_string())));
        state
    }

    fn shapes(&self) -> Vec<Arc<Shape>> {
        let shape = |(gpus, cpu, ssd, with_port): &(i128, i128, bool, bool)| {
            let mut one = (*shape(*gpus, *cpu)).clone();
            one.node_selector.extend(ssd.then(|| ("disk".to_owned(), "ssd".to_owned())));
            one.host_ports.extend(with_port.then(port));
            Arc::new(one)
        };
        self.shapes.iter().map(shape).collect()
    }

    fn build(&self) -> (Nodes, GangRequest) {
        let mut all = Nodes::default();
        for (index, taken) in self.taken.iter().enumerate().take(self.nodes.len()) {
            all.set(self.state(index));
            let mut there = (*shape(taken.0, taken.1)).clone();
            there.host_ports.extend(taken.2.then(port));
            all.put(&format!("n{index}"), occupant(&Arc::new(there)));
        }
        let shapes = self.shapes();
        let members = self.members.iter().map(|(kind, node)| {
            let node = node.map(|n| format!("n{n}"));
            member(&shapes[kind % shapes.len()], node.as_deref())
        });
        let closed = self.nodes.iter().enumerate().filter(|(_, node)| node.6);
        let request = GangRequest {
            members: members.collect(),
            minimum: self.members.len().saturating_sub(self.optional).max(1),
            topology: self.topology.clone(),
            closed: Arc::new(closed.filter_map(|(index, _)| all.ix(&format!("n{index}"))).collect()),
        };
        (all, request)
    }
}

/// Whether these nodes hold for the first members, checked without any of the code above.
fn valid(nodes: &Nodes, request: &GangRequest, chosen: &[&str]) -> bool {
    let mut total: BTreeMap<(&str, String), i128> = BTreeMap::new();
    let mut ports: BTreeMap<&str, usize> = BTreeMap::new();
    for (member, name) in request.members.iter().zip(chosen) {
        let Some(state) = nodes.get(name) else { return false };
        let selected = member.shape.node_selector.iter().all(|(k, v)| state.labels.get(k) == Some(v));
        if state.unschedulable || !selected || request.closed.contains(&nodes.ix(name).unwrap()) {
            return false;
        }
        for (resource, milli) in member.shape.requests.iter() {
            *total.entry((name, resource.to_owned())).or_default() += milli;
        }
        if !member.shape.host_ports.is_empty() {
            let there = nodes.occupants(nodes.ix(name).unwrap());
            let taken = there.filter(|(_, occupant)| !occupant.shape.host_ports.is_empty()).count();
            *ports.entry(name).or_insert(taken) += 1;
        }
    }
    let together = request.topology.iter().filter(|level| level.required).all(|level| {
        let mut domains = chosen.iter().map(|name| nodes.get(name).and_then(|state| state.labels.get(&level.key)));
        let first = domains.next();
        first.is_none_or(|first| first.is_some() && domains.all(|domain| domain == first))
    });
    together
        && ports.values().all(|count| *count <= 1)
        && total.iter().all(|((name, resource), milli)| {
            nodes
                .get(name)
                .is_some_and(|state| milli + nodes.used(name).get(resource) <= state.allocatable.get(resource))
        })
}

fn brute_force(nodes: &Nodes, request: &GangRequest, count: usize) -> bool {
    let names: Vec<&str> = nodes.iter().map(|(_, state, _)| state.name.as_str()).collect();
    let count = u32::try_from(count).unwrap();
    (0..names.len().pow(count)).any(|mut index| {
        let chosen: Vec<&str> = (0..count)
            .map(|_| {
                let name = names[index % names.len()];
                index /= names.len();
                name
            })
            .collect();
        valid(nodes, request, &chosen)
    })
}

fn placed(assignment: &Assignment) -> Vec<&str> {
    assignment.nodes.iter().map_while(|node| node.as_deref()).collect()
}

type Seen = Vec<(String, Amounts, Vec<OccupantId>)>;

fn look(nodes: &Nodes) -> Seen {
    let everyone = |ix| nodes.occupants(ix).map(|(id, _)| id).collect();
    nodes.iter().map(|(ix, state, room)| (state.name.clone(), room.used.clone(), everyone(ix))).collect()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn a_gang_of_one_shape_gets_as_many_as_fit_and_is_refused_only_if_it_must_be(case in cases(1)) {
        let (mut nodes, request) = case.build();
        let mut decider = Decider::default();
        let might = decider.might_fit(&nodes, &request);
        match decider.decide(&mut nodes, &request) {
            Ok(assignment) => {
                let chosen = placed(&assignment);
                prop_assert!(might);
                prop_assert!(chosen.len() >= request.minimum && assignment.nodes.len() == request.members.len());
                prop_assert!(assignment.nodes[chosen.len()..].iter().all(Option::is_none));
                prop_assert!(valid(&nodes, &request, &chosen), "{:?}", chosen);
                prop_assert!(chosen.len() == request.members.len() || !brute_force(&nodes, &request, chosen.len() + 1));
            }
            Err(refusal) => {
                prop_assert!(!might);
                prop_assert!(!brute_force(&nodes, &request, request.minimum), "{}", refusal);
                prop_assert!(refusal.to_string().len() <= 1000);
            }
        }
    }

    #[test]
    fn a_gang_of_several_shapes_is_whole_and_never_over_capacity_and_a_refusal_is_true(case in cases(3)) {
        let (mut nodes, request) = case.build();
        let before = look(&nodes);
        let mut decider = Decider::default();
        let might = decider.might_fit(&nodes, &request);
        match decider.decide(&mut nodes, &request) {
            Ok(assignment) => {
                let chosen = placed(&assignment);
                prop_assert!(might);
                prop_assert!(chosen.len() >= request.minimum && assignment.nodes.len() == request.members.len());
                prop_assert!(assignment.nodes[chosen.len()..].iter().all(Option::is_none));
                prop_assert!(valid(&nodes, &request, &chosen), "{:?}", chosen);
            }
            Err(refusal) => {
                prop_assert!(!brute_force(&nodes, &request, request.minimum), "{}", refusal);
                prop_assert!(refusal.to_string().len() <= 1000);
            }
        }
        prop_assert_eq!(before, look(&nodes));
    }

    #[test]
    fn when_all_named_nodes_fit_they_are_taken(case in cases(3)) {
        let (mut nodes, request) = case.build();
        let named: Option<Vec<&str>> = request.members.iter().map(|m| m.node.as_deref()).collect();
        if let Some(named) = named && valid(&nodes, &request, &named) {
            let answer = Decider::default().decide(&mut nodes, &request).unwrap();
            prop_assert_eq!(placed(&answer), named);
        }
    }
}

/// What may happen between two decisions.
#[derive(Clone, Debug)]
enum Step {
    Node(usize, Given),
    NodeGone(usize),
    Put(usize, usize),
    TakeOff(usize),
    Observe(usize, u32),
    Decide(Case),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = cases(3).prop_map(|case| case.nodes[0]);
    let step = prop_oneof![
        2 => (0..5_usize, node).prop_map(|(index, node)| Step::Node(index, node)),
        1 => (0..5_usize).prop_map(Step::NodeGone),
        3 => (0..5_usize, 0..3_usize).prop_map(|(node, shape)| Step::Put(node, shape)),
        3 => (0..8_usize).prop_map(Step::TakeOff),
        2 => (0..3_usize, 1..9_u32).prop_map(|(shape, count)| Step::Observe(shape, count)),
        4 => cases(3).prop_map(Step::Decide),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn what_a_decider_remembers_changes_no_answer(start in cases(3), steps in steps()) {
        let (mut nodes, _) = start.build();
        let shapes = start.shapes();
        let mut there: Vec<OccupantId> = Vec::new();
        let mut decider = Decider::default();
        for step in steps {
            match step {
                Step::Node(index, node) => {
                    let case = Case { nodes: vec![node; index + 1], ..start.clone() };
                    nodes.set(case.state(index));
                }
                Step::NodeGone(index) => {
                    nodes.remove(&format!("n{index}"));
                }
                Step::Put(node, shape) => there.push(nodes.put(&format!("n{node}"), occupant(&shapes[shape % shapes.len()]))),
                Step::TakeOff(at) if at < there.len() => {
                    nodes.take_off(there.swap_remove(at));
                }
                Step::TakeOff(_) => {}
                Step::Observe(shape, count) => decider.observe(&shapes[shape % shapes.len()], count),
                Step::Decide(case) => {
                    let (_, mut request) = Case { shapes: start.shapes.clone(), ..case }.build();
                    request.closed = Arc::default();
                    let before = look(&nodes);
                    let answer = decider.decide(&mut nodes, &request);
                    prop_assert_eq!(before, look(&nodes));
                    prop_assert_eq!(decider.might_fit(&nodes, &request), Decider::default().might_fit(&nodes, &request));
                    // What it was taught does.
                    let mut taught = Decider::default();
                    taught.classes.pricing = decider.classes.pricing.clone();
                    prop_assert_eq!(answer, taught.decide(&mut nodes, &request));
                }
            }
        }
    }
}

/// Who is on a node: whether its label is `app: a`, and whether it keeps those away.
fn neighbour(is_a: bool, repels: bool, asks: Coupling) -> (Arc<Shape>, Arc<Identity>) {
    let app = if is_a { "a" } else { "b" };
    let labels = [("app".to_owned(), app.to_owned())].into_iter().collect();
    let mut shape = (*shape(1, 1)).clone();
    shape.coupling = asks;
    if repels {
        shape.coupling.anti_affinity.push(about_a());
    }
    (Arc::new(shape), Arc::new(Identity { namespace: "ns".to_owned(), labels, ..Identity::default() }))
}

fn about_a() -> PodTerm {
    let a = Requirement { key: "app".to_owned(), operator: Operator::In, values: vec!["a".to_owned()] };
    PodTerm {
        topology_key: RACK.to_owned(),
        pods: Selector::All(vec![a]),
        namespaces: BTreeSet::from(["ns".to_owned()]),
        namespace_selector: Selector::Nothing,
    }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn a_coupled_pod_gets_a_node_exactly_if_some_node_passes_every_filter(
        case in cases(1),
        there in prop::collection::vec((0..4_usize, any::<bool>(), any::<bool>()), 0..4),
        is_a in any::<bool>(),
        beside in any::<bool>(),
        spread in any::<bool>(),
    ) {
        let (mut nodes, mut request) = case.build();
        for (node, is_a, repels) in there {
            let (shape, identity) = neighbour(is_a, repels, Coupling::default());
            nodes.put(&format!("n{node}"), Occupant { shape, identity, stage: Stage::Bound });
        }
        let mut asks = Coupling::default();
        asks.affinity.extend(beside.then(about_a));
        asks.spread.extend(spread.then(|| Spread {
            topology_key: RACK.to_owned(),
            max_skew: 1,
            pods: about_a().pods,
            required: true,
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        }));
        let (shape, identity) = neighbour(is_a, false, asks);
        request.members = vec![MemberRequest { shape: Arc::clone(&shape), identity: Arc::clone(&identity), node: None }];
        request.minimum = 1;
        let before = look(&nodes);
        let is_inside = |state: &NodeState| {
            request.topology.iter().all(|level| !level.required || state.labels.contains_key(&level.key))
        };
        let good: BTreeSet<&str> = nodes
            .iter()
            .filter(|(ix, state, _)| {
                !request.closed.contains(ix) && is_inside(state) && fits(&nodes, *ix, &shape, &identity).is_none()
            })
            .map(|(_, state, _)| state.name.as_str())
            .collect();
        let good: BTreeSet<String> = good.into_iter().map(str::to_owned).collect();
        match Decider::default().decide(&mut nodes, &request) {
            Ok(assignment) => prop_assert!(good.contains(placed(&assignment)[0])),
            Err(refusal) => prop_assert!(good.is_empty(), "{} {:?}", refusal, good),
        }
        prop_assert_eq!(before, look(&nodes));
    }
}
