//! A Site with its agent as a process, with the rights that it ships with, and its scripted hub.

use std::time::Duration;

use atoll_api::Gang;
use atoll_api::gang::{GangNode, GangPhase, GangStatus};
use atoll_api::names::ANNOTATION_EPOCH;
use atoll_testkit::process::{ManagedProcess, ProcessSpec};
use atoll_testkit::wait::wait_for;
use atoll_testkit::{ControlPlane, ControlPlaneOptions, Kwok, NodeProfile, nodes};
use atoll_wire::v1::member::Phase;
use atoll_wire::v1::{Hello, SliceKey, SliceReport, agent_message};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::Hub;

pub const LIMIT: Duration = Duration::from_secs(30);
const RBAC: &str = include_str!("../../../deploy/site/agent-rbac.yaml");
const PRIORITY: &str = include_str!("../../../deploy/site/priority-class.yaml");

pub struct Site {
    pub plane: ControlPlane,
    _kwok: Kwok,
    pub hub: Hub,
    pub agent: ManagedProcess,
}

impl Site {
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, &[]).await
    }

    pub async fn start_with(name: &str, args: &[&str]) -> Self {
        let options = ControlPlaneOptions::new(name).crds(atoll_api::crd::all());
        let plane = ControlPlane::start(options).await.unwrap();
        let kwok = Kwok::start(&plane).unwrap();
        nodes::create(&plane.client(), &[NodeProfile::h100().named("h100", 2)]).await.unwrap();
        nodes::wait_ready(&plane.client(), 2, LIMIT).await.unwrap();
        plane.create_namespace("atoll-system").await.unwrap();
        for manifest in [RBAC, PRIORITY] {
            plane.kubectl_input(["apply", "-f", "-"], manifest).await.unwrap().ok().unwrap();
        }
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
    pub async fn hello(&mut self) -> Hello {
        self.hub
            .hear("hello", |message| match message {
                agent_message::Message::Hello(hello) => Some(hello),
                _ => None,
            })
            .await
    }

    pub async fn report(&mut self, what: &str, mut holds: impl FnMut(&SliceReport) -> bool) -> SliceReport {
        self.hub
            .hear(what, |message| match message {
                agent_message::Message::SliceReport(report) if holds(&report) => Some(report),
                _ => None,
            })
            .await
    }

    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.plane.client(), namespace)
    }

    /// A first session and a slice of one member with short times, until it is Ready; its namespace and key.
    pub async fn run_one(&mut self, name: &str) -> (String, SliceKey) {
        self.hello().await;
        self.run_one_in_step(name).await
    }

    /// The same in a session that has begun.
    pub async fn run_one_in_step(&mut self, name: &str) -> (String, SliceKey) {
        let (namespace, key) = (atoll_agent::naming::site_namespace(&format!("uid-{name}")), key(name));
        self.hub.say_slice(&key, 1, &spec(name, 1, &[1], (3, 6))).await;
        self.hub.say_synced(&[&key]).await;
        self.bind(&namespace, &key.name, "1").await;
        self.report("that it is Ready", |report| all(report, Phase::Ready)).await;
        (namespace, key)
    }

    /// Does the scheduler's work for one gang.
    pub async fn bind(&self, namespace: &str, gang: &str, epoch: &str) {
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

pub fn key(name: &str) -> SliceKey {
    SliceKey { namespace: "team".into(), name: format!("{name}-0011aabb-0"), cluster_uid: format!("uid-{name}") }
}

pub fn spec(name: &str, epoch: i64, incarnations: &[i64], (stop, kill): (i32, i32)) -> serde_json::Value {
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

pub fn all(report: &SliceReport, phase: Phase) -> bool {
    !report.members.is_empty() && report.members.iter().all(|member| member.phase() == phase)
}
