//! Against a real kubelet and containerd: what containers get, what the node says, and that both survive restarts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use atoll_core::device::{State, Verdict};
use atoll_core::lease::Times;
use atoll_core::member::Member;
use atoll_core::watchdog;
use atoll_device_plugin::backend::{BackendError, Bus, ContainerEdits, Device, DeviceId, Instance, Link};
use atoll_device_plugin::kubelet::{KubeletOptions, PodResources, Prepare, Registered, resources::Resources, serve};
use atoll_device_plugin::state::{DeviceState, NodeDevices};
use atoll_testkit::realnode::{RealNode, RealNodeOptions};
use atoll_testkit::wait::{eventually, wait_for, wait_gone};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, require};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(90);
const GPU: &str = "nvidia.com/gpu";
const MIG: &str = "nvidia.com/mig-1g.10gb";
const NODE: &str = "metal-0";

/// Nodes are heavy and times are measured: one at a time.
static ONE: Mutex<()> = Mutex::const_new(());

/// A container needs the file of each device below this folder, and a variable that lists them.
#[derive(Clone)]
struct Script(PathBuf);

impl Prepare for Script {
    async fn prepare(&self, ids: &[DeviceId]) -> Result<ContainerEdits, BackendError> {
        Ok(ContainerEdits {
            env: vec![("GIVEN_DEVICES".to_owned(), ids.join(","))],
            device_files: ids.iter().map(|id| self.0.join(&**id)).collect(),
            mounts: Vec::new(),
        })
    }
}

/// Four GPUs, of which 0 and 1, and 2 and 3, are linked.
fn gpus() -> Vec<DeviceState> {
    let id = |index: u32| -> DeviceId { format!("GPU-{index}").into() };
    let device = |index: u32| Device {
        id: id(index),
        gpu: id(index),
        index,
        links: vec![Link { to: id(index ^ 1), nvlinks: 4, bus: Bus::Single }],
        ..Device::default()
    };
    (0..4).map(|index| state(device(index))).collect()
}

fn instances() -> Vec<DeviceState> {
    let device = |number: u32| Device {
        id: format!("MIG-{number}").into(),
        gpu: "GPU-9".into(),
        instance: Some(Instance { gpu_instance: number, compute_instance: 0, profile: "1g.10gb".to_owned() }),
        ..Device::default()
    };
    (0..2).map(|number| state(device(number))).collect()
}

fn state(device: Device) -> DeviceState {
    DeviceState { device: Arc::new(device), verdict: Verdict::default() }
}

/// Control plane, node, the device files, and what asks about them.
struct Stage {
    node: RealNode,
    nodes: Api<Node>,
    pods: Api<Pod>,
    image: String,
    plane: ControlPlane,
}

