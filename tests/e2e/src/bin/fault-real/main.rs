//! `make fault-real`: faults on real processes in network namespaces, judged by who really ran when.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use atoll_e2e::faults::judge::Verdict;
use atoll_e2e::faults::report::{Report, line};
use atoll_e2e::faults::trial::Rounds;
use atoll_e2e::faults::{Fault, Times, World, boot_now, world};
use clap::Parser;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::signal::unix::{SignalKind, signal};

/// Cuts links, kills and freezes processes of a real network, and judges what its members did meanwhile.
#[derive(Debug, Parser)]
#[command(name = "fault-real")]
struct Args {
    /// Trials: a trial is one fault and one Cluster that it touches. One fault makes several.
    #[arg(long, default_value_t = 200)]
    trials: usize,
    /// Use Atoll's default times instead of a tenth.
    #[arg(long)]
    full: bool,
    /// Begin no more faults after so many minutes.
    #[arg(long, default_value_t = 90)]
    minutes: u64,
    /// Sites, each with one real node.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    sites: u8,
    /// Seed of all choices. Default: by chance, and printed.
    #[arg(long, env = "ATOLL_SEED")]
    seed: Option<u64>,
    /// Only faults whose name contains this; may be given several times.
    #[arg(long)]
    only: Vec<String>,
    /// Start no watchdogs: what they are for then goes wrong, and the judge has to see it.
    #[arg(long)]
    without_watchdog: bool,
    /// Where the results go.
    #[arg(long, default_value = "target/faults/real.json")]
    output: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run(Args::parse())).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nfault-real stopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<bool> {
    if let Some(reason) = world::unsupported() {
        bail!("CANNOT RUN HERE, nothing was tried: {reason}");
    }
    let times = if args.full { Times::FULL } else { Times::TENTH };
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("ATOLL_SEED={seed}");
    let mut report = Report::new(seed, &times, args.trials);
    let (mut interrupt, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let done = {
        let work = Box::pin(trials(&args, times, seed, &mut report));
        tokio::select! {
            done = work => done,
            _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = term.recv() => Err(anyhow::anyhow!("told to end")),
        }
    };
    // Every process has ended here: the world went with the future that held it.
    if let Err(error) = &done {
        report.ended_early = Some(format!("{error:#}"));
        println!("\nThe run ended early: {error:#}");
    }
    report.write(&args.output).context("write the results")?;
    println!("\n{}", report.table());
    println!(
        "\n{} trials of {} in {:.0} s, {} as promised, {} with two incarnations at once, {} late; nodes looked at {} times, \
         {} ms apart at most, load up to {:.1}; {}",
        report.trials.len(),
        report.asked,
        report.seconds,
        report.count(&Verdict::Held),
        report.count(&Verdict::Double),
        report.count(&Verdict::Late),
        report.looks,
        report.largest_gap_milliseconds,
        report.load(),
        args.output.display(),
    );
    Ok(done.is_ok() && report.passed())
}

async fn trials(args: &Args, times: Times, seed: u64, report: &mut Report) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    println!("Starting a hub and {} Sites with real nodes …", args.sites);
    let world = World::start(args.sites.into(), times, !args.without_watchdog).await?;
    rounds(args, &world, &mut rng, report).await
}

async fn rounds(args: &Args, world: &World, rng: &mut StdRng, report: &mut Report) -> Result<()> {
    let wanted = |fault: &Fault| args.only.is_empty() || args.only.iter().any(|part| fault.name().contains(part));
    let possible = |fault: &Fault| !args.without_watchdog || !fault.of_watchdog();
    let kinds: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| wanted(fault) && possible(fault)).collect();
    if kinds.is_empty() {
        bail!("no fault is left to try");
    }
    println!("{} kinds of faults; {} Clusters stand.", kinds.len(), world.standing.len());
    let end = boot_now() + Duration::from_mins(args.minutes);
    let mut rounds = Rounds::default();
    let mut order: Vec<Fault> = Vec::new();
    while report.trials.len() < args.trials {
        if boot_now() > end {
            bail!("{} minutes are over", args.minutes);
        }
        if order.is_empty() {
            order.clone_from(&kinds);
            order.shuffle(rng);
        }
        let Some(fault) = order.pop() else { continue };
        let target = target(world, fault, rng);
        let expect = fault.expect(&world.times);
        println!("      {}, promised: {expect:?} …", fault.name());
        let (trials, settled) = rounds.round(world, fault, target).await?;
        report.note(world.witness.summary());
        for trial in trials {
            report.trials.push(trial);
            if let Some(trial) = report.trials.last() {
                println!("{}", line(report.trials.len(), trial));
            }
        }
        if !settled {
            println!("      The world is not whole yet; waiting once more.");
            world.mend().await?;
            world.settle(Duration::from_mins(3)).await.context("the world did not become whole again")?;
        }
    }
    Ok(())
}

/// A Site that has members, so that losing it touches somebody; for the hub, a number that chooses the gateway.
fn target(world: &World, fault: Fault, rng: &mut StdRng) -> usize {
    let alive = world.standing_runs(world.witness.alive());
    let sites: Vec<usize> = (0..world.nodes.len())
        .filter(|index| {
            let name = world.site(*index).map(|(site, _)| site.options.name.as_str());
            alive.iter().any(|run| Some(run.site.as_str()) == name)
        })
        .collect();
    let number = rng.random_range(0..1_000_usize);
    if fault.of_site() { sites.get(number % sites.len().max(1)).copied().unwrap_or(0) } else { number }
}
