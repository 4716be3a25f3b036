//! One node: its GPUs, its driver and its clock. No time of its own, no files, no C.

use crate::code::Code;
use crate::gpu::{Gpu, mix, uuid};
use crate::mig::{self, ComputeInstance, GpuInstance, Layout};
use crate::spec::{Invalid, Spec, invalid};

/// One node. Real time comes in as seconds since the node began; [`World::time`] makes virtual time of it.
#[derive(Clone, Debug)]
pub struct World {
    spec: Spec,
    seed: u64,
    /// By slot; a GPU that was taken out stays, marked so.
    pub gpus: Vec<Gpu>,
    /// Whether the driver answers, and otherwise with what.
    pub driver: Result<(), Code>,
    /// Version of the driver.
    pub version: String,
    pub(crate) clock: Clock,
    pub(crate) failures: Vec<Failure>,
    serials: u32,
}

/// Virtual time: real time moved, or stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Clock {
    pub ahead: f64,
    pub stopped: Option<f64>,
}

/// A call that fails although its arguments are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// None: any, and calls that concern none.
    pub slot: Option<u32>,
    pub function: String,
    pub code: Code,
    /// How often still; None: always.
    pub left: Option<u32>,
}

/// Something that the driver reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Slot of the GPU.
    pub slot: u32,
    /// `nvmlEventType…`, one bit.
    pub kind: u64,
    /// For an XID its number.
    pub data: u64,
    /// GPU instance; [`NO_INSTANCE`]: none.
    pub gpu_instance: u32,
    /// Compute instance; [`NO_INSTANCE`]: none.
    pub compute_instance: u32,
}

/// In place of the number of an instance: the whole GPU.
pub const NO_INSTANCE: u32 = u32::MAX;

impl World {
    /// A new node; `seed` where its specification has none.
    #[must_use]
    pub fn new(spec: &Spec, seed: u64) -> Self {
        let seed = spec.seed.unwrap_or(seed);
        let mut world = Self {
            spec: spec.clone(),
            seed,
            gpus: Vec::new(),
            driver: Ok(()),
            version: spec.driver.clone(),
            clock: Clock::default(),
            failures: Vec::new(),
            serials: 0,
        };
        for (slot, (model, layout)) in spec.gpus.iter().enumerate() {
            world.gpus.push(Gpu::new(model, u32::try_from(slot).unwrap_or_default(), mix(seed)));
            if let Some(layout) = layout {
                // The specification was read with the same check, so this cannot fail.
                let _ = world.divide(slot, layout);
            }
        }
        world
    }

    /// The node as it was at first.
    pub fn restart(&mut self) {
        *self = Self::new(&self.spec, self.seed);
    }

    pub(crate) fn add(&mut self, model: &'static crate::model::Model) {
        let slot = u32::try_from(self.gpus.len()).unwrap_or_default();
        self.gpus.push(Gpu::new(model, slot, mix(self.seed)));
    }

    /// Virtual seconds since the node began, `real` seconds after it did.
    #[must_use]
    pub fn time(&self, real: f64) -> f64 {
        self.clock.stopped.unwrap_or(real + self.clock.ahead)
    }

    /// Slots of the GPUs in the machine, in the order in which the driver counts.
    pub fn present(&self) -> impl Iterator<Item = &Gpu> {
        self.gpus.iter().filter(|gpu| gpu.present)
    }

    /// How the driver counts it.
    #[must_use]
    pub fn index(&self, slot: u32) -> Option<u32> {
        let index = self.present().position(|gpu| gpu.slot == slot)?;
        u32::try_from(index).ok()
    }

    /// Major and minor version of the driver.
    #[must_use]
    pub fn driver_version(&self) -> (u32, u32) {
        let mut parts = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// Highest CUDA version that the driver supports, as NVML writes it.
    #[must_use]
    pub fn cuda_version(&self) -> i32 {
        match self.driver_version().0 {
            580.. => 13_000,
            570.. => 12_080,
            550.. => 12_040,
            _ => 12_020,
        }
    }

    /// Divides a GPU anew. Every instance is new, those that look the same included.
    pub(crate) fn divide(&mut self, slot: usize, layout: &Layout) -> Result<(), Invalid> {
        let seed = self.seed;
        let Some(gpu) = self.gpus.get_mut(slot) else { return invalid("no such GPU") };
        let placed = gpu.model.mig.and_then(|table| mig::place(table, layout));
        let Some(placed) = placed else { return invalid("this division does not fit") };
        let mut serial = || {
            self.serials += 1;
            self.serials
        };
        let mut instances = Vec::new();
        for ((profile, start), (_, slices)) in placed.into_iter().zip(&layout.0) {
            let compute = (0..).zip(slices).map(|(id, &slices)| {
                let serial = serial();
                ComputeInstance { id, slices, serial, uuid: uuid("MIG", seed ^ u64::from(serial) << 20, slot as u64) }
            });
            let compute = compute.collect();
            let id = mig::instance_id(profile, start);
            instances.push(GpuInstance { id, profile, start, compute, serial: serial() });
        }
        instances.sort_by_key(|instance| instance.id);
        gpu.mig = Some(instances);
        Ok(())
    }

    /// With what a call fails although its arguments are right.
    pub(crate) fn failure(&mut self, function: &str, slot: Option<u32>) -> Result<(), Code> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let found = self.failures.iter_mut().find(|failure| {
            failure.function == function && failure.left != Some(0) && (failure.slot.is_none() || failure.slot == slot)
        });
        let Some(failure) = found else { return Ok(()) };
        if let Some(left) = &mut failure.left {
            *left -= 1;
        }
        Err(failure.code)
    }
}
