//! Which GPUs and instances there are.
//!
//! What does not change by itself (product, memory, links, limits) is read once for each GPU. A period's look asks for
//! names only, and compares them with the look before.

use std::sync::Arc;

use atoll_nvml::{self as nvml, Code, Error, Field, MigAttributes, Nvml, Threshold, fields};

use super::is_driver_away;
use super::plan::Plan;
use super::prepare::HostFiles;
use super::topology::{self, Node};
use crate::backend::{Bus, Device, DeviceId, Instance, Link};

/// Links that no GPU exceeds.
const MOST_LINKS: u32 = 36;
const MIB: u64 = 1 << 20;

/// All GPUs, in the driver's order.
#[derive(Default)]
pub(super) struct Inventory {
    seen: Vec<Seen>,
    pub gpus: Vec<Gpu>,
}

/// A GPU, with what is known of it.
#[derive(Clone)]
pub(super) struct Gpu {
    pub device: Device,
    /// None while the driver does not find it, and between sessions.
    pub handle: Option<nvml::Device>,
    /// Some where it is divided.
    pub instances: Option<Vec<MigDevice>>,
    /// What is sampled.
    pub plan: Arc<Plan>,
}

/// An instance of a divided GPU.
#[derive(Clone)]
pub(super) struct MigDevice {
    pub device: Device,
    /// None between sessions.
    pub handle: Option<nvml::Device>,
}

/// What a look at a GPU shows; when nothing of it changed, nothing changed.
#[derive(Clone, PartialEq)]
enum Seen {
    Gpu {
        handle: nvml::Device,
        uuid: String,
        lost: bool,
        instances: Option<Vec<SeenInstance>>,
    },
    /// It is counted, and that is all.
    Unreachable,
}

#[derive(Clone, PartialEq)]
struct SeenInstance {
    handle: nvml::Device,
    uuid: String,
    /// Names can be used again for another division.
    attributes: Option<MigAttributes>,
}

impl Inventory {
    /// Looks again, and says whether anything changed. Fails only when the driver is away.
    pub fn refresh(&mut self, nvml: &Nvml, files: Option<&HostFiles>) -> Result<bool, Error> {
        let seen = (0..nvml.device_count()?).map(|index| look(nvml, index)).collect::<Result<Vec<_>, _>>()?;
        if seen == self.seen {
            return Ok(false);
        }
        let before = std::mem::take(&mut self.gpus);
        self.gpus = (0..).zip(&seen).map(|(index, seen_now)| follow(index, seen_now, &seen, &before, files)).collect();
        self.link(&before);
        self.seen = seen;
        Ok(true)
    }

    /// What containers can get.
    pub fn devices(&self) -> Vec<Device> {
        self.gpus
            .iter()
            .flat_map(|gpu| match &gpu.instances {
                None => vec![gpu.device.clone()],
                Some(instances) => instances.iter().map(|instance| instance.device.clone()).collect(),
            })
            .collect()
    }

    /// The GPU that a device is, or is on.
    pub fn gpu(&self, id: &DeviceId) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.device.id == *id)
    }

    /// Drops all handles, and with them the library; what is known stays.
    pub fn let_go(&mut self) {
        self.seen.clear();
        for gpu in &mut self.gpus {
            gpu.handle = None;
            for instance in gpu.instances.iter_mut().flatten() {
                instance.handle = None;
            }
        }
    }

    /// Measures the ways between the GPUs, only when one is there whose ways are not known.
    fn link(&mut self, before: &[Gpu]) {
        let known = |gpu: &Gpu| {
            before.iter().any(|old| old.device.id == gpu.device.id && old.handle.is_some() && !old.device.lost)
        };
        let measurable: Vec<&Gpu> = self.gpus.iter().filter(|gpu| gpu.handle.is_some() && !gpu.device.lost).collect();
        if measurable.iter().all(|gpu| known(gpu)) {
            let there: Vec<DeviceId> = self.gpus.iter().map(|gpu| gpu.device.id.clone()).collect();
            for gpu in &mut self.gpus {
                gpu.device.links.retain(|link| there.contains(&link.to));
            }
            return;
        }
        let nodes: Vec<Node> = measurable.iter().map(|gpu| node(gpu)).collect();
        let links: Vec<(DeviceId, Vec<Link>)> = nodes
            .iter()
            .map(|node| node.id.clone())
            .zip(topology::links(&nodes, |a, b| bus(measurable[a], measurable[b])))
            .collect();
        for (id, links) in links {
            if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.device.id == id) {
                gpu.device.links = links;
            }
        }
    }
}