impl Stage {
    async fn start() -> Self {
        let plane = ControlPlane::start(ControlPlaneOptions::real_node("site")).await.unwrap();
        let mut options = RealNodeOptions::new(NODE);
        // The kubelet writes its node's status once in this time; its default is 10 s.
        options.kubelet = json!({"nodeStatusUpdateFrequency": "200ms"});
        let node = RealNode::start(&plane, options).await.unwrap();
        let image = node.import_torch_demo().await.unwrap();
        let dir = node.dir().join("dev");
        fs::create_dir(&dir).unwrap();
        for state in gpus().iter().chain(&instances()) {
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            // Reads as /dev/null does.
            let number = rustix::fs::makedev(1, 3);
            let path = dir.join(&*state.device.id);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, mode, number).unwrap();
        }
        let (nodes, pods) = (Api::all(plane.client()), Api::namespaced(plane.client(), "default"));
        Self { node, nodes, pods, image, plane }
    }

    fn options(&self) -> KubeletOptions {
        KubeletOptions {
            plugin_dir: self.node.device_plugin_dir(),
            pod_resources_socket: self.node.pod_resources_socket(),
            cdi_dir: self.node.cdi_dir(),
            ..KubeletOptions::default()
        }
    }

    /// Waits until the node says so many devices of a resource: (capacity, allocatable).
    async fn until(&self, resource: &str, expected: (u32, u32)) {
        let what = format!("to have {expected:?} of {resource}");
        let waited = wait_for(&self.nodes, NODE, &what, LIMIT, |node| counts(node, resource) == expected).await;
        if let Err(error) = waited {
            panic!("{error}\n{}", self.node.kubelet().log_tail(20));
        }
    }

    /// A pod whose container has so many devices.
    fn pod(&self, name: &str, resource: &str, count: u32) -> Pod {
        let mut container = RealNode::staying_container(&self.image, name);
        container["resources"] = json!({"limits": {resource: count}});
        let pod = json!({
            "metadata": {"name": name},
            "spec": {
                "nodeName": NODE,
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "containers": [container],
            },
        });
        serde_json::from_value(pod).unwrap()
    }

    /// Runs a container with so many devices; gives their names, as its variable says, after a look at its files.
    async fn run(&self, name: &str, resource: &str, count: u32) -> BTreeSet<String> {
        self.pods.create(&PostParams::default(), &self.pod(name, resource, count)).await.unwrap();
        let running = wait_for(&self.pods, name, "to run", LIMIT, |pod| {
            pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
        });
        if let Err(error) = running.await {
            panic!("{error}\n{}\n{}", self.node.kubelet().log_tail(20), self.node.containerd().log_tail(20));
        }
        let (root, variables) = process(name);
        let given: BTreeSet<String> = variables["GIVEN_DEVICES"].split(',').map(str::to_owned).collect();
        let files = fs::read_dir(inside(&root, &self.node.dir().join("dev"))).unwrap();
        let seen = files.map(|file| {
            let file = file.unwrap();
            let data = file.metadata().unwrap();
            assert!(data.file_type().is_char_device());
            assert_eq!(data.rdev(), rustix::fs::makedev(1, 3));
            file.file_name().into_string().unwrap()
        });
        assert_eq!(seen.collect::<BTreeSet<_>>(), given, "the files are those of the devices given, and no others");
        assert_eq!(given.len(), count as usize);
        given
    }

    async fn delete(&self, name: &str) {
        self.pods.delete(name, &DeleteParams::default()).await.unwrap();
        wait_gone(&self.pods, name, LIMIT).await.unwrap();
    }

    /// The containers that run.
    async fn tasks(&self) -> BTreeSet<String> {
        self.node.ctr(["tasks", "ls"]).await.unwrap().lines().skip(1).map(str::to_owned).collect()
    }

    async fn holders(&self) -> Vec<String> {
        let mut kubelet = PodResources::new(self.node.pod_resources_socket(), Resources::default());
        let holders = kubelet.holders().await.unwrap();
        let line = |(id, holders): (&DeviceId, &BTreeSet<_>)| {
            let pods: Vec<_> = holders
                .iter()
                .map(|holder: &atoll_device_plugin::state::Holder| {
                    format!("{}/{}/{}", holder.namespace, holder.pod, holder.container)
                })
                .collect();
            format!("{id}: {}", pods.join(" "))
        };
        holders.iter().map(line).collect()
    }
}

/// (capacity, allocatable) of a resource, as the node says.
fn counts(node: &Node, resource: &str) -> (u32, u32) {
    let status = node.status.as_ref();
    let of = |list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        list.and_then(|list| list.get(resource)).and_then(|quantity| quantity.0.parse().ok()).unwrap_or(0)
    };
    (of(status.and_then(|status| status.capacity.as_ref())), of(status.and_then(|status| status.allocatable.as_ref())))
}

/// Root folder and variables of the process in the container of this pod.
fn process(pod: &str) -> (PathBuf, BTreeMap<String, String>) {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let found = processes.filter_map(|entry| {
        let text = fs::read(entry.path().join("environ")).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let variables: BTreeMap<String, String> = text
            .split('\0')
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        (variables.get("TEST_POD")? == pod).then(|| (entry.path().join("root"), variables))
    });
    found.last().unwrap_or_else(|| panic!("{pod} has no process"))
}

/// Where a path of the container is, seen from outside.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap())
}

/// The plugin, in a runtime of its own so that it can end as a killed process does.
struct Plugin {
    devices: watch::Sender<Arc<NodeDevices>>,
    allocated: mpsc::UnboundedReceiver<DeviceId>,
    registered: watch::Receiver<BTreeMap<String, Registered>>,
    runtime: Option<tokio::runtime::Runtime>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Plugin {
    fn start(stage: &Stage, devices: Vec<DeviceState>) -> Self {
        Self::start_with(stage, devices, Resources::default())
    }

    fn start_with(stage: &Stage, devices: Vec<DeviceState>, resources: Resources) -> Self {
        Self::start_as(stage, devices, KubeletOptions { resources, ..stage.options() })
    }

    fn start_as(stage: &Stage, devices: Vec<DeviceState>, options: KubeletOptions) -> Self {
        let (devices, receiver) = watch::channel(Arc::new(NodeDevices { driver: None, devices }));
        let (allocations, allocated) = mpsc::unbounded_channel();
        let (sender, registered) = watch::channel(BTreeMap::new());
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let script = Script(stage.node.dir().join("dev"));
        let serving = serve(options, receiver, script, allocations, sender, stop.clone());
        let ended = runtime.spawn(async move { serving.await.unwrap() });
        Self { devices, allocated, registered, runtime: Some(runtime), stop, ended }
    }

    fn set(&self, devices: Vec<DeviceState>) {
        self.devices.send_replace(Arc::new(NodeDevices { driver: None, devices }));
    }

    /// Ends as on SIGTERM.
    async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.ended).await.unwrap();
    }

    /// Ends as on SIGKILL: sockets stay, connections break.
    fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test]
