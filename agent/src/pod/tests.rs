//! What a member's pod looks like, and that no template makes it another.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixtures::{slice_id, slice_spec};

fn spec(edit: impl FnOnce(&mut serde_json::Value)) -> ClusterSliceSpec {
    let spec = slice_spec(|spec| {
        spec["template"]["spec"]["containers"] =
            json!([{"name": "main", "image": "x"}, {"name": "side", "image": "y"}]);
        edit(spec);
    });
    serde_json::from_value(spec).expect("a slice")
}

fn pod_of(spec: &ClusterSliceSpec, rank: u32, incarnation: u64) -> core::Pod {
    let context =
        PodContext { id: &slice_id(), spec, times: Times::from_seconds(60, 90), cluster_domain: "cluster.local" };
    build(&context, Member { rank, incarnation })
}

fn environment_of(pod: &core::Pod, container: usize) -> BTreeMap<String, String> {
    let container = &pod.spec.as_ref().unwrap().containers[container];
    container.env.iter().flatten().map(|var| (var.name.clone(), var.value.clone().unwrap_or_default())).collect()
}

/// What Pod Security calls restricted, and what keeps a member from the Site's API and its hosts.
fn is_restricted(pod: &core::Pod) -> Result<(), String> {
    let spec = pod.spec.as_ref().ok_or("no spec")?;
    let ensure = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    ensure(spec.host_network == Some(false) && spec.host_pid == Some(false) && spec.host_ipc == Some(false), "host")?;
    ensure(spec.node_name.is_none() && spec.node_selector.is_none() && spec.affinity.is_none(), "node")?;
    ensure(spec.automount_service_account_token == Some(false), "token")?;
    ensure(spec.service_account_name.as_deref() == Some(naming::SERVICE_ACCOUNT), "account")?;
    ensure(spec.priority_class_name.is_none() && spec.runtime_class_name.is_none(), "classes")?;
    ensure(spec.scheduler_name.as_deref() == Some(names::SCHEDULER_NAME), "scheduler")?;
    ensure(spec.termination_grace_period_seconds.is_some_and(|grace| (1..30).contains(&grace)), "grace")?;
    let context = spec.security_context.as_ref().ok_or("no context")?;
    ensure(context.run_as_non_root == Some(true) && context.run_as_user != Some(0), "root")?;
    ensure(context.seccomp_profile.as_ref().is_some_and(|profile| profile.type_ == "RuntimeDefault"), "seccomp")?;
    for volume in spec.volumes.iter().flatten() {
        let only =
            core::Volume { name: volume.name.clone(), empty_dir: volume.empty_dir.clone(), ..Default::default() };
        ensure(volume == &only && volume.empty_dir.is_some(), "volume")?;
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let context = container.security_context.as_ref().ok_or("no container context")?;
        ensure(context.privileged == Some(false) && context.allow_privilege_escalation == Some(false), "privileges")?;
        ensure(context.run_as_non_root == Some(true) && context.run_as_user != Some(0), "container root")?;
        let capabilities = context.capabilities.as_ref().ok_or("no capabilities")?;
        ensure(capabilities.add.is_none() && capabilities.drop == Some(vec!["ALL".into()]), "capabilities")?;
        ensure(context.seccomp_profile.as_ref().is_some_and(|p| p.type_ == "RuntimeDefault"), "seccomp")?;
        ensure(
            container.ports.iter().flatten().all(|port| port.host_port.is_none() && port.host_ip.is_none()),
            "port",
        )?;
        ensure(container.env_from.is_none() && container.lifecycle.is_none(), "sources")?;
        ensure(container.env.iter().flatten().all(|var| var.value_from.is_none()), "value from")?;
        ensure(container.volume_devices.is_none(), "devices")?;
        let resources = container.resources.as_ref().ok_or("no resources")?;
        let known = ["cpu", "memory", "ephemeral-storage", names::RESOURCE_NVIDIA_GPU];
        let amounts = resources.requests.iter().chain(&resources.limits).flatten();
        ensure(amounts.into_iter().all(|(name, _)| known.contains(&name.as_str())), "resource")?;
        for probe in [&container.readiness_probe, &container.liveness_probe, &container.startup_probe] {
            let away = probe.iter().any(|p| {
                p.http_get.as_ref().is_some_and(|get| get.host.is_some())
                    || p.tcp_socket.as_ref().is_some_and(|socket| socket.host.is_some())
            });
            ensure(!away, "probe")?;
        }
    }
    let labels = pod.metadata.labels.as_ref().ok_or("no labels")?;
    ensure(labels.get(names::LABEL_MANAGED_BY).map(String::as_str) == Some(names::MANAGED_BY_AGENT), "managed by")?;
    ensure(labels.get(names::LABEL_CLUSTER_UID).map(String::as_str) == Some("uid"), "cluster")
}

