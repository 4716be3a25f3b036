use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Attributed, Holders, Ledger, Lister, Listing, Parts, keep};
use crate::engine::script::Script;
use crate::state::{Holder, Round};

const fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn holder(pod: &str) -> Holder {
    Holder { namespace: "team".to_owned(), pod: pod.to_owned(), uid: String::new(), container: "main".to_owned() }
}

fn holds(device: &str, pods: &[&str]) -> Holders {
    [(device.into(), pods.iter().map(|pod| holder(pod)).collect())].into()
}

fn listing(asked: u64, answered: u64, holders: Holders) -> Listing {
    Listing { asked: ms(asked), answered: ms(answered), holders }
}

/// What a sample from 20 to 30 is labelled with.
fn label(ledger: &Ledger) -> Holders {
    ledger.during((ms(20), ms(30)))
}

#[test]
fn who_held_it_before_and_after_is_the_holder() {
    let mut ledger = Ledger::default();
    ledger.listed(listing(10, 15, holds("A", &["x"])));
    ledger.listed(listing(35, 40, holds("A", &["x"])));
    assert_eq!(label(&ledger), holds("A", &["x"]));
}

#[test]
fn who_came_or_went_meanwhile_is_not() {
    for (before, after) in [(holds("A", &[]), holds("A", &["x"])), (holds("A", &["x"]), Holders::default())] {
        let mut ledger = Ledger::default();
        ledger.listed(listing(10, 15, before));
        ledger.listed(listing(35, 40, after));
        assert_eq!(label(&ledger), Holders::default());
    }
    let mut ledger = Ledger::default();
    ledger.listed(listing(10, 15, holds("A", &["x"])));
    ledger.listed(listing(35, 40, holds("A", &["y"])));
    assert_eq!(label(&ledger), Holders::default());
}

#[test]
fn a_pod_made_anew_under_its_name_is_another_one() {
    let mut ledger = Ledger::default();
    ledger.listed(listing(10, 15, holds("A", &["x"])));
    ledger.allocated("A".into(), ms(25));
    ledger.listed(listing(35, 40, holds("A", &["x"])));
    assert_eq!(label(&ledger), Holders::default());
    // The next sample is between lists with no allocation.
    ledger.listed(listing(60, 61, holds("A", &["x"])));
    assert_eq!(ledger.during((ms(45), ms(55))), holds("A", &["x"]));
}

#[test]
fn a_list_that_overlaps_the_sample_proves_nothing() {
    let mut ledger = Ledger::default();
    ledger.listed(listing(10, 22, holds("A", &["x"])));
    ledger.listed(listing(35, 40, holds("A", &["x"])));
    assert_eq!(label(&ledger), Holders::default());
    let mut ledger = Ledger::default();
    ledger.listed(listing(10, 15, holds("A", &["x"])));
    ledger.listed(listing(29, 40, holds("A", &["x"])));
    assert_eq!(label(&ledger), Holders::default());
    ledger.listed(listing(41, 42, holds("A", &["x"])));
    assert_eq!(label(&ledger), holds("A", &["x"]));
}

#[test]
fn a_device_is_held_from_its_allocation_until_a_list_denies_it() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.held(), None);
    ledger.listed(listing(0, 1, Holders::default()));
    assert_eq!(ledger.held(), Some(BTreeSet::new()));
    ledger.allocated("A".into(), ms(10));
    let held = Some(BTreeSet::from(["A".into()]));
    assert_eq!(ledger.held(), held);
    // The kubelet shows the pod only after it has our answer.
    ledger.listed(listing(11, 12, Holders::default()));
    assert_eq!(ledger.held(), held);
    ledger.listed(listing(1000, 1001, holds("A", &["x"])));
    assert_eq!(ledger.held(), held);
    ledger.listed(listing(2000, 2001, Holders::default()));
    assert_eq!(ledger.held(), Some(BTreeSet::new()));
}

#[test]
fn an_allocation_that_came_to_nothing_ends() {
    let mut ledger = Ledger::default();
    ledger.allocated("A".into(), ms(10));
    ledger.listed(listing(9000, 9001, Holders::default()));
    assert!(ledger.held().unwrap().contains("A"));
    ledger.listed(listing(11_000, 11_001, Holders::default()));
    assert!(ledger.held().unwrap().is_empty());
}

/// The kubelet's book of one device, over time: which pod (by UID) holds it from when until when.
#[derive(Debug)]
struct Hold {
    uid: u32,
    name: &'static str,
    /// The kubelet asks this process.
    allocate: u64,
    /// The kubelet counts it as held: some time after the answer.
    from: u64,
    until: u64,
}

/// Pods follow each other on a device; few names, so that most are made anew under one that was there before.
fn history() -> impl Strategy<Value = Vec<Hold>> {
    prop::collection::vec((0..40_u64, 0..10_u64, 1..80_u64, 0..3_usize), 1..40).prop_map(|steps| {
        let mut time = 0;
        let mut holds = Vec::new();
        for (uid, (free, admission, held, name)) in steps.into_iter().enumerate() {
            let allocate = time + free;
            let from = allocate + admission;
            time = from + held;
            let name = ["x", "y", "y"][name];
            holds.push(Hold { uid: u32::try_from(uid).unwrap(), name, allocate, from, until: time });
        }
        holds
    })
}

