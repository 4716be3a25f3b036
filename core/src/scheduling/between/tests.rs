use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::node::{Effect, NodeState, Taint};
use super::super::nodes::Stage;
use super::super::pod::{Coupling, ExclusiveVolume, NodeTerm, PodTerm, Spread};
use super::super::selector::{Operator, Requirement, Selector};
use super::super::{Amounts, POD_SLOT, RESOURCE_PODS};
use super::*;

mod model;

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn node(name: &str, of: &[(&str, &str)]) -> NodeState {
    let mut allocatable = Amounts::default();
    allocatable.set(RESOURCE_PODS, 100 * POD_SLOT);
    NodeState { name: name.into(), allocatable, labels: labels(of), ..NodeState::default() }
}

/// Nodes a1 and a2 in zone a, b1 in zone b, and x that has no zone.
fn site() -> Nodes {
    let mut nodes = Nodes::default();
    for (name, zone) in [("a1", Some("a")), ("a2", Some("a")), ("b1", Some("b")), ("x", None)] {
        let mut state = node(name, &[(HOST, name)]);
        state.labels.extend(zone.map(|zone| (ZONE.to_owned(), zone.to_owned())));
        nodes.set(state);
    }
    nodes
}

fn shape(coupling: Coupling) -> Shape {
    Shape { coupling, ..Shape::default() }
}

/// A pod with label app in a namespace whose label team is the namespace's own name.
fn who(namespace: &str, app: &str) -> Identity {
    Identity {
        namespace: namespace.into(),
        namespace_labels: Arc::new(labels(&[("team", namespace)])),
        labels: labels(&[("app", app)]),
    }
}

fn occupant(identity: Identity, coupling: Coupling, stage: Stage) -> Occupant {
    Occupant { shape: Arc::new(shape(coupling)), identity: Arc::new(identity), stage }
}

fn put(nodes: &mut Nodes, node: &str, app: &str) {
    nodes.put(node, occupant(who("n", app), Coupling::default(), Stage::Bound));
}

fn app(value: &str) -> Selector {
    is("app", value)
}

fn is(key: &str, value: &str) -> Selector {
    Selector::All(vec![Requirement { key: key.into(), operator: Operator::In, values: vec![value.into()] }])
}

fn term(key: &str, pods: Selector) -> PodTerm {
    PodTerm {
        topology_key: key.into(),
        pods,
        namespaces: ["n".to_owned()].into(),
        namespace_selector: Selector::Nothing,
    }
}

fn beside(terms: &[PodTerm]) -> Coupling {
    Coupling { affinity: terms.to_vec(), ..Coupling::default() }
}

fn apart(terms: &[PodTerm]) -> Coupling {
    Coupling { anti_affinity: terms.to_vec(), ..Coupling::default() }
}

fn spread(key: &str, max_skew: i32) -> Spread {
    Spread {
        topology_key: key.into(),
        max_skew,
        pods: app("web"),
        required: true,
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    }
}

fn evenly(constraints: &[Spread]) -> Coupling {
    Coupling { spread: constraints.to_vec(), ..Coupling::default() }
}

/// The nodes that take the pod.
fn open(nodes: &Nodes, shape: &Shape, identity: &Identity) -> Vec<String> {
    let surroundings = Surroundings::new(nodes, &Arc::new(shape.clone()), &Arc::new(identity.clone()));
    let open = nodes.iter().filter(|(ix, ..)| {
        let why = surroundings.why_not(nodes, *ix);
        assert!(why.is_none() || is_coupled(nodes, shape, identity), "only the coupled are refused: {why:?}");
        why.is_none()
    });
    open.map(|(_, node, _)| node.name.clone()).collect()
}

fn why(nodes: &Nodes, node: &str, shape: &Shape, identity: &Identity) -> Option<Why> {
    fits(nodes, nodes.ix(node).unwrap(), &Arc::new(shape.clone()), &Arc::new(identity.clone()))
}

