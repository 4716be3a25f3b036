//! The device plugin as a real process on the library that plays GPUs, each call of which takes the time that was
//! recorded on real ones: memory, processor time, and how soon what happens to a GPU reaches the kubelet.

mod kubelet;
mod plugin;
mod site;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atoll_bench::{Figure, percentile, report};
use atoll_testkit::scratch::Scratch;
use clap::Parser;
use futures::future::try_join_all;
use kubelet::is;
use plugin::Plugin;
use site::Site;

/// Measures the device plugin on GPUs that only a library plays; takes about three minutes.
#[derive(Debug, Parser)]
#[command(name = "bench-devices")]
struct Args {
    /// Plugin processes that run beside each other.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    plugins: usize,
    /// How long memory and processor time are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
}

const GPUS: usize = 8;
const NODE: &str = "h100:8";

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let scratch = Scratch::new("bench-devices")?;
    let mut figures = alone(scratch.path(), &args).await?;
    figures.extend(preferred(scratch.path()).await?);
    figures.extend(beside(scratch.path(), &args).await?);
    report("devices", &figures)
}

/// One plugin: from its start to the first scrape, what it takes at rest and while it is scraped.
async fn alone(dir: &Path, args: &Args) -> Result<Vec<Figure>> {
    eprintln!("one plugin");
    let mut starts = Vec::new();
    for number in 0..10 {
        let plugin = Plugin::start(&dir.join(format!("start-{number}")), NODE, None)?;
        starts.push(plugin.first_scrape(GPUS)?);
    }
    let mut plugin = Plugin::start(&dir.join("alone"), NODE, None)?;
    plugin.first_scrape(GPUS)?;
    plugin.kubelet.told("all GPUs", |devices| devices.len() == GPUS).await?;
    let length = Duration::from_secs(args.seconds);
    let quiet = share(&plugin, length, None).await?;
    let scraped = share(&plugin, length, Some(Duration::from_secs(1))).await?;
    let (memory, private) = plugin.memory()?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let asked = Instant::now();
        plugin.scrape()?;
        times.push(asked.elapsed());
    }
    let node = "8 H100 of the fake library with recorded latencies, one sample a second";
    let figure = |name: &str, value: f64, unit: &str, target: &str, more: &str| {
        Figure::number(name, value, unit, target, &format!("{node}, {more}"))
    };
    let window = format!("over {} s", args.seconds);
    Ok(vec![
        figure("start to first scrape", percentile(&starts, 100).as_secs_f64(), "s", "<= 1", "worst of 10 starts"),
        figure("resident memory", memory, "MiB", "<= 25", &format!("after a minute, one scrape a second {window}")),
        figure("of which private", private, "MiB", "", "the rest is mapped files"),
        figure("processor", quiet * 100.0, "% of a core", "<= 1", &format!("without scrapes, {window}")),
        figure("processor with scrapes", scraped * 100.0, "% of a core", "", &format!("one scrape a second, {window}")),
        figure("one scrape, p99", percentile(&times, 99).as_secs_f64() * 1000.0, "ms", "", "50 in a row"),
    ])
}

/// The share of a core that it takes.
async fn share(plugin: &Plugin, length: Duration, scrape: Option<Duration>) -> Result<f64> {
    let (began, before) = (Instant::now(), plugin.cpu()?);
    while began.elapsed() < length {
        match scrape {
            Some(pause) => {
                plugin.scrape()?;
                tokio::time::sleep(pause).await;
            }
            None => tokio::time::sleep(length).await,
        }
    }
    Ok(plugin.cpu()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64())
}

/// The choice among 16 GPUs, as the kubelet asks for it.
async fn preferred(dir: &Path) -> Result<Vec<Figure>> {
    eprintln!("preferred allocation");
    let mut plugin = Plugin::start(&dir.join("sixteen"), "h100:16", None)?;
    plugin.kubelet.told("16 GPUs", |devices| devices.len() == 16).await?;
    let mut figures = Vec::new();
    for size in [2, 4, 8] {
        let mut times = Vec::new();
        for _ in 0..200 {
            times.push(plugin.kubelet.preferred(size).await?);
        }
        figures.push(Figure::number(
            &format!("preferred allocation of {size}, p99"),
            percentile(&times, 99).as_secs_f64() * 1000.0,
            "ms",
            "<= 1",
            "of 16 H100, 200 calls over the plugin's socket, the way there and back included",
        ));
    }
    Ok(figures)
}

