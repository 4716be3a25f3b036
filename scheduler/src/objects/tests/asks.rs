//! What a pod asks of nodes and of other pods.

use atoll_core::scheduling::{Effect, Operator, Requirement, Selector, Toleration, TolerationValue};

use super::*;
use crate::objects::affinity::{coupling, preferred_nodes, required_nodes, selector, spread, toleration};
use crate::proto::{
    Affinity, ContainerPort, ContainerRestartRule, LabelSelector, LabelSelectorRequirement, NodeAffinity, NodeSelector,
    NodeSelectorRequirement, NodeSelectorTerm, PodAffinity, PodAffinityTerm, PodResourceClaim, PreferredSchedulingTerm,
    ResourceClaim, TopologySpreadConstraint, VolumeMount,
};

fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
    Requirement { key: key.to_owned(), operator, values: values.iter().map(|v| (*v).to_owned()).collect() }
}

fn node_requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    }
}

fn labels(pairs: &[(&str, &str)]) -> LabelSelector {
    LabelSelector { match_labels: map(pairs), match_expressions: Vec::new() }
}

#[test]
fn tolerations_are_read_as_kubernetes_does() {
    let key = |key: &str| Some(key.to_owned());
    let value = |value: &str| TolerationValue::Equal(value.to_owned());
    let cases = [
        (("", "Exists", "", ""), Toleration { key: None, value: TolerationValue::Any, effect: None }),
        (("a", "", "", "NoExecute"), Toleration { key: key("a"), value: value(""), effect: Some(Effect::NoExecute) }),
        (
            ("b", "Equal", "1", "PreferNoSchedule"),
            Toleration { key: key("b"), value: value("1"), effect: Some(Effect::PreferNoSchedule) },
        ),
        (("c", "Gt", "5", ""), Toleration { key: key("c"), value: TolerationValue::Above(5), effect: None }),
        (("c", "Lt", "-5", ""), Toleration { key: key("c"), value: TolerationValue::Below(-5), effect: None }),
    ];
    for ((key, operator, value, effect), expected) in cases {
        assert_eq!(toleration(key, operator, value, effect), Ok(expected));
    }
    for (operator, value, effect, named) in
        [("Like", "x", "", "Like"), ("Exists", "", "NoFun", "NoFun"), ("Gt", "many", "", "Gt many")]
    {
        assert_eq!(toleration("k", operator, value, effect), Err(NotSupported::Toleration(named.to_owned())));
    }
}

#[test]
fn no_required_terms_are_not_the_same_as_none_at_all() {
    let required = |required| NodeAffinity { required, preferred: Vec::new() };
    assert_eq!(required_nodes(None), Ok(None));
    assert_eq!(required_nodes(Some(&required(None))), Ok(None));
    assert_eq!(required_nodes(Some(&required(Some(NodeSelector::default())))), Ok(Some(Vec::new())));
    let empty_term = NodeSelector { node_selector_terms: vec![NodeSelectorTerm::default()] };
    let terms = required_nodes(Some(&required(Some(empty_term)))).unwrap().unwrap();
    assert_eq!(terms, [atoll_core::scheduling::NodeTerm::default()], "a term that matches no node");
}

#[test]
fn node_affinity_that_is_not_understood_is_named() {
    let term = |expression, field: Option<NodeSelectorRequirement>| NodeAffinity {
        required: Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: vec![expression],
                match_fields: field.into_iter().collect(),
            }],
        }),
        preferred: Vec::new(),
    };
    let fine = node_requirement("a", "Exists", &[]);
    for (affinity, named) in [
        (term(node_requirement("a", "Like", &["x"]), None), "Like"),
        (term(fine.clone(), Some(node_requirement("spec.x", "In", &["a"]))), "spec.x"),
    ] {
        assert_eq!(required_nodes(Some(&affinity)), Err(NotSupported::NodeAffinity(named.to_owned())));
        let spec = PodSpec {
            affinity: Some(Affinity { node_affinity: Some(affinity), ..Affinity::default() }),
            ..containers(vec![container("a", &[("cpu", "1")])])
        };
        let facts = of_spec(spec);
        assert_eq!(facts.not_supported, Some(NotSupported::NodeAffinity(named.to_owned())));
        assert_eq!(facts.shape.requests.get("cpu"), 1000, "what it takes is known all the same");
    }
}

