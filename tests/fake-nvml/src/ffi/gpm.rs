//! Counters of the hardware over the time between two samples (GPM).

use std::ffi::{CStr, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_st, nvmlDevice_t, nvmlGpmMetricsGet_t, nvmlGpmSample_st, nvmlGpmSample_t, nvmlGpmSupport_t,
};

use super::pointer::{Handle, Kind, Out, Param as _};
use super::{Call, Subject, nvml};
use crate::code::{Answer, Code};
use crate::gpu::Gpu;
use crate::node::Sample;

/// A metric: its share of full work in percent, or its rate in MiB a second at full work.
fn metric(gpu: &Gpu, id: u32) -> Option<(&'static CStr, &'static CStr, f64)> {
    let rate = f64::from(gpu.model.links.speed) * 0.2 * 1000.0 * 1000.0 / 1_048_576.0;
    let percent = |name, share| Some((name, c"%", share));
    match id {
        1 => percent(c"Graphics Util", 100.0),
        2 => percent(c"SM Util", 92.0),
        3 => percent(c"SM Occupancy", 38.0),
        4 => percent(c"Integer Util", 12.0),
        5 => percent(c"Any Tensor Util", 46.0),
        6 => percent(c"DFMA Tensor Util", 0.0),
        7 => percent(c"HMMA Tensor Util", 46.0),
        9 => percent(c"IMMA Tensor Util", 0.0),
        10 => percent(c"DRAM BW Util", 55.0),
        11 => percent(c"FP64 Util", 0.0),
        12 => percent(c"FP32 Util", 14.0),
        13 => percent(c"FP16 Util", 3.0),
        20 => Some((c"PCIe TX", c"MiB/s", 1.2e9 / 1_048_576.0)),
        21 => Some((c"PCIe RX", c"MiB/s", 2.5e9 / 1_048_576.0)),
        30..=37 => percent(c"NVDEC Util", 0.0),
        40..=47 => percent(c"NVJPG Util", 0.0),
        50 | 51 => percent(c"NVOFA Util", 0.0),
        60 | 61 => Some((c"NVLink Total", c"MiB/s", rate * f64::from(gpu.model.links.count))),
        62..=97 => Some((c"NVLink", c"MiB/s", rate)),
        _ => None,
    }
}

fn sample(
    call: &mut Call<'_>,
    device: Out<nvmlDevice_st>,
    instance: Option<u32>,
    into: Out<nvmlGpmSample_st>,
) -> Answer<()> {
    let number = Handle::of(into, Kind::Sample)?.payload;
    let (gpu, mut own) = match call.subject(device)? {
        Subject::Gpu(gpu) => (gpu, None),
        Subject::Instance(gpu, instance, _) => (gpu, Some(instance.id)),
    };
    if !gpu.model.gpm {
        return Err(Code::NOT_SUPPORTED);
    }
    if let Some(wanted) = instance {
        if !gpu.mig.iter().flatten().any(|known| known.id == wanted) {
            return Err(Code::INVALID_ARGUMENT);
        }
        own = Some(wanted);
    }
    let time = call.now();
    let taken = Sample { slot: gpu.slot, time, busy: gpu.activity.busy(time), gpu_instance: own };
    *call.state.samples.get_mut(&number).ok_or(Code::INVALID_ARGUMENT)? = Some(taken);
    Ok(())
}

fn taken<'a>(call: &'a Call<'_>, handle: nvmlGpmSample_t) -> Answer<&'a Sample> {
    // SAFETY: a handle, which is never followed.
    let number = Handle::of(unsafe { handle.take() }, Kind::Sample)?.payload;
    call.state.samples.get(&number).and_then(Option::as_ref).ok_or(Code::INVALID_ARGUMENT)
}

nvml! {
    fn nvmlGpmQueryDeviceSupport(device: nvmlDevice_t, gpmSupport: *mut nvmlGpmSupport_t) |call| {
        let supported = super::parent(call.subject(device)?).0.model.gpm;
        if gpmSupport.get()?.version != 1 {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        gpmSupport.edit(|support| support.isSupportedDevice = u32::from(supported))
    }

    fn nvmlGpmSampleAlloc(gpmSample: *mut nvmlGpmSample_t) |call| {
        let number = call.state.number();
        gpmSample.put(Handle { kind: Kind::Sample, node: call.node, payload: number }.pointer())?;
        call.state.samples.insert(number, None);
        Ok(())
    }

    fn nvmlGpmSampleFree(gpmSample: nvmlGpmSample_t) |call| {
        let number = Handle::of(gpmSample, Kind::Sample)?.payload;
        call.state.samples.remove(&number).map(|_| ()).ok_or(Code::INVALID_ARGUMENT)
    }

    fn nvmlGpmSampleGet(device: nvmlDevice_t, gpmSample: nvmlGpmSample_t) |call| {
        sample(call, device, None, gpmSample)
    }

    fn nvmlGpmMigSampleGet(device: nvmlDevice_t, gpuInstanceId: c_uint, gpmSample: nvmlGpmSample_t) |call| {
        call.gpu(device)?;
        sample(call, device, Some(gpuInstanceId), gpmSample)
    }

    fn nvmlGpmMetricsGet(metricsGet: *mut nvmlGpmMetricsGet_t) |call| {
        // The array has room for more than callers often allocate, so nothing beyond what they count is touched.
        let wanted = metricsGet.beginning::<Head>().get()?;
        if wanted.version != 1 {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let (first, second) = (taken(call, wanted.sample1)?.clone(), taken(call, wanted.sample2)?.clone());
        let limit = (size_of::<nvmlGpmMetricsGet_t>() - size_of::<Head>()) / size_of::<Metric>();
        if first.slot != second.slot || first.gpu_instance != second.gpu_instance || wanted.count as usize > limit {
            return Err(Code::INVALID_ARGUMENT);
        }
        let gpu = call.slot(first.slot)?;
        let span = second.time - first.time;
        let share = if span > 0.0 { ((second.busy - first.busy) / span).clamp(0.0, 1.0) } else { 0.0 };
        let metrics = metricsGet.beginning::<Head>().at(1)?.cast_after::<Metric>();
        for place in 0..wanted.count as usize {
            metrics.at(place)?.edit(|value| {
                let Some((name, unit, full)) = metric(gpu, value.metricId) else {
                    value.nvmlReturn = Code::INVALID_ARGUMENT.0;
                    return;
                };
                (value.nvmlReturn, value.value) = (0, full * share);
                let text = |text: &'static CStr| text.as_ptr().cast_mut();
                (value.metricInfo.shortName, value.metricInfo.longName) = (text(name), text(name));
                value.metricInfo.unit = text(unit);
            })?;
        }
        Ok(())
    }

    fn nvmlGpmQueryIfStreamingEnabled(device: nvmlDevice_t, state: *mut c_uint) |call| {
        let gpu = call.gpu(device)?;
        if gpu.model.gpm { state.put(0) } else { Err(Code::NOT_SUPPORTED) }
    }
}

type Metric = nvml_wrapper_sys::bindings::nvmlGpmMetric_t;

/// What is before the metrics.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    version: c_uint,
    count: c_uint,
    sample1: nvmlGpmSample_t,
    sample2: nvmlGpmSample_t,
}
