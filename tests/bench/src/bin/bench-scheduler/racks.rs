//! Section 2: gangs that each need one rack.

use std::time::Duration;

use anyhow::Result;
use atoll_bench::Figure;
use atoll_testkit::{NodeProfile, nodes::RACK};

use crate::Bench;
use crate::contender::Contender;
use crate::load::{self, Gang};
use crate::measure::{Measured, Run, float, median};
use crate::world::World;

/// How long each gets, from the start of its process.
const CAP: Duration = Duration::from_mins(2);

pub async fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let (nodes, rack) = (bench.scaled(5000, 40), if bench.quick { 10 } else { 100 });
    let mut figures = Vec::new();
    // A gang of the larger kind fills its rack.
    for (size, gangs) in [(8, bench.scaled(1250, 6)), (8 * rack, bench.scaled(12, 2))] {
        let (mut kube, mut atoll) = (Vec::new(), Vec::new());
        for run in 1..=bench.few_runs() {
            eprintln!(" gangs of {size}, run {run} of {}", bench.few_runs());
            for contender in bench.schedulers() {
                let done = one(&contender, nodes, rack, size, gangs).await?;
                let to = if matches!(contender, Contender::Kube) { &mut kube } else { &mut atoll };
                to.push(done);
            }
        }
        let conditions = format!(
            "{gangs} gangs of {size} one-GPU pods that each require one rack, created before; {nodes} simulated nodes of 8 GPUs in racks of {rack}; {} s from the start of the process at most; median of {} runs, each on a control plane of its own, Kubernetes' gang and topology features on",
            CAP.as_secs(),
            bench.few_runs(),
        );
        figures.extend(figures_of(size, size > 8, &kube, &atoll, &conditions));
    }
    Ok(figures)
}

/// The larger gangs come in bursts, so that they are judged from the start of the process; the smaller ones from the first
/// binding on, which favours kube-scheduler: before that, it takes time by the square of their number.
fn figures_of(size: u32, large: bool, kube: &[Run], atoll: &[Run], conditions: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (name, runs) in [("kube-scheduler", kube), ("atoll-scheduler", atoll)] {
        if runs.is_empty() {
            continue;
        }
        let mut push = |what: &str, value: fn(&Run) -> f64, unit: &str, target: &str| {
            let figure = format!("gangs of {size}, {what}, {name}");
            figures.push(Figure::number(&figure, median(runs.iter().map(value)), unit, target, conditions));
        };
        push("bound", |run| float(run.bound), "pods", "");
        push("rate from the first binding", Run::rate, "pods/s", "");
        push("rate from the start", Run::rate_from_start, "pods/s", "");
        push("CPU", Run::cpu_per_thousand, "s per 1,000 pods", "");
        if runs.iter().all(|run| run.bound > 0) {
            push("writes", Run::writes_per_pod, "per pod", if name == "atoll-scheduler" { "<= 1.02" } else { "" });
        }
    }
    if !kube.is_empty() && !atoll.is_empty() {
        // One that bound nothing counts as if it had bound one pod in all the time.
        let least = 1.0 / CAP.as_secs_f64();
        let ratio = |value: fn(&Run) -> f64, least: f64| {
            median(atoll.iter().zip(kube).map(|(atoll, kube)| value(atoll) / value(kube).max(least)))
        };
        let figure = |what: &str| format!("gangs of {size}, {what}, atoll-scheduler over kube-scheduler");
        let (of_start, of_first) = if large { (">= 5", "") } else { ("", ">= 5") };
        if !large {
            let rate = ratio(Run::rate, least);
            figures.push(Figure::number(&figure("rate from the first binding"), rate, "ratio", of_first, conditions));
        }
        let rate = ratio(Run::rate_from_start, least);
        let cpu = ratio(Run::cpu_per_thousand, f64::MIN_POSITIVE);
        figures.extend([
            Figure::number(&figure("rate from the start"), rate, "ratio", of_start, conditions),
            Figure::number(&figure("CPU per pod"), cpu, "ratio", "<= 0.02", conditions),
        ]);
    }
    figures
}

async fn one(contender: &Contender, nodes: u32, rack: u32, size: u32, gangs: u32) -> Result<Run> {
    let world = World::start(NodeProfile::h100().named("n", nodes).racks_of(rack), true).await?;
    let gangs: Vec<Gang<'_>> = (0..gangs)
        .map(|gang| Gang { name: format!("g-{gang}"), size, gpus: 1, within: Some(RACK), priority: None })
        .collect();
    load::create_gangs(&world.client, contender, &gangs).await?;
    let pods = gangs.len() * usize::try_from(size)?;
    Measured::once(&world, contender, pods, CAP).await
}