#[test]
fn preferences_that_say_nothing_are_left_out() {
    let term = |weight, expressions: Vec<NodeSelectorRequirement>| PreferredSchedulingTerm {
        weight,
        preference: Some(NodeSelectorTerm { match_expressions: expressions, match_fields: Vec::new() }),
    };
    let exists = || vec![node_requirement("a", "Exists", &[])];
    let affinity =
        NodeAffinity { required: None, preferred: vec![term(0, exists()), term(3, vec![]), term(5, exists())] };
    let preferred = preferred_nodes(Some(&affinity)).unwrap();
    assert_eq!(preferred.len(), 1);
    assert_eq!((preferred[0].0, preferred[0].1.labels.len()), (5, 1));
}

#[test]
fn an_absent_selector_matches_nothing_and_an_empty_one_everything() {
    assert_eq!(selector(None), Ok(Selector::Nothing));
    assert_eq!(selector(Some(&LabelSelector::default())), Ok(Selector::All(Vec::new())));
    let both = LabelSelector {
        match_labels: map(&[("a", "1")]),
        match_expressions: vec![LabelSelectorRequirement {
            key: "b".to_owned(),
            operator: "NotIn".to_owned(),
            values: vec!["2".to_owned()],
        }],
    };
    let all = vec![requirement("a", Operator::In, &["1"]), requirement("b", Operator::NotIn, &["2"])];
    assert_eq!(selector(Some(&both)), Ok(Selector::All(all)));
    let mut unknown = both;
    unknown.match_expressions[0].operator = "Gt".to_owned();
    assert_eq!(selector(Some(&unknown)), Err(NotSupported::Selector("Gt".to_owned())));
}

#[test]
fn the_namespaces_of_a_pod_term_default_to_the_pods_own() {
    let term = |namespaces: &[&str], namespace_selector: Option<LabelSelector>| {
        let term = PodAffinityTerm {
            topology_key: "zone".to_owned(),
            label_selector: Some(labels(&[("a", "1")])),
            namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect(),
            namespace_selector,
        };
        let affinity = PodAffinity { required: vec![term], preferred: Vec::new() };
        let affinity = Affinity { pod_anti_affinity: Some(affinity), ..Affinity::default() };
        let mut coupling = coupling(Some(&affinity), "own").unwrap();
        assert!(coupling.affinity.is_empty() && coupling.preferred.is_empty());
        let term = coupling.anti_affinity.pop().unwrap();
        (term.namespaces.into_iter().collect::<Vec<_>>(), term.namespace_selector)
    };
    let everywhere = Selector::All(Vec::new());
    assert_eq!(term(&[], None), (vec!["own".to_owned()], Selector::Nothing));
    assert_eq!(term(&["other"], None), (vec!["other".to_owned()], Selector::Nothing));
    assert_eq!(term(&[], Some(LabelSelector::default())), (vec![], everywhere.clone()));
    assert_eq!(term(&["b"], Some(LabelSelector::default())), (vec!["b".to_owned()], everywhere));
}

fn constraint() -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "zone".to_owned(),
        when_unsatisfiable: "DoNotSchedule".to_owned(),
        label_selector: Some(labels(&[("app", "a")])),
        ..TopologySpreadConstraint::default()
    }
}

#[test]
fn spread_constraints_have_kubernetes_defaults() {
    let read = spread(&constraint(), &BTreeMap::new()).unwrap();
    assert!(read.required && read.honor_affinity && !read.honor_taints);
    assert_eq!((read.max_skew, read.min_domains), (1, 1));
    let soft = TopologySpreadConstraint {
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        min_domains: Some(4),
        node_affinity_policy: Some("Ignore".to_owned()),
        node_taints_policy: Some("Honor".to_owned()),
        ..constraint()
    };
    let read = spread(&soft, &BTreeMap::new()).unwrap();
    assert!(!read.required && !read.honor_affinity && read.honor_taints);
    assert_eq!(read.min_domains, 4);
    let unknown = TopologySpreadConstraint { node_taints_policy: Some("Some".to_owned()), ..constraint() };
    assert_eq!(spread(&unknown, &BTreeMap::new()), Err(NotSupported::Spread("Some".to_owned())));
    let unknown = TopologySpreadConstraint { when_unsatisfiable: "Never".to_owned(), ..constraint() };
    assert_eq!(spread(&unknown, &BTreeMap::new()), Err(NotSupported::Spread("Never".to_owned())));
}

