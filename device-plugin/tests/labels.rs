//! Against a real kubelet and containerd: no sample is labelled with a pod that did not hold the device meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_core::device::Reading;
use atoll_device_plugin::attribution::{Attributed, Parts, keep};
use atoll_device_plugin::backend::{
    Backend, BackendError, ContainerEdits, Device, DeviceId, Driver, Event, Events, Sample,
};
use atoll_device_plugin::engine;
use atoll_device_plugin::kubelet::{KubeletOptions, PodResources, resources::Resources, serve};
use atoll_runtime::clock::boot_time;
use atoll_testkit::realnode::{RealNode, RealNodeOptions};
use atoll_testkit::wait::{wait_for, wait_gone};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, require};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(90);
const GPU: &str = "nvidia.com/gpu";
const NODE: &str = "metal-0";
const GPUS: u32 = 4;

/// GPUs that are always well, and take their time to say so.
struct Quiet;

impl Backend for Quiet {
    fn driver(&mut self) -> Result<Driver, BackendError> {
        Ok(Driver::default())
    }

    fn devices(&mut self) -> Result<Vec<Device>, BackendError> {
        let id = |index: u32| -> DeviceId { format!("GPU-{index}").into() };
        Ok((0..GPUS).map(|index| Device { id: id(index), gpu: id(index), index, ..Device::default() }).collect())
    }

    fn events(&mut self, _: &[Device]) -> Result<Box<dyn Events>, BackendError> {
        Ok(Box::new(Self))
    }

    fn sample(&mut self, _: &Device) -> Result<Sample, BackendError> {
        std::thread::park_timeout(Duration::from_millis(60));
        let reading = Reading { processes: Some(Vec::new()), memory_used_mib: Some(0), ..Reading::default() };
        Ok(Sample { reading, ..Sample::default() })
    }

    fn prepare(&mut self, _: &[Device]) -> Result<ContainerEdits, BackendError> {
        Ok(ContainerEdits { env: vec![("GIVEN".to_owned(), "1".to_owned())], ..ContainerEdits::default() })
    }
}

impl Events for Quiet {
    fn wait(&mut self, limit: Duration) -> Result<Vec<Event>, BackendError> {
        std::thread::park_timeout(limit);
        Ok(Vec::new())
    }
}

/// A pod held a device at most from when until when.
#[derive(Clone, Debug)]
struct Life {
    uid: String,
    name: String,
    asked: Duration,
    /// None: not yet.
    gone: Option<Duration>,
}

