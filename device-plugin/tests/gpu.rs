//! The backend on a real GPU, beside nvidia-smi. `make test-gpu` runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::process::Command;
use std::time::{Duration, Instant};

use atoll_device_plugin::backend::{Backend, Device, Sample};
use atoll_device_plugin::nvidia::{HostFiles, Nvidia, Options};

/// Set by `make test-gpu`: a GPU is expected, and its absence is a failure.
const EXPECTED: &str = "ATOLL_TEST_GPU";
/// Two readings of one thing at different times differ by so much: shares of the value, and steps of the display.
const TOLERANCE: f64 = 0.02;
/// How often both are read: between the two, values move.
const ROUNDS: usize = 5;

/// None, loudly, where no GPU is expected.
fn backend(test: &str) -> Option<Nvidia> {
    if std::env::var_os(EXPECTED).is_none() {
        eprintln!("SKIPPED {test}: it needs an NVIDIA GPU; `make test-gpu` runs it on one");
        return None;
    }
    let root = HostFiles { host: "/".into(), driver: "/".into() };
    Some(Nvidia::new(Options { library: None, files: Some(root) }))
}

/// What nvidia-smi says, one line a GPU; None where it says that it does not know.
fn nvidia_smi(columns: &[&str]) -> Vec<Vec<Option<String>>> {
    let query = format!("--query-gpu={}", columns.join(","));
    let output = Command::new("nvidia-smi").args([&query, "--format=csv,noheader,nounits"]).output();
    let output = output.expect("nvidia-smi is there, as it comes with the driver");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let known = |value: &str| (!value.starts_with('[') && value != "N/A").then(|| value.to_owned());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(", ").map(|value| known(value.trim())).collect()).collect()
}

/// Devices that are whole GPUs, and their lines of nvidia-smi.
fn whole(devices: Vec<Device>, lines: &[Vec<Option<String>>]) -> Vec<(Device, Vec<Option<String>>)> {
    let line = |device: &Device| lines.iter().find(|line| line[0].as_deref() == Some(&*device.gpu)).unwrap().clone();
    devices
        .into_iter()
        .filter(|device| device.instance.is_none())
        .map(|device| (device.clone(), line(&device)))
        .collect()
}

#[test]
fn the_gpus_are_those_of_nvidia_smi() {
    let Some(mut backend) = backend("the_gpus_are_those_of_nvidia_smi") else { return };
    let driver = backend.driver().unwrap();
    let devices = backend.devices().unwrap();
    assert!(!devices.is_empty(), "no device: is every GPU divided into nothing?");
    let columns = ["uuid", "index", "name", "pci.bus_id", "memory.total", "compute_cap", "driver_version"];
    let lines = nvidia_smi(&columns);
    assert!(lines.iter().all(|line| devices.iter().any(|device| line[0].as_deref() == Some(&*device.gpu))));
    for (device, line) in whole(devices, &lines) {
        let (major, minor) = device.compute.unwrap();
        let found = [
            device.id.to_string(),
            device.index.to_string(),
            device.product.clone(),
            device.pci_address.clone(),
            device.memory_mib.to_string(),
            format!("{major}.{minor}"),
            driver.version.clone(),
        ];
        assert_eq!(found.map(Some).to_vec(), line);
        let edits = backend.prepare(std::slice::from_ref(&device)).unwrap();
        assert!(edits.device_files.contains(&format!("/dev/nvidia{}", device.minor.unwrap()).into()), "{edits:?}");
    }
}

