//! Against a kubelet that does as a test says.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_core::device::{State, Verdict};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use super::api::KUBELET_SOCKET;
use super::api::v1beta1::device_plugin_client::DevicePluginClient;
use super::api::v1beta1::registration_server::{Registration, RegistrationServer};
use super::api::v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerPreferredAllocationRequest, Empty, ListAndWatchResponse,
    PreferredAllocationRequest, RegisterRequest,
};
use super::*;
use crate::backend::{Device, Instance};
use crate::state::DeviceState;

const LIMIT: Duration = Duration::from_secs(30);

/// Takes registrations, or refuses them.
struct Registrar(mpsc::UnboundedSender<RegisterRequest>, bool);

#[tonic::async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let _ = self.0.send(request.into_inner());
        if self.1 { Ok(Response::new(Empty {})) } else { Err(Status::internal("not now")) }
    }
}

/// A kubelet's socket; it stays, dead, when this is dropped, as when a kubelet is killed.
struct Kubelet {
    dir: PathBuf,
    requests: mpsc::UnboundedReceiver<RegisterRequest>,
    server: JoinHandle<()>,
}

impl Kubelet {
    fn start(dir: &std::path::Path, takes: bool) -> Self {
        let socket = dir.join(KUBELET_SOCKET);
        let _ = std::fs::remove_file(&socket);
        let (sender, requests) = mpsc::unbounded_channel();
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let service = RegistrationServer::new(Registrar(sender, takes));
        let server = tokio::spawn(async move {
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { dir: dir.to_owned(), requests, server }
    }

    /// The next registration, and a connection to the plugin.
    async fn registration(&mut self) -> (RegisterRequest, DevicePluginClient<Channel>) {
        let request = tokio::time::timeout(LIMIT, self.requests.recv()).await.unwrap().unwrap();
        let channel = dial::dial(&self.dir.join(&request.endpoint), LIMIT).await.unwrap();
        (request, DevicePluginClient::new(channel))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn follow(client: &mut DevicePluginClient<Channel>) -> Streaming<ListAndWatchResponse> {
    client.list_and_watch(Empty {}).await.unwrap().into_inner()
}

/// The next list, as ids with an exclamation mark behind those that are sick; "end" when there is none.
async fn next(stream: &mut Streaming<ListAndWatchResponse>) -> String {
    let Ok(Some(list)) = tokio::time::timeout(LIMIT, stream.message()).await.unwrap() else { return "end".to_owned() };
    let show = |device: &api::v1beta1::Device| {
        format!("{}{}", device.id, if device.health == api::HEALTHY { "" } else { "!" })
    };
    list.devices.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// Says that each device needs a file of its own name; fails for those named "bad…", does not answer for those named
/// "hangs…".
#[derive(Clone)]
struct Script;

impl Prepare for Script {
    async fn prepare(&self, ids: &[DeviceId]) -> Result<ContainerEdits, BackendError> {
        if ids.iter().any(|id| id.starts_with("hangs")) {
            std::future::pending::<()>().await;
        }
        if let Some(bad) = ids.iter().find(|id| id.starts_with("bad")) {
            return Err(BackendError::Unknown(Arc::clone(bad)));
        }
        Ok(ContainerEdits {
            env: vec![("DEVICES".to_owned(), ids.join(","))],
            device_files: ids.iter().map(|id| format!("/dev/{id}").into()).collect(),
            mounts: Vec::new(),
        })
    }
}

fn device(id: &str) -> DeviceState {
    let device = Device { id: id.into(), gpu: id.into(), numa: Some(1), ..Device::default() };
    DeviceState { device: Arc::new(device), verdict: Verdict::default() }
}

fn instance(id: &str) -> DeviceState {
    let instance = Instance { profile: "1g.10gb".to_owned(), ..Instance::default() };
    let device = Device { id: id.into(), gpu: "parent".into(), instance: Some(instance), ..Device::default() };
    DeviceState { device: Arc::new(device), verdict: Verdict::default() }
}

struct Plugin {
    dir: tempfile::TempDir,
    devices: watch::Sender<Arc<NodeDevices>>,
    allocated: mpsc::UnboundedReceiver<DeviceId>,
    registered: watch::Receiver<BTreeMap<String, Registered>>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), KubeletError>>,
}

impl Plugin {
    fn start(devices: Vec<DeviceState>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (devices, receiver) = watch::channel(Arc::new(NodeDevices { driver: None, devices }));
        let (allocations, allocated) = mpsc::unbounded_channel();
        let (sender, registered) = watch::channel(BTreeMap::new());
        let stop = CancellationToken::new();
        let options = KubeletOptions {
            plugin_dir: dir.path().to_owned(),
            pod_resources_socket: dir.path().join("none.sock"),
            cdi_dir: dir.path().join("cdi"),
            ..KubeletOptions::default()
        };
        let task = tokio::spawn(serve(options, receiver, Script, allocations, sender, stop.clone()));
        Self { dir, devices, allocated, registered, stop, task }
    }

    fn kubelet(&self) -> Kubelet {
        Kubelet::start(self.dir.path(), true)
    }

    fn set(&self, devices: Vec<DeviceState>) {
        self.devices.send_replace(Arc::new(NodeDevices { driver: None, devices }));
    }

    async fn until(&mut self, what: impl FnMut(&BTreeMap<String, Registered>) -> bool) {
        tokio::time::timeout(LIMIT, self.registered.wait_for(what)).await.unwrap().unwrap();
    }

    async fn end(self) -> BTreeSet<String> {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        let names = std::fs::read_dir(self.dir.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

const GPU: &str = "nvidia.com/gpu";

#[tokio::test]
async fn the_kubelet_hears_of_devices_and_of_each_change() {
    let mut plugin = Plugin::start(vec![device("a"), device("b")]);
    let mut kubelet = plugin.kubelet();
    let (request, mut client) = kubelet.registration().await;
    let options =
        api::v1beta1::DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true };
    assert_eq!((&*request.version, &*request.resource_name, request.options), ("v1beta1", GPU, Some(options)));
    assert_eq!(client.get_device_plugin_options(Empty {}).await.unwrap().into_inner(), options);
    let mut list = follow(&mut client).await;
    assert_eq!(next(&mut list).await, "a b");
    plugin.until(|all| all[GPU] == Registered { times: 1, connected: true }).await;

    let mut sick = device("b");
    sick.verdict.state = State::Unhealthy;
    plugin.set(vec![device("a"), sick]);
    assert_eq!(next(&mut list).await, "a b!");
    plugin.set(vec![device("a"), device("b"), device("bad")]);
    assert!(["a b bad!", "a b"].contains(&&*next(&mut list).await));
    drop((list, client, kubelet));
    assert_eq!(plugin.end().await, ["cdi", KUBELET_SOCKET].map(str::to_owned).into(), "no socket of ours is left");
}

#[tokio::test]
async fn a_container_gets_names_of_the_file_and_variables() {
    let mut plugin = Plugin::start(vec![device("a"), device("b"), device("c")]);
    let mut kubelet = plugin.kubelet();
    let (_, mut client) = kubelet.registration().await;
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();

    let wish = ContainerPreferredAllocationRequest {
        available_device_ids: ids(&["c", "b"]),
        must_include_device_ids: ids(&["c"]),
        allocation_size: 1,
    };
    let request = PreferredAllocationRequest { container_requests: vec![wish] };
    let answer = client.get_preferred_allocation(request).await.unwrap().into_inner();
    assert_eq!(answer.container_responses[0].device_ids, ["c"]);

    let allocate =
        |of: &[&str]| AllocateRequest { container_requests: vec![ContainerAllocateRequest { device_ids: ids(of) }] };
    std::fs::remove_dir_all(plugin.dir.path().join("cdi")).unwrap();
    let answer = client.allocate(allocate(&["b", "a"])).await.unwrap().into_inner();
    let container = &answer.container_responses[0];
    assert_eq!(container.envs, [("DEVICES".to_owned(), "a,b".to_owned())].into());
    let names: Vec<_> = container.cdi_devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["atoll.dev/gpu=a", "atoll.dev/gpu=b"]);
    assert_eq!(plugin.allocated.try_recv().unwrap(), "a".into());
    assert_eq!(plugin.allocated.try_recv().unwrap(), "b".into());
    let file = std::fs::read_to_string(plugin.dir.path().join("cdi/atoll.dev-gpu.json")).unwrap();
    assert!(file.contains("/dev/c"), "the file is there again, with all devices: {file}");

    let refused = client.allocate(allocate(&["unknown"])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(plugin.allocated.try_recv().is_err());
    plugin.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_hangs_withholds_its_device_and_no_other() {
    let plugin = Plugin::start(vec![device("a"), device("hangs")]);
    let mut kubelet = plugin.kubelet();
    let (_, mut client) = kubelet.registration().await;
    assert_eq!(next(&mut follow(&mut client).await).await, "a hangs!");
    plugin.end().await;
}

#[tokio::test]
async fn every_new_kubelet_is_registered_with_under_a_new_name() {
    let mut plugin = Plugin::start(vec![device("a")]);
    let mut names = BTreeSet::new();
    for round in 1..=5 {
        let mut kubelet = plugin.kubelet();
        let (request, mut client) = kubelet.registration().await;
        let mut list = follow(&mut client).await;
        assert_eq!(next(&mut list).await, "a");
        assert!(names.insert(request.endpoint));
        plugin.until(|all| all[GPU] == Registered { times: round, connected: true }).await;
        drop((list, client, kubelet));
        plugin.until(|all| !all[GPU].connected).await;
        match round {
            // As a kubelet does when it starts, and more.
            3 => {
                for entry in std::fs::read_dir(plugin.dir.path()).unwrap() {
                    drop(std::fs::remove_file(entry.unwrap().path()));
                }
            }
            4 => {
                std::fs::remove_dir_all(plugin.dir.path()).unwrap();
                std::fs::create_dir(plugin.dir.path()).unwrap();
            }
            _ => {}
        }
    }
    plugin.end().await;
}

#[tokio::test]
async fn the_same_kubelet_is_registered_with_again_when_it_left() {
    let mut plugin = Plugin::start(vec![device("a")]);
    let mut kubelet = plugin.kubelet();
    let (first, mut client) = kubelet.registration().await;
    let mut list = follow(&mut client).await;
    assert_eq!(next(&mut list).await, "a");
    drop((list, client));
    let (second, _) = kubelet.registration().await;
    assert_ne!(first.endpoint, second.endpoint);
    plugin.until(|all| all[GPU].times == 2).await;
    plugin.end().await;
}

#[tokio::test]
async fn a_kubelet_that_refuses_is_asked_again() {
    let plugin = Plugin::start(vec![device("a")]);
    let mut kubelet = Kubelet::start(plugin.dir.path(), false);
    for _ in 0..3 {
        assert!(tokio::time::timeout(LIMIT, kubelet.requests.recv()).await.unwrap().is_some());
    }
    drop(kubelet);
    let mut kubelet = plugin.kubelet();
    let (_, mut client) = kubelet.registration().await;
    assert_eq!(next(&mut follow(&mut client).await).await, "a");
    plugin.end().await;
}

#[tokio::test]
async fn resources_come_and_go_with_their_devices() {
    let mut plugin = Plugin::start(vec![instance("m")]);
    let mut kubelet = plugin.kubelet();
    let (request, mut client) = kubelet.registration().await;
    assert_eq!(request.resource_name, "nvidia.com/mig-1g.10gb");
    let mut list = follow(&mut client).await;
    assert_eq!(next(&mut list).await, "m");
    plugin.set(vec![device("a")]);
    let (request, _) = kubelet.registration().await;
    assert_eq!(request.resource_name, GPU);
    // There is no answer here to who holds the instance, so it may be held.
    assert_eq!(next(&mut list).await, "m!");
    plugin.set(vec![device("a"), instance("m")]);
    assert_eq!(next(&mut list).await, "m");
    plugin.until(|all| all.len() == 2).await;
    plugin.end().await;
}

#[tokio::test]
async fn at_the_end_the_kubelet_is_told_by_the_end_of_the_list() {
    let plugin = Plugin::start(vec![device("a")]);
    let mut kubelet = plugin.kubelet();
    let (_, mut client) = kubelet.registration().await;
    let mut list = follow(&mut client).await;
    assert_eq!(next(&mut list).await, "a");
    plugin.stop.cancel();
    assert_eq!(next(&mut list).await, "end");
    drop((list, client));
    assert!(plugin.end().await.contains("cdi"), "the file stays for containers that restart");
}
