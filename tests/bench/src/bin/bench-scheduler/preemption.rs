//! Section 4: a large gang takes the place of many small ones.

mod site;

use std::time::Duration;

use anyhow::{Context, Result};
use atoll_bench::Figure;
use atoll_testkit::NodeProfile;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::Bench;
use crate::contender::Contender;
use crate::load::{self, BUDGETS, Gang, PODS, PRIORITY_CLASSES};
use crate::measure::{float, is_binding, median};
use crate::refusals::start_and_bind_one;
use crate::world::World;
use site::{Cost, Full, PRIORITIES};

/// How long after its creation the gang may take to be bound.
const CAP: Duration = Duration::from_mins(3);
/// The `PriorityClass` of the gang that preempts.
const URGENT: &str = "urgent";

/// How one preemption went.
struct Preempted {
    /// From the creation of the last member to the first eviction; `None`: nobody was evicted in time.
    decision: Option<Duration>,
    cost: Cost,
    /// Members that were bound in time.
    bound: usize,
    /// From the creation of the last member to the last binding.
    took: Duration,
}

pub async fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let nodes = if bench.quick { 20 } else { 1000 };
    let size = nodes / 2;
    let mut figures = Vec::new();
    let mut costs = Vec::new();
    for contender in bench.schedulers() {
        let runs = if matches!(contender, Contender::Kube) { 1 } else { bench.runs };
        let mut done = Vec::new();
        for run in 1..=runs {
            eprintln!(" preemption by {}, run {run} of {runs}", contender.name());
            done.push(one(&contender, nodes, size).await?);
        }
        let name = contender.name();
        let ours = matches!(contender, Contender::Atoll(_));
        let conditions = format!(
            "a gang of {size} pods of 8 GPUs preempts on {nodes} full simulated nodes: {}; median of {runs} runs",
            Full::on(nodes).describe()
        );
        let decided: Vec<f64> = done.iter().map(|run| run.decision.unwrap_or(CAP).as_secs_f64()).collect();
        let (Some(last), cost) = (done.last(), done.iter().map(|run| run.cost).max()) else { continue };
        let mut push = |what: &str, value: f64, unit: &str, target: &str, more: &str| {
            let figure = format!("preemption, {what}, {name}-scheduler");
            figures.push(Figure::number(&figure, value, unit, target, &format!("{conditions}{more}")));
        };
        let decision = "; from the answer to the creation of the last member to the first eviction";
        push("decision", median(decided), "s", if ours { "<= 0.15" } else { "" }, decision);
        push("members bound", float(last.bound), "pods", "", &format!("; {} s at most", CAP.as_secs()));
        push("all bound", median(done.iter().map(|run| run.took.as_secs_f64())), "s", "", "");
        let cost = cost.unwrap_or_default();
        push("victims over their budgets", float(cost.violations), "pods", "", "");
        push("highest priority of a victim", f64::from(cost.highest), "priority", "", "");
        push("victims", float(cost.pods), "pods", "", "");
        costs.push((last.bound == size as usize, cost));
    }
    if let [(kube_done, kube), (atoll_done, atoll)] = costs[..] {
        let conditions = format!(
            "1: at most kube-scheduler's, in its order: over budget, highest priority, sum of priorities, number; {} against {}{}",
            atoll.describe(),
            kube.describe(),
            if kube_done { "" } else { "; kube-scheduler did not place the gang" }
        );
        let at_most = atoll_done && (atoll <= kube || !kube_done);
        let at_most = f64::from(u8::from(at_most));
        figures.push(Figure::number("victims' cost at most kube-scheduler's", at_most, "yes", ">= 1", &conditions));
    }
    Ok(figures)
}

