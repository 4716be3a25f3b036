//! A control plane with simulated nodes, as each contender gets it anew.

use std::time::Instant;

use anyhow::Result;
use atoll_api::names::SYSTEM_NAMESPACE;
use atoll_e2e::manifests;
use atoll_testkit::controlplane::SERVICE_ACCOUNT;
use atoll_testkit::{ControlPlane, ControlPlaneOptions, NodeProfile, nodes};
use kube::Client;

/// What Kubernetes needs to serve and to schedule gangs with topology.
const GATES: &str = "--feature-gates=GenericWorkload=true,TopologyAwareWorkloadScheduling=true";
const SERVED: &str = "--runtime-config=scheduling.k8s.io/v1beta1=true";

/// A control plane with nodes and without pods.
pub struct World {
    pub plane: ControlPlane,
    pub client: Client,
    upstream_gangs: bool,
}

impl World {
    /// Starts one with these nodes, which are Ready; `upstream_gangs`: Kubernetes' own gangs are served.
    pub async fn start(profile: NodeProfile, upstream_gangs: bool) -> Result<Self> {
        let started = Instant::now();
        // Controllers that follow every pod would compete for the processors.
        let options =
            ControlPlaneOptions::new("bench").controllers([SERVICE_ACCOUNT]).crds(manifests::crds(&["gangs"])?);
        let options = if upstream_gangs { options.apiserver_args([GATES, SERVED]) } else { options };
        let plane = ControlPlane::start(options).await?;
        plane.create_namespace(SYSTEM_NAMESPACE).await?;
        for path in manifests::yaml_files("deploy/site")? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("scheduler")) {
                plane.kubectl(["apply".as_ref(), "-f".as_ref(), path.as_os_str()]).await?.ok()?;
            }
        }
        let client = plane.client();
        nodes::create(&client, &[profile.without_kwok()]).await?;
        eprintln!("   control plane with nodes after {:.1} s", started.elapsed().as_secs_f64());
        Ok(Self { plane, client, upstream_gangs })
    }

    /// The flags that switch Kubernetes' own gangs on in its scheduler.
    pub fn gates(&self) -> Option<&'static str> {
        self.upstream_gangs.then_some(GATES)
    }
}
