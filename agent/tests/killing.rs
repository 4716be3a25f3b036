//! The watchdog on a real node, with an agent that says what a test tells it to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_agent::watchdog::ask::{AskError, Asker};
use atoll_agent::watchdog::cgroup::{self, CgroupError};
use atoll_api::names;
use atoll_runtime::clock::boot_time;
use atoll_testkit::realnode::{RealNode, RealNodeOptions};
use atoll_testkit::wait::{eventually, wait_for};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, ManagedProcess, ProcessSpec, require};
use atoll_wire::mac::Sealed as _;
use atoll_wire::watchdog::leases_server::{Leases, LeasesServer};
use atoll_wire::watchdog::{AskRequest, AskResponse};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tonic::{Request, Response, Status};

const KEY: &[u8] = b"a key that only this test's agent and watchdog know";
const LIMIT: Duration = Duration::from_mins(1);
/// One node at a time: they are large.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What the agent does.
#[derive(Debug, Default)]
struct Told {
    /// It answers, with a grant that is new each time.
    answers: bool,
    kill: Vec<String>,
    /// When it answered last.
    answered: Duration,
    /// What was asked last.
    request: Option<AskRequest>,
}

#[derive(Clone, Debug, Default)]
struct Agent(Arc<Mutex<Told>>);

#[tonic::async_trait]
impl Leases for Agent {
    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        let request = request.into_inner().open(KEY).ok_or_else(|| Status::unauthenticated("another key"))?;
        let mut told = self.0.lock().unwrap();
        let nonce = request.nonce.clone();
        told.request = Some(request);
        if !told.answers {
            return Err(Status::unavailable("cut off"));
        }
        told.answered = boot_time();
        let answer =
            AskResponse { nonce, granted: true, age_milliseconds: 0, kill: told.kill.clone(), mac: Vec::new() };
        Ok(Response::new(answer.seal(KEY)))
    }
}

