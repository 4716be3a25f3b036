//! What this agent does not run, whatever the hub says.
//!
//! The hub's API server refuses the same; a hub that is wrong, old or taken over must still not harm a supplier's machine.

use std::collections::BTreeSet;

use atoll_api::ClusterSliceSpec;
use atoll_api::cluster_slice::MAX_SLICE_MEMBERS;
use atoll_api::template::{Container, MemberMetadata, Resources, Volume};
use k8s_openapi::api::core::v1::Probe;

use crate::naming;

/// Resources that a template may ask for; GPUs are counted by the slice.
pub(super) const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Keys of Kubernetes' own domains that only describe.
const DESCRIBING: [&str; 5] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/component",
    "app.kubernetes.io/part-of",
];
/// Domains, with all below them, whose labels and annotations make a Site's networks, meshes, device plugins, secret stores and
/// webhooks do something to a pod.
const RESERVED_DOMAINS: [&str; 19] = [
    "amd.com",
    "antrea.io",
    "atoll.dev",
    "azure.com",
    "cattle.io",
    "cilium.io",
    "cncf.io",
    "hashicorp.com",
    "intel.com",
    "istio.io",
    "k8s.io",
    "kubernetes.io",
    "kyverno.io",
    "linkerd.io",
    "nvidia.com",
    "openshift.io",
    "ovn.org",
    "projectcalico.org",
    "tigera.io",
];
/// Beginnings of keys without a domain that container runtimes act on, such as `io.kubernetes.cri-o.Devices`.
const RESERVED_PREFIXES: [&str; 3] = ["io.kubernetes.", "io.containerd.", "io.katacontainers."];
const RESERVED_ENV: [&str; 6] = ["MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "NODE_RANK", "RAY_ADDRESS"];
const MAX_GPUS: i32 = 64;
const MAX_CONTAINERS: usize = 16;

/// Why a slice's pods are refused; names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Refused {
    field: String,
    why: &'static str,
}

fn refuse(field: impl Into<String>, why: &'static str) -> Result<(), Refused> {
    Err(Refused { field: field.into(), why })
}

/// Whether this agent runs the pods of such a slice.
pub fn check(spec: &ClusterSliceSpec) -> Result<(), Refused> {
    if !naming::is_dns_label(&spec.cluster) || spec.cluster.len() > 40 {
        return refuse("cluster", "the name is not one label of a DNS name of at most 40 characters");
    }
    if spec.members.len() > MAX_SLICE_MEMBERS {
        return refuse("members", "more than one slice may have");
    }
    let ranks: BTreeSet<i32> = spec.members.iter().map(|member| member.rank).collect();
    if ranks.len() != spec.members.len() {
        return refuse("members", "a rank is named twice");
    }
    let sound = |member: &atoll_api::SliceMember| {
        member.rank >= 0 && member.incarnation >= 1 && member.incarnation <= spec.epoch && naming::is_name(&member.node)
    };
    if !spec.members.iter().all(sound) {
        return refuse("members", "a rank, an incarnation or a node is out of range");
    }
    if !(1..=MAX_GPUS).contains(&spec.gpus) {
        return refuse("gpus", "out of range");
    }
    let pod = &spec.template.spec;
    for (field, set) in [
        ("hostNetwork", pod.host_network),
        ("hostPID", pod.host_pid),
        ("hostIPC", pod.host_ipc),
        ("automountServiceAccountToken", pod.automount_service_account_token),
    ] {
        if set == Some(true) {
            return refuse(format!("template.spec.{field}"), "members have no access to their host or its API");
        }
    }
    for (field, set) in [("serviceAccountName", &pod.service_account_name), ("nodeName", &pod.node_name)] {
        if set.as_ref().is_some_and(|name| !name.is_empty()) {
            return refuse(format!("template.spec.{field}"), "is not a member's to choose");
        }
    }
    if pod.containers.is_empty() || pod.containers.len() + pod.init_containers.len() > 2 * MAX_CONTAINERS {
        return refuse("template.spec.containers", "there is none, or too many");
    }
    if let Some(metadata) = &spec.template.metadata {
        check_metadata(metadata)?;
    }
    pod.volumes.iter().try_for_each(check_volume)?;
    pod.containers.iter().try_for_each(|container| check_container("containers", container))?;
    pod.init_containers.iter().try_for_each(|container| check_container("initContainers", container))
}

/// Whether a label or annotation means something to the Site, so that a template must not set it.
pub(super) fn is_reserved(key: &str) -> bool {
    let under_reserved = |domain: &str| {
        let under =
            |reserved: &&str| domain.strip_suffix(*reserved).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        RESERVED_DOMAINS.iter().any(under)
    };
    let acted_on = RESERVED_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    acted_on || !DESCRIBING.contains(&key) && key.split_once('/').is_some_and(|(domain, _)| under_reserved(domain))
}

fn check_metadata(metadata: &MemberMetadata) -> Result<(), Refused> {
    match metadata.labels.keys().chain(metadata.annotations.keys()).find(|key| is_reserved(key)) {
        Some(key) => refuse(format!("template.metadata, key {key}"), "means something to the Site"),
        None => Ok(()),
    }
}

fn check_volume(volume: &Volume) -> Result<(), Refused> {
    if volume.host_path.is_some() || volume.empty_dir.is_none() {
        return refuse(format!("template.spec.volumes, {}", volume.name), "members have scratch volumes only");
    }
    Ok(())
}

fn check_container(kind: &str, container: &Container) -> Result<(), Refused> {
    let field = |name: &str| format!("template.spec.{kind}, {}, {name}", container.name);
    if container.image.trim().is_empty() {
        return refuse(field("image"), "is empty");
    }
    if let Some(asked) = &container.security_context {
        if asked.privileged == Some(true) || asked.allow_privilege_escalation == Some(true) {
            return refuse(field("securityContext"), "members have no privileges");
        }
        if asked.run_as_user.is_some_and(|user| user < 1) || asked.run_as_group.is_some_and(|group| group < 0) {
            return refuse(field("securityContext"), "members do not run as root");
        }
        if asked.capabilities.as_ref().is_some_and(|capabilities| !capabilities.add.is_empty()) {
            return refuse(field("securityContext"), "members have no capabilities");
        }
    }
    if container.ports.iter().any(|port| port.host_port.is_some_and(|port| port != 0)) {
        return refuse(field("ports"), "members have no ports of their host");
    }
    if container.env.iter().any(|var| RESERVED_ENV.contains(&var.name.as_str()) || var.name.starts_with("ATOLL_")) {
        return refuse(field("env"), "sets a variable that Atoll sets");
    }
    if container.resources.as_ref().is_some_and(asks_for_more) {
        return refuse(field("resources"), "only cpu, memory and ephemeral-storage may be asked for");
    }
    let probes = [&container.readiness_probe, &container.liveness_probe, &container.startup_probe];
    if probes.into_iter().flatten().any(leaves_the_pod) {
        return refuse(field("probe"), "a probe goes to the member's own pod only");
    }
    Ok(())
}

fn asks_for_more(resources: &Resources) -> bool {
    resources.requests.keys().chain(resources.limits.keys()).any(|name| !RESOURCES.contains(&name.as_str()))
}

fn leaves_the_pod(probe: &Probe) -> bool {
    probe.http_get.as_ref().is_some_and(|get| get.host.is_some())
        || probe.tcp_socket.as_ref().is_some_and(|socket| socket.host.is_some())
}
