//! The backend for NVIDIA's GPUs over the fake library.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod node;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use atoll_core::device::{EccCounts, Fault, Process, RecoveryAction, RemappedRows};
use atoll_device_plugin::backend::{Backend, BackendError, Bus, Device, Sample, Subject};
use atoll_device_plugin::nvidia::{HostFiles, Nvidia, Options};
use node::{Node, backend, next, on};

fn gpu(device: &Device) -> Subject {
    Subject::Gpu(device.gpu.clone())
}

fn instance(device: &Device) -> Subject {
    Subject::Instance(device.id.clone())
}

fn sample(node: &mut Node, place: usize) -> Sample {
    let device = node.devices()[place].clone();
    node.backend.sample(&device).unwrap()
}

#[test]
fn a_gpu_is_described_as_the_driver_has_it() {
    on("a_gpu_is_described_as_the_driver_has_it", "mixed", |node| {
        let world = node.world();
        let devices = node.devices();
        assert!(devices.windows(2).all(|pair| pair[0].index <= pair[1].index));
        for (index, expected) in world.present().enumerate() {
            let found: Vec<&Device> = devices.iter().filter(|device| *device.gpu == *expected.uuid).collect();
            assert_eq!(
                found.len(),
                expected.mig.as_ref().map_or(1, |instances| instances.iter().map(|one| one.compute.len()).sum())
            );
            for device in found {
                assert_eq!(device.index as usize, index);
                assert_eq!((device.minor, device.numa), (Some(expected.slot), Some(expected.numa())));
                let compute = expected.model.compute;
                assert_eq!(device.compute, Some((compute.0.unsigned_abs(), compute.1.unsigned_abs())));
                assert_eq!((&*device.product, device.lost), (expected.model.name, false));
                assert_eq!(device.pci_address, format!("{:08X}:{:02X}:00.0", expected.pci().0, expected.pci().1));
                if device.instance.is_none() {
                    assert_eq!(device.memory_mib, expected.model.memory_mib);
                }
            }
        }
        assert_eq!(node.devices(), devices);
    });
}

#[test]
fn gpus_behind_switches_have_all_their_links_to_each_other() {
    on("gpus_behind_switches_have_all_their_links_to_each_other", "h100:8", |node| {
        for device in node.devices() {
            assert_eq!(device.links.len(), 7);
            assert!(device.links.iter().all(|link| link.nvlinks == 18), "{:?}", device.links);
            let near = device.links.iter().filter(|link| link.bus <= Bus::Multiple).count();
            assert!(near < 7 && device.links.iter().any(|link| link.bus == Bus::System), "{:?}", device.links);
        }
    });
}

#[test]
fn gpus_without_nvlink_are_told_apart_by_the_bus() {
    on("gpus_without_nvlink_are_told_apart_by_the_bus", "l40s:8", |node| {
        let devices = node.devices();
        assert!(devices.iter().all(|device| device.links.iter().all(|link| link.nvlinks == 0)));
        let ways: BTreeSet<Bus> = devices[0].links.iter().map(|link| link.bus).collect();
        assert!(ways.len() > 1, "{ways:?}");
        for device in &devices {
            for link in &device.links {
                let back = devices.iter().find(|other| other.id == link.to).unwrap();
                assert_eq!(back.links.iter().find(|back| back.to == device.id).unwrap().bus, link.bus);
            }
        }
    });
}

#[test]
fn sixteen_gpus_are_listed_in_the_drivers_order() {
    on("sixteen_gpus_are_listed_in_the_drivers_order", "h100:16", |node| {
        let uuids: Vec<String> = node.world().present().map(|gpu| gpu.uuid.clone()).collect();
        let found: Vec<String> = node.devices().iter().map(|device| device.id.to_string()).collect();
        assert_eq!(found, uuids);
    });
}

#[test]
fn instances_take_the_place_of_a_divided_gpu() {
    on("instances_take_the_place_of_a_divided_gpu", "a100/3g.40gb,2g.20gb,1g.10gb*2:2", |node| {
        let devices = node.devices();
        assert_eq!(devices.len(), 8);
        let profiles = |gpu: &str| -> Vec<String> {
            let of_gpu = devices.iter().filter(|device| *device.gpu == *gpu);
            let mut profiles: Vec<String> = of_gpu.map(|device| device.instance.clone().unwrap().profile).collect();
            profiles.sort();
            profiles
        };
        for expected in node.world().present() {
            assert_eq!(profiles(&expected.uuid), ["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"]);
            for one in expected.mig.iter().flatten() {
                let id = &one.compute[0].uuid;
                let device = devices.iter().find(|device| *device.id == **id).unwrap();
                let instance = device.instance.as_ref().unwrap();
                assert_eq!((instance.gpu_instance, instance.compute_instance), (one.id, one.compute[0].id));
                assert_eq!(device.memory_mib, one.profile.memory_mib);
            }
        }
        assert!(devices.windows(2).all(|pair| {
            let order = |device: &Device| {
                let instance = device.instance.clone().unwrap();
                (device.index, instance.gpu_instance, instance.compute_instance)
            };
            order(&pair[0]) < order(&pair[1])
        }));
    });
}