impl Agent {
    async fn start() -> (Self, SocketAddr) {
        let agent = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(LeasesServer::new(agent.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        (agent, address)
    }

    fn answers(&self, answers: bool) {
        self.0.lock().unwrap().answers = answers;
    }

    fn running(&self) -> BTreeSet<String> {
        let told = self.0.lock().unwrap();
        told.request.iter().flat_map(|request| &request.running).map(|member| member.pod_uid.clone()).collect()
    }

    /// Waits until the watchdog says that exactly these run.
    async fn until_running(&self, uids: &[&String]) {
        let expected: BTreeSet<String> = uids.iter().map(|uid| (*uid).clone()).collect();
        eventually("the watchdog to say what runs", LIMIT, async || {
            let running = self.running();
            if running == expected { Ok(()) } else { Err(format!("{running:?} instead of {expected:?}")) }
        })
        .await
        .unwrap();
    }
}

struct Stage {
    node: RealNode,
    pods: Api<Pod>,
    image: String,
    agent: Agent,
    address: SocketAddr,
    started: u32,
    _plane: ControlPlane,
}

impl Stage {
    async fn start(name: &str) -> Self {
        let plane = ControlPlane::start(ControlPlaneOptions::real_node(name)).await.unwrap();
        let node = RealNode::start(&plane, RealNodeOptions::new(&format!("{name}-0"))).await.unwrap();
        let image = node.import_torch_demo().await.unwrap();
        let (agent, address) = Agent::start().await;
        fs::write(node.dir().join("key"), KEY).unwrap();
        let pods = Api::namespaced(plane.client(), "default");
        Self { node, pods, image, agent, address, started: 0, _plane: plane }
    }

    fn watchdog(&mut self) -> ManagedProcess {
        self.started += 1;
        let dir = self.node.dir();
        let flag = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        let log = dir.join(format!("watchdog-{}.log", self.started));
        let spec = ProcessSpec::new("watchdog", env!("CARGO_BIN_EXE_atoll-watchdog"), log).args([
            "--http-address=127.0.0.1:0".to_owned(),
            format!("--node-name={}", self.node.name()),
            format!("--agent=http://{}", self.address),
            flag("key-file", dir.join("key")),
            flag("runtime-socket", self.node.runtime_socket()),
            flag("state-dir", dir.join("watchdog")),
        ]);
        ManagedProcess::start(spec).unwrap()
    }

    fn written(&self) -> String {
        fs::read_to_string(self.node.dir().join("watchdog/lease")).unwrap_or_default()
    }

    fn lease(&self) -> String {
        self.written().lines().find(|line| line.starts_with("lease ")).unwrap_or_default().to_owned()
    }

    /// Runs a pod; a member with these fence times, or one of the supplier's own. Gives its UID.
    async fn run(&self, name: &str, fence: Option<&str>) -> String {
        let labels = [
            (names::LABEL_MANAGED_BY, names::MANAGED_BY_AGENT),
            (names::LABEL_CLUSTER_UID, "cluster-1"),
            (names::LABEL_RANK, "2"),
            (names::LABEL_INCARNATION, "5"),
        ];
        let labels: BTreeMap<_, _> = fence.iter().flat_map(|_| labels).collect();
        let annotations: BTreeMap<_, _> = fence.iter().map(|fence| (names::ANNOTATION_FENCE, *fence)).collect();
        let pod = json!({
            "metadata": {"name": name, "labels": labels, "annotations": annotations},
            "spec": {
                "nodeName": self.node.name(),
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "containers": [RealNode::staying_container(&self.image, name)],
            },
        });
        let pod = self.pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let running = wait_for(&self.pods, name, "to run", LIMIT, |pod| {
            pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
        });
        running.await.unwrap();
        // The runtime calls a container running a moment before its program is.
        let what = format!("the program of {name}");
        eventually(&what, LIMIT, async || if runs(name) { Ok(()) } else { Err("not there".to_owned()) }).await.unwrap();
        pod.metadata.uid.unwrap()
    }

    /// Waits until nothing of the pod runs; gives how long after the agent's last answer that was.
    async fn until_dead(&self, name: &str, watchdog: &ManagedProcess) -> Duration {
        let what = format!("{name} to die");
        let dead =
            eventually(
                &what,
                Duration::from_secs(20),
                async || {
                    if runs(name) { Err("it lives".to_owned()) } else { Ok(()) }
                },
            );
        if let Err(error) = dead.await {
            panic!("{error}\n{}\n{}", watchdog.log_tail(40), self.written());
        }
        boot_time().saturating_sub(self.agent.0.lock().unwrap().answered)
    }

    /// The container runtime's own process.
    fn containerd(&self) -> Pid {
        let config = self.node.dir().join("containerd.toml");
        let found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).into_owned();
            let mut words = command.split('\0');
            let is = words.next()?.ends_with("/containerd") && words.any(|word| config.as_os_str() == word);
            is.then(|| entry.file_name().to_string_lossy().parse().ok()).flatten()
        });
        Pid::from_raw(found.expect("containerd runs")).unwrap()
    }
}

/// Whether a process of the pod runs.
fn runs(pod: &str) -> bool {
    let variable = format!("TEST_POD={pod}");
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let text = fs::read(entry.path().join("environ")).unwrap_or_default();
        text.split(|byte| *byte == 0).any(|line| line == variable.as_bytes())
    })
}