#[test]
fn affinity_is_for_the_domain_of_a_pod_that_matches() {
    let mut nodes = site();
    put(&mut nodes, "a1", "db");
    put(&mut nodes, "x", "db");
    let web = who("n", "web");
    let cases = [
        ("the zone", vec![term(ZONE, app("db"))], vec!["a1", "a2"]),
        ("the node", vec![term(HOST, app("db"))], vec!["a1", "x"]),
        ("both at once", vec![term(ZONE, app("db")), term(HOST, app("db"))], vec!["a1"]),
        ("nobody like that", vec![term(ZONE, app("cache"))], vec![]),
        ("an absent selector", vec![term(ZONE, Selector::Nothing)], vec![]),
        ("an empty selector", vec![term(ZONE, Selector::All(vec![]))], vec!["a1", "a2"]),
        ("a key that no node has", vec![term("rack", app("db"))], vec![]),
    ];
    for (what, terms, expected) in cases {
        assert_eq!(open(&nodes, &shape(beside(&terms)), &web), expected, "{what}");
    }
    let zone = shape(beside(&[term(ZONE, app("db"))]));
    assert_eq!(why(&nodes, "b1", &zone, &web), Some(Why::NotBeside));
    assert_eq!(why(&nodes, "x", &zone, &web), Some(Why::NoDomain(ZONE.into())));
}

#[test]
fn one_pod_must_match_all_terms_of_an_affinity() {
    let mut nodes = site();
    put(&mut nodes, "a1", "db");
    put(&mut nodes, "a1", "cache");
    let both = shape(beside(&[term(ZONE, app("db")), term(ZONE, app("cache"))]));
    assert_eq!(open(&nodes, &both, &who("n", "web")), [""; 0]);
}

#[test]
fn the_first_of_a_kind_with_affinity_to_itself_goes_anywhere_with_the_label() {
    let mut nodes = site();
    let own = shape(beside(&[term(ZONE, app("web"))]));
    assert_eq!(open(&nodes, &own, &who("n", "web")), ["a1", "a2", "b1"]);
    assert_eq!(open(&nodes, &own, &who("n", "db")), [""; 0], "not its own kind");
    assert_eq!(open(&nodes, &own, &who("m", "web")), [""; 0], "not its own namespace");
    put(&mut nodes, "x", "web");
    assert_eq!(open(&nodes, &own, &who("n", "web")), ["a1", "a2", "b1"], "one outside of all zones is no first");
    put(&mut nodes, "b1", "web");
    assert_eq!(open(&nodes, &own, &who("n", "web")), ["b1"]);
}

#[test]
fn anti_affinity_keeps_away_from_domains_and_not_from_nodes_without_one() {
    let mut nodes = site();
    put(&mut nodes, "a1", "web");
    put(&mut nodes, "x", "web");
    let web = who("n", "web");
    assert_eq!(open(&nodes, &shape(apart(&[term(ZONE, app("web"))])), &web), ["b1", "x"]);
    assert_eq!(open(&nodes, &shape(apart(&[term(HOST, app("web"))])), &web), ["a2", "b1"]);
    let either = shape(apart(&[term(HOST, app("web")), term(ZONE, app("none"))]));
    assert_eq!(open(&nodes, &either, &web), ["a2", "b1"]);
    assert_eq!(why(&nodes, "a1", &either, &web), Some(Why::Repels));
}

#[test]
fn those_who_are_there_keep_away_whom_they_do_not_want() {
    let mut nodes = site();
    for stage in [Stage::Bound, Stage::Terminating, Stage::Coming] {
        let id = nodes.put("a1", occupant(who("n", "db"), apart(&[term(ZONE, app("web"))]), stage));
        assert_eq!(open(&nodes, &Shape::default(), &who("n", "web")), ["b1", "x"], "{stage:?}");
        assert_eq!(open(&nodes, &Shape::default(), &who("m", "web")).len(), 4, "another namespace");
        assert!(!is_coupled(&nodes, &Shape::default(), &who("n", "db")));
        assert_eq!(why(&nodes, "a2", &Shape::default(), &who("n", "web")), Some(Why::Repelled));
        nodes.take_off(id);
        assert!(!is_coupled(&nodes, &Shape::default(), &who("n", "web")));
    }
}

