//! What lists and bindings cost on a real API server: measurements, run by hand in release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use atoll_api::names::SCHEDULER_NAME;
use atoll_scheduler::api::{Change, Connections, Listed, Method, Watch};
use atoll_scheduler::proto;
use atoll_testkit::process::{ManagedProcess, ProcessSpec};
use atoll_testkit::wait::wait_for;
use atoll_testkit::{ControlPlane, ControlPlaneOptions, NodeProfile, nodes, require};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use prost::bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc::channel;

const LIMIT: Duration = Duration::from_mins(1);
const NODES: u32 = 5000;
const PODS: u32 = 50_000;
const BINDINGS: u32 = 5000;
/// How often everything is listed, each way.
const ROUNDS: u32 = 10;

async fn config(plane: &ControlPlane) -> kube::Config {
    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

/// CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

fn pod(name: &str, node: Option<u32>) -> Bytes {
    let mut pod = json!({
        "metadata": { "name": name, "labels": { "app": "training", "team": "vision", "atoll.dev/cluster": "c-17", "atoll.dev/rank": "3" } },
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main",
                "image": "registry.example.org/team/training:v17",
                "args": ["--rank=3", "--world-size=8"],
                "env": [{ "name": "MASTER_ADDR", "value": "c-17-0.c-17" }, { "name": "NCCL_DEBUG", "value": "WARN" }],
                "resources": { "limits": { "nvidia.com/gpu": "1", "cpu": "4", "memory": "32Gi" } },
            }],
        },
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = format!("n-{node}").into();
    }
    Bytes::from(pod.to_string())
}

async fn create(client: &kube::Client, prefix: &str, count: u32, pod: impl Fn(&str, u32) -> Bytes) {
    stream::iter(0..count)
        .map(|number| pod(&format!("{prefix}-{number}"), number))
        .for_each_concurrent(64, async |body| {
            let request = http::Request::post("/api/v1/namespaces/default/pods")
                .header("content-type", "application/json")
                .body(body.to_vec())
                .unwrap();
            client.request_text(request).await.unwrap();
        })
        .await;
}

/// Made ours, and free of what the nodes of this test lack: they are full, and nobody says that they are ready.
fn ours_to_bind(name: &str) -> Bytes {
    let mut pod: serde_json::Value = serde_json::from_slice(&pod(name, None)).unwrap();
    pod["spec"]["schedulerName"] = SCHEDULER_NAME.into();
    pod["spec"]["containers"][0]["resources"] = json!({});
    pod["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
    Bytes::from(pod.to_string())
}

async fn raw(connections: &Connections, path: &str) -> (usize, Duration) {
    let started = Instant::now();
    let mut body = connections.open(path, proto::CONTENT_TYPE, LIMIT).await.unwrap().into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().len();
    }
    (bytes, started.elapsed())
}

async fn ours<M: Listed + 'static>(connections: &Connections) -> (usize, Duration) {
    let started = Instant::now();
    let (to, mut heard) = channel(64);
    let watch = Watch::new::<M>(connections.clone());
    let watch = tokio::spawn(watch.run(|change: Change<M>, batch: &mut Vec<_>| batch.push(change), to));
    let mut count = 0;
    while let Some(batch) = heard.recv().await {
        for change in batch {
            match change {
                Change::Set(_) => count += 1,
                Change::Gone(_) => {}
                Change::Listed => {
                    watch.abort();
                    return (count, started.elapsed());
                }
            }
        }
    }
    panic!("the watch ended");
}

