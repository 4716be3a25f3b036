//! The scheduler in a cluster that has nothing else of Atoll: no CRDs, only the manifests that it is installed with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::TcpListener;
use std::time::Duration;

use atoll_api::names::{LABEL_GANG, LABEL_GANG_SIZE, RESOURCE_NVIDIA_GPU, SCHEDULER_NAME, SYSTEM_NAMESPACE};
use atoll_testkit::process::{ManagedProcess, ProcessSpec};
use atoll_testkit::wait::{eventually, wait_for};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, Kwok, NodeProfile, nodes, require};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_mins(1);
const NS: &str = "default";
const ACCOUNT: &str = "system:serviceaccount:atoll-system:atoll-scheduler";
const GROUPS: [&str; 2] = ["system:serviceaccounts", "system:serviceaccounts:atoll-system"];
const MANIFESTS: [&str; 2] = [
    include_str!("../../deploy/site/scheduler-rbac.yaml"),
    include_str!("../../deploy/site/scheduler-flowschema.yaml"),
];

struct Cluster {
    plane: ControlPlane,
    _kwok: Kwok,
    _scheduler: ManagedProcess,
    pods: Api<Pod>,
    /// Port of the scheduler's pages.
    port: u16,
}

impl Cluster {
    /// Nodes with 8 GPUs each.
    async fn start(options: ControlPlaneOptions, node_count: u32) -> Self {
        let plane = ControlPlane::start(options).await.unwrap();
        let kwok = Kwok::start(&plane).unwrap();
        let client = plane.client();
        plane.create_namespace(SYSTEM_NAMESPACE).await.unwrap();
        for manifest in MANIFESTS {
            plane.kubectl_input(["apply", "-f", "-"], manifest).await.unwrap().ok().unwrap();
        }
        nodes::create(&client, &[NodeProfile::h100().named("n", node_count).located("eu-west", "eu-west-1a")])
            .await
            .unwrap();
        nodes::wait_ready(&client, node_count as usize, LIMIT).await.unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let kubeconfig = plane.kubeconfig_as(ACCOUNT, &GROUPS).unwrap();
        let log = plane.dir().join("scheduler.log");
        let spec = ProcessSpec::new("atoll-scheduler", env!("CARGO_BIN_EXE_atoll-scheduler"), log)
            .args(["--http-address", &format!("127.0.0.1:{port}"), "--kubeconfig"])
            .args([kubeconfig]);
        let scheduler = ManagedProcess::start(spec).unwrap();
        Self { plane, _kwok: kwok, _scheduler: scheduler, pods: Api::namespaced(client, NS), port }
    }

