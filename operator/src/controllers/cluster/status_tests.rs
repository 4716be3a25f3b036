//! Statuses, case by case.

use std::collections::BTreeSet;

use atoll_api::conditions::{self, cluster as types, cluster_reason as reason};
use atoll_api::{ClusterStatus, PlacedNode, PlacedSite, PlacementStatus};
use atoll_core::cluster::{Cause, End, Kind, Member, Policy, Step, Tally, Terms, Want};
use atoll_core::inventory::Inventory;
use atoll_core::placement::{self, Refusal, Request};
use atoll_core::words::{Selection, Span, Trust, Workload};
use jiff::Timestamp;

use super::status::{Ailing, Facts, compose, invalid, is_transition};

fn terms(kind: Kind, count: u32, min: u32) -> Terms {
    Terms { kind, count, min, backoff_limit: 6, duration: None, ttl: None, suspend: false, policy: Policy::Replace }
}

fn placement(count: i32) -> PlacementStatus {
    let site = |site: &str, rank, count| PlacedSite {
        site: site.to_owned(),
        price: Some("2.5".to_owned()),
        nodes: vec![PlacedNode { name: "n".to_owned(), rank, count, incarnation: 1 }],
    };
    let sites = if count == 1 { vec![site("a", 0, 1)] } else { vec![site("a", 0, 1), site("b", 1, count - 1)] };
    PlacementStatus { epoch: 1, term: 1, gpus: 2, sites, ..PlacementStatus::default() }
}

fn step(placed: u32, ready: u32) -> Step {
    let keep =
        (0..placed).map(|rank| Member { rank, incarnation: 1, site: "a".to_owned(), node: "n".to_owned() }).collect();
    Step { keep, tally: Tally { ready, ..Tally::default() }, ..Step::default() }
}

fn refusal() -> Refusal {
    let request = Request {
        cluster: "u".to_owned(),
        workload: Workload::Training,
        models: vec!["h100".to_owned()],
        families: Vec::new(),
        min_memory_mib: 0,
        gpus_per_member: 2,
        ranks: vec![0, 1],
        min_new: 2,
        span: Span::Any,
        anchored_site: None,
        anchored_region: None,
        regions: Selection::default(),
        suppliers: Selection::default(),
        min_trust: Trust::Untrusted,
        max_price: None,
    };
    placement::place(&Inventory::new(), &request).unwrap_err()
}

fn status(
    old: &ClusterStatus,
    terms: &Terms,
    step: &Step,
    refusal: Option<&Refusal>,
    placed: i32,
    at: i64,
) -> ClusterStatus {
    status_with(old, terms, step, (refusal, &[]), placed, at)
}

fn status_with(
    old: &ClusterStatus,
    terms: &Terms,
    step: &Step,
    (refusal, ailing): (Option<&Refusal>, &[Ailing]),
    placed: i32,
    at: i64,
) -> ClusterStatus {
    let facts = Facts {
        stuck: None,
        uid: "u",
        generation: Some(3),
        terms,
        step,
        refusal,
        epoch: 1,
        placement: (placed > 0).then(|| placement(placed)),
        ailing,
        endpoint: None,
        now: Timestamp::from_second(at).unwrap(),
    };
    compose(old, &facts, &str::to_uppercase)
}

/// State, Ready's status and reason, Placed's status.
fn told(status: &ClusterStatus) -> (&str, &str, &str, &str) {
    let ready = conditions::condition(&status.conditions, types::READY).unwrap();
    let placed = conditions::condition(&status.conditions, types::PLACED).unwrap();
    (status.state.as_deref().unwrap(), &ready.status, &ready.reason, &placed.status)
}

#[test]
fn states_conditions_and_reasons_follow_what_is_known() {
    let pods = terms(Kind::Pods, 4, 4);
    let elastic = terms(Kind::Pods, 4, 2);
    let mut suspended = pods.clone();
    suspended.suspend = true;
    let no = refusal();
    let mut reserving = step(4, 0);
    reserving.tally.reserving = 4;
    let mut cut_off = step(4, 3);
    cut_off.tally.cut_off = 1;
    cut_off.tally.lost_sites = BTreeSet::from(["b".to_owned()]);
    let mut ended = step(0, 0);
    ended.end = Some(End::Succeeded);
    ended.cause = Some(Cause::Ended);
    let mut failed = ended.clone();
    failed.end = Some(End::BackoffLimitExceeded);
    let mut waits = step(2, 2);
    waits.want = Some(Want { ranks: vec![2, 3], min_new: 1 });
    let mut refused = step(0, 0);
    refused.cause = Some(Cause::Refused);
    let table = [
        (&pods, step(0, 0), Some(&no), 0, ("Pending", "False", reason::NO_SUCH_GPU, "False")),
        (&pods, refused, None, 0, ("Pending", "False", reason::SITE_REFUSED, "False")),
        (&pods, reserving, None, 4, ("Starting", "False", reason::RESERVING, "True")),
        (&pods, step(4, 0), None, 4, ("Starting", "False", reason::MEMBERS_STARTING, "True")),
        (&pods, step(4, 3), None, 4, ("Starting", "False", reason::MEMBERS_STARTING, "True")),
        (&pods, step(4, 4), None, 4, ("Running", "True", reason::MEMBERS_READY, "True")),
        (&pods, cut_off, None, 4, ("Degraded", "False", reason::SITE_LOST, "True")),
        (&elastic, waits, Some(&no), 2, ("Degraded", "True", reason::MEMBERS_MISSING, "True")),
        (&suspended, step(0, 0), None, 0, ("Suspended", "False", reason::SUSPENDED, "False")),
        (&pods, ended, None, 0, ("Complete", "False", reason::SUCCEEDED, "False")),
        (&pods, failed, None, 0, ("Failed", "False", reason::BACKOFF_LIMIT_EXCEEDED, "False")),
    ];
    for (terms, step, refusal, placed, expected) in table {
        let status = status(&ClusterStatus::default(), terms, &step, refusal, placed, 100);
        assert_eq!(told(&status), expected, "{step:?}");
    }
}

