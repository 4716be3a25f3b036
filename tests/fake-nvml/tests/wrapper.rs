//! nvml-wrapper, a program's usual way to NVML, on this library.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod common;

use std::time::Duration;

use common::Node;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::error::NvmlError;

#[test]
fn every_profile_answers() {
    for (spec, count) in [
        ("h100:8", 8),
        ("a100/3g.40gb,2g.20gb,1g.10gb*2:4", 4),
        ("l40s:4", 4),
        ("rtx4090:2", 2),
        ("mixed", 6),
        ("h100:16", 16),
    ] {
        let node = Node::new(spec);
        let nvml = node.nvml();
        assert_eq!(nvml.device_count().unwrap(), count, "{spec}");
        for index in 0..count {
            let gpu = nvml.device_by_index(index).unwrap();
            assert_eq!(gpu.index().unwrap(), index);
            assert_eq!(nvml.device_by_uuid(gpu.uuid().unwrap()).unwrap().index().unwrap(), index);
            let pci = gpu.pci_info().unwrap();
            assert_eq!(nvml.device_by_pci_bus_id(pci.bus_id.clone()).unwrap().index().unwrap(), index);
            let memory = gpu.memory_info().unwrap();
            assert_eq!(memory.total, memory.free + memory.used + memory.reserved);
            assert!((20..60).contains(&gpu.temperature(TemperatureSensor::Gpu).unwrap()));
            assert!(gpu.power_usage().unwrap() <= gpu.enforced_power_limit().unwrap());
            gpu.total_energy_consumption().unwrap();
            let geforce = gpu.name().unwrap().contains("GeForce");
            assert_eq!(gpu.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile).is_err(), geforce, "{spec}");
        }
    }
}

#[test]
fn commands_are_seen_by_the_next_call() {
    let mut node = Node::new("h100:2");
    let nvml = node.nvml();
    let gpu = nvml.device_by_index(1).unwrap();
    assert!(gpu.running_compute_processes().unwrap().is_empty());
    node.send("process 1 4321 2048");
    let processes = gpu.running_compute_processes().unwrap();
    assert_eq!(processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [4321]);
    assert_eq!(gpu.memory_info().unwrap().used, 2048 << 20);
    node.send("clock +600");
    assert!(gpu.utilization_rates().unwrap().gpu > 20);
    assert!(gpu.temperature(TemperatureSensor::Gpu).unwrap() > 40);
    assert_eq!(nvml.device_by_index(0).unwrap().utilization_rates().unwrap().gpu, 0);
    node.send("exit 4321");
    assert!(gpu.running_compute_processes().unwrap().is_empty());
}

#[test]
fn events_arrive_while_a_program_waits() {
    let mut node = Node::new("h100:8");
    let nvml = node.nvml();
    let set = nvml.create_event_set().unwrap();
    let gpu = nvml.device_by_index(5).unwrap();
    let set = gpu.register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();
    assert!(matches!(set.wait(20), Err(NvmlError::Timeout)));
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        node.send("xid 5 31");
        node.send("xid 4 31");
        node
    });
    let event = set.wait(10_000).unwrap();
    assert_eq!(event.device.index().unwrap(), 5);
    assert!(format!("{event:?}").contains("31"), "{event:?}");
    sender.join().unwrap();
    assert!(matches!(set.wait(20), Err(NvmlError::Timeout)));
}

#[test]
fn a_lost_gpu_is_counted_and_does_not_answer() {
    let mut node = Node::new("h100:8");
    let nvml = node.nvml();
    let gpu = nvml.device_by_index(3).unwrap();
    node.send("lost 3");
    assert_eq!(nvml.device_count().unwrap(), 8);
    assert!(matches!(gpu.temperature(TemperatureSensor::Gpu), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_index(3), Err(NvmlError::GpuLost)));
    assert!(nvml.device_by_index(4).is_ok());
    node.send("found 3");
    assert!(gpu.temperature(TemperatureSensor::Gpu).is_ok());
    node.send("unplug 0");
    assert_eq!(nvml.device_count().unwrap(), 7);
    assert_eq!(gpu.index().unwrap(), 2);
}

#[test]
fn without_a_driver_nothing_starts() {
    let mut node = Node::new("l40s:1");
    node.send("driver absent");
    assert!(matches!(node.try_nvml(), Err(NvmlError::DriverNotLoaded)));
    node.send("driver present");
    assert!(node.try_nvml().is_ok());
}
