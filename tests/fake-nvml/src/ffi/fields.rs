//! Field values: one call for many numbers.

use std::ffi::c_int;

use nvml_wrapper_sys::bindings::{nvmlDevice_st, nvmlDevice_t, nvmlFieldValue_t, nvmlValue_t};

use super::pointer::Out;
use super::{Call, nvml};
use crate::code::{Answer, Code};
use crate::gpu::{self, Gpu, Link};

/// A number and its type.
#[derive(Clone, Copy)]
enum Number {
    Unsigned(u32),
    Long(u64),
    Signed(i32),
}

use Number::{Long, Signed, Unsigned};

/// All links together.
const ALL: u32 = u32::MAX;

/// Drivers from 580.82 on number the fields 251 to 273 otherwise than those before. The number that those before use.
fn number_before_580_82(id: u32, driver: (u32, u32)) -> u32 {
    if driver < (580, 82) {
        return id;
    }
    match id {
        251..=268 => id + 5,
        269..=273 => id - 18,
        other => other,
    }
}

/// One counter of one link or the sum over all.
fn links(gpu: &Gpu, number: u32, counter: impl Fn(&Link) -> u64) -> Answer<Number> {
    if gpu.links.is_empty() {
        return Err(Code::NOT_SUPPORTED);
    }
    if number == ALL {
        return Ok(Long(gpu.links.iter().map(counter).sum()));
    }
    Ok(Long(counter(super::links::link(gpu, number)?)))
}

/// A field of the old kind, one for each of the first twelve links and one for the sum: which link is meant.
fn old_link(id: u32, first: u32, total: u32, second: u32) -> Option<u32> {
    match id {
        _ if id == total => Some(ALL),
        _ if (first..first + 6).contains(&id) => Some(id - first),
        _ if (second..second + 6).contains(&id) => Some(id - second + 6),
        _ => None,
    }
}

fn ecc(gpu: &Gpu, id: u32) -> Answer<Number> {
    if !gpu.model.ecc {
        return Err(Code::NOT_SUPPORTED);
    }
    Ok(match id {
        1 | 2 => Unsigned(1),
        3 => Long(gpu.volatile.total(false)),
        4 => Long(gpu.volatile.total(true)),
        5 => Long(gpu.aggregate.total(false)),
        6 => Long(gpu.aggregate.total(true)),
        9 => Long(gpu.volatile.corrected_sram),
        10 => Long(gpu.volatile.uncorrected_sram),
        11 => Long(gpu.volatile.corrected_dram),
        12 => Long(gpu.volatile.uncorrected_dram),
        20 => Long(gpu.aggregate.corrected_sram),
        21 => Long(gpu.aggregate.uncorrected_sram),
        22 => Long(gpu.aggregate.corrected_dram),
        23 => Long(gpu.aggregate.uncorrected_dram),
        29 => Unsigned(u32::try_from(gpu.retired[0].len()).unwrap_or(u32::MAX)),
        30 => Unsigned(u32::try_from(gpu.retired[1].len()).unwrap_or(u32::MAX)),
        31 => Unsigned(u32::from(gpu.retirement_pending)),
        92 => Unsigned(u32::from(gpu.retirement_pending && !gpu.retired[0].is_empty())),
        93 => Unsigned(u32::from(gpu.retirement_pending && !gpu.retired[1].is_empty())),
        142 => Unsigned(gpu.remap.corrected),
        143 => Unsigned(gpu.remap.uncorrected),
        144 => Unsigned(u32::from(gpu.remap.pending)),
        145 => Unsigned(u32::from(gpu.remap.failed)),
        _ => return Err(Code::NOT_SUPPORTED),
    })
}

/// What concerns links; None: it is another field.
fn link_field(gpu: &Gpu, id: u32, scope: u32, now: f64) -> Option<Answer<Number>> {
    let model = &gpu.model.links;
    let bytes = gpu.link_kib(now) * 1024;
    let here = |number: Number| super::links::link(gpu, scope).map(|_| number);
    if let Some(number) = old_link(id, 32, 38, 96) {
        return Some(links(gpu, number, |link| link.crc_flit));
    }
    if let Some(number) = old_link(id, 39, 45, 102) {
        return Some(links(gpu, number, |link| link.crc_data));
    }
    if let Some(number) = old_link(id, 46, 52, 108) {
        return Some(links(gpu, number, |link| link.replays));
    }
    if let Some(number) = old_link(id, 53, 59, 114) {
        return Some(links(gpu, number, |link| link.recoveries));
    }
    if let Some(number) = old_link(id, 84, 90, 132) {
        let first = if number == ALL { 0 } else { number };
        return Some(super::links::link(gpu, first).map(|_| Unsigned(model.speed)));
    }
    Some(match id {
        91 if gpu.links.is_empty() => Err(Code::NOT_SUPPORTED),
        91 => Ok(Unsigned(model.count)),
        138 | 139 => links(gpu, scope, |link| if link.active { bytes / 1024 } else { 0 }),
        140 | 141 => links(gpu, scope, |link| if link.active { bytes / 1024 / 16 * 17 } else { 0 }),
        147 if model.to == crate::model::LinkEnd::Switches => {
            Ok(Unsigned(u32::try_from(gpu.links.iter().filter(|link| link.active).count()).unwrap_or_default()))
        }
        148..=159 => links(gpu, id - 148, |link| link.ecc),
        160 => links(gpu, ALL, |link| link.ecc),
        161 => links(gpu, scope, |link| link.replays),
        162 => links(gpu, scope, |link| link.recoveries),
        163 => links(gpu, scope, |link| link.crc_flit),
        164 => here(Unsigned(model.speed)),
        165 => super::links::link(gpu, scope).map(|link| Unsigned(u32::from(link.active))),
        166 => here(Unsigned(model.version)),
        167 => here(Unsigned(0)),
        // Counters of the fifth generation of links, which no model here has.
        60..=73 | 120..=131 | 146 | 147 | 168 | 200..=225 | 235..=250 => Err(Code::NOT_SUPPORTED),
        _ => return None,
    })
}

