//! What is on the nodes: bound pods of every scheduler, pods on their way, and room held for pods to come.

#[cfg(test)]
mod tests;
mod volumes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use atoll_core::scheduling::{Aside, Identity, NodeState, Nodes, Occupant, OccupantId, Shape, Stage, suits};

use crate::objects::{ClaimFacts, Interner, ObjectKey, PodFacts, VolumeFacts};
use crate::queue::Work;
use volumes::Volumes;

/// Room that is kept for a pod.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Node.
    pub node: Arc<str>,
    /// How much, and what else it asks.
    pub shape: Arc<Shape>,
    id: OccupantId,
}

/// Where a pod counts.
#[derive(Debug)]
struct Seat {
    id: OccupantId,
    node: Arc<str>,
    /// Not seen bound yet.
    assumed: bool,
}

#[derive(Debug)]
struct Entry {
    facts: Arc<PodFacts>,
    /// What it asks with its volumes, or why that is not known yet.
    shape: Result<Arc<Shape>, Arc<str>>,
    seat: Option<Seat>,
}

impl Entry {
    /// What it asks; without its volumes as long as they are not known.
    fn counted(&self) -> &Arc<Shape> {
        self.shape.as_ref().unwrap_or(&self.facts.shape)
    }
}

/// What is on the nodes. Each pod counts once: held, then assumed, then bound.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: Nodes,
    /// How many volumes the nodes may attach, by node and driver; kept for nodes that are not known yet.
    limits: HashMap<String, BTreeMap<String, u32>>,
    pods: HashMap<ObjectKey, Entry>,
    held: HashMap<Work, BTreeMap<ObjectKey, Claim>>,
    holders: HashMap<OccupantId, Work>,
    interner: Arc<Interner>,
    volumes: Volumes,
    /// How many pods of each priority count on nodes.
    priorities: BTreeMap<i32, usize>,
}

/// What a pod's event changed.
#[derive(Debug, Default)]
pub struct PodChange {
    /// The pod before, as the cache had it.
    pub before: Option<Arc<PodFacts>>,
    /// Room became free.
    pub freed: bool,
    /// Who counts on a node is not the same as before.
    pub moved: bool,
}

impl Cache {
    /// An empty one; equal shapes and identities are those of the interner.
    #[must_use]
    pub fn new(interner: Arc<Interner>) -> Self {
        Self { interner, ..Self::default() }
    }

    /// The nodes with everything that counts on them.
    #[must_use]
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// For decisions, which leave them as they were.
    pub(crate) fn nodes_mut(&mut self) -> &mut Nodes {
        &mut self.nodes
    }

    /// Adds or replaces a node. False when nothing changed.
    pub fn set_node(&mut self, mut node: NodeState) -> bool {
        if let Some(limits) = self.limits.get(&node.name) {
            node.volume_limits.clone_from(limits);
        }
        self.nodes.set(node)
    }

    /// How many volumes a node may attach, by driver. False when nothing changed.
    pub fn set_volume_limits(&mut self, node: &str, limits: Option<BTreeMap<String, u32>>) -> bool {
        let known = self.nodes.get(node).cloned();
        let state = known.map(|state| NodeState { volume_limits: limits.clone().unwrap_or_default(), ..state });
        match limits {
            Some(limits) => self.limits.insert(node.to_owned(), limits),
            None => self.limits.remove(node),
        };
        state.is_some_and(|state| self.nodes.set(state))
    }

    /// Forgets a node. False when there was none.
    pub fn remove_node(&mut self, name: &str) -> bool {
        self.nodes.remove(name)
    }