async fn containers_get_their_devices_and_the_node_says_how_they_are() {
    require!(RealNode);
    let _one = ONE.lock().await;
    let stage = Stage::start().await;
    let mut plugin = Plugin::start(&stage, [gpus(), instances()].concat());
    stage.until(GPU, (4, 4)).await;
    stage.until(MIG, (2, 2)).await;

    // Variables and files inside, and linked devices together.
    let alone = stage.run("alone", GPU, 1).await;
    let pair = stage.run("pair", GPU, 2).await;
    let gpus_are = |ids: [u32; 2]| pair == ids.map(|id| format!("GPU-{id}")).into();
    assert!(gpus_are([0, 1]) || gpus_are([2, 3]), "{alone:?} {pair:?}");
    let instance = stage.run("instance", MIG, 1).await;
    let given: Vec<_> = std::iter::from_fn(|| plugin.allocated.try_recv().ok()).map(|id| id.to_string()).collect();
    assert_eq!(given.iter().cloned().collect::<BTreeSet<_>>(), &(&alone | &pair) | &instance);
    let mut expected: Vec<String> = [("alone", &alone), ("pair", &pair), ("instance", &instance)]
        .iter()
        .flat_map(|(pod, ids)| ids.iter().map(move |id| format!("{id}: default/{pod}/main")))
        .collect();
    expected.sort();
    assert_eq!(stage.holders().await, expected);

    // Health reaches the node.
    let mut worst = Duration::ZERO;
    for round in 0..20 {
        let mut devices = [gpus(), instances()].concat();
        if round % 2 == 0 {
            devices[round % 4].verdict.state = State::Unhealthy;
        }
        let start = Instant::now();
        plugin.set(devices);
        stage.until(GPU, (4, if round % 2 == 0 { 3 } else { 4 })).await;
        worst = worst.max(start.elapsed());
    }
    println!("health to node.status.allocatable: worst of 20 {worst:?} (kubelet writes its status every 200 ms)");
    assert!(worst <= Duration::from_secs(1), "{worst:?}");

    // One that vanishes is sick as long as a container holds it, and the pod says so.
    let left = |all: Vec<DeviceState>| all.into_iter().filter(|state| !alone.contains(&*state.device.id)).collect();
    plugin.set(left([gpus(), instances()].concat()));
    stage.until(GPU, (4, 3)).await;
    let told = wait_for(&stage.pods, "alone", "to have a sick device", LIMIT, |pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let resources = statuses.flat_map(|status| status.allocated_resources_status.iter().flatten());
        resources
            .flat_map(|status| status.resources.iter().flatten())
            .any(|one| one.health.as_deref() == Some("Unhealthy"))
    });
    told.await.unwrap();
    stage.delete("alone").await;
    stage.until(GPU, (3, 3)).await;

    // Restarts of the plugin, clean and not, with pods that run on, and devices that keep their holders.
    plugin.set([gpus(), instances()].concat());
    stage.until(GPU, (4, 4)).await;
    let running = stage.tasks().await;
    assert_eq!(running.len(), 4, "{running:?}");
    plugin.stop().await;
    stage.until(GPU, (4, 0)).await;
    let plugin = Plugin::start(&stage, [gpus(), instances()].concat());
    stage.until(GPU, (4, 4)).await;
    plugin.kill();
    stage.until(GPU, (4, 0)).await;
    let plugin = Plugin::start(&stage, [gpus(), instances()].concat());
    stage.until(GPU, (4, 4)).await;
    assert_eq!(stage.tasks().await, running);
    let rest = stage.run("rest", GPU, 2).await;
    assert!(rest.is_disjoint(&pair), "{rest:?} {pair:?}");
    let sockets = fs::read_dir(stage.node.device_plugin_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let ours = sockets.filter(|name| name.to_string_lossy().starts_with("atoll-")).count();
    assert_eq!(ours, 2, "one socket per resource, those of the killed plugin are removed");

    // Two containers share a GPU when that is chosen, and one with two slices has them of two GPUs.
    for pod in ["pair", "rest", "instance"] {
        stage.delete(pod).await;
    }
    plugin.stop().await;
    let slices = vec!["nvidia.com/gpu=2".parse().unwrap()];
    let resources = Resources::new(GPU.parse().unwrap(), Vec::new(), slices);
    let _plugin = Plugin::start_with(&stage, gpus().into_iter().take(2).collect(), resources);
    stage.until(GPU, (4, 4)).await;
    let both: BTreeSet<String> = ["GPU-0", "GPU-1"].map(str::to_owned).into();
    assert_eq!(stage.run("first", GPU, 2).await, both);
    assert_eq!(stage.run("second", GPU, 2).await, both);
    let shared = ["GPU-0: default/first/main default/second/main", "GPU-1: default/first/main default/second/main"];
    assert_eq!(stage.holders().await, shared);
}

