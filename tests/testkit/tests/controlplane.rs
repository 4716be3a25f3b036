//! The control plane, the simulated nodes and what tests do with them.

#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::time::{Duration, Instant};

use atoll_testkit::{
    ControlPlane, ControlPlaneOptions, Kwok, NodeProfile, kwok, nodes, require,
    wait::{wait_all, wait_for, wait_gone},
};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_mins(1);

fn pod(name: &str, node: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "none", "resources": {"limits": {"nvidia.com/gpu": 1}}}],
        },
    }))
    .unwrap()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

#[tokio::test]
async fn pods_live_and_die_on_simulated_nodes_and_the_audit_log_tells() {
    require!(Core);
    let started = Instant::now();
    let plane = ControlPlane::start(ControlPlaneOptions::new("site")).await.unwrap();
    println!("control plane ready in {:?}", started.elapsed());
    let _kwok = Kwok::start(&plane).unwrap();
    let client = plane.client();
    nodes::create(&client, &[NodeProfile::h100().named("h100", 3)]).await.unwrap();
    nodes::wait_ready(&client, 3, LIMIT).await.unwrap();
    println!("nodes ready after {:?}", started.elapsed());

    let mark = plane.audit().mark().unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods.create(&PostParams::default(), &pod("a", "h100-0")).await.unwrap();
    let running = wait_for(&pods, "a", "to run", LIMIT, |pod| phase(pod) == "Running").await.unwrap();
    let status = running.status.unwrap();
    assert!(status.pod_ip.is_some());
    assert!(status.conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == "True"));

    let annotate = json!({"metadata": {"annotations": {kwok::EXIT: "Failed"}}});
    pods.patch("a", &PatchParams::default(), &Patch::Merge(&annotate)).await.unwrap();
    let ended = wait_for(&pods, "a", "to fail", LIMIT, |pod| phase(pod) == "Failed").await.unwrap();
    let container = ended.status.unwrap().container_statuses.unwrap().remove(0);
    let state = container.state.unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 1);
    assert!(state.running.is_none());

    let deleting = Instant::now();
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    wait_gone(&pods, "a", LIMIT).await.unwrap();
    assert!(deleting.elapsed() < Duration::from_secs(10), "{:?}", deleting.elapsed());

    // Who did what: the test created, patched and deleted the pod, kwok wrote its status.
    let audit = plane.audit();
    for (verb, resource) in [("create", "pods"), ("patch", "pods"), ("delete", "pods"), ("patch", "pods/status")] {
        let what = format!("{verb} {resource} in the audit log");
        let event = audit
            .wait_for(mark, &what, LIMIT, |event| {
                // kwok may delete a pod a second time, before it hears that it is gone.
                let known = event.code != 404;
                event.verb == verb && event.full_resource() == resource && event.namespace == "default" && known
            })
            .await
            .unwrap();
        assert!(event.succeeded(), "{event:?}");
        assert_eq!(event.user, "kubernetes-admin");
    }
    assert!(audit.writes_since(mark).unwrap().iter().all(|event| event.resource != "leases"));

    for process in [Some(plane.apiserver()), Some(plane.etcd()), plane.controllers()].into_iter().flatten() {
        println!("{}: {} MiB", process.name(), process.memory() >> 20);
    }
}

#[tokio::test]
async fn tests_can_hold_pods_back_keep_them_terminating_and_take_nodes_down() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::new("site")).await.unwrap();
    let _kwok = Kwok::start(&plane).unwrap();
    let client = plane.client();
    nodes::create(&client, &[NodeProfile::rtx4090().named("pc", 1)]).await.unwrap();
    nodes::wait_ready(&client, 1, LIMIT).await.unwrap();

    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let mut held = pod("held", "pc-0");
    held.metadata.annotations =
        Some([(kwok::HOLD.to_owned(), "1".to_owned()), (kwok::STUCK.to_owned(), "1".to_owned())].into());
    pods.create(&PostParams::default(), &held).await.unwrap();
    pods.create(&PostParams::default(), &pod("free", "pc-0")).await.unwrap();
    wait_for(&pods, "free", "to run", LIMIT, |pod| phase(pod) == "Running").await.unwrap();
    assert_eq!(phase(&pods.get("held").await.unwrap()), "Pending");

    let free = async |annotation: &str| {
        let patch = json!({"metadata": {"annotations": {annotation: null}}});
        pods.patch("held", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    };
    free(kwok::HOLD).await;
    wait_for(&pods, "held", "to run", LIMIT, |pod| phase(pod) == "Running").await.unwrap();
    pods.delete("held", &DeleteParams::default()).await.unwrap();
    pods.delete("free", &DeleteParams::default()).await.unwrap();
    wait_gone(&pods, "free", LIMIT).await.unwrap();
    assert!(pods.get("held").await.unwrap().metadata.deletion_timestamp.is_some());
    free(kwok::STUCK).await;
    wait_gone(&pods, "held", LIMIT).await.unwrap();

    let all: Api<Node> = Api::all(client);
    for (annotation, ready) in [(json!("false"), false), (json!(null), true)] {
        let patch = json!({"metadata": {"annotations": {kwok::READY: annotation}}});
        all.patch("pc-0", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        wait_for(&all, "pc-0", "its readiness to follow", LIMIT, |node| nodes::is_ready(node) == ready).await.unwrap();
    }
}

#[tokio::test]
async fn users_may_do_what_roles_say() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::new("hub")).await.unwrap();
    plane.create_namespace("ml").await.unwrap();
    plane
        .kubectl(["create", "rolebinding", "ann", "--namespace=ml", "--clusterrole=view", "--group=team-b"])
        .await
        .unwrap()
        .ok()
        .unwrap();

    let ann = plane.client_as("ann", &["team-a", "team-b"]).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(ann, "ml");
    atoll_testkit::wait::eventually("the role to count", LIMIT, async || {
        maps.list(&ListParams::default()).await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    let refused = maps.create(&PostParams::default(), &ConfigMap::default()).await.unwrap_err();
    assert!(refused.to_string().contains("forbidden"), "{refused}");

    let bob = plane.kubeconfig_as("bob", &[]).unwrap();
    let refused = plane.kubectl_with(&bob, ["get", "pods", "-n", "ml"], "").await.unwrap();
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("User \"bob\" cannot list"), "{}", refused.stderr);

    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: ml}\n";
    plane.kubectl_input(["apply", "-f", "-"], manifest).await.unwrap().ok().unwrap();
    let version = plane.kubectl(["version"]).await.unwrap().ok().unwrap();
    assert_eq!(version.matches("v1.37.2").count(), 2, "{version}");

    let deleting = Instant::now();
    plane.kubectl(["delete", "namespace", "ml"]).await.unwrap().ok().unwrap();
    println!("namespace deleted in {:?}", deleting.elapsed());
}

#[tokio::test]
async fn an_api_server_that_is_killed_comes_back_with_everything() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::bare("api")).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(plane.client(), "default");
    let mut map = ConfigMap::default();
    map.metadata.name = Some("kept".to_owned());
    maps.create(&PostParams::default(), &map).await.unwrap();

    let waiting = tokio::spawn({
        let maps = maps.clone();
        async move {
            let config = watcher::Config::default().fields("metadata.name=late");
            wait_all(&maps, config, "a map made after the restart", LIMIT, |all| !all.is_empty()).await
        }
    });
    plane.restart_apiserver().await.unwrap();
    maps.get("kept").await.unwrap();
    map.metadata.name = Some("late".to_owned());
    maps.create(&PostParams::default(), &map).await.unwrap();
    waiting.await.unwrap().unwrap();
    plane.stop().await.unwrap();
}
