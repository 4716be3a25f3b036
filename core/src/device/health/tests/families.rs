//! Each family of faults that readings and events show, but for XIDs, in at least three scenarios.

use super::*;

// Lost.

#[test]
fn a_lost_device_counts_at_once_and_comes_back_when_it_is_found() {
    let mut device = Watched::modern();
    device.reading = lost();
    device.seconds(1);
    device.is(State::Unhealthy, reasons::DEVICE_LOST);
    device.stays(State::Unhealthy, 3600);
    device.reading = clean(true);
    device.healthy_within(10);
}

#[test]
fn a_device_that_falls_off_the_bus_is_one_fault_however_it_is_noticed() {
    let mut device = Watched::modern();
    device.fault(&Fault::Xid(79));
    device.reading = lost();
    device.seconds(5);
    assert_eq!(device.codes(), [reasons::DEVICE_LOST, reasons::XID_FAULT]);
    device.reading = clean(true);
    device.healthy_within(10);
    assert_eq!(device.health.went_down.len(), 1);
}

#[test]
fn a_device_that_comes_and_goes_is_held() {
    let mut device = Watched::modern();
    for _ in 0..3 {
        device.reading = lost();
        device.seconds(10);
        device.reading = clean(true);
        device.seconds(10);
    }
    device.is(State::Unhealthy, reasons::REPEATED_FAULTS);
}

#[test]
fn what_was_known_before_a_loss_counts_again_only_if_it_is_still_there() {
    for still_there in [None, Some(true)] {
        let mut device = Watched::modern();
        device.reading.retirement_pending = Some(true);
        device.seconds(1);
        device.reading = lost();
        device.seconds(10);
        device.reading = Reading { retirement_pending: still_there, ..clean(true) };
        if still_there.is_none() {
            device.healthy_within(10);
        } else {
            device.seconds(20);
            device.is(State::Unhealthy, reasons::PAGE_RETIREMENT_PENDING);
        }
    }
}

// What the driver says.

#[test]
fn each_recovery_action_keeps_a_device_out_until_it_is_none() {
    use RecoveryAction::{DrainAndReset, DrainPeerToPeer, Other, RebootNode, ResetBus, ResetGpu};
    for action in [ResetGpu, RebootNode, DrainPeerToPeer, DrainAndReset, ResetBus, Other(5)] {
        let mut device = Watched::modern();
        device.fault(&Fault::RecoveryActionChanged);
        assert_eq!(device.state(), State::Healthy);
        device.reading.recovery_action = Some(action);
        device.seconds(1);
        device.is(State::Unhealthy, reasons::RECOVERY_ACTION_NEEDED);
        device.stays(State::Unhealthy, 600);
        device.reading.recovery_action = Some(RecoveryAction::None);
        device.healthy_within(10);
    }
}

#[test]
fn a_device_that_the_driver_calls_unavailable_is_out_until_it_asks_for_nothing() {
    let mut device = Watched::modern();
    device.fault(&Fault::Unavailable);
    device.is(State::Unhealthy, reasons::DEVICE_UNAVAILABLE);
    device.reading.recovery_action = Some(RecoveryAction::ResetGpu);
    device.stays(State::Unhealthy, 60);
    device.reading.recovery_action = Some(RecoveryAction::None);
    device.healthy_within(10);
}

#[test]
fn an_older_driver_in_place_of_a_newer_one_is_taken_as_it_is() {
    let mut device = Watched::modern();
    device.reading = lost();
    device.seconds(10);
    device.reading = clean(false);
    device.healthy_within(10);
    device.fault(&Fault::Xid(144));
    device.stays(State::Unhealthy, 60);
}

#[test]
fn events_of_other_kinds_are_no_faults() {
    let mut device = Watched::modern();
    for event in 0..64 {
        device.fault(&Fault::Other(1 << event));
    }
    device.stays(State::Healthy, 10);
}

// ECC.

