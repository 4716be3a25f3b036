//! Nodes and pods without machines, by kwok.

use std::fs;

use serde_json::json;

use crate::{ControlPlane, ManagedProcess, ProcessSpec, Result, error::Doing as _, tools};

/// Nodes with this annotation are simulated: name, value.
pub const NODE: (&str, &str) = ("kwok.x-k8s.io/node", "fake");
/// On a node: `false` makes it not ready, taking it away makes it ready again.
pub const READY: &str = "atoll.test/ready";
/// On a pod: it stays Pending on its node until this is taken away.
pub const HOLD: &str = "atoll.test/hold";
/// On a running pod: `Succeeded` or `Failed` ends it so.
pub const EXIT: &str = "atoll.test/exit";
/// On a pod: deleted, it stays Terminating until this is taken away.
pub const STUCK: &str = "atoll.test/stuck";

/// A running kwok; it ends on drop, and its nodes freeze.
///
/// Nodes are Ready at once and send no heartbeats: a Site at rest makes no
/// requests. Pods on them run at once, with an address, until deleted.
#[derive(Debug)]
pub struct Kwok {
    process: ManagedProcess,
}

impl Kwok {
    /// Simulates the annotated nodes of this control plane.
    pub fn start(plane: &ControlPlane) -> Result<Self> {
        let dir = plane.dir().join("kwok");
        fs::create_dir_all(&dir).doing("make a folder for kwok")?;
        let config = dir.join("kwok.yaml");
        let configuration = json!({
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokConfiguration",
            "options": {
                "cidr": "10.200.0.0/14",
                "manageNodesWithAnnotationSelector": format!("{}={}", NODE.0, NODE.1),
                "nodeLeaseDurationSeconds": 0,
                "podPlayStageParallelism": 32,
                "nodePlayStageParallelism": 32,
                "podsOnNodeSyncParallelism": 4,
                "serverAddress": "",
            },
        });
        let stages = include_str!("kwok-stages.yaml");
        fs::write(&config, format!("{configuration}\n---\n{stages}")).doing("write kwok's configuration")?;
        let name = format!("{} kwok", plane.options().name);
        let spec = ProcessSpec::new(name, tools::path("kwok")?, plane.dir().join("kwok.log"))
            .args(["--kubeconfig".as_ref(), plane.kubeconfig().as_os_str()])
            .args(["--config".as_ref(), config.as_os_str()])
            .args(["--node-lease-duration-seconds=0"])
            .env("HOME", &dir);
        Ok(Self { process: ManagedProcess::start(spec)? })
    }

    /// Its process, to kill, stop or measure.
    #[must_use]
    pub fn process(&self) -> &ManagedProcess {
        &self.process
    }
}