fn start_scheduler(plane: &ControlPlane) -> ManagedProcess {
    let log = plane.dir().join("scheduler.log");
    let spec = ProcessSpec::new("scheduler", env!("CARGO_BIN_EXE_atoll-scheduler"), log)
        .args(["--http-address", "127.0.0.1:0", "--leader-elect", "false", "--kubeconfig"])
        .args([plane.kubeconfig()]);
    ManagedProcess::start(spec).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes: cargo test --release -p atoll-scheduler --test wire_cost -- --ignored --nocapture"]
async fn lists_and_bindings() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::new("cost")).await.unwrap();
    let client = plane.client();
    let profile = NodeProfile::h100().named("n", NODES);
    nodes::create(&client, &[profile]).await.unwrap();
    let started = Instant::now();
    create(&client, "r", PODS, |name, number| pod(name, Some(number % NODES))).await;
    println!("{PODS} pods created in {:?}", started.elapsed());

    let config = config(&plane).await;
    let (reading, here, there) = (|| Connections::new(&config, 2).unwrap(), cpu, || plane.apiserver().cpu_time());
    // In turns, because the API server collects garbage every other time.
    let mut spent = [[Duration::ZERO; 3]; 2];
    for round in 0..2 * ROUNDS {
        let connections = reading();
        let (started, before) = (Instant::now(), (here(), there()));
        let what = round as usize / 2 % 2;
        let (pods, nodes) = if what == 0 {
            tokio::join!(raw(&connections, "/api/v1/pods"), raw(&connections, "/api/v1/nodes"))
        } else {
            tokio::join!(ours::<proto::Pod>(&connections), ours::<proto::Node>(&connections))
        };
        let took = [started.elapsed(), here().saturating_sub(before.0), there().saturating_sub(before.1)];
        println!("{} {pods:?} {nodes:?}: in all, CPU here and there {took:?}", ["raw", "ours"][what]);
        for (sum, took) in spent[what].iter_mut().zip(took) {
            *sum += took / ROUNDS;
        }
    }
    println!("on average in all, CPU here and there: raw {:?}, ours {:?}", spent[0], spent[1]);

    // A scheduler that starts: from its process to its first binding.
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("first-{round}");
        create(&client, &name, 1, |name, _| ours_to_bind(name)).await;
        let started = Instant::now();
        let scheduler = start_scheduler(&plane);
        let bound = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.is_some();
        wait_for(&pods, &format!("{name}-0"), "to be bound", LIMIT, bound).await.unwrap();
        took.push(started.elapsed());
        println!(
            "first bind after {:?}, CPU {:?}, {} MiB",
            started.elapsed(),
            scheduler.cpu_time(),
            scheduler.memory() >> 20
        );
        scheduler.terminate(LIMIT).await.unwrap();
    }
    println!("first bind: {:?} on average", took.iter().sum::<Duration>() / ROUNDS);

    // And one that has much to bind when it starts.
    for round in 0..2 {
        let prefix = format!("s-{round}");
        create(&client, &prefix, BINDINGS, |name, _| ours_to_bind(name)).await;
        let (to, mut heard) = channel(64);
        let watch = Watch::new::<proto::Pod>(reading());
        let watch = tokio::spawn(watch.run(|change: Change<proto::Pod>, batch: &mut Vec<_>| batch.push(change), to));
        let bound = |change: &Change<proto::Pod>| match change {
            Change::Set(pod) => {
                let ours = pod.metadata.as_ref().is_some_and(|meta| meta.name.starts_with(&prefix));
                ours && pod.spec.as_ref().is_some_and(|spec| !spec.node_name.is_empty())
            }
            _ => false,
        };
        while !heard.recv().await.unwrap().contains(&Change::Listed) {}
        let server = plane.apiserver().cpu_time();
        let scheduler = start_scheduler(&plane);
        let (mut count, mut began) = (0, None);
        while count < BINDINGS {
            count += u32::try_from(heard.recv().await.unwrap().iter().filter(|change| bound(change)).count()).unwrap();
            if count > 0 && began.is_none() {
                began = Some((Instant::now(), scheduler.cpu_time()));
            }
        }
        let (began, spent) = began.unwrap();
        println!(
            "the scheduler's {BINDINGS} bindings: {:.0}/s, CPU each {:?} here, {:?} there with the lists",
            f64::from(BINDINGS) / began.elapsed().as_secs_f64(),
            scheduler.cpu_time().saturating_sub(spent) / BINDINGS,
            plane.apiserver().cpu_time().saturating_sub(server) / BINDINGS,
        );
        watch.abort();
        scheduler.terminate(LIMIT).await.unwrap();
    }

    for (count, in_flight) in [(1, 64), (2, 64), (4, 64), (2, 128)] {
        let prefix = format!("b-{count}-{in_flight}");
        create(&client, &prefix, BINDINGS, |name, _| pod(name, None)).await;
        bind_all(&plane, &Connections::new(&config, count).unwrap(), in_flight, &prefix).await;
    }
}

/// Binds to nodes that were chosen before.
async fn bind_all(plane: &ControlPlane, connections: &Connections, in_flight: usize, prefix: &str) {
    let (server, spent, started) = (plane.apiserver().cpu_time(), cpu(), Instant::now());
    stream::iter(0..BINDINGS)
        .for_each_concurrent(in_flight, async |number| {
            let name = format!("{prefix}-{number}");
            let binding = proto::Binding::to_node("default", &name, "", &format!("n-{}", number % NODES));
            let body = Bytes::from(proto::wrap("v1", "Binding", &binding));
            let path = format!("/api/v1/namespaces/default/pods/{name}/binding");
            let answer = connections.send(Method::Create, &path, body, LIMIT).await.unwrap();
            assert_eq!(answer.status, 201, "{}", answer.message());
        })
        .await;
    println!(
        "{BINDINGS} bindings, {connections:?}, {in_flight} in flight: {:.0}/s, CPU each {:?} here, {:?} there",
        f64::from(BINDINGS) / started.elapsed().as_secs_f64(),
        cpu().saturating_sub(spent) / BINDINGS,
        plane.apiserver().cpu_time().saturating_sub(server) / BINDINGS
    );
}
