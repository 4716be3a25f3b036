//! From Nodes and pods to what the hub is told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use atoll_api::names;
use atoll_core::units::MicroUsd;
use atoll_wire::{limits, v1};
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt as _;

use crate::convert::cut;

/// What the hub is told of a Node, but for what is used on it; `None`: it has no GPUs.
pub(super) fn node(node: &core::Node) -> Option<v1::Node> {
    let name = node.name_any();
    let labels = node.labels();
    let status = node.status.as_ref();
    let allocatable = status
        .and_then(|status| status.allocatable.as_ref()?.get(names::RESOURCE_NVIDIA_GPU))
        .and_then(|quantity| count(&quantity.0))
        .unwrap_or(0);
    let product = labels
        .get(names::LABEL_GFD_PRODUCT)
        .or_else(|| labels.get(names::LABEL_NODE_GPU_PRODUCT))
        .filter(|product| !product.is_empty())?;
    if allocatable == 0 || name.len() > limits::MAX_NODE_NAME_BYTES {
        return None;
    }
    let memory = labels.get(names::LABEL_GFD_MEMORY).or_else(|| labels.get(names::LABEL_NODE_GPU_MEMORY));
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let price = node
        .annotations()
        .get(names::ANNOTATION_PRICE)
        .and_then(|price| MicroUsd::parse(price).ok())
        .map_or_else(String::new, |price| price.to_string());
    Some(v1::Node {
        name,
        product: cut(product, limits::MAX_PRODUCT_BYTES),
        memory_mib: memory.and_then(|memory| memory.parse().ok()).unwrap_or(0),
        allocatable: allocatable.min(limits::MAX_GPUS_PER_NODE),
        used_by_others: 0,
        ready: conditions.into_iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True"),
        driver: labels.get(names::LABEL_GFD_DRIVER).map(|d| cut(d, limits::MAX_DRIVER_BYTES)).unwrap_or_default(),
        unschedulable: node.metadata.deletion_timestamp.is_some()
            || node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)),
        price_per_gpu_hour: price,
    })
}

/// The Node of a pod and how many of its GPUs the pod holds; `None`: it holds none, or it is a member, whose GPUs the
/// hub counts itself.
pub(super) fn use_of(pod: &core::Pod) -> Option<(String, u32)> {
    if pod.labels().get(names::LABEL_MANAGED_BY).is_some_and(|manager| manager == names::MANAGED_BY_AGENT) {
        return None;
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.clone().filter(|node| !node.is_empty())?;
    let gpus = gpus_of(spec);
    (gpus > 0).then_some((node, gpus))
}

/// As the scheduler counts: containers and the sidecars among the init containers together, or at some init container's
/// turn more.
fn gpus_of(spec: &core::PodSpec) -> u32 {
    let asks = |container: &core::Container| {
        let resources = container.resources.as_ref();
        let of = |amounts: Option<&BTreeMap<String, _>>| -> Option<u32> {
            let quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity =
                amounts?.get(names::RESOURCE_NVIDIA_GPU)?;
            count(&quantity.0)
        };
        of(resources.and_then(|resources| resources.requests.as_ref()))
            .or_else(|| of(resources.and_then(|resources| resources.limits.as_ref())))
            .unwrap_or(0)
    };
    let (mut sidecars, mut peak) = (0u32, 0u32);
    for container in spec.init_containers.iter().flatten() {
        let asked = asks(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.saturating_add(asked);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.saturating_add(asked));
        }
    }
    let running = spec.containers.iter().map(asks).fold(sidecars, u32::saturating_add);
    running.max(peak)
}

/// A whole number of devices.
fn count(quantity: &str) -> Option<u32> {
    let milli = atoll_core::units::parse_quantity_milli(quantity).ok()?;
    u32::try_from(milli / 1000).ok()
}

/// The Site's GPUs as seen so far; every change names the nodes whose description changed.
#[derive(Debug, Default)]
pub(super) struct Facts {
    nodes: BTreeMap<String, v1::Node>,
    /// By pod ("namespace/name"): its Node and GPUs.
    pods: BTreeMap<String, (String, u32)>,
    used: BTreeMap<String, u32>,
}

impl Facts {
    /// A Node as it is now; `None`: it is gone, or has no GPUs.
    pub(super) fn set_node(&mut self, name: &str, node: Option<v1::Node>) -> bool {
        let before = self.nodes.get(name);
        let after = node.map(|node| v1::Node { used_by_others: self.used.get(name).copied().unwrap_or(0), ..node });
        let changed = before != after.as_ref();
        match after {
            Some(after) => drop(self.nodes.insert(name.to_owned(), after)),
            None => drop(self.nodes.remove(name)),
        }
        changed
    }

    /// A pod as it is now; `None`: it is gone, or holds no GPUs. Names the nodes whose description changed.
    pub(super) fn set_pod(&mut self, key: &str, holds: Option<(String, u32)>) -> BTreeSet<String> {
        let before = match &holds {
            Some(holds) => self.pods.insert(key.to_owned(), holds.clone()),
            None => self.pods.remove(key),
        };
        if before == holds {
            return BTreeSet::new();
        }
        if let Some((node, gpus)) = &before {
            let left = self.used.get(node).copied().unwrap_or(0).saturating_sub(*gpus);
            self.used.insert(node.clone(), left);
        }
        if let Some((node, gpus)) = &holds {
            let used = self.used.entry(node.clone()).or_insert(0);
            *used = used.saturating_add(*gpus);
        }
        self.used.retain(|_, used| *used > 0);
        let touched: BTreeSet<String> = before.into_iter().chain(holds).map(|(node, _)| node).collect();
        touched.into_iter().filter(|name| self.recount(name)).collect()
    }

    fn recount(&mut self, name: &str) -> bool {
        let used = self.used.get(name).copied().unwrap_or(0);
        self.nodes.get_mut(name).is_some_and(|node| std::mem::replace(&mut node.used_by_others, used) != used)
    }

    pub(super) fn nodes(&self) -> &BTreeMap<String, v1::Node> {
        &self.nodes
    }

    pub(super) fn node_names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    pub(super) fn pod_keys(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
