//! Pods: who they are, what they take, and what they ask of nodes and of each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::names::{
    ANNOTATION_DURATION, ANNOTATION_PREFERRED_TOPOLOGY, ANNOTATION_REQUIRED_TOPOLOGY, LABEL_GANG, LABEL_GANG_MIN,
    LABEL_GANG_SIZE, LABEL_RANK,
};
use atoll_core::scheduling::{
    Amounts, Coupling, HostPort, Identity, Level, POD_SLOT, RESOURCE_PODS, Shape, VolumeNeeds,
};
use atoll_core::units::parse_duration_seconds;

use super::affinity::{coupling, preferred_nodes, required_nodes, spread, toleration};
use super::quantities::{is_sidecar, pod_requests};
use super::volumes::{self, ClaimRef};
use super::{Interner, NotSupported, ObjectKey, created, instant};
use crate::proto::{Container, ObjectMeta, Pod, PodSpec, PodStatus};

/// Labels that say which of its siblings a pod is, where [`LABEL_RANK`] does not: set by Kubernetes itself on the pods
/// of stateful sets and of indexed jobs.
const LABELS_INDEX: [&str; 2] = ["apps.kubernetes.io/pod-index", "batch.kubernetes.io/job-completion-index"];
/// Every node has it, and with "0.0.0.0" as its address a port is taken on all of them.
const EVERY_ADDRESS: &str = "0.0.0.0";
/// Resources whose devices a scheduler would have to choose and claim (DRA).
const DEVICE_CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";

/// What makes a pod a member of a gang of its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GangName {
    /// The Gang object of this name rules.
    Object(String),
    /// Its own labels or annotations say all that there is to know.
    Label {
        /// Name.
        name: String,
        /// How many pods there will be.
        size: u32,
        /// How many of them must be bound for any to be bound; from 1 to `size`.
        min: u32,
    },
    /// Kubernetes' own `PodGroup` of this name rules.
    PodGroup(String),
}

impl GangName {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Object(name) | Self::Label { name, .. } | Self::PodGroup(name) => name,
        }
    }
}

/// What of a pod matters to the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about an object of another system")]
pub struct PodFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID.
    pub uid: Arc<str>,
    /// Creation, since the Unix epoch.
    pub created: Duration,
    /// The node it is bound to.
    pub node: Option<Arc<str>>,
    /// Succeeded or Failed: it takes nothing any more.
    pub finished: bool,
    /// It names this scheduler.
    pub ours: bool,
    /// Being deleted.
    pub deleting: bool,
    /// It has scheduling gates.
    pub gated: bool,
    /// The gang that it is a member of, in its namespace.
    pub gang: Option<GangName>,
    /// Which of its siblings it is.
    pub rank: Option<u32>,
    /// `spec.priority`.
    pub priority: i32,
    /// It may take the place of others.
    pub preempts: bool,
    /// The node that others are leaving for it.
    pub nominated: Option<String>,
    /// When its node's kubelet took it, since the Unix epoch.
    pub started: Option<Duration>,
    /// How long it runs at most, if it says so.
    pub duration: Option<Duration>,
    /// Where the pods of its gang are to be together, for a gang of labels.
    pub topology: Vec<Level>,
    /// What it takes and asks for, but for what its claims ask. For pods of other schedulers only what matters to
    /// others: what they take, and whom they want near.
    pub shape: Arc<Shape>,
    /// Who it is to others' affinities.
    pub identity: Arc<Identity>,
    /// Claims of its volumes.
    pub claims: Vec<ClaimRef>,
    /// Why it cannot be scheduled here.
    pub not_supported: Option<NotSupported>,
    /// Message of its `PodScheduled=False` condition.
    pub unschedulable: Option<String>,
}

