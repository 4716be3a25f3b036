//! The process: its parts, wired together.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_runtime::clock::boot_time;
use atoll_runtime::process::Process;
use atoll_runtime::readiness::Readiness;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::args::Args;
use crate::attribution::{self, Parts};
use crate::engine::{self, Clock};
use crate::gpu_node::{self, Offer, Sources};
use crate::kubelet::resources::Resources;
use crate::kubelet::{self, KubeletOptions, PodResources, Registered};
use crate::metrics::Exporter;
use crate::nvidia::{self, HostFiles, Nvidia};
use crate::state::NodeDevices;

/// Parts that `/readyz` waits for.
const DEVICES: &str = "devices";
const KUBELET: &str = "kubelet";

/// Runs until a signal, or until a part that nothing works without ends.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let process = Process::start("atoll-device-plugin", &args.common).await?;
    process.readiness.expect(DEVICES);
    process.readiness.expect(KUBELET);
    let clock: Clock = Arc::new(boot_time);
    let files = (!args.without_host_files).then_some(HostFiles { host: args.host_root, driver: args.driver_root });
    let backend = Nvidia::new(nvidia::Options { library: args.nvml, files });
    let engine = engine::start(Box::new(backend), args.sample_period, Arc::clone(&clock))?;

    let resources = Resources::new(args.resource_name, args.resource_rule, args.time_slices);
    let options = KubeletOptions {
        plugin_dir: args.kubelet_dir.join("device-plugins"),
        pod_resources_socket: args.kubelet_dir.join("pod-resources/kubelet.sock"),
        cdi_dir: args.cdi_dir,
        resources: resources.clone(),
        watchdog_lease: args.watchdog_lease,
        ..KubeletOptions::default()
    };
    let (allocated, allocations) = mpsc::unbounded_channel();
    let (registered, registrations) = watch::channel(BTreeMap::new());
    let (attributed, attributions) = watch::channel(Arc::default());
    let (holders, held) = watch::channel(Arc::default());
    process.registry.register(Box::new(Exporter {
        node: args.node_name.clone(),
        devices: engine.devices.clone(),
        attributed: attributions,
        registered: registrations.clone(),
        period: args.sample_period,
        clock: Arc::clone(&clock),
        description: Exporter::description()?,
    }))?;

    let stop = process.shutdown.clone();
    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let attribution = Parts {
        engine: engine.handle.clone(),
        rounds: engine.rounds,
        allocated: allocations,
        lister: PodResources::new(options.pod_resources_socket.clone(), resources.clone()),
        clock,
        attributed,
        holders,
    };
    let offer = move |device: &crate::backend::Device| {
        let name = resources.name(device);
        Offer { replicas: resources.slices(&name), resource: name.to_string() }
    };
    let sources = Sources { devices: engine.devices.clone(), holders: held, offer: Box::new(offer) };
    let (client, node) = (process.client.clone(), args.node_name);
    let ready = ready(process.readiness.clone(), engine.devices.clone(), registrations);
    let kubelet = kubelet::serve(options, engine.devices, engine.handle, allocated, registered, stop.clone());
    parts.spawn(async move { Ok(kubelet.await?) });
    parts.spawn(unless_failed(attribution::keep(attribution, stop.clone())));
    parts.spawn(unless_failed(gpu_node::keep(client, node, sources, stop.clone())));
    let ready = tokio::spawn(ready);

    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        // Whatever ends first ends the others: after a signal, or because it cannot go on.
        stop.cancel();
        outcome = outcome.and(ended.map_err(anyhow::Error::from).flatten());
    }
    ready.abort();
    process.finish().await;
    outcome
}

async fn unless_failed(part: impl Future<Output = ()>) -> anyhow::Result<()> {
    part.await;
    Ok(())
}

/// Says what is there: devices that were looked at, and a kubelet that follows all of their resources.
async fn ready(
    readiness: Readiness,
    mut devices: watch::Receiver<Arc<NodeDevices>>,
    mut registered: watch::Receiver<BTreeMap<String, Registered>>,
) {
    let mut looked_at = false;
    loop {
        readiness.set(DEVICES, looked_at);
        let nothing = devices.borrow().devices.is_empty();
        let connected = {
            let registered = registered.borrow();
            !registered.is_empty() && registered.values().all(|resource| resource.connected)
        };
        // Where there is nothing to offer the kubelet is told nothing.
        readiness.set(KUBELET, connected || (looked_at && nothing));
        tokio::select! {
            changed = devices.changed() => {
                if changed.is_err() {
                    return;
                }
                looked_at = true;
            }
            changed = registered.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}
