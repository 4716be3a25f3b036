//! What the process is told.

use std::path::PathBuf;
use std::time::Duration;

use atoll_runtime::process::CommonArgs;
use clap::Parser;

use crate::kubelet::resources::{ResourceName, Rule, Slices};

/// The GPUs of one node, for its kubelet, its Site and Prometheus.
#[derive(Clone, Debug, Parser)]
#[command(name = "atoll-device-plugin", version)]
pub struct Args {
    /// What every process is told.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Name of the node, as the API server knows it.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: String,
    /// The driver's libnvidia-ml.so.1; without it where drivers install it.
    #[arg(long, value_name = "FILE", env = "ATOLL_NVML")]
    pub nvml: Option<PathBuf>,
    /// Where this process sees the host's file tree.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    pub host_root: PathBuf,
    /// Where the driver is installed, as the host sees it.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    pub driver_root: PathBuf,
    /// The library only plays its GPUs: containers get their names, and no files of the host.
    #[arg(long, env = "ATOLL_WITHOUT_HOST_FILES")]
    pub without_host_files: bool,
    /// Time between two samples of a device, such as 1s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = period)]
    pub sample_period: Duration,
    /// What whole GPUs are called; instances of divided ones are mig-PROFILE in the same domain.
    #[arg(long, value_name = "RESOURCE", default_value = "nvidia.com/gpu")]
    pub resource_name: ResourceName,
    /// Another name for products (or mig-PROFILE) that match, such as *H100*=nvidia.com/h100; the first one counts.
    #[arg(long, value_name = "PATTERN=RESOURCE")]
    pub resource_rule: Vec<Rule>,
    /// So many containers share each device of a resource, with nothing between them, such as nvidia.com/gpu=4.
    #[arg(long, value_name = "RESOURCE=COUNT")]
    pub time_slices: Vec<Slices>,
    /// Where the kubelet keeps its sockets.
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,
    /// Where the container runtime reads CDI files.
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/cdi")]
    pub cdi_dir: PathBuf,
    /// File in which this node's atoll-watchdog writes its lease: the folder given to it as --state-dir, and `lease`. With
    /// it, containers of Atoll's members get GPUs only while that lease lets them run.
    #[arg(long, value_name = "FILE")]
    pub watchdog_lease: Option<PathBuf>,
}

fn period(text: &str) -> Result<Duration, String> {
    let period: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    match Duration::try_from(period) {
        Ok(period) if (Duration::from_millis(100)..=Duration::from_mins(1)).contains(&period) => Ok(period),
        _ => Err("must be from 100ms to 1m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_manifests_work_with_the_defaults() {
        let args = Args::parse_from(["atoll-device-plugin", "--node-name=n"]);
        assert_eq!(args.resource_name.as_str(), "nvidia.com/gpu");
        assert_eq!(args.sample_period, Duration::from_secs(1));
        assert_eq!((args.resource_rule.len(), args.time_slices.len()), (0, 0));
    }

    #[test]
    fn periods_that_would_be_a_load_or_too_late_are_refused() {
        assert_eq!(period("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["10ms", "0s", "2m", "-1s", "soon"] {
            assert!(period(bad).is_err(), "{bad}");
        }
    }
}
