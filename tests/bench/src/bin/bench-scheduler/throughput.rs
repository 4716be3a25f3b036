//! Section 1: single pods, as fast as they can be bound.

use std::time::Duration;

use anyhow::Result;
use atoll_bench::Figure;
use atoll_testkit::NodeProfile;

use crate::Bench;
use crate::contender::{Contender, Wire, write_bindings};
use crate::load::{self, PODS};
use crate::measure::{Measured, Run, median};
use crate::world::World;

/// kube-scheduler takes less than a minute and a half for all of them.
const LIMIT: Duration = Duration::from_mins(4);

pub async fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let (nodes, pods) = (bench.scaled(5000, 20), bench.scaled(10_000, 100));
    let wire = best_wire(bench, nodes, pods).await?;
    let (mut null, mut kube, mut atoll) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=bench.runs {
        eprintln!(" run {run} of {}", bench.runs);
        let mut contenders = bench.schedulers();
        if let Some(wire) = wire {
            contenders.insert(0, Contender::Null(wire, "bindings".into()));
        }
        for contender in contenders {
            let done = one(contender.clone(), nodes, pods).await?;
            match contender {
                Contender::Null(..) => null.push(done),
                Contender::Kube => kube.push(done),
                Contender::Atoll(_) => atoll.push(done),
            }
        }
    }
    let conditions = |more: &str| {
        format!(
            "{pods} one-GPU pods created before, {nodes} simulated nodes of 8 GPUs, nobody runs the pods; first to last binding in the audit log; median of {} runs, each on a control plane of its own{more}",
            bench.runs
        )
    };
    let of = |runs: &[Run], value: fn(&Run) -> f64| median(runs.iter().map(value));
    let ratio = |above: &[Run], below: &[Run], value: fn(&Run) -> f64| {
        median(above.iter().zip(below).map(|(above, below)| value(above) / value(below)))
    };
    let here = conditions("");
    let mut figures = Vec::new();
    if let Some(wire) = wire {
        let binder = conditions(&format!(
            "; no decisions, {} in flight on {} connections, the best of nine settings",
            wire.in_flight, wire.connections
        ));
        figures.push(Figure::number("bindings, null binder", of(&null, Run::rate), "pods/s", "", &binder));
    }
    for (name, runs) in [("kube-scheduler", &kube), ("atoll-scheduler", &atoll)] {
        if runs.is_empty() {
            continue;
        }
        let target = if name == "atoll-scheduler" { "<= 1.02" } else { "" };
        figures.extend([
            Figure::number(&format!("bindings, {name}"), of(runs, Run::rate), "pods/s", "", &here),
            Figure::number(&format!("CPU, {name}"), of(runs, Run::cpu_per_thousand), "s per 1,000 pods", "", &here),
            Figure::number(&format!("writes, {name}"), of(runs, Run::writes_per_pod), "per pod", target, &here),
        ]);
    }
    if !atoll.is_empty() && !null.is_empty() {
        let value = ratio(&atoll, &null, Run::rate);
        figures.push(Figure::number("bindings, atoll-scheduler over null binder", value, "ratio", ">= 0.9", &here));
    }
    if !atoll.is_empty() && !kube.is_empty() {
        let (rate, cpu) = (ratio(&atoll, &kube, Run::rate), ratio(&atoll, &kube, Run::cpu_per_thousand));
        figures.extend([
            Figure::number("bindings, atoll-scheduler over kube-scheduler", rate, "ratio", ">= 3", &here),
            Figure::number("CPU per pod, atoll-scheduler over kube-scheduler", cpu, "ratio", "<= 0.1", &here),
        ]);
    }
    Ok(figures)
}

fn profile(nodes: u32) -> NodeProfile {
    NodeProfile::h100().named("n", nodes)
}

async fn one(contender: Contender, nodes: u32, pods: u32) -> Result<Run> {
    let world = World::start(profile(nodes), false).await?;
    create(&world, &contender, pods).await?;
    let contender = match contender {
        Contender::Null(wire, _) => null(&world, wire, nodes, 0..pods)?,
        scheduler => scheduler,
    };
    Measured::once(&world, &contender, usize::try_from(pods)?, LIMIT).await
}

async fn create(world: &World, contender: &Contender, pods: u32) -> Result<()> {
    let all = (0..pods).map(|pod| load::pod(&format!("p-{pod}"), contender.scheduler_name(), 1)).collect();
    load::create(&world.client, PODS, all).await
}

/// A null binder for the pods `p-0` …, spread over the nodes.
pub fn null(world: &World, wire: Wire, nodes: u32, pods: std::ops::Range<u32>) -> Result<Contender> {
    let path = world.plane.dir().join(format!("bindings-{}", pods.start));
    write_bindings(&path, pods.map(|pod| (format!("p-{pod}"), format!("n-{}", pod % nodes))))?;
    Ok(Contender::Null(wire, path))
}

/// The setting with which a null binder is fastest, each tried on two parts of the pods.
async fn best_wire(bench: &Bench, nodes: u32, pods: u32) -> Result<Option<Wire>> {
    if !bench.contenders.is_empty() && !bench.contenders.iter().any(|name| name == "null") {
        return Ok(None);
    }
    let settings: Vec<Wire> = [1, 2, 4]
        .into_iter()
        .flat_map(|connections| [32, 64, 128].map(|in_flight| Wire { connections, in_flight }))
        .collect();
    let world = World::start(profile(nodes), false).await?;
    let some = Contender::Null(Wire { connections: 1, in_flight: 1 }, "bindings".into());
    create(&world, &some, pods).await?;
    let part = pods / u32::try_from(2 * settings.len())?;
    let mut rates = vec![Vec::new(); settings.len()];
    let mut start = 0;
    // There and back again, so that what comes first has no advantage.
    for index in (0..settings.len()).chain((0..settings.len()).rev()) {
        let binder = null(&world, settings[index], nodes, start..start + part)?;
        start += part;
        let measured = Measured::start(&world, &binder)?;
        rates[index].push(measured.bound(usize::try_from(part)?, LIMIT).await?.rate());
    }
    let mut best = (0.0, settings[0]);
    for (wire, rates) in settings.into_iter().zip(rates) {
        let rate = rates.iter().sum::<f64>() / 2.0;
        eprintln!("   null binder, {} in flight on {} connections: {rate:.0}/s", wire.in_flight, wire.connections);
        if rate > best.0 {
            best = (rate, wire);
        }
    }
    Ok(Some(best.1))
}
