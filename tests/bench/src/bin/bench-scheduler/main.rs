//! Schedulers on a real API server: Atoll's, Kubernetes' own, and none at all.
//!
//! All run on the same machine, against the same kind of control plane, with the same pods, which are there before the
//! scheduler starts. Nodes are simulated and nobody runs the pods, so that what is measured is scheduling alone.

mod contender;
mod load;
mod measure;
mod null_binder;
mod preemption;
mod racks;
mod raw_lists;
mod refusals;
mod restart;
mod throughput;
mod world;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use atoll_bench::{Figure, report};
use atoll_testkit::binaries;
use clap::{Parser, Subcommand};

use contender::Contender;

/// Compares schedulers on a real API server; takes about an hour and a half.
#[derive(Debug, Parser)]
#[command(name = "bench-scheduler")]
struct Args {
    /// Only these sections, by the number of the promise: 1 throughput, 2 racks, 3 refusals, 4 preemption, 5 restart.
    #[arg(long, value_delimiter = ',')]
    only: Vec<u8>,
    /// Only these contenders: null, kube, atoll.
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<String>,
    /// A hundredth of everything, once: shows that the benchmark works, not how fast anything is.
    #[arg(long)]
    quick: bool,
    /// Runs of each measurement that takes seconds; those that take minutes run at most three times.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The atoll-scheduler to measure, instead of the one beside this program.
    #[arg(long)]
    scheduler: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What this program runs as a process of its own, to be measured like a scheduler.
#[derive(Debug, Subcommand)]
enum Part {
    #[command(hide = true)]
    NullBinder(null_binder::Args),
    #[command(hide = true)]
    RawLists(raw_lists::Args),
}

/// What every section needs to know.
struct Bench {
    scheduler: PathBuf,
    contenders: Vec<String>,
    quick: bool,
    runs: usize,
}

impl Bench {
    /// The number, or about a hundredth of it in a quick run; at least `least`.
    fn scaled(&self, number: u32, least: u32) -> u32 {
        if self.quick { (number / 100).max(least) } else { number }
    }

    /// How often to measure what takes minutes.
    fn few_runs(&self) -> usize {
        self.runs.min(3)
    }

    fn measures(&self, contender: &Contender) -> bool {
        self.contenders.is_empty() || self.contenders.iter().any(|name| name == contender.name())
    }

    /// The schedulers proper, Kubernetes' own first.
    fn schedulers(&self) -> Vec<Contender> {
        let mut all = vec![Contender::Kube, Contender::Atoll(self.scheduler.clone())];
        all.retain(|contender| self.measures(contender));
        all
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    match args.part {
        Some(Part::NullBinder(args)) => return null_binder::run(args).await,
        Some(Part::RawLists(args)) => return raw_lists::run(args).await,
        None => {}
    }
    ensure!(args.runs > 0, "--runs must be at least 1");
    let scheduler = match args.scheduler {
        Some(path) => path,
        None => binaries::path("atoll-scheduler")?,
    };
    let whole = args.only.is_empty() && args.contenders.is_empty() && !args.quick;
    let runs = if args.quick { 1 } else { args.runs };
    let bench = Bench { scheduler, contenders: args.contenders, quick: args.quick, runs };
    let mut figures: Vec<Figure> = Vec::new();
    for section in 1..=5 {
        if !args.only.is_empty() && !args.only.contains(&section) {
            continue;
        }
        eprintln!("== section {section}");
        let measured = match section {
            1 => throughput::run(&bench).await,
            2 => racks::run(&bench).await,
            3 => refusals::run(&bench).await,
            4 => preemption::run(&bench).await,
            _ => restart::run(&bench).await,
        };
        figures.extend(measured.with_context(|| format!("section {section}"))?);
    }
    // Figures of a part never replace those of a whole run.
    report(if whole { "scheduler" } else { "scheduler-part" }, &figures)
}
