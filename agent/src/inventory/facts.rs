//! From Nodes, their devices and pods to what the hub is told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use atoll_api::names;
use atoll_core::units::MicroUsd;
use atoll_wire::{limits, v1};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;

use super::devices::{Ailing, Devices};
use crate::convert::cut;

/// What a Node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    product: Option<String>,
    memory_mib: u64,
    /// GPUs that the kubelet counts.
    capacity: u32,
    /// Of these, those that it gives out: healthy ones, as it heard last.
    allocatable: u32,
    driver: Option<String>,
    ready: bool,
    unschedulable: bool,
    price: Option<MicroUsd>,
}

/// Reads a Node.
pub(super) fn machine(node: &core::Node) -> Machine {
    let labels = node.labels();
    let status = node.status.as_ref();
    let gpus = |amounts: Option<&BTreeMap<String, Quantity>>| {
        amounts?.get(names::RESOURCE_NVIDIA_GPU).and_then(|quantity| count(&quantity.0))
    };
    let allocatable = gpus(status.and_then(|status| status.allocatable.as_ref())).unwrap_or(0);
    let label = |discovered: &str, own: &str| labels.get(discovered).or_else(|| labels.get(own));
    let conditions = status.and_then(|status| status.conditions.as_ref());
    Machine {
        product: label(names::LABEL_GFD_PRODUCT, names::LABEL_NODE_GPU_PRODUCT)
            .filter(|name| !name.is_empty())
            .cloned(),
        memory_mib: label(names::LABEL_GFD_MEMORY, names::LABEL_NODE_GPU_MEMORY)
            .and_then(|memory| memory.parse().ok())
            .unwrap_or(0),
        capacity: gpus(status.and_then(|status| status.capacity.as_ref())).unwrap_or(0).max(allocatable),
        allocatable,
        driver: labels.get(names::LABEL_GFD_DRIVER).cloned(),
        ready: conditions.into_iter().flatten().any(|found| found.type_ == "Ready" && found.status == "True"),
        unschedulable: node.metadata.deletion_timestamp.is_some()
            || node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)),
        price: node.annotations().get(names::ANNOTATION_PRICE).and_then(|price| MicroUsd::parse(price).ok()),
    }
}

/// What the hub is told of a node; `None`: it has no GPUs.
///
/// The device plugin's own word on its devices goes before labels. The kubelet excludes Unhealthy devices from what is
/// allocatable too, but hears of them at another time: the lower of the two counts, so that no GPU counts that either of
/// them calls Unhealthy, and none is taken off twice.
pub(super) fn describe(
    name: &str,
    machine: &Machine,
    devices: Option<&Devices>,
    used: u32,
    watched: bool,
) -> Option<v1::Node> {
    if name.len() > limits::MAX_NODE_NAME_BYTES {
        return None;
    }
    let known = devices.filter(|devices| devices.counted > 0);
    let (product, memory_mib, allocatable, unhealthy) = if let Some(own) = known {
        (own.product.as_str(), own.memory_mib, machine.allocatable.min(own.healthy), own.unhealthy)
    } else {
        let product = machine.product.as_deref().filter(|_| machine.capacity > 0)?;
        (product, machine.memory_mib, machine.allocatable, machine.capacity - machine.allocatable)
    };
    let allocatable = allocatable.min(limits::MAX_GPUS_PER_NODE);
    let driver = devices.and_then(|devices| devices.driver.as_ref()).or(machine.driver.as_ref());
    let price = devices.and_then(|devices| devices.price).or(machine.price);
    Some(v1::Node {
        name: name.to_owned(),
        product: cut(product, limits::MAX_PRODUCT_BYTES),
        memory_mib,
        allocatable,
        // A pod may still hold a GPU that is not offered any more.
        used_by_others: used.min(allocatable),
        ready: machine.ready,
        driver: driver.map(|driver| cut(driver, limits::MAX_DRIVER_BYTES)).unwrap_or_default(),
        unschedulable: machine.unschedulable || devices.is_some_and(|devices| devices.unschedulable),
        price_per_gpu_hour: price.map_or_else(String::new, |price| price.to_string()),
        unhealthy: unhealthy.min(limits::MAX_GPUS_PER_NODE),
        devices: devices.map(|devices| devices.told.clone()).unwrap_or_default(),
        fence: if watched { v1::node::Fence::Watchdog } else { v1::node::Fence::ApiOnly }.into(),
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
        let of = |amounts: Option<&BTreeMap<String, Quantity>>| {
            amounts?.get(names::RESOURCE_NVIDIA_GPU).and_then(|quantity| count(&quantity.0))
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
    machines: BTreeMap<String, Machine>,
    devices: BTreeMap<String, Devices>,
    /// By pod ("namespace/name"): its Node and GPUs.
    pods: BTreeMap<String, (String, u32)>,
    used: BTreeMap<String, u32>,
    /// Nodes with a watchdog.
    watched: BTreeSet<String>,
    nodes: BTreeMap<String, v1::Node>,
}

impl Facts {
    /// A Node as it is now; `None`: it is gone.
    pub(super) fn set_machine(&mut self, name: &str, machine: Option<Machine>) -> BTreeSet<String> {
        match machine {
            Some(machine) => drop(self.machines.insert(name.to_owned(), machine)),
            None => drop(self.machines.remove(name)),
        }
        self.refresh([name.to_owned()])
    }

    /// The devices of a Node as its device plugin says; `None`: it says nothing.
    pub(super) fn set_devices(&mut self, name: &str, devices: Option<Devices>) -> BTreeSet<String> {
        match devices {
            Some(devices) => drop(self.devices.insert(name.to_owned(), devices)),
            None => drop(self.devices.remove(name)),
        }
        self.refresh([name.to_owned()])
    }

    /// A pod as it is now; `None`: it is gone, or holds no GPUs.
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
        self.refresh(before.into_iter().chain(holds).map(|(node, _)| node))
    }

    /// Which nodes have a watchdog.
    pub(super) fn set_watched(&mut self, watched: BTreeSet<String>) -> BTreeSet<String> {
        let before = std::mem::replace(&mut self.watched, watched);
        let changed: Vec<String> = self.watched.symmetric_difference(&before).cloned().collect();
        self.refresh(changed)
    }

    /// Describes these nodes again, and names those that are described otherwise now.
    fn refresh(&mut self, names: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for name in names {
            let used = self.used.get(&name).copied().unwrap_or(0);
            let machine = self.machines.get(&name);
            let now = machine.and_then(|machine| {
                describe(&name, machine, self.devices.get(&name), used, self.watched.contains(&name))
            });
            if self.nodes.get(&name) != now.as_ref() {
                match now {
                    Some(now) => drop(self.nodes.insert(name.clone(), now)),
                    None => drop(self.nodes.remove(&name)),
                }
                changed.insert(name);
            }
        }
        changed
    }

    pub(super) fn nodes(&self) -> &BTreeMap<String, v1::Node> {
        &self.nodes
    }

    /// Nodes with GPUs that are not Ready.
    pub(super) fn lost(&self) -> BTreeSet<String> {
        self.nodes.values().filter(|node| !node.ready).map(|node| node.name.clone()).collect()
    }

    /// Members on GPUs that are Unhealthy.
    pub(super) fn ailing(&self) -> Ailing {
        self.devices.values().flat_map(|devices| devices.ailing.clone()).collect()
    }

    pub(super) fn machine_names(&self) -> Vec<String> {
        self.machines.keys().cloned().collect()
    }

    pub(super) fn device_names(&self) -> Vec<String> {
        self.devices.keys().cloned().collect()
    }

    pub(super) fn pod_keys(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
