//! Keeps the Site's `GPUNode` of this node up to date: by server-side apply, of own fields only, and only when there is
//! news; publishes an event on the Node for each device whose health changes.

mod catalogue;
mod describe;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::names::{FIELD_MANAGER_DEVICE_PLUGIN, LABEL_SITE};
use atoll_api::{GpuModel, GpuNode, GpuNodeStatus};
use atoll_runtime::backoff::Backoff;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::backend::{Device, DeviceId};
use crate::state::{Holder, NodeDevices};
use describe::{News, Note, Seen};

/// Who holds which device.
pub type Holders = BTreeMap<DeviceId, BTreeSet<Holder>>;

/// The API server answers within this, or the request is repeated.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what no decision hangs on waits: by then a kubelet that did not answer does again, and figures in words cause
/// no more writes than this.
const SETTLE: Duration = Duration::from_secs(30);
/// How long a device that a container just left may take to be empty before it is worth saying.
const RELEASE: Duration = Duration::from_secs(5);
/// How often it is looked whether the object is still there and as it was written.
const LOOK_AGAIN: Duration = Duration::from_mins(5);
/// How long the driver may take to answer after the start before it is said that it does not.
const START: Duration = Duration::from_secs(10);
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What a device is to the kubelet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Name of the extended resource.
    pub resource: String,
    /// How many containers may share it.
    pub replicas: u32,
}

/// What the `GPUNode` follows from.
pub struct Sources {
    /// The devices and how they are.
    pub devices: watch::Receiver<Arc<NodeDevices>>,
    /// Who holds them.
    pub holders: watch::Receiver<Arc<Holders>>,
    /// What a device is to the kubelet.
    pub offer: Box<dyn Fn(&Device) -> Offer + Send + Sync>,
}

/// Why the `GPUNode` is not written.
#[derive(Debug, Error)]
enum WriteError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API server does not answer")]
    Silent,
    #[error("there is no Node {0}")]
    NoNode(String),
    #[error("a GPUNode of this name is a hub's copy of another Site's node")]
    Taken,
}

/// Keeps the `GPUNode` of `node` up to date until `stop`, or until nobody says any more what devices there are.
pub async fn keep(client: Client, node: String, sources: Sources, stop: CancellationToken) {
    let mut keeper = Keeper {
        site: Site { client, node },
        catalogue: catalogue::shipped(),
        sources,
        known: None,
        settling: None,
        started: Instant::now(),
        backoff: Backoff::new(RETRY.0, RETRY.1),
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keeper.run() => {}
    }
}

/// What the API server holds, as it was last read or written.
struct Known {
    status: GpuNodeStatus,
    node_uid: String,
    looked: Instant,
}

struct Keeper {
    site: Site,
    catalogue: Vec<GpuModel>,
    sources: Sources,
    known: Option<Known>,
    /// Since when there has been something to write that no decision hangs on.
    settling: Option<Instant>,
    started: Instant,
    backoff: Backoff<()>,
}

