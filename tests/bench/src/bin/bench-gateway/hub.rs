//! A real API server with a real gateway, and Sites that are made without joining.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use atoll_api::names::{HUB_CA_SECRET, LABEL_SITE, LABEL_SUPPLIER};
use atoll_api::{GpuNode, Site};
use atoll_e2e::hub::get;
use atoll_testkit::audit::Mark;
use atoll_testkit::ports::Port;
use atoll_testkit::wait::{eventually, wait_for};
use atoll_testkit::{AuditEvent, ControlPlane, ControlPlaneOptions, ManagedProcess, ProcessSpec, binaries};
use atoll_wire_client::{Authority, Endpoint, Identity, Validity};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use crate::agent;

pub const SYSTEM: &str = "atoll-system";
const GATEWAY: &str = "system:serviceaccount:atoll-system:atoll-gateway";
const LIMIT: Duration = Duration::from_mins(2);
/// Requests of the preparation at once.
const AT_ONCE: usize = 64;

/// Them.
pub struct Hub {
    pub plane: ControlPlane,
    pub gateway: ManagedProcess,
    pub authority: Authority,
    pub ca_pem: String,
    pub address: SocketAddr,
    http: Port,
    _port: Port,
}

impl Hub {
    pub async fn start() -> Result<Self> {
        let plane = ControlPlane::start(ControlPlaneOptions::bare("hub").crds(atoll_api::crd::all())).await?;
        plane.create_namespace(SYSTEM).await?;
        plane.kubectl(["apply", "-f", "deploy/hub/gateway-rbac.yaml"]).await?.ok()?;
        let supplier = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Supplier", "metadata": { "name": "acme" },
            "spec": { "displayName": "Acme", "contact": "gpus@acme.example" },
        });
        let suppliers: Api<atoll_api::Supplier> = Api::all(plane.client());
        suppliers.create(&PostParams::default(), &serde_json::from_value(supplier)?).await?;
        let (port, http) = (Port::lease()?, Port::lease()?);
        let address = SocketAddr::from(([127, 0, 0, 1], port.number()));
        let kubeconfig =
            plane.kubeconfig_as(GATEWAY, &["system:serviceaccounts", "system:serviceaccounts:atoll-system"])?;
        let log = plane.dir().join("gateway.log");
        let spec = ProcessSpec::new("gateway", binaries::path("atoll-gateway")?, log)
            .args([format!("--kubeconfig={}", kubeconfig.display())])
            .args([format!("--http-address=127.0.0.1:{}", http.number())])
            .args([format!("--listen={address}"), "--name=gw-bench".to_owned(), "--log-filter=warn".to_owned()])
            // All Sites come from one address here.
            .args(["--source-handshakes-per-second=1000", "--source-joins-per-minute=60000"]);
        let gateway = ManagedProcess::start(spec)?;
        let secrets: Api<Secret> = Api::namespaced(plane.client(), SYSTEM);
        let secret = wait_for(&secrets, HUB_CA_SECRET, "to be made", LIMIT, |_| true).await?;
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| -> Result<String> {
            Ok(String::from_utf8(data.get(key).context("the CA's Secret is not as it should be")?.0.clone())?)
        };
        let ca_pem = text("tls.crt")?;
        let authority = Authority::from_pem(&ca_pem, &text("tls.key")?)?;
        let hub = Self { plane, gateway, authority, ca_pem, address, http, _port: port };
        eventually("the gateway to be ready", LIMIT, async || match hub.page("/readyz").await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await?;
        Ok(hub)
    }

    pub fn endpoint(&self) -> Result<Endpoint> {
        Ok(Endpoint::new(self.address, self.authority.certificate())?)
    }

    async fn page(&self, path: &str) -> Result<String> {
        get(&format!("127.0.0.1:{}", self.http.number()), path).await
    }

    /// The sum of a metric over its labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let page = self.page("/metrics").await?;
        let lines = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Sites with one node each, as if they had joined and gone.
    pub async fn sites(&self, count: usize) -> Result<Vec<Identity>> {
        let identities = (0..count).map(|_| self.authority.site(Validity::Now)).collect::<Result<Vec<_>, _>>()?;
        let sites: Api<Site> = Api::all(self.plane.client());
        let nodes: Api<GpuNode> = Api::all(self.plane.client());
        stream::iter(&identities)
            .map(|identity| make(&sites, &nodes, &identity.site))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(identities)
    }

    /// What the gateway wrote since the mark, without its own Lease.
    pub fn written(&self, since: Mark) -> Result<Vec<AuditEvent>> {
        let mut events = self.plane.audit().writes_since(since)?;
        events.retain(|event| event.user == GATEWAY && event.resource != "leases");
        Ok(events)
    }
}

async fn make(sites: &Api<Site>, nodes: &Api<GpuNode>, name: &str) -> Result<()> {
    let site = json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": { "name": name },
        "spec": { "supplier": "acme", "region": "eu-west", "trust": "Contracted" },
    });
    let site = sites.create(&PostParams::default(), &serde_json::from_value(site)?).await?;
    let reported = agent::node();
    let copy = format!("{name}.{}", reported.name);
    let node = json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUNode",
        "metadata": {
            "name": copy,
            "labels": { LABEL_SITE: name, LABEL_SUPPLIER: "acme" },
            "ownerReferences": [site.owner_ref(&())],
        },
        "spec": {},
    });
    let node = nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
    let status = json!({ "status": {
        "site": site.name_any(), "node": reported.name, "model": "", "product": reported.product,
        "memoryMib": reported.memory_mib, "allocatable": reported.allocatable, "usedByOthers": 0, "ready": true,
        "driver": reported.driver, "unhealthy": 0,
    } });
    nodes.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}
