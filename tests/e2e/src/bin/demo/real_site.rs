//! The demo's fourth Site: one node with a real kubelet and containerd, and the device plugin. Its GPUs are played by the
//! fake NVML library; everything else is as on a node with GPUs.

use anyhow::Result;
use atoll_e2e::site::Prepared;
use atoll_e2e::{DevicePlugin, SiteOptions};
use atoll_testkit::realnode::{self, RealNode, RealNodeOptions};
use atoll_testkit::skip::Need;

/// Display name of the Site.
pub const SITE: &str = "workshop";
/// Name of its node.
pub const NODE: &str = "bench-1";
/// The GPUs of the node.
pub const GPUS: (&str, u32) = ("l40s:4", 4);

/// The node, and what runs on it beside the kubelet. Ended in this order.
#[derive(Debug)]
pub struct RealSite {
    /// The device plugin.
    pub plugin: DevicePlugin,
    /// Containers before the control plane that they belong to.
    _node: RealNode,
}

/// Why there is no real node on this machine, if so.
pub fn unsupported() -> Option<String> {
    realnode::supported().and_then(|()| Need::RealNode.check()).err().map(|error| error.to_string())
}

/// Starts the Site's control plane, its node, and the device plugin on the node.
pub async fn start() -> Result<(Prepared, RealSite)> {
    let options = SiteOptions { real_node: true, ..SiteOptions::new(SITE, "eu-west", "maker", Vec::new()) };
    let prepared = Prepared::start(options).await?;
    let node = RealNode::start(prepared.plane(), RealNodeOptions::new(NODE)).await?;
    node.import_torch_demo().await?;
    let plugin = DevicePlugin::start(prepared.plane(), &node, GPUS.0, GPUS.1).await?;
    Ok((prepared, RealSite { plugin, _node: node }))
}
