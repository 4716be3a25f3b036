//! A backend that follows a script, and a clock that a test moves.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use atoll_core::device::{Fault, Reading};

use super::Clock;
use crate::backend::{
    Backend, BackendError, ContainerEdits, Device, DeviceId, Driver, Event, Events, Instance, Sample, Subject,
};

/// What the driver would say.
#[derive(Default)]
pub struct World {
    pub driver: Option<Driver>,
    pub devices: Vec<Device>,
    /// What a sample of a device says, if not that all is well.
    pub readings: Vec<(DeviceId, Result<Reading, BackendError>)>,
    /// What the next waits answer; then nothing comes.
    pub events: VecDeque<Result<Vec<Event>, BackendError>>,
    /// How often events were asked for.
    pub event_sets: Vec<Vec<DeviceId>>,
    pub no_event_sets: bool,
    /// Waits take real time, not that of the scripted clock.
    pub live: bool,
    /// Devices in the order in which they were sampled.
    pub sampled: Vec<DeviceId>,
    /// What one sample takes on the scripted clock.
    pub sample_time: Duration,
}

#[derive(Clone, Default)]
pub struct Script {
    world: Arc<Mutex<World>>,
    now: Arc<AtomicU64>,
}

impl Script {
    /// A driver with so many GPUs.
    pub fn gpus(count: u32) -> Self {
        let script = Self::default();
        script.world().driver = Some(Driver { version: "580.95.05".to_owned(), cuda: Some((13, 0)) });
        script.world().devices = (0..count).map(gpu).collect();
        script
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now);
        Arc::new(move || Duration::from_millis(now.load(Ordering::SeqCst)))
    }

    pub fn pass(&self, time: Duration) {
        self.now.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn backend(&self) -> Box<dyn Backend> {
        Box::new(self.clone())
    }

    pub fn says(&self, id: &str, reading: Result<Reading, BackendError>) {
        self.world().readings.retain(|(of, _)| **of != *id);
        self.world().readings.push((id.into(), reading));
    }
}

pub fn gpu(index: u32) -> Device {
    let id: DeviceId = format!("GPU-{index}").into();
    Device {
        gpu: Arc::clone(&id),
        id,
        index,
        product: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_mib: 81_559,
        pci_address: format!("00000000:{index:02X}:00.0"),
        minor: Some(index),
        ..Device::default()
    }
}

pub fn instance(index: u32, number: u32) -> Device {
    let instance = Instance { gpu_instance: number, compute_instance: 0, profile: "1g.10gb".to_owned() };
    Device { id: format!("MIG-{index}-{number}").into(), instance: Some(instance), memory_mib: 9984, ..gpu(index) }
}

pub fn xid(subject: Subject, code: u32) -> Event {
    Event { subject, fault: Fault::Xid(code) }
}

impl Backend for Script {
    fn driver(&mut self) -> Result<Driver, BackendError> {
        self.world().driver.clone().ok_or_else(|| BackendError::NoDriver("not loaded".to_owned()))
    }

    fn devices(&mut self) -> Result<Vec<Device>, BackendError> {
        Ok(self.world().devices.clone())
    }

    fn events(&mut self, devices: &[Device]) -> Result<Box<dyn Events>, BackendError> {
        let mut world = self.world();
        if world.no_event_sets {
            return Err(BackendError::Call { call: "nvmlEventSetCreate", message: "no permission".to_owned() });
        }
        world.event_sets.push(devices.iter().map(|device| Arc::clone(&device.id)).collect());
        drop(world);
        Ok(Box::new(self.clone()))
    }

    fn sample(&mut self, device: &Device) -> Result<Sample, BackendError> {
        let mut world = self.world();
        world.sampled.push(Arc::clone(&device.id));
        self.now.fetch_add(u64::try_from(world.sample_time.as_millis()).unwrap(), Ordering::SeqCst);
        let said = world.readings.iter().find(|(id, _)| *id == device.id).map(|(_, said)| said.clone());
        let well = Reading { processes: Some(Vec::new()), memory_used_mib: Some(0), ..Reading::default() };
        said.unwrap_or(Ok(well)).map(|reading| Sample { reading, ..Sample::default() })
    }

    fn prepare(&mut self, devices: &[Device]) -> Result<ContainerEdits, BackendError> {
        let ids: Vec<&str> = devices.iter().map(|device| &*device.id).collect();
        Ok(ContainerEdits { env: vec![("DEVICES".to_owned(), ids.join(","))], ..ContainerEdits::default() })
    }
}

impl Events for Script {
    fn wait(&mut self, limit: Duration) -> Result<Vec<Event>, BackendError> {
        let (next, live) = {
            let mut world = self.world();
            (world.events.pop_front(), world.live)
        };
        next.unwrap_or_else(|| {
            if live {
                std::thread::park_timeout(Duration::from_millis(5));
            } else {
                self.pass(limit);
            }
            Ok(Vec::new())
        })
    }
}