#[test]
fn a_sample_says_what_the_gpu_says() {
    on("a_sample_says_what_the_gpu_says", "h100:2", |node| {
        node.send("process 1 4321 2048");
        node.send("process 1 4322 512 graphics");
        node.send("clock +600");
        for command in ["ecc 1 corrected 5", "ecc 1 uncorrected 2", "remap 1 corrected 3", "remap 1 pending"] {
            node.send(command);
        }
        for command in ["nvlink 1 3 replays 7", "nvlink 1 3 recoveries 2", "nvlink 1 4 down", "pcie-replays 1 9"] {
            node.send(command);
        }
        for command in ["throttle 1 hw-thermal", "recovery 1 drain-and-reset"] {
            node.send(command);
        }
        let now = node.stop_clock();
        let world = node.world();
        let expected = &world.gpus[1];
        let Sample { reading, usage } = sample(node, 1);
        assert!(!reading.lost);
        assert_eq!(reading.recovery_action, Some(RecoveryAction::DrainAndReset));
        assert_eq!(reading.ecc, Some(EccCounts { corrected: 5, uncorrected: 2 }));
        assert_eq!(reading.sram_threshold_exceeded, Some(false));
        let remapped = RemappedRows { corrected: 3, uncorrected: 0, pending: true, failed: false };
        assert_eq!(reading.remapped, Some(remapped));
        assert_eq!(reading.links.len(), 18);
        assert_eq!((reading.links[3].replays, reading.links[3].recoveries), (7, 2));
        let inactive: Vec<u32> = reading.links.iter().filter(|link| !link.active).map(|link| link.link).collect();
        assert_eq!(inactive, [4]);
        let temperature = reading.temperature.unwrap();
        assert_eq!(temperature.gpu, expected.temperature(now));
        assert_eq!(temperature.memory, expected.memory_temperature(now));
        assert!(temperature.slowdown.unwrap() < temperature.shutdown.unwrap());
        assert!(temperature.slowdown.unwrap() > temperature.gpu);
        let limits = reading.clock_limits.unwrap();
        assert!(limits.hardware && limits.hardware_thermal && !limits.software_thermal && !limits.power_brake);
        assert_eq!(reading.power_milliwatts, Some(expected.milliwatts(now).into()));
        assert_eq!(reading.power_limit_milliwatts, Some(expected.model.power.limit.into()));
        let processes =
            vec![Process { pid: 4321, memory_mib: Some(2048) }, Process { pid: 4322, memory_mib: Some(512) }];
        assert_eq!(reading.processes, Some(processes));
        assert_eq!(reading.memory_used_mib, Some(2560));

        assert_eq!(usage.sm_clock_mhz, Some(expected.graphics_mhz(now)));
        assert_eq!(usage.memory_clock_mhz, Some(expected.memory_mhz()));
        assert_eq!(usage.energy_millijoules, Some(expected.millijoules(now)));
        assert_eq!(usage.gpu_utilization, Some(f64::from(expected.utilization(now)) / 100.0));
        assert_eq!(usage.memory_reserved_mib, Some(expected.model.reserved_mib));
        let free = expected.model.memory_mib - expected.model.reserved_mib - 2560;
        assert_eq!(usage.memory_free_mib, Some(free));
        assert_eq!(usage.pcie_replays, Some(9));
        assert!(usage.nvlink_bytes.unwrap() > 0);
        assert!(usage.encoder_utilization.is_some() && usage.decoder_utilization.is_some());
    });
}

#[test]
fn a_virtual_gpu_says_whether_it_has_its_license() {
    on("a_virtual_gpu_says_whether_it_has_its_license", "l40s:2", |node| {
        node.send("license 1 off");
        assert_eq!(sample(node, 0).usage.vgpu_licensed, Some(false));
        assert_eq!(sample(node, 1).usage.vgpu_licensed, Some(false));
        node.send("license 1 on");
        assert_eq!(sample(node, 1).usage.vgpu_licensed, Some(true));
    });
}

