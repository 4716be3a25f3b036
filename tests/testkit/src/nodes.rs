//! Simulated GPU nodes, labelled as NVIDIA's GPU Feature Discovery labels real ones.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::watcher,
};

use crate::{Result, error::Doing as _, kwok, wait::wait_all};

/// Which rack a simulated node is in; this is the key that topology rules in tests use.
pub const RACK: &str = "topology.atoll.test/rack";

/// Nodes of one kind.
#[derive(Debug, Clone)]
pub struct NodeProfile {
    /// Nodes are called `<prefix>-<number>`.
    pub name_prefix: String,
    /// How many there are.
    pub count: u32,
    /// The first number.
    pub first: u32,
    /// `nvidia.com/gpu.product`.
    pub gpu_product: String,
    /// `nvidia.com/gpu.family`.
    pub gpu_family: String,
    /// GPUs of each node; 0 for a node without any.
    pub gpus: u32,
    /// Memory of each GPU in MiB.
    pub gpu_memory_mib: u32,
    /// CUDA compute capability: major, minor.
    pub compute: (u32, u32),
    /// The driver's version.
    pub driver: String,
    /// CPUs, as a quantity.
    pub cpu: String,
    /// Memory, as a quantity.
    pub memory: String,
    /// Pods that a node takes.
    pub pods: u32,
    /// `topology.kubernetes.io/region`, if not empty.
    pub region: String,
    /// `topology.kubernetes.io/zone`, if not empty.
    pub zone: String,
    /// How many nodes share a rack; 0 for no rack labels.
    pub nodes_per_rack: u32,
    /// More labels.
    pub labels: BTreeMap<String, String>,
    /// They are Ready as created, and nothing simulates their pods: those stay Pending once bound.
    pub without_kwok: bool,
}

impl NodeProfile {
    fn gpus(product: &str, family: &str, gpus: u32, gpu_memory_mib: u32, compute: (u32, u32)) -> Self {
        Self {
            name_prefix: "gpu".to_owned(),
            count: 1,
            first: 0,
            gpu_product: product.to_owned(),
            gpu_family: family.to_owned(),
            gpus,
            gpu_memory_mib,
            compute,
            driver: "580.95.05".to_owned(),
            cpu: "128".to_owned(),
            memory: "1Ti".to_owned(),
            pods: 250,
            region: String::new(),
            zone: String::new(),
            nodes_per_rack: 0,
            labels: BTreeMap::new(),
            without_kwok: false,
        }
    }

    /// 8 H100 SXM5 of 80 GB.
    #[must_use]
    pub fn h100() -> Self {
        Self::gpus("NVIDIA-H100-80GB-HBM3", "hopper", 8, 81_559, (9, 0))
    }

    /// 8 H200 of 141 GB.
    #[must_use]
    pub fn h200() -> Self {
        Self::gpus("NVIDIA-H200", "hopper", 8, 143_771, (9, 0))
    }

    /// 8 A100 SXM4 of 80 GB.
    #[must_use]
    pub fn a100() -> Self {
        Self::gpus("NVIDIA-A100-SXM4-80GB", "ampere", 8, 81_920, (8, 0))
    }

    /// 8 L40S of 48 GB.
    #[must_use]
    pub fn l40s() -> Self {
        Self::gpus("NVIDIA-L40S", "ada-lovelace", 8, 46_068, (8, 9))
    }

    /// 1 RTX 4090, as in a gaming PC.
    #[must_use]
    pub fn rtx4090() -> Self {
        Self::gpus("NVIDIA-GeForce-RTX-4090", "ada-lovelace", 1, 24_564, (8, 9)).machine("16", "64Gi")
    }

    /// A node without GPUs.
    #[must_use]
    pub fn cpu_only() -> Self {
        Self::gpus("", "", 0, 0, (0, 0)).named("cpu", 1)
    }

    /// Sets the prefix and how many nodes there are.
    #[must_use]
    pub fn named(mut self, prefix: &str, count: u32) -> Self {
        prefix.clone_into(&mut self.name_prefix);
        self.count = count;
        self
    }

