//! The API server that plugins write their `GPUNode`s to, and when each of these said what.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atoll_api::gpu_node::DeviceHealth;
use atoll_api::names::SYSTEM_NAMESPACE;
use atoll_api::{GpuNode, crd};
use atoll_testkit::{ControlPlane, ControlPlaneOptions};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use kube::{ResourceExt as _, core::ObjectMeta};
use tokio::sync::watch;

/// By node: its devices, and which of them are Unhealthy, and when that was seen.
type Seen = HashMap<String, (Vec<(String, bool)>, Instant)>;

/// A Site without anything but Nodes.
pub struct Site {
    plane: ControlPlane,
    seen: watch::Receiver<Seen>,
}

impl Site {
    /// Starts the API server and makes these Nodes.
    pub async fn start(nodes: impl Iterator<Item = String>) -> Result<Self> {
        let plane = ControlPlane::start(ControlPlaneOptions::new("devices").crds(crd::all())).await?;
        plane.create_namespace(SYSTEM_NAMESPACE).await?;
        let api: Api<Node> = Api::all(plane.client());
        for name in nodes {
            let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
            api.create(&PostParams::default(), &Node { metadata, ..Node::default() }).await?;
        }
        let (told, seen) = watch::channel(Seen::new());
        let api: Api<GpuNode> = Api::all(plane.client());
        tokio::spawn(async move {
            let mut events = Box::pin(watcher(api, watcher::Config::default()));
            while let Some(event) = events.next().await {
                let Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) = event else { continue };
                let now = Instant::now();
                let devices = node.status.iter().flat_map(|status| &status.devices);
                let devices = devices.map(|device| (device.uuid.clone(), device.health == DeviceHealth::Unhealthy));
                let devices = devices.collect();
                told.send_modify(|seen| drop(seen.insert(node.name_any(), (devices, now))));
            }
        });
        Ok(Self { plane, seen })
    }

    /// Who may do everything there.
    pub fn kubeconfig(&self) -> PathBuf {
        self.plane.kubeconfig().to_owned()
    }

    /// When a watch of the `GPUNode` showed this device so.
    pub async fn shows(&self, node: &str, uuid: &str, unhealthy: bool) -> Result<Instant> {
        let mut seen = self.seen.clone();
        let shown = seen.wait_for(|seen| {
            let devices = seen.get(node).map(|(devices, _)| devices.as_slice()).unwrap_or_default();
            devices.iter().any(|(known, sick)| known == uuid && *sick == unhealthy)
        });
        let shown = tokio::time::timeout(Duration::from_secs(30), shown).await;
        let shown = shown.with_context(|| format!("wait for {uuid} of the GPUNode {node}"))??;
        Ok(shown.get(node).context("no GPUNode")?.1)
    }
}
