//! Who is measured, and how it is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use atoll_testkit::{ManagedProcess, ProcessSpec};

use crate::world::World;

/// The account that the shipped role is bound to.
const ACCOUNT: &str = "system:serviceaccount:atoll-system:atoll-scheduler";
const GROUPS: [&str; 2] = ["system:serviceaccounts", "system:serviceaccounts:atoll-system"];

/// How the null binder talks to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// Connections that share the bindings.
    pub connections: usize,
    /// Bindings in flight on all of them together.
    pub in_flight: usize,
}

/// Who binds pods.
#[derive(Debug, Clone)]
pub enum Contender {
    /// Nobody decides: the file says which pod goes where.
    Null(Wire, PathBuf),
    /// kube-scheduler of the control plane's version, its client limits out of the way.
    Kube,
    /// This program.
    Atoll(PathBuf),
}

impl Contender {
    /// What tables and `--contenders` call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null(..) => "null",
            Self::Kube => "kube",
            Self::Atoll(_) => "atoll",
        }
    }

    /// `spec.schedulerName` of its pods.
    pub fn scheduler_name(&self) -> &'static str {
        match self {
            Self::Kube => "default-scheduler",
            Self::Null(..) | Self::Atoll(_) => atoll_api::names::SCHEDULER_NAME,
        }
    }

    /// Whom the audit log says it is.
    pub fn user(&self) -> &'static str {
        match self {
            Self::Kube => "system:kube-scheduler",
            Self::Null(..) | Self::Atoll(_) => ACCOUNT,
        }
    }

    /// Starts its process, with no more rights than it ships with.
    pub fn start(&self, world: &World) -> Result<ManagedProcess> {
        let plane = &world.plane;
        match self {
            Self::Null(wire, bindings) => {
                let kubeconfig = plane.kubeconfig_as(ACCOUNT, &GROUPS)?;
                let this = std::env::current_exe().context("find this program")?;
                let args: [OsString; 9] = [
                    "null-binder".into(),
                    "--kubeconfig".into(),
                    kubeconfig.into(),
                    "--bindings".into(),
                    bindings.into(),
                    "--in-flight".into(),
                    wire.in_flight.to_string().into(),
                    "--connections".into(),
                    wire.connections.to_string().into(),
                ];
                let log = plane.dir().join("null-binder.log");
                Ok(ManagedProcess::start(ProcessSpec::new("null binder", this, log).args(args))?)
            }
            Self::Kube => {
                let kubeconfig = plane.kubeconfig_as(self.user(), &[])?;
                let kubeconfig = kubeconfig.to_str().context("a path in UTF-8")?;
                let mut args = vec!["--kubeconfig", kubeconfig];
                args.extend(world.gates());
                Ok(plane.start_kube_scheduler(None, &args)?)
            }
            Self::Atoll(program) => {
                let kubeconfig = plane.kubeconfig_as(ACCOUNT, &GROUPS)?;
                let args = ["--leader-elect=false", "--http-address=127.0.0.1:0", "--kubeconfig"];
                let spec = ProcessSpec::new("atoll-scheduler", program, plane.dir().join("atoll-scheduler.log"))
                    .args(args)
                    .args([kubeconfig]);
                Ok(ManagedProcess::start(spec)?)
            }
        }
    }
}

/// The same pods to the same nodes: a line `namespace/pod node` for each.
pub fn write_bindings(path: &Path, bindings: impl Iterator<Item = (String, String)>) -> Result<()> {
    let lines: Vec<String> = bindings.map(|(pod, node)| format!("default/{pod} {node}")).collect();
    std::fs::write(path, lines.join("\n")).with_context(|| format!("write {}", path.display()))
}
