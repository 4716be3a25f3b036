//! From the Site's objects to what `core` decides on. Pure.

use std::collections::BTreeSet;

use atoll_api::conditions::member_reason;
use atoll_api::gang::{Gang as GangObject, GangMode, GangPhase};
use atoll_api::names;
use atoll_core::lease::Times;
use atoll_core::member::{Gang, Member, Mode, Phase, Placed, Pod, Verdict};
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt as _;

use crate::naming::{SliceId, member_of_pod_name};
use crate::pod::SHORTEST_GRACE_SECONDS;

/// The UID of the Cluster whose namespace this is, and whether it is being deleted; `None`: not one of the agent's.
pub(super) fn namespace(namespace: &core::Namespace) -> Option<(String, bool)> {
    let uid = namespace.labels().get(names::LABEL_CLUSTER_UID)?;
    (namespace.name_any() == crate::naming::site_namespace(uid))
        .then(|| (uid.clone(), namespace.metadata.deletion_timestamp.is_some()))
}

/// A Gang of the agent's with its slice and version; `None`: somebody else's.
pub(super) fn gang(object: &GangObject) -> Option<(SliceId, u64, Gang)> {
    let id = SliceId::of_object(&object.name_any(), object.labels(), object.annotations())?;
    if object.namespace()? != id.site_namespace() {
        return None;
    }
    let number = |annotation: &str| object.annotations().get(annotation).and_then(|text| text.parse::<u64>().ok());
    let times = object.annotations().get(names::ANNOTATION_FENCE).and_then(|text| Times::parse(text));
    let status = object.status.as_ref();
    let current = status.is_some_and(|status| status.observed_generation == object.metadata.generation);
    let phase = status.and_then(|status| status.phase);
    let placed = |member: &atoll_api::gang::GangMember| {
        Some(Placed { member: member_of_pod_name(&member.pod)?, node: member.node.clone().unwrap_or_default() })
    };
    let gang = Gang {
        epoch: number(names::ANNOTATION_EPOCH).unwrap_or(0),
        mode: match object.spec.mode {
            GangMode::Hold => Mode::Hold,
            GangMode::Run => Mode::Run,
        },
        members: object.spec.members.iter().filter_map(placed).collect(),
        times: times.unwrap_or_else(|| Times::from_seconds(0, 0)),
        verdict: match phase {
            Some(phase) if current => match phase {
                GangPhase::Pending => Verdict::Pending,
                GangPhase::Reserved => Verdict::Reserved,
                GangPhase::Bound => Verdict::Bound,
                GangPhase::Refused => Verdict::Refused,
            },
            _ => Verdict::Pending,
        },
        reason: status.filter(|_| current).and_then(|status| status.reason.clone()),
        message: status.filter(|_| current).and_then(|status| status.message.clone()),
        // Who was bound once stays so, whatever the specification has become since.
        bound: match status {
            Some(status) if phase == Some(GangPhase::Bound) => {
                status.nodes.iter().filter_map(|node| member_of_pod_name(&node.pod)).collect()
            }
            _ => BTreeSet::new(),
        },
        stopped_incarnation: number(names::ANNOTATION_STOPPED_INCARNATION).unwrap_or(0),
        stopping: object.metadata.deletion_timestamp.is_some(),
    };
    Some((id, version(object.metadata.resource_version.as_deref()), gang))
}

/// A resource version as the number that it is since Kubernetes 1.35.
pub(super) fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Slice and member that a pod of the agent's belongs to.
pub(super) fn pod_identity(pod: &core::Pod) -> Option<(SliceId, Member)> {
    let labels = pod.labels();
    let id = SliceId::of_object(labels.get(names::LABEL_GANG)?, labels, pod.annotations())?;
    let rank = labels.get(names::LABEL_RANK)?.parse().ok()?;
    let incarnation = labels.get(names::LABEL_INCARNATION)?.parse().ok()?;
    (pod.namespace()? == id.site_namespace()).then_some((id, Member { rank, incarnation }))
}

