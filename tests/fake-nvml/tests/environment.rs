//! What the environment says. Alone in its process, because the environment is one for all threads.

#![allow(clippy::unwrap_used, reason = "these are tests")]
#![allow(unsafe_code, reason = "the environment is changed before anything reads it")]

mod common;

use std::time::{Duration, Instant};

use atoll_fake_nvml::Control;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;

#[test]
fn node_control_file_and_latency_follow_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    // SAFETY: the only test of this process, before any other thread.
    unsafe {
        std::env::set_var("ATOLL_FAKE_NVML_NODE", "l40s:3 driver=550.54.14");
        std::env::set_var("ATOLL_FAKE_NVML_CONTROL", &path);
        std::env::set_var("ATOLL_FAKE_NVML_LATENCY", "recorded");
    }
    let began = Instant::now();
    let nvml = Nvml::builder().lib_path(common::library().as_os_str()).init().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(12));
    assert_eq!(nvml.device_count().unwrap(), 3);
    assert_eq!(nvml.sys_driver_version().unwrap(), "550.54.14");
    let gpu = nvml.device_by_index(2).unwrap();
    let began = Instant::now();
    for _ in 0..100 {
        gpu.temperature(TemperatureSensor::Gpu).unwrap();
    }
    let took = began.elapsed();
    assert!((6..200).contains(&took.as_millis()), "{took:?}");
    // The file comes later, and names other GPUs.
    let mut control = Control::create(&path, "h100:5").unwrap();
    assert_eq!(nvml.device_count().unwrap(), 5);
    control.send("unplug 0").unwrap();
    assert_eq!(nvml.device_count().unwrap(), 4);
}
