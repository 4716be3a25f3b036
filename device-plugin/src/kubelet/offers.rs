//! What the kubelet is told: per resource, its devices and whether they may be given out. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atoll_core::device::State;

use super::preferred::Choice;
use super::resources::{ResourceName, Resources};
use crate::backend::{Device, DeviceId};
use crate::state::NodeDevices;

/// The devices of every resource that has some.
pub type Offers = BTreeMap<ResourceName, Arc<List>>;

/// The devices of one resource, in a stable order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// One per device, or per slice of one.
    pub offers: Vec<Offer>,
    choice: Choice,
}

/// A device, or a slice of one, as the kubelet counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The kubelet's name for it.
    pub id: String,
    /// Whether it may be given out.
    pub healthy: bool,
    /// NUMA node that it is attached to.
    pub numa: Option<u32>,
}

impl List {
    /// Which `size` of `available` to take, `must` among them, by the kubelet's names.
    #[must_use]
    pub fn preferred<'a>(&self, available: &'a [String], must: &[String], size: usize) -> Vec<&'a str> {
        self.choice.preferred(&self.offers, available, must, size)
    }

    /// Whether all of these may be given out.
    #[must_use]
    pub fn all_healthy(&self, ids: &[String]) -> bool {
        ids.iter().all(|id| self.offers.iter().any(|offer| offer.id == *id && offer.healthy))
    }
}

/// Between a device and the number of its slice. No device's name has it.
const SLICE: &str = "::";

/// The device that the kubelet knows by this name.
#[must_use]
pub fn device_of(id: &str) -> &str {
    id.split_once(SLICE).map_or(id, |(device, _)| device)
}

/// Names of a device's slices; its own name when it is not shared.
fn ids(device: &DeviceId, slices: u32) -> impl Iterator<Item = String> + use<'_> {
    (0..slices).map(move |slice| if slices == 1 { device.to_string() } else { format!("{device}{SLICE}{slice}") })
}

/// What the kubelet is told of `devices`.
///
/// Of `withheld` the backend cannot say how a container would use them. `gone` are those that containers hold, though
/// they are no longer there: left out, the kubelet would show the pods' devices as healthy, and lower the node's
/// capacity below what it has given out; so they are told as sick until nobody holds them.
#[must_use]
pub fn offers(
    resources: &Resources,
    devices: &NodeDevices,
    withheld: &BTreeSet<DeviceId>,
    gone: &BTreeSet<(ResourceName, String)>,
) -> Offers {
    let mut by_name: BTreeMap<ResourceName, (Vec<Offer>, Vec<Arc<Device>>)> = BTreeMap::new();
    for state in &devices.devices {
        let device = &state.device;
        let name = resources.name(device);
        let slices = resources.slices(&name);
        let healthy = state.verdict.state != State::Unhealthy && !device.lost && !withheld.contains(&device.id);
        let (offers, members) = by_name.entry(name).or_default();
        for id in ids(&device.id, slices) {
            offers.push(Offer { id, healthy, numa: device.numa });
            members.push(Arc::clone(device));
        }
    }
    for (name, id) in gone {
        let (offers, _) = by_name.entry(name.clone()).or_default();
        if offers.iter().all(|offer| offer.id != *id) {
            offers.push(Offer { id: id.clone(), healthy: false, numa: None });
        }
    }
    let list = |(offers, members): (Vec<Offer>, Vec<Arc<Device>>)| List { choice: Choice::new(&members), offers };
    by_name.into_iter().map(|(name, parts)| (name, Arc::new(list(parts)))).collect()
}

/// All that is offered, as (resource, id as the kubelet knows it).
pub fn names(offers: &Offers) -> impl Iterator<Item = (ResourceName, String)> + use<'_> {
    offers.iter().flat_map(|(name, list)| list.offers.iter().map(move |offer| (name.clone(), offer.id.clone())))
}

#[cfg(test)]
mod tests {
    use atoll_core::device::Verdict;

    use super::*;
    use crate::backend::Instance;
    use crate::state::DeviceState;

