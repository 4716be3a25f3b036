//! One sample of a device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_core::device::{
    ClockLimits, EccCounts, LinkCounts, Process, Reading, RecoveryAction, RemappedRows, Temperature,
};
use atoll_nvml::{self as nvml, Code, Error, Field, GpmSample, Nvml, Value, fields, gpm_metrics};

use super::inventory::{Gpu, Inventory, MigDevice};
use super::plan::{LinkStyle, Plan, Values, crc_errors, recoveries, replays, traffic};
use super::{failed, is_driver_away};
use crate::backend::{BackendError, Device, DeviceId, Profile, Sample};

const MIB: u64 = 1 << 20;
/// How long a sample of a divided GPU serves its instances.
const SHARED: Duration = Duration::from_millis(100);
/// The hardware's counters are refreshed no faster.
const COUNTERS: Duration = Duration::from_millis(100);

/// Bits of why clocks are limited.
mod clock_bits {
    pub const SOFTWARE_POWER: u64 = 0x4;
    pub const HARDWARE: u64 = 0x8;
    pub const SOFTWARE_THERMAL: u64 = 0x20;
    pub const HARDWARE_THERMAL: u64 = 0x40;
    pub const POWER_BRAKE: u64 = 0x80;
}

/// What a sample needs of the samples before it.
#[derive(Default)]
pub(super) struct Sampler {
    counters: BTreeMap<DeviceId, Counters>,
    divided: BTreeMap<DeviceId, Shared>,
}

/// The hardware's counters of a device.
struct Counters {
    newer: GpmSample,
    older: GpmSample,
    taken: Instant,
    profile: Option<Profile>,
}

/// The sample of a divided GPU, which each of its instances may take once.
struct Shared {
    sample: Arc<Sample>,
    taken: Instant,
    served: BTreeSet<DeviceId>,
}

impl Shared {
    /// None when this instance had it already: it wants to know what is now.
    fn serve(&mut self, id: &DeviceId) -> Option<Arc<Sample>> {
        self.served.insert(id.clone()).then(|| self.sample.clone())
    }
}

impl Sampler {
    pub fn sample(&mut self, nvml: &Nvml, inventory: &Inventory, device: &Device) -> Result<Sample, BackendError> {
        let unknown = || BackendError::Unknown(device.id.clone());
        let gpu = inventory.gpu(&device.gpu).ok_or_else(unknown)?;
        if device.instance.is_none() {
            return self.whole(nvml, gpu);
        }
        let instance = gpu.instances.iter().flatten().find(|mig| mig.device.id == device.id).ok_or_else(unknown)?;
        self.instance(nvml, gpu, instance)
    }

    fn whole(&mut self, nvml: &Nvml, gpu: &Gpu) -> Result<Sample, BackendError> {
        let Some(handle) = &gpu.handle else { return Ok(lost()) };
        let mut asker = Asker::default();
        let values = values(&mut asker, handle, &gpu.plan);
        let mut sample = Sample::default();
        read_gpu(&mut asker, handle, &gpu.plan, &values, &mut sample);
        read_own(&mut asker, handle, &mut sample);
        if gpu.plan.gpm {
            sample.usage.profile = self.profile(&mut asker, nvml, handle, &gpu.device.id, None);
        }
        asker.end(sample)
    }

    /// What a divided GPU says for its instances.
    fn divided(gpu: &Gpu) -> Result<Sample, BackendError> {
        let Some(handle) = &gpu.handle else { return Ok(lost()) };
        let mut asker = Asker::default();
        let values = values(&mut asker, handle, &gpu.plan);
        let mut sample = Sample::default();
        read_gpu(&mut asker, handle, &gpu.plan, &values, &mut sample);
        asker.end(sample)
    }

    /// What the instance says itself, and the rest from its GPU, which is asked once for all instances of a round.
    fn instance(&mut self, nvml: &Nvml, gpu: &Gpu, instance: &MigDevice) -> Result<Sample, BackendError> {
        let id = &instance.device.id;
        let now = Instant::now();
        let shared = self.divided.get_mut(&gpu.device.id).filter(|shared| now.duration_since(shared.taken) < SHARED);
        let whole = if let Some(sample) = shared.and_then(|shared| shared.serve(id)) {
            sample
        } else {
            let sample = Arc::new(Self::divided(gpu)?);
            let shared = Shared { sample: sample.clone(), taken: now, served: [id.clone()].into() };
            self.divided.insert(gpu.device.id.clone(), shared);
            sample
        };
        let (Some(parent), Some(handle), false) = (&gpu.handle, &instance.handle, whole.reading.lost) else {
            return Ok(lost());
        };
        let mut sample = (*whole).clone();
        let mut asker = Asker::default();
        read_own(&mut asker, handle, &mut sample);
        let ids = instance.device.instance.as_ref().filter(|_| gpu.plan.gpm);
        if let Some(ids) = ids {
            sample.usage.profile = self.profile(&mut asker, nvml, parent, id, Some(ids.gpu_instance));
        }
        asker.end(sample)
    }

