//! The scheduler against a real API server, under the role that ships; the test plays the agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_api::conditions::member_reason;
use atoll_api::names::{LABEL_GANG, RESOURCE_NVIDIA_GPU, SCHEDULER_NAME, SYSTEM_NAMESPACE};
use atoll_api::{Gang, GangMember, GangMode, GangPhase, GangShape, GangSpec};
use atoll_testkit::process::{ManagedProcess, ProcessSpec};
use atoll_testkit::wait::{wait_all, wait_for};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, Kwok, NodeProfile, nodes, require};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::json;

const LIMIT: Duration = Duration::from_mins(1);
const NS: &str = "default";
const ACCOUNT: &str = "system:serviceaccount:atoll-system:atoll-scheduler";
const GROUPS: [&str; 2] = ["system:serviceaccounts", "system:serviceaccounts:atoll-system"];
const ROLE: &str = include_str!("../../deploy/site/scheduler-rbac.yaml");

struct Site {
    plane: ControlPlane,
    _kwok: Kwok,
    gangs: Api<Gang>,
    pods: Api<Pod>,
}

impl Site {
    async fn start(node_count: u32) -> Self {
        let plane = ControlPlane::start(ControlPlaneOptions::new("site").crds([Gang::crd()])).await.unwrap();
        let kwok = Kwok::start(&plane).unwrap();
        let client = plane.client();
        plane.create_namespace(SYSTEM_NAMESPACE).await.unwrap();
        plane.kubectl_input(["apply", "-f", "-"], ROLE).await.unwrap().ok().unwrap();
        nodes::create(&client, &[NodeProfile::h100().named("n", node_count)]).await.unwrap();
        nodes::wait_ready(&client, node_count as usize, LIMIT).await.unwrap();
        let (gangs, pods) = (Api::namespaced(client.clone(), NS), Api::namespaced(client, NS));
        Self { plane, _kwok: kwok, gangs, pods }
    }

    fn scheduler(&self, args: &[&str]) -> ManagedProcess {
        let kubeconfig = self.plane.kubeconfig_as(ACCOUNT, &GROUPS).unwrap();
        let log = self.plane.dir().join("scheduler.log");
        let spec = ProcessSpec::new("atoll-scheduler", env!("CARGO_BIN_EXE_atoll-scheduler"), log)
            .args(["--http-address", "127.0.0.1:0", "--kubeconfig"])
            .args([kubeconfig])
            .args(args);
        ManagedProcess::start(spec).unwrap()
    }

    async fn gang(&self, name: &str, mode: GangMode, members: Vec<GangMember>, gpus: u32) {
        let requests: BTreeMap<String, Quantity> =
            [(RESOURCE_NVIDIA_GPU.to_owned(), Quantity(gpus.to_string()))].into();
        let shapes = vec![GangShape { requests, ..GangShape::default() }];
        let gang = Gang::new(name, GangSpec { mode, shapes, members, topology: Vec::new() });
        self.gangs.create(&PostParams::default(), &gang).await.unwrap();
    }

    async fn mode(&self, name: &str, mode: GangMode) {
        let patch = json!({ "spec": { "mode": mode } });
        self.gangs.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    async fn pod(&self, name: &str, gang: Option<&str>, gpus: u32) {
        let labels = gang.map_or(json!({}), |gang| json!({ LABEL_GANG: gang }));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": labels },
            "spec": {
                "schedulerName": SCHEDULER_NAME,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "main",
                    "image": "none",
                    "resources": { "limits": { RESOURCE_NVIDIA_GPU: gpus.to_string() } },
                }],
            },
        }))
        .unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap();
    }

    async fn pods_of(&self, gang: &str, members: &[GangMember], gpus: u32) {
        join_all(members.iter().map(|member| self.pod(&member.pod, Some(gang), gpus))).await;
    }

    async fn reaches(&self, gang: &str, phase: GangPhase) -> Gang {
        let of = |gang: &Gang| {
            let status = gang.status.as_ref()?;
            (status.observed_generation == gang.metadata.generation).then_some(status.phase)?
        };
        wait_for(&self.gangs, gang, &format!("to be {phase:?}"), LIMIT, |gang| of(gang) == Some(phase)).await.unwrap()
    }

    async fn node_of(&self, pod: &str) -> Option<String> {
        self.pods.get(pod).await.unwrap().spec.unwrap().node_name
    }
}

