//! Devices that fail again and again.

use super::*;

fn fail_and_recover(device: &mut Watched) {
    device.fault(&Fault::Xid(79));
    device.seconds(1);
    assert_eq!(device.state(), State::Unhealthy);
    device.seconds(9);
}

#[test]
fn the_third_fault_within_an_hour_holds_a_device_longer_and_each_further_one_doubles_it() {
    let mut device = Watched::modern();
    for _ in 0..2 {
        fail_and_recover(&mut device);
        assert_eq!(device.state(), State::Healthy);
    }
    for minutes in [10, 20] {
        fail_and_recover(&mut device);
        device.is(State::Unhealthy, reasons::REPEATED_FAULTS);
        let due = device.health.next_due().unwrap();
        let left = due.checked_sub(device.now).unwrap();
        assert!(left <= Duration::from_mins(minutes) && left > Duration::from_mins(minutes - 1), "{left:?}");
        // It ends by itself, to the moment, without a reading.
        let before = due.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(device.health.verdict(before).state, State::Unhealthy);
        assert_eq!(device.health.verdict(due), Verdict::default());
        device.seconds(left.as_secs() + 1);
        assert_eq!(device.state(), State::Healthy);
        assert_eq!(device.health.next_due(), None);
    }
}

#[test]
fn three_faults_in_more_than_an_hour_hold_nothing() {
    let mut device = Watched::modern();
    for _ in 0..10 {
        fail_and_recover(&mut device);
        assert_eq!(device.state(), State::Healthy);
        device.seconds(31 * 60);
    }
}

#[test]
fn a_hold_is_counted_from_the_recovery_and_no_shorter_one_ends_it() {
    let mut device = Watched::modern();
    for _ in 0..2 {
        fail_and_recover(&mut device);
    }
    device.reading.recovery_action = Some(RecoveryAction::ResetGpu);
    device.stays(State::Unhealthy, 55 * 60);
    assert_eq!(device.codes(), [reasons::RECOVERY_ACTION_NEEDED]);
    device.reading.recovery_action = Some(RecoveryAction::None);
    device.seconds(10);
    device.is(State::Unhealthy, reasons::REPEATED_FAULTS);
    let until = device.health.next_due().unwrap();
    assert!(until > device.now + Duration::from_mins(9));
    // Meanwhile those three are forgotten; the hold is not.
    device.seconds(9 * 60);
    fail_and_recover(&mut device);
    assert_eq!(device.health.went_down.len(), 1);
    assert_eq!(device.health.next_due(), Some(until));
}

#[test]
fn use_by_others_is_no_fault_of_the_device() {
    let mut device = Watched::modern();
    for _ in 0..20 {
        device.reading.processes = Some(vec![Process { pid: 7, memory_mib: Some(900) }]);
        device.seconds(20);
        assert_eq!(device.state(), State::Unhealthy);
        device.reading.processes = Some(Vec::new());
        device.seconds(1);
        assert_eq!(device.state(), State::Healthy);
    }
}

#[test]
fn the_longest_hold_is_an_hour() {
    assert_eq!(hold(2), None);
    assert_eq!(hold(3), Some(HOLD));
    for faults in [6, 60, usize::MAX] {
        assert_eq!(hold(faults), Some(LONGEST_HOLD));
    }
}