#[test]
fn columns_are_sums_of_the_commit() {
    let status = status(&ClusterStatus::default(), &terms(Kind::Pods, 4, 4), &step(4, 3), None, 4, 100);
    assert_eq!((status.ready, status.total, status.gpus), (3, 4, 8));
    assert_eq!(status.ready_members.as_deref(), Some("3/4"));
    assert_eq!(status.location.as_deref(), Some("2 Sites"));
    assert_eq!(status.price_per_hour.as_deref().and_then(|price| price.parse::<f64>().ok()), Some(20.0));
    assert_eq!(status.selector.as_deref(), Some("atoll.dev/cluster-uid=u"));
    let one = self::status(&ClusterStatus::default(), &terms(Kind::Pods, 1, 1), &step(1, 1), None, 1, 100);
    assert_eq!(one.location.as_deref(), Some("A"));
}

#[test]
fn the_same_facts_later_give_the_same_status_and_times_of_transition_stay() {
    let pods = terms(Kind::Pods, 4, 4);
    let first = status(&ClusterStatus::default(), &pods, &step(4, 3), None, 4, 100);
    assert_eq!(status(&first, &pods, &step(4, 3), None, 4, 200), first);
    let fewer = status(&first, &pods, &step(4, 2), None, 4, 200);
    assert_ne!(fewer, first);
    assert!(!is_transition(&first, &fewer), "one more or less that is Ready may wait a second");
    let ready = status(&first, &pods, &step(4, 4), None, 4, 300);
    assert!(is_transition(&first, &ready));
    let time = |status: &ClusterStatus, type_| {
        conditions::condition(&status.conditions, type_).unwrap().last_transition_time.0.as_second()
    };
    assert_eq!((time(&ready, types::READY), time(&ready, types::PLACED)), (300, 100));
}

#[test]
fn an_end_is_dated_once_and_suspension_is_remembered_as_over() {
    let mut pods = terms(Kind::Pods, 4, 4);
    pods.suspend = true;
    let held = status(&ClusterStatus::default(), &pods, &step(0, 0), None, 0, 100);
    assert!(conditions::is_true(&held.conditions, types::SUSPENDED));
    pods.suspend = false;
    let resumed = status(&held, &pods, &step(0, 0), None, 0, 200);
    assert_eq!(conditions::condition(&resumed.conditions, types::SUSPENDED).unwrap().status, "False");
    let mut end = step(0, 0);
    end.end = Some(End::DurationReached);
    let ended = status(&resumed, &pods, &end, None, 0, 300);
    assert_eq!(ended.finished_at.as_ref().unwrap().0.as_second(), 300);
    assert!(conditions::is_true(&ended.conditions, types::COMPLETE));
}

#[test]
fn a_spec_that_cannot_be_understood_keeps_what_is_held() {
    let pods = terms(Kind::Pods, 4, 4);
    let running = status(&ClusterStatus::default(), &pods, &step(4, 4), None, 4, 100);
    let now = Timestamp::from_second(200).unwrap();
    let bad = invalid(&running, Some(4), "spec.duration: \"soon\" is not a duration", now);
    assert_eq!(bad.placement, running.placement);
    let ready = conditions::condition(&bad.conditions, types::READY).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", reason::INVALID));
}

#[test]
fn members_on_unhealthy_gpus_are_named_and_change_nothing_else() {
    let pods = terms(Kind::Pods, 4, 4);
    let ailing = |ranks: std::ops::Range<i32>| -> Vec<Ailing> {
        let one = |rank| Ailing {
            rank,
            site: "a".to_owned(),
            node: "n".to_owned(),
            what: format!("GPU-{rank} is Unhealthy, RowRemapFailed: {}", "replace it ".repeat(40)),
        };
        ranks.map(one).collect()
    };
    let with = |old: &ClusterStatus, ailing: &[Ailing], at| status_with(old, &pods, &step(4, 4), (None, ailing), 4, at);
    let well = with(&ClusterStatus::default(), &[], 100);
    assert!(conditions::condition(&well.conditions, types::GPUS_HEALTHY).is_none(), "nothing to say");
    let sick = with(&well, &ailing(0..5), 200);
    assert!(is_transition(&well, &sick));
    assert_eq!(told(&sick), told(&well));
    let said = conditions::condition(&sick.conditions, types::GPUS_HEALTHY).unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", reason::GPU_UNHEALTHY));
    assert!(said.message.starts_with("rank 0 on n of A: GPU-0 is Unhealthy, RowRemapFailed"), "{}", said.message);
    assert!(said.message.contains("rank 2 on") && said.message.ends_with("; and 2 more members"), "{}", said.message);
    assert!(said.message.len() < 1_000);
    assert_eq!(with(&sick, &ailing(0..5), 300), sick, "told once");
    let recovered = with(&sick, &[], 400);
    let said = conditions::condition(&recovered.conditions, types::GPUS_HEALTHY).unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("True", reason::ALL_HEALTHY));
}
