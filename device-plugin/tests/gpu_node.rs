//! The Site's `GPUNode` on a real API server, with the rights that ship and a token of a node's kubelet.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_api::conditions::{gpu_node as types, gpu_node_reason as reason, is_true};
use atoll_api::{DeviceHealth, GpuNode, GpuNodeStatus};
use atoll_core::device::{Reason, State, Verdict};
use atoll_device_plugin::backend::{Device, Driver};
use atoll_device_plugin::gpu_node::{Holders, Offer, Sources, keep};
use atoll_device_plugin::state::{DeviceState, Holder, NodeDevices};
use atoll_testkit::wait::{eventually, wait_for};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, Kwok, NodeProfile, nodes, require};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(30);
const RBAC: &str = include_str!("../../deploy/site/device-plugin-rbac.yaml");
const NODE: &str = "h100-0";
const CHANGES: usize = 40;

fn devices(sick: Option<usize>) -> Arc<NodeDevices> {
    let device = |index: usize| {
        let id: Arc<str> = format!("GPU-{index}").into();
        let since = Duration::ZERO;
        let reasons = vec![Reason { code: "RowRemapFailed", message: "no spare row is left".to_owned(), since }];
        DeviceState {
            device: Arc::new(Device {
                id: id.clone(),
                gpu: id,
                index: u32::try_from(index).unwrap(),
                product: "NVIDIA H100 80GB HBM3".to_owned(),
                memory_mib: 81_559,
                ..Device::default()
            }),
            verdict: match sick {
                Some(sick) if sick == index => Verdict { state: State::Unhealthy, reasons },
                _ => Verdict::default(),
            },
        }
    };
    Arc::new(NodeDevices {
        driver: Some(Driver { version: "580.95.05".to_owned(), cuda: None }),
        devices: (0..8).map(device).collect(),
    })
}

/// A client with a token of the plugin's account that is bound to a Node.
async fn on_node(plane: &ControlPlane, node: &str) -> Client {
    let token = plane
        .kubectl([
            "create",
            "token",
            "atoll-device-plugin",
            "--namespace=atoll-system",
            "--bound-object-kind=Node",
            &format!("--bound-object-name={node}"),
        ])
        .await
        .unwrap()
        .ok()
        .unwrap();
    let file = kube::config::Kubeconfig::read_from(plane.kubeconfig()).unwrap();
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await.unwrap();
    config.auth_info = kube::config::AuthInfo { token: Some(token.trim().to_owned().into()), ..Default::default() };
    Client::try_from(config).unwrap()
}

