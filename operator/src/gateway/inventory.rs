//! Inventories: what an agent may say of its nodes, and the hub's `GPUNode`s that follow from it.

use std::collections::BTreeMap;

use atoll_api::names::{LABEL_SITE, LABEL_SUPPLIER, hub_gpu_node_name};
use atoll_api::{GpuModel, GpuNode, GpuNodeSpec, GpuNodeStatus, NodeFence, Site};
use atoll_core::catalogue;
use atoll_core::units::MicroUsd;
use atoll_wire::limits::{MAX_DRIVER_BYTES, MAX_GPUS_PER_NODE, MAX_NODE_NAME_BYTES, MAX_PRODUCT_BYTES};
use atoll_wire::v1::{self, node::Fence};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};

use super::devices;

/// The longest price that the API server takes.
const MAX_PRICE_BYTES: usize = 16;

/// Why a node is not believed.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NodeError {
    /// Not a name that a Node can have, or too long for the hub.
    #[error("its name is not the name of a Node")]
    Name,
    /// A text that is too long or has control characters.
    #[error("its product or driver is too long or not readable")]
    Text,
    /// More than any machine has.
    #[error("it has more GPUs or memory than there can be")]
    Amount,
    /// Devices that cannot be, or more of them than a copy holds.
    #[error("its devices are described twice, not readably, or at too great a length")]
    Devices,
    /// Not a price.
    #[error("its price is not a decimal above 0 with at most 6 places")]
    Price,
}

/// Whether a node can be what an agent says.
pub fn check(node: &v1::Node) -> Result<(), NodeError> {
    let readable = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
    if node.name.len() > MAX_NODE_NAME_BYTES || !is_dns_name(&node.name) {
        return Err(NodeError::Name);
    }
    if !readable(&node.product, MAX_PRODUCT_BYTES) || !readable(&node.driver, MAX_DRIVER_BYTES) {
        return Err(NodeError::Text);
    }
    let memory_possible = i32::try_from(node.memory_mib).is_ok();
    if node.unhealthy > MAX_GPUS_PER_NODE {
        return Err(NodeError::Amount);
    }
    if !devices::believable(&node.devices) {
        return Err(NodeError::Devices);
    }
    if node.allocatable > MAX_GPUS_PER_NODE || node.used_by_others > node.allocatable || !memory_possible {
        return Err(NodeError::Amount);
    }
    let price = &node.price_per_gpu_hour;
    let price_possible = price.is_empty()
        || price.len() <= MAX_PRICE_BYTES && MicroUsd::parse(price).is_ok_and(|price| price > MicroUsd(0));
    if price_possible { Ok(()) } else { Err(NodeError::Price) }
}

/// The hub's copy of a node.
#[must_use]
pub fn gpu_node<'a>(site: &Site, node: &v1::Node, models: impl IntoIterator<Item = &'a GpuModel>) -> GpuNode {
    let site_name = site.name_any();
    let entries = models.into_iter().map(|model| catalogue::Entry {
        name: model.metadata.name.as_deref().unwrap_or_default(),
        memory_mib: u64::try_from(model.spec.memory_mib).unwrap_or(0),
        aliases: &model.spec.aliases,
    });
    let model = catalogue::identify(&node.product, node.memory_mib, entries).unwrap_or_default().to_owned();
    let mut copy = GpuNode::new(
        &hub_gpu_node_name(&site_name, &node.name),
        GpuNodeSpec {
            price_per_gpu_hour: (!node.price_per_gpu_hour.is_empty()).then(|| node.price_per_gpu_hour.clone()),
            unschedulable: node.unschedulable,
        },
    );
    let mut labels = BTreeMap::from([(LABEL_SITE.to_owned(), site_name.clone())]);
    // A supplier's name may be longer than a label's value; who needs it then reads the Site.
    if site.spec.supplier.len() <= 63 {
        labels.insert(LABEL_SUPPLIER.to_owned(), site.spec.supplier.clone());
    }
    copy.metadata.labels = Some(labels);
    copy.metadata.owner_references = owner(site).map(|owner| vec![owner]);
    copy.status = Some(GpuNodeStatus {
        site: site_name,
        node: node.name.clone(),
        model,
        product: node.product.clone(),
        memory_mib: i64::try_from(node.memory_mib).unwrap_or(i64::MAX),
        allocatable: i32::try_from(node.allocatable).unwrap_or(i32::MAX),
        used_by_others: i32::try_from(node.used_by_others).unwrap_or(i32::MAX),
        ready: node.ready,
        driver: (!node.driver.is_empty()).then(|| node.driver.clone()),
        unhealthy: i32::try_from(node.unhealthy).unwrap_or(i32::MAX),
        devices: devices::from_wire(&node.devices),
        fence: match node.fence() {
            Fence::Unspecified => None,
            Fence::Watchdog => Some(NodeFence::Watchdog),
            Fence::ApiOnly => Some(NodeFence::ApiOnly),
        },
        conditions: Vec::new(),
    });
    copy
}

