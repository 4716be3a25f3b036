//! What the kubelet asks about one resource.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::api::v1beta1::device_plugin_server::DevicePlugin;
use super::api::v1beta1::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse, ContainerPreferredAllocationResponse,
    Device, DevicePluginOptions, Empty, ListAndWatchResponse, NumaNode, PreStartContainerRequest,
    PreStartContainerResponse, PreferredAllocationRequest, PreferredAllocationResponse, TopologyInfo,
};
use super::api::{HEALTHY, UNHEALTHY};
use super::cdi::SpecFile;
use super::gate::Gate;
use super::offers::{List, Offers, device_of};
use super::resources::ResourceName;
use super::{Prepare, prepare_in_time};
use crate::backend::DeviceId;

/// What all resources share.
#[derive(Debug)]
pub(super) struct Shared<P> {
    pub prepare: P,
    pub file: Arc<Mutex<SpecFile>>,
    pub offers: watch::Receiver<Arc<Offers>>,
    pub allocated: mpsc::UnboundedSender<DeviceId>,
    /// Without one, every container starts.
    pub gate: Option<Gate>,
}

impl<P> Shared<P> {
    /// What this plugin can do beyond what it must.
    pub fn options(&self) -> DevicePluginOptions {
        DevicePluginOptions { pre_start_required: self.gate.is_some(), get_preferred_allocation_available: true }
    }
}

/// One registration's end towards the kubelet.
#[derive(Debug)]
pub(super) struct Service<P> {
    pub resource: ResourceName,
    pub shared: Arc<Shared<P>>,
    pub followers: watch::Sender<Followers>,
    pub stop: CancellationToken,
}

/// Who follows the list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Followers {
    /// How many do.
    pub now: usize,
    /// How many ever did.
    pub ever: u64,
}

impl<P: Prepare> Service<P> {
    fn list(&self) -> Arc<List> {
        self.shared.offers.borrow().get(&self.resource).cloned().unwrap_or_default()
    }

    async fn allocate_container(&self, ids: &[String]) -> Result<ContainerAllocateResponse, Status> {
        // The kubelet may not have heard yet that a device fell sick.
        if !self.list().all_healthy(ids) {
            return Err(Status::failed_precondition(format!("not all of {} are healthy", ids.join(", "))));
        }
        let mut devices: Vec<DeviceId> = ids.iter().map(|id| device_of(id).into()).collect();
        devices.sort();
        devices.dedup();
        for device in &devices {
            // Nobody listens while the process ends.
            let _ = self.shared.allocated.send(Arc::clone(device));
        }
        let edits = prepare_in_time(&self.shared.prepare, &devices).await;
        let edits = edits.map_err(|error| Status::unavailable(error.to_string()))?;
        let file = self.shared.file.lock().await;
        let written = file.ensure().await;
        written.map_err(|error| Status::unavailable(format!("cannot write {}: {error}", file.path().display())))?;
        let cdi_devices = file.names(&devices).into_iter().map(|name| CdiDevice { name }).collect();
        Ok(ContainerAllocateResponse { envs: edits.env.into_iter().collect(), cdi_devices })
    }
}

#[tonic::async_trait]
impl<P: Prepare> DevicePlugin for Service<P> {
    type ListAndWatchStream = ReceiverStream<Result<ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(self.shared.options()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let (offers, stop) = (self.shared.offers.clone(), self.stop.clone());
        let (resource, followers) = (self.resource.clone(), self.followers.clone());
        tokio::spawn(async move {
            followers.send_modify(|followers| {
                followers.now += 1;
                followers.ever += 1;
            });
            send_lists(&resource, offers, &sender, &stop).await;
            followers.send_modify(|followers| followers.now -= 1);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let list = self.list();
        let answer = request.into_inner().container_requests.into_iter().map(|request| {
            let size = usize::try_from(request.allocation_size).unwrap_or(0);
            let chosen = list.preferred(&request.available_device_ids, &request.must_include_device_ids, size);
            ContainerPreferredAllocationResponse { device_ids: chosen.into_iter().map(str::to_owned).collect() }
        });
        Ok(Response::new(PreferredAllocationResponse { container_responses: answer.collect() }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let mut container_responses = Vec::new();
        for container in request.into_inner().container_requests {
            let answer = self.allocate_container(&container.device_ids).await;
            if let Err(status) = &answer {
                tracing::warn!(resource = %self.resource, error = status.message(), "cannot give devices to a container");
            }
            container_responses.push(answer?);
        }
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        if let Some(gate) = &self.shared.gate {
            let admitted = gate.admit(&self.resource, &request.into_inner().device_ids).await;
            admitted.map_err(|error| {
                tracing::warn!(resource = %self.resource, %error, "a container does not start");
                Status::failed_precondition(error.to_string())
            })?;
        }
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

/// Sends the list at first and whenever it has changed, until the kubelet leaves or `stop`; then the last change still.
async fn send_lists(
    resource: &ResourceName,
    mut offers: watch::Receiver<Arc<Offers>>,
    sender: &mpsc::Sender<Result<ListAndWatchResponse, Status>>,
    stop: &CancellationToken,
) {
    let mut sent: Option<Arc<List>> = None;
    loop {
        let ending = stop.is_cancelled();
        let list = offers.borrow_and_update().get(resource).cloned().unwrap_or_default();
        if sent.as_ref().is_none_or(|sent| sent.offers != list.offers) {
            if sender.send(Ok(answer(&list))).await.is_err() {
                return;
            }
            sent = Some(list);
        }
        if ending {
            return;
        }
        tokio::select! {
            () = sender.closed() => return,
            () = stop.cancelled() => {}
            changed = offers.changed() => if changed.is_err() { return },
        }
    }
}

fn answer(list: &List) -> ListAndWatchResponse {
    let devices = list.offers.iter().map(|offer| Device {
        id: offer.id.clone(),
        health: if offer.healthy { HEALTHY } else { UNHEALTHY }.to_owned(),
        topology: offer.numa.map(|numa| TopologyInfo { nodes: vec![NumaNode { id: numa.into() }] }),
    });
    ListAndWatchResponse { devices: devices.collect() }
}