#[test]
fn namespaces_are_named_or_selected() {
    let mut nodes = site();
    nodes.put("a1", occupant(who("m", "db"), Coupling::default(), Stage::Bound));
    let cases: [(&str, &[&str], Selector, bool); 6] = [
        ("named", &["m"], Selector::Nothing, true),
        ("not named", &["n"], Selector::Nothing, false),
        ("selected", &[], is("team", "m"), true),
        ("not selected", &[], is("team", "n"), false),
        ("named or selected", &["m"], is("team", "n"), true),
        ("every one", &[], Selector::All(vec![]), true),
    ];
    for (what, namespaces, namespace_selector, found) in cases {
        let namespaces: BTreeSet<String> = namespaces.iter().map(|n| (*n).to_owned()).collect();
        let term = PodTerm { namespaces, namespace_selector, ..term(ZONE, app("db")) };
        let expected: &[&str] = if found { &["a1", "a2"] } else { &[] };
        assert_eq!(open(&nodes, &shape(beside(&[term])), &who("n", "web")), expected, "{what}");
    }
}

#[test]
fn who_is_still_to_come_repels_and_attracts_nobody() {
    let mut nodes = site();
    nodes.put("a1", occupant(who("n", "db"), Coupling::default(), Stage::Coming));
    let web = who("n", "web");
    assert_eq!(open(&nodes, &shape(beside(&[term(ZONE, app("db"))])), &web), [""; 0]);
    assert_eq!(open(&nodes, &shape(apart(&[term(ZONE, app("db"))])), &web), ["b1", "x"]);
    nodes.put("a1", occupant(who("n", "db"), Coupling::default(), Stage::Terminating));
    assert_eq!(open(&nodes, &shape(beside(&[term(ZONE, app("db"))])), &web), ["a1", "a2"], "who leaves is there");
}

#[test]
fn pods_are_spread_no_further_apart_than_the_skew() {
    let mut nodes = site();
    put(&mut nodes, "a1", "web");
    let web = who("n", "web");
    assert_eq!(open(&nodes, &shape(evenly(&[spread(ZONE, 1)])), &web), ["b1"]);
    assert_eq!(open(&nodes, &shape(evenly(&[spread(ZONE, 2)])), &web), ["a1", "a2", "b1"]);
    assert_eq!(
        open(&nodes, &shape(evenly(&[spread(ZONE, 1)])), &who("n", "db")),
        ["a1", "a2", "b1"],
        "no match itself"
    );
    assert_eq!(open(&nodes, &shape(evenly(&[spread(ZONE, 1)])), &who("m", "web")), ["a1", "a2", "b1"], "not counted");
    let zone = shape(evenly(&[spread(ZONE, 1)]));
    assert_eq!(why(&nodes, "a2", &zone, &web), Some(Why::Uneven));
    assert_eq!(why(&nodes, "x", &zone, &web), Some(Why::NoDomain(ZONE.into())));
}

#[test]
fn a_spread_counts_neither_who_leaves_nor_with_an_empty_selector() {
    let mut nodes = site();
    nodes.put("a1", occupant(who("n", "web"), Coupling::default(), Stage::Terminating));
    let web = who("n", "web");
    assert_eq!(open(&nodes, &shape(evenly(&[spread(ZONE, 1)])), &web), ["a1", "a2", "b1"]);
    put(&mut nodes, "a1", "web");
    assert_eq!(open(&nodes, &shape(evenly(&[spread(ZONE, 1)])), &web), ["b1"]);
    let everyone = Spread { pods: Selector::All(vec![]), ..spread(ZONE, 1) };
    assert_eq!(open(&nodes, &shape(evenly(&[everyone])), &web), ["a1", "a2", "b1"]);
}

#[test]
fn too_few_domains_count_as_if_one_were_empty() {
    let mut nodes = site();
    put(&mut nodes, "a1", "web");
    put(&mut nodes, "b1", "web");
    let web = who("n", "web");
    for (min_domains, expected) in [(1, &["a1", "a2", "b1"][..]), (2, &["a1", "a2", "b1"]), (3, &[])] {
        let shape = shape(evenly(&[Spread { min_domains, ..spread(ZONE, 1) }]));
        assert_eq!(open(&nodes, &shape, &web), expected, "{min_domains}");
    }
}

