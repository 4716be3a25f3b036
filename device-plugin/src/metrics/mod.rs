//! What Prometheus is told: made from the last round when it asks, so that what is gone has no series.

mod dcgm;
mod field;
mod own;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use atoll_core::device::State;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, MetricFamily};
use tokio::sync::watch;

use crate::attribution::{Attributed, Holders};
use crate::backend::{Device, Sample};
use crate::engine::Clock;
use crate::kubelet::Registered;
use crate::state::{Holder, NodeDevices, Round};
use field::{Families, Kind, flag, label, number};

/// Samples that are older than this many periods, and than [`STALE_AT_LEAST`], are not shown: they say nothing about now.
const STALE_AFTER: u32 = 5;
const STALE_AT_LEAST: Duration = Duration::from_secs(10);

/// All metrics of devices; registered once with the process's registry.
pub struct Exporter {
    /// What Prometheus calls the node.
    pub node: String,
    /// The devices and how they are.
    pub devices: watch::Receiver<Arc<NodeDevices>>,
    /// The last round and who held devices.
    pub attributed: watch::Receiver<Arc<Attributed>>,
    /// How each resource stands with the kubelet.
    pub registered: watch::Receiver<BTreeMap<String, Registered>>,
    /// Time between rounds.
    pub period: Duration,
    /// The clock of the rounds.
    pub clock: Clock,
    /// What is told to the registry, which refuses two collectors of the same metric.
    pub description: Desc,
}

impl Exporter {
    /// What [`Exporter::description`] has to be.
    pub fn description() -> Result<Desc, prometheus::Error> {
        Desc::new(own::INFO.0.to_owned(), own::INFO.1.to_owned(), Vec::new(), HashMap::new())
    }
}

impl Collector for Exporter {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let devices = Arc::clone(&self.devices.borrow());
        let attributed = Arc::clone(&self.attributed.borrow());
        let age = (self.clock)().saturating_sub(attributed.round.span.1);
        let fresh = age < (self.period * STALE_AFTER).max(STALE_AT_LEAST);
        let mut families = Families::default();
        about_kubelet(&mut families, &self.registered.borrow());
        about_devices(&mut families, &devices);
        if fresh {
            about_round(&mut families, &self.node, &devices, &attributed);
        }
        families.finish()
    }
}

fn about_kubelet(families: &mut Families, registered: &BTreeMap<String, Registered>) {
    for (resource, state) in registered {
        let labels = vec![label("resource", resource)];
        families.add(own::KUBELET.0, own::KUBELET.1, Kind::Condition, labels, flag(state.connected));
    }
    for (resource, state) in registered {
        let labels = vec![label("resource", resource)];
        families.add(own::REGISTRATIONS.0, own::REGISTRATIONS.1, Kind::Counter, labels, number(state.times));
    }
}

fn about_round(families: &mut Families, node: &str, devices: &NodeDevices, attributed: &Attributed) {
    let round = &attributed.round;
    let (name, help) = own::ROUND;
    families.add(name, help, Kind::Condition, Vec::new(), (round.span.1.saturating_sub(round.span.0)).as_secs_f64());
    xids(families, round);
    holders(families, round, &attributed.holders);
    own_samples(families, attributed);
    dcgm_samples(families, node, devices, attributed);
}

/// What tells a device from others, in every series of it.
fn identity(device: &Device) -> Vec<LabelPair> {
    let mut labels = vec![label("gpu", &device.index.to_string()), label("uuid", &device.id)];
    if let Some(instance) = &device.instance {
        labels.push(label("gpu_instance", &instance.gpu_instance.to_string()));
        labels.push(label("compute_instance", &instance.compute_instance.to_string()));
    }
    labels
}

/// The pod of a sample: the only holder. Who shares a device with others has no sample of its own.
fn pod<'a>(holders: &'a Holders, device: &Device) -> Option<&'a Holder> {
    let holders = holders.get(&device.id)?;
    let mut holders = holders.iter();
    holders.next().filter(|_| holders.next().is_none())
}

fn pod_labels(holder: &Holder) -> [LabelPair; 3] {
    let Holder { namespace, pod, container, .. } = holder;
    [label("namespace", namespace), label("pod", pod), label("container", container)]
}

fn about_devices(families: &mut Families, devices: &NodeDevices) {
    let (name, help) = own::DRIVER_UP;
    families.add(name, help, Kind::Condition, Vec::new(), flag(devices.driver.is_some()));
    if let Some(driver) = &devices.driver {
        let mut labels = vec![label("version", &driver.version)];
        labels.extend(driver.cuda.map(|(major, minor)| label("cuda", &format!("{major}.{minor}"))));
        families.add(own::DRIVER.0, own::DRIVER.1, Kind::Condition, labels, 1.0);
    }
    for state in &devices.devices {
        let device = &state.device;
        let mut labels = identity(device);
        labels.push(label("model", &device.product));
        labels.push(label("pci_bus_id", &device.pci_address));
        labels.extend(device.instance.as_ref().map(|instance| label("profile", &instance.profile)));
        labels.extend(device.numa.map(|numa| label("numa_node", &numa.to_string())));
        families.add(own::INFO.0, own::INFO.1, Kind::Condition, labels, 1.0);
    }
    for device in &devices.devices {
        for (state, word) in
            [(State::Healthy, "healthy"), (State::Degraded, "degraded"), (State::Unhealthy, "unhealthy")]
        {
            let mut labels = identity(&device.device);
            labels.push(label("state", word));
            families.add(own::HEALTH.0, own::HEALTH.1, Kind::Condition, labels, flag(device.verdict.state == state));
        }
    }
    for device in &devices.devices {
        let mut codes: Vec<&str> = device.verdict.reasons.iter().map(|reason| reason.code).collect();
        codes.sort_unstable();
        codes.dedup();
        for code in codes {
            let mut labels = identity(&device.device);
            labels.push(label("reason", code));
            families.add(own::HEALTH_REASON.0, own::HEALTH_REASON.1, Kind::Condition, labels, 1.0);
        }
    }
}

