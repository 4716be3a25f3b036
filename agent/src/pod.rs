//! The pod of a member, and what it asks its Site for. Pure.
//!
//! A member is always restricted, whatever the hub sends: what would widen its rights is refused with a reason, and the
//! fields that restrict it are set here, not taken over. What a member's image can rely on:
//!
//! | type | environment of every container |
//! | --- | --- |
//! | all | `ATOLL_CLUSTER` (name), `ATOLL_RANK`, `ATOLL_WORLD_SIZE` (members), `ATOLL_GPUS` (of this member), and `ATOLL_CHECKPOINT_STORE` when the Cluster names one |
//! | Torch | `MASTER_ADDR`, `MASTER_PORT` (29500), `RANK`, `NODE_RANK`, `WORLD_SIZE` |
//! | Ray | `RAY_ADDRESS` (`<head>:6379`) on all but rank 0 |
//!
//! One member is one node in the words of torchrun: `RANK` and `NODE_RANK` are the member's rank and `WORLD_SIZE` counts
//! members. With one process for each GPU an image runs `torchrun --nnodes=$WORLD_SIZE --node-rank=$NODE_RANK
//! --nproc-per-node=$ATOLL_GPUS --master-addr=$MASTER_ADDR --master-port=$MASTER_PORT`, which gives its processes `RANK`,
//! `LOCAL_RANK` and `WORLD_SIZE` of their own; a program with one process reads them as they are.
//!
//! In a Ray Cluster the first container of rank 0 runs `ray start --head --port=6379 --block` and that of the others
//! `ray start --address=$(RAY_ADDRESS) --block`, unless the template gives it a command or arguments.

mod refuse;
mod shape;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use atoll_api::names;
use atoll_api::template::{self, RestartPolicy};
use atoll_api::{ClusterSliceSpec, ClusterType};
use atoll_core::lease::Times;
use atoll_core::member::Member;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::naming::{self, SliceId};

pub use refuse::{Refused, check};
pub use shape::shape;

/// Port of the rendezvous of a Torch Cluster, on rank 0.
pub const MASTER_PORT: u16 = 29500;
/// Port of the head of a Ray Cluster, on rank 0.
pub const RAY_PORT: u16 = 6379;
/// The shortest time that a member is given to end, also when it is killed. Zero would remove its pod from the API before
/// its containers have ended, so that it would count as stopped while it runs; the kubelet takes no less than this anyway.
pub const SHORTEST_GRACE_SECONDS: u32 = 1;
/// User and group of members that name none.
pub const DEFAULT_USER: i64 = 65532;

/// What the pods of a slice have in common.
#[derive(Clone, Copy, Debug)]
pub struct PodContext<'a> {
    /// The slice.
    pub id: &'a SliceId,
    /// What the hub wants; passed [`check`].
    pub spec: &'a ClusterSliceSpec,
    /// When members stop without a lease.
    pub times: Times,
    /// Domain of the Site's cluster DNS, such as "cluster.local".
    pub cluster_domain: &'a str,
}

/// The pod of `member`.
#[must_use]
pub fn build(context: &PodContext<'_>, member: Member) -> core::Pod {
    let PodContext { spec, times, .. } = context;
    let template = &spec.template;
    let name = names::member_pod_name(&spec.cluster, member.rank, member.incarnation);
    let environment = environment(context, member);
    let containers = template.spec.containers.iter().enumerate().map(|(index, container)| {
        let gpus = if index == 0 { spec.gpus } else { 0 };
        let mut built = build_container(container, &environment, gpus);
        if index == 0 && spec.type_ == ClusterType::Ray && container.command.is_empty() && container.args.is_empty() {
            built.command = Some(ray_command(member.rank));
        }
        built
    });
    let init_containers = template.spec.init_containers.iter().map(|init| build_container(init, &environment, 0));
    let longest = i64::try_from(times.longest_grace_seconds()).unwrap_or(i64::MAX);
    core::Pod {
        metadata: metadata(context, member, &name),
        spec: Some(core::PodSpec {
            containers: containers.collect(),
            init_containers: some_vec(init_containers.collect()),
            volumes: some_vec(template.spec.volumes.iter().map(build_volume).collect()),
            restart_policy: Some(
                match template.spec.restart_policy {
                    RestartPolicy::Never => "Never",
                    RestartPolicy::OnFailure => "OnFailure",
                }
                .into(),
            ),
            termination_grace_period_seconds: Some(
                i64::from(template.spec.termination_grace_period_seconds).clamp(SHORTEST_GRACE_SECONDS.into(), longest),
            ),
            scheduler_name: Some(names::SCHEDULER_NAME.into()),
            service_account_name: Some(naming::SERVICE_ACCOUNT.into()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            host_network: Some(false),
            host_pid: Some(false),
            host_ipc: Some(false),
            hostname: Some(name),
            subdomain: Some(spec.cluster.clone()),
            security_context: Some(core::PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(DEFAULT_USER),
                run_as_group: Some(DEFAULT_USER),
                fs_group: Some(DEFAULT_USER),
                seccomp_profile: Some(runtime_default()),
                ..core::PodSecurityContext::default()
            }),
            tolerations: Some(tolerations()),
            ..core::PodSpec::default()
        }),
        status: None,
    }
}