    /// What the hardware counted since the sample before; None at the first.
    fn profile(
        &mut self,
        asker: &mut Asker,
        nvml: &Nvml,
        handle: &nvml::Device,
        id: &DeviceId,
        gpu_instance: Option<u32>,
    ) -> Option<Profile> {
        let now = Instant::now();
        let Some(counters) = self.counters.get_mut(id) else {
            let buffers = asker.ask(|| Ok((GpmSample::new(nvml)?, GpmSample::new(nvml)?)));
            let (mut newer, older) = buffers?;
            asker.ask(|| newer.take(handle, gpu_instance))?;
            self.counters.insert(id.clone(), Counters { newer, older, taken: now, profile: None });
            return None;
        };
        if now.duration_since(counters.taken) < COUNTERS {
            return counters.profile;
        }
        std::mem::swap(&mut counters.newer, &mut counters.older);
        let taken = asker.ask(|| counters.newer.take(handle, gpu_instance));
        if taken.is_none() {
            // The older buffer is now overwritten or not, who knows: begin again.
            self.counters.remove(id);
            return None;
        }
        counters.taken = now;
        counters.profile = asker.ask(|| counters.newer.since(&counters.older, PROFILE)).map(|values| profile(&values));
        counters.profile
    }
}

/// What [`Profile`] is made of, in the order in which [`profile`] takes it.
const PROFILE: [u32; 7] = [
    gpm_metrics::GRAPHICS,
    gpm_metrics::TENSOR,
    gpm_metrics::DRAM,
    gpm_metrics::SM,
    gpm_metrics::SM_OCCUPANCY,
    gpm_metrics::PCIE_SENT,
    gpm_metrics::PCIE_RECEIVED,
];

fn profile(values: &[Result<f64, Code>; 7]) -> Profile {
    let [graphics, tensor, dram, sm, occupancy, sent, received] = values;
    let share = |value: &Result<f64, Code>| value.ok().map(|percent| percent / 100.0);
    let bytes = |value: &Result<f64, Code>| value.ok().map(|mebibytes| mebibytes * 1_048_576.0);
    Profile {
        graphics_active: share(graphics),
        tensor_active: share(tensor),
        dram_active: share(dram),
        sm_active: share(sm),
        sm_occupancy: share(occupancy),
        pcie_sent: bytes(sent),
        pcie_received: bytes(received),
    }
}

/// Asks one thing after the other, and keeps in mind what the failures mean together.
#[derive(Default)]
struct Asker {
    answered: bool,
    lost: bool,
    reset_required: bool,
    away: Option<Error>,
    last: Option<Error>,
}

impl Asker {
    /// None when there is no answer, or no use in asking.
    fn ask<T>(&mut self, call: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        if self.lost || self.away.is_some() {
            return None;
        }
        match call() {
            Ok(value) => {
                self.answered = true;
                Some(value)
            }
            Err(error) if is_driver_away(&error) => {
                self.away = Some(error);
                None
            }
            Err(error) => {
                match error.code() {
                    Some(Code::GPU_IS_LOST) => self.lost = true,
                    Some(Code::RESET_REQUIRED) => self.reset_required = true,
                    _ => {}
                }
                self.last = Some(error);
                None
            }
        }
    }

    fn end(self, mut sample: Sample) -> Result<Sample, BackendError> {
        if let Some(error) = self.away {
            return Err(failed(error));
        }
        if self.lost {
            return Ok(lost());
        }
        if self.reset_required && matches!(sample.reading.recovery_action, None | Some(RecoveryAction::None)) {
            sample.reading.recovery_action = Some(RecoveryAction::ResetGpu);
        }
        match self.last {
            Some(error) if !self.answered && !self.reset_required => Err(failed(error)),
            _ => Ok(sample),
        }
    }
}

fn lost() -> Sample {
    Sample { reading: Reading { lost: true, ..Reading::default() }, ..Sample::default() }
}