    /// Sets the GPUs of each node.
    #[must_use]
    pub fn gpus_each(mut self, gpus: u32) -> Self {
        self.gpus = gpus;
        self
    }

    /// Sets CPUs and memory.
    #[must_use]
    pub fn machine(mut self, cpu: &str, memory: &str) -> Self {
        cpu.clone_into(&mut self.cpu);
        memory.clone_into(&mut self.memory);
        self
    }

    /// Sets the region and the zone.
    #[must_use]
    pub fn located(mut self, region: &str, zone: &str) -> Self {
        region.clone_into(&mut self.region);
        zone.clone_into(&mut self.zone);
        self
    }

    /// Puts so many nodes into each rack.
    #[must_use]
    pub fn racks_of(mut self, nodes: u32) -> Self {
        self.nodes_per_rack = nodes;
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Makes them Ready as created and leaves their pods alone: for measurements that kwok's writes would disturb.
    #[must_use]
    pub fn without_kwok(mut self) -> Self {
        self.without_kwok = true;
        self
    }

    /// The nodes' names.
    pub fn names(&self) -> impl Iterator<Item = String> + use<'_> {
        (self.first..self.first + self.count).map(|number| format!("{}-{number}", self.name_prefix))
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + use<'_> {
        (self.first..self.first + self.count).map(|number| self.node(number))
    }

    fn node(&self, number: u32) -> Node {
        let name = format!("{}-{number}", self.name_prefix);
        let quantity = |text: &str| Quantity(text.to_owned());
        let mut capacity: BTreeMap<String, Quantity> = [
            ("cpu".to_owned(), quantity(&self.cpu)),
            ("memory".to_owned(), quantity(&self.memory)),
            ("ephemeral-storage".to_owned(), quantity("1Ti")),
            ("pods".to_owned(), quantity(&self.pods.to_string())),
        ]
        .into();
        if self.gpus > 0 {
            capacity.insert("nvidia.com/gpu".to_owned(), quantity(&self.gpus.to_string()));
        }
        let address = |kind: &str, address: &str| NodeAddress { type_: kind.to_owned(), address: address.to_owned() };
        let [_, b, c, d] = number.to_be_bytes();
        Node {
            metadata: ObjectMeta {
                labels: Some(self.labels_of(&name, number)),
                annotations: (!self.without_kwok).then(|| [(kwok::NODE.0.to_owned(), kwok::NODE.1.to_owned())].into()),
                name: Some(name.clone()),
                ..ObjectMeta::default()
            },
            status: Some(NodeStatus {
                allocatable: Some(capacity.clone()),
                capacity: Some(capacity),
                conditions: self.without_kwok.then(|| vec![ready()]),
                addresses: Some(vec![address("InternalIP", &format!("10.{b}.{c}.{d}")), address("Hostname", &name)]),
                node_info: Some(NodeSystemInfo {
                    architecture: "amd64".to_owned(),
                    operating_system: "linux".to_owned(),
                    kubelet_version: "v1.37.2".to_owned(),
                    container_runtime_version: "containerd://2.4.2".to_owned(),
                    kernel_version: "6.12.0".to_owned(),
                    ..NodeSystemInfo::default()
                }),
                ..NodeStatus::default()
            }),
            ..Node::default()
        }
    }

