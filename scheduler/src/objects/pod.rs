//! Pods: what they take, and what they ask of a node.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::names::LABEL_GANG;
use atoll_core::gang::{Amounts, NodeTerm, Operator, POD_SLOT, RESOURCE_PODS, Requirement, Shape};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, NodeAffinity, NodeSelectorRequirement, Pod, PodSpec, ResourceRequirements, Volume,
};

use super::{NotSupported, ObjectKey, amounts, created, tolerations};

/// What of a pod matters to the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about an object of another system")]
pub struct PodFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID.
    pub uid: String,
    /// Creation, since the Unix epoch.
    pub created: Duration,
    /// The node it is bound to.
    pub node: Option<String>,
    /// Succeeded or Failed: it takes nothing any more.
    pub finished: bool,
    /// It names this scheduler.
    pub ours: bool,
    /// Being deleted.
    pub deleting: bool,
    /// It has scheduling gates.
    pub gated: bool,
    /// The gang that it is a member of, in its namespace.
    pub gang: Option<String>,
    /// `spec.priority`.
    pub priority: i32,
    /// What it takes and asks for. Of bound pods only the requests are kept.
    pub shape: Arc<Shape>,
    /// Why it cannot be scheduled here.
    pub not_supported: Option<NotSupported>,
    /// Message of its `PodScheduled=False` condition.
    pub unschedulable: Option<String>,
}

impl PodFacts {
    /// Reads a pod; `scheduler` is our name.
    #[must_use]
    pub fn of(pod: &Pod, scheduler: &str) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let status = pod.status.as_ref();
        let node = spec.node_name.clone().filter(|node| !node.is_empty());
        let ours = spec.scheduler_name.as_deref() == Some(scheduler);
        let (shape, not_supported) = match shape(pod, spec, ours && node.is_none()) {
            Ok(shape) => (shape, None),
            Err(why) => (Shape::default(), Some(why)),
        };
        let unschedulable = status
            .and_then(|s| s.conditions.as_ref())
            .and_then(|all| all.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False"))
            .and_then(|condition| condition.message.clone());
        Self {
            key: ObjectKey::of(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            created: created(&pod.metadata),
            node,
            finished: matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed")),
            ours,
            deleting: pod.metadata.deletion_timestamp.is_some(),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            gang: pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_GANG)).cloned(),
            priority: spec.priority.unwrap_or(0),
            shape: Arc::new(shape),
            not_supported,
            unschedulable,
        }
    }

    /// The node that it takes room on.
    #[must_use]
    pub fn occupies(&self) -> Option<&str> {
        if self.finished { None } else { self.node.as_deref() }
    }

    /// Whether this scheduler is to find a node for it now.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.ours && self.node.is_none() && !self.finished && !self.deleting && !self.gated
    }
}

fn shape(pod: &Pod, spec: &PodSpec, to_schedule: bool) -> Result<Shape, NotSupported> {
    let requests = requests(pod, spec)?;
    if !to_schedule {
        return Ok(Shape { requests, ..Shape::default() });
    }
    let features = unsupported(spec);
    if !features.is_empty() {
        return Err(NotSupported::Features(features));
    }
    Ok(Shape {
        requests,
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        affinity: affinity(spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()))?,
        tolerations: tolerations(spec.tolerations.as_ref())?,
    })
}

/// max(containers + sidecars, peak of the init containers) + overhead, where pod-level requests go before the sums.
fn requests(pod: &Pod, spec: &PodSpec) -> Result<Amounts, NotSupported> {
    let status = pod.status.as_ref();
    let statuses =
        |all: Option<&Vec<ContainerStatus>>, name: &str| all.and_then(|s| s.iter().find(|c| c.name == name)).cloned();
    let mut running = Amounts::default();
    for container in &spec.containers {
        let status = statuses(status.and_then(|s| s.container_statuses.as_ref()), &container.name);
        running.add(&container_requests(container, status.as_ref())?);
    }
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let status = statuses(status.and_then(|s| s.init_container_statuses.as_ref()), &container.name);
        let mut together = container_requests(container, status.as_ref())?;
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        if sidecar {
            running.add(&together);
            sidecars.add(&together);
            peak.raise_to(&sidecars);
        } else {
            together.add(&sidecars);
            peak.raise_to(&together);
        }
    }
    let mut total = running;
    total.raise_to(&peak);
    for (resource, milli) in amounts(spec.resources.as_ref().and_then(|r| r.requests.as_ref()))?.iter() {
        total.set(resource, milli);
    }
    total.add(&amounts(spec.overhead.as_ref())?);
    total.set(RESOURCE_PODS, POD_SLOT);
    Ok(total)
}

