//! Clocks, temperatures, power, load.

use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlClockId_t, nvmlClockType_t, nvmlDevice_st, nvmlDevice_t, nvmlDeviceCurrentClockFreqs_t, nvmlEnableState_t,
    nvmlEncoderSessionInfo_t, nvmlEncoderType_t, nvmlFBCSessionInfo_t, nvmlFBCStats_t, nvmlFanSpeedInfo_t,
    nvmlGpuDynamicPstatesInfo_t, nvmlGpuThermalSettings_t, nvmlMarginTemperature_t, nvmlPcieUtilCounter_t,
    nvmlPerfPolicyType_t, nvmlPowerSource_t, nvmlPstates_t, nvmlSample_t, nvmlSamplingType_t, nvmlTemperature_t,
    nvmlTemperatureSensors_t, nvmlTemperatureThresholds_t, nvmlUtilization_t, nvmlValue_t, nvmlValueType_t,
    nvmlViolationTime_t,
};

use super::pointer::{Out, array};
use super::{Call, nvml};
use crate::code::{Answer, Code};
use crate::gpu::{self, Gpu};

/// MHz now, or the highest.
pub(super) fn clock(gpu: &Gpu, kind: u32, now: Option<f64>) -> Answer<u32> {
    let clocks = &gpu.model.clocks;
    match (kind, now) {
        (0 | 1, None) => Ok(clocks.graphics.1),
        (0 | 1, Some(now)) => Ok(gpu.graphics_mhz(now)),
        (2, None) => Ok(clocks.memory.1),
        (2, Some(_)) => Ok(gpu.memory_mhz()),
        (3, None) => Ok(clocks.video.1),
        (3, Some(_)) => Ok(if gpu.activity.level() == 0.0 { clocks.video.0 } else { clocks.video.1 }),
        _ => Err(Code::INVALID_ARGUMENT),
    }
}

/// A GPU that is not divided: divided ones have no such measure.
fn whole<'a>(call: &'a Call<'_>, device: Out<nvmlDevice_st>) -> Answer<&'a Gpu> {
    let gpu = call.gpu(device)?;
    if gpu.mig.is_some() { Err(Code::NOT_SUPPORTED) } else { Ok(gpu) }
}

fn celsius(degrees: i32) -> u32 {
    u32::try_from(degrees).unwrap_or(0)
}

fn reasons(call: &Call<'_>, device: Out<nvmlDevice_st>, reasons: Out<u64>) -> Answer<()> {
    reasons.put(call.gpu(device)?.clock_reasons(call.now()))
}

fn supported_reasons(call: &Call<'_>, device: Out<nvmlDevice_st>, reasons: Out<u64>) -> Answer<()> {
    call.gpu(device)?;
    reasons.put(0x1ff)
}

fn performance_state(call: &Call<'_>, device: Out<nvmlDevice_st>, state: Out<u32>) -> Answer<()> {
    let gpu = call.gpu(device)?;
    state.put(if gpu.model.clocks.memory.0 == gpu.memory_mhz() && gpu.model.clocks.memory.1 != gpu.memory_mhz() {
        8
    } else {
        0
    })
}

/// Work of an engine that nothing uses, over the usual period.
fn unused_engine(call: &Call<'_>, device: Out<nvmlDevice_st>, share: Out<u32>, period: Out<u32>) -> Answer<()> {
    whole(call, device)?;
    share.put(0)?;
    period.put(200_000)
}

