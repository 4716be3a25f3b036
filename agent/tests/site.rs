//! The agent as a process, on a real API server and with the rights that it ships with, against a scripted hub.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hub;
mod watchdog;

use std::time::Duration;

use atoll_api::conditions::member_reason;
use atoll_api::gang::{GangNode, GangPhase, GangStatus};
use atoll_api::names::{ANNOTATION_EPOCH, LABEL_SITE, WATCHDOG_KEY, WATCHDOG_KEY_SECRET};
use atoll_api::{Gang, GpuNode, GpuNodeSpec};
use atoll_testkit::ports::Port;
use atoll_testkit::process::{ManagedProcess, ProcessSpec};
use atoll_testkit::wait::{eventually, wait_for, wait_gone};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, Kwok, NodeProfile, nodes, require};
use atoll_wire::mac::Sealed as _;
use atoll_wire::v1::member::Phase;
use atoll_wire::v1::node::Fence;
use atoll_wire::v1::{SliceDeleted, SliceKey, SliceReport, agent_message, hub_message};
use atoll_wire::watchdog::AskRequest;
use hub::Hub;
use k8s_openapi::api::core::v1::{Binding, Namespace, ObjectReference, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use watchdog::{Watchdog, ask, running};

const LIMIT: Duration = Duration::from_secs(30);
const RBAC: &str = include_str!("../../deploy/site/agent-rbac.yaml");

struct Site {
    plane: ControlPlane,
    _kwok: Kwok,
    hub: Hub,
    agent: ManagedProcess,
}

impl Site {
    async fn start(name: &str) -> Self {
        Self::start_with(name, &[]).await
    }

    async fn start_with(name: &str, args: &[&str]) -> Self {
        let options = ControlPlaneOptions::new(name).crds(atoll_api::crd::all());
        let plane = ControlPlane::start(options).await.unwrap();
        let kwok = Kwok::start(&plane).unwrap();
        nodes::create(&plane.client(), &[NodeProfile::h100().named("h100", 2)]).await.unwrap();
        nodes::wait_ready(&plane.client(), 2, LIMIT).await.unwrap();
        plane.create_namespace("atoll-system").await.unwrap();
        plane.kubectl_input(["apply", "-f", "-"], RBAC).await.unwrap().ok().unwrap();
        let hub = Hub::start();
        let kubeconfig =
            plane.kubeconfig_as("system:serviceaccount:atoll-system:atoll-agent", &["system:serviceaccounts"]).unwrap();
        let spec = ProcessSpec::new("atoll-agent", env!("CARGO_BIN_EXE_atoll-agent"), plane.dir().join("agent.log"))
            .args([
                "run",
                "--http-address",
                "127.0.0.1:0",
                "--region",
                "eu-west",
                "--log-filter",
                "info,atoll_agent=debug",
            ])
            .args(["--hub", &hub.address.to_string()])
            .args(args)
            .args([std::ffi::OsStr::new("--kubeconfig"), kubeconfig.as_os_str()])
            .env("ATOLL_JOIN_TOKEN", hub.token());
        let agent = ManagedProcess::start(spec).unwrap();
        Self { plane, _kwok: kwok, hub, agent }
    }

    /// What the agent says it holds at the start of a session.
    async fn hello(&mut self) -> Vec<atoll_wire::v1::SliceDigest> {
        self.hub
            .hear("hello", |message| match message {
                agent_message::Message::Hello(hello) => Some(hello.slices),
                _ => None,
            })
            .await
    }

    async fn report(&mut self, what: &str, mut holds: impl FnMut(&SliceReport) -> bool) -> SliceReport {
        self.hub
            .hear(what, |message| match message {
                agent_message::Message::SliceReport(report) if holds(&report) => Some(report),
                _ => None,
            })
            .await
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.plane.client(), namespace)
    }

    /// A first session and a slice of one member with short times, until it is Ready; its namespace and key.
    async fn run_one(&mut self, name: &str) -> (String, SliceKey) {
        self.hello().await;
        self.run_one_in_step(name).await
    }

    /// The same in a session that has begun.
    async fn run_one_in_step(&mut self, name: &str) -> (String, SliceKey) {
        let (namespace, key) = (atoll_agent::naming::site_namespace(&format!("uid-{name}")), key(name));
        self.hub.say_slice(&key, 1, &spec(name, 1, &[1], (3, 6))).await;
        self.hub.say_synced(&[&key]).await;
        self.bind(&namespace, &key.name, "1").await;
        self.report("that it is Ready", |report| all(report, Phase::Ready)).await;
        (namespace, key)
    }

    /// Does the scheduler's work for one gang.
    async fn bind(&self, namespace: &str, gang: &str, epoch: &str) {
        let gangs: Api<Gang> = Api::namespaced(self.plane.client(), namespace);
        let found = wait_for(&gangs, gang, "to be of its epoch", LIMIT, |gang| {
            gang.annotations().get(ANNOTATION_EPOCH).is_some_and(|of| of == epoch)
        })
        .await
        .unwrap();
        let mut status = GangStatus {
            observed_generation: found.metadata.generation,
            phase: Some(GangPhase::Bound),
            ..GangStatus::default()
        };
        for member in &found.spec.members {
            let node = member.node.clone().unwrap();
            wait_for(&self.pods(namespace), &member.pod, "to exist", LIMIT, |_| true).await.unwrap();
            let binding = Binding {
                metadata: ObjectMeta { name: Some(member.pod.clone()), ..ObjectMeta::default() },
                target: ObjectReference {
                    kind: Some("Node".into()),
                    name: Some(node.clone()),
                    ..ObjectReference::default()
                },
            };
            let params = PostParams::default();
            let pods = self.pods(namespace);
            let bound = pods.create_subresource::<_, serde_json::Value>("binding", &member.pod, &params, &binding);
            bound.await.unwrap();
            status.nodes.push(GangNode { pod: member.pod.clone(), node });
        }
        let patch = json!({"status": status});
        gangs.patch_status(gang, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
}

fn key(name: &str) -> SliceKey {
    SliceKey { namespace: "team".into(), name: format!("{name}-0011aabb-0"), cluster_uid: format!("uid-{name}") }
}

fn spec(name: &str, epoch: i64, incarnations: &[i64], (stop, kill): (i32, i32)) -> serde_json::Value {
    let members: Vec<_> = incarnations
        .iter()
        .enumerate()
        .map(|(rank, incarnation)| json!({"rank": rank, "node": format!("h100-{rank}"), "incarnation": incarnation}))
        .collect();
    json!({
        "site": "site-a", "cluster": name, "clusterUid": format!("uid-{name}"), "epoch": epoch, "term": 1,
        "phase": "Run", "type": "Torch", "gpus": 8, "members": members,
        "rendezvous": {"worldSize": incarnations.len(), "leaderIncarnation": incarnations[0]},
        "fence": {"stopSeconds": stop, "killSeconds": kill, "fenceSeconds": kill + 5},
        "template": {"spec": {"containers": [{"name": "main", "image": "registry.example/train:1",
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}},
    })
}

fn all(report: &SliceReport, phase: Phase) -> bool {
    !report.members.is_empty() && report.members.iter().all(|member| member.phase() == phase)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_runs_survives_its_agent_loses_a_member_and_goes() {
    require!(Core);
    let mut site = Site::start("agent-life").await;
    let namespace = atoll_agent::naming::site_namespace("uid-train");
    assert!(site.hello().await.is_empty());
    let inventory = site
        .hub
        .hear("its inventory", |message| match message {
            agent_message::Message::Inventory(delta) => Some(delta),
            _ => None,
        })
        .await;
    assert!(inventory.full && !inventory.more);
    assert_eq!(inventory.nodes.iter().map(|node| node.allocatable).collect::<Vec<_>>(), [8, 8]);

    // Nothing starts before the hub has said everything; then all of it does.
    let train = key("train");
    site.hub.say_slice(&train, 1, &spec("train", 1, &[1, 1], (60, 90))).await;
    site.report("that members wait", |report| all(report, Phase::Pending)).await;
    assert!(Api::<Namespace>::all(site.plane.client()).get_opt(&namespace).await.unwrap().is_none());
    site.hub.say_synced(&[&train]).await;
    site.bind(&namespace, &train.name, "1").await;
    let report = site.report("that members are Ready", |report| all(report, Phase::Ready)).await;
    assert_eq!((report.observed_epoch, report.members[1].node.as_str()), (1, "h100-1"));
    let uids = |pods: Vec<Pod>| pods.iter().map(|pod| pod.uid().unwrap()).collect::<Vec<_>>();
    let before = uids(site.pods(&namespace).list(&ListParams::default()).await.unwrap().items);
    assert_eq!(before.len(), 2);

    // A killed agent needs no new token, knows what it holds, and touches no member.
    site.agent.kill9().await.unwrap();
    site.agent.restart().await.unwrap();
    let held = site.hello().await;
    assert_eq!(held.len(), 1);
    assert_eq!((held[0].key.as_ref(), held[0].digest.is_empty()), (Some(&train), true));
    site.hub.say_slice(&train, 1, &spec("train", 1, &[1, 1], (60, 90))).await;
    site.hub.say_synced(&[&train]).await;
    site.report("that members are still Ready", |report| all(report, Phase::Ready)).await;
    assert_eq!(uids(site.pods(&namespace).list(&ListParams::default()).await.unwrap().items), before);

    // A member that the Site removes is lost, not started again under the same incarnation.
    site.pods(&namespace).delete("train-1-1", &DeleteParams::default()).await.unwrap();
    let report = site.report("that a member is lost", |r| r.members.iter().any(|m| m.phase() == Phase::Lost)).await;
    assert_eq!((report.members[1].phase(), report.members[1].reason.as_str()), (Phase::Lost, member_reason::LOST));
    site.hub.say_slice(&train, 2, &spec("train", 2, &[2, 2], (60, 90))).await;
    site.bind(&namespace, &train.name, "2").await;
    site.report("that the new ones are Ready", |r| all(r, Phase::Ready) && r.observed_epoch == 2).await;
    let names = |pods: Vec<Pod>| pods.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>();
    let pods = site.pods(&namespace).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(names(pods), ["train-0-2", "train-1-2"]);

    // Deleted: first it is gone, then its namespace.
    site.hub.say(hub_message::Message::SliceDeleted(SliceDeleted { key: Some(train.clone()) })).await;
    site.report("that it is gone", |report| report.gone).await;
    assert!(site.pods(&namespace).list(&ListParams::default()).await.unwrap().items.is_empty());
    wait_gone(&Api::<Namespace>::all(site.plane.client()), &namespace, LIMIT).await.unwrap();
    let log = std::fs::read_to_string(site.agent.log()).unwrap();
    assert!(!log.contains("forbidden"), "the agent's rights do not suffice:\n{log}");
    assert!(site.agent.terminate(LIMIT).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_gpu_leaves_the_inventory_at_once_and_its_member_is_reported() {
    require!(Core);
    let mut site = Site::start("agent-sick").await;
    let (namespace, _) = site.run_one("sick").await;
    let api: Api<GpuNode> = Api::all(site.plane.client());
    let status = |sick: bool| {
        let devices = (0..8).map(|index| {
            let mut device = json!({"uuid": format!("GPU-{index}"), "index": index, "resource": "nvidia.com/gpu"});
            if sick && index == 3 {
                device["health"] = "Unhealthy".into();
                device["reasons"] = json!([{"code": "RowRemapFailed", "message": "replace it"}]);
                device["holders"] = json!([{"namespace": namespace, "pod": "sick-0-1"}]);
            }
            device
        });
        let devices: Vec<_> = devices.collect();
        json!({"status": {"product": "NVIDIA H100 80GB HBM3", "memoryMib": 81_559, "driver": "580", "devices": devices,
                          "unhealthy": i32::from(sick)}})
    };
    api.create(&PostParams::default(), &GpuNode::new("h100-0", GpuNodeSpec::default())).await.unwrap();
    // A hub's copy on the same API server is none of its business.
    let mut copy = GpuNode::new("site-b.h100-1", GpuNodeSpec::default());
    copy.metadata.labels = Some([(LABEL_SITE.to_owned(), "site-b".to_owned())].into());
    api.create(&PostParams::default(), &copy).await.unwrap();
    for (sick, offered) in [(false, 8), (true, 7), (false, 8)] {
        let start = std::time::Instant::now();
        api.patch_status("h100-0", &PatchParams::default(), &Patch::Merge(status(sick))).await.unwrap();
        let (mut told, mut reported) = (None, false);
        let wanted = if sick { member_reason::GPU_UNHEALTHY } else { "" };
        site.hub
            .hear("what became of the GPU", |message| {
                match message {
                    agent_message::Message::Inventory(delta) => {
                        assert!(delta.nodes.iter().all(|node| node.name == "h100-0") || delta.full, "{delta:?}");
                        let node = delta.nodes.into_iter().find(|node| node.driver == "580" && !delta.full);
                        told = node.filter(|node| node.allocatable == offered).or(told.take());
                    }
                    agent_message::Message::SliceReport(report) => {
                        reported = report.members.iter().all(|member| member.reason == wanted);
                    }
                    _ => {}
                }
                // Only a change is reported.
                (told.is_some() && (reported || offered == 8 && !sick)).then_some(())
            })
            .await;
        eprintln!("from the GPUNode to what the hub hears: {:?}", start.elapsed());
        let told = told.unwrap();
        assert_eq!((told.unhealthy, told.devices.len()), (u32::from(sick), 8));
        assert_eq!(told.devices[0].uuid, if sick { "GPU-3" } else { "GPU-0" }, "the sick one first");
    }
    let log = std::fs::read_to_string(site.agent.log()).unwrap();
    assert!(!log.contains("forbidden"), "the agent's rights do not suffice:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_stop_by_themselves_without_a_lease_and_stay_stopped() {
    require!(Core);
    let mut site = Site::start("agent-lease").await;
    let (namespace, cut) = site.run_one("cut").await;
    site.hub.grant(false);
    wait_gone(&site.pods(&namespace), "cut-0-1", LIMIT).await.unwrap();
    site.hub.grant(true);
    site.agent.kill9().await.unwrap();
    site.agent.restart().await.unwrap();
    site.hello().await;
    site.hub.say_slice(&cut, 1, &spec("cut", 1, &[1], (3, 6))).await;
    site.hub.say_synced(&[&cut]).await;
    let report = site.report("that it is lost", |report| all(report, Phase::Lost)).await;
    assert_eq!(report.members[0].reason, member_reason::LEASE_EXPIRED);
    assert!(site.pods(&namespace).list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_pod_is_forced_away_is_held_until_its_watchdog_lets_it_go() {
    require!(Core);
    let port = Port::lease().unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let mut site = Site::start_with("agent-watchdog", &["--watchdog-listen", &address]).await;
    let secrets: Api<Secret> = Api::namespaced(site.plane.client(), "atoll-system");
    let secret = wait_for(&secrets, WATCHDOG_KEY_SECRET, "to be made", LIMIT, |_| true).await.unwrap();
    let key = secret.data.unwrap()[WATCHDOG_KEY].0.clone();
    assert_eq!(key.len(), 32);
    let watchdog = Watchdog::start(&address, "h100-0", &key).await;
    site.hub
        .hear("that a node has a watchdog", |message| match message {
            agent_message::Message::Inventory(delta) => {
                delta.nodes.iter().any(|node| node.name == "h100-0" && node.fence() == Fence::Watchdog).then_some(())
            }
            _ => None,
        })
        .await;

    // Whoever has another key, changes a request or sends one again is told nothing.
    let request = watchdog.request().seal(&key);
    assert!(ask(&address, request.clone()).await.is_ok());
    let changed = AskRequest { running: Vec::new(), boot_id: "another".into(), ..request.clone() };
    let other = watchdog.request().seal(&[9; 32]);
    for (what, refused) in [("sent again", request), ("changed", changed), ("another key", other)] {
        let status = ask(&address, refused).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{what}");
    }

    // Its watchdog says that it runs on: it is held, killed, and its rank waits.
    let (namespace, held) = site.run_one_in_step("held").await;
    let uid = site.pods(&namespace).get("held-0-1").await.unwrap().uid().unwrap();
    watchdog.say(vec![running(&uid, "uid-held", 0, 1)]);
    let answers = watchdog.answers(2).await;
    assert!(answers.iter().all(|answer| answer.granted && answer.kill.is_empty()), "{answers:?}");
    let forced = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    site.pods(&namespace).delete("held-0-1", &forced).await.unwrap();
    let report = site.report("that it is held", |report| all(report, Phase::Stopping)).await;
    assert_eq!(report.members[0].node, "h100-0");
    site.hub.say_slice(&held, 2, &spec("held", 2, &[2], (3, 6))).await;
    site.report("that its rank waits", |report| report.observed_epoch == 2 && report.members.len() == 2).await;
    let answers = watchdog.answers(20).await;
    assert!(answers.last().unwrap().kill == [uid], "{answers:?}");
    assert!(site.pods(&namespace).list(&ListParams::default()).await.unwrap().items.is_empty());
    watchdog.say(Vec::new());
    site.bind(&namespace, &held.name, "2").await;
    site.report("that the next one is Ready", |report| report.observed_epoch == 2 && all(report, Phase::Ready)).await;

    // A watchdog that is not heard any more is waited for until its lease has run out.
    let uid = site.pods(&namespace).get("held-0-2").await.unwrap().uid().unwrap();
    watchdog.say(vec![running(&uid, "uid-held", 0, 2)]);
    watchdog.answers(2).await;
    watchdog.stop();
    let silent = std::time::Instant::now();
    site.pods(&namespace).delete("held-0-2", &forced).await.unwrap();
    site.report("that it is held", |report| all(report, Phase::Stopping)).await;
    site.report("that it is lost", |report| all(report, Phase::Lost)).await;
    let waited = silent.elapsed();
    assert!(waited > Duration::from_secs(7) && waited < Duration::from_secs(10), "{waited:?}");
    let log = std::fs::read_to_string(site.agent.log()).unwrap();
    assert!(!log.contains("forbidden"), "the agent's rights do not suffice:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_not_join_ends_after_the_members_that_were_left() {
    require!(Core);
    let mut site = Site::start("agent-refused").await;
    let (namespace, _) = site.run_one("left").await;
    site.agent.kill9().await.unwrap();
    // Without its identity it would have to join again, and its token is used up.
    let secrets: Api<Secret> = Api::namespaced(site.plane.client(), "atoll-system");
    secrets.delete("atoll-agent-identity", &DeleteParams::default()).await.unwrap();
    site.agent.restart().await.unwrap();
    assert!(!site.agent.wait_exit(LIMIT).await.unwrap().success());
    assert!(site.pods(&namespace).list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_slices_of_eight_are_applied_within_seconds() {
    require!(Core);
    let mut site = Site::start("agent-load").await;
    site.hello().await;
    let names: Vec<String> = (0..100).map(|index| format!("c{index}")).collect();
    let keys: Vec<SliceKey> = names.iter().map(|name| key(name)).collect();
    site.hub.say_synced(&[]).await;
    let start = std::time::Instant::now();
    for (name, key) in names.iter().zip(&keys) {
        site.hub.say_slice(key, 1, &spec(name, 1, &[1; 8], (60, 90))).await;
    }
    let pods: Api<Pod> = Api::all(site.plane.client());
    eventually("800 pods", Duration::from_mins(1), || async {
        let selector = ListParams::default().labels("app.kubernetes.io/managed-by=atoll-agent");
        let count = pods.list_metadata(&selector).await.map_or(0, |list| list.items.len());
        if count == 800 { Ok(()) } else { Err(format!("{count} pods")) }
    })
    .await
    .unwrap();
    eprintln!("100 slices of 8 members applied in {:?}", start.elapsed());
}
