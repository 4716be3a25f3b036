//! The scheduler is killed at any moment while gangs and single pods come and go, on a real API server.
//!
//! After each restart, in the order in which the API server committed changes: nothing new is bound before each gang that
//! was caught half-bound is whole or undone, which takes 5 s at most. No node is ever over capacity. In the end everything
//! that fits is bound.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ledger;
mod load;

use std::time::{Duration, Instant};

use atoll_api::Gang;
use atoll_api::names::SYSTEM_NAMESPACE;
use atoll_testkit::process::{ManagedProcess, ProcessSpec};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, NodeProfile, nodes, require};
use kube::CustomResourceExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use ledger::Ledger;
use load::Load;

const ACCOUNT: &str = "system:serviceaccount:atoll-system:atoll-scheduler";
const GROUPS: [&str; 2] = ["system:serviceaccounts", "system:serviceaccounts:atoll-system"];
const ROLE: &str = include_str!("../../../deploy/site/scheduler-rbac.yaml");
/// Nodes of 8 GPUs, in racks of [`RACK_NODES`].
const NODES: u32 = 12;
const RACK_NODES: u32 = 4;
/// How long a gang may stay half-bound after a restart.
const HALF_BOUND_LIMIT: Duration = Duration::from_secs(5);
/// In the end something must be bound this soon after there is room.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Kills, unless `ATOLL_FAULT_KILLS` says otherwise.
const KILLS: u32 = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gangs_are_whole_or_undone_after_each_kill_before_anything_new_is_bound() {
    require!(Core);
    let kills = std::env::var("ATOLL_FAULT_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
    let seed = std::env::var("ATOLL_FAULT_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a seed"));
    println!("{kills} kills, ATOLL_FAULT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let plane = ControlPlane::start(ControlPlaneOptions::new("site").crds([Gang::crd()])).await.unwrap();
    plane.create_namespace(SYSTEM_NAMESPACE).await.unwrap();
    plane.kubectl_input(["apply", "-f", "-"], ROLE).await.unwrap().ok().unwrap();
    nodes::create(&plane.client(), &[NodeProfile::h100().named("n", NODES).racks_of(RACK_NODES).without_kwok()])
        .await
        .unwrap();
    let ledger = Ledger::follow(plane.client());
    let mut load = Load::new(plane.client(), ledger.clone());
    let mark = plane.audit().mark().unwrap();
    let scheduler = start(&plane);
    ledger.restarted();

    let started = Instant::now();
    let (mut caught, mut slowest) = (0, Duration::ZERO);
    for kill in 0..kills {
        // Up: some come, some go, and in the middle of it the process dies.
        let moment = Moment::any(&mut random, &ledger);
        let coming = load.arrivals(&mut random);
        let going = load.departures(&mut random);
        let work = async { tokio::join!(load.submit(coming), load.withdraw(going)) };
        tokio::join!(work, async {
            moment.wait(&ledger).await;
            scheduler.kill9().await.unwrap();
            ledger.killed();
        });

        // Down: what was on its way when it died has arrived, and the world goes on.
        ledger.quiet().await;
        let half = ledger.half_bound();
        if !half.is_empty() {
            caught += 1;
        }
        if random.random_range(0..4) == 0 {
            let (coming, going) = (load.arrivals(&mut random), load.departures(&mut random));
            load.submit(coming).await;
            load.withdraw(going).await;
        }
        if random.random_range(0..4) == 0 {
            load.lose_a_member(&half).await;
        }

        ledger.restarted();
        scheduler.restart().await.unwrap();
        // Now and then it dies again while it mends.
        if random.random_range(0..4) > 0 {
            let took = ledger.mended(HALF_BOUND_LIMIT).await;
            slowest = slowest.max(took);
        }
        load.repair().await;
        let wrong = ledger.violations(HALF_BOUND_LIMIT);
        assert!(
            wrong.is_empty(),
            "kill {kill}, seed {seed}: {wrong:#?}\n{}\n{}",
            ledger.history(),
            scheduler.log_tail(5)
        );
        scheduler.check_running().unwrap();
    }
    println!(
        "{kills} kills in {:?}, {caught} caught a gang half-bound, mended within {slowest:?} of the restart; {} pods bound",
        started.elapsed(),
        ledger.bound()
    );
    assert!(kills < KILLS || caught > 0, "no kill came while a gang was being bound");

    drain(&mut load, &ledger, &scheduler).await;
    let wrong = ledger.violations(HALF_BOUND_LIMIT);
    assert!(wrong.is_empty(), "in the end, seed {seed}: {wrong:#?}");
    scheduler.kill9().await.unwrap();
    let forbidden: Vec<_> = plane
        .audit()
        .since(mark)
        .unwrap()
        .into_iter()
        .filter(|event| event.user == ACCOUNT && event.code == 403)
        .collect();
    assert!(forbidden.is_empty(), "{:#?}", forbidden.first());
}

fn start(plane: &ControlPlane) -> ManagedProcess {
    let kubeconfig = plane.kubeconfig_as(ACCOUNT, &GROUPS).unwrap();
    let log = plane.dir().join("scheduler.log");
    let spec = ProcessSpec::new("atoll-scheduler", env!("CARGO_BIN_EXE_atoll-scheduler"), log)
        // Few bindings at once: gangs are half-bound for longer.
        .args(["--leader-elect=false", "--bindings-in-flight=2", "--http-address=127.0.0.1:0", "--kubeconfig"])
        .args([kubeconfig]);
    ManagedProcess::start(spec).unwrap()
}

/// When the process is killed.
enum Moment {
    After(Duration),
    /// When so many pods have been bound in all.
    Bound(usize),
}

impl Moment {
    fn any(random: &mut StdRng, ledger: &Ledger) -> Self {
        if random.random_range(0..3) == 0 {
            Self::After(Duration::from_millis(random.random_range(0..400)))
        } else {
            Self::Bound(ledger.bound() + random.random_range(1..20))
        }
    }

    async fn wait(self, ledger: &Ledger) {
        match self {
            Self::After(time) => tokio::time::sleep(time).await,
            // If nothing fits, then whenever.
            Self::Bound(count) => ledger.wait_bound(count, Duration::from_millis(700)).await,
        }
    }
}

/// What is whole makes room for what waits, until everything has been whole once.
async fn drain(load: &mut Load, ledger: &Ledger, scheduler: &ManagedProcess) {
    while !load.is_empty() {
        load.repair().await;
        let whole = load.whole();
        if whole.is_empty() {
            let before = ledger.bound();
            ledger.wait_bound(before + 1, DRAIN_LIMIT).await;
            load.repair().await;
            assert!(
                ledger.bound() > before,
                "nothing is bound although there is room; waiting: {:#?}\n{}",
                load.waiting(),
                scheduler.log_tail(5)
            );
            continue;
        }
        load.withdraw(whole).await;
    }
}