fn xids(families: &mut Families, round: &Round) {
    for (id, code, count) in &round.xids {
        let mut labels = vec![label("uuid", id)];
        // A divided GPU is no device of its own; its number is that of its instances.
        let device =
            round.samples.iter().map(|(device, _)| device).find(|device| device.id == *id || device.gpu == *id);
        labels.extend(device.map(|device| label("gpu", &device.index.to_string())));
        labels.push(label("xid", &code.to_string()));
        families.add(own::XIDS.0, own::XIDS.1, Kind::Counter, labels, number(*count));
    }
}

fn holders(families: &mut Families, round: &Round, holders: &Holders) {
    for (device, _) in &round.samples {
        for holder in holders.get(&device.id).into_iter().flatten() {
            let mut labels = identity(device);
            labels.extend(pod_labels(holder));
            families.add(own::HOLDER.0, own::HOLDER.1, Kind::Condition, labels, 1.0);
        }
    }
}

fn own_samples(families: &mut Families, attributed: &Attributed) {
    let samples = &attributed.round.samples;
    let labels: Vec<Vec<LabelPair>> = samples.iter().map(|(device, _)| identity(device)).collect();
    for field in own::FIELDS {
        for ((device, sample), labels) in samples.iter().zip(&labels) {
            let Some(value) = (field.value)(sample) else { continue };
            let mut labels = labels.clone();
            labels.extend(field.label.map(|(name, value)| label(name, value)));
            if field.kind == Kind::Gauge {
                labels.extend(pod(&attributed.holders, device).into_iter().flat_map(pod_labels));
            }
            families.add(field.name, field.help, field.kind, labels, value);
        }
    }
}

fn dcgm_samples(families: &mut Families, node: &str, devices: &NodeDevices, attributed: &Attributed) {
    let samples = &attributed.round.samples;
    let identity = |device: &Device| {
        let mut labels = vec![
            label("gpu", &device.index.to_string()),
            label("UUID", &device.gpu),
            label("pci_bus_id", &device.pci_address),
            label("device", &format!("nvidia{}", device.minor.unwrap_or(device.index))),
            label("modelName", &device.product),
        ];
        if let Some(instance) = &device.instance {
            labels.push(label("GPU_I_PROFILE", &instance.profile));
            labels.push(label("GPU_I_ID", &instance.gpu_instance.to_string()));
            // Not a label of dcgm-exporter's, but two compute instances of one GPU instance differ in nothing else.
            let compute = instance.compute_instance;
            labels.extend((compute > 0).then(|| label("GPU_C_ID", &compute.to_string())));
        }
        labels.push(label("Hostname", node));
        labels.extend(devices.driver.as_ref().map(|driver| label("DCGM_FI_DRIVER_VERSION", &driver.version)));
        labels.extend(pod(&attributed.holders, device).into_iter().flat_map(pod_labels));
        labels
    };
    let labels: Vec<Vec<LabelPair>> = samples.iter().map(|(device, _)| identity(device)).collect();
    let mut add = |name: &str, help: &str, kind: Kind, value: &dyn Fn(&Device, &Sample) -> Option<f64>| {
        for ((device, sample), labels) in samples.iter().zip(&labels) {
            if let Some(value) = value(device, sample) {
                families.add(name, help, kind, labels.clone(), value);
            }
        }
    };
    for field in dcgm::FIELDS {
        add(field.name, field.help, field.kind, &|_, sample| (field.value)(sample));
    }
    let last = &attributed.round.last_xids;
    add(dcgm::XID.0, dcgm::XID.1, Kind::Gauge, &|device, _| {
        // A fault of the whole GPU is one of each instance.
        let find = |id| last.iter().find(|(of, _)| of == id).map(|(_, code)| f64::from(*code));
        Some(find(&device.id).or_else(|| find(&device.gpu)).unwrap_or(0.0))
    });
    add(dcgm::NVLINK.0, dcgm::NVLINK.1, Kind::Gauge, &|device, sample| {
        nvlink_rate(device, sample, &attributed.round, &attributed.previous)
    });
}

/// Megabytes per second over all `NVLink`s between the round before and this one.
fn nvlink_rate(device: &Device, sample: &Sample, round: &Round, previous: &Round) -> Option<f64> {
    let (_, before) = previous.samples.iter().find(|(of, _)| of.id == device.id)?;
    let bytes = sample.usage.nvlink_bytes?.checked_sub(before.usage.nvlink_bytes?)?;
    let seconds = round.span.0.saturating_sub(previous.span.0).as_secs_f64();
    (seconds > 0.0).then(|| number(bytes) / 1e6 / seconds)
}
