//! Which devices of a resource to give to one container: names in, names out; `atoll_core` decides.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use atoll_core::device::preferred::{Group, Nearness, Policy, Topology, preferred};

use super::offers::Offer;
use crate::backend::{Bus, Device};

/// What is known of a resource's devices before anybody asks: so that no question waits for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    policy: Policy,
    topology: Topology,
    /// Per offer, the group that it belongs to; offers beyond are of devices that are gone.
    group: Vec<usize>,
}

impl Default for Choice {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Choice {
    /// Of the device behind each offer, in their order.
    pub fn new(devices: &[Arc<Device>]) -> Self {
        let mut members: Vec<&Device> = Vec::new();
        let mut at: HashMap<&str, usize> = HashMap::new();
        let shared = devices.windows(2).any(|pair| pair[0].id == pair[1].id);
        // Instances are packed onto GPUs; slices of anything are spread over what they are slices of.
        let policy = if devices.iter().any(|device| device.instance.is_some()) && !shared {
            Policy::Pack
        } else {
            Policy::Spread
        };
        let group = devices.iter().map(|device| {
            let key = if policy == Policy::Pack { &device.gpu } else { &device.id };
            *at.entry(key).or_insert_with(|| {
                members.push(device);
                members.len() - 1
            })
        });
        let group = group.collect();
        let topology = Topology::new(members.len(), |a, b| nearness(members[a], members[b]));
        Self { policy, topology, group }
    }

    /// See [`super::offers::List::preferred`].
    pub fn preferred<'a>(
        &self,
        offers: &[Offer],
        available: &'a [String],
        must: &[String],
        size: usize,
    ) -> Vec<&'a str> {
        let by_id: HashMap<&str, &'a str> = available.iter().map(|id| (id.as_str(), id.as_str())).collect();
        let must: HashSet<&str> = must.iter().map(String::as_str).collect();
        let mut groups = vec![Group::default(); self.group.iter().max().map_or(0, |last| last + 1)];
        // Those that must be taken first, each group's others in the order of the offers.
        let mut members: Vec<Vec<&'a str>> = vec![Vec::new(); groups.len()];
        for (offer, &group) in offers.iter().zip(&self.group) {
            groups[group].total += 1;
            let Some(&id) = by_id.get(offer.id.as_str()) else { continue };
            groups[group].available += 1;
            if must.contains(id) {
                members[group].insert(groups[group].must as usize, id);
                groups[group].must += 1;
            } else {
                members[group].push(id);
            }
        }
        let counts = preferred(self.policy, &groups, &self.topology, u32::try_from(size).unwrap_or(u32::MAX));
        members.iter().zip(counts).flat_map(|(ids, count)| ids.iter().take(count as usize).copied()).collect()
    }
}

fn nearness(a: &Device, b: &Device) -> Nearness {
    let link = a.links.iter().find(|link| link.to == b.gpu);
    let bus = link
        .map_or_else(|| if a.numa.is_some() && a.numa == b.numa { Bus::Node } else { Bus::System }, |link| link.bus);
    Nearness {
        same_model: a.product == b.product,
        links: link.map_or(0, |link| link.nvlinks),
        bus: match bus {
            Bus::Internal => 5,
            Bus::Single => 4,
            Bus::Multiple => 3,
            Bus::HostBridge => 2,
            Bus::Node => 1,
            Bus::System => 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use atoll_core::device::Verdict;

    use super::super::offers::{List, offers};
    use super::super::resources::Resources;
    use super::*;
    use crate::backend::{Instance, Link};
    use crate::state::{DeviceState, NodeDevices};

    /// GPUs in pairs that are linked, and in fours that share a NUMA node.
    fn gpus(count: u32) -> Vec<Device> {
        let id = |index: u32| -> Arc<str> { format!("GPU-{index:02}").into() };
        let device = |index: u32| Device {
            id: id(index),
            gpu: id(index),
            index,
            numa: Some(index / 4),
            links: (0..count)
                .filter(|&other| other != index)
                .map(|other| Link {
                    to: id(other),
                    nvlinks: if other / 2 == index / 2 { 4 } else { 0 },
                    bus: if other / 4 == index / 4 { Bus::Node } else { Bus::System },
                })
                .collect(),
            ..Device::default()
        };
        (0..count).map(device).collect()
    }

    fn list(devices: Vec<Device>, slices: &str) -> Arc<List> {
        let devices = devices
            .into_iter()
            .map(|device| DeviceState { device: Arc::new(device), verdict: Verdict::default() })
            .collect();
        let slices = slices.split_whitespace().map(|text| text.parse().unwrap()).collect();
        let resources = Resources::new("nvidia.com/gpu".parse().unwrap(), Vec::new(), slices);
        let node = NodeDevices { driver: None, devices };
        offers(&resources, &node, &[].into(), &[].into()).into_values().next().unwrap()
    }

    fn ids(list: &List) -> Vec<String> {
        list.offers.iter().map(|offer| offer.id.clone()).collect()
    }

    #[test]
    fn linked_gpus_of_one_numa_node_go_together() {
        let list = list(gpus(8), "");
        let available = &ids(&list)[1..];
        assert_eq!(list.preferred(available, &[], 2), ["GPU-02", "GPU-03"]);
        assert_eq!(list.preferred(available, &[], 4), ["GPU-04", "GPU-05", "GPU-06", "GPU-07"]);
        assert_eq!(list.preferred(available, &["GPU-05".to_owned()], 2), ["GPU-04", "GPU-05"]);
        assert_eq!(list.preferred(available, &[], 1), ["GPU-01"], "its pair is broken already");
    }

    #[test]
    fn slices_of_one_container_come_from_several_gpus() {
        let list = list(gpus(2), "nvidia.com/gpu=3");
        assert_eq!(list.preferred(&ids(&list), &[], 2), ["GPU-00::0", "GPU-01::0"]);
        assert_eq!(list.preferred(&ids(&list)[1..], &[], 1), ["GPU-01::0"]);
        let must = ["GPU-00::2".to_owned()];
        assert_eq!(list.preferred(&ids(&list), &must, 2), ["GPU-00::2", "GPU-01::0"]);
    }

    #[test]
    fn instances_come_from_a_gpu_that_is_begun() {
        let instance = |gpu: u32, number: u32| Device {
            id: format!("MIG-{gpu}-{number}").into(),
            gpu: format!("GPU-{gpu}").into(),
            instance: Some(Instance { profile: "1g.10gb".to_owned(), ..Instance::default() }),
            ..Device::default()
        };
        let devices = (0..2).flat_map(|gpu| (0..7).map(move |number| instance(gpu, number))).collect();
        let list = list(devices, "");
        let mut available = ids(&list);
        available.remove(8);
        assert_eq!(list.preferred(&available, &[], 2), ["MIG-1-0", "MIG-1-2"]);
        assert_eq!(list.preferred(&available, &[], 7), (0..7).map(|n| format!("MIG-0-{n}")).collect::<Vec<_>>());
    }

    #[test]
    fn an_answer_for_sixteen_gpus_takes_at_most_a_millisecond() {
        let list = list(gpus(16), "");
        let available = ids(&list);
        let took = |size: usize| {
            let start = Instant::now();
            assert_eq!(list.preferred(&available, &available[3..4], size).len(), size);
            start.elapsed()
        };
        let worst = (1..=16).map(|size| (0..3).map(|_| took(size)).min().unwrap_or_default()).max().unwrap();
        println!("worst of all sizes, from names to names: {worst:?}");
        assert!(cfg!(debug_assertions) || worst <= Duration::from_millis(1), "{worst:?}");
    }
}