    fn labels_of(&self, name: &str, number: u32) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        let mut set = |key: &str, value: String| {
            labels.insert(key.to_owned(), value);
        };
        set("kubernetes.io/hostname", name.to_owned());
        set("kubernetes.io/os", "linux".to_owned());
        set("kubernetes.io/arch", "amd64".to_owned());
        if !self.region.is_empty() {
            set("topology.kubernetes.io/region", self.region.clone());
        }
        if !self.zone.is_empty() {
            set("topology.kubernetes.io/zone", self.zone.clone());
        }
        if let Some(rack) = number.checked_div(self.nodes_per_rack) {
            set(RACK, format!("{}-rack-{rack}", self.name_prefix));
        }
        if self.gpus > 0 {
            set("nvidia.com/gpu.present", "true".to_owned());
            set("nvidia.com/gpu.product", self.gpu_product.clone());
            set("nvidia.com/gpu.family", self.gpu_family.clone());
            set("nvidia.com/gpu.count", self.gpus.to_string());
            set("nvidia.com/gpu.replicas", "1".to_owned());
            set("nvidia.com/gpu.memory", self.gpu_memory_mib.to_string());
            set("nvidia.com/gpu.compute.major", self.compute.0.to_string());
            set("nvidia.com/gpu.compute.minor", self.compute.1.to_string());
            set("nvidia.com/mig.capable", "false".to_owned());
            set("nvidia.com/cuda.driver-version.full", self.driver.clone());
            for (part, value) in ["major", "minor", "revision"].iter().zip(self.driver.split('.')) {
                set(&format!("nvidia.com/cuda.driver-version.{part}"), value.to_owned());
            }
            set("nvidia.com/cuda.runtime-version.full", "13.0".to_owned());
        }
        labels
    }
}

fn ready() -> NodeCondition {
    NodeCondition { type_: "Ready".to_owned(), status: "True".to_owned(), ..NodeCondition::default() }
}

/// Creates the nodes of these profiles, 64 at a time.
pub async fn create(client: &Client, profiles: &[NodeProfile]) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    stream::iter(profiles.iter().flat_map(NodeProfile::nodes).map(Ok))
        .try_for_each_concurrent(64, |node| {
            let api = api.clone();
            async move {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let created = api.create(&PostParams::default(), &node).await;
                created.doing(format!("create node {name}")).map(drop)
            }
        })
        .await
}

/// Waits until so many nodes are Ready.
pub async fn wait_ready(client: &Client, count: usize, limit: Duration) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let what = format!("{count} nodes to be Ready");
    wait_all(&api, watcher::Config::default(), &what, limit, |nodes| {
        nodes.iter().filter(|node| is_ready(node)).count() >= count
    })
    .await
    .map(drop)
}

/// Whether a node is Ready.
#[must_use]
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Deletes these nodes, 64 at a time; those that are not there are passed over.
pub async fn delete(client: &Client, names: impl IntoIterator<Item = String>) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let results = stream::iter(names)
        .map(|name| {
            let api = api.clone();
            async move {
                match api.delete(&name, &kube::api::DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    result => result.doing(format!("delete node {name}")).map(drop),
                }
            }
        })
        .buffer_unordered(64);
    results.try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_look_like_real_ones() {
        let profile = NodeProfile::h100().named("h", 20).racks_of(8).located("eu-west", "eu-west-1a");
        let nodes: Vec<_> = profile.nodes().collect();
        assert_eq!(nodes.len(), 20);
        let labels = nodes[9].metadata.labels.as_ref().unwrap();
        assert_eq!(labels["nvidia.com/gpu.product"], "NVIDIA-H100-80GB-HBM3");
        assert_eq!(labels["nvidia.com/cuda.driver-version.major"], "580");
        assert_eq!(labels["topology.kubernetes.io/region"], "eu-west");
        assert_eq!(labels[RACK], "h-rack-1");
        let status = nodes[9].status.as_ref().unwrap();
        assert_eq!(status.capacity.as_ref().unwrap()["nvidia.com/gpu"].0, "8");
    }

    #[test]
    fn a_node_without_kwok_is_ready_as_created() {
        let node = NodeProfile::h100().without_kwok().nodes().next().unwrap();
        assert!(is_ready(&node) && node.metadata.annotations.is_none());
        assert!(!is_ready(&NodeProfile::h100().nodes().next().unwrap()));
    }

    #[test]
    fn a_node_without_gpus_says_nothing_of_any() {
        let node = NodeProfile::cpu_only().nodes().next().unwrap();
        assert!(node.metadata.labels.unwrap().keys().all(|key| !key.starts_with("nvidia.com/")));
        assert!(!node.status.unwrap().capacity.unwrap().contains_key("nvidia.com/gpu"));
    }
}
