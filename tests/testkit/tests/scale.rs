//! How fast simulated nodes and pods are: a measurement, run by hand.
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::time::{Duration, Instant};

use atoll_testkit::{
    AuditLevel, ControlPlane, ControlPlaneOptions, Kwok, NodeProfile, nodes, require,
    wait::{wait_all, wait_gone},
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
    runtime::watcher,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of two minutes: cargo test -p atoll-testkit --test scale -- --ignored --nocapture"]
async fn a_thousand_nodes_with_four_pods_each() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::new("scale").audit(AuditLevel::All)).await.unwrap();
    let kwok = Kwok::start(&plane).unwrap();
    let client = plane.client();
    plane.create_namespace("many").await.unwrap();

    let started = Instant::now();
    let profile = NodeProfile::h100().named("n", 1000);
    nodes::create(&client, &[profile]).await.unwrap();
    println!("1,000 nodes created in {:?}", started.elapsed());
    nodes::wait_ready(&client, 1000, LIMIT).await.unwrap();
    println!("1,000 nodes ready in {:?}", started.elapsed());

    let started = Instant::now();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "many");
    stream::iter(0..4000)
        .for_each_concurrent(64, |number| {
            let pod = json!({
                "metadata": {"name": format!("p-{number}")},
                "spec": {"nodeName": format!("n-{}", number % 1000), "containers": [{"name": "main", "image": "none"}]},
            });
            let pods = pods.clone();
            async move {
                pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
            }
        })
        .await;
    println!("4,000 pods created in {:?}", started.elapsed());
    let running = |pods: &[Pod]| {
        let phases = pods.iter().filter_map(|pod| pod.status.as_ref()?.phase.as_deref());
        phases.filter(|phase| *phase == "Running").count() == 4000
    };
    wait_all(&pods, watcher::Config::default(), "4,000 pods to run", LIMIT, running).await.unwrap();
    println!("4,000 pods run after {:?}", started.elapsed());
    for process in [plane.apiserver(), plane.etcd(), kwok.process()] {
        println!("{}: {} MiB, {:?} of CPU", process.name(), process.memory() >> 20, process.cpu_time());
    }

    let mark = plane.audit().mark().unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let at_rest = plane.audit().since(mark).unwrap();
    println!("requests in 20 s at rest: {}", at_rest.len());
    for event in &at_rest {
        println!("  {} {} by {}", event.verb, event.uri, event.user_agent);
    }

    let started = Instant::now();
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete("many", &DeleteParams::default()).await.unwrap();
    wait_gone(&namespaces, "many", LIMIT).await.unwrap();
    println!("the namespace with 4,000 pods was deleted in {:?}", started.elapsed());
}
