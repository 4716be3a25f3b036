//! Objects as Kubernetes itself encodes them; see golden/README.md.

use atoll_core::scheduling::{Effect, Level, Operator, Selector, TolerationValue};
use prost::bytes::Bytes;

use super::*;
use crate::proto::{self, ListPage, Status};

macro_rules! golden {
    ($name:literal) => {
        Bytes::from_static(include_bytes!(concat!("golden/", $name, ".pb")))
    };
}

fn pod(bytes: Bytes) -> PodFacts {
    PodFacts::of(proto::decode(bytes).unwrap(), US, &Interner::default())
}

const CREATED: Duration = Duration::from_secs(1_767_323_045);

#[test]
fn a_pod_with_everything() {
    let facts = pod(golden!("pod"));
    assert_eq!(facts.not_supported, None);
    assert_eq!((facts.key.to_string().as_str(), &*facts.uid, facts.created), ("team/worker-3", "7d3c", CREATED));
    assert_eq!((facts.priority, facts.preempts, facts.ours, facts.rank), (7, false, true, Some(3)));
    assert_eq!(facts.gang, Some(GangName::Label { name: "g".to_owned(), size: 8, min: 4 }));
    let levels: Vec<_> = facts.topology.iter().map(|l| (l.key.as_str(), l.required)).collect();
    assert_eq!(levels, [("zone", true), ("rack", true), ("island", false)]);
    assert_eq!(facts.duration, Some(Duration::from_mins(90)));
    assert_eq!((facts.nominated.as_deref(), facts.unschedulable.as_deref()), (Some("n7"), Some("no room")));
    assert_eq!(facts.started, Some(CREATED + Duration::from_secs(55)));
    assert!(facts.waits());
    assert_eq!(facts.identity.labels.len(), 4);

    let shape = &facts.shape;
    // The init container beside the sidecar, and the overhead; memory of the pod as a whole.
    assert_eq!(shape.requests.get("cpu"), 4250);
    assert_eq!(shape.requests.get("memory"), 8 * (1 << 30) * 1000);
    assert_eq!(shape.requests.get("ephemeral-storage"), (1 << 30) * 1000);
    assert_eq!(shape.requests.get("nvidia.com/gpu"), 4000);
    assert_eq!(shape.node_selector, map(&[("pool", "gpu")]));
    let ports: Vec<_> = shape.host_ports.iter().map(|p| format!("{} {}:{}", p.protocol, p.ip, p.port)).collect();
    assert_eq!(ports, ["TCP 0.0.0.0:9", "UDP 10.0.0.1:8080"]);
    let tolerations: Vec<_> = shape.tolerations.iter().map(|t| (t.key.as_deref(), &t.value, t.effect)).collect();
    let expected = [
        (Some("a"), &TolerationValue::Equal("1".to_owned()), Some(Effect::NoSchedule)),
        (Some("b"), &TolerationValue::Any, Some(Effect::NoExecute)),
        (Some("c"), &TolerationValue::Above(5), Some(Effect::PreferNoSchedule)),
        (None, &TolerationValue::Any, None),
    ];
    assert_eq!(tolerations, expected);
}