fn members(gang: &str, count: i32, node: impl Fn(i32) -> Option<String>) -> Vec<GangMember> {
    (0..count).map(|rank| GangMember { pod: format!("{gang}-{rank}"), rank, shape: 0, node: node(rank) }).collect()
}

fn places(gang: &Gang) -> BTreeMap<String, String> {
    gang.status.iter().flat_map(|status| &status.nodes).map(|at| (at.pod.clone(), at.node.clone())).collect()
}

#[tokio::test]
async fn a_gang_goes_from_hold_to_bound_and_a_refusal_says_why() {
    require!(Core);
    let site = Site::start(3).await;
    let scheduler = site.scheduler(&["--hold-seconds", "4", "--leader-lease-seconds", "5"]);

    // The leader election has its own wait; everything after it is measured.
    site.pod("first", None, 1).await;
    wait_for(&site.pods, "first", "to be bound", LIMIT, |pod| pod.spec.as_ref().unwrap().node_name.is_some())
        .await
        .unwrap();
    site.pods.delete("first", &DeleteParams::default()).await.unwrap();
    let mark = site.plane.audit().mark().unwrap();

    let two = members("g", 2, |rank| Some(format!("n-{}", 2 - rank)));
    // The API server takes 2 s for the first object of a new kind, so the clock starts at its answer.
    site.gang("g", GangMode::Hold, two.clone(), 8).await;
    let started = Instant::now();
    let reserved = site.reaches("g", GangPhase::Reserved).await;
    println!("reserved {:?} after the gang was accepted", started.elapsed());
    assert!(reserved.status.as_ref().unwrap().hold_until.is_some());
    let expected: BTreeMap<_, _> = [("g-0".into(), "n-2".into()), ("g-1".into(), "n-1".into())].into();
    assert_eq!(places(&reserved), expected);

    let started = Instant::now();
    site.mode("g", GangMode::Run).await;
    site.pods_of("g", &two, 8).await;
    let bound = site.reaches("g", GangPhase::Bound).await;
    println!("bound {:?} after Run was sent", started.elapsed());
    assert_eq!(places(&bound), expected);
    assert_eq!(bound.status.unwrap().hold_until, None);
    for (pod, node) in &expected {
        assert_eq!(site.node_of(pod).await.as_ref(), Some(node));
    }

    // Does not fit: 2 × 8 on the one node that is left.
    let started = Instant::now();
    let more = members("more", 2, |_| None);
    site.gang("more", GangMode::Hold, more.clone(), 8).await;
    let refused = site.reaches("more", GangPhase::Refused).await.status.unwrap();
    println!("refused {:?} after the gang was sent", started.elapsed());
    assert_eq!(refused.reason.as_deref(), Some(member_reason::INSUFFICIENT_CAPACITY));
    assert_eq!(
        refused.message.unwrap(),
        "2 members need 8 nvidia.com/gpu each; room for 1 of them; 1 of 3 nodes have room: 2 have too little \
         nvidia.com/gpu free; most free on one node: 8 nvidia.com/gpu"
    );

    // A hold that nobody follows up ends, and who waited gets the room.
    site.gang("idle", GangMode::Hold, members("idle", 1, |_| None), 8).await;
    site.reaches("idle", GangPhase::Reserved).await;
    site.pod("waiting", None, 1).await;
    let told = wait_for(&site.pods, "waiting", "to be told why it waits", LIMIT, |pod| {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "PodScheduled" && c.status == "False"))
    })
    .await
    .unwrap();
    assert_eq!(told.spec.unwrap().node_name, None);
    let expired = site.reaches("idle", GangPhase::Refused).await.status.unwrap();
    assert_eq!(expired.reason.as_deref(), Some(member_reason::RESERVATION_EXPIRED));
    wait_for(&site.pods, "waiting", "to be bound", LIMIT, |pod| pod.spec.as_ref().unwrap().node_name.is_some())
        .await
        .unwrap();

    // Nothing but what was needed was written, and nothing was forbidden.
    scheduler.terminate(LIMIT).await.unwrap();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for write in site.plane.audit().writes_since(mark).unwrap() {
        if write.user == ACCOUNT && write.resource != "leases" {
            assert!(write.succeeded(), "{write:?}");
            *counts.entry(format!("{} {}", write.verb, write.full_resource())).or_default() += 1;
        }
    }
    let expected: BTreeMap<String, u32> = [
        ("create events", 3),
        ("create pods/binding", 3),
        // g: Reserved, Bound; more: Refused; idle: Reserved, Refused.
        ("patch gangs/status", 5),
        ("patch pods/status", 1),
    ]
    .into_iter()
    .map(|(what, count)| (what.to_owned(), count))
    .collect();
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn a_gang_is_whole_again_after_each_kill_while_it_is_bound() {
    require!(Core);
    let site = Site::start(20).await;
    let scheduler = site.scheduler(&["--leader-elect=false", "--bindings-in-flight", "4"]);
    let selector = |gang: &str| format!("{LABEL_GANG}={gang}");
    let mut partial = 0_usize;
    for round in 0..KILLS {
        let name = format!("g{round}");
        let sixty = members(&name, 60, |rank| Some(format!("n-{}", rank / 8)));
        site.gang(&name, GangMode::Run, sixty.clone(), 1).await;
        site.pods_of(&name, &sixty, 1).await;
        // One that comes later and would take what the gang needs.
        let rival = members(&format!("r{round}"), 12, |_| None);
        site.gang(&format!("r{round}"), GangMode::Run, rival.clone(), 8).await;
        site.pods_of(&format!("r{round}"), &rival, 8).await;
        // As soon as so many are bound, which differs in each round.
        let enough = 1 + (round * 37) % 59;
        let config = watcher::Config::default().labels(&selector(&name));
        let bound = |pods: &[Pod]| pods.iter().filter(|p| p.spec.as_ref().unwrap().node_name.is_some()).count();
        wait_all(&site.pods, config.clone(), "some to be bound", LIMIT, |pods| bound(pods) >= enough).await.unwrap();
        scheduler.kill9().await.unwrap();
        let left = bound(&site.pods.list(&ListParams::default().labels(&selector(&name))).await.unwrap().items);
        partial += usize::from(left < 60);
        scheduler.restart().await.unwrap();
        let started = Instant::now();
        wait_all(&site.pods, config, "all to be bound", LIMIT, |pods| bound(pods) == 60).await.unwrap();
        println!("round {round}: {left} of 60 bound at the kill, whole {:?} after the restart", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(5));
        site.reaches(&name, GangPhase::Bound).await;
        site.reaches(&format!("r{round}"), GangPhase::Bound).await;
        // No node over capacity.
        let mut used: BTreeMap<String, u64> = BTreeMap::new();
        for pod in site.pods.list(&ListParams::default()).await.unwrap().items {
            let spec = pod.spec.unwrap();
            let requests = spec.containers[0].resources.as_ref().unwrap().requests.as_ref().unwrap();
            let gpus: u64 = requests[RESOURCE_NVIDIA_GPU].0.parse().unwrap();
            *used.entry(spec.node_name.unwrap()).or_default() += gpus;
        }
        assert!(used.values().all(|gpus| *gpus <= 8), "{used:?}");
        let all = ListParams::default();
        site.gangs.delete_collection(&DeleteParams::default(), &all).await.unwrap();
        site.pods.delete_collection(&DeleteParams::default(), &all).await.unwrap();
        wait_all(&site.pods, watcher::Config::default(), "all pods to be gone", LIMIT, <[Pod]>::is_empty)
            .await
            .unwrap();
    }
    println!("{partial} of {KILLS} kills caught the gang half-bound");
}

/// Kills in one run of the test.
const KILLS: usize = 8;