impl PodFacts {
    /// Reads a pod; `scheduler` is our name.
    ///
    /// Pods that are ours keep their whole shape when they are bound, so that the pod that the API server shows after
    /// a binding has the very shape that was assumed.
    #[must_use]
    pub fn of(pod: Pod, scheduler: &str, interner: &Interner) -> Self {
        let meta = pod.metadata.unwrap_or_default();
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let uid: Arc<str> = Arc::from(meta.uid.as_str());
        let ours = spec.scheduler_name == scheduler;
        let (inline, claims) = volumes::of_pod(&meta.name, &uid, &spec.volumes);
        let (gang, bad_gang) = match gang(&meta, &spec) {
            Ok(gang) => (gang, None),
            Err(why) => (None, Some(why)),
        };
        let (shape, bad_shape) = shape(&meta, &spec, &status, inline, ours);
        let condition = status.conditions.into_iter().find(|c| c.r#type == "PodScheduled" && c.status == "False");
        Self {
            created: created(&meta),
            node: filled(&spec.node_name).map(|node| interner.name(node)),
            finished: status.phase == "Succeeded" || status.phase == "Failed",
            ours,
            deleting: meta.deletion_timestamp.is_some(),
            gated: !spec.scheduling_gates.is_empty(),
            topology: if matches!(gang, Some(GangName::Label { .. })) { topology(&meta) } else { Vec::new() },
            gang,
            rank: rank(&meta.labels),
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_ref().is_none_or(|policy| policy != "Never"),
            nominated: filled(&status.nominated_node_name).map(str::to_owned),
            started: status.start_time.map(instant),
            duration: duration(&meta, &spec),
            shape: interner.shape(shape),
            claims,
            not_supported: bad_shape.or(bad_gang),
            unschedulable: condition.map(|condition| condition.message),
            key: ObjectKey { namespace: interner.name(&meta.namespace), name: Arc::from(meta.name) },
            uid,
            identity: interner.identity(&meta.namespace, meta.labels),
        }
    }

    /// The node that it takes room on.
    #[must_use]
    pub fn occupies(&self) -> Option<&Arc<str>> {
        if self.finished { None } else { self.node.as_ref() }
    }

    /// Whether this scheduler is to find a node for it now.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.ours && self.node.is_none() && !self.finished && !self.deleting && !self.gated
    }

    /// Its shape together with what its claims ask; its shape itself when they ask nothing.
    #[must_use]
    pub fn shape_with(&self, needs: VolumeNeeds, interner: &Interner) -> Arc<Shape> {
        if needs == VolumeNeeds::default() {
            return Arc::clone(&self.shape);
        }
        let shape = Shape::clone(&self.shape);
        let volumes = volumes::together(shape.volumes.clone(), needs);
        interner.shape(Shape { volumes, ..shape })
    }
}

fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// The shape of a pod, and why it cannot be scheduled by us; the shape then still says what it takes.
fn shape(
    meta: &ObjectMeta,
    spec: &PodSpec,
    status: &PodStatus,
    volumes: VolumeNeeds,
    ours: bool,
) -> (Shape, Option<NotSupported>) {
    let (requests, bad_requests) = match pod_requests(spec, status) {
        Ok(requests) => (requests, None),
        Err(why) => {
            let mut slot = Amounts::default();
            slot.set(RESOURCE_PODS, POD_SLOT);
            (slot, Some(why))
        }
    };
    let (coupling, bad_coupling) = match coupling(spec.affinity.as_ref(), &meta.namespace) {
        Ok(coupling) => (coupling, None),
        Err(why) => (Coupling::default(), Some(why)),
    };
    let taken = Shape { requests, host_ports: host_ports(spec).collect(), volumes, coupling, ..Shape::default() };
    if !ours {
        return (taken, None);
    }
    if let Some(why) = bad_requests.or(bad_coupling).or_else(|| unsupported(spec)) {
        return (taken, Some(why));
    }
    match asked(meta, spec, taken.clone()) {
        Ok(shape) => (shape, None),
        Err(why) => (taken, Some(why)),
    }
}

/// Adds to what a pod takes what it asks of the nodes.
fn asked(meta: &ObjectMeta, spec: &PodSpec, mut shape: Shape) -> Result<Shape, NotSupported> {
    let nodes = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    shape.node_selector.clone_from(&spec.node_selector);
    shape.affinity = required_nodes(nodes)?;
    shape.preferred_nodes = preferred_nodes(nodes)?;
    let tolerations = spec.tolerations.iter().map(|t| toleration(&t.key, &t.operator, &t.value, &t.effect));
    shape.tolerations = tolerations.collect::<Result<_, _>>()?;
    let spreads = spec.topology_spread_constraints.iter().map(|constraint| spread(constraint, &meta.labels));
    shape.coupling.spread = spreads.collect::<Result<_, _>>()?;
    Ok(shape)
}

/// Containers that run as long as the pod does. With the host's network the API server has made every port of theirs
/// one of the host.
fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort> {
    let lasting = spec.init_containers.iter().filter(|container| is_sidecar(container)).chain(&spec.containers);
    lasting.flat_map(|container| &container.ports).filter_map(|port| {
        Some(HostPort {
            protocol: filled(&port.protocol).unwrap_or("TCP").to_owned(),
            ip: filled(&port.host_ip).unwrap_or(EVERY_ADDRESS).to_owned(),
            port: u16::try_from(port.host_port).ok().filter(|port| *port > 0)?,
        })
    })
}