type Value = fn(&Sample) -> Option<f64>;

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn number(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

/// Columns of nvidia-smi, the same of a sample, and the step of the display.
const MEASURED: [(&str, Value, f64); 13] = [
    ("temperature.gpu", |sample| sample.reading.temperature.map(|value| value.gpu.into()), 1.0),
    ("temperature.memory", |sample| sample.reading.temperature.and_then(|value| value.memory).map(f64::from), 1.0),
    ("power.draw", |sample| number(sample.reading.power_milliwatts).map(|milliwatts| milliwatts / 1000.0), 0.01),
    ("enforced.power.limit", |sample| number(sample.reading.power_limit_milliwatts).map(|limit| limit / 1000.0), 0.01),
    ("clocks.sm", |sample| sample.usage.sm_clock_mhz.map(f64::from), 1.0),
    ("clocks.mem", |sample| sample.usage.memory_clock_mhz.map(f64::from), 1.0),
    ("utilization.gpu", |sample| sample.usage.gpu_utilization.map(|share| share * 100.0), 1.0),
    ("utilization.memory", |sample| sample.usage.memory_utilization.map(|share| share * 100.0), 1.0),
    ("memory.used", |sample| number(sample.reading.memory_used_mib), 1.0),
    ("memory.free", |sample| number(sample.usage.memory_free_mib), 1.0),
    ("memory.reserved", |sample| number(sample.usage.memory_reserved_mib), 1.0),
    (
        "ecc.errors.corrected.volatile.total",
        |sample| sample.reading.ecc.and_then(|ecc| number(Some(ecc.corrected))),
        0.0,
    ),
    (
        "ecc.errors.uncorrected.volatile.total",
        |sample| sample.reading.ecc.and_then(|ecc| number(Some(ecc.uncorrected))),
        0.0,
    ),
];

#[test]
fn a_sample_is_within_two_percent_of_nvidia_smi() {
    let Some(mut backend) = backend("a_sample_is_within_two_percent_of_nvidia_smi") else { return };
    let columns: Vec<&str> = std::iter::once("uuid").chain(MEASURED.iter().map(|(column, _, _)| *column)).collect();
    let devices = backend.devices().unwrap();
    let mut apart: Vec<String> = Vec::new();
    for _ in 0..ROUNDS {
        // Between two readings of the other: what moved meanwhile lies between them.
        let before = whole(devices.clone(), &nvidia_smi(&columns));
        let samples: Vec<Sample> = before.iter().map(|(device, _)| backend.sample(device).unwrap()).collect();
        let after = whole(devices.clone(), &nvidia_smi(&columns));
        apart.clear();
        for (((device, before), (_, after)), sample) in before.iter().zip(&after).zip(&samples) {
            for (place, (column, value, step)) in MEASURED.iter().enumerate() {
                let read =
                    |line: &[Option<String>]| line[place + 1].as_deref().and_then(|text| text.parse::<f64>().ok());
                match (read(before), value(sample), read(after)) {
                    (Some(before), Some(value), Some(after)) => {
                        let room = before.max(after) * TOLERANCE + step;
                        if value < before.min(after) - room || value > before.max(after) + room {
                            apart.push(format!("{}: {column}: {before}, {value}, {after}", device.id));
                        }
                    }
                    (None, _, _) | (_, _, None) => {}
                    (Some(_), None, Some(_)) => apart.push(format!("{}: {column} is missing", device.id)),
                }
            }
        }
        if apart.is_empty() {
            return;
        }
    }
    panic!("{}", apart.join("\n"));
}

#[test]
fn looking_and_sampling_cost_little() {
    let Some(mut backend) = backend("looking_and_sampling_cost_little") else { return };
    let began = Instant::now();
    let devices = backend.devices().unwrap();
    let first = began.elapsed();
    let mut longest = [Duration::ZERO; 2];
    for _ in 0..20 {
        let began = Instant::now();
        backend.devices().unwrap();
        longest[0] = longest[0].max(began.elapsed());
        let began = Instant::now();
        for device in &devices {
            backend.sample(device).unwrap();
        }
        longest[1] = longest[1].max(began.elapsed());
    }
    eprintln!(
        "{} devices: first look {first:?}, longest look {:?}, longest round {:?}",
        devices.len(),
        longest[0],
        longest[1]
    );
    assert!(longest[0] + longest[1] < Duration::from_millis(500), "{longest:?}");
}

#[test]
fn waiting_for_events_works_and_nothing_comes_of_itself() {
    let Some(mut backend) = backend("waiting_for_events_works_and_nothing_comes_of_itself") else { return };
    let devices = backend.devices().unwrap();
    let mut events = backend.events(&devices).unwrap();
    assert_eq!(events.wait(Duration::from_millis(300)).unwrap(), []);
}
