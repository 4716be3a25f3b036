//! A GPU that falls sick under a running member: from the device plugin of its node to the Cluster on the hub.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use atoll_api::conditions::{self, cluster as types, cluster_reason as reason};
use atoll_api::{Cluster, DeviceHealth, GpuNode};
use atoll_core::device::{Reason, State, Verdict};
use atoll_device_plugin::backend::{Device, Driver};
use atoll_device_plugin::gpu_node::{Holders, Offer, Sources, keep};
use atoll_device_plugin::state::{DeviceState, Holder, NodeDevices};
use atoll_e2e::clusters::{self, pods};
use atoll_e2e::{Network, NetworkOptions, SiteOptions, judge};
use atoll_testkit::nodes::NodeProfile;
use atoll_testkit::require;
use atoll_testkit::wait::{eventually, wait_for};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);
/// "Within seconds", on a machine that runs a dozen processes.
const SOON: Duration = Duration::from_secs(5);
const NODE: &str = "a-0";

/// The devices of a node with eight H100s, of which the fourth may be sick.
fn devices(sick: bool) -> Arc<NodeDevices> {
    let device = |index: u32| {
        let id: Arc<str> = format!("GPU-{index}").into();
        let reason = Reason { code: "RowRemapFailed", message: "no spare row is left".into(), since: Duration::ZERO };
        let verdict = Verdict { state: State::Unhealthy, reasons: vec![reason] };
        DeviceState {
            device: Arc::new(Device {
                gpu: id.clone(),
                id,
                index,
                product: "NVIDIA H100 80GB HBM3".to_owned(),
                memory_mib: 81_559,
                ..Device::default()
            }),
            verdict: if sick && index == 3 { verdict } else { Verdict::default() },
        }
    };
    let driver = Some(Driver { version: "580.95.05".to_owned(), cuda: None });
    Arc::new(NodeDevices { driver, devices: (0..8).map(device).collect() })
}

/// The member pod of the Site.
async fn member(client: &Client) -> Result<Pod> {
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=atoll-agent");
    let all = Api::<Pod>::all(client.clone()).list(&ours).await?;
    assert_eq!(all.items.len(), 1);
    Ok(all.items.into_iter().next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_gpu_is_not_offered_and_the_cluster_says_which_member_runs_on_it() -> Result<()> {
    require!(Core, Ok(()));
    let site = SiteOptions::new("alpha", "eu-west", "acme", vec![NodeProfile::h100().named("a", 1)]);
    let network = Network::start(NetworkOptions::new(vec![site])).await?;
    let (client, site) = (network.client(), &network.sites[0]);

    // What runs on each node, but for the devices.
    let (said, heard) = watch::channel(devices(false));
    let (held, holders) = watch::channel(Arc::new(Holders::new()));
    let offer = Box::new(|_: &Device| Offer { resource: "nvidia.com/gpu".to_owned(), replicas: 1 });
    let plugin = "system:serviceaccount:atoll-system:atoll-device-plugin";
    let as_plugin = site.plane.client_as(plugin, &["system:serviceaccounts"]).await?;
    let stop = CancellationToken::new();
    let sources = Sources { devices: heard, holders, offer };
    let keeper = tokio::spawn(keep(as_plugin, NODE.to_owned(), sources, stop.clone()));

    let nodes: Api<GpuNode> = Api::all(client.clone());
    let copy = format!("{}.{NODE}", network.site_name("alpha").await?);
    let known = |node: &GpuNode| node.status.as_ref().is_some_and(|status| status.devices.len() == 8);
    wait_for(&nodes, &copy, "to have its devices", LIMIT, known).await?;

    clusters::create(&client, "default", &pods("work", 1, 2, "h100-sxm5-80gb")).await?;
    clusters::wait_state(&client, "default", "work", "Running", LIMIT).await?;
    let pod = member(&site.plane.client()).await?;
    let (namespace, name, uid) = (pod.namespace().unwrap(), pod.name_any(), pod.uid().unwrap());
    let holder = Holder { namespace, pod: name, uid, container: "main".to_owned() };
    held.send_replace(Arc::new(
        (2..4).map(|i| (format!("GPU-{i}").into(), BTreeSet::from([holder.clone()]))).collect(),
    ));

    let ailing = |cluster: &Cluster| {
        let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
        conditions.filter(|found| found.type_ == types::GPUS_HEALTHY).map(|found| found.status == "False").next()
    };
    for sick in [true, false] {
        let start = Instant::now();
        said.send_replace(devices(sick));
        let counted = |node: &GpuNode| {
            let status = node.status.as_ref().unwrap();
            (status.allocatable, status.unhealthy) == if sick { (7, 1) } else { (8, 0) }
        };
        let node = wait_for(&nodes, &copy, "to count its GPUs anew", LIMIT, counted).await?;
        let at_the_hub = start.elapsed();
        let first = &node.status.as_ref().unwrap().devices[0];
        if sick {
            assert_eq!((first.uuid.as_str(), first.health), ("GPU-3", DeviceHealth::Unhealthy));
            assert_eq!(first.reasons[0].code, "RowRemapFailed");
        }
        assert!(serde_json::to_vec(&(&node.spec, &node.status))?.len() <= 2_048);
        let told = |cluster: &Cluster| ailing(cluster) == Some(sick);
        let api = clusters::api(&client, "default");
        let cluster = wait_for(&api, "work", "to say how its GPUs are", LIMIT, told).await?;
        println!("sick {sick}: {at_the_hub:?} to the hub's GPUNode, {:?} to the Cluster", start.elapsed());
        assert!(start.elapsed() < SOON);
        assert_eq!(clusters::state(&cluster), "Running", "the member runs on");
        let said = conditions::condition(&cluster.status.as_ref().unwrap().conditions, types::GPUS_HEALTHY).unwrap();
        if sick {
            assert_eq!(said.reason, reason::GPU_UNHEALTHY);
            let expected = "rank 0 on a-0 of alpha: GPU-3 is Unhealthy, RowRemapFailed: no spare row is left";
            assert_eq!(said.message, expected);
        }
    }
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    eventually("an event on the Cluster", LIMIT, || async {
        let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let found = all.iter().any(|event| event.reason.as_deref() == Some(reason::GPU_UNHEALTHY));
        if found { Ok(()) } else { Err("none".to_owned()) }
    })
    .await?;
    stop.cancel();
    keeper.await?;
    judge::settled(&network, LIMIT).await
}