#[test]
fn label_keys_to_match_narrow_a_spread_constraint_to_the_pods_own_values() {
    let own = map(&[("version", "7"), ("app", "a")]);
    let keys = |keys: &[&str]| keys.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
    let app = || requirement("app", Operator::In, &["a"]);
    let version = || requirement("version", Operator::In, &["7"]);
    let cases = [
        (Some(labels(&[("app", "a")])), keys(&["version", "absent"]), Selector::All(vec![app(), version()])),
        (Some(labels(&[("app", "a")])), keys(&["app"]), Selector::All(vec![app()])),
        (Some(LabelSelector::default()), keys(&["version"]), Selector::All(vec![version()])),
        (Some(LabelSelector::default()), keys(&["absent"]), Selector::Nothing),
        (None, keys(&["version"]), Selector::Nothing),
    ];
    for (label_selector, match_label_keys, pods) in cases {
        let read = spread(&TopologySpreadConstraint { label_selector, match_label_keys, ..constraint() }, &own);
        assert_eq!(read.unwrap().pods, pods);
    }
}

#[test]
fn ports_of_the_host_are_those_of_containers_that_last() {
    let port = |host_port, protocol: &str, host_ip: &str| ContainerPort {
        host_port,
        protocol: protocol.to_owned(),
        host_ip: host_ip.to_owned(),
    };
    let with = |container, ports| Container { ports, ..container };
    let spec = PodSpec {
        init_containers: vec![
            with(sidecar("s", &[]), vec![port(1, "TCP", "")]),
            with(container("i", &[]), vec![port(2, "TCP", "")]),
        ],
        ..containers(vec![with(
            container("a", &[]),
            vec![port(3, "UDP", "10.0.0.1"), port(0, "TCP", ""), port(4, "", "")],
        )])
    };
    let facts = of_spec(spec);
    assert_eq!(facts.not_supported, None);
    let ports: Vec<_> = facts.shape.host_ports.iter().map(|p| format!("{} {}:{}", p.protocol, p.ip, p.port)).collect();
    assert_eq!(ports, ["TCP 0.0.0.0:1", "TCP 0.0.0.0:4", "UDP 10.0.0.1:3"]);
}

#[test]
fn what_a_pod_uses_that_is_not_supported_is_named() {
    let with = |of: Container| containers(vec![of]);
    let plain = || container("a", &[]);
    let claims = ResourceRequirements { claims: vec![ResourceClaim::default()], ..ResourceRequirements::default() };
    let mount = VolumeMount { bind_mount_options: vec!["noexec".to_owned()] };
    let rule = ContainerRestartRule { action: "RestartAllContainers".to_owned() };
    let cases = [
        (PodSpec { resource_claims: vec![PodResourceClaim::default()], ..with(plain()) }, "resource claims"),
        (with(Container { resources: Some(claims), ..plain() }), "resource claims"),
        (with(container("a", &[("deviceclass.resource.kubernetes.io/gpu", "1")])), "resource claims"),
        (
            PodSpec { host_network: true, host_users: Some(false), ..with(plain()) },
            "user namespaces on the host's network",
        ),
        (with(Container { volume_mounts: vec![mount], ..plain() }), "options of bind mounts"),
        (with(Container { restart_policy_rules: vec![rule], ..plain() }), "restart rules for all containers"),
    ];
    for (spec, feature) in cases {
        assert_eq!(of_spec(spec).not_supported, Some(NotSupported::Features(vec![feature])));
    }
    let fine = PodSpec { host_network: true, host_users: Some(true), ..with(plain()) };
    assert_eq!(of_spec(fine).not_supported, None);
}