#[test]
fn a_pod_is_named_labelled_and_reachable_by_its_name() {
    let pod = pod_of(&spec(|_| {}), 1, 4);
    assert_eq!(pod.metadata.name.as_deref(), Some("train-1-4"));
    assert_eq!(pod.metadata.namespace, Some(slice_id().site_namespace()));
    let labels = pod.metadata.labels.clone().unwrap();
    for (label, value) in [
        (names::LABEL_GANG, "train-0011-0"),
        (names::LABEL_RANK, "1"),
        (names::LABEL_INCARNATION, "4"),
        (names::LABEL_CLUSTER_UID, "uid"),
        (names::LABEL_MANAGED_BY, names::MANAGED_BY_AGENT),
    ] {
        assert_eq!(labels.get(label).map(String::as_str), Some(value), "{label}");
    }
    let fence = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(names::ANNOTATION_FENCE));
    assert_eq!(fence.map(String::as_str), Some("60/90"), "what its node's watchdog reads");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("train-1-4"), Some("train")));
    assert_eq!(spec.enable_service_links, Some(false));
    is_restricted(&pod).unwrap();
}

#[test]
fn the_first_container_alone_gets_the_gpus() {
    let pod = pod_of(&spec(|_| {}), 0, 3);
    let gpus: Vec<Option<String>> = pod
        .spec
        .unwrap()
        .containers
        .iter()
        .map(|container| {
            let resources = container.resources.clone().unwrap();
            let of = |amounts: Option<BTreeMap<String, Quantity>>| {
                amounts.and_then(|amounts| amounts.get(names::RESOURCE_NVIDIA_GPU).map(|q| q.0.clone()))
            };
            let (requests, limits) = (of(resources.requests), of(resources.limits));
            assert_eq!(requests, limits);
            requests
        })
        .collect();
    assert_eq!(gpus, [Some("8".to_owned()), None]);
}

#[test]
fn torch_members_find_rank_0_by_its_pod() {
    let spec = spec(|_| {});
    let environment = environment_of(&pod_of(&spec, 1, 4), 1);
    let leader = format!("train-0-3.train.{}.svc.cluster.local", slice_id().site_namespace());
    for (name, value) in [
        ("MASTER_ADDR", leader.as_str()),
        ("MASTER_PORT", "29500"),
        ("RANK", "1"),
        ("NODE_RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("ATOLL_RANK", "1"),
        ("ATOLL_WORLD_SIZE", "2"),
        ("ATOLL_GPUS", "8"),
        ("ATOLL_CLUSTER", "train"),
    ] {
        assert_eq!(environment.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!environment.contains_key("ATOLL_CHECKPOINT_STORE"));
}

#[test]
fn ray_workers_are_pointed_at_the_head_and_images_without_a_command_get_one() {
    let spec = spec(|spec| {
        spec["type"] = "Ray".into();
        spec["checkpointStore"] = "s3://bucket".into();
    });
    let (head, worker) = (pod_of(&spec, 0, 3), pod_of(&spec, 1, 4));
    assert!(!environment_of(&head, 0).contains_key("RAY_ADDRESS"));
    assert!(environment_of(&worker, 0)["RAY_ADDRESS"].ends_with(".svc.cluster.local:6379"));
    assert_eq!(environment_of(&worker, 0)["ATOLL_CHECKPOINT_STORE"], "s3://bucket");
    let command = |pod: &core::Pod, at: usize| pod.spec.as_ref().unwrap().containers[at].command.clone();
    assert_eq!(command(&head, 0).unwrap()[..3], ["ray", "start", "--head"]);
    assert_eq!(command(&worker, 0).unwrap()[2], "--address=$(RAY_ADDRESS)");
    assert_eq!(command(&worker, 1), None, "only the first container");
    let own = self::spec(|spec| {
        spec["type"] = "Ray".into();
        spec["template"]["spec"]["containers"][0]["args"] = json!(["serve"]);
    });
    assert_eq!(command(&pod_of(&own, 0, 3), 0), None);
}

#[test]
fn grace_ends_before_the_kill() {
    let grace = |asked: i32| {
        let spec = spec(|spec| spec["template"]["spec"]["terminationGracePeriodSeconds"] = asked.into());
        pod_of(&spec, 0, 3).spec.unwrap().termination_grace_period_seconds
    };
    assert_eq!((grace(10), grace(3600)), (Some(10), Some(29)));
    assert_eq!((grace(0), grace(-1)), (Some(1), Some(1)), "without any, a pod would be gone before it has stopped");
}

#[test]
fn a_shape_is_the_sum_of_containers_or_the_peak_of_an_init_container() {
    let spec = spec(|spec| {
        let containers = &mut spec["template"]["spec"]["containers"];
        containers[0]["resources"] = json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "4"}});
        containers[1]["resources"] = json!({"limits": {"cpu": "250m", "memory": "1M"}});
        spec["template"]["spec"]["initContainers"] =
            json!([{"name": "init", "image": "z", "resources": {"requests": {"memory": "4Gi", "cpu": "100m"}}}]);
    });
    let shape = shape(&spec.template, spec.gpus).unwrap();
    let requests: Vec<(&str, &str)> = shape.requests.iter().map(|(name, q)| (name.as_str(), q.0.as_str())).collect();
    assert_eq!(requests, [("cpu", "750m"), ("memory", "4294967296"), ("nvidia.com/gpu", "8")]);
    assert_eq!(shape.tolerations, tolerations());
}

