//! Section 3: how soon what does not fit is told so, and what it costs those that do fit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_bench::{Figure, percentile};
use atoll_scheduler::api::{Connections, Method};
use atoll_testkit::{NodeProfile, nodes::RACK};
use futures::{TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Config, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::Bench;
use crate::contender::{Contender, Wire};
use crate::load::{self, Gang, PODS};
use crate::measure::{Measured, Run, median};
use crate::throughput::null;
use crate::world::World;

/// All bindings of a run, and the first one of a scheduler that starts.
const LIMIT: Duration = Duration::from_mins(4);
/// How long one gang may wait to be told.
const TOLD_LIMIT: Duration = Duration::from_mins(1);
/// Rounds of the null path, its writes in flight (the scheduler's) and how long one may take.
const NULL_ROUNDS: u32 = 20;
const NULL_IN_FLIGHT: usize = 32;
const NULL_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long the gangs of one contender may take together.
const LATENCY_LIMIT: Duration = Duration::from_mins(3);

pub async fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for contender in bench.schedulers() {
        eprintln!(" refusals by {}", contender.name());
        figures.extend(latency(bench, &contender).await?);
    }
    let atoll = Contender::Atoll(bench.scheduler.clone());
    if bench.measures(&atoll) {
        figures.extend(behind(bench, &atoll).await?);
    }
    Ok(figures)
}

/// Gangs that do not fit, one after another.
async fn latency(bench: &Bench, contender: &Contender) -> Result<Vec<Figure>> {
    let (nodes, rack, wanted) = (bench.scaled(5000, 20), if bench.quick { 10 } else { 100 }, bench.scaled(200, 8));
    let world = World::start(NodeProfile::h100().named("n", nodes).racks_of(rack), true).await?;
    // One GPU is left on each node.
    let full = (0..nodes).map(|node| {
        let mut pod = load::pod(&format!("full-{node}"), contender.scheduler_name(), 7);
        pod["spec"]["nodeName"] = format!("n-{node}").into();
        pod
    });
    load::create(&world.client, PODS, full.collect()).await?;
    let measured = start_and_bind_one(&world, contender).await?;

    let (told, mut verdicts) = mpsc::unbounded_channel();
    let api: Api<Pod> = Api::namespaced(world.client.clone(), "default");
    let watching = tokio::spawn(async move {
        let config = watcher::Config::default().labels("refused=yes");
        let mut pods = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
        while let Ok(Some(pod)) = pods.try_next().await {
            if is_refused(&pod) && told.send((pod.name_any(), Instant::now())).is_err() {
                break;
            }
        }
    });
    let (mut first, mut every) = (Vec::new(), Vec::new());
    let started = Instant::now();
    for index in 0..wanted {
        if started.elapsed() > LATENCY_LIMIT {
            break;
        }
        // No node has two GPUs; or no rack has that many, though each node has one.
        let (size, gpus) = if index % 4 == 3 { (rack + rack / 4, 1) } else { (8, 2) };
        let gang = Gang { name: format!("g-{index}"), size, gpus, within: Some(RACK), priority: None };
        let mut pods = gang.pods(contender);
        for pod in &mut pods {
            pod["metadata"]["labels"]["refused"] = "yes".into();
        }
        if matches!(contender, Contender::Kube) {
            load::create(&world.client, load::POD_GROUPS, vec![gang.pod_group()]).await?;
        }
        load::create_at_once(&world.client, PODS, pods).await?;
        let created = Instant::now();
        let mut heard: BTreeMap<String, Instant> = BTreeMap::new();
        let all = async {
            while heard.len() < size as usize {
                let (pod, at) = verdicts.recv().await.context("the watch of refused pods ended")?;
                if pod.starts_with(&format!("{}-", gang.name)) {
                    heard.entry(pod).or_insert(at);
                }
            }
            anyhow::Ok(())
        };
        let complete = timeout(TOLD_LIMIT, all).await;
        let after = |at: Option<&Instant>| at.map_or(TOLD_LIMIT, |at| at.saturating_duration_since(created));
        first.push(after(heard.values().min()));
        every.push(match complete {
            Ok(told) => told.map(|()| after(heard.values().max()))?,
            Err(_) => TOLD_LIMIT,
        });
    }
    watching.abort();
    measured.process.kill9().await?;
    let nobody =
        if matches!(contender, Contender::Atoll(_)) { null_path(&world, rack + rack / 4).await? } else { vec![] };
    let count = every.len();
    let target = if matches!(contender, Contender::Atoll(_)) { "<= 0.25" } else { "" };
    let name = contender.name();
    eprintln!(
        "   {name}: {count} gangs; first member p50 {:?} p99 {:?}; every member p50 {:?} p99 {:?}",
        percentile(&first, 50),
        percentile(&first, 99),
        percentile(&every, 50),
        percentile(&every, 99)
    );
    let conditions = format!(
        "{count} gangs that do not fit, one after another, three of four of 8 pods of 2 GPUs and one of {} pods of 1 GPU that require one rack; {nodes} simulated nodes in racks of {rack}, each with 1 of 8 GPUs free; from the answer to the last creation until a watch shows PodScheduled=False; earlier gangs stay pending; at most {} s in all and {} s for one",
        rack + rack / 4,
        LATENCY_LIMIT.as_secs(),
        TOLD_LIMIT.as_secs(),
    );
    let seconds = |what: &str, samples: &[Duration], percent, target: &str| {
        Figure::seconds(
            &format!("refusal, {what}, {name}-scheduler, p{percent}"),
            percentile(samples, percent),
            target,
            &conditions,
        )
    };
    let mut figures = vec![
        seconds("first member told", &first, 50, ""),
        seconds("first member told", &first, 99, ""),
        seconds("every member told", &every, 50, ""),
        seconds("every member told", &every, 99, target),
    ];
    if !nobody.is_empty() {
        let conditions = format!(
            "the conditions of {} new pods written by nobody who decides, {NULL_IN_FLIGHT} in flight, {NULL_ROUNDS} times: what the API server takes for a gang of that size",
            rack + rack / 4
        );
        let median = percentile(&nobody, 50);
        figures.push(Figure::seconds("refusal, null path, median", median, "", &conditions));
    }
    Ok(figures)
}

