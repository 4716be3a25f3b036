//! What is on the nodes: bound pods of every scheduler, pods on their way, and room held for pods to come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use atoll_core::gang::{Amounts, NodeState, Nodes, Shape};

use crate::objects::{ObjectKey, PodFacts};

/// Room that is kept for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Node.
    pub node: String,
    /// How much.
    pub requests: Amounts,
}

#[derive(Debug)]
struct Assumed {
    uid: String,
    claim: Claim,
}

/// What is on the nodes. Each pod counts once: held, then assumed, then bound.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: Nodes,
    pods: HashMap<ObjectKey, Arc<PodFacts>>,
    assumed: HashMap<ObjectKey, Assumed>,
    held: HashMap<ObjectKey, BTreeMap<String, Claim>>,
}

/// What a pod's event changed.
#[derive(Debug, Default)]
pub struct PodChange {
    /// The pod before, as the cache had it.
    pub before: Option<Arc<PodFacts>>,
    /// Room became free.
    pub freed: bool,
}

impl Cache {
    /// The nodes with everything that counts on them.
    #[must_use]
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Adds or replaces a node. False when nothing changed.
    pub fn set_node(&mut self, node: NodeState) -> bool {
        self.nodes.set(node)
    }

    /// Forgets a node. False when there was none.
    pub fn remove_node(&mut self, name: &str) -> bool {
        self.nodes.remove(name)
    }