/// Taints that members tolerate: the one that suppliers put on GPU nodes to keep other pods away.
#[must_use]
pub fn tolerations() -> Vec<core::Toleration> {
    vec![core::Toleration {
        key: Some(names::RESOURCE_NVIDIA_GPU.into()),
        operator: Some("Exists".into()),
        effect: Some("NoSchedule".into()),
        ..core::Toleration::default()
    }]
}

fn metadata(context: &PodContext<'_>, member: Member, name: &str) -> ObjectMeta {
    let PodContext { id, spec, times, .. } = context;
    let (mut labels, mut annotations) =
        spec.template.metadata.clone().map(|metadata| (metadata.labels, metadata.annotations)).unwrap_or_default();
    labels.retain(|key, _| !refuse::is_reserved(key));
    annotations.retain(|key, _| !refuse::is_reserved(key));
    labels.extend(
        [
            (names::LABEL_MANAGED_BY, names::MANAGED_BY_AGENT.to_owned()),
            (names::LABEL_CLUSTER_UID, id.cluster_uid.clone()),
            (names::LABEL_GANG, id.name.clone()),
            (names::LABEL_RANK, member.rank.to_string()),
            (names::LABEL_INCARNATION, member.incarnation.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    annotations.insert(names::ANNOTATION_HUB_NAMESPACE.into(), id.namespace.clone());
    annotations.insert(names::ANNOTATION_FENCE.into(), times.to_string());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(id.site_namespace()),
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

fn environment(context: &PodContext<'_>, member: Member) -> Vec<core::EnvVar> {
    let spec = context.spec;
    let var = |name: &str, value: String| core::EnvVar { name: name.into(), value: Some(value), value_from: None };
    let mut environment = vec![
        var("ATOLL_CLUSTER", spec.cluster.clone()),
        var("ATOLL_RANK", member.rank.to_string()),
        var("ATOLL_WORLD_SIZE", spec.rendezvous.world_size.to_string()),
        var("ATOLL_GPUS", spec.gpus.to_string()),
    ];
    if let Some(store) = &spec.checkpoint_store {
        environment.push(var("ATOLL_CHECKPOINT_STORE", store.clone()));
    }
    match spec.type_ {
        ClusterType::Pods => {}
        ClusterType::Torch => environment.extend([
            var("MASTER_ADDR", leader_address(context)),
            var("MASTER_PORT", MASTER_PORT.to_string()),
            var("RANK", member.rank.to_string()),
            var("NODE_RANK", member.rank.to_string()),
            var("WORLD_SIZE", spec.rendezvous.world_size.to_string()),
        ]),
        ClusterType::Ray if member.rank == 0 => {}
        ClusterType::Ray => {
            environment.push(var("RAY_ADDRESS", format!("{}:{RAY_PORT}", leader_address(context))));
        }
    }
    environment
}

/// Rank 0's name in the Site's cluster DNS; resolvable before it is Ready.
fn leader_address(context: &PodContext<'_>) -> String {
    let leader = u64::try_from(context.spec.rendezvous.leader_incarnation).unwrap_or(0);
    let cluster = &context.spec.cluster;
    let pod = names::member_pod_name(cluster, 0, leader);
    format!("{pod}.{cluster}.{}.svc.{}", context.id.site_namespace(), context.cluster_domain)
}

fn ray_command(rank: u32) -> Vec<String> {
    let words: &[&str] = if rank == 0 {
        &["ray", "start", "--head", "--port=6379", "--block"]
    } else {
        &["ray", "start", "--address=$(RAY_ADDRESS)", "--block"]
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn build_container(container: &template::Container, atoll: &[core::EnvVar], gpus: i32) -> core::Container {
    // Atoll's variables come first, so that the tenant's may refer to them.
    let own = container.env.iter().map(|var| core::EnvVar {
        name: var.name.clone(),
        value: var.value.clone(),
        value_from: None,
    });
    let mut resources = container.resources.clone().unwrap_or_default();
    for amounts in [&mut resources.requests, &mut resources.limits] {
        amounts.retain(|resource, _| refuse::RESOURCES.contains(&resource.as_str()));
    }
    if gpus > 0 {
        let quantity = Quantity(gpus.to_string());
        resources.requests.insert(names::RESOURCE_NVIDIA_GPU.into(), quantity.clone());
        resources.limits.insert(names::RESOURCE_NVIDIA_GPU.into(), quantity);
    }
    core::Container {
        name: container.name.clone(),
        image: Some(container.image.clone()),
        image_pull_policy: container.image_pull_policy.map(|policy| {
            match policy {
                template::ImagePullPolicy::Always => "Always",
                template::ImagePullPolicy::IfNotPresent => "IfNotPresent",
                template::ImagePullPolicy::Never => "Never",
            }
            .into()
        }),
        command: some_vec(container.command.clone()),
        args: some_vec(container.args.clone()),
        working_dir: container.working_dir.clone(),
        env: Some(atoll.iter().cloned().chain(own).collect()),
        ports: some_vec(
            container
                .ports
                .iter()
                .map(|port| core::ContainerPort {
                    name: port.name.clone(),
                    container_port: port.container_port,
                    protocol: port.protocol.clone(),
                    ..core::ContainerPort::default()
                })
                .collect(),
        ),
        resources: Some(core::ResourceRequirements {
            requests: some_map(resources.requests),
            limits: some_map(resources.limits),
            claims: None,
        }),
        volume_mounts: some_vec(
            container
                .volume_mounts
                .iter()
                .map(|mount| core::VolumeMount {
                    name: mount.name.clone(),
                    mount_path: mount.mount_path.clone(),
                    read_only: mount.read_only,
                    sub_path: mount.sub_path.clone(),
                    ..core::VolumeMount::default()
                })
                .collect(),
        ),
        readiness_probe: container.readiness_probe.clone().map(within_the_pod),
        liveness_probe: container.liveness_probe.clone().map(within_the_pod),
        startup_probe: container.startup_probe.clone().map(within_the_pod),
        security_context: Some(restricted(container.security_context.as_ref())),
        ..core::Container::default()
    }
}

fn within_the_pod(mut probe: core::Probe) -> core::Probe {
    if let Some(get) = &mut probe.http_get {
        get.host = None;
    }
    if let Some(socket) = &mut probe.tcp_socket {
        socket.host = None;
    }
    probe
}

fn restricted(asked: Option<&template::SecurityContext>) -> core::SecurityContext {
    core::SecurityContext {
        run_as_user: asked.and_then(|asked| asked.run_as_user).filter(|user| *user > 0),
        run_as_group: asked.and_then(|asked| asked.run_as_group),
        run_as_non_root: Some(true),
        read_only_root_filesystem: asked.and_then(|asked| asked.read_only_root_filesystem),
        privileged: Some(false),
        allow_privilege_escalation: Some(false),
        capabilities: Some(core::Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
        seccomp_profile: Some(runtime_default()),
        ..core::SecurityContext::default()
    }
}

fn runtime_default() -> core::SeccompProfile {
    core::SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }
}

fn build_volume(volume: &template::Volume) -> core::Volume {
    let empty_dir = volume.empty_dir.clone().unwrap_or_default();
    core::Volume {
        name: volume.name.clone(),
        empty_dir: Some(core::EmptyDirVolumeSource {
            medium: empty_dir.medium,
            size_limit: empty_dir.size_limit,
            ..core::EmptyDirVolumeSource::default()
        }),
        ..core::Volume::default()
    }
}

fn some_vec<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

fn some_map<V>(items: BTreeMap<String, V>) -> Option<BTreeMap<String, V>> {
    (!items.is_empty()).then_some(items)
}