/// The time from the last answer to the death of a member is as it should be: not before its time to kill (its lease began
/// when the watchdog asked, a little before the answer), and soon after it, by the measure of a machine that runs other tests.
fn in_time(after: Duration, kill: u64) {
    println!("died {after:?} after the last answer, to be killed at {kill} s");
    let kill = Duration::from_secs(kill);
    let (early, late) = (kill.checked_sub(Duration::from_secs(1)).unwrap(), kill + Duration::from_secs(3));
    assert!((early..late).contains(&after), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_die_at_their_time_when_the_agent_falls_silent_and_nobody_else_does() {
    require!(RealNode);
    let _one = ONE.lock().await;
    let mut stage = Stage::start("silent").await;
    stage.agent.answers(true);
    let watchdog = stage.watchdog();
    let strict = stage.run("strict", Some("3/4")).await;
    let long = stage.run("long", Some("600/700")).await;
    let free = stage.run("free", Some("none")).await;
    stage.run("supplier", None).await;
    stage.agent.until_running(&[&strict, &long, &free]).await;
    let request = stage.agent.0.lock().unwrap().request.clone().unwrap();
    assert_eq!((request.node.as_str(), request.boot_id.len()), ("silent-0", 36));
    for member in &request.running {
        assert_eq!((member.cluster_uid.as_str(), member.rank, member.incarnation), ("cluster-1", 2, 5));
    }
    println!("memory with three members: {} KiB", watchdog.memory() / 1024);

    stage.agent.answers(false);
    in_time(stage.until_dead("strict", &watchdog).await, 4);
    stage.agent.until_running(&[&long, &free]).await;

    // A restart changes nothing, though nobody answers.
    let lease = stage.lease();
    watchdog.kill9().await.unwrap();
    stage.agent.0.lock().unwrap().request = None;
    let watchdog = stage.watchdog();
    stage.agent.until_running(&[&long, &free]).await;
    assert_eq!(stage.lease(), lease);
    assert!(runs("long") && runs("free") && runs("supplier"));

    // Whom the agent names dies, and nobody else; autonomous or not.
    {
        let mut told = stage.agent.0.lock().unwrap();
        told.answers = true;
        told.kill = vec![free.clone()];
    }
    stage.until_dead("free", &watchdog).await;
    stage.agent.until_running(&[&long]).await;

    // A lost lease file and a silent agent: members that are found die once that was asked for.
    stage.agent.answers(false);
    watchdog.kill9().await.unwrap();
    fs::remove_file(stage.node.dir().join("watchdog/lease")).unwrap();
    let started = boot_time();
    let watchdog = stage.watchdog();
    stage.until_dead("long", &watchdog).await;
    let after = boot_time().saturating_sub(started);
    println!("without any lease: died {after:?} after the watchdog's start");
    assert!(after >= Duration::from_secs(5) && after < Duration::from_secs(10), "{after:?}");
    assert!(runs("supplier"));
}

#[tokio::test(flavor = "multi_thread")]
async fn members_die_at_their_time_also_when_the_container_runtime_is_stuck() {
    require!(RealNode);
    let _one = ONE.lock().await;
    let mut stage = Stage::start("stuck").await;
    stage.agent.answers(true);
    let watchdog = stage.watchdog();
    let first = stage.run("first", Some("3/4")).await;
    let second = stage.run("second", Some("7/8")).await;
    let free = stage.run("free", Some("none")).await;
    stage.run("supplier", None).await;
    stage.agent.until_running(&[&first, &second, &free]).await;

    let containerd = stage.containerd();
    kill_process(containerd, Signal::STOP).unwrap();
    stage.agent.answers(false);
    in_time(stage.until_dead("first", &watchdog).await, 4);

    // Also by a watchdog that has never heard of them but by what the one before wrote down.
    watchdog.kill9().await.unwrap();
    assert!(runs("second"));
    let watchdog = stage.watchdog();
    in_time(stage.until_dead("second", &watchdog).await, 8);
    assert!(runs("free") && runs("supplier"));

    // When it goes on, what runs is what it says.
    kill_process(containerd, Signal::CONT).unwrap();
    stage.agent.answers(true);
    stage.agent.until_running(&[&free]).await;
    assert!(runs("free") && runs("supplier"));
}

/// Answers as somebody would who has another key, or only old answers.
#[derive(Clone, Copy, Debug)]
enum Liar {
    OtherKey,
    OldAnswer,
    Honest,
}

#[tonic::async_trait]
impl Leases for Liar {
    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        let nonce = request.into_inner().nonce;
        let answer = AskResponse { nonce, granted: true, age_milliseconds: 5, ..AskResponse::default() };
        Ok(Response::new(match self {
            Self::OtherKey => answer.seal(&[7; 32]),
            Self::OldAnswer => AskResponse { nonce: vec![0; 16], ..answer }.seal(KEY),
            Self::Honest => answer.seal(KEY),
        }))
    }
}

#[tokio::test]
async fn only_the_agents_answer_to_this_very_request_counts() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    for (liar, believed) in [(Liar::OtherKey, false), (Liar::OldAnswer, false), (Liar::Honest, true)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(LeasesServer::new(liar));
        let server = tokio::spawn(server.serve_with_incoming(incoming));
        fs::write(&key, KEY).unwrap();
        let mut watchdog = Asker::new("n".to_owned(), &address, key.clone(), "boot".to_owned()).unwrap();
        let answer = watchdog.ask(Vec::new()).await;
        match answer {
            Ok(given) => assert!(believed && given.answer.age == Some(Duration::from_millis(5)), "{liar:?}"),
            Err(error) => assert!(!believed && matches!(error, AskError::Forged), "{liar:?}: {error}"),
        }
        fs::write(&key, "short").unwrap();
        assert!(matches!(watchdog.ask(Vec::new()).await, Err(AskError::ShortKey { length: 5, .. })));
        server.abort();
        fs::write(&key, KEY).unwrap();
        assert!(watchdog.ask(Vec::new()).await.is_err(), "nobody is there");
    }
}

