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
