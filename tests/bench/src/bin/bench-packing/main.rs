//! GPUs left over when a cluster is full, beside fragmentation gradient descent, on the openb trace.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod replay;
mod rivals;
mod trace;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_bench::{Figure, report};
use atoll_core::packing::{Machine, Packer};
use clap::Parser;
use replay::{Policy, replay};
use rivals::{BestFit, Fgd, Scores};
use tabled::builder::Builder;
use tabled::settings::Style;
use trace::{Order, Random, Trace};

/// Pods arrive until they ask for this many percent of the GPUs.
const LOAD: i64 = 130;
const TRACES: [&str; 3] = ["default", "gpuspec33", "multigpu50"];
/// What the published results of the paper's simulator leave over of these traces: `BestFit` and FGD, percent.
const PUBLISHED: [(f64, f64); 3] = [(6.92, 4.61), (6.91, 5.45), (4.26, 2.82)];
const POLICIES: [&str; 4] = ["BestFit", "FGD", "FGD, exact", "Atoll"];

/// Fills a cluster with the pods of the openb trace and reports the GPUs left over; takes a few minutes.
#[derive(Debug, Parser)]
#[command(name = "bench-packing")]
struct Args {
    /// Folder with the lists of the openb trace.
    #[arg(long, value_name = "DIR", env = "ATOLL_OPENB", default_value = "../shared/data/openb")]
    data: PathBuf,
    /// First seed; each seed shuffles and draws other pods.
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    first_seed: u64,
    /// How many seeds.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    seeds: u64,
}

/// GPUs left over by each of the policies, percent, mean of the seeds.
struct Left {
    order: Order,
    trace: usize,
    percent: [f64; POLICIES.len()],
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(
        args.data.is_dir(),
        "no folder {}: the openb trace is not part of this repository; name its folder with --data or ATOLL_OPENB",
        args.data.display()
    );
    ensure!(args.seeds > 0, "no seeds");
    let traces = TRACES
        .iter()
        .map(|name| Trace::read(&args.data, name).with_context(|| format!("trace {name}")))
        .collect::<Result<Vec<_>>>()?;
    let mut left = Vec::new();
    let (mut took, mut pods) = (Duration::ZERO, 0);
    for order in [Order::Shuffled, Order::Trace] {
        for (at, trace) in traces.iter().enumerate() {
            let mut sum = [0.0; POLICIES.len()];
            for seed in args.first_seed..args.first_seed + args.seeds {
                let mut random = Random::new(seed);
                let arrivals = trace.arrivals(order, LOAD, &mut random);
                let mut machines = trace.machines.clone();
                random.shuffle(&mut machines);
                let mut percents = [0.0; POLICIES.len()];
                let run = |policy: &mut dyn Policy, percent: &mut f64| -> Result<Duration> {
                    let started = Instant::now();
                    let full = replay(&machines, &arrivals, policy)?;
                    let free: i64 = full.iter().map(Machine::free_milli).sum();
                    *percent = part(free, trace.capacity());
                    Ok(started.elapsed())
                };
                let [best_fit, fgd, exact, ours] = &mut percents;
                run(&mut BestFit, best_fit)?;
                run(&mut Fgd::new(&trace.pods, Scores::Published), fgd)?;
                run(&mut Fgd::new(&trace.pods, Scores::Exact), exact)?;
                took += run(&mut Packer::new(), ours)?;
                pods += arrivals.len();
                eprintln!("{} {order:?} seed {seed}: {}", TRACES[at], words(&percents));
                for (sum, percent) in sum.iter_mut().zip(&percents) {
                    *sum += percent / f64::from(u32::try_from(args.seeds)?);
                }
            }
            left.push(Left { order, trace: at, percent: sum });
        }
    }
    print(&left);
    let figures = figures(&left, &args, took, pods);
    report("packing", &figures)
}

fn figures(left: &[Left], args: &Args, took: Duration, pods: usize) -> Vec<Figure> {
    let last = args.first_seed + args.seeds - 1;
    let mut figures = Vec::new();
    for Left { order, trace, percent } in left {
        let (name, published) = (TRACES[*trace], PUBLISHED[*trace]);
        let [best_fit, fgd, exact, ours] = percent;
        let arrive = match order {
            Order::Shuffled => "pods of the trace shuffled by the seed, as in the paper's experiments",
            Order::Trace => "pods in the trace's own order",
        };
        let of = |figure: &str| match order {
            Order::Shuffled => format!("{figure}, {name}"),
            Order::Trace => format!("{figure}, {name} in trace order"),
        };
        let run = format!(
            "openb, 1,213 nodes, 6,212 GPUs, {arrive}, more drawn from them to {LOAD} % of the GPUs, seeds {} to {last}, mean",
            args.first_seed
        );
        let known = match order {
            Order::Shuffled => |value: f64| format!("; published: {value}"),
            Order::Trace => |_: f64| String::new(),
        };
        figures.push(Figure::number(
            &of("BestFit: GPUs left over"),
            *best_fit,
            "%",
            "",
            &format!("{run}{}", known(published.0)),
        ));
        figures.push(Figure::number(
            &of("FGD: GPUs left over"),
            *fgd,
            "%",
            "",
            &format!(
                "{run}; scores rounded as in the published results, which leaves less than exact ones{}",
                known(published.1)
            ),
        ));
        figures.push(Figure::number(&of("FGD, exact: GPUs left over"), *exact, "%", "", &run));
        figures.push(Figure::number(
            &of("Atoll: GPUs left over"),
            *ours,
            "%",
            "",
            &format!("{run}; knows no pod before it arrives and no typical ones"),
        ));
        figures.push(Figure::number(&of("Atoll over FGD"), ours / fgd, "ratio", "<= 0.8", "the figures above"));
    }
    let each = took / u32::try_from(pods).unwrap_or(u32::MAX).max(1);
    figures.push(Figure::number(
        "Atoll: time per pod",
        each.as_secs_f64() * 1000.0,
        "ms",
        "",
        "choosing among 1,213 nodes, learning included, one thread, mean of all runs above",
    ));
    figures
}

fn print(left: &[Left]) {
    let mut table = Builder::default();
    let names = POLICIES.iter().map(|policy| format!("{policy}, %"));
    table.push_record(["order", "trace"].map(str::to_owned).into_iter().chain(names).chain(["Atoll / FGD".to_owned()]));
    for Left { order, trace, percent } in left {
        let values = percent.iter().map(|value| format!("{value:.3}"));
        let ratio = format!("{:.3}", percent[3] / percent[1]);
        table.push_record([format!("{order:?}"), TRACES[*trace].to_owned()].into_iter().chain(values).chain([ratio]));
    }
    println!("{}", table.build().with(Style::sharp()));
}

fn words(percents: &[f64]) -> String {
    let each: Vec<String> =
        POLICIES.iter().zip(percents).map(|(policy, percent)| format!("{policy} {percent:.2}")).collect();
    each.join(", ")
}

/// Percent that one is of the other.
fn part(one: i64, other: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "thousandths of a cluster's GPUs")]
    let percent = one as f64 * 100.0 / other as f64;
    percent
}
