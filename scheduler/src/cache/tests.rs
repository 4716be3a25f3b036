use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_core::scheduling::{POD_SLOT, RESOURCE_PODS, Shape};
use proptest::prelude::*;

use super::*;
use crate::objects::PodFacts;
use crate::tests::world::pod_facts;

#[derive(Clone, Debug)]
enum Step {
    Pod { pod: usize, uid: usize, node: Option<usize>, finished: bool, size: i128 },
    Gone(usize),
    Assume { pod: usize, node: usize },
    Forget { pod: usize, uid: usize },
    Hold { gang: usize, pod: usize, node: usize, size: i128 },
    Release { gang: usize, pod: Option<usize> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (pod, uid, node, size) = (0..4_usize, 0..2_usize, 0..3_usize, 1..4_i128);
    let step = prop_oneof![
        3 => (pod.clone(), uid.clone(), prop::option::of(node.clone()), any::<bool>(), size.clone())
            .prop_map(|(pod, uid, node, finished, size)| Step::Pod { pod, uid, node, finished, size }),
        1 => pod.clone().prop_map(Step::Gone),
        2 => (pod.clone(), node.clone()).prop_map(|(pod, node)| Step::Assume { pod, node }),
        1 => (pod.clone(), uid).prop_map(|(pod, uid)| Step::Forget { pod, uid }),
        2 => (0..2_usize, pod.clone(), node, size)
            .prop_map(|(gang, pod, node, size)| Step::Hold { gang, pod, node, size }),
        1 => (0..2_usize, prop::option::of(pod)).prop_map(|(gang, pod)| Step::Release { gang, pod }),
    ];
    prop::collection::vec(step, 0..60)
}

fn key(pod: usize) -> ObjectKey {
    ObjectKey::new("ns", &format!("p{pod}"))
}

fn shape(size: i128) -> Arc<Shape> {
    let requests = [("gpu".to_owned(), size * 1000), (RESOURCE_PODS.to_owned(), POD_SLOT)].into_iter().collect();
    Arc::new(Shape { requests, ..Shape::default() })
}

fn facts(pod: usize, uid: usize, node: Option<usize>, finished: bool, size: i128) -> PodFacts {
    PodFacts {
        key: key(pod),
        uid: Arc::from(format!("u{uid}")),
        node: node.map(|n| Arc::from(format!("n{n}"))),
        finished,
        shape: shape(size),
        ..pod_facts("p")
    }
}

fn work(gang: usize) -> Work {
    Work::Pod(key(gang))
}

proptest! {
    #[test]
    fn each_pod_counts_once_whatever_the_order_of_events(steps in steps()) {
        let mut cache = Cache::default();
        let mut pods: BTreeMap<usize, PodFacts> = BTreeMap::new();
        let mut assumed: BTreeMap<usize, (String, String, i128)> = BTreeMap::new();
        let mut held: BTreeMap<(usize, usize), (usize, i128)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Pod { pod, uid, node, finished, size } => {
                    let facts = facts(pod, uid, node, finished, size);
                    if node.is_some() || finished || assumed.get(&pod).is_some_and(|(u, ..)| **u != *facts.uid) {
                        assumed.remove(&pod);
                    }
                    // A pod that is assumed takes what it asks for by now.
                    assumed.entry(pod).and_modify(|(_, _, taken)| *taken = size * 1000);
                    pods.insert(pod, facts.clone());
                    cache.set_pod(facts);
                }
                Step::Gone(pod) => {
                    if let Some(facts) = pods.remove(&pod)
                        && assumed.get(&pod).is_some_and(|(uid, ..)| **uid == *facts.uid)
                    {
                        assumed.remove(&pod);
                    }
                    cache.remove_pod(&key(pod));
                }
                Step::Assume { pod, node } => {
                    if let Some(facts) = pods.get(&pod).filter(|facts| facts.node.is_none() && !facts.finished) {
                        cache.assume(&key(pod), &Arc::from(format!("n{node}")));
                        let size = facts.shape.requests.get("gpu");
                        assumed.insert(pod, (facts.uid.to_string(), format!("n{node}"), size));
                    }
                }
                Step::Forget { pod, uid } => {
                    let uid = format!("u{uid}");
                    let known = assumed.get(&pod).is_some_and(|(u, ..)| *u == uid);
                    prop_assert_eq!(cache.forget(&key(pod), &uid), known);
                    if known {
                        assumed.remove(&pod);
                    }
                }
                Step::Hold { gang, pod, node, size } => {
                    cache.hold(&work(gang), &key(pod), &format!("n{node}"), &shape(size));
                    held.insert((gang, pod), (node, size * 1000));
                }
                Step::Release { gang, pod } => {
                    let mut expected = 0;
                    held.retain(|(g, p), _| {
                        let goes = *g == gang && pod.is_none_or(|pod| *p == pod);
                        expected += usize::from(goes);
                        !goes
                    });
                    let released = cache.release(&work(gang), |p| pod.is_none_or(|pod| *p == key(pod)));
                    prop_assert_eq!(released.len(), expected);
                }
            }
            for node in ["n0", "n1", "n2"] {
                let bound = pods.values().filter(|p| p.occupies().map(|n| &**n) == Some(node)).map(|p| p.shape.requests.get("gpu"));
                let assumed = assumed.values().filter(|(_, n, _)| n == node).map(|(_, _, size)| *size);
                let held = held.values().filter(|(n, _)| format!("n{n}") == node).map(|(_, size)| *size);
                let expected: i128 = bound.chain(assumed).chain(held).sum();
                prop_assert_eq!(cache.nodes().used(node).get("gpu"), expected, "{}", node);
            }
        }
    }
}