nvml! {
    fn nvmlDeviceGetTemperature(device: nvmlDevice_t, sensorType: nvmlTemperatureSensors_t, temp: *mut c_uint) |call| {
        let gpu = call.gpu(device)?;
        if sensorType != 0 {
            return Err(Code::INVALID_ARGUMENT);
        }
        temp.put(celsius(gpu.temperature(call.now())))
    }

    fn nvmlDeviceGetTemperatureV(device: nvmlDevice_t, temperature: *mut nvmlTemperature_t) |call| {
        temperature.version(1)?;
        let degrees = call.gpu(device)?.temperature(call.now());
        if temperature.get()?.sensorType != 0 {
            return Err(Code::INVALID_ARGUMENT);
        }
        temperature.edit(|temperature| temperature.temperature = degrees)
    }

    fn nvmlDeviceGetTemperatureThreshold(
        device: nvmlDevice_t, thresholdType: nvmlTemperatureThresholds_t, temp: *mut c_uint
    ) |call| {
        let heat = &call.gpu(device)?.model.heat;
        let degrees = match thresholdType {
            0 => heat.shutdown,
            1 => heat.slowdown,
            2 if heat.memory_sensor => heat.memory_maximum,
            3 => heat.gpu_maximum,
            2 | 4..=6 => return Err(Code::NOT_SUPPORTED),
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        temp.put(celsius(degrees))
    }

    fn nvmlDeviceGetMarginTemperature(device: nvmlDevice_t, marginTempInfo: *mut nvmlMarginTemperature_t) |call| {
        marginTempInfo.version(1)?;
        let gpu = call.gpu(device)?;
        let margin = gpu.model.heat.gpu_maximum - gpu.temperature(call.now());
        marginTempInfo.edit(|info| info.marginTemperature = margin)
    }

    fn nvmlDeviceGetThermalSettings(
        device: nvmlDevice_t, sensorIndex: c_uint, pThermalSettings: *mut nvmlGpuThermalSettings_t
    ) |call| {
        let gpu = call.gpu(device)?;
        if !matches!(sensorIndex, 0 | 15) {
            return Err(Code::INVALID_ARGUMENT);
        }
        let degrees = gpu.temperature(call.now());
        pThermalSettings.edit(|settings| {
            settings.count = 1;
            let sensor = &mut settings.sensor[0];
            (sensor.controller, sensor.target, sensor.currentTemp) = (1, 1, degrees);
            (sensor.defaultMinTemp, sensor.defaultMaxTemp) = (0, 127);
        })
    }

    fn nvmlDeviceGetClockInfo(device: nvmlDevice_t, type_: nvmlClockType_t, clock_: *mut c_uint) |call| {
        clock_.put(clock(call.gpu(device)?, type_, Some(call.now()))?)
    }

    fn nvmlDeviceGetMaxClockInfo(device: nvmlDevice_t, type_: nvmlClockType_t, clock_: *mut c_uint) |call| {
        clock_.put(clock(call.gpu(device)?, type_, None)?)
    }

    fn nvmlDeviceGetMaxCustomerBoostClock(device: nvmlDevice_t, clockType: nvmlClockType_t, clockMHz: *mut c_uint) |call| {
        clockMHz.put(clock(call.gpu(device)?, clockType, None)?)
    }

    fn nvmlDeviceGetApplicationsClock(device: nvmlDevice_t, clockType: nvmlClockType_t, clockMHz: *mut c_uint) |call| {
        clockMHz.put(clock(call.gpu(device)?, clockType, None)?)
    }

    fn nvmlDeviceGetDefaultApplicationsClock(
        device: nvmlDevice_t, clockType: nvmlClockType_t, clockMHz: *mut c_uint
    ) |call| {
        clockMHz.put(clock(call.gpu(device)?, clockType, None)?)
    }

    fn nvmlDeviceGetClock(
        device: nvmlDevice_t, clockType: nvmlClockType_t, clockId: nvmlClockId_t, clockMHz: *mut c_uint
    ) |call| {
        let gpu = call.gpu(device)?;
        match clockId {
            0 => clockMHz.put(clock(gpu, clockType, Some(call.now()))?),
            1..=3 => clockMHz.put(clock(gpu, clockType, None)?),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceGetSupportedMemoryClocks(device: nvmlDevice_t, count: *mut c_uint, clocksMHz: *mut c_uint) |call| {
        let (idle, highest) = call.gpu(device)?.model.clocks.memory;
        let clocks = [highest, idle];
        clocksMHz.list(count, if idle == highest { &clocks[..1] } else { &clocks })
    }

    fn nvmlDeviceGetSupportedGraphicsClocks(
        device: nvmlDevice_t, memoryClockMHz: c_uint, count: *mut c_uint, clocksMHz: *mut c_uint
    ) |call| {
        let clocks = &call.gpu(device)?.model.clocks;
        if memoryClockMHz != clocks.memory.0 && memoryClockMHz != clocks.memory.1 {
            return Err(Code::NOT_FOUND);
        }
        let (idle, highest) = clocks.graphics;
        clocksMHz.list(count, &(idle..=highest).rev().step_by(15).collect::<Vec<_>>())
    }

    fn nvmlDeviceGetCurrentClockFreqs(
        device: nvmlDevice_t, currentClockFreqs: *mut nvmlDeviceCurrentClockFreqs_t
    ) |call| {
        currentClockFreqs.version(1)?;
        let gpu = call.gpu(device)?;
        let text = format!("nvclock={}, memclock={}", gpu.graphics_mhz(call.now()), gpu.memory_mhz());
        currentClockFreqs.edit(|frequencies| frequencies.str_ = array(&text))
    }

    fn nvmlDeviceGetPerformanceState(device: nvmlDevice_t, pState: *mut nvmlPstates_t) |call| {
        performance_state(call, device, pState)
    }
    fn nvmlDeviceGetPowerState(device: nvmlDevice_t, pState: *mut nvmlPstates_t) |call| {
        performance_state(call, device, pState)
    }

    fn nvmlDeviceGetSupportedPerformanceStates(device: nvmlDevice_t, pstates: *mut nvmlPstates_t, size: c_uint) |call| {
        let memory = call.gpu(device)?.model.clocks.memory;
        let states: &[u32] = if memory.0 == memory.1 { &[0] } else { &[0, 8] };
        // The size is in bytes; places that are left say "unknown".
        for place in 0..size as usize / size_of::<u32>() {
            pstates.at(place)?.put(states.get(place).copied().unwrap_or(32))?;
        }
        if (size as usize) < size_of_val(states) { Err(Code::INSUFFICIENT_SIZE) } else { Ok(()) }
    }

    fn nvmlDeviceGetMinMaxClockOfPState(
        device: nvmlDevice_t, type_: nvmlClockType_t, pstate: nvmlPstates_t, minClockMHz: *mut c_uint,
        maxClockMHz: *mut c_uint
    ) |call| {
        let clocks = &call.gpu(device)?.model.clocks;
        if pstate != 0 {
            return Err(if pstate == 8 { Code::NOT_SUPPORTED } else { Code::INVALID_ARGUMENT });
        }
        let (idle, highest) = match type_ {
            0 | 1 => clocks.graphics,
            2 => clocks.memory,
            3 => clocks.video,
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        minClockMHz.put(idle)?;
        maxClockMHz.put(highest)
    }

    fn nvmlDeviceGetDynamicPstatesInfo(
        device: nvmlDevice_t, pDynamicPstatesInfo: *mut nvmlGpuDynamicPstatesInfo_t
    ) |call| {
        let gpu = whole(call, device)?;
        let share = gpu.utilization(call.now());
        pDynamicPstatesInfo.edit(|info| {
            info.flags = 1;
            (info.utilization[0].bIsPresent, info.utilization[0].percentage) = (1, share);
            (info.utilization[1].bIsPresent, info.utilization[1].percentage) = (1, share / 2);
        })
    }

    fn nvmlDeviceGetCurrentClocksEventReasons(device: nvmlDevice_t, clocksEventReasons: *mut c_ulonglong) |call| {
        reasons(call, device, clocksEventReasons)
    }
    fn nvmlDeviceGetCurrentClocksThrottleReasons(device: nvmlDevice_t, clocksThrottleReasons: *mut c_ulonglong) |call| {
        reasons(call, device, clocksThrottleReasons)
    }
    fn nvmlDeviceGetSupportedClocksEventReasons(
        device: nvmlDevice_t, supportedClocksEventReasons: *mut c_ulonglong
    ) |call| {
        supported_reasons(call, device, supportedClocksEventReasons)
    }
    fn nvmlDeviceGetSupportedClocksThrottleReasons(
        device: nvmlDevice_t, supportedClocksThrottleReasons: *mut c_ulonglong
    ) |call| {
        supported_reasons(call, device, supportedClocksThrottleReasons)
    }

    fn nvmlDeviceGetViolationStatus(
        device: nvmlDevice_t, perfPolicyType: nvmlPerfPolicyType_t, violTime: *mut nvmlViolationTime_t
    ) |call| {
        let gpu = call.gpu(device)?;
        let now = call.now();
        let violated = match perfPolicyType {
            0 => gpu.throttled_nanoseconds(gpu::SOFTWARE_POWER, now),
            1 => gpu.throttled_nanoseconds(gpu::HARDWARE_THERMAL, now) + gpu.throttled_nanoseconds(gpu::SOFTWARE_THERMAL, now),
            2..=5 | 10 | 11 => 0,
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        violTime.put(nvmlViolationTime_t { referenceTime: call.timestamp(), violationTime: violated })
    }

    fn nvmlDeviceGetPowerManagementMode(device: nvmlDevice_t, mode: *mut nvmlEnableState_t) |call| {
        call.gpu(device)?;
        mode.put(1)
    }

    fn nvmlDeviceGetPowerManagementLimit(device: nvmlDevice_t, limit: *mut c_uint) |call| {
        limit.put(call.gpu(device)?.model.power.limit)
    }
    fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, limit: *mut c_uint) |call| {
        limit.put(call.gpu(device)?.model.power.limit)
    }
    fn nvmlDeviceGetPowerManagementDefaultLimit(device: nvmlDevice_t, defaultLimit: *mut c_uint) |call| {
        defaultLimit.put(call.gpu(device)?.model.power.limit)
    }
    fn nvmlDeviceGetPowerManagementLimitConstraints(
        device: nvmlDevice_t, minLimit: *mut c_uint, maxLimit: *mut c_uint
    ) |call| {
        let power = &call.gpu(device)?.model.power;
        minLimit.put(power.minimum)?;
        maxLimit.put(power.maximum)
    }
    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint) |call| {
        power.put(call.gpu(device)?.milliwatts(call.now()))
    }
    fn nvmlDeviceGetPowerSource(device: nvmlDevice_t, powerSource: *mut nvmlPowerSource_t) |call| {
        call.gpu(device)?;
        powerSource.put(0)
    }
    fn nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, energy: *mut c_ulonglong) |call| {
        energy.put(call.gpu(device)?.millijoules(call.now()))
    }

    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, utilization: *mut nvmlUtilization_t) |call| {
        let share = whole(call, device)?.utilization(call.now());
        utilization.put(nvmlUtilization_t { gpu: share, memory: share / 2 })
    }
    fn nvmlDeviceGetEncoderUtilization(
        device: nvmlDevice_t, utilization: *mut c_uint, samplingPeriodUs: *mut c_uint
    ) |call| {
        unused_engine(call, device, utilization, samplingPeriodUs)
    }
    fn nvmlDeviceGetDecoderUtilization(
        device: nvmlDevice_t, utilization: *mut c_uint, samplingPeriodUs: *mut c_uint
    ) |call| {
        unused_engine(call, device, utilization, samplingPeriodUs)
    }
    fn nvmlDeviceGetJpgUtilization(device: nvmlDevice_t, utilization: *mut c_uint, samplingPeriodUs: *mut c_uint) |call| {
        unused_engine(call, device, utilization, samplingPeriodUs)
    }
    fn nvmlDeviceGetOfaUtilization(device: nvmlDevice_t, utilization: *mut c_uint, samplingPeriodUs: *mut c_uint) |call| {
        unused_engine(call, device, utilization, samplingPeriodUs)
    }
    fn nvmlDeviceGetEncoderCapacity(
        device: nvmlDevice_t, encoderQueryType: nvmlEncoderType_t, encoderCapacity: *mut c_uint
    ) |call| {
        let gpu = call.gpu(device)?;
        match encoderQueryType {
            // The data center models for training have no encoder.
            0..=2 if matches!(gpu.model.key, "l40s" | "rtx4090") => encoderCapacity.put(100),
            0..=2 => Err(Code::NOT_SUPPORTED),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }
    fn nvmlDeviceGetEncoderStats(
        device: nvmlDevice_t, sessionCount: *mut c_uint, averageFps: *mut c_uint, averageLatency: *mut c_uint
    ) |call| {
        call.gpu(device)?;
        sessionCount.put(0)?;
        averageFps.put(0)?;
        averageLatency.put(0)
    }
    fn nvmlDeviceGetEncoderSessions(
        device: nvmlDevice_t, sessionCount: *mut c_uint, sessionInfos: *mut nvmlEncoderSessionInfo_t
    ) |call| {
        call.gpu(device)?;
        sessionInfos.list(sessionCount, &[])
    }
    fn nvmlDeviceGetFBCStats(device: nvmlDevice_t, fbcStats: *mut nvmlFBCStats_t) |call| {
        call.gpu(device)?;
        fbcStats.put(nvmlFBCStats_t { sessionsCount: 0, averageFPS: 0, averageLatency: 0 })
    }
    fn nvmlDeviceGetFBCSessions(
        device: nvmlDevice_t, sessionCount: *mut c_uint, sessionInfo: *mut nvmlFBCSessionInfo_t
    ) |call| {
        call.gpu(device)?;
        sessionInfo.list(sessionCount, &[])
    }

    fn nvmlDeviceGetSamples(
        device: nvmlDevice_t, type_: nvmlSamplingType_t, lastSeenTimeStamp: c_ulonglong,
        sampleValType: *mut nvmlValueType_t, sampleCount: *mut c_uint, samples: *mut nvmlSample_t
    ) |call| {
        // The driver keeps about 120 samples, six a second.
        const KEPT: u64 = 120;
        const EVERY: u64 = 166_667;
        let gpu = call.gpu(device)?;
        let (stamp, now) = (call.timestamp(), call.now());
        if gpu.mig.is_some() && matches!(type_, 1..=4) {
            return Err(Code::NOT_SUPPORTED);
        }
        let mut found = Vec::new();
        for back in (0..KEPT).rev() {
            #[allow(clippy::cast_precision_loss, reason = "at most 20 seconds")]
            let ago = (back * EVERY) as f64 / 1e6;
            let at = stamp.saturating_sub(back * EVERY);
            if at <= lastSeenTimeStamp || ago > now {
                continue;
            }
            let value = match type_ {
                0 => gpu.milliwatts(now - ago),
                1 => gpu.utilization(now - ago),
                2 => gpu.utilization(now - ago) / 2,
                3 | 4 => 0,
                5 => gpu.graphics_mhz(now - ago),
                6 => gpu.memory_mhz(),
                7..=9 => return Err(Code::NOT_SUPPORTED),
                _ => return Err(Code::INVALID_ARGUMENT),
            };
            found.push(nvmlSample_t { timeStamp: at, sampleValue: nvmlValue_t { uiVal: value } });
        }
        sampleValType.put(1)?;
        if samples.is_null() {
            // Asked for the room that is needed.
            return sampleCount.put(KEPT as u32);
        }
        if found.is_empty() { Err(Code::NOT_FOUND) } else { samples.list(sampleCount, &found) }
    }

    fn nvmlDeviceGetFanSpeed(device: nvmlDevice_t, speed: *mut c_uint) |call| {
        let gpu = call.gpu(device)?;
        if gpu.model.fans == 0 { Err(Code::NOT_SUPPORTED) } else { speed.put(fan_percent(gpu, call.now())) }
    }
    fn nvmlDeviceGetFanSpeed_v2(device: nvmlDevice_t, fan: c_uint, speed: *mut c_uint) |call| {
        speed.put(fan_percent(with_fan(call, device, fan)?, call.now()))
    }
    fn nvmlDeviceGetTargetFanSpeed(device: nvmlDevice_t, fan: c_uint, targetSpeed: *mut c_uint) |call| {
        targetSpeed.put(fan_percent(with_fan(call, device, fan)?, call.now()))
    }
    fn nvmlDeviceGetFanSpeedRPM(device: nvmlDevice_t, fanSpeed: *mut nvmlFanSpeedInfo_t) |call| {
        fanSpeed.version(1)?;
        let gpu = with_fan(call, device, fanSpeed.get()?.fan)?;
        let percent = fan_percent(gpu, call.now());
        fanSpeed.edit(|info| info.speed = percent * 32)
    }
    fn nvmlDeviceGetMinMaxFanSpeed(device: nvmlDevice_t, minSpeed: *mut c_uint, maxSpeed: *mut c_uint) |call| {
        with_fan(call, device, 0)?;
        minSpeed.put(30)?;
        maxSpeed.put(100)
    }
    fn nvmlDeviceGetFanControlPolicy_v2(device: nvmlDevice_t, fan: c_uint, policy: *mut c_uint) |call| {
        with_fan(call, device, fan)?;
        policy.put(0)
    }
    fn nvmlDeviceGetNumFans(device: nvmlDevice_t, numFans: *mut c_uint) |call| {
        numFans.put(call.gpu(device)?.model.fans)
    }

    fn nvmlDeviceGetMaxPcieLinkGeneration(device: nvmlDevice_t, maxLinkGen: *mut c_uint) |call| {
        maxLinkGen.put(call.gpu(device)?.model.pcie_generation)
    }
    fn nvmlDeviceGetGpuMaxPcieLinkGeneration(device: nvmlDevice_t, maxLinkGenDevice: *mut c_uint) |call| {
        maxLinkGenDevice.put(call.gpu(device)?.model.pcie_generation)
    }
    fn nvmlDeviceGetCurrPcieLinkGeneration(device: nvmlDevice_t, currLinkGen: *mut c_uint) |call| {
        currLinkGen.put(call.gpu(device)?.model.pcie_generation)
    }
    fn nvmlDeviceGetMaxPcieLinkWidth(device: nvmlDevice_t, maxLinkWidth: *mut c_uint) |call| {
        call.gpu(device)?;
        maxLinkWidth.put(16)
    }
    fn nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, currLinkWidth: *mut c_uint) |call| {
        call.gpu(device)?;
        currLinkWidth.put(16)
    }
    fn nvmlDeviceGetPcieLinkMaxSpeed(device: nvmlDevice_t, maxSpeed: *mut c_uint) |call| {
        maxSpeed.put(call.gpu(device)?.model.pcie_generation)
    }
    fn nvmlDeviceGetPcieSpeed(device: nvmlDevice_t, pcieSpeed: *mut c_uint) |call| {
        pcieSpeed.put(1000 << call.gpu(device)?.model.pcie_generation)
    }
    fn nvmlDeviceGetPcieThroughput(device: nvmlDevice_t, counter: nvmlPcieUtilCounter_t, value: *mut c_uint) |call| {
        let gpu = call.gpu(device)?;
        // Over the last 20 ms, in KB a second.
        let (now, before) = (gpu.pcie_bytes(call.now()), gpu.pcie_bytes(call.now() - 0.02));
        let bytes = match counter {
            0 => now.0 - before.0.min(now.0),
            1 => now.1 - before.1.min(now.1),
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        value.put(u32::try_from(bytes * 50 / 1024).unwrap_or(u32::MAX))
    }
    fn nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, value: *mut c_uint) |call| {
        value.put(call.gpu(device)?.pcie_replays)
    }

    fn nvmlDeviceGetAdaptiveClockInfoStatus(device: nvmlDevice_t, adaptiveClockStatus: *mut c_uint) |call| {
        call.gpu(device)?;
        adaptiveClockStatus.put(1)
    }
    fn nvmlDeviceGetGpcClkVfOffset(device: nvmlDevice_t, offset: *mut c_int) |call| {
        call.gpu(device)?;
        offset.put(0)
    }
    fn nvmlDeviceGetMemClkVfOffset(device: nvmlDevice_t, offset: *mut c_int) |call| {
        call.gpu(device)?;
        offset.put(0)
    }
}

fn fan_percent(gpu: &Gpu, now: f64) -> u32 {
    30 + celsius(gpu.temperature(now) - gpu.model.heat.idle).min(70)
}

fn with_fan<'a>(call: &'a Call<'_>, device: Out<nvmlDevice_st>, fan: u32) -> Answer<&'a Gpu> {
    let gpu = call.gpu(device)?;
    match gpu.model.fans {
        0 => Err(Code::NOT_SUPPORTED),
        fans if fan < fans => Ok(gpu),
        _ => Err(Code::INVALID_ARGUMENT),
    }
}