fn at(history: &[Hold], time: u64) -> Option<&Hold> {
    history.iter().find(|hold| hold.from <= time && time < hold.until)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever starts and stops, and however slow lists are: who is named held the device, as one pod, during all of the
    /// sample; and a holder that stays is named.
    #[test]
    fn no_label_is_wrong(
        history in history(),
        rounds in prop::collection::vec((0..6_u64, 1..20_u64, 0..6_u64, 0..12_u64, 0..12_u64), 1..60),
    ) {
        let mut ledger = Ledger::default();
        let mut told = 0;
        let mut tell = |ledger: &mut Ledger, until: u64, now: u64| {
            while let Some(hold) = history.get(told).filter(|hold| hold.allocate <= until) {
                ledger.allocated("A".into(), ms(now.max(hold.allocate)));
                told += 1;
            }
        };
        let mut time = 0;
        let mut last_list = None;
        for (pause, sample, wait, to_book, from_book) in rounds {
            let span = (time + pause, time + pause + sample);
            let asked = span.1 + wait;
            let (book, answered) = (asked + to_book, asked + to_book + from_book);
            // Drained before the question and after the answer, as `Parts::list` does.
            tell(&mut ledger, asked, asked.saturating_sub(1));
            tell(&mut ledger, answered, answered);
            let shown = at(&history, book);
            let holders = shown.map_or_else(Holders::default, |hold| holds("A", &[hold.name]));
            ledger.listed(Listing { asked: ms(asked), answered: ms(answered), holders });

            let named = ledger.during((ms(span.0), ms(span.1)));
            let during = at(&history, span.0).filter(|hold| span.1 < hold.until);
            if let Some(named) = named.get("A") {
                prop_assert!(during.is_some_and(|hold| named.iter().all(|holder| holder.pod == hold.name)));
            }
            let stays = last_list.zip(during).is_some_and(|((asked, answered), hold): ((u64, u64), &Hold)| {
                hold.from <= asked && hold.allocate < asked && answered <= span.0 && book < hold.until
            }) && history.iter().all(|hold| hold.allocate < last_list.unwrap().0 || hold.allocate > answered);
            prop_assert!(!stays || !named.is_empty(), "{during:?} is not named");
            if let Some(hold) = at(&history, book) {
                prop_assert!(ledger.held().unwrap().contains("A"), "{} is held", hold.uid);
            }
            last_list = Some((asked, answered));
            time = answered;
        }
    }
}

/// A kubelet whose answers a test sets.
#[derive(Clone)]
struct Kubelet(Arc<Mutex<Option<Holders>>>, Script);

impl Lister for Kubelet {
    type Error = String;

    async fn holders(&mut self) -> Result<Holders, String> {
        self.1.pass(ms(1));
        self.0.lock().unwrap().clone().ok_or_else(|| "not there".to_owned())
    }
}

#[tokio::test]
async fn rounds_are_passed_on_with_their_holders_and_without_them_when_the_kubelet_is_away() {
    let script = Script::gpus(1);
    script.world().no_event_sets = true;
    let engine = crate::engine::start(script.backend(), Duration::from_hours(1), script.clock()).unwrap();
    let (rounds, rounds_seen) = watch::channel(Arc::default());
    let (allocated, allocated_taken) = mpsc::unbounded_channel();
    let (attributed, mut seen) = watch::channel(Arc::default());
    let (holders, holders_seen) = watch::channel(Arc::default());
    let kubelet = Kubelet(Arc::default(), script.clone());
    let parts = Parts {
        engine: engine.handle,
        rounds: rounds_seen,
        allocated: allocated_taken,
        lister: kubelet.clone(),
        clock: script.clock(),
        attributed,
        holders,
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(keep(parts, stop.clone()));
    let mut round = async || -> Arc<Attributed> {
        script.pass(ms(1000));
        let at = (script.clock())();
        rounds.send_replace(Arc::new(Round { span: (at, at), ..Round::default() }));
        seen.changed().await.unwrap();
        Arc::clone(&seen.borrow_and_update())
    };
    assert_eq!(round().await.holders, BTreeMap::new());
    *kubelet.0.lock().unwrap() = Some(holds("GPU-0", &["x"]));
    assert_eq!(round().await.holders, BTreeMap::new());
    assert_eq!(round().await.holders, holds("GPU-0", &["x"]));
    allocated.send("GPU-0".into()).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(round().await.holders, BTreeMap::new());
    let fifth = round().await;
    assert_eq!(fifth.holders, holds("GPU-0", &["x"]));
    assert!(fifth.previous.span < fifth.round.span);
    assert_eq!(**holders_seen.borrow(), holds("GPU-0", &["x"]));
    stop.cancel();
    task.await.unwrap();
}