/// What the agent said when the hub's copy was made; the inverse of [`gpu_node`].
#[must_use]
pub fn reported(copy: &GpuNode) -> v1::Node {
    let status = copy.status.clone().unwrap_or_default();
    v1::Node {
        name: status.node,
        product: status.product,
        memory_mib: u64::try_from(status.memory_mib).unwrap_or(0),
        allocatable: u32::try_from(status.allocatable).unwrap_or(0),
        used_by_others: u32::try_from(status.used_by_others).unwrap_or(0),
        ready: status.ready,
        driver: status.driver.unwrap_or_default(),
        unschedulable: copy.spec.unschedulable,
        price_per_gpu_hour: copy.spec.price_per_gpu_hour.clone().unwrap_or_default(),
        unhealthy: u32::try_from(status.unhealthy).unwrap_or(0),
        devices: devices::to_wire(&status.devices),
        fence: match status.fence {
            None => Fence::Unspecified,
            Some(NodeFence::Watchdog) => Fence::Watchdog,
            Some(NodeFence::ApiOnly) => Fence::ApiOnly,
        }
        .into(),
    }
}

/// What to write so that the API holds what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeWrite {
    /// Nothing.
    Nothing,
    /// Delete it.
    Delete,
    /// Apply these parts.
    Apply {
        /// Metadata and spec.
        spec: bool,
        /// The status.
        status: bool,
    },
}

/// What to write when the API holds `current` and `wanted` is wanted (None: no such object).
#[must_use]
pub fn node_write(current: Option<&GpuNode>, wanted: Option<&GpuNode>) -> NodeWrite {
    let (current, wanted) = match (current, wanted) {
        (None, None) => return NodeWrite::Nothing,
        (Some(_), None) => return NodeWrite::Delete,
        (None, Some(_)) => return NodeWrite::Apply { spec: true, status: true },
        (Some(current), Some(wanted)) => (current, wanted),
    };
    let same_labels = wanted.labels().iter().all(|(key, value)| current.labels().get(key) == Some(value));
    let same_owner = wanted.owner_references().iter().all(|owner| current.owner_references().contains(owner));
    let spec = current.spec != wanted.spec || !same_labels || !same_owner;
    let status = current.status != wanted.status;
    if spec || status { NodeWrite::Apply { spec, status } } else { NodeWrite::Nothing }
}

/// The nodes of a Site are collected with it.
fn owner(site: &Site) -> Option<OwnerReference> {
    site.owner_ref(&())
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        })
}

#[cfg(test)]
mod tests {
    use atoll_api::gpu_node::HUB_DEVICES_BYTES;
    use atoll_wire::v1::device::Health;

    use super::super::fixtures;
    use super::*;

    fn node() -> v1::Node {
        v1::Node {
            name: "gpu-1.rack-2".to_owned(),
            product: "NVIDIA-H100-80GB-HBM3".to_owned(),
            memory_mib: 81_559,
            allocatable: 8,
            used_by_others: 1,
            ready: true,
            driver: "570.86.15".to_owned(),
            unschedulable: false,
            price_per_gpu_hour: "2.50".to_owned(),
            unhealthy: 1,
            devices: vec![device("GPU-7f3c", Health::Unhealthy), device("GPU-09ab", Health::Healthy)],
            fence: Fence::Watchdog.into(),
        }
    }

    fn device(uuid: &str, health: Health) -> v1::Device {
        v1::Device { uuid: uuid.to_owned(), health: health.into(), ..v1::Device::default() }
    }

    #[test]
    fn the_hubs_copy_says_what_the_agent_said_and_which_model_it_is() {
        let site = fixtures::site("site-a");
        let models = [fixtures::model("h100-sxm5-80gb", "NVIDIA H100 80GB HBM3", 81_920)];
        let copy = gpu_node(&site, &node(), &models);
        assert_eq!(copy.name_any(), "site-a.gpu-1.rack-2");
        assert_eq!(copy.labels()[LABEL_SITE], "site-a");
        assert_eq!(copy.labels()[LABEL_SUPPLIER], "acme");
        assert_eq!(copy.status.as_ref().unwrap().model, "h100-sxm5-80gb");
        assert_eq!(reported(&copy), node());
        assert_eq!(gpu_node(&site, &node(), &[]).status.unwrap().model, "", "not in the catalogue");
        let bare = v1::Node { name: "n".to_owned(), ..v1::Node::default() };
        assert_eq!(reported(&gpu_node(&site, &bare, &models)), bare);
    }