#[test]
fn what_would_widen_a_members_rights_is_refused_by_its_field() {
    let container = |at: &str, value: serde_json::Value| {
        let at = at.to_owned();
        Box::new(move |spec: &mut serde_json::Value| spec["template"]["spec"]["containers"][0][&at] = value.clone())
            as Box<dyn Fn(&mut serde_json::Value)>
    };
    let pod = |at: &str, value: serde_json::Value| {
        let at = at.to_owned();
        Box::new(move |spec: &mut serde_json::Value| spec["template"]["spec"][&at] = value.clone())
            as Box<dyn Fn(&mut serde_json::Value)>
    };
    let top = |at: &str, value: serde_json::Value| {
        let at = at.to_owned();
        Box::new(move |spec: &mut serde_json::Value| spec[&at] = value.clone()) as Box<dyn Fn(&mut serde_json::Value)>
    };
    let cases = [
        ("hostNetwork", pod("hostNetwork", json!(true))),
        ("hostPID", pod("hostPID", json!(true))),
        ("hostIPC", pod("hostIPC", json!(true))),
        ("automountServiceAccountToken", pod("automountServiceAccountToken", json!(true))),
        ("serviceAccountName", pod("serviceAccountName", json!("default"))),
        ("nodeName", pod("nodeName", json!("control-plane"))),
        ("containers", pod("containers", json!([]))),
        ("volumes", pod("volumes", json!([{"name": "v", "hostPath": {"path": "/"}}]))),
        ("volumes", pod("volumes", json!([{"name": "v"}]))),
        ("securityContext", container("securityContext", json!({"privileged": true}))),
        ("securityContext", container("securityContext", json!({"allowPrivilegeEscalation": true}))),
        ("securityContext", container("securityContext", json!({"runAsUser": 0}))),
        ("securityContext", container("securityContext", json!({"capabilities": {"add": ["NET_ADMIN"]}}))),
        ("ports", container("ports", json!([{"containerPort": 1, "hostPort": 1}]))),
        ("env", container("env", json!([{"name": "RANK", "value": "7"}]))),
        ("env", container("env", json!([{"name": "ATOLL_RANK", "value": "7"}]))),
        ("resources", container("resources", json!({"limits": {"nvidia.com/gpu": "8"}}))),
        ("probe", container("livenessProbe", json!({"httpGet": {"port": 80, "host": "10.0.0.1"}}))),
        ("image", container("image", json!(" "))),
        ("metadata", Box::new(|spec| spec["template"]["metadata"] = json!({"labels": {"atoll.dev/gang": "x"}}))),
        (
            "metadata",
            Box::new(|spec| {
                spec["template"]["metadata"] =
                    json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}});
            }),
        ),
        ("gpus", top("gpus", json!(0))),
        ("cluster", top("cluster", json!("Train"))),
        ("members", top("members", json!([{"rank": -1, "node": "a", "incarnation": 1}]))),
        ("members", top("members", json!([{"rank": 0, "node": "a", "incarnation": 9}]))),
        ("members", top("members", json!([{"rank": 0, "node": "../x", "incarnation": 1}]))),
        (
            "members",
            top(
                "members",
                json!([{"rank": 0, "node": "a", "incarnation": 1}, {"rank": 0, "node": "a", "incarnation": 2}]),
            ),
        ),
    ];
    assert_eq!(check(&spec(|_| {})), Ok(()));
    for (field, edit) in cases {
        let refused = check(&spec(|spec| edit(spec))).expect_err(field).to_string();
        assert!(refused.contains(field), "{field}: {refused}");
    }
}