#[test]
fn a_spread_counts_the_nodes_that_the_policies_say() {
    let mut nodes = site();
    put(&mut nodes, "a1", "web");
    let taints = vec![Taint { key: "k".into(), value: String::new(), effect: Effect::NoSchedule }];
    nodes.set(NodeState { taints, ..node("b1", &[(ZONE, "b"), (HOST, "b1")]) });
    let web = who("n", "web");
    let only_a = NodeTerm {
        labels: vec![Requirement { key: ZONE.into(), operator: Operator::In, values: vec!["a".into()] }],
        name: vec![],
    };
    let cases = [
        ("zone b counts and is empty", true, false, None, false),
        ("zone b is tainted", true, true, None, true),
        ("zone b is not selected", true, false, Some(vec![only_a.clone()]), true),
        ("zone b is not selected and counts still", false, false, Some(vec![only_a]), false),
    ];
    for (what, honor_affinity, honor_taints, affinity, fits) in cases {
        let constraint = Spread { honor_affinity, honor_taints, ..spread(ZONE, 1) };
        let shape = Shape { affinity, ..shape(evenly(&[constraint])) };
        assert_eq!(open(&nodes, &shape, &web).contains(&"a1".to_owned()), fits, "{what}");
    }
}

#[test]
fn a_node_counts_for_a_spread_if_it_has_the_labels_of_all_constraints() {
    let mut nodes = site();
    put(&mut nodes, "x", "web");
    let web = who("n", "web");
    // Alone, the constraint on hosts counts x; with the one on zones, x is no domain at all.
    assert_eq!(open(&nodes, &shape(evenly(&[spread(HOST, 1)])), &web), ["a1", "a2", "b1"]);
    put(&mut nodes, "a1", "web");
    put(&mut nodes, "a2", "web");
    put(&mut nodes, "b1", "web");
    assert_eq!(open(&nodes, &shape(evenly(&[spread(HOST, 1)])), &web), ["a1", "a2", "b1", "x"]);
    nodes.set(node("y", &[(HOST, "y")]));
    assert_eq!(open(&nodes, &shape(evenly(&[spread(HOST, 1)])), &web), ["y"]);
    assert_eq!(open(&nodes, &shape(evenly(&[spread(HOST, 1), spread(ZONE, 2)])), &web), ["a1", "a2", "b1"]);
}

#[test]
fn a_volume_for_one_pod_of_the_cluster_is_taken_everywhere() {
    let mut nodes = site();
    let with = |anywhere| {
        let volume = ExclusiveVolume { id: "claim/n/c".into(), read_only: false, anywhere };
        let mut shape = Shape::default();
        shape.volumes.exclusive.insert(volume);
        shape
    };
    let there = Occupant { shape: Arc::new(with(true)), ..occupant(who("n", "db"), Coupling::default(), Stage::Bound) };
    nodes.put("a1", there);
    assert_eq!(open(&nodes, &with(true), &who("n", "web")), [""; 0]);
    assert_eq!(why(&nodes, "b1", &with(true), &who("n", "web")), Some(Why::VolumeTaken));
    assert!(!is_coupled(&nodes, &with(false), &who("n", "web")), "one of the node does not couple");
}

#[test]
fn preferences_lead_to_wanted_company_and_emptier_domains() {
    let mut nodes = site();
    put(&mut nodes, "a1", "db");
    put(&mut nodes, "a2", "db");
    put(&mut nodes, "b1", "db");
    put(&mut nodes, "b1", "web");
    let web = Arc::new(who("n", "web"));
    let scores = |coupling: Coupling| -> Vec<i64> {
        let shape = Arc::new(shape(coupling));
        let surroundings = Surroundings::new(&nodes, &shape, &web);
        nodes.iter().map(|(ix, ..)| surroundings.score(&nodes, ix)).collect()
    };
    let preferred = |weight| Coupling { preferred: vec![(weight, term(ZONE, app("db")))], ..Coupling::default() };
    assert_eq!(scores(preferred(100)), [200, 200, 100, 0]);
    assert_eq!(scores(preferred(-100)), [-200, -200, -100, 0]);
    let soft = evenly(&[Spread { required: false, ..spread(ZONE, 1) }]);
    assert_eq!(scores(soft), [0, 0, -200, -200]);
}
