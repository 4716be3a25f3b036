//! The watchdog of a real node.

use std::path::{Path, PathBuf};

use anyhow::Result;
use atoll_testkit::realnode::RealNode;
use atoll_testkit::{Machine, ManagedProcess, ProcessSpec, binaries};

use crate::hub::Http;
use crate::site::WatchdogEnd;

/// A running watchdog. Ended with it.
#[derive(Debug)]
pub struct Watchdog {
    /// Its process.
    pub process: ManagedProcess,
    _http: Http,
}

impl Watchdog {
    /// The file in which the watchdog of a node writes its lease.
    #[must_use]
    pub fn lease(node: &RealNode) -> PathBuf {
        Self::state(node).join("lease")
    }

    fn state(node: &RealNode) -> PathBuf {
        node.dir().join("watchdog")
    }

    /// Starts the watchdog of a node that is a host of its own; it asks this agent.
    pub fn start(machine: &Machine, node: &RealNode, agent: &WatchdogEnd) -> Result<Self> {
        let http = Http::on(Some(machine))?;
        let log = node.dir().join("watchdog.log");
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let spec = ProcessSpec::new(format!("{} watchdog", node.name()), binaries::path("atoll-watchdog")?, log)
            .args([format!("--node-name={}", node.name()), format!("--agent=http://{}", agent.address)])
            .args([flag("key-file", &agent.key), flag("runtime-socket", &node.runtime_socket())])
            .args([flag("state-dir", &Self::state(node)), format!("--http-address={}", http.address())])
            .env("ATOLL_LOG", std::env::var("ATOLL_LOG").unwrap_or_else(|_| "info".to_owned()))
            .on(Some(machine));
        Ok(Self { process: ManagedProcess::start(spec)?, _http: http })
    }
}