    #[test]
    fn the_largest_copy_stays_below_two_kib_without_its_metadata() {
        let node = v1::Node {
            name: "n".repeat(MAX_NODE_NAME_BYTES),
            product: "p".repeat(MAX_PRODUCT_BYTES),
            driver: "d".repeat(MAX_DRIVER_BYTES),
            allocatable: MAX_GPUS_PER_NODE,
            used_by_others: MAX_GPUS_PER_NODE,
            unhealthy: MAX_GPUS_PER_NODE,
            memory_mib: u64::from(u32::MAX / 2),
            price_per_gpu_hour: "123456789.123456".to_owned(),
            ..node()
        };
        let room =
            |node: &v1::Node| HUB_DEVICES_BYTES - serde_json::to_vec(&devices::from_wire(&node.devices)).unwrap().len();
        let mut node = node;
        node.devices[0].reasons.push(v1::DeviceReason { code: "R".to_owned(), message: String::new() });
        while room(&node) > 100 {
            node.devices.push(device(&format!("GPU-{:036}", node.devices.len()), Health::Unhealthy));
        }
        node.devices[0].reasons[0].message = "m".repeat(room(&node) - r#","message":"""#.len());
        assert_eq!((check(&node), room(&node)), (Ok(()), 0));
        let models = [fixtures::model(&"m".repeat(63), &node.product, 1)];
        let copy = gpu_node(&fixtures::site("site-0123456789abcdef"), &node, &models);
        assert_eq!(copy.status.as_ref().unwrap().model.len(), 63);
        let bytes = serde_json::to_vec(&(&copy.spec, &copy.status)).unwrap().len();
        assert!(bytes <= 2_048, "{bytes}");
    }

    #[test]
    fn nodes_that_cannot_be_are_refused() {
        assert_eq!(check(&node()), Ok(()));
        assert_eq!(check(&v1::Node { price_per_gpu_hour: String::new(), ..node() }), Ok(()));
        let cases = [
            (NodeError::Name, v1::Node { name: String::new(), ..node() }),
            (NodeError::Name, v1::Node { name: "Upper".to_owned(), ..node() }),
            (NodeError::Name, v1::Node { name: "a..b".to_owned(), ..node() }),
            (NodeError::Name, v1::Node { name: "../site-b.n".to_owned(), ..node() }),
            (NodeError::Name, v1::Node { name: "n".repeat(240), ..node() }),
            (NodeError::Text, v1::Node { product: "x".repeat(500), ..node() }),
            (NodeError::Text, v1::Node { driver: "5\n7".to_owned(), ..node() }),
            (NodeError::Amount, v1::Node { allocatable: 1_000_000, ..node() }),
            (NodeError::Amount, v1::Node { used_by_others: 9, ..node() }),
            (NodeError::Amount, v1::Node { unhealthy: 1_000_000, ..node() }),
            (NodeError::Devices, v1::Node { devices: vec![device("GPU-1", Health::Unspecified)], ..node() }),
            (NodeError::Amount, v1::Node { memory_mib: u64::MAX, ..node() }),
            (NodeError::Price, v1::Node { price_per_gpu_hour: "0".to_owned(), ..node() }),
            (NodeError::Price, v1::Node { price_per_gpu_hour: "-1".to_owned(), ..node() }),
            (NodeError::Price, v1::Node { price_per_gpu_hour: "1.2345678".to_owned(), ..node() }),
            (NodeError::Price, v1::Node { price_per_gpu_hour: "cheap".to_owned(), ..node() }),
        ];
        for (error, node) in cases {
            assert_eq!(check(&node), Err(error), "{node:?}");
        }
    }

    #[test]
    fn only_what_differs_is_written() {
        let site = fixtures::site("site-a");
        let copy = gpu_node(&site, &node(), &[]);
        let busy = gpu_node(&site, &v1::Node { used_by_others: 2, ..node() }, &[]);
        let sick = gpu_node(&site, &v1::Node { allocatable: 7, unhealthy: 2, ..node() }, &[]);
        let cordoned = gpu_node(&site, &v1::Node { unschedulable: true, ..node() }, &[]);
        let mut decorated = copy.clone();
        decorated.metadata.labels.as_mut().unwrap().insert("team".to_owned(), "x".to_owned());
        let mut unlabelled = copy.clone();
        unlabelled.metadata.labels = None;
        for (current, wanted, write) in [
            (None, None, NodeWrite::Nothing),
            (None, Some(&copy), NodeWrite::Apply { spec: true, status: true }),
            (Some(&copy), None, NodeWrite::Delete),
            (Some(&copy), Some(&copy), NodeWrite::Nothing),
            (Some(&decorated), Some(&copy), NodeWrite::Nothing),
            (Some(&unlabelled), Some(&copy), NodeWrite::Apply { spec: true, status: false }),
            (Some(&copy), Some(&busy), NodeWrite::Apply { spec: false, status: true }),
            (Some(&copy), Some(&sick), NodeWrite::Apply { spec: false, status: true }),
            (Some(&copy), Some(&cordoned), NodeWrite::Apply { spec: true, status: false }),
        ] {
            assert_eq!(node_write(current, wanted), write);
        }
    }
}
