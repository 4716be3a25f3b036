//! A gateway as its own process on a real API server, three kinds of Sites, and what an attacker must never see.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_api::names::{HUB_CA_SECRET, LABEL_SITE, SLICE_FINALIZER};
use atoll_api::{ClusterSlice, GpuNode, Site};
use atoll_testkit::ports::Port;
use atoll_testkit::wait::{eventually, wait_for};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, ManagedProcess, ProcessSpec};
use atoll_wire::v1;
use atoll_wire_client::{Authority, Endpoint, Identity, Validity};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const SYSTEM: &str = "atoll-system";
pub const GATEWAY: &str = "system:serviceaccount:atoll-system:atoll-gateway";
const LIMIT: Duration = Duration::from_mins(1);
/// In everything that belongs to others; in nothing that is an attacker's.
pub const OTHERS: &str = "of-others";

pub struct World {
    pub plane: ControlPlane,
    pub gateway: ManagedProcess,
    pub authority: Authority,
    pub address: SocketAddr,
    http: Port,
    _port: Port,
}

impl World {
    pub async fn start() -> Self {
        let options = ControlPlaneOptions::bare("hub").crds(atoll_api::crd::all());
        let plane = ControlPlane::start(options).await.unwrap();
        plane.create_namespace(SYSTEM).await.unwrap();
        let rbac = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/hub/gateway-rbac.yaml");
        plane.kubectl(["apply", "-f", rbac]).await.unwrap().ok().unwrap();
        let supplier = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Supplier", "metadata": { "name": "acme" },
            "spec": { "displayName": "Acme", "contact": "gpus@acme.example" },
        });
        create::<atoll_api::Supplier>(&Api::all(plane.client()), supplier).await;
        let (port, http) = (Port::lease().unwrap(), Port::lease().unwrap());
        let address = SocketAddr::from(([127, 0, 0, 1], port.number()));
        let kubeconfig = plane.kubeconfig_as(GATEWAY, &["system:serviceaccounts"]).unwrap();
        let log = plane.dir().join("gateway.log");
        let spec = ProcessSpec::new("gateway", env!("CARGO_BIN_EXE_atoll-gateway"), log)
            .args([format!("--kubeconfig={}", kubeconfig.display())])
            .args([format!("--http-address=127.0.0.1:{}", http.number())])
            .args([format!("--listen={address}"), "--name=gw".to_owned(), "--log-filter=error".to_owned()])
            .args(["--heartbeat=1s", "--suspect-after=10s"])
            // Everybody comes from one address here; what the door turns away would not be tried any further.
            .args(["--source-handshakes-per-second=1000"]);
        let gateway = ManagedProcess::start(spec).unwrap();
        let secrets: Api<Secret> = Api::namespaced(plane.client(), SYSTEM);
        let secret = wait_for(&secrets, HUB_CA_SECRET, "to be made", LIMIT, |_| true).await.unwrap();
        let data = secret.data.unwrap();
        let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
        let authority = Authority::from_pem(&text("tls.crt"), &text("tls.key")).unwrap();
        let world = Self { plane, gateway, authority, address, http, _port: port };
        eventually("the gateway to be ready", LIMIT, async || match world.page("/readyz").await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
        world
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.address, self.authority.certificate()).unwrap()
    }

    /// A Site with a node and a slice; everything of it has `mark` in its name or content.
    pub async fn site(&self, mark: &str) -> Identity {
        let identity = self.authority.site(Validity::Now).unwrap();
        let name = &identity.site;
        let client = self.plane.client();
        let site = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": { "name": name },
            "spec": { "supplier": "acme", "region": "eu-west", "trust": "Contracted" },
        });
        create::<Site>(&Api::all(client.clone()), site).await;
        let node = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUNode",
            "metadata": { "name": format!("{name}.n-{mark}"), "labels": { LABEL_SITE: name } }, "spec": {},
        });
        let nodes: Api<GpuNode> = Api::all(client.clone());
        create(&nodes, node).await;
        let status =
            json!({ "status": { "site": name, "node": format!("n-{mark}"), "allocatable": 8, "ready": true } });
        let name_of_node = format!("{name}.n-{mark}");
        nodes.patch_status(&name_of_node, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        let slice = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "ClusterSlice",
            "metadata": { "name": format!("slice-{mark}"), "finalizers": [SLICE_FINALIZER] },
            "spec": {
                "site": name, "cluster": "train", "clusterUid": format!("uid-{mark}"), "epoch": 5, "term": 1,
                "phase": "Run", "type": "Pods", "gpus": 1, "rendezvous": { "worldSize": 1, "leaderIncarnation": 5 },
                "members": [{ "rank": 0, "node": format!("n-{mark}"), "incarnation": 5 }],
                "fence": { "stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120 },
                "template": { "spec": { "containers": [{ "name": "main", "image": format!("example.com/{mark}") }] } },
            },
        });
        create::<ClusterSlice>(&Api::namespaced(client, "default"), slice).await;
        identity
    }

    /// Everything that is not of these Sites, with its versions.
    pub async fn without(&self, sites: &[Identity]) -> BTreeMap<String, Value> {
        let client = self.plane.client();
        let of = |name: &str| sites.iter().any(|site| name.starts_with(&site.site));
        let mut all = BTreeMap::new();
        for site in Api::<Site>::all(client.clone()).list(&ListParams::default()).await.unwrap() {
            let name = site.metadata.name.clone().unwrap();
            if !of(&name) {
                all.insert(format!("site {name}"), json!(site));
            }
        }
        for node in Api::<GpuNode>::all(client.clone()).list(&ListParams::default()).await.unwrap() {
            let name = node.metadata.name.clone().unwrap();
            if !of(&name) {
                all.insert(format!("node {name}"), json!(node));
            }
        }
        for slice in Api::<ClusterSlice>::all(client).list(&ListParams::default()).await.unwrap() {
            if !of(&slice.spec.site) {
                all.insert(format!("slice {}", slice.metadata.name.clone().unwrap()), json!(slice));
            }
        }
        all
    }

    /// Waits until a Site's session has begun.
    pub async fn settled(&self, site: &str) {
        let sites: Api<Site> = Api::all(self.plane.client());
        let live = |site: &Site| site.status.as_ref().is_some_and(|status| status.session.is_some());
        wait_for(&sites, site, "to have a session", LIMIT, live).await.unwrap();
    }

    /// Everything that is not of these Sites, once nothing of it changes any more.
    pub async fn still(&self, sites: &[Identity]) -> BTreeMap<String, Value> {
        let mut last = self.without(sites).await;
        eventually("what a session's begin writes", LIMIT, async || {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = self.without(sites).await;
            if now == last { Ok(now) } else { Err(format!("{:?} objects", std::mem::replace(&mut last, now).len())) }
        })
        .await
        .unwrap()
    }

    async fn page(&self, path: &str) -> std::io::Result<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http.number())).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// What was refused, by what it was.
    pub async fn refused(&self) -> BTreeMap<String, u64> {
        let page = self.page("/metrics").await.unwrap();
        let mut all = BTreeMap::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("atoll_gateway_refused_total{what=\"") {
                let (what, count) = rest.split_once("\"} ").unwrap();
                all.insert(what.to_owned(), count.parse::<f64>().unwrap() as u64);
            } else if let Some(count) = line.strip_prefix("atoll_gateway_tls_handshakes_failed_total ") {
                all.insert("handshake".to_owned(), count.parse::<f64>().unwrap() as u64);
            }
        }
        all
    }
}

/// The key of the slice that [`World::site`] makes.
pub fn key(mark: &str) -> v1::SliceKey {
    v1::SliceKey { namespace: "default".to_owned(), name: format!("slice-{mark}"), cluster_uid: format!("uid-{mark}") }
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}