#[tokio::test]
async fn fifty_kubelets_are_registered_with_within_a_second_each() {
    const RESTARTS: u64 = 50;
    require!(RealNode);
    let _one = ONE.lock().await;
    let stage = Stage::start().await;
    let plugin = Plugin::start(&stage, gpus());
    stage.until(GPU, (4, 4)).await;
    let given = stage.run("stays", GPU, 2).await;
    let running = stage.tasks().await;

    let mut times: Vec<Duration> = Vec::new();
    for restart in 1..=RESTARTS {
        let before = plugin.registered.borrow()[GPU].times;
        let mut registered = plugin.registered.clone();
        // Seen when it happens, also while the socket is still waited for.
        let seen = tokio::spawn(async move {
            let new = |all: &BTreeMap<String, Registered>| {
                all.get(GPU).is_some_and(|own| own.times > before && own.connected)
            };
            registered.wait_for(new).await.map(|_| SystemTime::now())
        });
        let appeared = stage.node.restart_kubelet().await.unwrap();
        let seen = tokio::time::timeout(LIMIT, seen).await.unwrap().unwrap().unwrap();
        times.push(seen.duration_since(appeared).unwrap_or_default());
        assert_eq!(plugin.registered.borrow()[GPU].times, before + 1, "restart {restart}");
    }
    times.sort();
    let worst = times[times.len() - 1];
    println!(
        "from the kubelet's socket to its following the list, {RESTARTS} restarts: median {:?}, worst {worst:?}",
        times[times.len() / 2]
    );
    assert!(worst <= Duration::from_secs(1), "{times:?}");
    assert_eq!(stage.tasks().await, running);

    // The last kubelet knows who holds what, and gives out the others.
    stage.until(GPU, (4, 4)).await;
    eventually("the kubelet to know its pods", LIMIT, async || {
        let holders = stage.holders().await;
        if holders.len() == 2 { Ok(()) } else { Err(format!("{holders:?}")) }
    })
    .await
    .unwrap();
    let rest = stage.run("rest", GPU, 2).await;
    assert!(rest.is_disjoint(&given), "{rest:?} {given:?}");
}

#[tokio::test]
async fn members_of_atoll_start_under_the_watchdogs_lease_only() {
    require!(RealNode);
    let _one = ONE.lock().await;
    let stage = Stage::start().await;
    let file = stage.node.dir().join("lease");
    let options = KubeletOptions { watchdog_lease: Some(file.clone()), ..stage.options() };
    let _plugin = Plugin::start_as(&stage, gpus(), options);
    stage.until(GPU, (4, 4)).await;

    // Where agents put members.
    let name = "atoll-0123456789abcdef";
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    Api::all(stage.plane.client()).create(&PostParams::default(), &namespace).await.unwrap();
    let members: Api<Pod> = Api::namespaced(stage.plane.client(), name);
    let member = stage.pod("worker-0-1", GPU, 1);
    eventually("the namespace to take pods", LIMIT, async || {
        members.create(&PostParams::default(), &member).await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    let said = wait_for(&members, "worker-0-1", "to be refused", LIMIT, |pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let waiting = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref()?.message.as_deref());
        waiting
            .into_iter()
            .any(|message| message.contains("worker-0-1 is a member of Atoll and starts under a lease only"))
    });
    if let Err(error) = said.await {
        panic!("{error}\n{}", stage.node.kubelet().log_tail(20));
    }
    // A supplier's own pod needs no lease.
    stage.run("notebook", GPU, 1).await;

    let (boot, wall) = atoll_runtime::clock::both_clocks();
    let pod = watchdog::Pod {
        name: format!("{name}/worker-0-1"),
        cluster_uid: "c".to_owned(),
        member: Member { rank: 0, incarnation: 1 },
        times: Times::from_seconds(600, 700),
        condemned: None,
    };
    let saved = watchdog::Saved {
        boot_id: atoll_runtime::clock::boot_id().unwrap(),
        lease: watchdog::Lease::Granted { granted: boot, asked: watchdog::Clocks { boot, wall } },
        pods: [("uid".to_owned(), pod)].into(),
    };
    fs::write(&file, saved.to_string()).unwrap();
    let running = wait_for(&members, "worker-0-1", "to run", LIMIT, |pod| {
        pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
    });
    running.await.unwrap();
}