/// Many plugins at once, each with its own kubelet: what they take, and how soon faults are told.
async fn beside(dir: &Path, args: &Args) -> Result<Vec<Figure>> {
    let count = args.plugins;
    eprintln!("{count} plugins beside each other");
    let names: Vec<String> = (0..count).map(|number| format!("node-{number}")).collect();
    let site = Site::start(names.iter().cloned()).await?;
    let start = |name: &String| Plugin::start(&dir.join(name), NODE, Some((&site, name)));
    let mut plugins = names.iter().map(start).collect::<Result<Vec<Plugin>>>()?;
    for plugin in &mut plugins {
        plugin.kubelet.told("all GPUs", |devices| devices.len() == GPUS).await?;
    }
    let ids = plugins.iter().map(uuids).collect::<Result<Vec<Vec<String>>>>()?;
    let before = plugins.iter().map(Plugin::cpu).sum::<Result<Duration>>()?;
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let used = plugins.iter().map(Plugin::cpu).sum::<Result<Duration>>()?.saturating_sub(before);
    let processor = used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let memory = plugins.iter().map(|plugin| Ok(plugin.memory()?.0)).collect::<Result<Vec<f64>>>()?;

    // A GPU has one fault only: after some it is held back, and the next one is no news.
    let mut legs = Legs::default();
    for slot in 0..GPUS {
        let told = plugins.iter_mut().zip(&names).zip(&ids).map(async |((plugin, name), ids)| -> Result<Told> {
            let id = &ids[slot];
            let fault =
                if slot < 4 { format!("xid {slot} 79\nrecovery {slot} reset") } else { format!("remap {slot} failed") };
            let happened = plugin.happens(&fault)?;
            let (sick, shown) = tokio::try_join!(
                plugin.kubelet.told(&fault, |devices| is(devices, id, false)),
                site.shows(name, id, true)
            )?;
            let mut told = Told { sick: sick - happened, shown: shown - happened, well: None };
            if slot < 4 {
                let mended = plugin.happens(&format!("reset {slot}"))?;
                told.well = Some(plugin.kubelet.told("recovery", |devices| is(devices, id, true)).await? - mended);
            }
            Ok(told)
        });
        for told in try_join_all(told).await? {
            let (kubelet, object) = if slot < 4 {
                (&mut legs.event, &mut legs.event_shown)
            } else {
                (&mut legs.sampled, &mut legs.sampled_shown)
            };
            kubelet.push(told.sick);
            object.push(told.shown);
            legs.back.extend(told.well);
        }
    }
    let conditions = format!("{count} plugins of 8 H100 each with recorded latencies, all at the same time");
    let seconds = |name: &str, times: &[Duration], percent, target: &str, more: &str| {
        Figure::seconds(name, percentile(times, percent), target, &format!("{conditions}; {} {more}", times.len()))
    };
    let largest = memory.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Figure::number("processor of all plugins", processor, "% of a core", "", &conditions),
        Figure::number("resident memory of the largest plugin", largest, "MiB", "<= 25", &conditions),
        seconds(
            "event to kubelet, p99",
            &legs.event,
            99,
            "<= 1",
            "XIDs, from writing the fault to the kubelet's new list",
        ),
        seconds("event to GPUNode, p99", &legs.event_shown, 99, "<= 1", "XIDs, to the watch of the GPUNode"),
        seconds("sampled fault to kubelet, worst", &legs.sampled, 100, "<= 2", "failed row remappings"),
        seconds("sampled fault to GPUNode, worst", &legs.sampled_shown, 100, "<= 2", "failed row remappings"),
        seconds("recovery to kubelet, worst", &legs.back, 100, "<= 10", "resets after the XIDs"),
    ])
}

/// How long one fault took to be told.
struct Told {
    sick: Duration,
    shown: Duration,
    well: Option<Duration>,
}

/// Times of all faults, by where they were told.
#[derive(Default)]
struct Legs {
    event: Vec<Duration>,
    event_shown: Vec<Duration>,
    sampled: Vec<Duration>,
    sampled_shown: Vec<Duration>,
    back: Vec<Duration>,
}

/// UUIDs of the GPUs of a node, by the driver's number.
fn uuids(plugin: &Plugin) -> Result<Vec<String>> {
    let scraped = plugin.scrape()?;
    let value = |line: &str, label: &str| {
        let rest = line.split_once(&format!("{label}=\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let mut all = Vec::new();
    for line in scraped.lines().filter(|line| line.starts_with("atoll_gpu_info{")) {
        let number: usize = value(line, "gpu").context("no number of a GPU")?.parse()?;
        all.push((number, value(line, "uuid").context("no UUID of a GPU")?));
    }
    all.sort();
    Ok(all.into_iter().map(|(_, uuid)| uuid).collect())
}