#[test]
fn an_uncorrected_error_counts_as_event_and_as_counter_and_is_over_when_the_driver_asks_for_nothing() {
    let mut device = Watched::modern();
    device.fault(&Fault::EccUncorrected);
    device.is(State::Unhealthy, reasons::ECC_UNCORRECTED);
    device.reading.ecc = Some(EccCounts { corrected: 0, uncorrected: 1 });
    device.healthy_within(10);

    device.reading.ecc = Some(EccCounts { corrected: 0, uncorrected: 2 });
    device.seconds(1);
    device.is(State::Unhealthy, reasons::ECC_UNCORRECTED);
    device.healthy_within(10);
}

#[test]
fn without_recovery_actions_an_uncorrected_error_needs_a_reset() {
    let mut device = Watched::new(false, false);
    device.reading.ecc = Some(EccCounts { corrected: 3, uncorrected: 1 });
    device.seconds(1);
    device.is(State::Unhealthy, reasons::ECC_UNCORRECTED);
    device.stays(State::Unhealthy, 3600);
    device.reading.ecc = Some(EccCounts::default());
    device.healthy_within(10);
}

#[test]
fn without_recovery_actions_a_contained_error_leaves_a_device_that_should_be_reset() {
    for codes in [[48, 94], [94, 48]] {
        let mut device = Watched::new(false, false);
        for code in codes {
            device.fault(&Fault::Xid(code));
        }
        device.reading.ecc = Some(EccCounts { corrected: 0, uncorrected: 1 });
        device.seconds(10);
        device.is(State::Degraded, reasons::RESET_ADVISED);
        device.reading.ecc = Some(EccCounts::default());
        device.healthy_within(10);
    }
}

#[test]
fn an_uncontained_error_stays_although_another_one_was_contained() {
    let mut device = Watched::new(false, false);
    for code in [48, 94, 95] {
        device.fault(&Fault::Xid(code));
    }
    device.seconds(60);
    device.is(State::Unhealthy, reasons::XID_FAULT);
    device.fault(&Fault::Xid(48));
    device.seconds(60);
    assert_eq!(device.codes(), [reasons::XID_FAULT, reasons::ECC_UNCORRECTED]);
}

#[test]
fn errors_from_before_the_watch_began_are_left_to_the_driver_and_named_where_it_is_silent() {
    for (driver_known, expected) in [(true, State::Healthy), (false, State::Degraded)] {
        let mut health = DeviceHealth::new(false);
        let ecc = Some(EccCounts { corrected: 9, uncorrected: 4 });
        health.reading(&Reading { ecc, ..clean(driver_known) }, Duration::ZERO);
        assert_eq!(health.verdict(Duration::ZERO).state, expected);
    }
}

#[test]
fn a_storm_of_corrected_errors_degrades_while_it_lasts() {
    for driver_known in [true, false] {
        let mut device = Watched::new(false, driver_known);
        device.fault(&Fault::EccStorm);
        device.is(State::Degraded, reasons::ECC_STORM);
        for corrected in 1..100 {
            device.reading.ecc = Some(EccCounts { corrected, uncorrected: 0 });
            device.stays(State::Degraded, 1);
        }
        device.healthy_within(10);
    }
}

#[test]
fn passing_the_sram_threshold_is_for_good() {
    let mut device = Watched::modern();
    device.reading.sram_threshold_exceeded = Some(true);
    device.seconds(1);
    device.is(State::Unhealthy, reasons::SRAM_THRESHOLD_EXCEEDED);
    // That it cannot be read for a while proves nothing.
    device.reading.sram_threshold_exceeded = None;
    device.stays(State::Unhealthy, 600);
}

// Remapping.

#[test]
fn a_pending_remap_degrades_until_the_reset() {
    let mut device = Watched::modern();
    device.fault(&Fault::Xid(63));
    device.reading.remapped = Some(RemappedRows { uncorrected: 1, pending: true, ..RemappedRows::default() });
    device.seconds(1);
    device.is(State::Degraded, reasons::ROW_REMAP_PENDING);
    device.stays(State::Degraded, 3600);
    device.reading.remapped = Some(RemappedRows { uncorrected: 1, ..RemappedRows::default() });
    device.healthy_within(10);
}

