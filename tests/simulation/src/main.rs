//! Plays trials, or one with its trace.

use std::process::ExitCode;
use std::time::Instant;

use atoll_simulation::rule::Rule;
use atoll_simulation::setup::Scene;
use atoll_simulation::{run, trials};
use clap::Parser;

/// Plays simulated faults against the real decisions of hub, gateways, agents and watchdogs.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Args {
    /// Play this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: print all that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Play this scene only.
    #[arg(long)]
    scene: Option<Scene>,
    /// Without this rule: some trial is to fail.
    #[arg(long)]
    without: Option<Rule>,
    /// Stop after so many trials that failed.
    #[arg(long, default_value_t = 20)]
    failures: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        let outcome = run(seed, args.without, args.trace);
        for line in &outcome.lines {
            println!("{line}");
        }
        println!("seed {seed}: {} acts in {} s of simulated time", outcome.acts, outcome.time / 1_000);
        let Some(verdict) = outcome.verdict else { return ExitCode::SUCCESS };
        println!("FAILED: {:?} at {} ms: {}", verdict.crime, verdict.at, verdict.words);
        return ExitCode::FAILURE;
    }
    let begin = Instant::now();
    let first = args.scene.and_then(Scene::first_seed).unwrap_or(0).saturating_add(args.first);
    let tally = trials::play(first, args.seeds, args.without, args.failures);
    for (what, count) in &tally.counts {
        println!("{count:>9}  {what}");
    }
    for (seed, verdict) in &tally.failed {
        println!("FAILED seed {seed}: {:?} at {} ms: {}", verdict.crime, verdict.at, verdict.words);
    }
    println!(
        "{} trials, {} failed; {} acts in {} simulated hours, {:.1} s",
        tally.trials,
        tally.failed.len(),
        tally.acts,
        tally.time / 3_600_000,
        begin.elapsed().as_secs_f64()
    );
    if tally.failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("play a seed again with --seed N --trace");
    ExitCode::FAILURE
}
