//! Devices that somebody else uses.

use super::*;

fn process(pid: u32) -> Process {
    Process { pid, memory_mib: Some(512) }
}

#[test]
fn a_gpu_with_foreign_processes_is_not_offered_until_they_are_gone() {
    let mut device = Watched::modern();
    device.reading.processes = Some(vec![process(41), process(42), process(43), process(44)]);
    device.reading.memory_used_mib = Some(2048);
    device.stays(State::Healthy, 5);
    device.seconds(1);
    device.is(State::Unhealthy, reasons::FOREIGN_PROCESSES);
    assert!(device.verdict().reasons[0].message.contains(": 41, 42, 43;"), "{:?}", device.verdict());
    device.stays(State::Unhealthy, 600);
    device.reading = clean(true);
    device.seconds(1);
    assert_eq!(device.state(), State::Healthy);
}

#[test]
fn its_message_changes_only_when_none_of_the_named_processes_is_left() {
    let mut device = Watched::modern();
    device.reading.processes = Some(vec![process(1), process(2)]);
    device.seconds(10);
    let before = device.verdict();
    device.reading.processes = Some(vec![process(2), process(3)]);
    device.seconds(10);
    assert_eq!(device.verdict(), before);
    device.reading.processes = Some(vec![process(3)]);
    device.seconds(1);
    assert!(device.verdict().reasons[0].message.contains(": 3;"), "{:?}", device.verdict());
}

#[test]
fn a_tool_that_looks_at_it_for_a_moment_is_not_foreign() {
    let mut device = Watched::modern();
    for pid in 0..100 {
        device.reading.processes = Some(vec![process(pid)]);
        device.stays(State::Healthy, 4);
        device.reading.processes = Some(Vec::new());
        device.stays(State::Healthy, 1);
    }
}

#[test]
fn memory_that_nobody_accounts_for_counts_after_a_minute() {
    let mut device = Watched::modern();
    device.reading.memory_used_mib = Some(129);
    device.stays(State::Healthy, 60);
    device.seconds(1);
    device.is(State::Unhealthy, reasons::FOREIGN_MEMORY);
    device.reading.memory_used_mib = Some(128);
    device.seconds(1);
    assert_eq!(device.state(), State::Healthy);
}

#[test]
fn what_a_container_holds_is_not_foreign() {
    let mut device = Watched::modern();
    device.health.occupied(true, device.now);
    device.reading.processes = Some(vec![process(9)]);
    device.reading.memory_used_mib = Some(70_000);
    device.stays(State::Healthy, 600);
}

#[test]
fn a_released_gpu_is_offered_when_it_is_empty_of_processes_and_memory() {
    let mut device = Watched::modern();
    device.health.occupied(true, device.now);
    device.reading.processes = Some(vec![process(9)]);
    device.reading.memory_used_mib = Some(70_000);
    device.seconds(60);
    device.health.occupied(false, device.now);
    device.is(State::Unhealthy, reasons::NOT_YET_EMPTY);
    device.seconds(2);
    device.is(State::Unhealthy, reasons::NOT_YET_EMPTY);
    device.reading.processes = Some(Vec::new());
    device.seconds(2);
    device.is(State::Unhealthy, reasons::NOT_YET_EMPTY);
    device.reading.memory_used_mib = Some(3);
    device.seconds(1);
    assert_eq!(device.state(), State::Healthy);
}

#[test]
fn what_a_container_leaves_behind_for_long_is_named() {
    let mut device = Watched::modern();
    device.health.occupied(true, device.now);
    device.reading.processes = Some(vec![process(9)]);
    device.seconds(60);
    device.health.occupied(false, device.now);
    device.seconds(30);
    device.is(State::Unhealthy, reasons::NOT_YET_EMPTY);
    device.seconds(1);
    device.is(State::Unhealthy, reasons::FOREIGN_PROCESSES);
}

#[test]
fn a_gpu_that_was_seen_empty_just_before_its_release_is_offered_at_once() {
    let mut device = Watched::modern();
    device.health.occupied(true, device.now);
    device.seconds(60);
    device.health.occupied(false, device.now);
    assert_eq!(device.state(), State::Healthy);

    device.health.occupied(true, device.now);
    device.now += Duration::from_secs(3);
    device.health.occupied(false, device.now);
    device.is(State::Unhealthy, reasons::NOT_YET_EMPTY);
    device.seconds(1);
    assert_eq!(device.state(), State::Healthy);
}

#[test]
fn an_unknown_list_of_processes_is_no_evidence() {
    let mut device = Watched::modern();
    device.reading.processes = None;
    device.reading.memory_used_mib = None;
    device.stays(State::Healthy, 600);
    device.health.occupied(true, device.now);
    device.seconds(10);
    device.health.occupied(false, device.now);
    device.stays(State::Healthy, 600);
}

#[test]
fn a_lost_gpu_says_nothing_about_who_uses_it() {
    let mut device = Watched::modern();
    device.reading.processes = Some(vec![process(9)]);
    device.seconds(10);
    device.reading = lost();
    device.seconds(1);
    assert_eq!(device.codes(), [reasons::DEVICE_LOST, reasons::FOREIGN_PROCESSES]);
    device.reading = clean(true);
    device.healthy_within(10);
}
