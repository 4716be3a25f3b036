//! How long calls take, where ATOLL_FAKE_NVML_LATENCY=recorded asks for it.
//!
//! These are estimates of the order of magnitude on a node with persistence mode, not a recording of one machine:
//! values that the library keeps cost nothing, one question to the driver some ten microseconds, those that the GPU's own
//! processor answers hundreds.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Microseconds by the beginning of the function's name, the first that fits.
const TABLE: &[(&str, u64)] = &[
    ("nvmlInit", 12_000),
    ("nvmlShutdown", 1_500),
    ("nvmlErrorString", 0),
    ("nvmlEventSet", 0),
    ("nvmlSystem", 1),
    ("nvmlGpmMetricsGet", 20),
    ("nvmlGpmSampleAlloc", 2),
    ("nvmlGpmSampleFree", 2),
    ("nvmlGpmSampleGet", 900),
    ("nvmlGpmMigSampleGet", 900),
    ("nvmlDeviceGetCount", 1),
    ("nvmlDeviceGetHandleBy", 40),
    ("nvmlDeviceGetName", 1),
    ("nvmlDeviceGetUUID", 1),
    ("nvmlDeviceGetIndex", 1),
    ("nvmlDeviceGetMinorNumber", 1),
    ("nvmlDeviceGetSerial", 1),
    ("nvmlDeviceGetPciInfo", 1),
    ("nvmlDeviceGetCudaComputeCapability", 1),
    ("nvmlDeviceGetArchitecture", 1),
    ("nvmlDeviceGetBrand", 1),
    ("nvmlDeviceGetTopology", 150),
    ("nvmlDeviceGetP2PStatus", 150),
    ("nvmlDeviceGetUtilizationRates", 90),
    ("nvmlDeviceGetSamples", 250),
    ("nvmlDeviceGetPowerUsage", 150),
    ("nvmlDeviceGetTotalEnergyConsumption", 150),
    ("nvmlDeviceGetTemperature", 60),
    ("nvmlDeviceGetClock", 60),
    ("nvmlDeviceGetMemoryInfo", 50),
    ("nvmlDeviceGetFieldValues", 400),
    ("nvmlDeviceGetComputeRunningProcesses", 300),
    ("nvmlDeviceGetGraphicsRunningProcesses", 300),
    ("nvmlDeviceGetMPSComputeRunningProcesses", 300),
    ("nvmlDeviceGetProcessUtilization", 300),
    ("nvmlDeviceGetPcieThroughput", 20_000),
    ("nvmlDeviceGetTotalEccErrors", 120),
    ("nvmlDeviceGetMemoryErrorCounter", 120),
    ("nvmlDeviceGetSramEccErrorStatus", 120),
    ("nvmlDeviceGetRemappedRows", 120),
    ("nvmlDeviceGetRetiredPages", 120),
    ("nvmlDeviceGetNvLink", 25),
    ("nvmlDevice", 30),
    ("nvml", 10),
];

/// How long a function takes.
fn typical(function: &str) -> Duration {
    let row = TABLE.iter().find(|(beginning, _)| function.starts_with(beginning));
    Duration::from_micros(row.map_or(0, |(_, microseconds)| *microseconds))
}

/// Returns when a call that began at `began` has taken its time. Short times are spent in a loop, as the driver's way
/// through the kernel costs them too; longer ones asleep.
pub(crate) fn spend(function: &str, began: Instant) {
    static RECORDED: OnceLock<bool> = OnceLock::new();
    if !RECORDED.get_or_init(|| std::env::var("ATOLL_FAKE_NVML_LATENCY").is_ok_and(|value| value == "recorded")) {
        return;
    }
    let until = began + typical(function);
    let left = until.saturating_duration_since(Instant::now());
    if left >= Duration::from_micros(50) {
        std::thread::sleep(left);
    }
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_that_fits_counts() {
        for (function, microseconds) in [
            ("nvmlDeviceGetName", 1),
            ("nvmlDeviceGetMemoryInfo_v2", 50),
            ("nvmlEventSetWait_v2", 0),
            ("nvmlUnitGetCount", 10),
        ] {
            assert_eq!(typical(function), Duration::from_micros(microseconds), "{function}");
        }
    }
}