/// All field values by one call. Where fields say that the GPU is lost, so it is.
fn values<'a>(asker: &mut Asker, handle: &nvml::Device, plan: &'a Plan) -> Values<'a> {
    let values = asker.ask(|| handle.fields(&plan.fields)).unwrap_or_default();
    asker.lost |= values.contains(&Err(Code::GPU_IS_LOST));
    Values { fields: &plan.fields, values }
}

/// What only a GPU as a whole has.
fn read_gpu(asker: &mut Asker, handle: &nvml::Device, plan: &Plan, values: &Values<'_>, sample: &mut Sample) {
    let Sample { reading, usage } = sample;
    reading.recovery_action = values.of_device(fields::RECOVERY_ACTION).map(recovery_action);
    reading.ecc = values
        .of_device(fields::ECC_CORRECTED)
        .zip(values.of_device(fields::ECC_UNCORRECTED))
        .map(|(corrected, uncorrected)| EccCounts { corrected, uncorrected });
    if reading.ecc.is_some() {
        reading.sram_threshold_exceeded = asker.ask(|| handle.sram_errors()).map(|errors| errors.threshold_exceeded);
    }
    reading.remapped = remapped(values);
    reading.retirement_pending = values.of_device(fields::RETIRED_PENDING).map(|pending| pending != 0);
    reading.links = plan.links.iter().map(|link| link_counts(asker, handle, plan.style, *link, values)).collect();
    reading.temperature = asker.ask(|| handle.temperature()).map(|degrees| Temperature {
        gpu: i32::try_from(degrees).unwrap_or(i32::MAX),
        memory: values
            .get(Field::of_device(fields::MEMORY_TEMPERATURE))
            .and_then(Value::signed)
            .and_then(|degrees| i32::try_from(degrees).ok())
            // A sensor that is not there reads zero.
            .filter(|degrees| *degrees != 0),
        slowdown: plan.slowdown,
        shutdown: plan.shutdown,
    });
    reading.clock_limits = asker.ask(|| handle.clock_limits()).map(clock_limits);
    reading.power_milliwatts = asker.ask(|| handle.power()).map(u64::from);
    reading.power_limit_milliwatts = asker.ask(|| handle.power_limit()).map(u64::from);

    let share = |percent: u32| f64::from(percent) / 100.0;
    let utilization = asker.ask(|| handle.utilization());
    usage.gpu_utilization = utilization.map(|busy| share(busy.gpu));
    usage.memory_utilization = utilization.map(|busy| share(busy.memory));
    usage.encoder_utilization = asker.ask(|| handle.encoder_utilization()).map(share);
    usage.decoder_utilization = asker.ask(|| handle.decoder_utilization()).map(share);
    usage.sm_clock_mhz = asker.ask(|| handle.sm_clock());
    usage.memory_clock_mhz = asker.ask(|| handle.memory_clock());
    usage.energy_millijoules = values.of_device(fields::ENERGY);
    usage.pcie_replays = values.of_device(fields::PCIE_REPLAYS);
    usage.nvlink_bytes = link_bytes(plan, values);
    usage.vgpu_licensed = match plan.licensable {
        Some(true) => asker.ask(|| handle.vgpu_licensed()).flatten(),
        known => known,
    };
}

/// What an instance has for itself, and a GPU too.
fn read_own(asker: &mut Asker, handle: &nvml::Device, Sample { reading, usage }: &mut Sample) {
    if let Some(memory) = asker.ask(|| handle.memory()) {
        usage.memory_free_mib = Some(memory.free / MIB);
        usage.memory_reserved_mib = memory.reserved.map(|bytes| bytes / MIB);
        // Older drivers count in what they keep for themselves, and so do not say what is used.
        reading.memory_used_mib = memory.reserved.map(|_| memory.used / MIB);
    }
    let compute = asker.ask(|| handle.compute_processes());
    let graphics = asker.ask(|| handle.graphics_processes());
    reading.processes = match (compute, graphics) {
        (None, None) => None,
        (compute, graphics) => Some(processes(compute.into_iter().chain(graphics).flatten())),
    };
}

/// One entry a process: one that computes and draws is in both lists, with the same memory.
fn processes(all: impl Iterator<Item = nvml::Process>) -> Vec<Process> {
    let mut by_id: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    for process in all {
        let memory = by_id.entry(process.pid).or_default();
        *memory = (*memory).max(process.memory.map(|bytes| bytes / MIB));
    }
    by_id.into_iter().map(|(pid, memory_mib)| Process { pid, memory_mib }).collect()
}