    async fn pod(&self, name: &str, gpus: u32, more: &Value) {
        let mut pod = json!({
            "metadata": { "name": name },
            "spec": {
                "schedulerName": SCHEDULER_NAME,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "main",
                    "image": "none",
                    "resources": { "limits": { RESOURCE_NVIDIA_GPU: gpus.to_string() } },
                }],
            },
        });
        for (part, fields) in more.as_object().unwrap() {
            pod[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        }
        self.pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    async fn is_bound(&self, name: &str) -> Pod {
        let bound = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.is_some();
        wait_for(&self.pods, name, "to be bound", LIMIT, bound).await.unwrap()
    }

    /// A page of the scheduler: its status line, and its body.
    async fn page(&self, path: &str) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.lines().next()?.to_owned(), body.to_owned()))
    }

    /// A page that is there and says this; all of it.
    async fn says(&self, path: &str, what: &str) -> String {
        eventually(&format!("{path} to say {what:?}"), LIMIT, async || {
            let (status, body) = self.page(path).await.ok_or("no answer")?;
            if status.contains("200") && body.contains(what) { Ok(body) } else { Err(format!("{status}\n{body}")) }
        })
        .await
        .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_binds_without_any_crd_and_shows_what_waits() {
    require!(Core);
    let cluster = Cluster::start(ControlPlaneOptions::new("alone"), 1).await;
    cluster.says("/readyz", "ok").await;
    cluster.pod("single", 1, &json!({})).await;
    cluster.is_bound("single").await;

    let member = json!({ "metadata": {
        "labels": { LABEL_GANG: "g" },
        "annotations": { LABEL_GANG_SIZE: "2" },
    }});
    for name in ["g-0", "g-1"] {
        cluster.pod(name, 4, &member).await;
    }
    // 8 GPUs, of which one is taken.
    let table = cluster.says("/debug/scheduler", "gang  default    g").await;
    let line = table.lines().find(|line| line.starts_with("gang")).unwrap();
    assert!(line.contains("2 members"), "{table}");
    let rows: Value = serde_json::from_str(&cluster.says("/debug/scheduler?format=json", "\"g\"").await).unwrap();
    assert_eq!((&rows[0]["kind"], &rows[0]["members"]), (&json!("gang"), &json!(2)), "{rows}");
    assert!(rows[0]["reason"].as_str().unwrap().contains("nvidia.com/gpu"), "{rows}");
    let metrics = cluster.says("/metrics", "atoll_scheduler_pending{kind=\"gang\"} 1").await;
    for expected in [
        "atoll_scheduler_pending_reasons{waits_for=\"change\"} 1",
        "atoll_scheduler_bindings_total{result=\"bound\"} 1",
        "atoll_scheduler_pod_seconds_count 1",
        "atoll_scheduler_cache_size{kind=\"nodes\"} 1",
        "atoll_scheduler_cache_size{kind=\"pods\"} 3",
    ] {
        assert!(metrics.contains(expected), "{expected} is not in\n{metrics}");
    }
    let said = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"))
    };
    wait_for(&cluster.pods, "g-0", "to be told why it waits", LIMIT, said).await.unwrap();

    // Whoever has this account has the share of the API server that is meant for it.
    let kubeconfig = cluster.plane.kubeconfig_as(ACCOUNT, &GROUPS).unwrap();
    let schemas: Api<FlowSchema> = Api::all(cluster.plane.client());
    let schema = schemas.get("atoll-scheduler").await.unwrap().uid().unwrap();
    eventually("requests of the scheduler in its flow schema", LIMIT, async || {
        let args = ["get", "--raw", "/api/v1/nodes", "-v=8"];
        let listed = cluster.plane.kubectl_with(&kubeconfig, args, "").await.map_err(|error| error.to_string())?;
        let headers = format!("{listed:?}");
        if headers.contains(&schema) { Ok(()) } else { Err(headers) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_higher_priority_takes_the_place_of_another() {
    require!(Core);
    let cluster = Cluster::start(ControlPlaneOptions::new("preempt"), 1).await;
    let classes: Api<PriorityClass> = Api::all(cluster.plane.client());
    let high = json!({ "metadata": { "name": "high" }, "value": 1000 });
    classes.create(&PostParams::default(), &serde_json::from_value(high).unwrap()).await.unwrap();
    let mark = cluster.plane.audit().mark().unwrap();
    cluster.pod("low", 8, &json!({})).await;
    let low = cluster.is_bound("low").await;

    cluster.pod("high", 8, &json!({ "spec": { "priorityClassName": "high" } })).await;
    let high = cluster.is_bound("high").await;
    assert_eq!(high.spec.unwrap().node_name, low.spec.unwrap().node_name);
    assert!(cluster.pods.get_opt("low").await.unwrap().is_none());
    // A request is in the audit log when it has ended, which its effects do not wait for.
    eventually("the audit log to say what became of the pod", LIMIT, async || {
        let writes = cluster.plane.audit().writes_since(mark).map_err(|error| error.to_string())?;
        let about_low: Vec<String> = writes
            .iter()
            .filter(|event| event.user == ACCOUNT && event.resource == "pods" && event.name == "low")
            .map(|event| format!("{} {}", event.verb, event.full_resource()))
            .collect();
        let as_is_right = about_low == ["create pods/binding", "patch pods/status", "delete pods"];
        if as_is_right { Ok(()) } else { Err(format!("{about_low:?}")) }
    })
    .await
    .unwrap();
    cluster.says("/metrics", "atoll_scheduler_evictions_total{result=\"evicted\"} 1").await;
    cluster.says("/metrics", "atoll_scheduler_preemption_victims_count 1").await;
}

/// Message of a pod group's condition of this status.
fn initially_scheduled(group: &DynamicObject, status: &str) -> Option<String> {
    let conditions = group.data.get("status")?.get("conditions")?.as_array()?;
    let condition = conditions.iter().find(|c| c["type"] == "PodGroupInitiallyScheduled" && c["status"] == status)?;
    Some(condition["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_groups_are_bound_all_or_nothing_and_told() {
    require!(Core);
    let served = ["--feature-gates=GenericWorkload=true", "--runtime-config=scheduling.k8s.io/v1beta1=true"];
    let cluster = Cluster::start(ControlPlaneOptions::new("podgroups").apiserver_args(served), 1).await;
    let kind = GroupVersionKind::gvk("scheduling.k8s.io", "v1beta1", "PodGroup");
    let groups: Api<DynamicObject> = Api::namespaced_with(cluster.plane.client(), NS, &ApiResource::from_gvk(&kind));
    let group = json!({
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": { "name": "g" },
        "spec": { "schedulingPolicy": { "gang": { "minCount": 2 } } },
    });
    groups.create(&PostParams::default(), &serde_json::from_value(group).unwrap()).await.unwrap();
    cluster.pod("before", 1, &json!({})).await;
    cluster.is_bound("before").await;

    let member = json!({ "spec": { "schedulingGroup": { "podGroupName": "g" } } });
    for name in ["g-0", "g-1"] {
        cluster.pod(name, 4, &member).await;
    }
    let told = async |status: &str| {
        eventually(&format!("the pod group to be {status}"), LIMIT, async || {
            let group = groups.get("g").await.map_err(|error| error.to_string())?;
            initially_scheduled(&group, status).ok_or_else(|| group.data.to_string())
        })
        .await
        .unwrap()
    };
    let why = told("False").await;
    assert!(why.contains("2 members need 4"), "{why}");
    cluster.pods.delete("before", &DeleteParams::default()).await.unwrap();
    cluster.is_bound("g-0").await;
    cluster.is_bound("g-1").await;
    told("True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_work_as_they_are() {
    require!(Core);
    let served = ["--feature-gates=GenericWorkload=true", "--runtime-config=scheduling.k8s.io/v1beta1=true"];
    let mut options = ControlPlaneOptions::new("examples").apiserver_args(served);
    options.controllers.push("job-controller".to_owned());
    let cluster = Cluster::start(options, 3).await;
    for (example, members) in [
        (include_str!("../../examples/scheduler/gang.yaml"), 8),
        (include_str!("../../examples/scheduler/elastic.yaml"), 8),
        (include_str!("../../examples/scheduler/podgroup.yaml"), 2),
    ] {
        let bound = async || {
            let pods = cluster.pods.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let bound = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            Ok::<_, String>(pods.iter().filter(bound).count())
        };
        let before = bound().await.unwrap();
        cluster.plane.kubectl_input(["apply", "-f", "-"], example).await.unwrap().ok().unwrap();
        eventually(&format!("{members} more pods to be bound"), LIMIT, async || match bound().await? - before {
            more if more == members => Ok(()),
            more => Err(format!("{more} are, of\n{example}")),
        })
        .await
        .unwrap();
    }
}