async fn one(contender: &Contender, nodes: u32, size: u32) -> Result<Preempted> {
    let world = World::start(NodeProfile::h100().named("n", nodes).racks_of(20), true).await?;
    let full = Full::on(nodes);
    fill(&world, contender, &full).await?;
    let measured = start_and_bind_one(&world, contender).await?;
    let mark = world.plane.audit().mark()?;

    let gang = Gang { name: "large".to_owned(), size, gpus: 8, within: None, priority: Some(URGENT) };
    load::create_gangs(&world.client, contender, std::slice::from_ref(&gang)).await?;
    let created = Timestamp::now();
    let deadline = Instant::now() + CAP;
    let is_its = |name: &str| name.starts_with("large-");
    let events = loop {
        let mut events = world.plane.audit().since(mark)?;
        events.retain(|event| event.user == contender.user() && event.succeeded());
        let bound = events.iter().filter(|event| is_binding(event) && is_its(&event.name)).count();
        if bound >= size as usize || Instant::now() > deadline {
            break events;
        }
        sleep(Duration::from_millis(500)).await;
    };
    let cpu = measured.process.cpu_time();
    measured.process.kill9().await?;

    let after = |time: Timestamp| Duration::try_from(time.duration_since(created)).unwrap_or_default();
    let evictions = events.iter().filter(|event| {
        event.resource == "pods"
            && (event.verb == "delete" || (event.verb == "create" && event.subresource == "eviction"))
    });
    let victims: Vec<&str> = evictions.clone().map(|event| event.name.as_str()).collect();
    let bindings = events.iter().filter(|event| is_binding(event) && is_its(&event.name));
    let done = Preempted {
        decision: evictions.map(|event| event.received).min().map(after),
        cost: full.cost(victims),
        bound: bindings.clone().count(),
        took: bindings.map(|event| event.answered).max().map_or(CAP, after),
    };
    eprintln!(
        "   {}: decided after {:?}, {} of {size} bound after {:?}, {}, {:.2} CPU-s",
        contender.name(),
        done.decision,
        done.bound,
        done.took,
        done.cost.describe(),
        cpu.as_secs_f64()
    );
    Ok(done)
}

/// Fills the nodes, and says what may be disrupted.
async fn fill(world: &World, contender: &Contender, full: &Full) -> Result<()> {
    let class = |name: &str, value: i32| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": { "name": name },
            "value": value,
        })
    };
    let mut classes: Vec<_> = PRIORITIES.iter().map(|(name, value)| class(name, *value)).collect();
    classes.push(class(URGENT, 10_000));
    load::create(&world.client, PRIORITY_CLASSES, classes).await?;
    // The admission plugin that gives pods their priority reads the classes from a cache.
    world.plane.kubectl(["get", "priorityclass", URGENT]).await?.ok()?;
    sleep(Duration::from_millis(500)).await;

    if matches!(contender, Contender::Kube) {
        let groups = full.gangs().map(|gang| gang.words().pod_group()).collect();
        load::create(&world.client, load::POD_GROUPS, groups).await?;
    }
    let pods = full.gangs().flat_map(|gang| {
        let mut pods = if gang.nodes.len() > 1 {
            gang.words().pods(contender)
        } else {
            let mut pod = load::pod(&gang.pod(0), contender.scheduler_name(), gang.gpus);
            pod["metadata"]["labels"]["gang"] = gang.name.clone().into();
            pod["spec"]["priorityClassName"] = gang.priority().0.into();
            vec![pod]
        };
        for (pod, node) in pods.iter_mut().zip(&gang.nodes) {
            pod["spec"]["nodeName"] = format!("n-{node}").into();
        }
        pods
    });
    load::create(&world.client, PODS, pods.collect()).await?;

    let budgets = full.gangs().filter(|gang| gang.budget.is_some()).map(|gang| {
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": { "name": gang.name },
            "spec": { "maxUnavailable": 0, "selector": { "matchLabels": { "gang": gang.name } } },
        })
    });
    load::create(&world.client, BUDGETS, budgets.collect()).await?;
    // No controller counts healthy pods here, since nobody runs them.
    for gang in full.gangs() {
        let Some(allowed) = gang.budget else { continue };
        let status = json!({
            "status": {
                "disruptionsAllowed": allowed,
                "currentHealthy": gang.nodes.len(),
                "desiredHealthy": gang.nodes.len().saturating_sub(allowed),
                "expectedPods": gang.nodes.len(),
                "observedGeneration": 1,
            }
        });
        let request = http::Request::patch(format!("{BUDGETS}/{}/status", gang.name))
            .header("Content-Type", "application/merge-patch+json")
            .body(serde_json::to_vec(&status)?)?;
        world.client.request_text(request).await.with_context(|| format!("status of budget {}", gang.name))?;
    }
    Ok(())
}
