//! Whether a pod fits a node, asked of this scheduler and of kube-scheduler's own filter plugins.
//!
//! `kube-filters` (tests/controlplane/cmd/filters) makes small clusters by chance, with pods as an API server stores
//! them, and tells which of the default profile's filters say no to each pod and node. Here the same objects go
//! through everything that the scheduler itself does with them: protobuf, facts, volumes, filters.
//!
//! `ATOLL_FUZZ_PAIRS` is how many pairs of a pod and a node are to be judged, `ATOLL_SEED` what the chance comes from.
#![allow(clippy::expect_used, clippy::panic, reason = "this is a test")]

mod frames;
mod tally;
mod world;

use std::io::Write as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use atoll_testkit::{require, tools};

use frames::Frames;
use tally::Tally;
use world::World;

/// How many pairs are judged unless `ATOLL_FUZZ_PAIRS` says otherwise.
const PAIRS: u64 = 100_000;
/// Worlds that a generator makes before it is asked whether that is enough.
const BATCH: u64 = 200;

/// What this scheduler refuses by name, so that kube-scheduler may say yes: what the pod asks for, and why we do not
/// give it. The pods must then be refused and say this very reason.
const REFUSED: &[(&str, &str)] = &[
    ("resource claims", "devices of DRA are neither chosen nor claimed"),
    ("restart rules for all containers", "which nodes declare this feature is not looked at"),
    ("unbound volumes", "volumes are not bound by this scheduler (WaitForFirstConsumer)"),
];

/// Where the two differ on purpose, or differ without harm, so that the worlds have nothing of it.
const NOT_MADE: &[(&str, &str)] = &[
    ("node that is not ready, without a taint", "we keep away at once, kube-scheduler once the taint is there"),
    ("node that is being deleted", "we keep away, kube-scheduler does not look at it"),
    ("claims of bound pods that are not bound", "we count no volumes by their storage class; such pods cannot run yet"),
    ("one-pod volumes of pods whose node is gone", "we wait until the pods are gone too, kube-scheduler does not"),
    ("VolumeAttachment", "attachments that outlive their pods are not counted against the limits of a node"),
    ("CSIDriver", "preventPodSchedulingIfMissing is not looked at"),
    ("migrated volumes' topology", "topology labels of in-tree volumes are not translated to those of their drivers"),
    ("host's users with its network, bind mounts' options", "need gates that are off; refused by name"),
    ("nominated pods", "kept room for by the queue, not by the filters"),
];

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// A generator that ends with its reader.
struct Generator(Child);

impl Generator {
    fn start(seed: u64, first: u64) -> (Self, Frames<ChildStdout>) {
        let mut command = Command::new(tools::path("kube-filters").expect("the tool"));
        command.args(["generate", "-workers", "1", "-seed", &seed.to_string()]);
        command.args(["-first", &first.to_string(), "-worlds", &BATCH.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a process");
        let frames = Frames::new(child.stdout.take().expect("a pipe"));
        (Self(child), frames)
    }

    fn ended_well(&mut self) -> bool {
        self.0.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn every_node_fits_or_not_as_for_kube_scheduler() {
    require!(Filters);
    let (seed, pairs) = (number("ATOLL_SEED", 1), number("ATOLL_FUZZ_PAIRS", PAIRS));
    println!("ATOLL_SEED={seed}");
    let started = Instant::now();
    let (next, judged, wrong) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut tally = Tally::default();
        while judged.load(Ordering::Relaxed) < pairs && !wrong.load(Ordering::Relaxed) {
            let (mut generator, mut frames) = Generator::start(seed, next.fetch_add(BATCH, Ordering::Relaxed));
            tally.plugins = frames.names();
            while let Some(frame) = frames.next() {
                let before = tally.pairs();
                World::read(&frame).compare(&mut tally);
                judged.fetch_add(tally.pairs() - before, Ordering::Relaxed);
            }
            assert!(generator.ended_well(), "kube-filters failed");
            wrong.fetch_or(!tally.disagreements.is_empty(), Ordering::Relaxed);
        }
        tally
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tally = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let tallies = workers.into_iter().map(|worker| worker.join().expect("a worker"));
        tallies.reduce(Tally::plus).expect("a worker")
    });
    println!("{tally}in {:.1} s", started.elapsed().as_secs_f64());
    // Straight to the terminal: the test harness hides what passing tests print.
    let line = format!("{} pairs judged as kube-scheduler does, {} not\n", tally.agreed(), tally.disagreements.len());
    std::io::stderr().write_all(line.as_bytes()).ok();
    for (what, why) in NOT_MADE {
        println!("not made: {what}: {why}");
    }
    assert!(
        tally.disagreements.is_empty(),
        "{}see the objects with `kube-filters show -seed {seed} -world …` (hack/tools.sh path kube-filters)",
        tally.first_disagreements()
    );
    tally.assert_everything_was_asked();
}