/// Mount points of this machine's cgroup hierarchies, one of each version that there is.
fn cgroup_mounts() -> BTreeMap<String, PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().filter_map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        // Of version 1 the one that takes any process as it is.
        (words[2] == "cgroup2" || (words[2] == "cgroup" && words[3].contains("pids")))
            .then(|| (words[2].to_owned(), PathBuf::from(words[1])))
    });
    mounts.collect()
}

#[test]
fn all_of_a_pod_dies_through_its_cgroup_and_nothing_beside_it() {
    require!(RealNode);
    let mounts = cgroup_mounts();
    assert!(!mounts.is_empty(), "no cgroups");
    for (version, mount) in mounts {
        let top = mount.join(format!("atoll-test-killing-{}", std::process::id()));
        // As the kubelet's two drivers call them, with a container inside.
        let pods = ["pod0a-1", "kubepods-besteffort-pod0b_2.slice", "pod0c-3"].map(|pod| top.join(pod));
        let start = |cgroup: &PathBuf| {
            fs::create_dir_all(cgroup).unwrap();
            let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
            child
        };
        let mut children: Vec<_> = pods.iter().map(|pod| [start(pod), start(&pod.join("container"))]).collect();
        cgroup::kill(&mount, "0a-1").unwrap();
        cgroup::kill(&mount, "0b-2").unwrap();
        for child in children[..2].iter_mut().flatten() {
            child.wait().unwrap();
        }
        assert!(children[2].iter_mut().all(|child| child.try_wait().unwrap().is_none()), "{version}");
        // Again: it is empty. One that is not there is told from that.
        cgroup::kill(&mount, "0a-1").unwrap();
        assert!(matches!(cgroup::kill(&mount, "0d-4"), Err(CgroupError::Absent(_))));
        cgroup::kill(&mount, "0c-3").unwrap();
        for mut child in children.into_iter().flatten() {
            child.wait().unwrap();
        }
        for pod in &pods {
            fs::remove_dir(pod.join("container")).unwrap();
            fs::remove_dir(pod).unwrap();
        }
        fs::remove_dir(&top).unwrap();
        println!("{version}: {}", mount.display());
    }
}