/// A failure that does not mean that the driver is away is one of this GPU alone.
fn alone<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_driver_away(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

fn look(nvml: &Nvml, index: u32) -> Result<Seen, Error> {
    let Some(handle) = alone(nvml.device(index))? else { return Ok(Seen::Unreachable) };
    let Some(uuid) = alone(handle.uuid())? else { return Ok(Seen::Unreachable) };
    // Names come from the library's memory; this asks the GPU.
    let lost = matches!(handle.memory(), Err(Error::Call { code: Code::GPU_IS_LOST | Code::NOT_FOUND, .. }));
    let instances = match alone(handle.mig_enabled())? {
        Some(true) if !lost => Some(look_at_instances(&handle)?),
        _ => None,
    };
    Ok(Seen::Gpu { handle, uuid, lost, instances })
}

fn look_at_instances(gpu: &nvml::Device) -> Result<Vec<SeenInstance>, Error> {
    let mut seen = Vec::new();
    for handle in alone(gpu.mig_devices())?.unwrap_or_default() {
        // One that goes away at this moment is left out.
        if let Some(uuid) = alone(handle.uuid())? {
            let attributes = alone(handle.mig_attributes())?;
            seen.push(SeenInstance { handle, uuid, attributes });
        }
    }
    Ok(seen)
}

/// What is known of a GPU, from the look and from before.
fn follow(index: u32, now: &Seen, all: &[Seen], before: &[Gpu], files: Option<&HostFiles>) -> Gpu {
    match now {
        Seen::Gpu { handle, uuid, lost, instances } => {
            let known = before.iter().find(|gpu| *gpu.device.id == **uuid);
            let mut gpu = match known {
                // A handle of the same session: all that was read holds, if it could be read.
                Some(gpu) if gpu.handle.as_ref() == Some(handle) && gpu.device.memory_mib > 0 => gpu.clone(),
                // It cannot be asked: what is known from another session holds.
                Some(gpu) if *lost => Gpu { handle: Some(handle.clone()), ..gpu.clone() },
                _ => describe(uuid, handle, files),
            };
            gpu.device.index = index;
            mark(&mut gpu, *lost);
            if !lost {
                gpu.instances = instances.as_ref().map(|seen| divide(&gpu.device, seen));
            }
            gpu
        }
        Seen::Unreachable => {
            let named = |id: &DeviceId| all.iter().any(|seen| matches!(seen, Seen::Gpu { uuid, .. } if **uuid == **id));
            let known = before.iter().find(|gpu| gpu.device.index == index && !named(&gpu.device.id));
            let mut gpu = known.cloned().unwrap_or_else(|| unknown(index));
            gpu.handle = None;
            mark(&mut gpu, true);
            gpu
        }
    }
}

fn mark(gpu: &mut Gpu, lost: bool) {
    gpu.device.lost = lost;
    for instance in gpu.instances.iter_mut().flatten() {
        instance.device.lost = lost;
    }
}

/// A GPU that was never reached: it has no name, and is listed so that somebody looks.
fn unknown(index: u32) -> Gpu {
    let id: DeviceId = format!("GPU-unidentified-{index}").into();
    let device = Device { id: id.clone(), gpu: id, index, ..Device::default() };
    Gpu { device, handle: None, instances: None, plan: Arc::default() }
}

fn describe(uuid: &str, handle: &nvml::Device, files: Option<&HostFiles>) -> Gpu {
    let id: DeviceId = uuid.into();
    let pci_address = handle.pci_address().unwrap_or_default();
    let device = Device {
        id: id.clone(),
        gpu: id,
        product: handle.name().unwrap_or_default(),
        memory_mib: handle.memory().map_or(0, |memory| memory.total / MIB),
        numa: files.and_then(|files| files.numa(&pci_address)).or_else(|| numa(handle)),
        pci_address,
        minor: handle.minor_number().ok(),
        compute: handle.compute_capability().ok(),
        ..Device::default()
    };
    let plan = Plan::new(handle, links(handle), limits(handle));
    Gpu { device, handle: Some(handle.clone()), instances: None, plan: Arc::new(plan) }
}

/// The NUMA node, where there is exactly one that is near.
fn numa(handle: &nvml::Device) -> Option<u32> {
    handle.memory_affinity().ok().filter(|nodes| nodes.is_power_of_two()).map(u64::trailing_zeros)
}

/// Numbers of the links that exist.
fn links(handle: &nvml::Device) -> Vec<u32> {
    let counted = handle.fields(&[Field::of_device(fields::LINK_COUNT)]).ok();
    let count = counted.and_then(|values| values.first()?.ok()?.unsigned()).and_then(|count| u32::try_from(count).ok());
    (0..count.unwrap_or(MOST_LINKS).min(MOST_LINKS))
        .map_while(|link| match handle.link_active(link) {
            Ok(_) => Some(Some(link)),
            // Without a count the first gap is the end.
            Err(_) if count.is_none() => None,
            Err(_) => Some(None),
        })
        .flatten()
        .collect()
}

/// Degrees at which the GPU becomes slower, and at which it turns itself off.
fn limits(handle: &nvml::Device) -> (Option<i32>, Option<i32>) {
    let direct = |threshold| handle.temperature_threshold(threshold).ok().and_then(|value| i32::try_from(value).ok());
    let (slowdown, shutdown) = (direct(Threshold::Slowdown), direct(Threshold::Shutdown));
    if slowdown.is_some() && shutdown.is_some() {
        return (slowdown, shutdown);
    }
    // Newer GPUs say how far the limits are from the temperature for which they are made.
    let asked = [Field::of_device(fields::SLOWDOWN_MARGIN), Field::of_device(fields::SHUTDOWN_MARGIN)];
    let (Ok(temperature), Ok(margin), Ok(values)) =
        (handle.temperature(), handle.temperature_margin(), handle.fields(&asked))
    else {
        return (slowdown, shutdown);
    };
    let made_for = i32::try_from(temperature).unwrap_or(0) + margin;
    let limit = |place: usize| {
        let value = values.get(place)?.ok()?.signed()?;
        Some(made_for - i32::try_from(value).ok()?)
    };
    (slowdown.or_else(|| limit(0)), shutdown.or_else(|| limit(1)))
}

fn divide(gpu: &Device, seen: &[SeenInstance]) -> Vec<MigDevice> {
    let mut instances: Vec<MigDevice> = seen.iter().filter_map(|instance| mig_device(gpu, instance)).collect();
    instances.sort_by_key(|mig| mig.device.instance.as_ref().map(|ids| (ids.gpu_instance, ids.compute_instance)));
    instances
}

/// None for one without ids, as one that is just going away has none.
fn mig_device(gpu: &Device, seen: &SeenInstance) -> Option<MigDevice> {
    let instance = Instance {
        gpu_instance: seen.handle.gpu_instance().ok()?,
        compute_instance: seen.handle.compute_instance().ok()?,
        profile: profile(&seen.handle, seen.attributes),
    };
    let device = Device {
        id: seen.uuid.as_str().into(),
        instance: Some(instance),
        memory_mib: seen.attributes.map_or(0, |attributes| attributes.memory_mib),
        // Instances reach nobody over NVLink.
        links: Vec::new(),
        ..gpu.clone()
    };
    Some(MigDevice { device, handle: Some(seen.handle.clone()) })
}

/// The profile stands at the end of the name; drivers that do not put it there at least say the shares.
fn profile(handle: &nvml::Device, attributes: Option<MigAttributes>) -> String {
    let named = handle.name().ok().and_then(|name| name.rsplit_once("MIG ").map(|(_, profile)| profile.to_owned()));
    named.or_else(|| attributes.map(|shares| named_by_shares(&shares))).unwrap_or_default()
}

fn named_by_shares(shares: &MigAttributes) -> String {
    let MigAttributes { gpu_slices, compute_slices, memory_mib } = *shares;
    let gigabytes = memory_mib.div_ceil(1024);
    if compute_slices == gpu_slices {
        format!("{gpu_slices}g.{gigabytes}gb")
    } else {
        format!("{compute_slices}c.{gpu_slices}g.{gigabytes}gb")
    }
}

fn node(gpu: &Gpu) -> Node {
    let handle = gpu.handle.as_ref();
    let peers = handle.map(|handle| {
        let active = gpu.plan.links.iter().filter(|link| handle.link_active(**link).unwrap_or(false));
        active.filter_map(|link| handle.link_peer(*link).ok()).collect()
    });
    Node { id: gpu.device.id.clone(), pci_address: gpu.device.pci_address.clone(), peers: peers.unwrap_or_default() }
}

/// The way between two GPUs; the longest where the driver does not say.
fn bus(a: &Gpu, b: &Gpu) -> Bus {
    let (Some(a), Some(b)) = (&a.handle, &b.handle) else { return Bus::System };
    a.topology(b).map_or(Bus::System, Bus::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_named_by_its_shares() {
        let shares = |gpu_slices, compute_slices, memory_mib| MigAttributes { gpu_slices, compute_slices, memory_mib };
        assert_eq!(named_by_shares(&shares(1, 1, 9728)), "1g.10gb");
        assert_eq!(named_by_shares(&shares(3, 1, 40192)), "1c.3g.40gb");
    }
}
