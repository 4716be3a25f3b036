//! Events of the driver, and whom each concerns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atoll_core::device::Fault;
use atoll_nvml::{self as nvml, Error, EventData, EventSet, Nvml, event_bits};

use super::inventory::Inventory;
use super::{failed, is_driver_away};
use crate::backend::{BackendError, Device, DeviceId, Event, Events, Subject};

/// The kinds that are waited for; a driver that lacks some reports the others. Single corrected errors and changes of
/// clocks are no news.
const WANTED: u64 = event_bits::DOUBLE_BIT_ECC
    | event_bits::XID
    | event_bits::SINGLE_BIT_ECC_STORM
    | event_bits::DRAM_RETIREMENT
    | event_bits::DRAM_RETIREMENT_FAILURE
    | event_bits::NON_FATAL_POISON
    | event_bits::FATAL_POISON
    | event_bits::GPU_UNAVAILABLE
    | event_bits::RECOVERY_ACTION;

/// How long one call waits at most: so soon a session that has ended is let go.
const SLICE: Duration = Duration::from_secs(1);
/// Events taken in one go.
const BATCH: usize = 64;

/// Waits for events of some devices.
pub(super) struct NvidiaEvents {
    alive: Arc<AtomicBool>,
    watch: Option<Watch>,
    /// The last wait failed, so another failure is not a passing one.
    failing: bool,
}

/// All that keeps the library.
struct Watch {
    nvml: Nvml,
    set: EventSet,
    registered: usize,
    gpus: Vec<(nvml::Device, DeviceId)>,
    instances: Instances,
}

/// Instances of divided GPUs: by GPU, GPU instance, compute instance.
type Instances = BTreeMap<(DeviceId, u32, u32), DeviceId>;

impl NvidiaEvents {
    pub fn new(nvml: &Nvml, alive: Arc<AtomicBool>, inventory: &Inventory, devices: &[Device]) -> Result<Self, Error> {
        let instances = instances(devices);
        let mut gpus = Vec::new();
        for gpu in &inventory.gpus {
            let wanted = devices.iter().any(|device| device.gpu == gpu.device.id);
            if let (Some(handle), true) = (&gpu.handle, wanted) {
                gpus.push((handle.clone(), gpu.device.id.clone()));
            }
        }
        let (set, registered) = register(nvml, &gpus)?;
        let watch = Watch { nvml: nvml.clone(), set, registered, gpus, instances };
        Ok(Self { alive, watch: Some(watch), failing: false })
    }

    /// Lets go of the library, so that it can be opened anew.
    fn end(&mut self, why: &str) -> BackendError {
        self.watch = None;
        self.alive = Arc::default();
        BackendError::NoDriver(why.to_owned())
    }
}

/// A set of the GPUs that report anything, and how many they are. A lost one cannot be registered, and that is known
/// otherwise.
fn register(nvml: &Nvml, gpus: &[(nvml::Device, DeviceId)]) -> Result<(EventSet, usize), Error> {
    let mut set = EventSet::new(nvml)?;
    let mut registered = 0;
    for (handle, _) in gpus {
        match set.register(handle, WANTED) {
            Ok(_) => registered += 1,
            Err(error) if is_driver_away(&error) => return Err(error),
            Err(_) => {}
        }
    }
    Ok((set, registered))
}

impl Events for NvidiaEvents {
    fn wait(&mut self, limit: Duration) -> Result<Vec<Event>, BackendError> {
        let mut left = limit;
        loop {
            if !self.alive.load(Ordering::Relaxed) {
                return Err(self.end("it is being opened anew"));
            }
            let Some(watch) = &mut self.watch else {
                return Err(BackendError::NoDriver("it was away".to_owned()));
            };
            let slice = left.min(SLICE);
            left = left.saturating_sub(slice);
            match watch.next(slice) {
                Ok(events) => {
                    self.failing = false;
                    if !events.is_empty() || left.is_zero() {
                        return Ok(events);
                    }
                }
                Err(error) if is_driver_away(&error) => return Err(self.end(&error.to_string())),
                Err(error) if self.failing => return Err(failed(error)),
                Err(_) => {
                    // A GPU that is gone makes the wait for all of them fail. The others are watched on; which one it
                    // is, a look at each will tell.
                    self.failing = true;
                    (watch.set, watch.registered) = register(&watch.nvml, &watch.gpus).map_err(failed)?;
                    return Ok(vec![Event { subject: Subject::Unknown, fault: Fault::Other(0) }]);
                }
            }
        }
    }
}

impl Watch {
    fn next(&mut self, limit: Duration) -> Result<Vec<Event>, Error> {
        if self.registered == 0 {
            // NVML does not wait for nobody.
            std::thread::sleep(limit);
            return Ok(Vec::new());
        }
        let mut events = Vec::new();
        let mut waited = self.set.wait(limit)?;
        while let Some(data) = waited {
            let gpu = self.gpu(&data);
            events.extend(route(gpu, &data, &self.instances));
            if events.len() >= BATCH {
                break;
            }
            // What came is worth more than why nothing follows; the next call will hear that again.
            waited = self.set.wait(Duration::ZERO).unwrap_or(None);
        }
        Ok(events)
    }

