//! The demo's fourth Site: one node with a real kubelet and containerd. Its GPUs are pretended, by a patched capacity.

use anyhow::Result;
use atoll_api::names;
use atoll_e2e::SiteOptions;
use atoll_e2e::site::Prepared;
use atoll_testkit::realnode::{self, RealNode, RealNodeOptions};
use atoll_testkit::skip::Need;

/// GPUs that the node pretends to have.
const GPUS: u32 = 2;

/// Why there is no real node on this machine, if so.
pub fn unsupported() -> Option<String> {
    realnode::supported().and_then(|()| Need::RealNode.check()).err().map(|error| error.to_string())
}

/// Starts the Site's control plane and its node.
pub async fn start() -> Result<(Prepared, RealNode)> {
    let options = SiteOptions { real_node: true, ..SiteOptions::new("workshop", "eu-west", "maker", Vec::new()) };
    let prepared = Prepared::start(options).await?;
    let options = RealNodeOptions::new("bench-1")
        .gpus(GPUS)
        .label(names::LABEL_NODE_GPU_PRODUCT, "Tesla-T4")
        .label(names::LABEL_NODE_GPU_MEMORY, "15360");
    let node = RealNode::start(prepared.plane(), options).await?;
    node.import_torch_demo().await?;
    Ok((prepared, node))
}
