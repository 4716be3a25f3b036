//! Agents that lie, break the protocol and waste what the gateway has, over real TLS against a real gateway on a real API
//! server: nothing that is not their own is read or changed, everything refused is counted, and nobody else notices.
//!
//! `ATOLL_HOSTILE_REQUESTS` is how many requests are made, `ATOLL_SEED` what the chance comes from.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "this is a test"
)]

mod attacks;
mod honest;
mod slow;
mod world;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use atoll_testkit::require;
use atoll_wire_client::{Authority, Identity, Validity};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;

use attacks::{Attacker, Tally};
use world::{GATEWAY, OTHERS, World};

/// How many requests are made unless `ATOLL_HOSTILE_REQUESTS` says otherwise.
const REQUESTS: u64 = 20_000;
/// Sites of attackers.
const ATTACKERS: u64 = 16;
/// What the gateway may grow by, whatever is done to it.
const GROWTH: u64 = 192 << 20;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_or_changes_what_is_not_its_own() {
    require!(Core);
    let (requests, seed) = (number("ATOLL_HOSTILE_REQUESTS", REQUESTS), number("ATOLL_SEED", 1));
    println!("ATOLL_SEED={seed}");
    let world = Arc::new(World::start().await);
    let (honest, away) = (world.site(OTHERS).await, world.site(&format!("{OTHERS}-away")).await);
    let mut attackers = Vec::new();
    for number in 0..ATTACKERS {
        attackers.push(world.site(&format!("attacker-{number}")).await);
    }
    let slow =
        [world.site("attacker-drip").await, world.site("attacker-deaf").await, world.site("attacker-crowd").await];
    let all_attackers: Vec<Identity> = attackers.iter().chain(&slow).cloned().collect();
    let others = vec![honest.site.clone(), away.site.clone()];
    let (stop, stopped) = watch::channel(false);
    let beside = tokio::spawn(honest::run(world.endpoint(), honest, stopped));
    world.settled(&others[0]).await;
    let before = world.still(&all_attackers).await;
    let (memory, mark) = (world.gateway.memory(), world.plane.audit().mark().unwrap());
    let refused_before = world.refused().await;

    let began = Instant::now();
    let slow = tokio::spawn(slow::run(Arc::clone(&world), slow));
    let strangers = tokio::spawn(strangers(Arc::clone(&world), others[0].clone(), requests / 1_000));
    let tasks: Vec<_> = attackers
        .iter()
        .zip(0..)
        .map(|(identity, number)| {
            let attacker = Attacker {
                endpoint: world.endpoint(),
                identity: identity.clone(),
                mark: format!("attacker-{number}"),
                others: others.clone(),
                random: StdRng::seed_from_u64(seed + number),
                tally: Tally::default(),
            };
            tokio::spawn(attacker.run(requests / ATTACKERS))
        })
        .collect();
    let mut tally = Tally::default();
    for task in tasks {
        tally = tally.plus(&task.await.unwrap());
    }
    let (handshakes, more) = strangers.await.unwrap();
    let slowly = slow.await.unwrap();
    let all = tally.requests + more + slowly;
    let took = began.elapsed();

    let refused = world.refused().await;
    let new = |what: &str| refused.get(what).copied().unwrap_or(0) - refused_before.get(what).copied().unwrap_or(0);
    let (peak, observed) = (world.gateway.peak_memory(), {
        stop.send_replace(true);
        beside.await.unwrap()
    });
    let line = format!(
        "{all} hostile requests in {:.0} s ({} of them in {} sessions, {} answers looked at): refused {refused:?}; the \
         honest agent beside them got {} leases, the slowest after {:?}; memory of the gateway {} MiB, {} at most\n",
        took.as_secs_f64(),
        tally.requests,
        tally.sessions,
        tally.looked_at,
        observed.grants,
        observed.slowest,
        memory >> 20,
        peak >> 20,
    );
    // Straight to the terminal: the test harness hides what passing tests print.
    std::io::stderr().write_all(line.as_bytes()).ok();

    assert_eq!(world.without(&all_attackers).await, before, "objects of others changed");
    for write in world.plane.audit().writes_since(mark).unwrap() {
        let of_attackers = all_attackers.iter().any(|site| write.name.starts_with(&site.site))
            || write.name.starts_with("slice-attacker-")
            || write.resource == "leases" && write.name == "gw";
        assert!(write.user != GATEWAY || of_attackers, "{write:?}");
    }
    assert_eq!(new("report"), tally.reports, "every report that is not believed is counted");
    assert_eq!(new("node"), tally.nodes, "every node that is not believed is counted");
    assert_eq!(new("protocol") + new("frame"), tally.protocol, "every session that breaks the rules is counted");
    assert!(new("handshake") >= handshakes, "{} of {handshakes}", new("handshake"));
    for what in ["session", "caller", "connection", "idle"] {
        assert!(new(what) > 0, "{what} was never refused");
    }
    assert!(peak < memory + GROWTH, "{peak} bytes");
    world.gateway.check_running().unwrap();
}

/// Who has no certificate, or one that does not count; how many handshakes must have failed, and how many requests that
/// was.
async fn strangers(world: Arc<World>, other: String, rounds: u64) -> (u64, u64) {
    let forged = Authority::forged("Atoll hub CA").unwrap();
    let (mut handshakes, mut requests) = (0, 0);
    for _ in 0..rounds.max(5) {
        let expired = world.authority.site(Validity::Past).unwrap();
        let of_another = forged.site(Validity::Now).unwrap();
        // The name in a certificate is for people; its key is another one's, which the hub does not know.
        let pretender = world.authority.calling_itself(&other).unwrap();
        handshakes += 2;
        for identity in [None, Some(&expired), Some(&of_another), Some(&pretender)] as [Option<&Identity>; 4] {
            requests += attacks::shut_out(&world.endpoint(), identity).await;
        }
    }
    (handshakes, requests)
}
