//! Nodes, what pods ask of them, and whether one suits the other.

use std::collections::BTreeMap;

use super::amounts::{Amounts, is_device};

/// The taint that stands for `spec.unschedulable`; who tolerates it may be put on a cordoned node.
const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What a taint does to pods that do not tolerate it. `PreferNoSchedule` is a wish and not represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// New pods are kept away.
    NoSchedule,
    /// New pods are kept away, running ones are evicted.
    NoExecute,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, possibly empty.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

/// A toleration of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Toleration {
    /// Key; `None` matches every key.
    pub key: Option<String>,
    /// Value that the taint must have; `None` matches every value.
    pub value: Option<String>,
    /// Effect; `None` matches every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// One node as the API server shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Name.
    pub name: String,
    /// What pods may take in all, [`super::RESOURCE_PODS`] included.
    pub allocatable: Amounts,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints that keep pods away.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// The kubelet reports it Ready.
    pub ready: bool,
}

/// How a label (or the name) of a node is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values, or absent.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// An integer above the one value.
    Gt,
    /// An integer below the one value.
    Lt,
}

/// One comparison of a [`NodeTerm`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// What it is compared with.
    pub values: Vec<String>,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        let bound = || if self.values.len() == 1 { number(self.values.first().map(String::as_str)) } else { None };
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.iter().any(|one| one == v)),
            Operator::NotIn => value.is_none_or(|v| self.values.iter().all(|one| one != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => number(value).zip(bound()).is_some_and(|(v, least)| v > least),
            Operator::Lt => number(value).zip(bound()).is_some_and(|(v, most)| v < most),
        }
    }
}

/// Comparisons that must all hold. One without any matches no node, as in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeTerm {
    /// About labels.
    pub labels: Vec<Requirement>,
    /// About the node's name; the key is not looked at.
    pub name: Vec<Requirement>,
}

impl NodeTerm {
    fn matches(&self, node: &NodeState) -> bool {
        (!self.labels.is_empty() || !self.name.is_empty())
            && self.labels.iter().all(|r| r.matches(node.labels.get(&r.key).map(String::as_str)))
            && self.name.iter().all(|r| r.matches(Some(&node.name)))
    }
}

/// What one pod asks of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// What it takes, its slot of [`super::RESOURCE_PODS`] included.
    pub requests: Amounts,
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity: one of these must match. `None`: no constraint; `Some` of nothing matches no node.
    pub affinity: Option<Vec<NodeTerm>>,
    /// Taints that it tolerates.
    pub tolerations: Vec<Toleration>,
}

impl Shape {
    fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| t.tolerates(taint))
    }
}

/// Why a node is out for a pod: the first filter that said no.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Not Ready.
    NotReady,
    /// Cordoned.
    Cordoned,
    /// A taint that is not tolerated.
    Tainted(Taint),
    /// Labels that do not match the node selector or affinity.
    NotSelected,
    /// It never has that much of this resource.
    TooSmall(String),
    /// It has that much of this resource, and too little of it is free.
    InUse(String),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    pub(super) state: Option<NodeState>,
    pub(super) used: Amounts,
}

/// The nodes of a Site and what is taken on each.
///
/// What is taken is kept for nodes that are not known (yet), so that pods and nodes may arrive in any order.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    rooms: BTreeMap<String, Room>,
}

impl Nodes {
    /// Adds or replaces a node; what is taken on it stays. False when nothing changed.
    pub fn set(&mut self, state: NodeState) -> bool {
        if let Some(room) = self.rooms.get_mut(&state.name) {
            if room.state.as_ref() == Some(&state) {
                return false;
            }
            room.state = Some(state);
        } else {
            self.rooms.insert(state.name.clone(), Room { state: Some(state), used: Amounts::default() });
        }
        true
    }

