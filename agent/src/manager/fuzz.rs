//! Messages of a hub that chance makes and breaks, through everything that reads them, and what the manager would do then.
//!
//! `ATOLL_FUZZ_MESSAGES` is how many, `ATOLL_SEED` what the chance comes from. `make fuzz-wire` makes many.

use atoll_wire::limits::MAX_SLICES;
use atoll_wire::v1::{self, hub_message::Message as FromHub};
use atoll_wire_client::chance::{key, mutate, number, text};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::oneshot;

use super::state::{State, Task};
use super::*;
use crate::fixtures::slice_spec;
use crate::runtime::{Observation, Outcome};

const MESSAGES: u64 = 20_000;
/// Messages after which the manager decides.
const ROUND: u64 = 20;

fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn usual(random: &mut StdRng) -> v1::SliceKey {
    let cluster = random.random_range(0..30);
    v1::SliceKey { namespace: "team".into(), name: format!("train-{cluster}"), cluster_uid: format!("uid-{cluster}") }
}

fn spec(random: &mut StdRng, key: Option<&v1::SliceKey>) -> Vec<u8> {
    let uid = key.map_or("uid", |key| key.cluster_uid.as_str()).to_owned();
    let json = slice_spec(|spec| {
        spec["clusterUid"] = uid.into();
        spec["epoch"] = number(random, 4).into();
        spec["gpus"] = number(random, 8).into();
        spec["phase"] = text(random, "Run").into();
        spec["members"][0]["rank"] = number(random, 0).into();
        spec["members"][0]["incarnation"] = number(random, 3).into();
        spec["members"][1]["node"] = text(random, "b").into();
        spec["fence"]["stopSeconds"] = number(random, 60).into();
        spec["fence"]["killSeconds"] = number(random, 90).into();
        spec["template"]["spec"]["containers"][0]["image"] = text(random, "x").into();
        if random.random_bool(0.1) {
            spec["template"]["spec"]["hostNetwork"] = true.into();
        }
    });
    let mut bytes = json.to_string().into_bytes();
    if random.random_bool(0.2) {
        mutate(random, &mut bytes);
    }
    bytes
}

fn message(random: &mut StdRng) -> v1::HubMessage {
    let usual = usual(random);
    let key = key(random, &usual);
    let message = match random.random_range(0..20) {
        0 => FromHub::SyncComplete(v1::SyncComplete { slices: key.into_iter().collect() }),
        1 => FromHub::Grant(v1::Grant { sequence: number(random, 1), next_heartbeat_ms: random.random() }),
        2 => FromHub::Goodbye(v1::Goodbye { reason: random.random_range(-1..9), message: text(random, "bye") }),
        3..6 => FromHub::SliceDeleted(v1::SliceDeleted { key }),
        _ => {
            let spec_json = spec(random, key.as_ref());
            FromHub::Slice(v1::Slice {
                generation: i64::from_ne_bytes(number(random, 1).to_ne_bytes()),
                key,
                spec_json,
            })
        }
    };
    v1::HubMessage { message: Some(message) }
}

/// As the session reads it; None: nothing for the manager.
fn event(message: v1::HubMessage) -> Option<HubEvent> {
    match message.message? {
        FromHub::Slice(slice) => {
            let id = SliceId::from_wire(slice.key)?;
            Some(HubEvent::Slice { id, generation: slice.generation, spec_json: slice.spec_json })
        }
        FromHub::SliceDeleted(slice) => SliceId::from_wire(slice.key).map(HubEvent::Deleted),
        FromHub::SyncComplete(sync) => {
            let listed: Option<Vec<SliceId>> =
                sync.slices.into_iter().map(|key| SliceId::from_wire(Some(key))).collect();
            listed.map(HubEvent::Synced)
        }
        FromHub::Welcome(_) => Some(HubEvent::Begin(oneshot::channel().0)),
        FromHub::Grant(_) | FromHub::Goodbye(_) => None,
    }
}

#[test]
fn messages_of_a_hub_that_chance_made_leave_a_manager_that_still_decides() {
    let (messages, seed) = (setting("ATOLL_FUZZ_MESSAGES", MESSAGES), setting("ATOLL_SEED", 1));
    println!("ATOLL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut state = State::default();
    state.observe(Observation::AllNamespaces(Vec::new()), Duration::ZERO);
    state.observe(Observation::AllGangs(Vec::new()), Duration::ZERO);
    state.observe(Observation::AllPods(Vec::new()), Duration::ZERO);
    let (mut heard, mut refused, mut tasks, mut reports) = (0_u64, 0_u64, 0, 0);
    for number in 0..messages {
        let mut bytes = message(&mut random).encode_to_vec();
        if random.random_bool(0.3) {
            mutate(&mut random, &mut bytes);
        }
        match v1::HubMessage::decode(bytes.as_slice()).ok().and_then(event).map(|event| state.hear(event)) {
            Some(Ok(())) => heard += 1,
            Some(Err(_)) | None => refused += 1,
        }
        if number % ROUND != 0 {
            continue;
        }
        let now = Duration::from_secs(1_000 + number / 100);
        for task in state.decide(now, now) {
            tasks += 1;
            // A Site on which nothing is ever done: what piles up then is what the hub said.
            if let Task::Apply { id, .. } = task {
                state.applied(&id, Outcome::default());
            }
        }
        for (id, report) in state.take_reports() {
            let _written: v1::SliceReport = crate::convert::report(&id, &report);
            reports += 1;
        }
        assert!(state.held().len() <= MAX_SLICES);
    }
    println!("{messages} messages: {heard} heard, {refused} refused; {tasks} tasks and {reports} reports followed");
    assert!(heard > 0 && refused > 0 && tasks > 0 && reports > 0, "{heard} {refused}");
}

#[test]
fn a_hub_that_never_stops_naming_slices_is_not_followed_beyond_what_a_site_can_have() {
    let mut state = State::default();
    let slice = |number: usize| HubEvent::Slice {
        id: SliceId { cluster_uid: "uid".into(), namespace: "team".into(), name: format!("train-{number}") },
        generation: 1,
        spec_json: slice_spec(|_| {}).to_string().into_bytes(),
    };
    for number in 0..MAX_SLICES {
        state.hear(slice(number)).unwrap();
    }
    assert!(state.hear(slice(MAX_SLICES)).is_err());
    assert!(state.hear(slice(0)).is_ok() || state.held().len() == MAX_SLICES);
    assert_eq!(state.held().len(), MAX_SLICES);
}