fn remapped(values: &Values<'_>) -> Option<RemappedRows> {
    let count = |id| values.of_device(id).map(|rows| u32::try_from(rows).unwrap_or(u32::MAX));
    Some(RemappedRows {
        corrected: count(fields::REMAPPED_CORRECTED)?,
        uncorrected: count(fields::REMAPPED_UNCORRECTED)?,
        pending: values.of_device(fields::REMAPPED_PENDING)? != 0,
        failed: values.of_device(fields::REMAPPED_FAILURE)? != 0,
    })
}

fn link_counts(
    asker: &mut Asker,
    handle: &nvml::Device,
    style: LinkStyle,
    link: u32,
    values: &Values<'_>,
) -> LinkCounts {
    let count = |field: Option<Field>| field.and_then(|field| values.count(field)).unwrap_or(0);
    let state = values.count(Field { id: fields::LINK_STATE, scope: link }).map(|state| state != 0);
    LinkCounts {
        link,
        // Drivers before 525 have no field for it.
        active: state.or_else(|| asker.ask(|| handle.link_active(link))).unwrap_or(false),
        replays: count(replays(style, link)),
        recoveries: count(recoveries(style, link)),
        crc_errors: crc_errors(style, link).map(|field| count(Some(field))).fold(0, u64::saturating_add),
    }
}

fn link_bytes(plan: &Plan, values: &Values<'_>) -> Option<u64> {
    let all = |id| values.count(Field { id, scope: fields::ALL_LINKS });
    if let (Some(sent), Some(received)) = (all(fields::LINK_SENT_KIB), all(fields::LINK_RECEIVED_KIB)) {
        return Some(sent.saturating_add(received).saturating_mul(1024));
    }
    let each = plan.links.iter().flat_map(|link| traffic(plan.style, *link));
    each.map(|field| values.count(field))
        .fold(None, |sum, bytes| bytes.map(|bytes| sum.unwrap_or(0).saturating_add(bytes)).or(sum))
}

fn recovery_action(number: u64) -> RecoveryAction {
    match number {
        0 => RecoveryAction::None,
        1 => RecoveryAction::ResetGpu,
        2 | 7 => RecoveryAction::RebootNode,
        3 => RecoveryAction::DrainPeerToPeer,
        4 => RecoveryAction::DrainAndReset,
        6 => RecoveryAction::ResetBus,
        other => RecoveryAction::Other(u32::try_from(other).unwrap_or(u32::MAX)),
    }
}

fn clock_limits(bits: u64) -> ClockLimits {
    let has = |bit| bits & bit != 0;
    ClockLimits {
        software_power: has(clock_bits::SOFTWARE_POWER),
        software_thermal: has(clock_bits::SOFTWARE_THERMAL),
        hardware: has(clock_bits::HARDWARE),
        hardware_thermal: has(clock_bits::HARDWARE_THERMAL),
        power_brake: has(clock_bits::POWER_BRAKE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_in_both_lists_is_one_with_the_memory_that_is_known() {
        let process = |pid, mebibytes: Option<u64>| nvml::Process { pid, memory: mebibytes.map(|count| count * MIB) };
        let all = [process(7, Some(3)), process(9, None), process(7, None)];
        let expected = [Process { pid: 7, memory_mib: Some(3) }, Process { pid: 9, memory_mib: None }];
        assert_eq!(processes(all.into_iter()), expected);
    }

    #[test]
    fn every_documented_recovery_action_is_known_but_one_that_is_of_no_node() {
        let actions: Vec<RecoveryAction> = (0..8).map(recovery_action).collect();
        assert_eq!(actions.iter().filter(|action| matches!(action, RecoveryAction::Other(_))).count(), 1);
        assert_eq!(actions[5], RecoveryAction::Other(5));
        assert_eq!(actions[6], RecoveryAction::ResetBus);
    }

    #[test]
    fn a_device_of_which_nothing_answers_is_an_error_and_one_that_needs_a_reset_says_so() {
        let refuse = |code| move || -> Result<(), Error> { Err(Error::Call { function: "f", code }) };
        let ended = |code| {
            let mut asker = Asker::default();
            asker.ask(refuse(code));
            asker.end(Sample::default())
        };
        assert!(matches!(ended(Code::UNKNOWN), Err(BackendError::Call { call: "f", .. })));
        assert!(matches!(ended(Code::UNINITIALIZED), Err(BackendError::NoDriver(_))));
        assert!(ended(Code::GPU_IS_LOST).unwrap().reading.lost);
        assert_eq!(ended(Code::RESET_REQUIRED).unwrap().reading.recovery_action, Some(RecoveryAction::ResetGpu));
    }
}