#[test]
fn every_profile_gives_samples_and_leaves_out_what_it_cannot_say() {
    for spec in ["h100:1", "a100:1", "l40s:1", "rtx4090:1"] {
        on("every_profile_gives_samples_and_leaves_out_what_it_cannot_say", spec, |node| {
            let model = node.world().gpus[0].model;
            let Sample { reading, usage } = sample(node, 0);
            assert_eq!(reading.ecc.is_some(), model.ecc);
            assert_eq!(reading.remapped.is_some(), model.ecc);
            assert_eq!(reading.links.is_empty(), usage.nvlink_bytes.is_none());
            assert!(reading.links.iter().all(|link| link.active));
            assert!(reading.temperature.unwrap().slowdown.is_some());
            assert_eq!(reading.processes, Some(Vec::new()));
            assert_eq!(reading.memory_used_mib, Some(0));
            assert_eq!(usage.profile, None);
        });
    }
}

#[test]
fn counters_of_the_hardware_need_a_sample_before() {
    on("counters_of_the_hardware_need_a_sample_before", "h100:1", |node| {
        node.send("load 0 60");
        assert_eq!(sample(node, 0).usage.profile, None);
        // NVML refreshes them every 100 ms: one that is asked sooner would measure nothing.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(120) {
            std::thread::yield_now();
        }
        node.send("clock +60");
        let profile = sample(node, 0).usage.profile.unwrap();
        assert!((0.2..=1.0).contains(&profile.graphics_active.unwrap()), "{profile:?}");
        assert!((0.0..=1.0).contains(&profile.dram_active.unwrap()), "{profile:?}");
        assert!(profile.pcie_received.unwrap() > 1e6, "{profile:?}");
    });
}

#[test]
fn an_instance_has_its_own_memory_and_processes_and_the_rest_from_its_gpu() {
    on("an_instance_has_its_own_memory_and_processes_and_the_rest_from_its_gpu", "a100/3g.40gb,2g.20gb:1", |node| {
        let devices = node.devices();
        let ids = devices[0].instance.clone().unwrap();
        node.send(&format!("process 0 77 1024 gi={} ci={}", ids.gpu_instance, ids.compute_instance));
        node.send("temperature 0 61");
        node.stop_clock();
        let samples = [sample(node, 0), sample(node, 1)];
        let processes = |place: usize| samples[place].reading.processes.clone().unwrap();
        assert_eq!(processes(0), [Process { pid: 77, memory_mib: Some(1024) }]);
        assert_eq!(processes(1), []);
        assert_eq!(samples[0].reading.memory_used_mib, Some(1024));
        assert_eq!(samples[1].reading.memory_used_mib, Some(0));
        for sample in samples {
            assert_eq!(sample.reading.temperature.unwrap().gpu, 61);
            assert!(sample.reading.ecc.is_some() && sample.usage.energy_millijoules.is_some());
            assert_eq!(sample.usage.gpu_utilization, None);
        }
        // Asked again, an instance hears what is now, not what its neighbour heard.
        node.send("temperature 0 62");
        assert_eq!(sample(node, 0).reading.temperature.unwrap().gpu, 62);
        assert_eq!(sample(node, 1).reading.temperature.unwrap().gpu, 62);
    });
}

#[test]
fn events_reach_the_gpu_or_the_instance_that_they_name() {
    on("events_reach_the_gpu_or_the_instance_that_they_name", "h100:1+a100/3g.40gb,2g.20gb:1", |node| {
        let devices = node.devices();
        let mut events = node.events();
        let ids = devices[1].instance.clone().unwrap();
        node.send("xid 0 31");
        assert_eq!(next(&mut *events), [(gpu(&devices[0]), Fault::Xid(31))]);
        node.send(&format!("xid 1 94 gi={} ci={}", ids.gpu_instance, ids.compute_instance));
        assert_eq!(next(&mut *events), [(instance(&devices[1]), Fault::Xid(94))]);
        node.send("xid 1 79");
        assert_eq!(next(&mut *events), [(gpu(&devices[2]), Fault::Xid(79))]);
        for (bit, fault) in
            [(0x200, Fault::EccStorm), (0x4000, Fault::Unavailable), (0x8000, Fault::RecoveryActionChanged)]
        {
            node.send(&format!("event 0 {bit}"));
            assert_eq!(next(&mut *events), [(gpu(&devices[0]), fault)]);
        }
        assert_eq!(events.wait(Duration::from_millis(20)).unwrap(), []);
    });
}

