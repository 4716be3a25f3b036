//! Pods, nodes, budgets and groups as a whole.

use atoll_core::scheduling::{Effect, NodeState, Selector};

use super::*;
use crate::proto::{
    Affinity, LabelSelector, Node, NodeCondition, NodeSpec, NodeStatus, PodAffinity, PodAffinityTerm, PodCondition,
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodGroup, PodGroupSpec, PodSchedulingGate, Taint,
    TopologySpreadConstraint,
};

fn bound(phase: &str) -> PodFacts {
    let spec = PodSpec { node_name: "n".to_owned(), ..PodSpec::default() };
    facts(spec, PodStatus { phase: raw(phase), ..PodStatus::default() })
}

#[test]
fn a_pod_takes_room_while_it_is_bound_and_not_finished() {
    let running = bound("Running");
    assert_eq!((running.occupies().map(|node| &**node), running.waits()), (Some("n"), false));
    for phase in ["Succeeded", "Failed"] {
        assert_eq!(bound(phase).occupies(), None);
    }
    let condition = PodCondition {
        r#type: raw("PodScheduled"),
        status: raw("False"),
        message: "no room".to_owned(),
        ..PodCondition::default()
    };
    let status = PodStatus { phase: raw("Pending"), conditions: vec![condition], ..PodStatus::default() };
    let waiting = facts(PodSpec::default(), status);
    assert_eq!((waiting.occupies(), waiting.waits()), (None, true));
    assert_eq!(waiting.unschedulable.as_deref(), Some("no room"));
}

#[test]
fn a_pod_that_is_gated_deleted_or_anothers_does_not_wait() {
    let gated = PodSpec { scheduling_gates: vec![PodSchedulingGate::default()], ..PodSpec::default() };
    assert!(!of_spec(gated).waits());
    let deleted = ObjectMeta { deletion_timestamp: Some(Time::default()), ..meta("p") };
    let deleted = facts_with(deleted, PodSpec::default(), PodStatus::default());
    assert!(deleted.deleting && !deleted.waits());
    let other = Pod { metadata: Some(meta("p")), spec: Some(PodSpec::default()), status: None };
    assert!(!PodFacts::of(other, US, &Interner::default()).waits());
}

#[test]
fn of_other_schedulers_pods_only_what_matters_to_others_is_kept() {
    let term = PodAffinityTerm { topology_key: "host".to_owned(), ..PodAffinityTerm::default() };
    let pods = PodAffinity { required: vec![term], preferred: Vec::new() };
    let spread = TopologySpreadConstraint {
        topology_key: "zone".to_owned(),
        when_unsatisfiable: "DoNotSchedule".to_owned(),
        ..TopologySpreadConstraint::default()
    };
    let spec = PodSpec {
        node_selector: map(&[("a", "b")]),
        affinity: Some(Affinity { pod_anti_affinity: Some(pods), ..Affinity::default() }),
        topology_spread_constraints: vec![spread],
        ..containers(vec![container("a", &[("cpu", "1")])])
    };
    let ours = of_spec(spec.clone());
    assert!(!ours.shape.node_selector.is_empty());
    assert_eq!((ours.shape.coupling.anti_affinity.len(), ours.shape.coupling.spread.len()), (1, 1));
    let theirs = Pod { metadata: Some(meta("p")), spec: Some(spec), status: None };
    let theirs = PodFacts::of(theirs, US, &Interner::default());
    assert!(theirs.shape.node_selector.is_empty());
    assert_eq!((theirs.shape.coupling.anti_affinity.len(), theirs.shape.coupling.spread.len()), (1, 0));
    assert_eq!(theirs.shape.requests.get("cpu"), 1000);
}

