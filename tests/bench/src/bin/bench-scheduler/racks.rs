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
/// So many gangs kube-scheduler takes in at once without delay.
const FEW: u32 = 150;

pub async fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let (nodes, rack) = (bench.scaled(5000, 40), if bench.quick { 10 } else { 100 });
    let mut figures = Vec::new();
    // A gang of the larger kind fills its rack.
    for (size, gangs) in [(8, bench.scaled(1250, 6)), (8 * rack, bench.scaled(12, 2))] {
        let (mut kube, mut few, mut atoll) = (Vec::new(), Vec::new(), Vec::new());
        for run in 1..=bench.few_runs() {
            eprintln!(" gangs of {size}, run {run} of {}", bench.few_runs());
            for contender in bench.schedulers() {
                let done = one(&contender, nodes, rack, size, gangs).await?;
                let Contender::Kube = contender else {
                    atoll.push(done);
                    continue;
                };
                kube.push(done);
                if gangs > FEW {
                    few.push(one(&contender, nodes, rack, size, FEW).await?);
                }
            }
        }
        let conditions = format!(
            "{gangs} gangs of {size} one-GPU pods that each require one rack, created before; {nodes} simulated nodes of 8 GPUs in racks of {rack}; {} s from the start of the process at most; median of {} runs, each on a control plane of its own, Kubernetes' gang and topology features on",
            CAP.as_secs(),
            bench.few_runs(),
        );
        figures.extend(figures_of(&format!("gangs of {size}"), &kube, &atoll, &conditions));
        if !few.is_empty() {
            let conditions = format!("the same with {FEW} gangs");
            figures.extend(figures_of(&format!("{FEW} gangs of {size}"), &few, &[], &conditions));
        }
        if !kube.is_empty() && !atoll.is_empty() {
            figures.extend(ratios(size, &kube, &few, &atoll, &conditions));
        }
    }
    Ok(figures)
}

fn figures_of(gangs: &str, kube: &[Run], atoll: &[Run], conditions: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (name, runs) in [("kube-scheduler", kube), ("atoll-scheduler", atoll)] {
        if runs.is_empty() {
            continue;
        }
        let mut push = |what: &str, value: fn(&Run) -> f64, unit: &str, target: &str| {
            let figure = format!("{gangs}, {what}, {name}");
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
    figures
}

/// The larger gangs come in bursts, so that they are judged from the start of the process. Where there are few of the
/// smaller ones too, kube-scheduler may have the better of both, from its first binding on: what it does before that grows
/// by the square of their number.
fn ratios(size: u32, kube: &[Run], few: &[Run], atoll: &[Run], conditions: &str) -> [Figure; 2] {
    // One that bound nothing counts as if it had bound one pod in all the time.
    let least = 1.0 / CAP.as_secs_f64();
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for (index, (kube, atoll)) in kube.iter().zip(atoll).enumerate() {
        if let Some(few) = few.get(index) {
            rates.push(atoll.rate() / kube.rate().max(few.rate()).max(least));
            costs.push(atoll.cpu_per_thousand() / kube.cpu_per_thousand().min(few.cpu_per_thousand()));
        } else {
            rates.push(atoll.rate_from_start() / kube.rate_from_start().max(least));
            costs.push(atoll.cpu_per_thousand() / kube.cpu_per_thousand());
        }
    }
    let since = if few.is_empty() { "" } else { "; from the first binding on, kube-scheduler at its best of both" };
    let figure = |what: &str| format!("gangs of {size}, {what}, atoll-scheduler over kube-scheduler");
    let conditions = format!("{conditions}{since}");
    [
        Figure::number(&figure("rate"), median(rates), "ratio", ">= 5", &conditions),
        Figure::number(&figure("CPU per pod"), median(costs), "ratio", "<= 0.02", &conditions),
    ]
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
