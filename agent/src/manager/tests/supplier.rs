//! What the supplier's policy does to members.

use atoll_api::{Availability, PresentMembers};

use super::*;

fn policy(spec: serde_json::Value) -> Arc<Policy> {
    Arc::new(Policy::new(&serde_json::from_value(spec).unwrap(), None))
}

fn draining_until(deadline: Duration) -> Arc<Policy> {
    Arc::new(Policy { availability: Availability::Draining, deadline: Some(deadline), ..Policy::default() })
}

/// In step with a hub that lists these.
fn in_step(state: &mut State, slices: &[(&str, &[i64])]) {
    state.begin();
    for (cluster, incarnations) in slices {
        state.hear(slice(cluster, *incarnations.iter().max().unwrap(), incarnations)).unwrap();
    }
    state.hear(HubEvent::Synced(slices.iter().map(|(cluster, _)| id(cluster)).collect())).unwrap();
}

fn refusal(state: &mut State, cluster: &str) -> Option<(Reservation, String)> {
    last_report(state, &id(cluster)).map(|report| (report.reservation, report.message))
}

#[test]
fn a_pause_refuses_who_has_not_started_and_touches_nobody_else() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    state.set_policy(policy(json!({"availability": "Paused"})));
    in_step(&mut state, &[("a", &[1]), ("b", &[1])]);
    assert!(
        applies(&mut state)
            .iter()
            .all(|(id, actions)| id.name == "a-0" && !actions.contains(&Action::CreatePod(member(0, 1))))
    );
    assert_eq!(refusal(&mut state, "a").unwrap().1, "");
    let mut state = started(&[]);
    state.set_policy(policy(json!({"availability": "Paused"})));
    in_step(&mut state, &[("b", &[1])]);
    assert_eq!(applies(&mut state), []);
    let (reservation, why) = refusal(&mut state, "b").unwrap();
    assert!(reservation == Reservation::Refused && why.contains("paused"), "{why}");
    // The hub was told no, and looks elsewhere; it may come back.
    state.set_policy(policy(json!({})));
    assert_eq!(applies(&mut state), []);
    state.hear(slice("b", 2, &[2])).unwrap();
    assert_eq!(applies(&mut state).len(), 1);
    assert_eq!(refusal(&mut state, "b").unwrap().0, Reservation::Pending);
}

#[test]
fn a_slice_that_grows_while_nobody_may_come_keeps_its_members() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    in_step(&mut state, &[("a", &[1])]);
    applies(&mut state);
    state.applied(&id("a"), Outcome { furnished: true, gang: Some((2, gang(1))), ..Outcome::default() });
    state.set_policy(policy(json!({"images": {"requireDigest": true}})));
    assert!(
        applies(&mut state)
            .iter()
            .flat_map(|(_, actions)| actions)
            .all(|action| !matches!(action, Action::DeletePod { .. }))
    );
    state.hear(slice("a", 2, &[1, 2])).unwrap();
    assert_eq!(applies(&mut state), []);
    let report = last_report(&mut state, &id("a")).unwrap();
    assert_eq!(phases(&report), [MemberPhase::Ready, MemberPhase::Pending]);
    assert!(report.reservation == Reservation::Refused && report.message.contains("digest"), "{report:?}");
}

#[test]
fn no_more_members_come_than_the_supplier_lets() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    state.set_policy(policy(json!({"members": {"max": 3}})));
    in_step(&mut state, &[("a", &[1]), ("b", &[1, 1]), ("c", &[1])]);
    applies(&mut state);
    let told = |state: &mut State| -> Vec<(String, Reservation)> {
        let reports = state.take_reports();
        reports.into_iter().map(|(id, report)| (id.name, report.reservation)).collect()
    };
    let reports = told(&mut state);
    assert!(reports.contains(&("c-0".into(), Reservation::Refused)), "{reports:?}");
    assert!(!reports.contains(&("b-0".into(), Reservation::Refused)), "{reports:?}");
}

#[test]
fn a_drain_waits_for_its_deadline_then_stops_what_is_left_for_good() {
    let mut state = started(&[(id("a"), member(0, 1))]);
    in_step(&mut state, &[("a", &[1])]);
    applies(&mut state);
    state.applied(&id("a"), Outcome { furnished: true, gang: Some((2, gang(1))), ..Outcome::default() });
    let deadline = START + Duration::from_secs(20);
    state.set_policy(draining_until(deadline));
    assert_eq!(state.next_change(START, START), Some(deadline), "sooner than the lease");
    let stops = |tasks: Vec<Task>| -> Vec<Action> {
        tasks
            .into_iter()
            .flat_map(|task| if let Task::Apply { actions, .. } = task { actions } else { vec![] })
            .collect()
    };
    let early = stops(state.decide(START, deadline.saturating_sub(Duration::from_nanos(1))));
    assert!(early.iter().all(|action| matches!(action, Action::ApplyGang)), "{early:?}");
    state.applied(&id("a"), Outcome { gang: Some((3, gang(1))), ..Outcome::default() });
    let stop = stops(state.decide(deadline, deadline));
    assert_eq!(stop, [Action::MarkStopped(Cause::Drain, 1), Action::DeletePod { member: member(0, 1), kill: false }]);
    assert_eq!(state.present(), PresentMembers { running: 1, leaving: 0 });
    state.applied(&id("a"), Outcome { deleted: vec![(member(0, 1), false)], ..Outcome::default() });
    assert_eq!(state.present(), PresentMembers { running: 0, leaving: 1 });
    state.observe(Observation::Pod(id("a"), member(0, 1), None), deadline);
    assert_eq!(state.present(), PresentMembers::default());
    // Called off: members of that incarnation stay lost.
    state.set_policy(policy(json!({})));
    assert!(stops(state.decide(deadline, deadline)).iter().all(|action| !matches!(action, Action::CreatePod(_))));
    let report = last_report(&mut state, &id("a")).unwrap();
    assert_eq!((phases(&report), &report.members[0].reason), (vec![MemberPhase::Lost], &Reason::Drained));
}

#[test]
fn a_deadline_wakes_nobody_where_nothing_runs() {
    let mut state = started(&[]);
    state.set_policy(draining_until(START + Duration::from_secs(20)));
    assert_eq!(state.next_change(START, START), None);
}
