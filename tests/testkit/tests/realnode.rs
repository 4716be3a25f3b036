//! A kubelet that really runs containers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

use std::time::{Duration, Instant};

use atoll_testkit::{
    ControlPlane, ControlPlaneOptions,
    realnode::{RealNode, RealNodeOptions},
    require,
    wait::{eventually, wait_all, wait_for, wait_gone},
};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api,
    api::{DeleteParams, LogParams, PostParams},
    runtime::watcher,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);

fn worker(name: &str, rank: u32, world: u32, image: &str) -> Pod {
    let pod = json!({
        "metadata": {"name": name, "labels": {"app": "worker"}},
        "spec": {
            "nodeName": "metal-0",
            "hostname": name,
            "subdomain": "workers",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main",
                "image": image,
                "imagePullPolicy": "Never",
                "args": if world == 1 { vec!["--stay"] } else { vec![] },
                "env": [
                    {"name": "MASTER_ADDR", "value": "worker-0.workers.default.svc.cluster.local"},
                    {"name": "MASTER_PORT", "value": "29500"},
                    {"name": "RANK", "value": rank.to_string()},
                    {"name": "WORLD_SIZE", "value": world.to_string()},
                ],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    serde_json::from_value(pod).unwrap()
}

/// Two workers meet by the name of a headless Service and add their ranks.
#[tokio::test]
async fn workers_find_each_other_by_dns_and_run_on_gpus() {
    require!(RealNode);
    let started = Instant::now();
    let plane = ControlPlane::start(ControlPlaneOptions::real_node("site")).await.unwrap();
    println!("control plane ready in {:?}", started.elapsed());
    let node = RealNode::start(&plane, RealNodeOptions::new("metal-0").gpus(2).label("a/b", "c")).await.unwrap();
    println!("node ready after {:?}", started.elapsed());
    let image = node.import_torch_demo().await.unwrap();
    println!("images there after {:?}", started.elapsed());

    let services: Api<Service> = Api::namespaced(plane.client(), "default");
    let service = json!({
        "metadata": {"name": "workers"},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": {"app": "worker"}, "ports": [{"port": 29500}]},
    });
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(plane.client(), "default");
    for rank in 0..2 {
        pods.create(&PostParams::default(), &worker(&format!("worker-{rank}"), rank, 2, &image)).await.unwrap();
    }
    let workers = watcher::Config::default().labels("app=worker");
    let done = wait_all(&pods, workers, "both workers to succeed", LIMIT, |pods| {
        pods.len() == 2 && pods.iter().all(|pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Succeeded"))
    });
    if let Err(error) = done.await {
        panic!("{error}\n{}\n{}", node.kubelet().log_tail(20), node.containerd().log_tail(20));
    }
    println!("workers done after {:?}", started.elapsed());
    let logs = eventually("the logs", LIMIT, async || {
        pods.logs("worker-1", &LogParams::default()).await.map_err(|error| error.to_string())
    });
    let logs = logs.await.unwrap();
    assert!(logs.contains("all-reduce of 2 ranks = 1"), "{logs}");

    pods.delete("worker-0", &DeleteParams::default()).await.unwrap();
    wait_gone(&pods, "worker-0", LIMIT).await.unwrap();
    println!("deleted after {:?}", started.elapsed());

    let (dir, cgroup) = (node.dir().to_path_buf(), node.cgroup());
    let stopping = Instant::now();
    drop(node);
    println!("stopped in {:?}", stopping.elapsed());
    assert!(!dir.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("atoll-test-"), "{mounts}");
    assert!(!std::path::Path::new("/sys/fs/cgroup/pids").join(&cgroup[1..]).exists());
}

/// Containers outlive the runtime and the kubelet; device plugins reach the kubelet from outside.
#[tokio::test]
async fn containers_outlive_restarts_of_what_started_them() {
    require!(RealNode);
    let plane = ControlPlane::start(ControlPlaneOptions::real_node("site")).await.unwrap();
    let node = RealNode::start(&plane, RealNodeOptions::new("metal-0").gpus(1)).await.unwrap();
    let image = node.import_torch_demo().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(plane.client(), "default");
    pods.create(&PostParams::default(), &worker("alone", 0, 1, &image)).await.unwrap();
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    wait_for(&pods, "alone", "to run", LIMIT, |pod| phase(pod).as_deref() == Some("Running")).await.unwrap();
    let tasks = async || {
        let mut tasks: Vec<_> = node.ctr(["tasks", "ls"]).await.unwrap().lines().map(str::to_owned).collect();
        tasks.sort();
        tasks
    };
    let before = tasks().await;
    assert_eq!(before.iter().filter(|task| task.contains("RUNNING")).count(), 2, "{before:?}");

    node.containerd().restart().await.unwrap();
    eventually("the runtime to be back", LIMIT, async || {
        tokio::net::UnixStream::connect(node.runtime_socket()).await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    assert_eq!(tasks().await, before);

    let socket = node.device_plugin_dir().join("kubelet.sock");
    std::fs::remove_file(&socket).unwrap();
    node.kubelet().restart().await.unwrap();
    eventually("the kubelet to be back", LIMIT, async || {
        node.kubelet().check_running().unwrap();
        tokio::net::UnixStream::connect(&socket).await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    assert_eq!(tasks().await, before);

    pods.delete("alone", &DeleteParams::default()).await.unwrap();
    wait_gone(&pods, "alone", LIMIT).await.unwrap();
    assert_eq!(tasks().await.len(), 1, "only the heading is left");
}