#[test]
fn events_that_came_together_are_given_together() {
    on("events_that_came_together_are_given_together", "h100:8", |node| {
        let mut events = node.events();
        for index in 0..8 {
            node.send(&format!("xid {index} {}", 40 + index));
        }
        let found: Vec<Fault> = next(&mut *events).into_iter().map(|(_, fault)| fault).collect();
        assert_eq!(found, (40..48).map(Fault::Xid).collect::<Vec<_>>());
    });
}

#[test]
fn one_lost_gpu_of_eight_leaves_seven_and_comes_back() {
    on("one_lost_gpu_of_eight_leaves_seven_and_comes_back", "h100:8", |node| {
        let before = node.devices();
        let mut events = node.events();
        node.send("lost 3");
        let devices = node.devices();
        assert_eq!(devices.len(), 8);
        for (now, then) in devices.iter().zip(&before) {
            assert_eq!(now, &Device { lost: now.index == 3, ..then.clone() });
            assert_eq!(node.backend.sample(now).unwrap().reading.lost, now.index == 3);
        }
        // Whatever the wait says of the lost one, the others are heard.
        node.send("xid 5 31");
        let heard = (0..3).any(|_| next(&mut *events).contains(&(gpu(&before[5]), Fault::Xid(31))));
        assert!(heard);
        // A set that is made now does without it.
        let mut events = node.backend.events(&devices).unwrap();
        node.send("xid 6 43");
        assert!((0..3).any(|_| next(&mut *events).contains(&(gpu(&before[6]), Fault::Xid(43)))));
        node.send("found 3");
        assert_eq!(node.devices(), before);
        // And takes it in again.
        assert_eq!(events.wait(Duration::from_millis(20)).unwrap(), []);
        node.send("xid 3 31");
        assert!((0..3).any(|_| next(&mut *events).contains(&(gpu(&before[3]), Fault::Xid(31)))));
        assert!(!sample(node, 3).reading.lost);
    });
}

#[test]
fn a_gpu_that_was_never_reached_is_listed_without_a_name() {
    on("a_gpu_that_was_never_reached_is_listed_without_a_name", "h100:2", |node| {
        node.send("lost 1");
        let devices = node.devices();
        assert_eq!(devices.len(), 2);
        assert!(devices[1].lost && !devices[0].lost);
        assert!(node.backend.sample(&devices[1]).unwrap().reading.lost);
        node.send("found 1");
        let uuid = node.world().gpus[1].uuid.clone();
        let devices = node.devices();
        assert_eq!((&*devices[1].id, devices[1].lost), (&*uuid, false));
        assert!(devices[1].memory_mib > 0 && devices[1].links[0].nvlinks == 18 && devices[0].links[0].nvlinks == 18);
    });
}

#[test]
fn the_driver_may_go_and_come_back_in_another_version() {
    on("the_driver_may_go_and_come_back_in_another_version", "h100:2", |node| {
        let before = node.devices();
        let first = node.backend.driver().unwrap();
        assert!(first.cuda.is_some());
        let mut events = node.events();
        for state in ["driver absent", "driver mismatch"] {
            node.send(state);
            assert!(matches!(node.backend.devices(), Err(BackendError::NoDriver(_))), "{state}");
            assert!(matches!(node.backend.sample(&before[0]), Err(BackendError::NoDriver(_))), "{state}");
            assert!(matches!(node.backend.driver(), Err(BackendError::NoDriver(_))), "{state}");
        }
        assert!(matches!(events.wait(Duration::from_secs(5)), Err(BackendError::NoDriver(_))));
        assert!(matches!(events.wait(Duration::from_secs(5)), Err(BackendError::NoDriver(_))));
        node.send("driver 570.86.15");
        node.send("driver present");
        assert_eq!(node.backend.driver().unwrap().version, "570.86.15");
        assert_eq!(node.devices(), before);
        assert!(!sample(node, 0).reading.lost);
        let mut events = node.events();
        node.send("xid 0 31");
        assert_eq!(next(&mut *events), [(gpu(&before[0]), Fault::Xid(31))]);
    });
}

#[test]
fn no_library_is_no_driver() {
    let mut backend = Nvidia::new(Options { library: Some("/nowhere/libnvidia-ml.so.1".into()), files: None });
    assert!(matches!(backend.devices(), Err(BackendError::NoDriver(_))));
    // A library that is not NVML lacks its functions, which is no reason to crash.
    let mut backend = Nvidia::new(Options { library: Some("libc.so.6".into()), files: None });
    assert!(matches!(backend.devices(), Err(BackendError::NoDriver(_))));
}

