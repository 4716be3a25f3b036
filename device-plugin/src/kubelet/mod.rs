//! The devices of this node as the kubelet sees them: device plugin API v1beta1, CDI, pod resources.
//!
//! One socket per resource name. What the kubelet is told follows from [`NodeDevices`] and what the kubelet says is
//! held ([`offers`]); the files that containers are given devices by are written before the kubelet hears of a device
//! ([`cdi`]); each resource keeps itself registered for as long as it has devices ([`registration`]).

pub mod api;
pub mod cdi;
mod dial;
mod directory;
mod gate;
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
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendError, ContainerEdits, DeviceId};
use crate::state::NodeDevices;

pub use pod_resources::{PodResources, PodResourcesError};

use cdi::SpecFile;
use holding::{Answer, Gone, Names, Question};
use registration::Plugin;
use resources::{ResourceName, Resources};
use service::Shared;

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
    /// The file of this node's watchdog; with it, containers of Atoll's members start under its lease only.
    pub watchdog_lease: Option<PathBuf>,
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
            watchdog_lease: None,
        }
    }
}

/// Asks the backend, which lives on a thread of its own, what containers need.
pub trait Prepare: Clone + Send + Sync + 'static {
    /// What a container needs to use these devices.
    fn prepare(&self, ids: &[DeviceId]) -> impl Future<Output = Result<ContainerEdits, BackendError>> + Send;
}

/// The kubelet admits no other pod while it waits for an answer, so a driver that hangs must not hang it.
const PREPARE_LIMIT: Duration = Duration::from_secs(10);

/// [`Prepare::prepare`], and an error when the backend does not answer.
async fn prepare_in_time<P: Prepare>(prepare: &P, ids: &[DeviceId]) -> Result<ContainerEdits, BackendError> {
    let late = |_| BackendError::Call { call: "prepare", message: format!("no answer within {PREPARE_LIMIT:?}") };
    tokio::time::timeout(PREPARE_LIMIT, prepare.prepare(ids)).await.map_err(late)?
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
    // Whatever ends this ends all that it started.
    let stop = stop.child_token();
    let _end = stop.clone().drop_guard();
    directory::remove_abandoned(&options.plugin_dir).await;
    let folder = directory::follow(options.plugin_dir.clone(), stop.clone())
        .map_err(|source| KubeletError::Watch { dir: options.plugin_dir.clone(), source })?;

    let file = Arc::new(Mutex::new(SpecFile::new(options.cdi_dir, options.cdi_kind)));
    let (ready, mut is_ready) = watch::channel(None);
    tokio::spawn(cdi::follow(Arc::clone(&file), prepare.clone(), devices.clone(), ready, stop.clone()));

    let gate = options.watchdog_lease.map(|file| gate::Gate {
        file,
        kubelet: options.pod_resources_socket.clone(),
        resources: options.resources.clone(),
    });
    let pod_resources = PodResources::new(options.pod_resources_socket, options.resources.clone());
    let (question, questions) = watch::channel(Question::default());
    let (answer, mut answers) = watch::channel(Answer::default());
    tokio::spawn(holding::follow(pod_resources, questions, answer, stop.clone()));

    let (offered, offers) = watch::channel(Arc::default());
    let shared = Arc::new(Shared { prepare, file, offers, allocated, gate });
    let mut plugins =
        Plugins { dir: options.plugin_dir, shared, registered, folder, stop: stop.clone(), running: BTreeMap::new() };
    let mut gone = Gone::default();
    loop {
        let now = Arc::clone(&devices.borrow_and_update());
        let ready = is_ready.borrow_and_update().clone();
        // At the start devices are not told as sick only because nobody was asked yet how containers use them.
        if let Some(ready) = ready {
            let withheld =
                now.devices.iter().map(|state| &state.device.id).filter(|id| !ready.contains(*id)).cloned().collect();
            let present = offers::offers(&options.resources, &now, &withheld, &Names::new());
            gone.present(offers::names(&present).collect());
            gone.answered(&answers.borrow_and_update());
            question.send_if_modified(|question| std::mem::replace(question, gone.question()) != gone.question());
            let offers = if gone.names().is_empty() {
                present
            } else {
                offers::offers(&options.resources, &now, &withheld, gone.names())
            };
            let names: Vec<_> = offers.keys().cloned().collect();
            offered.send_if_modified(|old| {
                let changed = **old != offers;
                *old = Arc::new(offers);
                changed
            });
            plugins.run(&names).await;
        }
        tokio::select! {
            // Of those that end together, the end is looked at first.
            biased;
            () = stop.cancelled() => break,
            changed = devices.changed() => if changed.is_err() { return Err(KubeletError::NoDevices) },
            changed = is_ready.changed() => if changed.is_err() { return Err(KubeletError::NoDevices) },
            // Only ends with the process.
            Ok(()) = answers.changed() => {}
        }
    }
    plugins.run(&[]).await;
    Ok(())
}

/// One task per resource that has devices.
struct Plugins<P> {
    dir: PathBuf,
    shared: Arc<Shared<P>>,
    registered: watch::Sender<BTreeMap<String, Registered>>,
    folder: watch::Receiver<u64>,
    stop: CancellationToken,
    running: BTreeMap<ResourceName, (CancellationToken, JoinHandle<()>)>,
}

impl<P: Prepare> Plugins<P> {
    /// Starts those that are missing, and ends those that are too many: the kubelet gets their last, empty list, and
    /// forgets the resource after some minutes.
    async fn run(&mut self, names: &[ResourceName]) {
        let many: Vec<_> = self.running.keys().filter(|name| !names.contains(name)).cloned().collect();
        let ended: Vec<_> = many.iter().filter_map(|name| self.running.remove(name)).collect();
        for (stop, _) in &ended {
            stop.cancel();
        }
        for (_, task) in ended {
            // It only fails by a panic, which has been printed.
            let _ = task.await;
        }
        for name in names {
            if !self.running.contains_key(name) {
                let plugin = Plugin {
                    resource: name.clone(),
                    dir: self.dir.clone(),
                    shared: Arc::clone(&self.shared),
                    registered: self.registered.clone(),
                };
                let stop = self.stop.child_token();
                let task = tokio::spawn(plugin.run(self.folder.clone(), stop.clone()));
                self.running.insert(name.clone(), (stop, task));
            }
        }
    }
}

#[cfg(test)]
mod tests;