fn maybe(
    value: impl Strategy<Value = serde_json::Value> + Clone,
) -> impl Strategy<Value = Option<serde_json::Value>> + Clone {
    prop::option::weighted(0.3, value)
}

/// Templates of which many ask for what a member must not have.
fn templates() -> impl Strategy<Value = serde_json::Value> {
    let flag = || any::<bool>().prop_map(serde_json::Value::from);
    let context = (maybe(flag()), maybe(flag()), maybe((-1i64..3).prop_map(Into::into)), maybe(flag())).prop_map(
        |(privileged, escalate, user, read_only)| {
            let fields = [
                ("privileged", privileged),
                ("allowPrivilegeEscalation", escalate),
                ("runAsUser", user),
                ("readOnlyRootFilesystem", read_only),
            ];
            object(fields)
        },
    );
    let container = (
        maybe(context),
        maybe(
            Just(json!({"limits": {"cpu": "1"}}))
                .boxed()
                .prop_union(Just(json!({"limits": {"amd.com/gpu": 1}})).boxed()),
        ),
        maybe(prop::sample::select(vec![
            json!([{"containerPort": 80}]),
            json!([{"containerPort": 80, "hostPort": 80}]),
        ])),
        maybe(prop::sample::select(vec![json!([{"name": "A", "value": "b"}]), json!([{"name": "ATOLL_GPUS"}])])),
        maybe(prop::sample::select(vec![
            json!({"httpGet": {"port": 1}}),
            json!({"tcpSocket": {"port": 1, "host": "h"}}),
        ])),
    )
        .prop_map(|(context, resources, ports, env, probe)| {
            let mut container = object([
                ("securityContext", context),
                ("resources", resources),
                ("ports", ports),
                ("env", env),
                ("readinessProbe", probe),
            ]);
            container["name"] = "main".into();
            container["image"] = "x".into();
            container
        });
    (
        container.clone(),
        maybe(container.prop_map(|container| json!([container]))),
        maybe(flag()),
        maybe(flag()),
        maybe(prop::sample::select(vec![
            json!([{"name": "v", "emptyDir": {}}]),
            json!([{"name": "v", "hostPath": {"path": "/"}}]),
        ])),
        maybe((-5i32..100_000).prop_map(Into::into)),
        maybe(prop::sample::select(vec![
            json!({"labels": {"a": "b"}}),
            json!({"labels": {"atoll.dev/cluster-uid": "x"}}),
        ])),
    )
        .prop_map(|(container, init, host_network, automount, volumes, grace, metadata)| {
            let mut spec = object([
                ("initContainers", init),
                ("hostNetwork", host_network),
                ("automountServiceAccountToken", automount),
                ("volumes", volumes),
                ("terminationGracePeriodSeconds", grace),
            ]);
            spec["containers"] = json!([container]);
            let mut template = object([("metadata", metadata)]);
            template["spec"] = spec;
            template
        })
}

fn object<const N: usize>(fields: [(&str, Option<serde_json::Value>); N]) -> serde_json::Value {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    serde_json::Value::Object(fields.collect())
}

proptest! {
    #[test]
    fn a_member_is_restricted_whatever_its_template_says(template in templates()) {
        let spec = spec(|spec| spec["template"] = template);
        // Also one that `check` refuses.
        prop_assert_eq!(is_restricted(&pod_of(&spec, 0, 3)), Ok(()));
    }
}