/// The most of what is asked and what the kubelet has given: a resize in place may be on its way up or down.
fn container_requests(container: &Container, status: Option<&ContainerStatus>) -> Result<Amounts, NotSupported> {
    let of = |resources: Option<&ResourceRequirements>| amounts(resources.and_then(|r| r.requests.as_ref()));
    let mut most = of(container.resources.as_ref())?;
    if let Some(status) = status {
        most.raise_to(&of(status.resources.as_ref())?);
        most.raise_to(&amounts(status.allocated_resources.as_ref())?);
    }
    Ok(most)
}

/// What a pod asks for that this scheduler does not look at; ignoring it would be wrong.
fn unsupported(spec: &PodSpec) -> Vec<&'static str> {
    let affinity = spec.affinity.as_ref();
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = || containers().flat_map(|c| c.ports.iter().flatten());
    let claims = |r: Option<&ResourceRequirements>| r.and_then(|r| r.claims.as_ref()).is_some_and(|c| !c.is_empty());
    let checks = [
        ("pod affinity", affinity.is_some_and(|a| a.pod_affinity.is_some())),
        ("pod anti-affinity", affinity.is_some_and(|a| a.pod_anti_affinity.is_some())),
        (
            "preferred node affinity",
            affinity
                .and_then(|a| a.node_affinity.as_ref())
                .and_then(|n| n.preferred_during_scheduling_ignored_during_execution.as_ref())
                .is_some_and(|preferred| !preferred.is_empty()),
        ),
        ("topology spread constraints", spec.topology_spread_constraints.as_ref().is_some_and(|t| !t.is_empty())),
        ("host ports", ports().any(|port| port.host_port.unwrap_or(0) != 0)),
        ("volumes that a scheduler must place", spec.volumes.iter().flatten().any(needs_placing)),
        (
            "resource claims",
            spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty())
                || containers().any(|c| claims(c.resources.as_ref())),
        ),
        ("scheduling groups", spec.scheduling_group.is_some()),
    ];
    checks.into_iter().filter(|(_, used)| *used).map(|(name, _)| name).collect()
}

/// Volumes that are bound to nodes, or of which a node takes only so many.
fn needs_placing(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
        || volume.csi.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.azure_disk.is_some()
        || volume.cinder.is_some()
        || volume.gce_persistent_disk.is_some()
        || volume.iscsi.is_some()
        || volume.rbd.is_some()
        || volume.vsphere_volume.is_some()
        || volume.portworx_volume.is_some()
}

fn affinity(affinity: Option<&NodeAffinity>) -> Result<Option<Vec<NodeTerm>>, NotSupported> {
    let Some(required) = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) else {
        return Ok(None);
    };
    let terms = required.node_selector_terms.iter().map(|term| {
        let name = requirements(term.match_fields.as_ref())?;
        if let Some(other) = name.iter().find(|r| r.key != "metadata.name") {
            return Err(NotSupported::NodeAffinity(other.key.clone()));
        }
        Ok(NodeTerm { labels: requirements(term.match_expressions.as_ref())?, name })
    });
    terms.collect::<Result<_, _>>().map(Some)
}

fn requirements(requirements: Option<&Vec<NodeSelectorRequirement>>) -> Result<Vec<Requirement>, NotSupported> {
    requirements
        .into_iter()
        .flatten()
        .map(|r| {
            let operator = match r.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                "Gt" => Operator::Gt,
                "Lt" => Operator::Lt,
                other => return Err(NotSupported::NodeAffinity(other.to_owned())),
            };
            Ok(Requirement { key: r.key.clone(), operator, values: r.values.clone().unwrap_or_default() })
        })
        .collect()
}