    /// Forgets a node; what is taken on it stays until it is given back. False when there was none.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(room) = self.rooms.get_mut(name) else { return false };
        let known = room.state.take().is_some();
        if room.used.is_empty() {
            self.rooms.remove(name);
        }
        known
    }

    /// Counts a pod, or what is held for one, on a node.
    pub fn take(&mut self, node: &str, amounts: &Amounts) {
        if let Some(room) = self.rooms.get_mut(node) {
            room.used.add(amounts);
        } else {
            self.rooms.insert(node.to_owned(), Room { state: None, used: amounts.clone() });
        }
    }

    /// Undoes one [`Nodes::take`].
    pub fn give_back(&mut self, node: &str, amounts: &Amounts) {
        if let Some(room) = self.rooms.get_mut(node) {
            room.used.subtract(amounts);
            if room.used.is_empty() && room.state.is_none() {
                self.rooms.remove(node);
            }
        }
    }

    /// The node of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&NodeState> {
        self.rooms.get(name).and_then(|room| room.state.as_ref())
    }

    /// What is taken on the node of this name.
    #[must_use]
    pub fn used(&self, name: &str) -> Amounts {
        self.rooms.get(name).map(|room| room.used.clone()).unwrap_or_default()
    }

    /// Every known node, by name.
    pub fn iter(&self) -> impl Iterator<Item = &NodeState> {
        self.rooms.values().filter_map(|room| room.state.as_ref())
    }

    /// Whether a pod that already counts on `node` might stay there: everything but the room for it.
    #[must_use]
    pub fn still_suits(&self, node: &str, shape: &Shape) -> bool {
        self.rooms.get(node).is_some_and(|room| {
            room.state.as_ref().is_some_and(|state| {
                unsuitable(state, shape).is_none()
                    && shape.requests.iter().all(|(r, _)| room.used.get(r) <= state.allocatable.get(r))
            })
        })
    }

    pub(super) fn rooms(&self) -> impl Iterator<Item = (&str, &NodeState, &Amounts)> {
        self.rooms.iter().filter_map(|(name, room)| Some((name.as_str(), room.state.as_ref()?, &room.used)))
    }

    pub(super) fn room(&self, name: &str) -> Option<(&str, &NodeState, &Amounts)> {
        let (name, room) = self.rooms.get_key_value(name)?;
        Some((name.as_str(), room.state.as_ref()?, &room.used))
    }
}

/// Why a pod of this shape may not be on the node at all, however empty it is.
pub(super) fn unsuitable(node: &NodeState, shape: &Shape) -> Option<Why> {
    if !node.ready {
        return Some(Why::NotReady);
    }
    if node.unschedulable {
        let cordon = Taint { key: TAINT_UNSCHEDULABLE.to_owned(), value: String::new(), effect: Effect::NoSchedule };
        if !shape.tolerates(&cordon) {
            return Some(Why::Cordoned);
        }
    }
    if let Some(taint) = node.taints.iter().find(|taint| !shape.tolerates(taint)) {
        return Some(Why::Tainted(taint.clone()));
    }
    let selected = shape.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && shape.affinity.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node)));
    if !selected {
        return Some(Why::NotSelected);
    }
    None
}

/// The first resource that is short on the node, devices before all else.
pub(super) fn short(node: &NodeState, used: &Amounts, also: Option<&Amounts>, requests: &Amounts) -> Option<Why> {
    let lacking = |resource: &str, milli: i128| {
        let allocatable = node.allocatable.get(resource);
        let taken = used.get(resource) + also.map_or(0, |a| a.get(resource));
        if milli > allocatable {
            Some(Why::TooSmall(resource.to_owned()))
        } else if milli > 0 && milli > allocatable - taken {
            Some(Why::InUse(resource.to_owned()))
        } else {
            None
        }
    };
    let devices = requests.iter().filter(|(r, _)| is_device(r));
    let rest = requests.iter().filter(|(r, _)| !is_device(r));
    devices.chain(rest).find_map(|(resource, milli)| lacking(resource, milli))
}

/// Why one node is out for a shape, on what is taken now.
pub(super) fn why(state: &NodeState, used: &Amounts, shape: &Shape) -> Option<Why> {
    unsuitable(state, shape).or_else(|| short(state, used, None, &shape.requests))
}