    /// The pod of this name.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<&Arc<PodFacts>> {
        self.pods.get(key)
    }

    /// Every pod's key.
    pub fn pods(&self) -> impl Iterator<Item = &ObjectKey> {
        self.pods.keys()
    }

    /// Adds or replaces a pod. A pod that is seen bound, finished or made anew is no longer assumed.
    pub fn set_pod(&mut self, pod: PodFacts) -> PodChange {
        let pod = Arc::new(pod);
        let before = self.pods.insert(pod.key.clone(), Arc::clone(&pod));
        if let Some(node) = pod.occupies() {
            self.nodes.take(node, &pod.shape.requests);
        }
        let mut freed = false;
        if let Some(before) = &before
            && let Some(node) = before.occupies()
        {
            self.nodes.give_back(node, &before.shape.requests);
            freed = pod.occupies() != Some(node) || before.shape.requests != pod.shape.requests;
        }
        let settled = pod.node.is_some() || pod.finished;
        if let Some(assumed) = self.assumed.get(&pod.key)
            && (settled || assumed.uid != pod.uid)
        {
            let elsewhere = pod.occupies() != Some(assumed.claim.node.as_str());
            let uid = assumed.uid.clone();
            self.forget(&pod.key, &uid);
            freed |= elsewhere;
        }
        PodChange { before, freed }
    }

    /// Forgets a pod that is gone, and that it was assumed.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> PodChange {
        let Some(before) = self.pods.remove(key) else { return PodChange::default() };
        let mut freed = false;
        if let Some(node) = before.occupies() {
            self.nodes.give_back(node, &before.shape.requests);
            freed = true;
        }
        freed |= self.forget(key, &before.uid);
        PodChange { before: Some(before), freed }
    }

    /// Counts a pod on the node that it is about to be bound to.
    pub fn assume(&mut self, pod: &PodFacts, node: &str) {
        let claim = Claim { node: node.to_owned(), requests: pod.shape.requests.clone() };
        self.nodes.take(node, &claim.requests);
        let before = self.assumed.insert(pod.key.clone(), Assumed { uid: pod.uid.clone(), claim });
        if let Some(before) = before {
            self.nodes.give_back(&before.claim.node, &before.claim.requests);
        }
    }

    /// Undoes [`Cache::assume`] for this very pod. True when it was assumed.
    pub fn forget(&mut self, key: &ObjectKey, uid: &str) -> bool {
        if self.assumed.get(key).is_none_or(|assumed| assumed.uid != uid) {
            return false;
        }
        if let Some(assumed) = self.assumed.remove(key) {
            self.nodes.give_back(&assumed.claim.node, &assumed.claim.requests);
        }
        true
    }

    /// The node that a pod is assumed on.
    #[must_use]
    pub fn assumed(&self, key: &ObjectKey) -> Option<&str> {
        self.assumed.get(key).map(|assumed| assumed.claim.node.as_str())
    }

    /// Keeps room for a member of a gang.
    pub fn hold(&mut self, gang: &ObjectKey, pod: &str, node: &str, shape: &Shape) {
        let claim = Claim { node: node.to_owned(), requests: shape.requests.clone() };
        self.nodes.take(node, &claim.requests);
        let before = self.held.entry(gang.clone()).or_default().insert(pod.to_owned(), claim);
        if let Some(before) = before {
            self.nodes.give_back(&before.node, &before.requests);
        }
    }

    /// The room that is held for a member.
    #[must_use]
    pub fn held(&self, gang: &ObjectKey, pod: &str) -> Option<&Claim> {
        self.held.get(gang)?.get(pod)
    }

    /// Everything that is held for a gang, by pod.
    pub fn holds(&self, gang: &ObjectKey) -> impl Iterator<Item = (&str, &Claim)> {
        self.held.get(gang).into_iter().flatten().map(|(pod, claim)| (pod.as_str(), claim))
    }

    /// Number of members that room is held for.
    #[must_use]
    pub fn holds_in_all(&self) -> usize {
        self.held.values().map(BTreeMap::len).sum()
    }

    /// Gives back what is held for the members that `drop` names; what was held is the result.
    pub fn release(&mut self, gang: &ObjectKey, mut drop: impl FnMut(&str) -> bool) -> BTreeMap<String, Claim> {
        let Some(holds) = self.held.get_mut(gang) else { return BTreeMap::new() };
        let released: BTreeMap<String, Claim> = holds.extract_if(.., |pod, _| drop(pod)).collect();
        if holds.is_empty() {
            self.held.remove(gang);
        }
        for claim in released.values() {
            self.nodes.give_back(&claim.node, &claim.requests);
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use atoll_core::gang::{POD_SLOT, RESOURCE_PODS};
    use proptest::prelude::*;

    use super::*;

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
            uid: format!("u{uid}"),
            created: Duration::ZERO,
            node: node.map(|n| format!("n{n}")),
            finished,
            ours: true,
            deleting: false,
            gated: false,
            gang: None,
            priority: 0,
            shape: shape(size),
            not_supported: None,
            unschedulable: None,
        }
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
                        if node.is_some() || finished || assumed.get(&pod).is_some_and(|(u, ..)| *u != facts.uid) {
                            assumed.remove(&pod);
                        }
                        pods.insert(pod, facts.clone());
                        cache.set_pod(facts);
                    }
                    Step::Gone(pod) => {
                        if let Some(facts) = pods.remove(&pod)
                            && assumed.get(&pod).is_some_and(|(uid, ..)| *uid == facts.uid)
                        {
                            assumed.remove(&pod);
                        }
                        cache.remove_pod(&key(pod));
                    }
                    Step::Assume { pod, node } => {
                        if let Some(facts) = pods.get(&pod).filter(|facts| facts.node.is_none() && !facts.finished) {
                            cache.assume(facts, &format!("n{node}"));
                            let size = facts.shape.requests.get("gpu");
                            assumed.insert(pod, (facts.uid.clone(), format!("n{node}"), size));
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
                        cache.hold(&key(gang), &format!("p{pod}"), &format!("n{node}"), &shape(size));
                        held.insert((gang, pod), (node, size * 1000));
                    }
                    Step::Release { gang, pod } => {
                        let mut expected = 0;
                        held.retain(|(g, p), _| {
                            let goes = *g == gang && pod.is_none_or(|pod| *p == pod);
                            expected += usize::from(goes);
                            !goes
                        });
                        let released = cache.release(&key(gang), |p| pod.is_none_or(|pod| p == format!("p{pod}")));
                        prop_assert_eq!(released.len(), expected);
                    }
                }
                for node in ["n0", "n1", "n2"] {
                    let bound = pods.values().filter(|p| p.occupies() == Some(node)).map(|p| p.shape.requests.get("gpu"));
                    let assumed = assumed.values().filter(|(_, n, _)| n == node).map(|(_, _, size)| *size);
                    let held = held.values().filter(|(n, _)| format!("n{n}") == node).map(|(_, size)| *size);
                    let expected: i128 = bound.chain(assumed).chain(held).sum();
                    prop_assert_eq!(cache.nodes().used(node).get("gpu"), expected, "{}", node);
                }
            }
        }
    }
}