#[test]
fn a_pending_remap_keeps_a_device_out_where_the_driver_wants_it_drained() {
    let mut device = Watched::modern();
    device.reading.remapped = Some(RemappedRows { uncorrected: 1, pending: true, ..RemappedRows::default() });
    device.reading.recovery_action = Some(RecoveryAction::DrainAndReset);
    device.seconds(1);
    assert_eq!(device.state(), State::Unhealthy);
    assert_eq!(device.codes(), [reasons::RECOVERY_ACTION_NEEDED, reasons::ROW_REMAP_PENDING]);
}

#[test]
fn a_failed_remap_takes_a_device_out() {
    let mut device = Watched::modern();
    device.reading.remapped = Some(RemappedRows { failed: true, pending: true, ..RemappedRows::default() });
    device.seconds(1);
    assert_eq!(device.codes(), [reasons::ROW_REMAP_FAILED, reasons::ROW_REMAP_PENDING]);
    device.stays(State::Unhealthy, 3600);
}

#[test]
fn rows_that_were_remapped_long_ago_are_no_news() {
    let mut device = Watched::modern();
    device.reading.remapped = Some(RemappedRows { corrected: 3, uncorrected: 5, pending: false, failed: false });
    device.stays(State::Healthy, 600);
}

#[test]
fn pages_that_wait_for_retirement_take_a_device_out_until_the_reset() {
    let mut device = Watched::new(false, false);
    device.reading.retirement_pending = Some(true);
    device.seconds(1);
    device.is(State::Unhealthy, reasons::PAGE_RETIREMENT_PENDING);
    device.reading.retirement_pending = Some(false);
    device.healthy_within(10);
}

// Links.

#[test]
fn a_link_that_goes_down_takes_a_device_out_until_it_is_up() {
    let mut device = Watched::modern();
    device.reading.links[2].active = false;
    device.seconds(1);
    device.is(State::Unhealthy, reasons::LINK_DOWN);
    assert!(device.verdict().reasons[0].message.contains("NVLink 2"));
    // Links that cannot be read are not up.
    let links = std::mem::take(&mut device.reading.links);
    device.stays(State::Unhealthy, 60);
    device.reading.links = links;
    device.stays(State::Unhealthy, 60);
    device.reading.links[2].active = true;
    device.healthy_within(10);
}

#[test]
fn a_link_that_never_was_up_is_no_defect() {
    let mut device = Watched::modern();
    assert!(!device.reading.links[3].active);
    device.stays(State::Healthy, 60);
}

#[test]
fn fast_growing_link_errors_degrade_while_they_grow() {
    type Count = fn(&mut LinkCounts) -> &mut u64;
    let kinds: [(Count, u64); 3] =
        [(|link| &mut link.replays, 20), (|link| &mut link.recoveries, 3), (|link| &mut link.crc_errors, 200)];
    for (count, amount) in kinds {
        let mut device = Watched::modern();
        *count(&mut device.reading.links[1]) += amount;
        device.seconds(1);
        device.is(State::Degraded, reasons::LINK_ERRORS);
        for _ in 0..60 {
            *count(&mut device.reading.links[1]) += 1;
            device.stays(State::Degraded, 1);
        }
        device.healthy_within(10);
    }
}

#[test]
fn link_errors_now_and_then_and_counters_that_are_set_back_are_no_defect() {
    let mut device = Watched::modern();
    for _ in 0..100 {
        device.reading.links[0].replays += 3;
        device.reading.links[1].recoveries += 1;
        device.reading.links[2].crc_errors += 30;
        device.stays(State::Healthy, 20);
    }
    device.reading.links = clean(true).links;
    device.stays(State::Healthy, 20);
}

// Temperature.

#[test]
fn thermal_slowdown_by_hardware_degrades_after_3_s_and_takes_out_after_a_minute() {
    let mut device = Watched::modern();
    device.reading.clock_limits =
        Some(ClockLimits { hardware: true, hardware_thermal: true, ..ClockLimits::default() });
    device.stays(State::Healthy, 3);
    device.seconds(1);
    device.is(State::Degraded, reasons::HARDWARE_THERMAL_SLOWDOWN);
    device.stays(State::Degraded, 56);
    device.seconds(1);
    device.is(State::Unhealthy, reasons::HARDWARE_THERMAL_SLOWDOWN);
    device.reading = clean(true);
    device.healthy_within(10);
}