/// How far a pod has come. It has ended when its kubelet says so: who cleans up after a lost node says it too, and knows
/// nothing of the containers.
pub(super) fn pod(pod: &core::Pod) -> Pod {
    let spec = pod.spec.as_ref();
    let status = pod.status.clone().unwrap_or_default();
    let stopping = pod.metadata.deletion_timestamp.is_some();
    let condition = |type_: &str| {
        status.conditions.iter().flatten().any(|condition| condition.type_ == type_ && condition.status == "True")
    };
    let node = spec.and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty());
    let (phase, reason, message) = match status.phase.as_deref().filter(|_| !is_orphaned(&status)) {
        // Whoever ends after being told to, however well, has not finished its work.
        Some("Succeeded" | "Failed") if stopping || condition("DisruptionTarget") || ended_by_site(&status) => {
            (Phase::Lost, Some(member_reason::LOST.to_owned()), status.message.clone().or(status.reason.clone()))
        }
        Some("Succeeded") => (Phase::Succeeded, None, None),
        Some("Failed") => (Phase::Failed, Some(member_reason::CONTAINERS_FAILED.to_owned()), failure(&status)),
        Some("Running") if condition("Ready") => (Phase::Ready, None, None),
        _ if node.is_some() => {
            let (reason, message) = obstacle(&status).unzip();
            (Phase::Starting, reason, message)
        }
        _ => (Phase::Waiting, None, None),
    };
    Pod {
        phase,
        stopping,
        killed: stopping
            && pod.metadata.deletion_grace_period_seconds.is_some_and(|grace| grace <= SHORTEST_GRACE_SECONDS.into()),
        abandoned: false,
        node,
        address: status.pod_ip,
        reason,
        message,
    }
}

/// It is called ended without its kubelet's word.
fn is_orphaned(status: &core::PodStatus) -> bool {
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let mut running = containers.filter_map(|container| container.state.as_ref()?.running.as_ref());
    let collected = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "DisruptionTarget"
            && condition.status == "True"
            && condition.reason.as_deref() == Some("DeletionByPodGC")
    });
    ended && (collected || running.next().is_some())
}

/// The kubelet or another part of the Site ended the pod: it says so at the pod, not at a container.
fn ended_by_site(status: &core::PodStatus) -> bool {
    status.reason.as_deref().is_some_and(|reason| {
        matches!(
            reason,
            "Evicted"
                | "Preempting"
                | "NodeLost"
                | "NodeShutdown"
                | "Shutdown"
                | "Terminated"
                | "NodeAffinity"
                | "UnexpectedAdmissionError"
                | "AdmissionError"
        ) || reason.starts_with("OutOf")
    })
}

fn failure(status: &core::PodStatus) -> Option<String> {
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let ended = containers.filter_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        (ended.exit_code != 0).then(|| {
            let reason = ended.reason.as_deref().unwrap_or("Error");
            format!("container {} ended with exit code {} ({reason})", container.name, ended.exit_code)
        })
    });
    ended.reduce(|all, next| format!("{all}; {next}")).or_else(|| status.message.clone())
}

/// What keeps a container from starting, where a person must act. Words that alternate while the kubelet retries are
/// told as one, so that nothing is reported twice.
fn obstacle(status: &core::PodStatus) -> Option<(String, String)> {
    let mut containers =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    containers.find_map(|container| {
        let reason = match container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()? {
            "ErrImagePull" | "ImagePullBackOff" => "ImagePullBackOff",
            "ErrImageNeverPull" => "ErrImageNeverPull",
            "InvalidImageName" => "InvalidImageName",
            "CreateContainerConfigError" => "CreateContainerConfigError",
            "CreateContainerError" | "RunContainerError" => "CreateContainerError",
            "CrashLoopBackOff" => "CrashLoopBackOff",
            _ => return None,
        };
        Some((reason.to_owned(), format!("container {}, image {}", container.name, container.image)))
    })
}
