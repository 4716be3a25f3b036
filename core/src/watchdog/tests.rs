//! Tables for the rules one by one, and nodes that live through random histories.

use proptest::prelude::*;

use super::*;
use crate::member::Member;

const BOOT: &str = "boot-1";

/// Clocks at this many milliseconds of boot time; the wall clock is ahead of it by `ahead`.
fn at(boot: u64, ahead: u64) -> Clocks {
    Clocks { boot: ms(boot), wall: ms(boot + ahead) }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn now(boot: u64) -> Clocks {
    at(boot, 1_000_000)
}

fn age(milliseconds: u64) -> Answer {
    Answer { age: Some(ms(milliseconds)), kill: Vec::new() }
}

fn members(fences: &[(&str, &str)]) -> BTreeMap<String, Times> {
    fences.iter().map(|(uid, fence)| ((*uid).to_owned(), times_of_annotation(Some(fence)))).collect()
}

fn granted(asked: u64, age_ms: u64) -> Watchdog {
    let mut watchdog = Watchdog::start(None, BOOT, now(asked));
    assert_eq!(watchdog.answered(now(asked), now(asked + 5), &age(age_ms)), Taken::Renewed);
    watchdog
}

fn killed(decision: &Decision) -> Vec<(&str, Cause)> {
    decision.kill.iter().map(|(uid, cause)| (uid.as_str(), *cause)).collect()
}

fn pods(fences: &[(&str, &str)]) -> BTreeMap<String, Pod> {
    let pods = fences.iter().zip(0..).map(|((name, fence), rank)| {
        let pod = Pod {
            name: format!("ns/{name}"),
            cluster_uid: "c-1".to_owned(),
            member: Member { rank, incarnation: 7 },
            times: times_of_annotation(Some(fence)),
            condemned: None,
        };
        ((*name).to_owned(), pod)
    });
    pods.collect()
}

fn save(watchdog: &Watchdog) -> Saved {
    let mut saved =
        Saved { boot_id: BOOT.to_owned(), lease: watchdog.lease(), pods: pods(&[("a", "3/4"), ("b", "none")]) };
    for (uid, cause) in &watchdog.condemned {
        if let Some(pod) = saved.pods.get_mut(uid) {
            pod.condemned = Some(*cause);
        }
    }
    assert_eq!(saved.to_string().parse(), Ok(saved.clone()));
    saved
}

#[test]
fn annotations_say_times_or_that_there_are_none() {
    for (text, times) in [
        (Some("3/4"), Times::from_seconds(3, 4)),
        (Some("none"), Times::Never),
        (None, Times::from_seconds(60, 90)),
        (Some(""), Times::from_seconds(60, 90)),
        (Some("never"), Times::from_seconds(60, 90)),
    ] {
        assert_eq!(times_of_annotation(text), times, "{text:?}");
    }
}

#[test]
fn each_member_dies_at_its_own_time_and_autonomous_ones_never() {
    let mut watchdog = granted(100_000, 2_000);
    let members = members(&[("short", "3/4"), ("long", "60/90"), ("free", "none")]);
    for (boot, dead, next) in [
        (100_100, vec![], Some(102_000)),
        (101_999, vec![], Some(102_000)),
        (102_000, vec![("short", Cause::Expired)], Some(188_000)),
        (188_000, vec![("long", Cause::Expired), ("short", Cause::Expired)], None),
        (9_000_000, vec![("long", Cause::Expired), ("short", Cause::Expired)], None),
    ] {
        let decision = watchdog.decide(now(boot), &members);
        assert_eq!((killed(&decision), decision.next), (dead, next.map(ms)), "at {boot}");
    }
}

#[test]
fn who_is_killed_stays_so_until_it_runs_no_more() {
    let mut watchdog = granted(100_000, 0);
    let members = members(&[("a", "3/4")]);
    assert_eq!(killed(&watchdog.decide(now(104_000), &members)), [("a", Cause::Expired)]);
    assert_eq!(watchdog.answered(now(104_100), now(104_200), &age(0)), Taken::Renewed);
    assert_eq!(killed(&watchdog.decide(now(104_300), &members)), [("a", Cause::Expired)]);
    assert_eq!(killed(&watchdog.decide(now(104_400), &BTreeMap::new())), []);
    assert_eq!(killed(&watchdog.decide(now(104_500), &members)), []);
}

#[test]
fn whom_the_agent_names_dies_whatever_the_lease_says() {
    let named = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>();
    let members = members(&[("a", "60/90"), ("free", "none"), ("b", "60/90")]);
    let mut watchdog = granted(100_000, 0);
    let answer = Answer { age: Some(ms(0)), kill: named(&["free", "a", "nobody"]) };
    watchdog.answered(now(101_000), now(101_010), &answer);
    assert_eq!(
        killed(&watchdog.decide(now(101_020), &members)),
        [("a", Cause::Named), ("free", Cause::Named)],
        "and nobody who is no member here"
    );
    // Also by an answer that says nothing of the lease, or comes late.
    let mut watchdog = granted(100_000, 0);
    let answer = Answer { age: None, kill: named(&["b"]) };
    assert_eq!(watchdog.answered(now(99_000), now(101_010), &answer), Taken::Late);
    assert_eq!(killed(&watchdog.decide(now(101_020), &members)), [("b", Cause::Named)]);
}

#[test]
fn answers_count_from_their_request_and_the_lease_never_moves_back() {
    let lease = |granted: u64, asked: u64| Lease::Granted { granted: ms(granted), asked: now(asked) };
    let mut watchdog = granted(100_000, 2_000);
    for (asked, received, answer, taken, then) in [
        // A slow answer to an earlier request.
        (99_000, 100_500, age(0), Taken::Late, lease(98_000, 100_000)),
        // An agent that has heard of no newer grant, or of an older one only.
        (102_000, 102_500, age(4_000), Taken::Unchanged, lease(98_000, 100_000)),
        (104_000, 104_500, age(50_000), Taken::Unchanged, lease(98_000, 100_000)),
        // One that has just started.
        (106_000, 106_500, Answer::default(), Taken::NotGranted, lease(98_000, 100_000)),
        // A grant from before this node booted would look younger than it is.
        (108_000, 108_500, age(108_001), Taken::NotGranted, lease(98_000, 100_000)),
        (107_000, 108_600, age(0), Taken::Late, lease(98_000, 100_000)),
        (110_000, 119_000, age(1_000), Taken::Renewed, lease(109_000, 110_000)),
    ] {
        assert_eq!(watchdog.answered(now(asked), now(received), &answer), taken, "asked at {asked}");
        assert_eq!(watchdog.lease(), then, "asked at {asked}");
    }
}

#[test]
fn a_jump_of_the_wall_clock_ends_the_lease_until_a_fresh_answer() {
    let all = members(&[("a", "60/90"), ("free", "none")]);
    for (ahead, dead) in [
        (1_000_000, false),
        (1_000_900, false),
        (999_100, false),
        // Set forward, set back, or a machine that stood still.
        (1_001_100, true),
        (998_900, true),
        (1_090_000, true),
    ] {
        let mut watchdog = granted(100_000, 0);
        let decision = watchdog.decide(at(101_000, ahead), &all);
        assert_eq!(killed(&decision), if dead { vec![("a", Cause::ClockJump)] } else { vec![] }, "{ahead}");
        assert_eq!(watchdog.lease().may_start(at(101_000, ahead), Times::from_seconds(60, 90)), !dead);
    }
    // An answer to a request from before the jump does not count, one from after it does; who was killed stays dead.
    let mut watchdog = granted(100_000, 0);
    assert_eq!(watchdog.answered(now(101_000), at(101_100, 1_090_000), &age(0)), Taken::Late);
    assert_eq!((watchdog.lease(), watchdog.lease().age(now(101_200))), (Lease::Jumped, None));
    // Nor when it jumps back meanwhile.
    assert_eq!(watchdog.answered(now(101_050), now(101_200), &age(0)), Taken::Late);
    assert_eq!(watchdog.answered(at(101_300, 1_090_000), at(101_400, 1_090_000), &age(0)), Taken::Renewed);
    assert_eq!(killed(&watchdog.decide(at(101_500, 1_090_000), &all)), []);
}

#[test]
fn a_watchdog_that_starts_without_a_lease_asks_before_it_kills() {
    let all = members(&[("a", "60/90"), ("free", "none")]);
    let kept = save(&granted(100_000, 0));
    let elsewhen = Saved { boot_id: "boot-0".to_owned(), ..kept.clone() };
    for (what, saved) in [("no file", None), ("another boot", Some(&elsewhen))] {
        let mut watchdog = Watchdog::start(saved, BOOT, now(50_000));
        let early = watchdog.decide(now(54_999), &all);
        assert_eq!((killed(&early), early.next), (vec![], Some(ms(55_000))), "{what}");
        assert!(!watchdog.lease().may_start(now(54_999), all["a"]), "{what}");
        assert!(watchdog.lease().may_start(now(54_999), all["free"]), "{what}");
        let mut asked = watchdog.clone();
        assert_eq!(asked.answered(now(52_000), now(54_000), &age(10_000)), Taken::Renewed, "{what}");
        assert_eq!(killed(&asked.decide(now(131_999), &all)), [], "{what}");
        assert_eq!(killed(&watchdog.decide(now(55_000), &all)), [("a", Cause::NeverGranted)], "{what}");
        // Starting again and again gives no time.
        let mut again = Watchdog::start(Some(&save(&watchdog)), BOOT, now(60_000));
        assert_eq!(killed(&again.decide(now(60_000), &all)), [("a", Cause::NeverGranted)], "{what}");
    }
    // What cannot be of this boot is not believed.
    assert_eq!(Watchdog::start(Some(&kept), BOOT, now(99_000)).lease(), Lease::None { until: ms(104_000) });
    let far = Saved { lease: Lease::None { until: ms(900_000) }, ..kept };
    assert_eq!(Watchdog::start(Some(&far), BOOT, now(99_000)).lease(), Lease::None { until: ms(104_000) });
}

#[test]
fn a_jump_is_not_forgotten_by_a_restart() {
    let mut watchdog = granted(100_000, 0);
    watchdog.decide(at(101_000, 5_000_000), &BTreeMap::new());
    let mut again = Watchdog::start(Some(&save(&watchdog)), BOOT, at(102_000, 5_000_000));
    let all = members(&[("a", "60/90")]);
    assert_eq!(killed(&again.decide(at(102_000, 5_000_000), &all)), [("a", Cause::ClockJump)]);
}

#[test]
fn only_what_a_watchdog_writes_is_read() {
    let good = save(&granted(100_000, 2_000)).to_string();
    assert_eq!(
        good,
        "atoll-watchdog 1\nboot boot-1\nlease granted 98000000000 100000000000 1100000000000\n\
         pod a ns/a c-1 0 7 3/4 -\npod b ns/b c-1 1 7 none -\n"
    );
    for bad in [
        "",
        "atoll-watchdog 2\nboot b\nlease jumped\n",
        "atoll-watchdog 1\nboot b\n",
        "atoll-watchdog 1\nboot b\nlease forever\n",
        "atoll-watchdog 1\nboot b\nlease granted 1 2\n",
        "atoll-watchdog 1\nboot b\nlease granted 3 2 1\n",
        "atoll-watchdog 1\nboot b\nlease jumped\npod a\n",
        "atoll-watchdog 1\nboot b\nlease jumped\npod a ns/a c 0 1 sometimes -\n",
        "atoll-watchdog 1\nboot b\nlease jumped\npod a ns/a c 0 1 3/4 mercy\n",
    ] {
        assert_eq!(bad.parse::<Saved>(), Err(UnreadableError), "{bad}");
    }
}

#[test]
fn containers_of_members_start_under_a_live_lease_only() {
    let saved = |lease| Saved {
        boot_id: BOOT.to_owned(),
        lease,
        pods: pods(&[("short", "3/4"), ("long", "60/90"), ("free", "none")]),
    };
    let held = saved(granted(100_000, 2_000).lease());
    let expired =
        |age: u64, stop| Admission::Refused(Refusal::Expired { age: ms(age), stop: Duration::from_secs(stop) });
    for (saved, clocks, pod, expected) in [
        (&held, now(100_999), "ns/short", Admission::Granted),
        (&held, now(101_000), "ns/short", expired(3_000, 3)),
        (&held, now(101_000), "ns/long", Admission::Granted),
        (&held, now(158_000), "ns/long", expired(60_000, 60)),
        (&held, now(900_000), "ns/free", Admission::Granted),
        (&held, now(100_999), "ns/new", Admission::Unlisted),
        (&held, at(100_999, 2_000_000), "ns/short", Admission::Refused(Refusal::ClockJump)),
        (&held, now(99_999), "ns/short", Admission::Refused(Refusal::OtherBoot)),
        (&saved(Lease::Jumped), now(100_999), "ns/long", Admission::Refused(Refusal::ClockJump)),
        (&saved(Lease::None { until: ms(900_000) }), now(1), "ns/long", Admission::Refused(Refusal::NeverGranted)),
        (&saved(Lease::None { until: ms(0) }), now(1), "ns/free", Admission::Granted),
    ] {
        assert_eq!(admission(saved, BOOT, clocks, pod), expected, "{pod} at {clocks:?}");
    }
    assert_eq!(admission(&held, "boot-2", now(100_999), "ns/free"), Admission::Refused(Refusal::OtherBoot));
    // A pod that is being killed, also beside a newer one of its name.
    let mut twice = held.clone();
    let dying = Pod { condemned: Some(Cause::Named), ..twice.pods["free"].clone() };
    twice.pods.insert("zero".to_owned(), dying);
    let condemned = Admission::Refused(Refusal::Condemned(Cause::Named));
    assert_eq!(admission(&twice, BOOT, now(100_999), "ns/free"), condemned);
}

/// What happens to a node.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes.
    Wait(u64),
    /// A request is sent.
    Ask,
    /// The answer to one of the requests in flight arrives, however late; the agent lost its memory or not.
    Answer { which: usize, granted: bool },
    /// The agent's heartbeat is granted.
    Grant,
    /// The watchdog is killed and starts again.
    Restart,
    /// The wall clock is set.
    SetWall(u64),
    /// The machine stands still, and the wall clock is right again afterwards.
    Pause(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u64..3_000).prop_map(Event::Wait),
        4 => Just(Event::Ask),
        4 => (0usize..4, any::<bool>()).prop_map(|(which, granted)| Event::Answer { which, granted }),
        3 => Just(Event::Grant),
        1 => Just(Event::Restart),
        1 => (0u64..3_000).prop_map(Event::SetWall),
        1 => (0u64..200_000).prop_map(Event::Pause),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// In true time, which only the test knows: as long as a member lives after a look, some grant is younger than its
    /// time to kill, but for a pause that is below the tolerance or was set away.
    #[test]
    fn nobody_outlives_a_true_grant(events in prop::collection::vec(event(), 1..80), stop in 1u64..20, gap in 1u64..20) {
        let times = Times::from_seconds(stop, stop + gap);
        let all = BTreeMap::from([("a".to_owned(), times), ("free".to_owned(), Times::Never)]);
        let (mut boot, mut wall, mut truth) = (1_000_000u64, 9_000_000u64, 1_000_000u64);
        let mut hidden = 0u64;
        let mut grant = None::<u64>;
        let mut flying: Vec<(Clocks, u64)> = Vec::new();
        let clocks = |boot, wall| Clocks { boot: ms(boot), wall: ms(wall) };
        let mut watchdog = Watchdog::start(None, BOOT, clocks(boot, wall));
        let started = boot;
        let mut previous = watchdog.lease();
        for event in events {
            let at = clocks(boot, wall);
            match event {
                Event::Wait(time) => { boot += time; wall += time; truth += time; }
                Event::Ask => flying.push((at, truth)),
                Event::Answer { which, granted } if which < flying.len() => {
                    // The agent answers as it hears, at the latest now.
                    let (asked, _) = flying.remove(which);
                    let age = grant.filter(|_| granted).map(|grant| ms(truth - grant));
                    watchdog.answered(asked, at, &Answer { age, kill: Vec::new() });
                }
                Event::Answer { .. } => {}
                Event::Grant => grant = Some(truth),
                Event::Restart => {
                    flying.clear();
                    let saved = save(&watchdog);
                    let mut again = Watchdog::start(Some(&saved.to_string().parse().unwrap()), BOOT, at);
                    prop_assert_eq!(again.decide(at, &all), watchdog.decide(at, &all));
                    watchdog = again;
                }
                Event::SetWall(by) => { wall += by; hidden += by; }
                Event::Pause(time) => { wall += time; truth += time; hidden += time; }
            }
            let at = clocks(boot, wall);
            let decision = watchdog.decide(at, &all);
            prop_assert!(!decision.kill.contains_key("free"));
            // It never moves back, unless the clocks jumped.
            if let (Lease::Granted { granted: before, .. }, Lease::Granted { granted: after, .. }) = (previous, watchdog.lease()) {
                prop_assert!(after >= before || hidden > 1_000);
            }
            previous = watchdog.lease();
            if !decision.kill.contains_key("a") {
                let limit = (stop + gap) * 1_000;
                match watchdog.lease() {
                    Lease::None { until } => prop_assert!(until == ms(started) + PATIENCE && at.boot < until),
                    Lease::Jumped => prop_assert!(false, "alive after a jump"),
                    Lease::Granted { .. } => {
                        let grant = grant.expect("never granted, and yet a lease");
                        // Setting the wall clock right after a pause could hide one second of it at most.
                        prop_assert!(truth - grant < limit + 1_000, "{} ms old", truth - grant);
                    }
                }
            }
        }
    }
}
