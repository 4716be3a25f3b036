//! What a pod asks of its node and of the other pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::amounts::Amounts;
use super::node::Effect;
use super::selector::{Requirement, Selector};

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

/// Who a pod is to others' affinities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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

/// What a pod's volumes ask of its node, read from their claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeNeeds {
    /// Node affinities of its persistent volumes: of each, one term must match.
    pub affinities: Vec<Vec<NodeTerm>>,
    /// Zone and region labels of its volumes: the node's label must have one of the values if the node has such a
    /// label at all.
    pub zones: Vec<(String, BTreeSet<String>)>,
    /// Volumes to attach, by CSI driver.
    pub attached: BTreeMap<String, BTreeSet<String>>,
    /// Disks that only one pod of a node, or of the cluster, may use for writing.
    pub exclusive: BTreeSet<ExclusiveVolume>,
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