/// What a pod asks for that this scheduler does not look at; ignoring it would be wrong.
///
/// That a device such as "nvidia.com/gpu" is served by DRA on some nodes cannot be seen from the pod: such nodes do
/// not have the resource among their allocatable amounts, so they are too small for it.
fn unsupported(spec: &PodSpec) -> Option<NotSupported> {
    let containers = || spec.containers.iter().chain(&spec.init_containers);
    let requirements = || containers().filter_map(|c| c.resources.as_ref()).chain(&spec.resources);
    let claims = !spec.resource_claims.is_empty()
        || requirements().any(|r| {
            !r.claims.is_empty() || r.requests.iter().any(|amount| amount.resource.starts_with(DEVICE_CLASS_PREFIX))
        });
    let mounts = |c: &Container| c.volume_mounts.iter().any(|mount| !mount.bind_mount_options.is_empty());
    let restarts = |c: &Container| c.restart_policy_rules.iter().any(|rule| rule.action == "RestartAllContainers");
    // Apart from the claims these need nodes that declare a feature.
    let checks = [
        ("resource claims", claims),
        ("user namespaces on the host's network", spec.host_network && spec.host_users == Some(false)),
        ("options of bind mounts", containers().any(mounts)),
        ("restart rules for all containers", containers().any(restarts)),
    ];
    let used: Vec<&'static str> = checks.into_iter().filter(|(_, used)| *used).map(|(name, _)| name).collect();
    if used.is_empty() { None } else { Some(NotSupported::Features(used)) }
}

/// Atoll's own label goes before Kubernetes' pod groups.
fn gang(meta: &ObjectMeta, spec: &PodSpec) -> Result<Option<GangName>, NotSupported> {
    let Some(name) = meta.labels.get(LABEL_GANG).and_then(|name| filled(name)) else {
        let group = spec.scheduling_group.as_ref().and_then(|group| group.pod_group_name.as_deref());
        return Ok(group.and_then(filled).map(|name| GangName::PodGroup(name.to_owned())));
    };
    let Some(size) = count(meta, LABEL_GANG_SIZE, None)? else { return Ok(Some(GangName::Object(name.to_owned()))) };
    let min = count(meta, LABEL_GANG_MIN, Some(size))?.unwrap_or(size);
    Ok(Some(GangName::Label { name: name.to_owned(), size, min }))
}

/// A number from 1 that stands in a label, or else in an annotation.
fn count(meta: &ObjectMeta, key: &'static str, most: Option<u32>) -> Result<Option<u32>, NotSupported> {
    let Some(text) = meta.labels.get(key).map(String::as_str).or_else(|| meta.annotation(key)) else { return Ok(None) };
    let number = text.parse::<u32>().ok().filter(|n| *n > 0 && most.is_none_or(|most| *n <= most));
    number.map(Some).ok_or_else(|| NotSupported::GangSize { key, text: text.to_owned(), most })
}

fn rank(labels: &BTreeMap<String, String>) -> Option<u32> {
    let mut keys = [LABEL_RANK].into_iter().chain(LABELS_INDEX);
    keys.find_map(|key| labels.get(key)?.parse().ok())
}

/// Levels that are required go before those that are preferred: they are the coarser ones.
fn topology(meta: &ObjectMeta) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    for (annotation, required) in [(ANNOTATION_REQUIRED_TOPOLOGY, true), (ANNOTATION_PREFERRED_TOPOLOGY, false)] {
        let keys = meta.annotation(annotation).into_iter().flat_map(|keys| keys.split(','));
        for key in keys.filter_map(|key| filled(key.trim())) {
            if !levels.iter().any(|level| level.key == key) {
                levels.push(Level { key: key.to_owned(), required });
            }
        }
    }
    levels
}

/// A duration that cannot be understood is none: it only lets a pod run earlier.
fn duration(meta: &ObjectMeta, spec: &PodSpec) -> Option<Duration> {
    let said = meta.annotation(ANNOTATION_DURATION).and_then(|text| parse_duration_seconds(text).ok());
    said.or_else(|| spec.active_deadline_seconds.and_then(|s| u64::try_from(s).ok())).map(Duration::from_secs)
}
