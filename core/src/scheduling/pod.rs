//! What a pod asks of its node and of the other pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::amounts::Amounts;
use super::node::{Effect, NodeState, Taint};
use super::selector::{Operator, Requirement, Selector};

/// The address that stands for every one of a node.
const EVERY_ADDRESS: &str = "0.0.0.0";
/// Labels of nodes and volumes that tell where they are: the old name and today's.
const ZONE_LABELS: [[&str; 2]; 2] = [
    ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"],
    ["failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"],
];

/// What one pod asks for. Pods of one shape are alike for a decision, so a shape is kept once and shared
/// (`Arc`); who the pod is stands in [`Identity`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// What it takes, its slot of [`super::RESOURCE_PODS`] included.
    pub requests: Amounts,
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity: one of these must match. `None`: no constraint; `Some` of nothing matches no node.
    pub affinity: Option<Vec<NodeTerm>>,
    /// Preferred node affinity.
    pub preferred_nodes: Vec<(i32, NodeTerm)>,
    /// Taints that it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Ports of the node that it takes.
    pub host_ports: BTreeSet<HostPort>,
    /// What its volumes ask.
    pub volumes: VolumeNeeds,
    /// What it asks of other pods.
    pub coupling: Coupling,
}

impl Shape {
    /// Whether one of the tolerations is about this taint.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| toleration.tolerates(taint))
    }

    /// The first taint that keeps the pod away; preferences do not.
    #[must_use]
    pub fn untolerated<'a>(&self, node: &'a NodeState) -> Option<&'a Taint> {
        node.taints.iter().find(|taint| taint.effect != Effect::PreferNoSchedule && !self.tolerates(taint))
    }

    /// Whether the node selector and the required node affinity match.
    #[must_use]
    pub fn selects(&self, node: &NodeState) -> bool {
        self.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && self.affinity.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
    }
}

/// Who a pod is to others' affinities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Namespace.
    pub namespace: String,
    /// Labels of the namespace.
    pub namespace_labels: Arc<BTreeMap<String, String>>,
    /// Labels of the pod.
    pub labels: BTreeMap<String, String>,
}

/// A toleration of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Toleration {
    /// Key; `None` matches every key.
    pub key: Option<String>,
    /// What the taint's value must be.
    pub value: TolerationValue,
    /// Effect; `None` matches every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && self.key.as_ref().is_none_or(|key| *key == taint.key)
            && match &self.value {
                TolerationValue::Any => true,
                TolerationValue::Equal(value) => *value == taint.value,
                TolerationValue::Above(least) => decimal(&taint.value).is_some_and(|value| value > *least),
                TolerationValue::Below(most) => decimal(&taint.value).is_some_and(|value| value < *most),
            }
    }
}

/// An integer as Kubernetes writes them in taints: neither a plus sign nor leading zeros.
fn decimal(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = text == "0" || digits.bytes().next().is_some_and(|first| matches!(first, b'1'..=b'9'));
    if plain { text.parse().ok() } else { None }
}

/// What a toleration says of a taint's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TolerationValue {
    /// Any (`Exists`).
    Any,
    /// This one (`Equal`).
    Equal(String),
    /// An integer above this one (`Gt`).
    Above(i64),
    /// An integer below this one (`Lt`).
    Below(i64),
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
    /// Whether a node matches.
    #[must_use]
    pub fn matches(&self, node: &NodeState) -> bool {
        self.matches_labels(node) && self.name.iter().all(|one| names(one, Some(&node.name)))
    }

    /// Whether a node matches that is known by its labels only, as volumes know them: its name is not looked at.
    fn matches_labels(&self, node: &NodeState) -> bool {
        (!self.labels.is_empty() || !self.name.is_empty())
            && self.name.iter().all(|one| names(one, None))
            && self.labels.iter().all(|one| one.matches(node.labels.get(&one.key).map(String::as_str)))
    }
}

/// Whether a comparison of names can be made at all and, given a name, holds: with one value, one of two operators.
fn names(one: &Requirement, name: Option<&str>) -> bool {
    one.values.len() == 1
        && matches!(one.operator, Operator::In | Operator::NotIn)
        && name.is_none_or(|name| one.matches(Some(name)))
}

/// A port of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Address; "0.0.0.0" is every one.
    pub ip: String,
    /// Port, never 0.
    pub port: u16,
}

