//! What a pod takes, and what a node has.

use atoll_core::scheduling::{POD_SLOT, RESOURCE_PODS};

use super::*;
use crate::proto::PodCondition;

fn cpu(spec: PodSpec, status: PodStatus) -> i128 {
    let facts = facts(spec, status);
    assert_eq!(facts.not_supported, None);
    assert_eq!(facts.shape.requests.get(RESOURCE_PODS), POD_SLOT);
    facts.shape.requests.get("cpu")
}

fn one(name: &str, amount: &str) -> Container {
    container(name, &[("cpu", amount)])
}

#[test]
fn requests_are_what_kubernetes_counts() {
    let beside = |amount: &str| sidecar("s", &[("cpu", amount)]);
    let with_init = |init_containers| PodSpec { init_containers, ..containers(vec![one("a", "1")]) };
    let cases = [
        ("containers add up", containers(vec![one("a", "1"), one("b", "500m")]), 1500),
        ("the largest init container", with_init(vec![one("i", "3"), one("j", "2")]), 3000),
        ("sidecars run beside containers", with_init(vec![beside("2")]), 3000),
        ("an init container after a sidecar runs beside it", with_init(vec![beside("2"), one("i", "4")]), 6000),
        ("an init container before it does not", with_init(vec![one("i", "2"), beside("2")]), 3000),
        ("sidecars alone may be the peak", with_init(vec![beside("2"), sidecar("t", &[("cpu", "2")])]), 5000),
        (
            "overhead is added",
            PodSpec { overhead: quantities(&[("cpu", "250m")]), ..containers(vec![one("a", "1")]) },
            1250,
        ),
        (
            "pod-level requests go before the sum",
            PodSpec {
                resources: resources(&[("cpu", "4")]),
                overhead: quantities(&[("cpu", "1")]),
                ..containers(vec![one("a", "1")])
            },
            5000,
        ),
        (
            "pod-level requests of memory leave CPU alone",
            PodSpec { resources: resources(&[("memory", "1Gi")]), ..containers(vec![one("a", "1")]) },
            1000,
        ),
    ];
    for (name, spec, milli) in cases {
        assert_eq!(cpu(spec, PodStatus::default()), milli, "{name}");
    }
}

#[test]
fn only_cpu_memory_and_huge_pages_can_be_asked_for_by_the_pod_as_a_whole() {
    let spec = PodSpec {
        resources: resources(&[("hugepages-2Mi", "4Mi"), ("nvidia.com/gpu", "9")]),
        ..containers(vec![container("a", &[("nvidia.com/gpu", "1"), ("hugepages-2Mi", "2Mi")])])
    };
    let requests = &of_spec(spec).shape.requests;
    assert_eq!((requests.get("hugepages-2Mi"), requests.get("nvidia.com/gpu")), (4 * 1024 * 1024 * 1000, 1000));
}

#[test]
fn amounts_are_rounded_up_once_for_the_whole_pod() {
    let parts = [("cpu", "1.5m"), ("memory", "1.5"), ("ephemeral-storage", "1m"), ("x.io/d", "1"), ("storage", "9")];
    let requests = &of_spec(containers(vec![container("a", &parts), container("b", &parts)])).shape.requests;
    // CPU comes in whole thousandths: the API server has rounded each of them.
    assert_eq!(requests.get("cpu"), 4);
    assert_eq!(requests.get("memory"), 3000);
    assert_eq!(requests.get("ephemeral-storage"), 1000);
    assert_eq!(requests.get("x.io/d"), 2000);
    assert_eq!(requests.get("storage"), 0, "no node could be short of it");
}

#[test]
fn asking_for_nothing_of_a_device_is_not_asking_for_it() {
    let asked = of_spec(containers(vec![container("a", &[("nvidia.com/gpu", "0")])]));
    assert_eq!(asked.shape, of_spec(containers(vec![container("a", &[])])).shape);
}

#[test]
fn a_resize_on_its_way_counts_with_the_larger_amount() {
    let spec = |amount| PodSpec { node_name: "n".to_owned(), ..containers(vec![one("a", amount), one("b", "1")]) };
    let with = |a: ContainerStatus| PodStatus { container_statuses: vec![a], ..PodStatus::default() };
    let (one_cpu, three) = ([("cpu", "1")], [("cpu", "3")]);
    let cases = [
        ("promised more than asked", "1", with(status("a", &three, &one_cpu)), 4000),
        ("given more than asked", "1", with(status("a", &one_cpu, &three)), 4000),
        ("asked more than promised", "5", with(status("a", &one_cpu, &one_cpu)), 6000),
        ("of a container that is not there", "1", with(status("z", &three, &three)), 2000),
        ("promised, and nothing said of what is given", "1", with(status("a", &three, &[])), 4000),
    ];
    for (name, amount, status, milli) in cases {
        assert_eq!(cpu(spec(amount), status), milli, "{name}");
    }
}

#[test]
fn the_largest_sum_over_containers_counts_not_the_sum_of_the_largest() {
    let status = PodStatus {
        container_statuses: vec![
            status("a", &[("cpu", "1")], &[("cpu", "3")]),
            status("b", &[("cpu", "3")], &[("cpu", "1")]),
        ],
        ..PodStatus::default()
    };
    assert_eq!(cpu(containers(vec![one("a", "1"), one("b", "1")]), status), 4000);
}

#[test]
fn a_resize_that_the_kubelet_refused_counts_no_more() {
    let refused =
        PodCondition { r#type: raw("PodResizePending"), reason: raw("Infeasible"), ..PodCondition::default() };
    let status = PodStatus {
        conditions: vec![refused],
        container_statuses: vec![status("a", &[("cpu", "2")], &[("cpu", "2")])],
        ..PodStatus::default()
    };
    assert_eq!(cpu(containers(vec![one("a", "9")]), status.clone()), 2000);
    let whole = PodStatus { resources: resources(&[("cpu", "3")]), ..status };
    let spec = PodSpec { resources: resources(&[("cpu", "9")]), ..containers(vec![one("a", "9")]) };
    assert_eq!(cpu(spec, whole), 3000);
}

#[test]
fn a_pod_that_is_resized_as_a_whole_says_its_sums_itself() {
    let status = PodStatus {
        allocated_resources: quantities(&[("cpu", "4")]),
        resources: resources(&[("cpu", "6")]),
        container_statuses: vec![status("a", &[("cpu", "9")], &[("cpu", "9")])],
        ..PodStatus::default()
    };
    assert_eq!(cpu(containers(vec![one("a", "1")]), status.clone()), 6000);
    let spec = PodSpec { resources: resources(&[("cpu", "5")]), ..containers(vec![one("a", "1")]) };
    assert_eq!(cpu(spec, status), 6000);
}

#[test]
fn an_amount_that_cannot_be_read_is_named_and_the_pod_still_has_its_slot() {
    for text in ["many", "-1"] {
        let facts = of_spec(containers(vec![container("a", &[("nvidia.com/gpu", text)])]));
        let why = NotSupported::Quantity { resource: "nvidia.com/gpu".to_owned(), text: text.to_owned() };
        assert_eq!(facts.not_supported, Some(why));
        assert_eq!(facts.shape.requests.get(RESOURCE_PODS), POD_SLOT);
    }
}