#[test]
fn the_affinities_of_a_pod_with_everything() {
    let shape = pod(golden!("pod")).shape;
    let term = &shape.affinity.as_ref().unwrap()[0];
    assert_eq!(
        (term.labels[0].key.as_str(), term.labels[0].operator, &*term.labels[0].values[0]),
        ("cores", Operator::Gt, "8")
    );
    assert_eq!((term.name[0].operator, &*term.name[0].values[0]), (Operator::NotIn, "n1"));
    assert_eq!((shape.preferred_nodes[0].0, &*shape.preferred_nodes[0].1.labels[0].key), (5, "disk"));
    let coupling = &shape.coupling;
    let near = &coupling.affinity[0];
    assert_eq!((near.topology_key.as_str(), near.namespaces.first().map(String::as_str)), ("rack", Some("team")));
    assert_eq!(near.namespace_selector, Selector::Nothing);
    let far = &coupling.anti_affinity[0];
    assert_eq!((far.topology_key.as_str(), far.namespaces.len()), ("host", 0));
    assert_eq!(far.namespace_selector, Selector::All(Vec::new()), "an empty message is there");
    let weights: Vec<_> = coupling.preferred.iter().map(|(weight, term)| (*weight, &*term.topology_key)).collect();
    assert_eq!(weights, [(10, "zone"), (-20, "zone")]);
    assert_eq!(coupling.preferred[1].1.pods, Selector::All(Vec::new()));
    let spread = &coupling.spread[0];
    assert_eq!((spread.max_skew, spread.min_domains, spread.required), (2, 3, true));
    assert!(!spread.honor_affinity && spread.honor_taints);
    let Selector::All(requirements) = &spread.pods else { panic!("{spread:?}") };
    let keys: Vec<_> = requirements.iter().map(|r| r.key.as_str()).collect();
    assert_eq!(keys, ["tier", "app"]);
}

#[test]
fn the_volumes_of_a_pod_with_everything() {
    let facts = pod(golden!("pod"));
    let claims: Vec<_> = facts.claims.iter().map(|c| (c.name.as_str(), c.made_for.as_deref())).collect();
    assert_eq!(claims, [("data-claim", None), ("worker-3-scratch", Some("7d3c"))]);
    let volumes = &facts.shape.volumes;
    let exclusive: Vec<_> = volumes.exclusive.iter().map(|v| (v.id.as_str(), v.read_only)).collect();
    let expected = [
        ("aws-ebs/vol", false),
        ("gce-pd/pd", true),
        ("iscsi/iqn.x", false),
        ("rbd/m1/p/img", false),
        ("rbd/m2/p/img", false),
    ];
    assert_eq!(exclusive, expected);
    let disks: Vec<_> = volumes.attached.values().flatten().map(String::as_str).collect();
    assert_eq!(disks, ["c", "uri", "vol", "UNSPECIFIED/pd", "px"]);
}

#[test]
fn a_pod_that_is_refused() {
    let facts = pod(golden!("refused"));
    let features = vec![
        "resource claims",
        "user namespaces on the host's network",
        "options of bind mounts",
        "restart rules for all containers",
    ];
    assert_eq!(facts.not_supported, Some(NotSupported::Features(features)));
    assert_eq!(facts.gang, Some(GangName::PodGroup("group".to_owned())));
    assert!(facts.deleting && facts.gated && facts.finished && !facts.waits());
    assert_eq!(facts.node.as_deref(), Some("n1"));
    assert_eq!(facts.shape.requests.get("cpu"), 3000, "what was given is the most");
}

#[test]
fn a_running_pod() {
    let facts = pod(golden!("running"));
    assert_eq!((facts.occupies().map(|n| &**n), facts.rank, facts.preempts), (Some("node-0042"), Some(17), true));
    let requests = &facts.shape.requests;
    assert_eq!((requests.get("cpu"), requests.get("nvidia.com/gpu")), (8000, 1000));
    assert_eq!(facts.shape.tolerations.len(), 3);
    assert_eq!(facts.unschedulable, None);
}

#[test]
fn a_node() {
    let state = node_state(proto::decode(golden!("node")).unwrap());
    assert_eq!((state.name.as_str(), state.unschedulable, state.unusable), ("n1", true, false));
    assert_eq!(state.labels, map(&[("zone", "a")]));
    let taints: Vec<_> = state.taints.iter().map(|t| (&*t.key, &*t.value, t.effect)).collect();
    assert_eq!(taints, [("k", "v", Effect::NoSchedule), ("soft", "", Effect::PreferNoSchedule)]);
    let amounts: Vec<_> = state.allocatable.iter().collect();
    let expected = [
        ("cpu", 63_500),
        ("memory", 1_024_000_000),
        ("ephemeral-storage", 2000),
        ("pods", 110_000),
        ("nvidia.com/gpu", 8000),
    ];
    assert_eq!(amounts, expected);
}

