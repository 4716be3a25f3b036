//! Flags.

use std::path::PathBuf;

use atoll_runtime::process::LocalArgs;

/// Kills the members on a GPU node that are without a lease, whatever is cut off or broken beside it.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "atoll-watchdog", version)]
pub struct Args {
    /// Flags of every process.
    #[command(flatten)]
    pub local: LocalArgs,
    /// Name of the node, as the API server knows it.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: String,
    /// Where the Site's agent answers watchdogs, such as <http://atoll-agent.atoll-system.svc:9444>.
    #[arg(long, value_name = "URL", env = "ATOLL_AGENT")]
    pub agent: String,
    /// File with the key that the agent and its watchdogs share; read again before each request.
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// Socket of the container runtime (CRI v1).
    #[arg(long, value_name = "FILE", default_value = "/run/containerd/containerd.sock")]
    pub runtime_socket: PathBuf,
    /// Where the node's cgroup file system is mounted, writable. The kubelet must keep a cgroup for each pod, as it does
    /// unless told otherwise.
    #[arg(long, value_name = "FOLDER", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
    /// Folder for what a restart and the device plugin read; it must not survive a reboot.
    #[arg(long, value_name = "FOLDER", default_value = "/run/atoll/watchdog")]
    pub state_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn flags_are_consistent_and_what_is_needed_is_asked_for() {
        Args::command().debug_assert();
        let all = ["atoll-watchdog", "--node-name=n", "--agent=http://agent:1", "--key-file=/k"];
        assert!(Args::try_parse_from(all).is_ok());
        assert!(Args::try_parse_from(&all[..3]).is_err(), "no key");
    }
}