fn field(call: &Call<'_>, gpu: &Gpu, id: u32, scope: u32) -> Answer<Number> {
    let now = call.now();
    let id = number_before_580_82(id, call.world().driver_version());
    if let Some(found) = link_field(gpu, id, scope, now) {
        return found;
    }
    let (heat, power) = (&gpu.model.heat, &gpu.model.power);
    Ok(match id {
        1..=31 | 92 | 93 | 142..=145 => return ecc(gpu, id),
        74 => Long(gpu.throttled_nanoseconds(gpu::SOFTWARE_POWER, now)),
        75 => Long(gpu.throttled_nanoseconds(gpu::HARDWARE_THERMAL, now)),
        76..=81 => Long(0),
        82 => Unsigned(
            gpu.memory_temperature(now)
                .map(|degrees| u32::try_from(degrees).unwrap_or(0))
                .ok_or(Code::NOT_SUPPORTED)?,
        ),
        83 | 191 => Long(gpu.millijoules(now)),
        94 => Unsigned(gpu.pcie_replays),
        95 | 169 | 173..=183 => Unsigned(0),
        170 => Unsigned(0),
        184 | 199 => Unsigned(u32::from(gpu.model.mig.is_some())),
        185 | 186 if scope == 0 => Unsigned(gpu.milliwatts(now)),
        187 if scope == 0 => Unsigned(power.minimum),
        188 if scope == 0 => Unsigned(power.maximum),
        189 | 190 | 192 if scope == 0 => Unsigned(power.limit),
        // Distances to the highest temperature for work: what is above it is negative.
        193 => Signed(heat.gpu_maximum - heat.shutdown),
        194 => Signed(heat.gpu_maximum - heat.slowdown),
        195 if heat.memory_sensor => Signed(0),
        196 => Signed(0),
        197 => Long(gpu.pcie_bytes(now).0),
        198 => Long(gpu.pcie_bytes(now).1),
        230 => Unsigned(gpu.recovery),
        251 => Long(gpu.throttled_nanoseconds(gpu::SOFTWARE_THERMAL, now)),
        252 => Long(gpu.throttled_nanoseconds(gpu::HARDWARE_THERMAL, now)),
        253 => Long(gpu.throttled_nanoseconds(gpu::POWER_BRAKE, now)),
        171 | 172 | 185..=190 | 192 | 195 | 226..=229 | 231..=234 | 254..=300 => return Err(Code::NOT_SUPPORTED),
        _ => return Err(Code::INVALID_ARGUMENT),
    })
}

fn all(call: &Call<'_>, device: Out<nvmlDevice_st>, count: c_int, values: Out<nvmlFieldValue_t>) -> Answer<()> {
    let gpu = call.gpu(device)?;
    let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Code::INVALID_ARGUMENT)?;
    let stamp = i64::try_from(call.timestamp()).unwrap_or_default();
    for place in 0..count {
        values.at(place)?.edit(|value| {
            (value.timestamp, value.latencyUsec) = (stamp, 0);
            match field(call, gpu, value.fieldId, value.scopeId) {
                Ok(number) => {
                    value.nvmlReturn = 0;
                    // The longest member first, so that no byte of the union is left as it was.
                    value.value = nvmlValue_t { ullVal: 0 };
                    match number {
                        Unsigned(number) => (value.valueType, value.value.uiVal) = (1, number),
                        Long(number) => (value.valueType, value.value.ullVal) = (3, number),
                        Signed(number) => (value.valueType, value.value.siVal) = (5, number),
                    }
                }
                Err(code) => value.nvmlReturn = code.0,
            }
        })?;
    }
    Ok(())
}

nvml! {
    fn nvmlDeviceGetFieldValues(device: nvmlDevice_t, valuesCount: c_int, values: *mut nvmlFieldValue_t) |call| {
        all(call, device, valuesCount, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_drivers_number_some_fields_otherwise() {
        for (id, driver, before) in [
            (252, (570, 86), 252),
            (252, (580, 65), 252),
            (270, (580, 82), 252),
            (270, (590, 1), 252),
            (251, (580, 95), 256),
            (268, (580, 95), 273),
            (230, (580, 95), 230),
        ] {
            assert_eq!(number_before_580_82(id, driver), before, "{id} {driver:?}");
        }
    }
}