#[test]
fn a_budget() {
    let facts = BudgetFacts::of(proto::decode(golden!("budget")).unwrap());
    assert_eq!(
        (facts.key.to_string().as_str(), facts.allowed, facts.disrupted),
        ("team/b", 3, vec!["worker-9".to_owned()])
    );
    assert!(facts.selector.matches(&map(&[("app", "train")])) && !facts.selector.matches(&map(&[])));
}

#[test]
fn pod_groups() {
    let group = PodGroupFacts::of(proto::decode(golden!("podgroup")).unwrap());
    let expected = PodGroupFacts {
        key: ObjectKey::new("team", "group"),
        uid: Arc::from("gu"),
        generation: 0,
        created: CREATED,
        deleting: false,
        min: 5,
        topology: vec![Level { key: "rack".to_owned(), required: true }],
        priority: Some(9),
        preempts: false,
        whole: true,
        scheduled: Some(true),
        not_supported: None,
    };
    assert_eq!(group, expected);
    let basic = PodGroupFacts::of(proto::decode(golden!("basicgroup")).unwrap());
    assert_eq!((basic.min, basic.whole, basic.preempts, basic.scheduled), (1, false, true, None));
    let features = vec!["resource claims", "composite pod groups"];
    assert_eq!(basic.not_supported, Some(NotSupported::PodGroup(features)));
}

#[test]
fn claims_volumes_and_limits() {
    let claim = ClaimFacts::of(proto::decode(golden!("claim")).unwrap());
    let expected = ClaimFacts {
        key: ObjectKey::new("team", "data-claim"),
        volume: Some("pv-1".to_owned()),
        lost: true,
        deleting: false,
        one_pod: true,
        owner: Some("7d3c".to_owned()),
    };
    assert_eq!(claim, expected);
    let volume = VolumeFacts::of(proto::decode(golden!("volume")).unwrap());
    assert_eq!(volume.attached, Some(("ebs.csi.aws.com".to_owned(), "vol-1".to_owned())));
    assert_eq!(volume.affinity.unwrap()[0].labels[0].key, "zone");
    let zones: Vec<_> = volume.zones.iter().map(|(key, values)| (&**key, values.len())).collect();
    // The third label has an empty part and is ignored.
    assert_eq!(zones, [("failure-domain.beta.kubernetes.io/region", 1), ("topology.kubernetes.io/zone", 2)]);
    let (node, limits) = volume_limits(proto::decode(golden!("csinode")).unwrap());
    let limits: Vec<_> = limits.iter().map(|(driver, most)| (driver.as_str(), *most)).collect();
    assert_eq!((node.as_str(), limits), ("n1", vec![("ebs.csi.aws.com", 25), ("none.csi", 0)]));
}

#[test]
fn statuses_and_lists() {
    let unknown = proto::open(golden!("status")).unwrap();
    assert_eq!(unknown.kind(), "Status");
    let status: Status = unknown.object().unwrap();
    assert_eq!((status.status.as_str(), status.reason.as_str(), status.code), ("Failure", "Expired", 410));
    let details = status.details.unwrap();
    assert_eq!((details.retry_after_seconds, details.causes[0].reason.as_str()), (2, "ResourceVersionTooLarge"));

    let page: ListPage = proto::decode(golden!("list")).unwrap();
    let meta = page.metadata.unwrap();
    assert_eq!((meta.resource_version.as_str(), meta.r#continue.as_str()), ("42", "token"));
    assert_eq!(meta.remaining_item_count, Some(3));
    let first: proto::Namespace = prost::Message::decode(page.items[0].clone()).unwrap();
    assert_eq!((page.items.len(), first.metadata.unwrap().labels), (2, map(&[("team", "x")])));
}