#[test]
fn a_pod_has_the_same_shape_before_and_after_it_is_bound() {
    let interner = Interner::default();
    let read = |node: &str, status: PodStatus| {
        let spec = PodSpec {
            scheduler_name: raw(US),
            node_name: node.to_owned(),
            node_selector: map(&[("a", "b")]),
            ..containers(vec![container("a", &[("cpu", "1")])])
        };
        PodFacts::of(Pod { metadata: Some(meta("p")), spec: Some(spec), status: Some(status) }, US, &interner)
    };
    let before = read("", PodStatus::default());
    let started = vec![status("a", &[("cpu", "1000m")], &[("cpu", "1")])];
    let after = read("n", PodStatus { container_statuses: started, ..PodStatus::default() });
    assert!(Arc::ptr_eq(&before.shape, &after.shape) && Arc::ptr_eq(&before.identity, &after.identity));
}

fn node(conditions: Pairs, taints: Pairs) -> NodeState {
    let conditions = conditions
        .iter()
        .map(|(kind, status)| NodeCondition { r#type: (*kind).to_owned(), status: (*status).to_owned() });
    let taints = taints.iter().map(|(key, effect)| Taint {
        key: (*key).to_owned(),
        value: String::new(),
        effect: (*effect).to_owned(),
    });
    node_state(Node {
        metadata: Some(meta("n")),
        spec: Some(NodeSpec { unschedulable: false, taints: taints.collect() }),
        status: Some(NodeStatus { conditions: conditions.collect(), ..NodeStatus::default() }),
    })
}

#[test]
fn a_node_that_is_not_ready_counts_as_tainted_at_once() {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
    let cases: [(Pairs, Pairs, &[&str]); 6] = [
        (&[("Ready", "True"), ("DiskPressure", "True")], &[], &[]),
        (&[("Ready", "False")], &[], &[NOT_READY]),
        (&[("Ready", "Unknown")], &[], &[UNREACHABLE]),
        (&[], &[], &[NOT_READY]),
        (&[("Ready", "False")], &[(NOT_READY, "NoSchedule")], &[NOT_READY]),
        (&[("Ready", "False")], &[(NOT_READY, "NoExecute")], &[NOT_READY, NOT_READY]),
    ];
    for (conditions, taints, expected) in cases {
        let state = node(conditions, taints);
        let keys: Vec<&str> = state.taints.iter().map(|taint| taint.key.as_str()).collect();
        assert_eq!(keys, expected);
        assert!(state.taints.last().is_none_or(|taint| taint.effect == Effect::NoSchedule));
        assert!(!state.unusable);
    }
    assert!(node(&[("Ready", "True")], &[("k", "Strange")]).taints.is_empty());
}

#[test]
fn nothing_can_be_put_on_a_node_that_is_deleted_or_cannot_be_read() {
    let with = |metadata, allocatable| {
        let status = NodeStatus { allocatable, ..NodeStatus::default() };
        node_state(Node { metadata: Some(metadata), spec: None, status: Some(status) })
    };
    assert!(!with(meta("n"), quantities(&[("cpu", "1")])).unusable);
    assert!(with(meta("n"), quantities(&[("cpu", "one")])).unusable);
    let deleted = ObjectMeta { deletion_timestamp: Some(Time::default()), ..meta("n") };
    assert!(with(deleted, quantities(&[("cpu", "1")])).unusable);
}

#[test]
fn a_budget_that_names_no_pods_protects_none() {
    for selector in [None, Some(LabelSelector::default())] {
        let budget = PodDisruptionBudget {
            metadata: Some(meta("b")),
            spec: Some(PodDisruptionBudgetSpec { selector }),
            status: None,
        };
        assert_eq!(BudgetFacts::of(budget).selector, Selector::Nothing);
    }
}

#[test]
fn a_pod_group_without_a_known_policy_is_refused() {
    let group = PodGroup { metadata: Some(meta("g")), spec: Some(PodGroupSpec::default()), status: None };
    let features = vec!["a scheduling policy other than basic and gang"];
    assert_eq!(PodGroupFacts::of(group).not_supported, Some(NotSupported::PodGroup(features)));
}
