//! Messages of agents that chance makes and breaks, through everything that looks at them before anything is written.
//!
//! `ATOLL_FUZZ_MESSAGES` is how many, `ATOLL_SEED` what the chance comes from. `make fuzz-wire` makes many.

use atoll_wire::limits::{MAX_DEVICES_PER_NODE, MAX_REPORT_MEMBERS, MAX_TEXT_BYTES};
use atoll_wire::v1::{self, agent_message::Message as FromAgent};
use atoll_wire_client::chance::{key, mutate, number, text};
use jiff::Timestamp;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::session::{checked, sync};
use super::{fixtures, inventory, reports};

const MESSAGES: u64 = 20_000;

fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn small(random: &mut StdRng, usual: u32) -> u32 {
    u32::try_from(number(random, usual.into())).unwrap_or(u32::MAX)
}

fn own() -> v1::SliceKey {
    v1::SliceKey { namespace: "default".to_owned(), name: "train-1".to_owned(), cluster_uid: "uid-train".to_owned() }
}

fn many(random: &mut StdRng, most: usize) -> usize {
    if random.random_bool(0.01) { most } else { random.random_range(0..4) }
}

fn hello(random: &mut StdRng) -> v1::Hello {
    let count = many(random, 12_000);
    v1::Hello {
        agent_version: text(random, "0.1.0"),
        boot_id: text(random, "8c6a1b7e-0a53-4f4e-9a44-4c5b1f0e7d21"),
        inventory_digest: vec![random.random(); random.random_range(0..40)],
        slices: (0..count)
            .map(|_| v1::SliceDigest { key: key(random, &own()), digest: vec![0; random.random_range(0..40)] })
            .collect(),
        availability: random.random_range(-1..5),
    }
}

fn node(random: &mut StdRng) -> v1::Node {
    let count = many(random, MAX_DEVICES_PER_NODE + 1);
    v1::Node {
        name: text(random, "n-0"),
        product: text(random, "NVIDIA-H100-80GB-HBM3"),
        memory_mib: number(random, 81_559),
        allocatable: small(random, 8),
        used_by_others: small(random, 0),
        ready: random.random(),
        driver: text(random, "570.86.15"),
        unschedulable: random.random(),
        price_per_gpu_hour: text(random, "2.50"),
        unhealthy: small(random, 1),
        devices: (0..count)
            .map(|index| v1::Device {
                uuid: text(random, &format!("GPU-{index}")),
                health: random.random_range(0..5),
                reasons: (0..random.random_range(0..3))
                    .map(|_| v1::DeviceReason { code: text(random, "RowRemapFailed"), message: text(random, "x") })
                    .collect(),
                product: text(random, ""),
                memory_mib: number(random, 0),
                profile: text(random, "1g.10gb"),
            })
            .collect(),
        fence: random.random_range(0..4),
    }
}

fn report(random: &mut StdRng) -> v1::SliceReport {
    let count = many(random, MAX_REPORT_MEMBERS + 1);
    v1::SliceReport {
        key: key(random, &own()),
        observed_epoch: number(random, 3),
        observed_generation: i64::from_ne_bytes(number(random, 1).to_ne_bytes()),
        reservation: random.random_range(-1..5),
        reason: text(random, ""),
        message: text(random, "hello"),
        members: (0..u32::try_from(count).unwrap())
            .map(|rank| v1::Member {
                rank: small(random, rank),
                incarnation: number(random, 3),
                phase: random.random_range(0..9),
                node: text(random, "n-0"),
                address: text(random, "10.0.0.1"),
                reason: text(random, ""),
                message: text(random, "x"),
            })
            .collect(),
        gone: random.random_bool(0.2),
    }
}

fn message(random: &mut StdRng) -> v1::AgentMessage {
    let message = match random.random_range(0..8) {
        0 => FromAgent::Hello(hello(random)),
        1 => FromAgent::Heartbeat(v1::Heartbeat { sequence: number(random, 1) }),
        2..4 => {
            let nodes = (0..many(random, 40)).map(|_| node(random)).collect();
            let removed = (0..many(random, 40)).map(|_| text(random, "n-0")).collect();
            FromAgent::Inventory(v1::InventoryDelta { full: random.random(), nodes, removed, more: random.random() })
        }
        _ => FromAgent::SliceReport(report(random)),
    };
    v1::AgentMessage { message: Some(message) }
}

/// What the gateway would do with it, without a gateway; whether any of it was believed.
fn taken(message: v1::AgentMessage) -> bool {
    let (site, slice) = (fixtures::site("site-a"), fixtures::slice("default", "train-1", "site-a", 3));
    match message.message {
        Some(FromAgent::Hello(hello)) => {
            let Ok(hello) = checked(hello) else { return false };
            sync::first(&slice, &sync::held(&hello)).unwrap();
            true
        }
        Some(FromAgent::Inventory(delta)) => {
            let mut any = false;
            for node in delta.nodes.iter().filter(|node| inventory::check(node).is_ok()) {
                any = true;
                let copy = inventory::gpu_node(&site, node, &[]);
                let name = copy.metadata.name.clone().unwrap();
                assert!(name.starts_with("site-a.") && name.len() <= 253, "{name:?}");
                let bytes = serde_json::to_vec(&(&copy.spec, &copy.status)).unwrap().len();
                assert!(bytes <= 2_048, "{bytes} bytes of {node:?}");
                let said = inventory::reported(&copy);
                let again = inventory::gpu_node(&site, &said, &[]);
                assert_eq!(again.status, copy.status, "a copy says what it was made of");
            }
            any
        }
        Some(FromAgent::SliceReport(report)) => {
            let now = Timestamp::UNIX_EPOCH;
            let found = report.key.as_ref().filter(|key| reports::cache_key(key) == "default/train-1");
            let Ok(status) = reports::status(&report, "site-a", 1, found.map(|_| &slice), now) else { return false };
            assert_eq!(report.key, Some(own()), "only of its own slice");
            assert!(reports::status(&report, "site-b", 1, Some(&slice), now).is_err(), "another Site may not say it");
            assert!(status.observed_epoch <= 3 && status.members.len() <= MAX_REPORT_MEMBERS);
            let texts = status.members.iter().flat_map(|m| [&m.node, &m.address, &m.reason, &m.message]);
            for text in texts.chain([&status.reason, &status.message]).flatten() {
                assert!(text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control), "{text:?}");
            }
            assert!(reports::is_urgent(None, &status) && !reports::is_urgent(Some(&status), &status));
            true
        }
        Some(FromAgent::Heartbeat(_) | FromAgent::Availability(_)) | None => true,
    }
}

#[test]
fn messages_of_agents_that_chance_made_are_believed_or_refused_and_nothing_else() {
    let (messages, seed) = (setting("ATOLL_FUZZ_MESSAGES", MESSAGES), setting("ATOLL_SEED", 1));
    println!("ATOLL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut unreadable, mut believed) = (0_u64, 0_u64);
    for _ in 0..messages {
        let made = message(&mut random);
        let mut bytes = made.encode_to_vec();
        if random.random_bool(0.5) {
            mutate(&mut random, &mut bytes);
        }
        match v1::AgentMessage::decode(bytes.as_slice()) {
            Ok(message) => believed += u64::from(taken(message)),
            Err(_) => unreadable += 1,
        }
    }
    println!("{messages} messages: {unreadable} are none, {believed} are believed, the others refused");
    assert!(unreadable > 0 && believed > messages / 20 && believed < messages * 19 / 20, "{unreadable} {believed}");
}