impl HostPort {
    /// Whether two pods with these ports cannot share a node.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == EVERY_ADDRESS || other.ip == EVERY_ADDRESS)
    }
}

/// What a pod's volumes ask of its node, read from their claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeNeeds {
    /// Required node affinities of its persistent volumes: of each, one term must match by its labels.
    pub affinities: Vec<Vec<NodeTerm>>,
    /// Zone and region labels of its volumes, old names as they are: a node that has any such label must have each of
    /// these with one of its values.
    pub zones: Vec<(String, BTreeSet<String>)>,
    /// Volumes to attach, by CSI driver.
    pub attached: BTreeMap<String, BTreeSet<String>>,
    /// Disks that only one pod of a node, or of the cluster, may use for writing.
    pub exclusive: BTreeSet<ExclusiveVolume>,
}

impl VolumeNeeds {
    /// Whether the volumes can be reached from a node, as far as labels tell.
    #[must_use]
    pub fn reachable_from(&self, node: &NodeState) -> bool {
        self.affinities.iter().all(|terms| terms.iter().any(|term| term.matches_labels(node)))
            && (self.zones.is_empty() || self.in_zones_of(node))
    }

    fn in_zones_of(&self, node: &NodeState) -> bool {
        if !ZONE_LABELS.iter().flatten().any(|label| node.labels.contains_key(*label)) {
            return true;
        }
        self.zones.iter().all(|(label, values)| {
            let renamed = ZONE_LABELS.iter().find(|[old, _]| old == label).map_or(label.as_str(), |[_, new]| *new);
            let there = node.labels.get(label).or_else(|| node.labels.get(renamed));
            there.is_some_and(|value| values.contains(value))
        })
    }
}

/// A volume that cannot be shared freely.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExclusiveVolume {
    /// Kind and name: "gce-pd/data", "claim/ns/name".
    pub id: String,
    /// Two pods that both only read it may share it.
    pub read_only: bool,
    /// Nobody else in the whole cluster may use it (`ReadWriteOncePod`), not only nobody on the node.
    pub anywhere: bool,
}

impl ExclusiveVolume {
    /// Whether two pods with these volumes cannot share a node.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        self.id == other.id && (self.anywhere || other.anywhere || !(self.read_only && other.read_only))
    }
}

/// What a pod asks of other pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coupling {
    /// Required: a pod that matches runs in the same domain.
    pub affinity: Vec<PodTerm>,
    /// Required: no pod that matches runs in the same domain.
    pub anti_affinity: Vec<PodTerm>,
    /// Preferred, by weight; negative weights repel.
    pub preferred: Vec<(i32, PodTerm)>,
    /// Topology spread constraints.
    pub spread: Vec<Spread>,
}

impl Coupling {
    /// Whether the pod asks nothing of other pods.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred.is_empty() && self.spread.is_empty()
    }

    /// Whether a pod like this is kept away by required anti-affinity.
    #[must_use]
    pub fn repels(&self, identity: &Identity) -> bool {
        self.anti_affinity.iter().any(|term| term.matches(identity))
    }
}

/// Other pods, and the domain in which they are looked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodTerm {
    /// Node label whose values are the domains.
    pub topology_key: String,
    /// Which pods.
    pub pods: Selector,
    /// In these namespaces …
    pub namespaces: BTreeSet<String>,
    /// … and in those whose labels match.
    pub namespace_selector: Selector,
}

impl PodTerm {
    /// Whether it is about a pod like this.
    #[must_use]
    pub fn matches(&self, identity: &Identity) -> bool {
        (self.namespaces.contains(&identity.namespace) || self.namespace_selector.matches(&identity.namespace_labels))
            && self.pods.matches(&identity.labels)
    }
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spread {
    /// Node label whose values are the domains.
    pub topology_key: String,
    /// Most pods that a domain may have more than the least filled one.
    pub max_skew: i32,
    /// Which pods count, in the pod's own namespace.
    pub pods: Selector,
    /// Required (`DoNotSchedule`) or only preferred.
    pub required: bool,
    /// With fewer domains than this the least filled one counts as empty.
    pub min_domains: i32,
    /// Domains count only nodes that the pod's node selector and affinity match (`Honor`, the default).
    pub honor_affinity: bool,
    /// Domains count only nodes whose taints are tolerated (`Ignore` is the default).
    pub honor_taints: bool,
}
