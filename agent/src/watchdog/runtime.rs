//! The container runtime: what runs, and the usual way to kill it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::cri::runtime_service_client::RuntimeServiceClient;
use super::cri::{
    GetEventsRequest, ListContainersRequest, ListPodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};
use super::members::{Found, members};

/// How often it is asked what runs, at least.
const PERIOD: Duration = Duration::from_secs(1);
/// It answers lists from memory.
const LIST_LIMIT: Duration = Duration::from_secs(1);
/// Pods come with several events each.
const EVENTS_TOGETHER: Duration = Duration::from_millis(20);
/// A runtime that has no events is asked again for them so much later.
const EVENTS_PAUSE: Duration = Duration::from_secs(10);
/// A node has some hundred pods at most, of a few KiB each.
const LARGEST_ANSWER: usize = 16 << 20;

/// Why the container runtime did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The path of its socket cannot be one.
    #[error("{} cannot be a socket (choose another with --runtime-socket): {source}", .socket.display())]
    Socket {
        /// The path.
        socket: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// It refused, or cannot be reached.
    #[error("the container runtime refuses: {}", .0.message())]
    Call(Box<tonic::Status>),
    /// It does not answer.
    #[error("the container runtime does not answer within {0:?}")]
    Silent(Duration),
}

impl From<tonic::Status> for RuntimeError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// The container runtime of this node; clones share a connection, which is made anew when it breaks.
#[derive(Clone, Debug)]
pub struct Runtime {
    client: RuntimeServiceClient<Channel>,
}

impl Runtime {
    /// The one at this socket.
    pub fn new(socket: &Path) -> Result<Self, RuntimeError> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()));
        let endpoint = endpoint.map_err(|source| RuntimeError::Socket { socket: socket.to_owned(), source })?;
        let channel = endpoint.connect_timeout(LIST_LIMIT).connect_lazy();
        Ok(Self { client: RuntimeServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER) })
    }

    /// The members of which anything runs, by the UIDs of their pods.
    pub async fn members(&self) -> Result<BTreeMap<String, Found>, RuntimeError> {
        let lists = async {
            // Pods first: a container whose pod is not listed is that of a newer one, which the next list has.
            let mut client = self.client.clone();
            let sandboxes = client.list_pod_sandbox(ListPodSandboxRequest {}).await?.into_inner().items;
            let containers = client.list_containers(ListContainersRequest {}).await?.into_inner().containers;
            Ok(members(sandboxes, containers))
        };
        timeout(LIST_LIMIT, lists).await.map_err(|_| RuntimeError::Silent(LIST_LIMIT))?
    }

    /// Kills containers; returns when they have ended.
    pub async fn kill(&self, containers: &[String], limit: Duration) -> Result<(), RuntimeError> {
        let kills = containers.iter().map(|id| {
            let mut client = self.client.clone();
            let request = StopContainerRequest { container_id: id.clone(), timeout: 0 };
            async move { client.stop_container(request).await.map(drop) }
        });
        let kills = timeout(limit, try_join_all(kills)).await.map_err(|_| RuntimeError::Silent(limit))?;
        Ok(kills.map(drop)?)
    }

    /// Ends what is left of pods.
    pub async fn end(&self, sandboxes: &[String], limit: Duration) -> Result<(), RuntimeError> {
        let ends = sandboxes.iter().map(|id| {
            let mut client = self.client.clone();
            let request = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            async move { client.stop_pod_sandbox(request).await.map(drop) }
        });
        let ends = timeout(limit, try_join_all(ends)).await.map_err(|_| RuntimeError::Silent(limit))?;
        Ok(ends.map(drop)?)
    }

    /// Wakes `changed` whenever something comes or goes, as long as the runtime says so.
    async fn events(&self, changed: &Notify) -> Result<(), RuntimeError> {
        let mut events = self.client.clone().get_container_events(GetEventsRequest {}).await?.into_inner();
        while events.message().await?.is_some() {
            changed.notify_one();
        }
        Ok(())
    }
}

/// Sends what runs, or why that is not known: every second, and soon after each event.
pub async fn follow(
    runtime: Runtime,
    listed: mpsc::Sender<Result<BTreeMap<String, Found>, RuntimeError>>,
    stop: CancellationToken,
) {
    let changed = Arc::new(Notify::new());
    let events = {
        let (runtime, changed) = (runtime.clone(), Arc::clone(&changed));
        async move {
            loop {
                if let Err(error) = runtime.events(&changed).await {
                    tracing::debug!(%error, "no events; what runs is looked at each second");
                }
                sleep(EVENTS_PAUSE).await;
            }
        }
    };
    let lists = async {
        loop {
            if listed.send(runtime.members().await).await.is_err() {
                return;
            }
            if timeout(PERIOD, changed.notified()).await.is_ok() {
                sleep(EVENTS_TOGETHER).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = events => {}
        () = lists => {}
    }
}