    /// The labels of a namespace, `None` when it is gone. False when nothing changed. Pods that are known already keep
    /// what they had until [`Cache::renew`].
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) -> bool {
        match labels {
            Some(labels) => self.interner.namespace(name, labels),
            None => self.interner.namespace_gone(name),
        }
    }

    /// Gives the pods of a namespace, or all of them, the labels that their namespaces have now.
    pub fn renew(&mut self, namespace: Option<&str>) {
        let renewed = self.pods.values().filter_map(|entry| {
            let mine = &entry.facts.identity;
            if namespace.is_some_and(|name| *name != mine.namespace) {
                return None;
            }
            let identity = self.interner.renewed(mine);
            if Arc::ptr_eq(&identity, mine) {
                return None;
            }
            Some(PodFacts { identity, ..PodFacts::clone(&entry.facts) })
        });
        for pod in renewed.collect::<Vec<_>>() {
            self.set_pod(pod);
        }
    }

    /// A claim, `None` when it is gone. The pods of which it changed what they ask are the result.
    pub fn set_claim(&mut self, key: &ObjectKey, claim: Option<ClaimFacts>) -> Vec<ObjectKey> {
        let pods = self.volumes.set_claim(key, claim);
        self.resolve(pods)
    }

    /// A volume, `None` when it is gone. The pods of which it changed what they ask are the result.
    pub fn set_volume(&mut self, name: &str, volume: Option<VolumeFacts>) -> Vec<ObjectKey> {
        let pods = self.volumes.set_volume(name, volume);
        self.resolve(pods)
    }

    fn resolve(&mut self, mut pods: Vec<ObjectKey>) -> Vec<ObjectKey> {
        pods.retain(|key| {
            let Some(entry) = self.pods.get(key) else { return false };
            let before = entry.shape.clone();
            let facts = PodFacts::clone(&entry.facts);
            self.set_pod(facts);
            self.pods.get(key).is_some_and(|entry| entry.shape != before)
        });
        pods
    }

    /// The pod of this name.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<&Arc<PodFacts>> {
        self.pods.get(key).map(|entry| &entry.facts)
    }

    /// What the pod asks for with its volumes, or why that is not known yet.
    ///
    /// # Errors
    /// In words, which claim it waits for.
    #[must_use]
    pub fn shape(&self, key: &ObjectKey) -> Option<Result<&Arc<Shape>, &Arc<str>>> {
        self.pods.get(key).map(|entry| entry.shape.as_ref())
    }

    /// The one shape that equals this one.
    pub(crate) fn intern(&self, shape: Shape) -> Arc<Shape> {
        self.interner.shape(shape)
    }

    /// Every pod.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.pods.values().map(|entry| &entry.facts)
    }

    /// Every pod that counts on a node, with its place there.
    pub(crate) fn seated(&self) -> impl Iterator<Item = (&Arc<PodFacts>, OccupantId, bool)> {
        self.pods.values().filter_map(|entry| {
            let seat = entry.seat.as_ref()?;
            Some((&entry.facts, seat.id, seat.assumed))
        })
    }

    /// Number of pods.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there are no pods.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Whether a pod of lower priority counts on some node.
    #[must_use]
    pub fn has_lower(&self, priority: i32) -> bool {
        self.priorities.first_key_value().is_some_and(|(lowest, _)| *lowest < priority)
    }

    /// Adds or replaces a pod. A pod that is seen bound, finished or made anew is no longer assumed.
    pub fn set_pod(&mut self, mut pod: PodFacts) -> PodChange {
        pod.identity = self.interner.renewed(&pod.identity);
        let old = self.pods.remove(&pod.key);
        if let Some(old) = &old {
            self.volumes.forget(&old.facts);
        }
        let shape = self.volumes.shape_of(&pod, &self.interner);
        let pod = Arc::new(pod);
        let mut entry = Entry { facts: Arc::clone(&pod), shape, seat: None };
        let before = old.as_ref().map(|old| Arc::clone(&old.facts));
        let stage = if pod.deleting { Stage::Terminating } else { Stage::Bound };
        let old_seat = old.and_then(|mut old| {
            let seat = old.seat.take()?;
            Some((seat, old))
        });
        let kept =
            old_seat.as_ref().filter(|(seat, old)| seat.assumed && old.facts.uid == pod.uid && pod.node.is_none());
        let place: Option<(Arc<str>, bool)> = match (&pod.node, kept) {
            _ if pod.finished => None,
            (Some(node), _) => Some((Arc::clone(node), false)),
            (None, Some((seat, _))) => Some((Arc::clone(&seat.node), true)),
            (None, None) => None,
        };
        let mut change = PodChange { before, ..PodChange::default() };
        let same = old_seat.as_ref().is_some_and(|(seat, old)| {
            place.as_ref().is_some_and(|(node, _)| *node == seat.node)
                && old.facts.deleting == pod.deleting
                && old.facts.priority == pod.priority
                && (Arc::ptr_eq(old.counted(), entry.counted()) || old.counted() == entry.counted())
                && (Arc::ptr_eq(&old.facts.identity, &pod.identity) || old.facts.identity == pod.identity)
        });
        match (old_seat, place) {
            (Some((seat, _)), Some((_, assumed))) if same => entry.seat = Some(Seat { assumed, ..seat }),
            (old_seat, place) => {
                change.moved = old_seat.is_some() || place.is_some();
                if let Some((seat, old)) = old_seat {
                    change.freed = place.as_ref().is_none_or(|(node, _)| *node != seat.node)
                        || old.counted().requests != entry.counted().requests;
                    self.unseat(&seat, old.facts.priority);
                }
                if let Some((node, assumed)) = place {
                    entry.seat = Some(self.seat(&entry, node, stage, assumed));
                }
            }
        }
        self.pods.insert(pod.key.clone(), entry);
        change
    }

    /// Forgets a pod that is gone, and that it was assumed.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> PodChange {
        let Some(entry) = self.pods.remove(key) else { return PodChange::default() };
        self.volumes.forget(&entry.facts);
        let freed = entry.seat.is_some();
        if let Some(seat) = &entry.seat {
            self.unseat(seat, entry.facts.priority);
        }
        PodChange { before: Some(entry.facts), freed, moved: freed }
    }

    /// Counts a pod on the node that it is about to be bound to.
    pub fn assume(&mut self, key: &ObjectKey, node: &Arc<str>) {
        let Some(mut entry) = self.pods.remove(key) else { return };
        if let Some(seat) = entry.seat.take() {
            self.unseat(&seat, entry.facts.priority);
        }
        entry.seat = Some(self.seat(&entry, Arc::clone(node), Stage::Bound, true));
        self.pods.insert(key.clone(), entry);
    }

    /// Undoes [`Cache::assume`] for this very pod. True when it was assumed.
    pub fn forget(&mut self, key: &ObjectKey, uid: &str) -> bool {
        let Some(entry) = self.pods.get_mut(key).filter(|entry| *entry.facts.uid == *uid) else { return false };
        let Some(seat) = entry.seat.take_if(|seat| seat.assumed) else { return false };
        let priority = entry.facts.priority;
        self.unseat(&seat, priority);
        true
    }

    /// The node that a pod is assumed on.
    #[must_use]
    pub fn assumed(&self, key: &ObjectKey) -> Option<&Arc<str>> {
        self.pods.get(key)?.seat.as_ref().filter(|seat| seat.assumed).map(|seat| &seat.node)
    }

    /// Keeps room for a pod of this work, be it there or not.
    pub fn hold(&mut self, work: &Work, pod: &ObjectKey, node: &str, shape: &Arc<Shape>) {
        let identity = self.pods.get(pod).map_or_else(
            || Arc::new(Identity { namespace: pod.namespace.to_string(), ..Identity::default() }),
            |entry| Arc::clone(&entry.facts.identity),
        );
        let id = self.nodes.put(node, Occupant { shape: Arc::clone(shape), identity, stage: Stage::Coming });
        let claim = Claim { node: Arc::from(node), shape: Arc::clone(shape), id };
        self.holders.insert(id, work.clone());
        let before = self.held.entry(work.clone()).or_default().insert(pod.clone(), claim);
        if let Some(before) = before {
            self.drop_claim(&before);
        }
    }

    /// The room that is held for a pod.
    #[must_use]
    pub fn held(&self, work: &Work, pod: &ObjectKey) -> Option<&Claim> {
        self.held.get(work)?.get(pod)
    }

    /// Everything that is held, by pod.
    pub fn holds(&self, work: &Work) -> impl Iterator<Item = (&ObjectKey, &Claim)> {
        self.held.get(work).into_iter().flatten()
    }

    /// Number of pods that room is held for.
    #[must_use]
    pub fn holds_in_all(&self) -> usize {
        self.holders.len()
    }

    /// Who holds room on a node.
    #[must_use]
    pub fn holders_on(&self, node: &str) -> Vec<Work> {
        let Some(ix) = self.nodes.ix(node) else { return Vec::new() };
        let coming = self.nodes.occupants(ix).filter(|(_, occupant)| occupant.stage == Stage::Coming);
        let mut holders: Vec<Work> = coming.filter_map(|(id, _)| self.holders.get(&id)).cloned().collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Gives back what is held for the pods that `drop` names; what was held is the result.
    pub fn release(&mut self, work: &Work, mut drop: impl FnMut(&ObjectKey) -> bool) -> BTreeMap<ObjectKey, Claim> {
        let Some(holds) = self.held.get_mut(work) else { return BTreeMap::new() };
        let released: BTreeMap<ObjectKey, Claim> = holds.extract_if(.., |pod, _| drop(pod)).collect();
        if holds.is_empty() {
            self.held.remove(work);
        }
        for claim in released.values() {
            self.drop_claim(claim);
        }
        released
    }

    /// Sets aside what is held, to see what would be without; [`Cache::restore`] undoes it.
    #[must_use = "what is lifted must be put back"]
    pub(crate) fn lift(&mut self, work: &Work) -> Vec<Aside> {
        let ids: Vec<OccupantId> = self.holds(work).map(|(_, claim)| claim.id).collect();
        ids.into_iter().filter_map(|id| self.nodes.set_aside(id)).collect()
    }

    /// Undoes [`Cache::lift`].
    pub(crate) fn restore(&mut self, lifted: Vec<Aside>) {
        for aside in lifted {
            self.nodes.put_back(aside);
        }
    }

    /// Whether a pod of this shape, that counts on the node already, might stay there.
    #[must_use]
    pub fn still_suits(&self, node: &str, shape: &Shape) -> bool {
        let found = self.nodes.ix(node).and_then(|ix| self.nodes.node(ix));
        found.is_some_and(|(state, room)| {
            suits(state, shape).is_none()
                && shape.requests.iter().all(|(r, _)| room.used.get(r) <= state.allocatable.get(r))
        })
    }

    fn seat(&mut self, entry: &Entry, node: Arc<str>, stage: Stage, assumed: bool) -> Seat {
        let occupant =
            Occupant { shape: Arc::clone(entry.counted()), identity: Arc::clone(&entry.facts.identity), stage };
        *self.priorities.entry(entry.facts.priority).or_default() += 1;
        Seat { id: self.nodes.put(&node, occupant), node, assumed }
    }

    fn unseat(&mut self, seat: &Seat, priority: i32) {
        self.nodes.take_off(seat.id);
        if let Some(count) = self.priorities.get_mut(&priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&priority);
            }
        }
    }

    fn drop_claim(&mut self, claim: &Claim) {
        self.nodes.take_off(claim.id);
        self.holders.remove(&claim.id);
    }
}