/// What telling costs alone: so many conditions of new pods, written by nobody who decides.
async fn null_path(world: &World, size: u32) -> Result<Vec<Duration>> {
    let kubeconfig = Kubeconfig::read_from(world.plane.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let connections = Connections::new(&config, 4)?;
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": "2026-01-01T00:00:00Z",
        "message": "125 members need 1 nvidia.com/gpu each in one rack; room for 100 of them in the best one",
    });
    let body = json!({ "status": { "conditions": [condition] } }).to_string();
    let mut times = Vec::new();
    for round in 0..NULL_ROUNDS {
        let name = |index: u32| format!("null-{round}-{index}");
        let pods = (0..size).map(|index| load::pod(&name(index), "nobody", 1)).collect();
        load::create_at_once(&world.client, PODS, pods).await?;
        let created = Instant::now();
        stream::iter((0..size).map(Ok::<_, anyhow::Error>))
            .try_for_each_concurrent(NULL_IN_FLIGHT, async |index| {
                let path = format!("/api/v1/namespaces/default/pods/{}/status?fieldManager=nobody", name(index));
                let answer =
                    connections.send(Method::StrategicPatch, &path, body.clone().into(), NULL_ANSWER_WITHIN).await?;
                ensure!(answer.is_success(), "{}", answer.message());
                Ok(())
            })
            .await?;
        times.push(created.elapsed());
    }
    Ok(times)
}

/// Starts the contender and waits until it binds: its caches are full then.
pub async fn start_and_bind_one<'w>(world: &'w World, contender: &'w Contender) -> Result<Measured<'w>> {
    let first = load::pod("first", contender.scheduler_name(), 0);
    load::create(&world.client, PODS, vec![first]).await?;
    let measured = Measured::start(world, contender)?;
    measured.bound(1, LIMIT).await?;
    Ok(measured)
}

fn is_refused(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "PodScheduled" && c.status == "False")
}

/// Feasible pods alone, and behind many that do not fit. A null binder for the former, in the same worlds, says what
/// it costs the API server that the others exist.
async fn behind(bench: &Bench, atoll: &Contender) -> Result<Vec<Figure>> {
    let (nodes, fit, stuck) = (bench.scaled(5000, 20), bench.scaled(10_000, 100), bench.scaled(10_000, 100));
    let wire = Wire { connections: 4, in_flight: 64 };
    let mut runs: BTreeMap<(&str, bool), Vec<Run>> = BTreeMap::new();
    for run in 1..=bench.runs {
        eprintln!(" behind others, run {run} of {}", bench.runs);
        for (stuck, name) in [(0, "atoll"), (stuck, "atoll"), (0, "null"), (stuck, "null")] {
            let world = World::start(NodeProfile::h100().named("n", nodes), false).await?;
            // A hundred kinds, so that one verdict does not do for all of them.
            let never = (0..stuck).map(|index| {
                let mut pod = load::pod(&format!("never-{index}"), atoll.scheduler_name(), 16);
                pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = format!("{}m", 1000 + index % 100).into();
                pod
            });
            load::create(&world.client, PODS, never.collect()).await?;
            let fits = (0..fit).map(|index| load::pod(&format!("p-{index}"), atoll.scheduler_name(), 1));
            load::create(&world.client, PODS, fits.collect()).await?;
            let contender = if name == "null" { null(&world, wire, nodes, 0..fit)? } else { atoll.clone() };
            let done = Measured::once(&world, &contender, fit as usize, LIMIT).await?;
            runs.entry((name, stuck > 0)).or_default().push(done);
        }
    }
    let of = |name, stuck| runs.get(&(name, stuck)).into_iter().flatten();
    let ratio =
        |name, value: fn(&Run) -> f64| median(of(name, true).zip(of(name, false)).map(|(b, a)| value(b) / value(a)));
    let conditions = format!(
        "{fit} one-GPU pods on {nodes} simulated nodes of 8 GPUs, with and without {stuck} older pods of 100 kinds that fit on no node; median of {} runs",
        bench.runs
    );
    let rate = |what, stuck| Figure::number(what, median(of("atoll", stuck).map(Run::rate)), "pods/s", "", &conditions);
    let number = |what, value, target| Figure::number(what, value, "ratio", target, &conditions);
    let (ours, nulls) = (ratio("atoll", Run::rate), ratio("null", Run::rate));
    Ok(vec![
        rate("bindings, alone", false),
        rate("bindings, behind what does not fit", true),
        number("behind what does not fit over alone", ours, ">= 0.95"),
        number("the same for a null binder", nulls, ""),
        number("of this, not because of the API server", ours / nulls, ""),
        Figure::number(
            "behind over alone, counted from the start of the process",
            ratio("atoll", Run::rate_from_start),
            "ratio",
            "",
            &format!("{conditions}; reading what does not fit counts too"),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_refused_when_its_condition_says_so() {
        let pod = |status: &str| -> Pod {
            serde_json::from_value(json!({
                "status": { "conditions": [{ "type": "PodScheduled", "status": status }] }
            }))
            .unwrap_or_default()
        };
        assert!(is_refused(&pod("False")));
        assert!(!is_refused(&pod("True")));
        assert!(!is_refused(&Pod::default()));
    }
}
