//! The device plugin of a real node, on GPUs that the fake NVML library plays.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use atoll_testkit::realnode::RealNode;
use atoll_testkit::wait::wait_for;
use atoll_testkit::{ControlPlane, ManagedProcess, fake_nvml};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;

use crate::hub::{Http, component, service_account, wait_ready};

const PROGRAM: &str = "atoll-device-plugin";
const RESOURCE: &str = "nvidia.com/gpu";

/// A running device plugin. Ended with it.
#[derive(Debug)]
pub struct DevicePlugin {
    /// Its process.
    pub process: ManagedProcess,
    control: PathBuf,
    _http: Http,
}

impl DevicePlugin {
    /// Starts the plugin for these GPUs, such as `l40s:4`, and waits until the node's kubelet gives out so many.
    pub async fn start(plane: &ControlPlane, node: &RealNode, gpus: &str, count: u32) -> Result<Self> {
        Self::start_with(plane, node, gpus, count, None).await
    }

    /// The same; members start under the lease in this file of the node's watchdog only, if given.
    pub async fn start_with(
        plane: &ControlPlane,
        node: &RealNode,
        gpus: &str,
        count: u32,
        watchdog_lease: Option<&Path>,
    ) -> Result<Self> {
        let control = node.dir().join("gpus");
        std::fs::write(&control, format!("node {gpus}\n")).context("write the control file of the GPUs")?;
        let kubelet = node.device_plugin_dir();
        let kubelet = kubelet.parent().context("the kubelet's folder")?;
        let http = Http::on(None)?;
        let spec = component(plane, &service_account(plane, PROGRAM)?, (PROGRAM, None), "device-plugin", &http)?
            .args([format!("--node-name={}", node.name()), format!("--nvml={}", fake_nvml()?.display())])
            .args([format!("--kubelet-dir={}", kubelet.display()), format!("--cdi-dir={}", node.cdi_dir().display())])
            .args(["--without-host-files"])
            .args(watchdog_lease.map(|file| format!("--watchdog-lease={}", file.display())))
            .env("ATOLL_FAKE_NVML_CONTROL", &control);
        let process = ManagedProcess::start(spec)?;
        wait_ready(&process, &http).await?;
        let nodes: Api<Node> = Api::all(plane.client());
        let gives_out = |node: &Node| {
            let amounts = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
            amounts.and_then(|amounts| amounts.get(RESOURCE)).is_some_and(|amount| amount.0 == count.to_string())
        };
        wait_for(&nodes, node.name(), "to give out its GPUs", Duration::from_mins(1), gives_out).await?;
        Ok(Self { process, control, _http: http })
    }

    /// Lets something happen to the GPUs, in the words of the fake library, such as `recovery 3 reset`.
    pub fn let_happen(&self, command: &str) -> Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.control).context("open the control file")?;
        file.write_all(format!("{command}\n").as_bytes()).context("write to the control file")
    }
}