    fn state(id: &str, state: State) -> DeviceState {
        let device = Device { id: id.into(), gpu: id.into(), numa: Some(1), ..Device::default() };
        DeviceState { device: Arc::new(device), verdict: Verdict { state, reasons: Vec::new() } }
    }

    fn node(devices: Vec<DeviceState>) -> NodeDevices {
        NodeDevices { driver: None, devices }
    }

    fn shown(offers: &Offers) -> Vec<String> {
        let line = |(name, list): (&ResourceName, &Arc<List>)| {
            let of: Vec<_> = list
                .offers
                .iter()
                .map(|offer| format!("{}{}", offer.id, if offer.healthy { "" } else { "!" }))
                .collect();
            format!("{name}: {}", of.join(" "))
        };
        offers.iter().map(line).collect()
    }

    fn plain(devices: &NodeDevices) -> Offers {
        offers(&Resources::default(), devices, &BTreeSet::new(), &BTreeSet::new())
    }

    #[test]
    fn only_unhealthy_and_lost_devices_are_held_back() {
        let mut devices =
            node(vec![state("a", State::Healthy), state("b", State::Degraded), state("c", State::Unhealthy)]);
        let lost = Device { lost: true, ..(*state("d", State::Healthy).device).clone() };
        devices.devices.push(DeviceState { device: Arc::new(lost), verdict: Verdict::default() });
        assert_eq!(shown(&plain(&devices)), ["nvidia.com/gpu: a b c! d!"]);
    }

    #[test]
    fn instances_have_a_resource_per_profile() {
        let mut devices = node(vec![state("a", State::Healthy)]);
        for (id, profile) in [("m1", "1g.10gb"), ("m2", "3g.40gb"), ("m3", "1g.10gb")] {
            let instance = Instance { profile: profile.to_owned(), ..Instance::default() };
            let device = Device { id: id.into(), gpu: "b".into(), instance: Some(instance), ..Device::default() };
            devices.devices.push(DeviceState { device: Arc::new(device), verdict: Verdict::default() });
        }
        let expected = ["nvidia.com/gpu: a", "nvidia.com/mig-1g.10gb: m1 m3", "nvidia.com/mig-3g.40gb: m2"];
        assert_eq!(shown(&plain(&devices)), expected);
    }

    #[test]
    fn a_shared_device_is_told_once_per_slice() {
        let gpu = "nvidia.com/gpu".parse().unwrap();
        let resources = Resources::new(gpu, Vec::new(), vec!["nvidia.com/gpu=2".parse().unwrap()]);
        let devices = node(vec![state("a", State::Healthy), state("b", State::Unhealthy)]);
        let offers = offers(&resources, &devices, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(shown(&offers), ["nvidia.com/gpu: a::0 a::1 b::0! b::1!"]);
        assert!(names(&offers).all(|(_, id)| ["a", "b"].contains(&device_of(&id))));
    }

    #[test]
    fn what_is_gone_and_held_stays_as_sick() {
        let held = |resource: &str, id: &str| (resource.parse().unwrap(), id.to_owned());
        let gone = BTreeSet::from([held("nvidia.com/gpu", "x"), held("nvidia.com/mig-1g.10gb", "m")]);
        let devices = node(vec![state("a", State::Healthy)]);
        let offers = offers(&Resources::default(), &devices, &BTreeSet::new(), &gone);
        assert_eq!(shown(&offers), ["nvidia.com/gpu: a x!", "nvidia.com/mig-1g.10gb: m!"]);
    }

    #[test]
    fn what_cannot_be_given_to_a_container_is_not_offered() {
        let devices = node(vec![state("a", State::Healthy), state("b", State::Healthy)]);
        let offers = offers(&Resources::default(), &devices, &BTreeSet::from(["b".into()]), &BTreeSet::new());
        assert_eq!(shown(&offers), ["nvidia.com/gpu: a b!"]);
        let list = offers.values().next().unwrap();
        assert!(list.all_healthy(&["a".to_owned()]));
        assert!(!list.all_healthy(&["a".to_owned(), "b".to_owned()]));
        assert!(!list.all_healthy(&["unknown".to_owned()]));
    }
}
