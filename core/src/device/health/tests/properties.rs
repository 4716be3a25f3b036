//! What holds whatever happens.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Fault(Fault),
    Reading(Box<Reading>),
    Occupied(bool),
}

fn action() -> impl Strategy<Value = Option<RecoveryAction>> {
    use RecoveryAction as A;
    let actions = vec![A::ResetGpu, A::RebootNode, A::DrainPeerToPeer, A::DrainAndReset, A::ResetBus, A::Other(9)];
    prop_oneof![3 => Just(Some(A::None)), 3 => Just(None), 1 => prop::sample::select(actions).prop_map(Some)]
}

fn reading() -> impl Strategy<Value = Reading> {
    let rare = || prop::bool::weighted(0.1);
    let maybe = || prop::option::weighted(0.8, prop::bool::weighted(0.1));
    let flags = (rare(), maybe(), maybe(), rare(), maybe());
    let counts = (0_u64..4, 0_u64..3, 0_u64..300, any::<[bool; 5]>(), prop::option::weighted(0.8, 30_i32..100));
    let usage = (prop::option::weighted(0.8, 0_u32..2), prop::option::weighted(0.8, 0_u64..200));
    (action(), flags, counts, usage).prop_map(|(recovery_action, flags, counts, usage)| {
        let (is_lost, sram, pending, failed, retirement) = flags;
        let (corrected, uncorrected, crc_errors, clocks, gpu) = counts;
        if is_lost {
            return lost();
        }
        let mut reading = clean(true);
        reading.recovery_action = recovery_action;
        reading.ecc = Some(EccCounts { corrected, uncorrected });
        reading.sram_threshold_exceeded = sram;
        reading.retirement_pending = retirement;
        reading.remapped = pending.map(|pending| RemappedRows { pending, failed, ..RemappedRows::default() });
        reading.links[0].active = !clocks[0];
        reading.links[1].crc_errors = crc_errors;
        reading.clock_limits = Some(ClockLimits {
            software_power: true,
            hardware: clocks[1],
            hardware_thermal: clocks[2],
            power_brake: clocks[3],
            software_thermal: clocks[4],
        });
        reading.temperature = gpu.map(|gpu| Temperature { gpu, memory: None, slowdown: Some(87), shutdown: Some(92) });
        reading.processes = usage.0.map(|count| (0..count).map(|pid| Process { pid, memory_mib: None }).collect());
        reading.memory_used_mib = usage.1;
        reading
    })
}

fn step() -> impl Strategy<Value = Step> {
    let events =
        vec![Fault::EccUncorrected, Fault::EccStorm, Fault::Unavailable, Fault::RecoveryActionChanged, Fault::Other(4)];
    prop_oneof![
        1 => (0_u32..180).prop_map(|code| Step::Fault(Fault::Xid(code))),
        1 => prop::sample::select(events).prop_map(Step::Fault),
        6 => reading().prop_map(|reading| Step::Reading(Box::new(reading))),
        1 => any::<bool>().prop_map(Step::Occupied),
    ]
}

/// Steps, each with the milliseconds before it.
fn history() -> impl Strategy<Value = Vec<(u64, Step)>> {
    prop::collection::vec((prop_oneof![4 => 0_u64..3000, 1 => 0_u64..600_000], step()), 0..120)
}

/// What a reading shows that no device may be called Healthy with.
fn defective(reading: &Reading) -> bool {
    reading.lost
        || reading.recovery_action.is_some_and(|action| action != RecoveryAction::None)
        || reading.sram_threshold_exceeded == Some(true)
        || reading.retirement_pending == Some(true)
        || reading.remapped.is_some_and(|rows| rows.pending || rows.failed)
        || reading.temperature.is_some_and(|t| t.shutdown.is_some_and(|limit| t.gpu >= limit))
}

fn apply(health: &mut DeviceHealth, step: &Step, now: Duration) {
    match step {
        Step::Fault(fault) => health.fault(fault, now),
        Step::Reading(reading) => health.reading(reading, now),
        Step::Occupied(held) => health.occupied(*held, now),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn never_healthy_with_a_readable_defect(history in history(), instance: bool) {
        let mut health = DeviceHealth::new(instance);
        let mut now = Duration::ZERO;
        for (after, step) in history {
            now += Duration::from_millis(after);
            apply(&mut health, &step, now);
            let verdict = health.verdict(now);
            if let Step::Reading(reading) = &step {
                prop_assert!(!defective(reading) || verdict.state != State::Healthy, "{reading:?}");
            }
            prop_assert_eq!(verdict.state == State::Healthy, verdict.reasons.is_empty());
            for reason in &verdict.reasons {
                prop_assert!(reasons::ALL.contains(&reason.code) && reason.since <= now && !reason.message.is_empty());
            }
        }
    }

    /// Whatever happened: once readings are clean and the driver asks for nothing, only a hold keeps a device out for
    /// more than 10 s, and that one ends when it is due.
    #[test]
    fn healthy_within_10_s_of_clean_readings(history in history(), period in 500_u64..=5000) {
        let mut health = DeviceHealth::new(false);
        let mut now = Duration::ZERO;
        for (after, step) in history {
            now += Duration::from_millis(after);
            apply(&mut health, &step, now);
        }
        let readable = now;
        let period = Duration::from_millis(period);
        while now + period <= readable + Duration::from_secs(10) {
            now += period;
            health.reading(&clean(true), now);
        }
        let verdict = health.verdict(now);
        prop_assert!(verdict.reasons.iter().all(|reason| reason.code == reasons::REPEATED_FAULTS), "{verdict:?}");
        if !verdict.reasons.is_empty() {
            let due = health.next_due().unwrap();
            prop_assert!(due > now && due <= now + LONGEST_HOLD);
            prop_assert_eq!(health.verdict(due), Verdict::default());
        }
    }

    /// Between two observations the verdict changes at the time that was named, and at no other.
    #[test]
    fn what_is_due_next_is_all_that_changes_by_itself(history in history()) {
        let mut health = DeviceHealth::new(true);
        let mut now = Duration::ZERO;
        for (after, step) in history {
            let verdict = health.verdict(now);
            let due = health.next_due().filter(|due| *due > now);
            let next = now + Duration::from_millis(after);
            let quiet = due.map_or(next, |due| next.min(due.saturating_sub(Duration::from_nanos(1))));
            for part in 0..=4 {
                let at = now + quiet.saturating_sub(now) * part / 4;
                prop_assert_eq!(&health.verdict(at), &verdict);
            }
            if let Some(due) = due {
                prop_assert_ne!(&health.verdict(due), &verdict);
            }
            now = next;
            apply(&mut health, &step, now);
        }
    }
}