impl Keeper {
    async fn run(&mut self) {
        loop {
            let wait = match timeout(PATIENCE, self.step()).await.unwrap_or(Err(WriteError::Silent)) {
                Ok(wait) => {
                    self.backoff.reset(&());
                    wait
                }
                Err(error) => {
                    let wait = self.backoff.next(&());
                    tracing::warn!(node = self.site.node, %error, ?wait, "the GPUNode is not written");
                    // What became of the write is not known.
                    self.known = None;
                    wait
                }
            };
            // Who holds healthy devices is not written.
            let sick = self.sources.devices.borrow().devices.iter().any(describe::is_unhealthy);
            tokio::select! {
                changed = self.sources.devices.changed() => if changed.is_err() { return },
                Ok(()) = self.sources.holders.changed(), if sick => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Writes what is news; how long until there is something to do although nothing changes.
    async fn step(&mut self) -> Result<Duration, WriteError> {
        let devices = Arc::clone(&self.sources.devices.borrow_and_update());
        let starting = START.saturating_sub(self.started.elapsed());
        if *devices == NodeDevices::default() && !starting.is_zero() {
            return Ok(starting);
        }
        let known = match self.known.take().filter(|known| known.looked.elapsed() < LOOK_AGAIN) {
            Some(known) => known,
            None => self.site.look().await?,
        };
        let holders = Arc::clone(&self.sources.holders.borrow_and_update());
        let seen =
            Seen { devices: &devices, holders: &holders, offer: &self.sources.offer, catalogue: &self.catalogue };
        let wanted = seen.status(&self.site.node, &known.status, Timestamp::now());
        let next_look = LOOK_AGAIN.saturating_sub(known.looked.elapsed());
        let settles = match describe::news(&known.status, &wanted) {
            News::None => {
                self.settling = None;
                next_look
            }
            News::Words => self.remaining(SETTLE),
            News::Release => self.remaining(RELEASE),
            News::Health => Duration::ZERO,
        };
        if !settles.is_zero() {
            self.known = Some(known);
            return Ok(settles.min(next_look));
        }
        self.site.write(&wanted).await?;
        self.settling = None;
        self.site.publish(&known.node_uid, describe::notes(&known.status, &wanted));
        self.known = Some(Known { status: wanted, ..known });
        Ok(next_look)
    }

    fn remaining(&mut self, limit: Duration) -> Duration {
        limit.saturating_sub(self.settling.get_or_insert_with(Instant::now).elapsed())
    }
}

struct Site {
    client: Client,
    node: String,
}

impl Site {
    /// Reads the object, and makes it where it is not there or is not the present Node's.
    async fn look(&self) -> Result<Known, WriteError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let api: Api<GpuNode> = Api::all(self.client.clone());
        let (node, mut found) = tokio::try_join!(nodes.get_metadata_opt(&self.node), api.get_opt(&self.node))?;
        let node_uid = node.and_then(|node| node.uid()).ok_or_else(|| WriteError::NoNode(self.node.clone()))?;
        if found.as_ref().is_some_and(|found| found.labels().contains_key(LABEL_SITE)) {
            return Err(WriteError::Taken);
        }
        let owner = OwnerReference {
            api_version: Node::api_version(&()).into_owned(),
            kind: Node::kind(&()).into_owned(),
            name: self.node.clone(),
            uid: node_uid.clone(),
            ..OwnerReference::default()
        };
        if !found.as_ref().is_some_and(|found| found.owner_references().contains(&owner)) {
            // It goes with its Node. The spec is the supplier's; it must be there, and nothing of it is set.
            let object = json!({
                "apiVersion": GpuNode::api_version(&()),
                "kind": GpuNode::kind(&()),
                "metadata": { "name": self.node, "ownerReferences": [owner] },
                "spec": {},
            });
            found = Some(api.patch(&self.node, &apply(), &Patch::Apply(&object)).await?);
        }
        let status = found.and_then(|found| found.status).unwrap_or_default();
        Ok(Known { status: describe::own(status), node_uid, looked: Instant::now() })
    }

    async fn write(&self, status: &GpuNodeStatus) -> Result<(), WriteError> {
        let mut status = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
        if let Some(fields) = status.as_object_mut() {
            // Not this process's to say.
            fields.remove("usedByOthers");
        }
        let object = json!({
            "apiVersion": GpuNode::api_version(&()),
            "kind": GpuNode::kind(&()),
            "metadata": { "name": self.node },
            "status": status,
        });
        let api: Api<GpuNode> = Api::all(self.client.clone());
        api.patch_status(&self.node, &apply(), &Patch::Apply(&object)).await?;
        Ok(())
    }

    /// Publishes events without making anybody wait: one that is lost is lost.
    fn publish(&self, node_uid: &str, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        let mut node = Node::default();
        node.metadata.name = Some(self.node.clone());
        node.metadata.uid = Some(node_uid.to_owned());
        let regarding = node.object_ref(&());
        let client = self.client.clone();
        tokio::spawn(async move {
            for note in notes {
                // A recorder takes events of one reason for repetitions of the first, whichever device they are about;
                // a new one for each keeps them apart.
                let reporter = Reporter { controller: FIELD_MANAGER_DEVICE_PLUGIN.to_owned(), instance: None };
                let event = Event {
                    type_: if note.warning { EventType::Warning } else { EventType::Normal },
                    action: note.reason.to_owned(),
                    reason: note.reason.to_owned(),
                    note: Some(note.text),
                    secondary: None,
                };
                if let Err(error) = Recorder::new(client.clone(), reporter).publish(&event, &regarding).await {
                    tracing::debug!(%error, "an event could not be published");
                }
            }
        });
    }
}

fn apply() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER_DEVICE_PLUGIN).force()
}