#[test]
fn gpus_and_instances_change_without_a_restart() {
    on("gpus_and_instances_change_without_a_restart", "h100:2+a100/3g.40gb:1", |node| {
        let before = node.devices();
        node.send("mig 2 1g.10gb*2");
        let devices = node.devices();
        assert_eq!(devices.len(), 4);
        assert!(devices[2..].iter().all(|device| device.instance.as_ref().unwrap().profile == "1g.10gb"));
        assert!(matches!(node.backend.sample(&before[2]), Err(BackendError::Unknown(id)) if id == before[2].id));
        node.send("mig 2 off");
        let devices = node.devices();
        assert_eq!(devices.len(), 3);
        assert_eq!((&devices[2].id, devices[2].instance.is_none()), (&before[2].gpu, true));
        node.send("unplug 0");
        let devices = node.devices();
        assert_eq!(devices.len(), 2);
        assert_eq!((&devices[0].id, devices[0].index), (&before[1].id, 0));
        assert!(devices[0].links.iter().all(|link| link.to != before[0].id));
        node.send("plug 0");
        let devices = node.devices();
        assert_eq!(
            (&devices[0], &devices[0].links.len()),
            (&Device { links: devices[0].links.clone(), ..before[0].clone() }, &2)
        );
    });
}

#[test]
fn the_library_is_opened_anew_when_the_kernel_has_other_gpus_and_nobody_waits_for_events() {
    let name = "the_library_is_opened_anew_when_the_kernel_has_other_gpus_and_nobody_waits_for_events";
    on(name, "h100:2", |node| {
        let host = tempfile::tempdir().unwrap();
        let plug = |address: &str| {
            std::fs::create_dir_all(host.path().join("proc/driver/nvidia/gpus").join(address)).unwrap();
        };
        plug("0000:1b:00.0");
        node.backend = backend(Some(HostFiles { host: host.path().to_owned(), driver: "/".into() }));
        let before = node.devices();
        let mut events = node.events();
        plug("0000:43:00.0");
        // Until who waits has let go, all goes on as before.
        assert_eq!(node.devices(), before);
        assert!(matches!(node.backend.events(&before), Err(BackendError::Call { .. })));
        assert!(matches!(events.wait(Duration::from_secs(5)), Err(BackendError::NoDriver(_))));
        assert_eq!(node.devices(), before);
        let mut events = node.events();
        node.send("xid 1 31");
        assert_eq!(next(&mut *events), [(gpu(&before[1]), Fault::Xid(31))]);
    });
}

#[test]
fn what_an_older_driver_lacks_is_left_out() {
    on("what_an_older_driver_lacks_is_left_out", "h100:1 driver=470.57.02", |node| {
        for function in [
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetSramEccErrorStatus",
            "nvmlGpmQueryDeviceSupport",
            "nvmlDeviceGetMarginTemperature",
            "nvmlDeviceGetComputeRunningProcesses_v3",
            "nvmlDeviceGetGraphicsRunningProcesses_v3",
            "nvmlDeviceGetFieldValues",
        ] {
            node.send(&format!("fail any {function} 13"));
        }
        let Sample { reading, usage } = sample(node, 0);
        assert!(!reading.lost);
        assert_eq!((reading.processes, reading.memory_used_mib, reading.sram_threshold_exceeded), (None, None, None));
        assert_eq!((reading.recovery_action, reading.ecc, reading.remapped), (None, None, None));
        assert!(reading.clock_limits.is_some() && reading.power_milliwatts.is_some() && reading.temperature.is_some());
        assert_eq!((reading.links.len(), reading.links.iter().all(|link| link.active)), (18, true));
        assert!(usage.memory_free_mib.is_some());
        assert_eq!((usage.memory_reserved_mib, usage.energy_millijoules, usage.profile), (None, None, None));
    });
}

#[test]
fn one_call_that_fails_costs_one_value() {
    on("one_call_that_fails_costs_one_value", "h100:1", |node| {
        node.send("fail 0 nvmlDeviceGetPowerUsage 999");
        let reading = sample(node, 0).reading;
        assert_eq!(reading.power_milliwatts, None);
        assert!(reading.temperature.is_some() && reading.ecc.is_some() && !reading.lost);
        node.send("work nvmlDeviceGetPowerUsage");
        assert!(sample(node, 0).reading.power_milliwatts.is_some());
    });
}

#[test]
fn a_gpu_that_needs_a_reset_says_so() {
    on("a_gpu_that_needs_a_reset_says_so", "rtx4090:1", |node| {
        let device = node.devices()[0].clone();
        for function in ["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage"] {
            node.send(&format!("fail 0 {function} 16"));
        }
        assert_eq!(node.devices(), [device]);
        let reading = sample(node, 0).reading;
        assert_eq!((reading.lost, reading.recovery_action), (false, Some(RecoveryAction::ResetGpu)));
    });
}