    /// The GPU of an event: by its handle, and where that is another one (as of a MIG device), by name.
    fn gpu(&self, data: &EventData) -> Option<DeviceId> {
        let device = data.device.as_ref()?;
        if let Some((_, id)) = self.gpus.iter().find(|(handle, _)| handle == device) {
            return Some(id.clone());
        }
        let uuid = device.uuid().ok()?;
        let of_instance = |((gpu, _, _), id): (&(DeviceId, u32, u32), &DeviceId)| (**id == *uuid).then(|| gpu.clone());
        let named = self.gpus.iter().find(|(_, id)| **id == *uuid).map(|(_, id)| id.clone());
        named.or_else(|| self.instances.iter().find_map(of_instance))
    }
}

fn instances(devices: &[Device]) -> Instances {
    let ids = |device: &Device| {
        let instance = device.instance.as_ref()?;
        Some(((device.gpu.clone(), instance.gpu_instance, instance.compute_instance), device.id.clone()))
    };
    devices.iter().filter_map(ids).collect()
}

/// Whom an event concerns: the instance that it names; all within a GPU instance where it names no compute instance;
/// the whole GPU where it names none, or one that nobody knows.
fn route(gpu: Option<DeviceId>, data: &EventData, instances: &Instances) -> Vec<Event> {
    let fault = fault(data.kind, data.data);
    let Some(gpu) = gpu else {
        return vec![Event { subject: Subject::Unknown, fault }];
    };
    let hit: Vec<&DeviceId> = match (data.gpu_instance, data.compute_instance) {
        (Some(within), Some(compute)) => instances.get(&(gpu.clone(), within, compute)).into_iter().collect(),
        (Some(within), None) => {
            instances.range((gpu.clone(), within, 0)..=(gpu.clone(), within, u32::MAX)).map(|(_, id)| id).collect()
        }
        (None, _) => Vec::new(),
    };
    if hit.is_empty() {
        return vec![Event { subject: Subject::Gpu(gpu), fault }];
    }
    hit.into_iter().map(|id| Event { subject: Subject::Instance(id.clone()), fault: fault.clone() }).collect()
}

fn fault(kind: u64, data: u64) -> Fault {
    match kind {
        // A number that no XID has is passed on as the largest, which no catalogue knows.
        event_bits::XID => Fault::Xid(u32::try_from(data).unwrap_or(u32::MAX)),
        event_bits::DOUBLE_BIT_ECC => Fault::EccUncorrected,
        event_bits::SINGLE_BIT_ECC_STORM => Fault::EccStorm,
        event_bits::GPU_UNAVAILABLE => Fault::Unavailable,
        event_bits::RECOVERY_ACTION => Fault::RecoveryActionChanged,
        other => Fault::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(gpu_instance: Option<u32>, compute_instance: Option<u32>) -> EventData {
        EventData { device: None, kind: event_bits::XID, data: 31, gpu_instance, compute_instance }
    }

    #[test]
    fn an_event_goes_to_the_narrowest_that_it_names() {
        let gpu: DeviceId = "GPU-a".into();
        let known: Instances = [
            ((gpu.clone(), 1, 0), "MIG-1".into()),
            ((gpu.clone(), 2, 0), "MIG-2".into()),
            ((gpu.clone(), 2, 1), "MIG-3".into()),
        ]
        .into();
        let subjects = |data: &EventData| -> Vec<Subject> {
            route(Some(gpu.clone()), data, &known).into_iter().map(|event| event.subject).collect()
        };
        let instance = |name: &str| Subject::Instance(name.into());
        assert_eq!(subjects(&data(Some(1), Some(0))), [instance("MIG-1")]);
        assert_eq!(subjects(&data(Some(2), Some(1))), [instance("MIG-3")]);
        assert_eq!(subjects(&data(Some(2), None)), [instance("MIG-2"), instance("MIG-3")]);
        assert_eq!(subjects(&data(None, None)), [Subject::Gpu(gpu.clone())]);
        assert_eq!(subjects(&data(None, Some(0))), [Subject::Gpu(gpu.clone())]);
        assert_eq!(subjects(&data(Some(9), Some(0))), [Subject::Gpu(gpu.clone())]);
        assert_eq!(route(None, &data(None, None), &known)[0].subject, Subject::Unknown);
    }

    #[test]
    fn kinds_of_events_become_faults() {
        let faults = [0x2, 0x200, 0x400, 0x4000, 0x8000, 0x10_0000].map(|kind| fault(kind, 0));
        assert_eq!(
            faults,
            [
                Fault::EccUncorrected,
                Fault::EccStorm,
                Fault::Other(0x400),
                Fault::Unavailable,
                Fault::RecoveryActionChanged,
                Fault::Other(0x10_0000),
            ]
        );
        assert_eq!(fault(event_bits::XID, 79), Fault::Xid(79));
    }
}