#[test]
fn thermal_slowdown_every_other_second_is_thermal_slowdown() {
    let mut device = Watched::modern();
    for _ in 0..40 {
        device.reading.clock_limits = Some(ClockLimits { hardware_thermal: true, ..ClockLimits::default() });
        device.seconds(1);
        device.reading.clock_limits = Some(ClockLimits::default());
        device.seconds(1);
    }
    device.is(State::Unhealthy, reasons::HARDWARE_THERMAL_SLOWDOWN);
}

#[test]
fn thermal_slowdown_by_software_degrades_after_a_minute() {
    let mut device = Watched::modern();
    device.reading.clock_limits = Some(ClockLimits { software_thermal: true, ..ClockLimits::default() });
    device.stays(State::Healthy, 60);
    device.seconds(1);
    device.is(State::Degraded, reasons::SOFTWARE_THERMAL_SLOWDOWN);
    device.stays(State::Degraded, 3600);
    device.reading = clean(true);
    device.healthy_within(10);
}

#[test]
fn heat_counts_by_the_devices_own_limits_with_a_margin_on_the_way_down() {
    let mut device = Watched::modern();
    let heat = |device: &mut Watched, gpu| device.reading.temperature.as_mut().unwrap().gpu = gpu;
    heat(&mut device, 86);
    device.stays(State::Healthy, 600);
    heat(&mut device, 87);
    device.stays(State::Healthy, 10);
    device.seconds(1);
    device.is(State::Degraded, reasons::HIGH_TEMPERATURE);
    heat(&mut device, 85);
    device.stays(State::Degraded, 60);
    heat(&mut device, 92);
    device.seconds(1);
    assert_eq!(device.codes(), [reasons::OVER_TEMPERATURE, reasons::HIGH_TEMPERATURE]);
    heat(&mut device, 90);
    device.stays(State::Unhealthy, 60);
    heat(&mut device, 70);
    device.healthy_within(10);
}

#[test]
fn heat_without_known_limits_is_no_defect() {
    let mut device = Watched::modern();
    device.reading.temperature = Some(Temperature { gpu: 99, memory: Some(105), slowdown: None, shutdown: None });
    device.stays(State::Healthy, 600);
}

// Power.

#[test]
fn a_power_brake_degrades_after_3_s_and_takes_out_after_a_minute() {
    let mut device = Watched::modern();
    device.reading.clock_limits = Some(ClockLimits { hardware: true, power_brake: true, ..ClockLimits::default() });
    device.stays(State::Healthy, 3);
    device.seconds(1);
    device.is(State::Degraded, reasons::POWER_BRAKE);
    device.seconds(57);
    device.is(State::Unhealthy, reasons::POWER_BRAKE);
    device.reading = clean(true);
    device.healthy_within(10);
}

#[test]
fn a_slowdown_by_hardware_that_names_no_cause_counts_after_10_s() {
    let mut device = Watched::modern();
    device.reading.clock_limits = Some(ClockLimits { hardware: true, ..ClockLimits::default() });
    device.stays(State::Healthy, 10);
    device.seconds(1);
    device.is(State::Degraded, reasons::HARDWARE_SLOWDOWN);
    device.seconds(50);
    device.is(State::Unhealthy, reasons::HARDWARE_SLOWDOWN);
}

#[test]
fn drawing_more_than_allowed_for_a_minute_degrades() {
    let mut device = Watched::modern();
    device.reading.power_milliwatts = Some(770_001);
    device.stays(State::Healthy, 60);
    device.seconds(1);
    device.is(State::Degraded, reasons::POWER_ABOVE_LIMIT);
    device.reading.power_milliwatts = Some(770_000);
    device.healthy_within(10);
}

#[test]
fn a_software_power_cap_is_normal() {
    let mut device = Watched::modern();
    device.reading.clock_limits = Some(ClockLimits { software_power: true, ..ClockLimits::default() });
    device.reading.power_milliwatts = Some(702_000);
    device.stays(State::Healthy, 24 * 3600);
}
