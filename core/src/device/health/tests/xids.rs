//! Every row of the catalogue, on a whole GPU and on an instance.

use super::*;
use crate::device::{Advice, Response, Xid, catalogue};

/// What NVIDIA's advice means, written down again apart from the code that decides.
fn expected(row: &Xid, driver_known: bool) -> State {
    match row.advice {
        Advice::Ignore | Advice::RestartApplication | Advice::WorkflowXid45 | Advice::Xid154 => State::Healthy,
        Advice::WorkflowNvlink5 | Advice::CheckUvm if driver_known => State::Degraded,
        Advice::ResetGpu
        | Advice::RestartMachine
        | Advice::RestartVirtualMachine
        | Advice::ContactSupport
        | Advice::CheckMechanicals
        | Advice::WorkflowXid48
        | Advice::WorkflowNvlink
        | Advice::WorkflowNvlink5
        | Advice::CheckUvm => State::Unhealthy,
        Advice::UpdateSoftware => State::Degraded,
        Advice::Blank => match row.code {
            162 => State::Healthy,
            163..=165 | 168 => State::Degraded,
            170 if driver_known => State::Degraded,
            _ => State::Unhealthy,
        },
    }
}

/// All 172 rows on a whole GPU and on an instance.
fn each(test: impl Fn(&Xid, bool)) {
    for row in catalogue() {
        for instance in [false, true] {
            test(row, instance);
        }
    }
}

#[test]
fn each_row_acts_at_once_as_the_catalogue_says() {
    each(|row, instance| {
        for driver_known in [true, false] {
            let mut device = Watched::new(instance, driver_known);
            device.fault(&Fault::Xid(row.code));
            let state = expected(row, driver_known);
            assert_eq!(device.state(), state, "XID {} driver known: {driver_known}", row.code);
            assert_eq!(device.health.xids().get(&row.code), Some(&1));
            if state != State::Healthy {
                let reason = &device.verdict().reasons[0];
                assert!(reason.message.contains(row.response().remedy()), "{}", reason.message);
                assert_eq!(reason.message.contains("instance"), instance, "{}", reason.message);
                assert_eq!(reason.since, device.now);
            }
        }
    });
}

#[test]
fn each_row_is_over_within_10_s_where_the_driver_asks_for_nothing() {
    each(|row, instance| {
        let mut device = Watched::new(instance, true);
        device.fault(&Fault::Xid(row.code));
        device.healthy_within(10);
        device.stays(State::Healthy, 60);
    });
}

#[test]
fn each_row_stays_while_the_driver_asks_for_an_action_and_is_over_within_10_s_of_it() {
    each(|row, instance| {
        let mut device = Watched::new(instance, true);
        device.fault(&Fault::Xid(row.code));
        let codes = device.codes();
        device.reading.recovery_action = Some(RecoveryAction::ResetGpu);
        device.stays(State::Unhealthy, 30);
        assert!(codes.iter().all(|code| device.codes().contains(code)), "the XID stays named: {:?}", device.codes());
        device.reading.recovery_action = Some(RecoveryAction::None);
        device.healthy_within(10);
    });
}

#[test]
fn without_recovery_actions_each_row_comes_back_on_its_own_way_only() {
    each(|row, instance| {
        let mut device = Watched::new(instance, false);
        device.reading.ecc = Some(EccCounts { corrected: 2, uncorrected: 0 });
        device.seconds(1);
        device.fault(&Fault::Xid(row.code));
        let state = expected(row, false);
        device.stays(state, 60);
        let mut other = device.clone();

        // Counters at zero: a reset.
        device.reading.ecc = Some(EccCounts::default());
        match row.response() {
            Response::Restart | Response::Mechanics => device.stays(state, 60),
            _ => device.healthy_within(10),
        }
        // Away and there again.
        other.reading = lost();
        other.stays(State::Unhealthy, 20);
        other.reading = clean(false);
        other.healthy_within(10);
    });
}

#[test]
fn an_application_that_fails_over_and_over_condemns_nothing() {
    let mut device = Watched::modern();
    for _ in 0..1000 {
        for code in [13, 31, 43, 45, 68, 69, 94] {
            device.fault(&Fault::Xid(code));
            device.stays(State::Healthy, 1);
        }
    }
    assert_eq!(device.health.xids().get(&31), Some(&1000));
}

#[test]
fn a_code_that_the_catalogue_does_not_know_is_left_to_the_driver() {
    for code in [0, 173, 9999] {
        let mut device = Watched::modern();
        device.fault(&Fault::Xid(code));
        device.is(State::Degraded, reasons::XID_WARNING);
        device.healthy_within(10);

        let mut device = Watched::new(false, false);
        device.fault(&Fault::Xid(code));
        device.is(State::Unhealthy, reasons::XID_FAULT);
        device.stays(State::Unhealthy, 60);
    }
}

#[test]
fn a_burst_of_xids_is_one_fault_with_several_reasons() {
    let mut device = Watched::modern();
    for code in [48, 171, 63, 95, 154, 45, 45, 45] {
        device.fault(&Fault::Xid(code));
    }
    assert_eq!(device.codes(), [reasons::XID_FAULT, reasons::ECC_UNCORRECTED]);
    device.healthy_within(10);
    assert_eq!(device.health.went_down.len(), 1);
}

#[test]
fn an_action_that_the_driver_names_only_after_a_while_counts_nevertheless() {
    let mut device = Watched::modern();
    device.fault(&Fault::Xid(95));
    device.stays(State::Unhealthy, 3);
    device.reading.recovery_action = Some(RecoveryAction::ResetGpu);
    device.stays(State::Unhealthy, 60);
}
