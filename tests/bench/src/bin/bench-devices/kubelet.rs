//! Stands in for a kubelet: takes registrations, follows the lists of devices with the time of each, knows no pods.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use atoll_device_plugin::kubelet::api::podresources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use atoll_device_plugin::kubelet::api::podresources::{ListPodResourcesRequest, ListPodResourcesResponse};
use atoll_device_plugin::kubelet::api::v1beta1::device_plugin_client::DevicePluginClient;
use atoll_device_plugin::kubelet::api::v1beta1::registration_server::{Registration, RegistrationServer};
use atoll_device_plugin::kubelet::api::v1beta1::{
    ContainerPreferredAllocationRequest, Empty, PreferredAllocationRequest, RegisterRequest,
};
use atoll_device_plugin::kubelet::api::{HEALTHY, KUBELET_SOCKET};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// The last list: by device whether it is healthy, and when the list came.
pub type Devices = (BTreeMap<String, bool>, Option<Instant>);

struct Registrar(mpsc::UnboundedSender<String>);

#[tonic::async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        self.0.send(request.into_inner().endpoint).map_err(|_| Status::unavailable("ended"))?;
        Ok(Response::new(Empty {}))
    }
}

struct NoPods;

#[tonic::async_trait]
impl PodResourcesLister for NoPods {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        Ok(Response::new(ListPodResourcesResponse::default()))
    }
}

/// A kubelet for one plugin.
pub struct Kubelet {
    /// What the plugin told last.
    pub devices: watch::Receiver<Devices>,
    client: watch::Receiver<Option<DevicePluginClient<Channel>>>,
}

impl Kubelet {
    /// Serves below `dir`, which is the plugin's `--kubelet-dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let plugins = dir.join("device-plugins");
        let pods = dir.join("pod-resources");
        std::fs::create_dir_all(&plugins)?;
        std::fs::create_dir_all(&pods)?;
        let (endpoint, mut endpoints) = mpsc::unbounded_channel();
        let registrations = UnixListenerStream::new(UnixListener::bind(plugins.join(KUBELET_SOCKET))?);
        let lists = UnixListenerStream::new(UnixListener::bind(pods.join("kubelet.sock"))?);
        tokio::spawn(
            Server::builder()
                .add_service(RegistrationServer::new(Registrar(endpoint)))
                .serve_with_incoming(registrations),
        );
        tokio::spawn(Server::builder().add_service(PodResourcesListerServer::new(NoPods)).serve_with_incoming(lists));
        let (told, devices) = watch::channel(Devices::default());
        let (connected, client) = watch::channel(None);
        tokio::spawn(async move {
            while let Some(endpoint) = endpoints.recv().await {
                let path = plugins.join(endpoint);
                if let Err(error) = follow(&path, &told, &connected).await {
                    eprintln!("   a list of devices ended: {error:#}");
                }
            }
        });
        Ok(Self { devices, client })
    }

    /// Waits until the plugin's list is as asked, and gives the time at which it came.
    pub async fn told(&mut self, what: &str, as_asked: impl Fn(&BTreeMap<String, bool>) -> bool) -> Result<Instant> {
        let wait = self.devices.wait_for(|(devices, _)| as_asked(devices));
        let found =
            tokio::time::timeout(Duration::from_secs(30), wait).await.with_context(|| format!("wait for {what}"))?;
        found?.1.ok_or_else(|| anyhow!("{what}: no list"))
    }

    /// How long the plugin takes to choose `size` devices of all it has.
    pub async fn preferred(&self, size: i32) -> Result<Duration> {
        let mut client = self.client.borrow().clone().ok_or_else(|| anyhow!("no plugin has registered"))?;
        let all = self.devices.borrow().0.keys().cloned().collect();
        let container = ContainerPreferredAllocationRequest {
            available_device_ids: all,
            must_include_device_ids: Vec::new(),
            allocation_size: size,
        };
        let asked = Instant::now();
        client.get_preferred_allocation(PreferredAllocationRequest { container_requests: vec![container] }).await?;
        Ok(asked.elapsed())
    }
}

async fn follow(
    path: &Path,
    told: &watch::Sender<Devices>,
    connected: &watch::Sender<Option<DevicePluginClient<Channel>>>,
) -> Result<()> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", path.display()))?;
    let mut client = DevicePluginClient::new(endpoint.connect().await?);
    connected.send_replace(Some(client.clone()));
    let mut lists = client.list_and_watch(Empty {}).await?.into_inner();
    while let Some(list) = lists.message().await? {
        let now = Instant::now();
        let devices = list.devices.into_iter().map(|device| (device.id, device.health == HEALTHY)).collect();
        told.send_replace((devices, Some(now)));
    }
    Ok(())
}

/// Whether a device is told as healthy.
pub fn is(devices: &BTreeMap<String, bool>, id: &str, healthy: bool) -> bool {
    devices.get(id) == Some(&healthy)
}
