//! Section 5: a scheduler starts in a full Site.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atoll_bench::Figure;
use atoll_testkit::NodeProfile;

use crate::Bench;
use crate::contender::Contender;
use crate::load::{self, PODS};
use crate::measure::{Measured, float, median};
use crate::world::World;

const LIMIT: Duration = Duration::from_mins(5);
/// Pods that wait for each start.
const WAITING: u32 = 10;

pub async fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let (nodes, pods) = (bench.scaled(5000, 20), bench.scaled(50_000, 200));
    let world = World::start(NodeProfile::h100().named("n", nodes), false).await?;
    // Six GPUs of each node are taken, and four pods on it need none.
    let placed = (0..pods).map(|index| {
        let gpus = u32::from(index / nodes < 6);
        let mut pod = load::pod(&format!("p-{index}"), atoll_api::names::SCHEDULER_NAME, gpus);
        pod["spec"]["nodeName"] = format!("n-{}", index % nodes).into();
        pod
    });
    load::create(&world.client, PODS, placed.collect()).await?;

    let (mut raw, mut figures) = (Vec::new(), Vec::new());
    let mut megabytes = 0.0;
    for contender in bench.schedulers() {
        let (mut first, mut peak, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..bench.runs {
            let (seconds, bytes) = raw_lists(&world)?;
            megabytes = float(bytes) / 1e6;
            raw.push(seconds);
            let waiting = (0..WAITING)
                .map(|index| load::pod(&format!("{}-{run}-{index}", contender.name()), contender.scheduler_name(), 1));
            load::create(&world.client, PODS, waiting.collect()).await?;
            let measured = Measured::start(&world, &contender)?;
            let done = measured.bound(WAITING as usize, LIMIT).await?;
            ensure!(done.gave_up.is_none(), "{} bound {} of {WAITING}", contender.name(), done.bound);
            first.push(done.first.as_secs_f64());
            // What it needs once it has settled counts too.
            peak.push(float(usize::try_from(measured.process.peak_memory() >> 20)?));
            ratios.push(done.first.as_secs_f64() / seconds);
            eprintln!(
                "   {}: raw lists {seconds:.2} s, first binding {:.2} s, CPU {:.2} s, peak {} MiB",
                contender.name(),
                done.first.as_secs_f64(),
                done.cpu.as_secs_f64(),
                measured.process.peak_memory() >> 20
            );
            measured.process.kill9().await?;
        }
        let conditions = format!(
            "{nodes} simulated nodes, {pods} bound pods, {WAITING} waiting; start of the process to the answer to the first binding; median of {} runs",
            bench.runs
        );
        let name = contender.name();
        let ours = matches!(contender, Contender::Atoll(_));
        let target = |target: &'static str| if ours { target } else { "" };
        figures.extend([
            Figure::number(&format!("restart to first binding, {name}-scheduler"), median(first), "s", "", &conditions),
            Figure::number(
                &format!("restart over raw lists, {name}-scheduler"),
                median(ratios),
                "ratio",
                target("<= 1.3"),
                &conditions,
            ),
            Figure::number(
                &format!("peak memory, {name}-scheduler"),
                peak.into_iter().fold(0.0, f64::max),
                "MiB",
                target("<= 1024"),
                &format!("{conditions} (the highest)"),
            ),
        ]);
    }
    let conditions = format!(
        "both lists at once as protobuf from the API server's cache, {megabytes:.0} MB read and not decoded; median of {} runs",
        raw.len()
    );
    figures.insert(0, Figure::number("raw lists of pods and nodes", median(raw), "s", "", &conditions));
    Ok(figures)
}

/// Seconds and bytes of the lists alone.
fn raw_lists(world: &World) -> Result<(f64, usize)> {
    let this = std::env::current_exe().context("find this program")?;
    let output = Command::new(this).args(["raw-lists", "--kubeconfig"]).arg(world.plane.kubeconfig()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (seconds, bytes) = text
        .trim()
        .split_once(' ')
        .with_context(|| format!("raw lists: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((seconds.parse()?, bytes.parse()?))
}
