//! Nodes outlive programs, and many are in one process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod common;

use std::io::Write as _;
use std::time::Instant;

use atoll_fake_nvml::{Control, Spec, World};
use common::Node;

/// Resident MiB of this process.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / 1_048_576.0
}

#[test]
fn a_node_is_the_same_for_everybody_and_after_a_restart() {
    let mut node = Node::new("h100:8");
    for command in ["load 2 80", "clock +3600", "xid 1 48", "remap 1 pending", "process 4 99 1024", "unplug 7"] {
        node.send(command);
    }
    // Another program, which was not there before.
    let mut other = Control::open(node.path()).unwrap();
    let now = other.world().time(0.0);
    let world = other.world();
    assert_eq!(world.present().count(), 7);
    assert!(world.gpus[1].remap.pending);
    assert_eq!(world.gpus[4].processes[0].pid, 99);
    // 80 % of an hour at 700 W, and 70 W for the rest.
    let energy = world.gpus[2].millijoules(now);
    assert!((1_990_000_000..2_110_000_000).contains(&energy), "{energy}");
    let nvml = node.nvml();
    assert_eq!(nvml.device_by_index(2).unwrap().uuid().unwrap(), world.gpus[2].uuid);
    let seen = nvml.device_by_index(2).unwrap().total_energy_consumption().unwrap();
    assert!(seen.abs_diff(energy) < 20_000_000, "{seen} {energy}");
}

#[test]
fn a_node_that_begins_anew_forgets_everything() {
    let mut node = Node::new("h100:1");
    let nvml = node.nvml();
    for round in 0..20 {
        let mut control = Control::create(node.path(), if round % 2 == 0 { "l40s:2" } else { "a100:3" }).unwrap();
        control.send("temperature 0 80").unwrap();
        assert_eq!(nvml.device_count().unwrap(), 2 + round % 2);
        assert_eq!(control.world().gpus[0].temperature, Some(80));
    }
    node.send("unplug 0");
    assert_eq!(nvml.device_count().unwrap(), 2);
}

#[test]
fn wrong_commands_are_refused_and_change_nothing() {
    let mut node = Node::new("h100:1");
    let mut control = Control::open(node.path()).unwrap();
    for command in [
        "",
        "xid",
        "xid 1 79",
        "xid 0 many",
        "lost 0 now",
        "nvlink 0 18 down",
        "mig 0 9g.1gb",
        "process 0 1 1 gi=3",
        "clock 3",
        "fail 0 nvmlInit nonsense",
        "temperature 0 warm",
        "recovery 0 pray",
        "driver maybe",
        "@5 lost 0",
        "lost 0\nlost 0",
        "memory 0 1 colour=red",
    ] {
        assert!(control.send(command).is_err(), "{command}");
    }
    assert_eq!(std::fs::read_to_string(node.path()).unwrap().lines().count(), 1);
    // People may write wrong lines into the file; the others count.
    let mut file = std::fs::OpenOptions::new().append(true).open(node.path()).unwrap();
    file.write_all(b"nonsense 5\n# a remark\n\ntemperature 0 77\n").unwrap();
    node.send("memory 0 100");
    let world = control.world();
    assert_eq!((world.gpus[0].temperature, world.gpus[0].leaked_mib), (Some(77), 100));
}

#[test]
fn a_thousand_nodes_live_in_one_process() {
    let spec = Spec::parse("h100:8").unwrap();
    let (before, began) = (resident(), Instant::now());
    let mut worlds: Vec<_> = (0..1000).map(|seed| World::new(&spec, seed)).collect();
    let built = began.elapsed();
    let memory = resident() - before;
    let began = Instant::now();
    let mut sum = 0_u64;
    for (number, world) in worlds.iter_mut().enumerate() {
        let raised = world.apply(&format!("xid {} 79", number % 8), 5.0).unwrap();
        assert_eq!(raised.len(), 1);
        world.apply(&format!("load {} 90", number % 8), 5.0).unwrap();
        let now = world.time(3605.0);
        for gpu in world.present() {
            sum += gpu.millijoules(now) + u64::from(gpu.milliwatts(now)) + gpu.clock_reasons(now);
            sum += u64::from(gpu.utilization(now)) + u64::from(gpu.temperature(now).unsigned_abs());
        }
    }
    let sampled = began.elapsed();
    let mut names: Vec<_> = worlds.iter().flat_map(World::present).map(|gpu| &gpu.uuid).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 8000);
    assert!(sum > 0);
    println!("1,000 worlds of 8 GPUs: built in {built:?}, {memory:.1} MiB; a command and a sample each in {sampled:?}");
    assert!(memory < 200.0, "{memory} MiB");
}

#[test]
fn a_thousand_nodes_answer_through_the_c_interface() {
    let folder = tempfile::tempdir().unwrap();
    let (before, began) = (resident(), Instant::now());
    let mut nodes: Vec<_> =
        (0..1000).map(|number| common::Named::create(&folder.path().join(number.to_string()), "h100:8")).collect();
    let built = began.elapsed();
    let memory = resident() - before;
    let began = Instant::now();
    for (number, node) in nodes.iter_mut().enumerate() {
        node.select();
        node.control.send(&format!("temperature {} 71", number % 8)).unwrap();
    }
    let commanded = began.elapsed();
    let began = Instant::now();
    let mut calls = 0;
    for (number, node) in nodes.iter().enumerate() {
        node.select();
        let nvml = node.nvml.as_ref().unwrap();
        for index in 0..nvml.device_count().unwrap() {
            let gpu = nvml.device_by_index(index).unwrap();
            let sensor = nvml_wrapper::enum_wrappers::device::TemperatureSensor::Gpu;
            let hot = gpu.temperature(sensor).unwrap() == 71;
            assert_eq!(hot, number % 8 == index as usize, "{number} {index}");
            gpu.memory_info().unwrap();
            gpu.power_usage().unwrap();
            calls += 4;
        }
    }
    let sampled = began.elapsed();
    println!(
        "1,000 nodes of 8 GPUs through C: opened in {built:?}, {memory:.1} MiB with nvml-wrapper; a command each in \
         {commanded:?}; {calls} calls in {sampled:?}"
    );
}
