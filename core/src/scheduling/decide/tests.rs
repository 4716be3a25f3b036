use std::collections::BTreeSet;
use std::sync::Arc;

use crate::scheduling::*;

mod properties;
mod speed;

const GPU: &str = "nvidia.com/gpu";
const RACK: &str = "topology.example.com/rack";
const ZONE: &str = "topology.kubernetes.io/zone";

fn amounts(gpus: i128, cpu: i128) -> Amounts {
    [(GPU.to_owned(), gpus * 1000), ("cpu".to_owned(), cpu * 1000), (RESOURCE_PODS.to_owned(), POD_SLOT)]
        .into_iter()
        .collect()
}

fn node(name: &str, gpus: i128, cpu: i128) -> NodeState {
    let mut allocatable = amounts(gpus, cpu);
    allocatable.set(RESOURCE_PODS, 110 * POD_SLOT);
    NodeState { name: name.to_owned(), allocatable, ..NodeState::default() }
}

fn labelled(mut node: NodeState, labels: &[(&str, &str)]) -> NodeState {
    node.labels.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    node
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

fn occupant(shape: &Arc<Shape>) -> Occupant {
    Occupant { shape: Arc::clone(shape), identity: Arc::default(), stage: Stage::Bound }
}

fn member(shape: &Arc<Shape>, node: Option<&str>) -> MemberRequest {
    MemberRequest { shape: Arc::clone(shape), identity: Arc::default(), node: node.map(str::to_owned) }
}

fn gang(members: &[(&Arc<Shape>, Option<&str>)]) -> GangRequest {
    GangRequest {
        members: members.iter().map(|(shape, node)| member(shape, *node)).collect(),
        minimum: members.len(),
        ..GangRequest::default()
    }
}

fn alike(shape: &Arc<Shape>, count: usize) -> GangRequest {
    gang(&vec![(shape, None); count])
}

fn required(key: &str) -> Level {
    Level { key: key.to_owned(), required: true }
}

fn preferred(key: &str) -> Level {
    Level { key: key.to_owned(), required: false }
}

fn decide(nodes: &mut Nodes, request: &GangRequest) -> Result<Vec<String>, String> {
    let mut decider = Decider::default();
    let answer = decider.decide(nodes, request);
    if answer.is_ok() {
        assert!(decider.might_fit(nodes, request));
    }
    let name = |node: Option<Arc<str>>| node.map_or_else(String::new, |name| (*name).to_owned());
    answer.map(|assignment| assignment.nodes.into_iter().map(name).collect()).map_err(|refusal| refusal.to_string())
}

/// Racks of nodes with so many GPUs each: `r0` has `r0-0`, `r0-1`, …
fn racks(sizes: &[&[i128]]) -> Nodes {
    nodes(sizes.iter().enumerate().flat_map(|(rack, gpus)| {
        gpus.iter().enumerate().map(move |(index, gpus)| {
            let zone = format!("z{}", rack / 2);
            let name = format!("r{rack}-{index}");
            labelled(node(&name, *gpus, 64), &[(RACK, &format!("r{rack}")), (ZONE, &zone)])
        })
    }))
}

#[test]
fn members_get_the_nodes_that_they_name() {
    let mut nodes = nodes([node("a", 8, 64), node("b", 8, 64), node("c", 8, 64)]);
    let eight = shape(8, 4);
    assert_eq!(decide(&mut nodes, &gang(&[(&eight, Some("c")), (&eight, Some("a"))])).unwrap(), ["c", "a"]);
}

#[test]
fn a_named_node_that_is_full_is_replaced_and_the_others_stay() {
    let mut nodes = nodes([node("a", 8, 64), node("b", 8, 64), node("c", 8, 64)]);
    nodes.put("c", occupant(&shape(1, 1)));
    let eight = shape(8, 4);
    assert_eq!(decide(&mut nodes, &gang(&[(&eight, Some("c")), (&eight, Some("a"))])).unwrap(), ["b", "a"]);
}

#[test]
fn the_node_that_is_left_fullest_is_taken() {
    let mut nodes = nodes([node("a", 8, 64), node("b", 8, 64), node("c", 8, 64)]);
    nodes.put("b", occupant(&shape(6, 1)));
    assert_eq!(decide(&mut nodes, &alike(&shape(1, 1), 3)).unwrap(), ["b", "b", "a"]);
}

#[test]
fn a_pod_without_a_gpu_avoids_free_gpus() {
    let mut nodes = nodes([node("a", 8, 4), node("b", 0, 64), node("c", 8, 64)]);
    nodes.put("c", occupant(&shape(8, 1)));
    assert_eq!(decide(&mut nodes, &alike(&shape(0, 1), 1)).unwrap(), ["c"]);
}

/// A decider that saw these placed so often.
fn taught(seen: &[(&Arc<Shape>, u32)]) -> Decider {
    let mut decider = Decider::default();
    for _ in 0..8 {
        for (shape, count) in seen {
            decider.observe(shape, *count);
        }
    }
    decider
}

fn first(decider: &mut Decider, nodes: &mut Nodes, shape: &Arc<Shape>) -> String {
    decider.decide(nodes, &alike(shape, 1)).unwrap().nodes[0].as_deref().unwrap().to_owned()
}

#[test]
fn four_free_gpus_are_kept_for_those_who_need_four() {
    let mut nodes = nodes([node("a", 4, 64), node("b", 5, 64), node("c", 8, 64)]);
    let (one, four) = (shape(1, 4), shape(4, 16));
    assert_eq!(first(&mut Decider::default(), &mut nodes, &one), "a", "the fewest free");
    let mut decider = taught(&[(&one, 4), (&four, 4)]);
    assert_eq!(first(&mut decider, &mut nodes, &one), "b");
    assert_eq!(first(&mut decider, &mut nodes, &four), "a");
    // Of what is known already the order changes with what is learned.
    let mut decider = taught(&[(&one, 1)]);
    assert_eq!(first(&mut decider, &mut nodes, &one), "a");
    for _ in 0..100 {
        decider.observe(&four, 1);
    }
    assert_eq!(first(&mut decider, &mut nodes, &one), "b");
}

#[test]
fn cores_that_gpus_need_are_left_to_pods_with_gpus() {
    let usual = shape(1, 8);
    let mut nodes = nodes([node("needed", 2, 16), node("spare", 4, 128)]);
    assert_eq!(first(&mut taught(&[(&usual, 1)]), &mut nodes, &shape(0, 8)), "spare");
    nodes.set(node("none", 0, 8));
    assert_eq!(first(&mut taught(&[(&usual, 1)]), &mut nodes, &shape(0, 8)), "none", "best where there are no GPUs");
    // A pod of many cores and few GPUs goes where cores are plenty.
    let mut nodes = super::tests::nodes([node("few", 8, 64), node("many", 8, 256)]);
    assert_eq!(first(&mut taught(&[(&usual, 9), (&shape(1, 32), 1)]), &mut nodes, &shape(1, 32)), "many");
}

#[test]
fn products_that_pods_choose_are_told_apart() {
    let product = |node, value| labelled(node, &[("nvidia.com/gpu.product", value)]);
    let mut nodes = nodes([product(node("a", 4, 64), "H100"), product(node("b", 5, 64), "T4")]);
    let one = shape(1, 1);
    let mut four = (*shape(4, 16)).clone();
    four.node_selector.insert("nvidia.com/gpu.product".to_owned(), "T4".to_owned());
    // Nobody who wants four takes them of the H100s.
    assert_eq!(first(&mut taught(&[(&one, 4), (&Arc::new(four), 4)]), &mut nodes, &one), "a");
    assert_eq!(first(&mut taught(&[(&one, 4), (&shape(4, 16), 4)]), &mut nodes, &one), "b");
}

#[test]
fn nodes_that_there_was_no_time_to_price_come_last_and_are_priced_later() {
    let count = 1000_i128;
    let mut nodes = nodes((0..count).map(|i| {
        let mut state = node(&format!("n{i:03}"), 8, 0);
        state.allocatable.set("cpu", 20_000 + i);
        state
    }));
    let (one, wide) = (shape(1, 8), shape(8, 64));
    let mut decider = taught(&[(&one, 8), (&wide, 1)]);
    let mut answers = Vec::new();
    for _ in 0..8 {
        let all = decider.decide(&mut nodes, &alike(&one, 2 * 1000)).unwrap();
        assert!(all.nodes.iter().all(Option::is_some), "a node without a price has room");
        answers.push(first(&mut decider, &mut nodes, &one));
    }
    let mut patient = taught(&[(&one, 8), (&wide, 1)]);
    patient.classes.pricing = decider.classes.pricing.clone();
    let again = first(&mut patient, &mut nodes, &one);
    assert_eq!(answers.last(), Some(&again), "as if there had been time");
}

#[test]
fn more_devices_than_a_machine_may_have_do_no_harm() {
    let mut nodes = nodes([node("a", 64, 640), node("b", 40, 640)]);
    let (many, one) = (shape(20, 1), shape(1, 1));
    let mut decider = taught(&[(&many, 1), (&one, 1)]);
    assert_eq!(first(&mut decider, &mut nodes, &many), "b");
    assert_eq!(first(&mut decider, &mut nodes, &one), "b");
    assert!(decider.decide(&mut nodes, &alike(&shape(300, 1), 1)).is_err());
}

#[test]
fn a_pod_goes_where_it_prefers_before_all_else() {
    let mut avoided = node("a", 0, 4);
    avoided.taints.push(Taint { key: "old".to_owned(), value: String::new(), effect: Effect::PreferNoSchedule });
    let mut nodes = nodes([avoided, node("b", 0, 64), labelled(node("c", 8, 64), &[("disk", "ssd")])]);
    let mut asked = (*shape(0, 1)).clone();
    assert_eq!(decide(&mut nodes, &alike(&Arc::new(asked.clone()), 1)).unwrap(), ["b"]);
    let ssd = Requirement { key: "disk".to_owned(), operator: Operator::Exists, values: vec![] };
    asked.preferred_nodes.push((1, NodeTerm { labels: vec![ssd], name: vec![] }));
    assert_eq!(decide(&mut nodes, &alike(&Arc::new(asked), 1)).unwrap(), ["c"]);
}

#[test]
fn several_shapes_are_rearranged_before_they_are_refused() {
    let mut pinned = (*shape(4, 1)).clone();
    pinned.node_selector.insert("disk".to_owned(), "ssd".to_owned());
    let pinned = Arc::new(pinned);
    let mut nodes = nodes([labelled(node("a", 4, 64), &[("disk", "ssd")]), node("b", 4, 64)]);
    let any = shape(4, 2);
    assert_eq!(decide(&mut nodes, &gang(&[(&any, Some("a")), (&pinned, None)])).unwrap(), ["b", "a"]);
}

#[test]
fn several_shapes_that_do_not_fit_together_are_told_so() {
    let mut nodes = racks(&[&[4], &[4]]);
    let request = gang(&[(&shape(3, 1), None), (&shape(2, 1), None), (&shape(2, 2), None)]);
    assert!(decide(&mut nodes, &request).is_ok());
    let in_a_rack = GangRequest { topology: vec![required(RACK)], ..request };
    assert_eq!(
        decide(&mut nodes, &in_a_rack).unwrap_err(),
        "each member of the 3 would fit alone on the 2 nodes, but not all together in one rack"
    );
    let too_many = gang(&[(&shape(3, 1), None), (&shape(2, 1), None), (&shape(4, 2), None)]);
    assert_eq!(
        decide(&mut nodes, &too_many).unwrap_err(),
        "each member of the 3 would fit alone on the 2 nodes, but not all together"
    );
}

#[test]
fn a_required_domain_is_the_tightest_that_fits_and_nodes_without_one_are_outside() {
    let mut nodes = racks(&[&[8, 8], &[4, 2], &[4, 4], &[2]]);
    nodes.set(node("big", 64, 64));
    let mut request = alike(&shape(1, 1), 5);
    request.topology = vec![required(RACK)];
    assert_eq!(decide(&mut nodes, &request).unwrap(), ["r1-1", "r1-1", "r1-0", "r1-0", "r1-0"]);
    request = GangRequest { topology: vec![required(RACK)], ..alike(&shape(1, 1), 8) };
    assert_eq!(decide(&mut nodes, &request).unwrap()[7], "r2-1");
    request = GangRequest { topology: vec![required(ZONE), required(RACK)], ..alike(&shape(1, 1), 17) };
    assert_eq!(
        decide(&mut nodes, &request).unwrap_err(),
        "17 members need 1 nvidia.com/gpu, 1 cpu each in one rack; the best rack (r0) has room for 16 of 17; 7 of 8 \
         nodes have room: 1 lacks the label topology.kubernetes.io/zone; most free on one node: 8 nvidia.com/gpu"
    );
    request.topology = vec![required(ZONE)];
    assert_eq!(decide(&mut nodes, &request).unwrap()[16], "r0-1");
    request.topology = vec![required("island")];
    assert_eq!(
        decide(&mut nodes, &request).unwrap_err(),
        "17 members need 1 nvidia.com/gpu, 1 cpu each in one island; no island has room for any; 0 of 8 nodes have \
         room: 8 lack the label island"
    );
}

#[test]
fn labels_need_not_nest_to_be_required_together() {
    let at = |name: &str, rack: &str, zone: &str| labelled(node(name, 2, 64), &[(RACK, rack), (ZONE, zone)]);
    let mut nodes = nodes([at("a", "r0", "z0"), at("b", "r0", "z1"), at("c", "r1", "z1"), at("d", "r0", "z1")]);
    let request = |count| GangRequest { topology: vec![required(ZONE), required(RACK)], ..alike(&shape(1, 1), count) };
    assert_eq!(decide(&mut nodes, &request(4)).unwrap(), ["b", "b", "d", "d"]);
    assert!(decide(&mut nodes, &request(5)).is_err());
}

#[test]
fn a_preferred_level_takes_few_domains_and_refuses_nothing() {
    let mut nodes = racks(&[&[4, 4], &[6], &[3, 2], &[2]]);
    let request = |count| GangRequest { topology: vec![preferred(RACK)], ..alike(&shape(1, 1), count) };
    let racks_of = |nodes: &mut Nodes, count| {
        let answer = decide(nodes, &request(count)).unwrap();
        answer.into_iter().map(|name| name[..2].to_owned()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(racks_of(&mut nodes, 5), ["r2"]);
    assert_eq!(racks_of(&mut nodes, 6), ["r1"]);
    assert_eq!(racks_of(&mut nodes, 10), ["r0", "r3"]);
    assert_eq!(racks_of(&mut nodes, 12), ["r0", "r2"]);
    assert_eq!(racks_of(&mut nodes, 21), ["r0", "r1", "r2", "r3"]);
    assert!(decide(&mut nodes, &request(22)).is_err());
    let both = GangRequest { topology: vec![required(ZONE), preferred(RACK)], ..alike(&shape(1, 1), 6) };
    let answer = decide(&mut nodes, &both).unwrap();
    assert_eq!(answer, ["r1-0"; 6], "a zone with all in one rack goes before a tighter zone");
}

#[test]
fn ranks_are_laid_out_along_the_topology_and_named_nodes_are_kept() {
    let mut nodes = racks(&[&[2, 2], &[2, 2]]);
    let one = shape(1, 1);
    let mut request =
        gang(&[(&one, None), (&one, Some("r0-1")), (&one, None), (&one, None), (&one, None), (&one, None)]);
    request.topology = vec![preferred(ZONE), preferred(RACK)];
    assert_eq!(decide(&mut nodes, &request).unwrap(), ["r0-1", "r0-1", "r0-0", "r0-0", "r1-0", "r1-0"]);
    let mut request = gang(&[(&one, None), (&one, Some("r1-1")), (&one, Some("r0-0"))]);
    request.topology = vec![required(RACK)];
    assert_eq!(decide(&mut nodes, &request).unwrap(), ["r0-0", "r0-1", "r0-0"], "one of two named nodes can be had");
}

#[test]
fn an_elastic_gang_gets_its_first_members_and_as_many_as_fit() {
    let mut nodes = racks(&[&[4], &[5], &[2]]);
    let elastic = |minimum, topology| GangRequest { minimum, topology, ..alike(&shape(1, 1), 8) };
    let answer = decide(&mut nodes, &elastic(3, vec![required(RACK)])).unwrap();
    assert_eq!(answer, ["r1-0", "r1-0", "r1-0", "r1-0", "r1-0", "", "", ""]);
    assert_eq!(decide(&mut nodes, &elastic(3, vec![])).unwrap().iter().filter(|name| !name.is_empty()).count(), 8);
    assert_eq!(
        decide(&mut nodes, &elastic(6, vec![required(RACK)])).unwrap_err(),
        "at least 6 of 8 members need 1 nvidia.com/gpu, 1 cpu each in one rack; the best rack (r1) has room for 5 of 8; \
         3 of 3 nodes have room; most free on one node: 5 nvidia.com/gpu"
    );
    let (two, three) = (shape(2, 1), shape(3, 1));
    let mixed = gang(&[(&two, None), (&three, None), (&two, None), (&three, None), (&two, None)]);
    let mixed = GangRequest { minimum: 2, ..mixed };
    let answer = decide(&mut nodes, &mixed).unwrap();
    assert_eq!(answer.iter().filter(|name| !name.is_empty()).count(), 4, "{answer:?}");
    assert_eq!(answer[4], "");
}

#[test]
fn closed_nodes_are_not_used_and_the_refusal_counts_them() {
    let mut nodes = nodes([node("a", 8, 64), node("b", 8, 64), node("c", 4, 64)]);
    let closed = Arc::new(["a", "c"].iter().filter_map(|name| nodes.ix(name)).collect::<BTreeSet<_>>());
    let request = |count| GangRequest { closed: Arc::clone(&closed), ..alike(&shape(8, 4), count) };
    assert_eq!(decide(&mut nodes, &request(1)).unwrap(), ["b"]);
    let mut named = request(1);
    named.members[0].node = Some("a".to_owned());
    assert_eq!(decide(&mut nodes, &named).unwrap(), ["b"]);
    assert!(!Decider::default().might_fit(&nodes, &request(2)));
    assert_eq!(
        decide(&mut nodes, &request(2)).unwrap_err(),
        "2 members need 8 nvidia.com/gpu, 4 cpu each; room for 1 of them; 1 of 3 nodes have room: 1 has too little \
         nvidia.com/gpu in all, 1 is reserved for a waiting gang; most free on one node: 8 nvidia.com/gpu"
    );
}

fn anti_affinity() -> Arc<Shape> {
    let mut apart = (*shape(1, 1)).clone();
    apart.coupling.anti_affinity.push(PodTerm {
        topology_key: RACK.to_owned(),
        pods: Selector::All(vec![]),
        namespaces: BTreeSet::from(["ns".to_owned()]),
        namespace_selector: Selector::Nothing,
    });
    Arc::new(apart)
}

fn in_namespace(mut request: GangRequest) -> GangRequest {
    let identity = Arc::new(Identity { namespace: "ns".to_owned(), ..Identity::default() });
    for member in &mut request.members {
        member.identity = Arc::clone(&identity);
    }
    request
}

#[test]
fn members_that_keep_apart_see_each_other_and_who_is_there() {
    let mut nodes = racks(&[&[8], &[8], &[8], &[8]]);
    let apart = anti_affinity();
    let answer = decide(&mut nodes, &in_namespace(alike(&apart, 4))).unwrap();
    assert_eq!(answer.iter().collect::<BTreeSet<_>>().len(), 4);
    let mut there = occupant(&apart);
    there.identity = Arc::new(Identity { namespace: "ns".to_owned(), ..Identity::default() });
    nodes.put("r2-0", there);
    let request = in_namespace(alike(&apart, 4));
    assert_eq!(
        decide(&mut nodes, &request).unwrap_err(),
        "4 members need 1 nvidia.com/gpu, 1 cpu each; room for 3 of them; 0 of 4 nodes have room: 4 have a pod nearby \
         that must not be there"
    );
    let plain = in_namespace(alike(&shape(1, 1), 1));
    assert_ne!(decide(&mut nodes, &plain).unwrap(), ["r2-0"], "who keeps apart is kept apart from");
    let elastic = GangRequest { minimum: 2, ..request };
    assert_eq!(decide(&mut nodes, &elastic).unwrap()[3], "");
}

#[test]
fn a_member_that_must_be_beside_another_of_the_gang_waits_for_it() {
    let mut nodes = racks(&[&[8], &[8]]);
    let mut beside = (*shape(4, 1)).clone();
    let leader = Requirement { key: "role".to_owned(), operator: Operator::In, values: vec!["leader".to_owned()] };
    beside.coupling.affinity.push(PodTerm {
        topology_key: RACK.to_owned(),
        pods: Selector::All(vec![leader]),
        namespaces: BTreeSet::from(["ns".to_owned()]),
        namespace_selector: Selector::Nothing,
    });
    let mut request = in_namespace(gang(&[(&Arc::new(beside), None), (&shape(1, 1), Some("r1-0"))]));
    assert!(decide(&mut nodes, &request).is_err());
    request.members[1].identity = Arc::new(Identity {
        namespace: "ns".to_owned(),
        labels: [("role".to_owned(), "leader".to_owned())].into_iter().collect(),
        ..Identity::default()
    });
    assert_eq!(decide(&mut nodes, &request).unwrap(), ["r1-0", "r1-0"]);
}

#[test]
fn a_refusal_says_what_was_asked_what_is_there_and_why_it_is_out() {
    let mut states: Vec<NodeState> =
        (0..50).map(|i| node(&format!("n{i:02}"), if i < 6 { 8 } else { 4 }, 64)).collect();
    let taint = |key: &str, value: &str, effect| Taint { key: key.to_owned(), value: value.to_owned(), effect };
    states[0].unschedulable = true;
    states[1].allocatable.set("cpu", 1000);
    states[2].taints.push(taint("node.kubernetes.io/not-ready", "", Effect::NoSchedule));
    states[3].taints.push(taint("team", "ml", Effect::NoSchedule));
    let mut nodes = nodes(states);
    nodes.put("n04", occupant(&shape(1, 1)));
    let eight = shape(8, 4);
    let refusal = Decider::default().decide(&mut nodes, &alike(&eight, 2)).unwrap_err();
    assert_eq!((refusal.members, refusal.room_for), (2, 1));
    assert!(refusal.helped_by.intersects(Helps::ROOM) && !refusal.helped_by.intersects(Helps::PODS));
    assert_eq!(
        refusal.to_string(),
        "2 members need 8 nvidia.com/gpu, 4 cpu each; room for 1 of them; 1 of 50 nodes have room: 44 have too little \
         nvidia.com/gpu in all, 1 is not ready, 1 is cordoned, 1 has the taint team=ml:NoSchedule, 1 has too little cpu \
         in all, 1 has too little nvidia.com/gpu free; most free on one node: 8 nvidia.com/gpu"
    );
    assert_eq!(
        decide(&mut Nodes::default(), &alike(&eight, 1)).unwrap_err(),
        "needs 8 nvidia.com/gpu, 4 cpu on one node; there are no nodes"
    );
    let refusal = Decider::default().decide(&mut nodes, &alike(&shape(16, 4), 1)).unwrap_err();
    assert_eq!(refusal.helped_by, Helps::NODES, "nobody's leaving makes a node larger");
}

#[test]
fn no_more_is_remembered_than_there_is_memory_for() {
    let mut nodes = nodes((0..100).map(|i| node(&format!("n{i:02}"), 0, 64)));
    let mut decider = Decider::default();
    for cpu in 0..7000 {
        let mut asked = (*shape(0, 0)).clone();
        asked.requests.set("cpu", cpu);
        assert!(decider.might_fit(&nodes, &alike(&Arc::new(asked), 1)));
    }
    assert!((1000..6500).contains(&decider.classes.len()), "{}", decider.classes.len());
    assert_eq!(decider.decide(&mut nodes, &alike(&shape(0, 1), 1)).unwrap().nodes, [Some(Arc::from("n00"))]);
}
