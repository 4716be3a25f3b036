//! The devices of this node as the kubelet sees them: device plugin API v1beta1, CDI, pod resources.
//!
//! One socket per resource name. What the kubelet is told follows from [`NodeDevices`] and what the kubelet says is
//! held ([`offers`]); the files that containers are given devices by are written before the kubelet hears of a device
//! ([`cdi`]); each resource keeps itself registered for as long as it has devices ([`registration`]).

mod api;
pub mod cdi;
mod dial;
mod directory;
mod holding;
pub mod offers;
mod pod_resources;
mod preferred;
mod registration;
pub mod resources;
mod service;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendError, ContainerEdits, DeviceId};
use crate::state::NodeDevices;

pub use pod_resources::{PodResources, PodResourcesError};

use cdi::SpecFile;
use holding::Holding;
use offers::Offers;
use registration::{Plugin, Registrations};
use resources::Resources;

/// Where the kubelet is, and what its pods may ask for.
#[derive(Clone, Debug)]
pub struct KubeletOptions {
    /// Folder of the device plugins' sockets, where the kubelet's own is.
    pub plugin_dir: PathBuf,
    /// The kubelet's pod-resources socket.
    pub pod_resources_socket: PathBuf,
    /// Folder of CDI files that the container runtime reads.
    pub cdi_dir: PathBuf,
    /// Kind of the CDI devices, "vendor/class".
    pub cdi_kind: String,
    /// Names of resources, and sharing.
    pub resources: Resources,
}

impl Default for KubeletOptions {
    /// The paths that kubelet, containerd and CRI-O use unless told otherwise.
    fn default() -> Self {
        Self {
            plugin_dir: "/var/lib/kubelet/device-plugins".into(),
            pod_resources_socket: "/var/lib/kubelet/pod-resources/kubelet.sock".into(),
            cdi_dir: "/var/run/cdi".into(),
            cdi_kind: "atoll.dev/gpu".to_owned(),
            resources: Resources::default(),
        }
    }
}

/// Asks the backend, which lives on a thread of its own, what containers need.
pub trait Prepare: Clone + Send + Sync + 'static {
    /// What a container needs to use these devices.
    fn prepare(&self, ids: &[DeviceId]) -> impl Future<Output = Result<ContainerEdits, BackendError>> + Send;
}

/// How a resource stands with the kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// How often the kubelet took the registration since this process started.
    pub times: u64,
    /// Whether the kubelet follows the list of devices now.
    pub connected: bool,
}

/// Why the kubelet's side ended.
#[derive(Debug, Error)]
pub enum KubeletError {
    /// Changes of files cannot be watched.
    #[error("cannot watch {dir} for the kubelet's socket: {source}")]
    Watch {
        /// The folder.
        dir: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Who publishes the devices is gone.
    #[error("nobody says any more what devices there are")]
    NoDevices,
}

/// Keeps the kubelet told of the devices until `stop`. Each device of an allocation goes to `allocated` before the
/// kubelet has the answer; `registered` shows, per resource name, how it stands with the kubelet.
pub async fn serve<P: Prepare>(
    options: KubeletOptions,
    mut devices: watch::Receiver<Arc<NodeDevices>>,
    prepare: P,
    allocated: mpsc::UnboundedSender<DeviceId>,
    registered: watch::Sender<BTreeMap<String, Registered>>,
    stop: CancellationToken,
) -> Result<(), KubeletError> {
    todo!()
}