fn sick(status: &GpuNodeStatus) -> Vec<&str> {
    let sick = status.devices.iter().filter(|device| device.health == DeviceHealth::Unhealthy);
    sick.map(|device| device.uuid.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gpu_node_follows_the_devices_and_is_written_only_when_they_change() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::new("gpu-node").crds(atoll_api::crd::all())).await.unwrap();
    let _kwok = Kwok::start(&plane).unwrap();
    nodes::create(&plane.client(), &[NodeProfile::h100().named("h100", 2)]).await.unwrap();
    plane.create_namespace("atoll-system").await.unwrap();
    plane.kubectl_input(["apply", "-f", "-"], RBAC).await.unwrap().ok().unwrap();

    let client = on_node(&plane, NODE).await;
    let (said, heard) = watch::channel(devices(None));
    let (held, holders) = watch::channel(Arc::new(Holders::new()));
    let offer = Box::new(|_: &Device| Offer { resource: "nvidia.com/gpu".to_owned(), replicas: 1 });
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(keep(client, NODE.to_owned(), Sources { devices: heard, holders, offer }, stop.clone()));

    let api: Api<GpuNode> = Api::all(plane.client());
    let described = |node: &GpuNode| node.status.as_ref().is_some_and(|status| status.devices.len() == 8);
    let node = wait_for(&api, NODE, "to be described", LIMIT, described).await.unwrap();
    let status = node.status.as_ref().unwrap();
    assert_eq!((status.model.as_str(), status.allocatable, status.unhealthy), ("h100-sxm5-80gb", 8, 0));
    assert!(is_true(&status.conditions, types::DRIVER_READY) && is_true(&status.conditions, types::GPUS_HEALTHY));
    let owner = Api::<Node>::all(plane.client()).get(NODE).await.unwrap();
    assert_eq!(node.owner_references()[0].uid, owner.uid().unwrap());

    // The supplier's price is theirs.
    let price = json!({"spec": {"pricePerGpuHour": "2.5", "unschedulable": true}});
    let node = api.patch(NODE, &PatchParams::default(), &Patch::Merge(price)).await.unwrap();

    // Every change is one write, soon, and nothing else is.
    let mut seen = api.watch(&WatchParams::default(), &node.resource_version().unwrap()).await.unwrap().boxed();
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let wanted = (change % 2 == 0).then_some(change % 8);
        said.send_modify(|_| {});
        let start = Instant::now();
        said.send_replace(devices(wanted));
        let next = tokio::time::timeout(LIMIT, seen.next()).await.unwrap();
        times.push(start.elapsed());
        let Some(Ok(WatchEvent::Modified(node))) = next else { panic!("{next:?}") };
        let status = node.status.unwrap();
        assert_eq!(sick(&status), wanted.map(|index| format!("GPU-{index}")).as_slice(), "change {change}");
        assert_eq!((status.allocatable, node.spec.unschedulable), (8 - i32::from(wanted.is_some()), true));
    }
    times.sort();
    eprintln!(
        "from a change to the watch of the GPUNode: median {:?}, worst {:?}",
        times[CHANGES / 2],
        times[CHANGES - 1]
    );
    assert!(times[CHANGES - 1] < Duration::from_secs(1), "{times:?}");

    // Each change of a device is an event of its own on the Node.
    let events: Api<Event> = Api::namespaced(plane.client(), "default");
    eventually("an event for each change", LIMIT, || async {
        let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let of = |word: &str| all.iter().filter(|event| event.reason.as_deref() == Some(word)).count();
        let (bad, good) = (of(reason::GPU_UNHEALTHY), of(reason::GPU_HEALTHY));
        if (bad, good) == (CHANGES / 2, CHANGES / 2) { Ok(()) } else { Err(format!("{bad} and {good}")) }
    })
    .await
    .unwrap();

    // Who holds a sick device is told at once, who holds a healthy one is not.
    let holder = Holder { namespace: "atoll-1".into(), pod: "a-0-1".into(), uid: "u".into(), container: "main".into() };
    let of = |index: usize| (Arc::from(format!("GPU-{index}")), BTreeSet::from([holder.clone()]));
    held.send_replace(Arc::new([of(3), of(4)].into()));
    said.send_replace(devices(Some(3)));
    let held_by = |node: &GpuNode| {
        let devices = node.status.iter().flat_map(|status| &status.devices);
        devices.flat_map(|device| &device.holders).map(|holder| holder.pod.clone()).collect::<Vec<_>>() == ["a-0-1"]
    };
    wait_for(&api, NODE, "to say who holds the sick one", LIMIT, held_by).await.unwrap();

    // Deleted, it comes back with the next news.
    api.delete(NODE, &DeleteParams::default()).await.unwrap();
    said.send_replace(devices(Some(5)));
    let back = |node: &GpuNode| node.status.as_ref().is_some_and(|status| sick(status) == ["GPU-5"]);
    wait_for(&api, NODE, "to be back", LIMIT, back).await.unwrap();

    // One on another node may not say how this one is.
    let other = on_node(&plane, "h100-1").await;
    let lie = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": NODE},
                     "status": {"unhealthy": 8}});
    let params = PatchParams::apply("liar").force();
    let other: Api<GpuNode> = Api::all(other);
    // An API server takes some seconds to heed a new policy.
    eventually("a write about another node to be refused", LIMIT, || async {
        match other.patch_status(NODE, &params, &Patch::Apply(&lie)).await {
            Err(error) if error.to_string().contains("its own node") => Ok(()),
            other => Err(format!("{:?}", other.map(|node| node.name_any()))),
        }
    })
    .await
    .unwrap();

    stop.cancel();
    keeper.await.unwrap();
}