/// Which pod, by UID, was given which devices: the kubelet's own notes.
fn given(checkpoint: &Path) -> Vec<(String, String)> {
    let notes: Value = serde_json::from_slice(&fs::read(checkpoint).unwrap_or_default()).unwrap_or_default();
    let entries = notes["Data"]["PodDeviceEntries"].as_array().cloned().unwrap_or_default();
    let of = |entry: &Value| {
        let uid = entry["PodUID"].as_str().unwrap_or_default().to_owned();
        let ids = entry["DeviceIDs"].as_object().cloned().unwrap_or_default();
        let ids = ids.values().flat_map(|ids| ids.as_array().cloned().unwrap_or_default()).collect::<Vec<_>>();
        ids.into_iter().filter_map(move |id| Some((uid.clone(), id.as_str()?.to_owned()))).collect::<Vec<_>>()
    };
    entries.iter().flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sample_carries_a_pod_that_did_not_hold_the_device() {
    require!(RealNode);
    let starts: usize = std::env::var("ATOLL_LABEL_STARTS").map_or(24, |count| count.parse().unwrap());
    let plane = ControlPlane::start(ControlPlaneOptions::real_node("site")).await.unwrap();
    let node = RealNode::start(&plane, RealNodeOptions::new(NODE)).await.unwrap();
    let image = node.import_torch_demo().await.unwrap();
    let (nodes, pods): (Api<Node>, Api<Pod>) = (Api::all(plane.client()), Api::namespaced(plane.client(), "default"));

    // The plugin. Its samples take about half of the time, so that many pods come and go within one.
    let clock: engine::Clock = Arc::new(boot_time);
    let engine = engine::start(Box::new(Quiet), Duration::from_millis(500), Arc::clone(&clock)).unwrap();
    let options = KubeletOptions {
        plugin_dir: node.device_plugin_dir(),
        pod_resources_socket: node.pod_resources_socket(),
        cdi_dir: node.cdi_dir(),
        ..KubeletOptions::default()
    };
    let checkpoint = options.plugin_dir.join("kubelet_internal_checkpoint");
    let (allocated, allocations) = mpsc::unbounded_channel();
    let (registered, _registered) = watch::channel(BTreeMap::new());
    let (attributed, mut seen) = watch::channel(Arc::<Attributed>::default());
    let (holders, _holders) = watch::channel(Arc::default());
    let stop = CancellationToken::new();
    let parts = Parts {
        engine: engine.handle.clone(),
        rounds: engine.rounds,
        allocated: allocations,
        lister: PodResources::new(options.pod_resources_socket.clone(), Resources::default()),
        clock,
        attributed,
        holders,
    };
    tokio::spawn(keep(parts, stop.clone()));
    tokio::spawn(serve(options, engine.devices, engine.handle, allocated, registered, stop.clone()));
    let has_gpus = |node: &Node| {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        allocatable.and_then(|all| all.get(GPU)).is_some_and(|count| count.0 == GPUS.to_string())
    };
    wait_for(&nodes, NODE, "to have GPUs", LIMIT, has_gpus).await.unwrap();

    let labels = tokio::spawn({
        let stop = stop.clone();
        async move {
            let (mut rounds, mut labels) = (0, Vec::new());
            while !stop.is_cancelled() && seen.changed().await.is_ok() {
                let now = Arc::clone(&seen.borrow_and_update());
                rounds += 1;
                for (device, holders) in &now.holders {
                    labels.extend(holders.iter().map(|holder| (now.round.span, device.clone(), holder.pod.clone())));
                }
            }
            (rounds, labels)
        }
    });

    // As many names as pods at once, each made anew as soon as it is gone, on the same device or another.
    let lives: Mutex<Vec<Life>> = Mutex::default();
    let devices: Mutex<BTreeSet<(String, String)>> = Mutex::default();
    let queues = (0..GPUS - 1).map(async |line| {
        for _ in 0..starts.div_ceil(GPUS as usize - 1) {
            let name = format!("train-{line}");
            let asked = boot_time();
            let pod = json!({
                "metadata": {"name": name},
                "spec": {
                    "nodeName": NODE, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "main", "image": image, "imagePullPolicy": "Never", "args": ["--stay"],
                        "env": [
                            {"name": "MASTER_ADDR", "value": "localhost"}, {"name": "MASTER_PORT", "value": "29500"},
                            {"name": "RANK", "value": "0"}, {"name": "WORLD_SIZE", "value": "1"},
                        ],
                        "resources": {"limits": {GPU: 1}},
                    }],
                },
            });
            let made = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
            let uid = made.uid().unwrap();
            lives.lock().unwrap().push(Life { uid: uid.clone(), name: name.clone(), asked, gone: None });
            let running =
                |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
            wait_for(&pods, &name, "to run", LIMIT, running).await.unwrap();
            devices.lock().unwrap().extend(given(&checkpoint));
            pods.delete(&name, &DeleteParams::default()).await.unwrap();
            wait_gone(&pods, &name, LIMIT).await.unwrap();
            let gone = boot_time();
            lives.lock().unwrap().iter_mut().filter(|life| life.uid == uid).for_each(|life| life.gone = Some(gone));
        }
    });
    join_all(queues).await;
    stop.cancel();
    let (rounds, labels) = labels.await.unwrap();

    let (lives, devices) = (lives.into_inner().unwrap(), devices.into_inner().unwrap());
    let held = |span: (Duration, Duration), device: &DeviceId, pod: &str| {
        lives.iter().filter(|life| life.name == pod).any(|life| {
            let whole = life.asked <= span.0 && life.gone.is_none_or(|gone| span.1 <= gone);
            whole && devices.contains(&(life.uid.clone(), device.to_string()))
        })
    };
    let wrong: Vec<_> = labels.iter().filter(|(span, device, pod)| !held(*span, device, pod)).collect();
    println!("{} pods, {rounds} rounds, {} labels, {} wrong", lives.len(), labels.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}\n{lives:#?}");
    assert!(labels.len() >= lives.len(), "hardly any sample was labelled");
}
