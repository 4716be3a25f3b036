//! A gateway as its own process, with the rights that it ships with, on a real API server, over real TLS.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod client;
mod fences;
mod joining;
mod sessions;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_api::conditions::{self, site_reason};
use atoll_api::names::{FIELD_MANAGER_GATEWAY, HUB_CA_SECRET, LABEL_SITE, SLICE_FINALIZER};
use atoll_api::{ClusterSlice, GpuModel, GpuNode, MemberPhase, ReservationPhase, Site};
use atoll_testkit::ports::Port;
use atoll_testkit::wait::{wait_all, wait_for};
use atoll_testkit::{AuditLevel, ControlPlane, ControlPlaneOptions, ManagedProcess, ProcessSpec, require};
use atoll_wire::pin::Pin;
use atoll_wire::token::{JoinToken, KEY_EXPIRES, KEY_HASH, KEY_SUPPLIER, KEY_TRUST, RANDOM_BYTES};
use atoll_wire::v1::goodbye::Reason;
use atoll_wire::v1::{self, agent_message::Message as FromAgent, hub_message::Message as ToAgent};
use atoll_wire::{digest, limits};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::json;

use client::{AgentSession, SiteIdentity};

const LIMIT: Duration = Duration::from_secs(20);
const SYSTEM: &str = "atoll-system";

struct Hub {
    plane: ControlPlane,
    ca_pem: String,
    tokens: u8,
}

struct RunningGateway {
    process: ManagedProcess,
    port: Port,
    http: Port,
}

impl RunningGateway {
    fn port(&self) -> u16 {
        self.port.number()
    }
}

impl Hub {
    async fn start() -> Self {
        let options = ControlPlaneOptions::bare("hub").crds(atoll_api::crd::all()).audit(AuditLevel::All);
        let plane = ControlPlane::start(options).await.unwrap();
        plane.create_namespace(SYSTEM).await.unwrap();
        let rbac = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/hub/gateway-rbac.yaml");
        plane.kubectl(["apply", "-f", rbac]).await.unwrap().ok().unwrap();
        let client = plane.client();
        let supplier = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Supplier", "metadata": { "name": "acme" },
            "spec": { "displayName": "Acme", "contact": "gpus@acme.example" },
        });
        let suppliers: Api<atoll_api::Supplier> = Api::all(client.clone());
        suppliers.create(&PostParams::default(), &serde_json::from_value(supplier).unwrap()).await.unwrap();
        Self { plane, ca_pem: String::new(), tokens: 0 }
    }

    /// Starts a gateway and waits until it has made or found the CA and listens.
    async fn gateway(&mut self, name: &str, flags: &[&str]) -> RunningGateway {
        let (port, http) = (Port::lease().unwrap(), Port::lease().unwrap());
        let user = format!("system:serviceaccount:{SYSTEM}:atoll-gateway");
        let kubeconfig = self.plane.kubeconfig_as(&user, &["system:serviceaccounts"]).unwrap();
        let log = self.plane.dir().join(format!("{name}.log"));
        let spec = ProcessSpec::new(name, env!("CARGO_BIN_EXE_atoll-gateway"), log)
            .args([format!("--kubeconfig={}", kubeconfig.display())])
            .args([format!("--http-address=127.0.0.1:{}", http.number())])
            .args([format!("--listen=127.0.0.1:{}", port.number())])
            .args([format!("--name={name}"), "--log-filter=info,atoll_operator=debug".to_owned()])
            .args(flags);
        let process = ManagedProcess::start(spec).unwrap();
        let secrets: Api<Secret> = Api::namespaced(self.plane.client(), SYSTEM);
        let secret = wait_for(&secrets, HUB_CA_SECRET, "to be made", LIMIT, |_| true).await.unwrap();
        self.ca_pem = String::from_utf8(secret.data.unwrap()["tls.crt"].0.clone()).unwrap();
        let address = format!("127.0.0.1:{}", http.number());
        let ready = atoll_testkit::wait::eventually("the gateway to be ready", LIMIT, async || {
            let answer = get(&address, "/readyz").await.map_err(|error| error.to_string())?;
            if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
        });
        if let Err(error) = ready.await {
            panic!("{error}\n{}", process.log_tail(30));
        }
        RunningGateway { process, port, http }
    }

    async fn token(&mut self, expires: Timestamp) -> JoinToken {
        self.tokens += 1;
        let token = JoinToken::generate(&[self.tokens; RANDOM_BYTES], Pin::of_certificate_pem(&self.ca_pem).unwrap());
        let secret = Secret {
            metadata: kube::api::ObjectMeta {
                name: Some(token.presented().secret_name()),
                ..kube::api::ObjectMeta::default()
            },
            string_data: Some(BTreeMap::from([
                (KEY_HASH.to_owned(), token.presented().secret_hash()),
                (KEY_SUPPLIER.to_owned(), "acme".to_owned()),
                (KEY_TRUST.to_owned(), "Contracted".to_owned()),
                (KEY_EXPIRES.to_owned(), expires.to_string()),
            ])),
            ..Secret::default()
        };
        let secrets: Api<Secret> = Api::namespaced(self.plane.client(), SYSTEM);
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        token
    }

    async fn joined(&mut self, gateway: &RunningGateway) -> (SiteIdentity, String) {
        let token = self.token(in_seconds(600)).await;
        let mut identity = SiteIdentity::new(gateway.port(), &self.ca_pem);
        let site = identity.join(&token.presented().to_string()).await.unwrap();
        (identity, site)
    }

    fn sites(&self) -> Api<Site> {
        Api::all(self.plane.client())
    }

    fn slices(&self) -> Api<ClusterSlice> {
        Api::namespaced(self.plane.client(), "default")
    }

    async fn create_slice(&self, name: &str, site: &str) -> ClusterSlice {
        let slice = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "ClusterSlice",
            "metadata": { "name": name, "finalizers": [SLICE_FINALIZER] },
            "spec": {
                "site": site, "cluster": "train", "clusterUid": "uid-train", "epoch": 1, "term": 1, "phase": "Run",
                "type": "Pods", "gpus": 1, "rendezvous": { "worldSize": 2, "leaderIncarnation": 1 },
                "members": [
                    { "rank": 0, "node": "n-0", "incarnation": 1 }, { "rank": 1, "node": "n-1", "incarnation": 1 },
                ],
                "fence": { "stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120 },
                "template": { "spec": { "containers": [{ "name": "main", "image": "example.com/train" }] } },
            },
        });
        self.slices().create(&PostParams::default(), &serde_json::from_value(slice).unwrap()).await.unwrap()
    }

    async fn wait_site(&self, name: &str, what: &str, predicate: impl FnMut(&Site) -> bool) -> Site {
        wait_for(&self.sites(), name, what, LIMIT, predicate).await.unwrap()
    }
}

async fn get(address: &str, path: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

fn hello(nodes: &[v1::Node], slices: Vec<v1::SliceDigest>) -> v1::Hello {
    v1::Hello {
        agent_version: "test".to_owned(),
        boot_id: "boot-1".to_owned(),
        inventory_digest: digest::inventory(nodes).to_vec(),
        slices,
        availability: 0,
    }
}

fn nodes(count: usize) -> Vec<v1::Node> {
    (0..count)
        .map(|index| v1::Node {
            name: format!("n-{index}"),
            product: "NVIDIA-H100-80GB-HBM3".to_owned(),
            memory_mib: 81_559,
            allocatable: 8,
            ready: true,
            unhealthy: 1,
            devices: vec![sick(), v1::Device { uuid: "GPU-2".to_owned(), health: 1, ..v1::Device::default() }],
            ..v1::Node::default()
        })
        .collect()
}

fn sick() -> v1::Device {
    let reason = v1::DeviceReason { code: "RowRemapFailed".to_owned(), message: "replace it".to_owned() };
    v1::Device { uuid: "GPU-1".to_owned(), health: 3, reasons: vec![reason], ..v1::Device::default() }
}

fn connected(site: &Site) -> Option<(bool, String)> {
    let condition = conditions::condition(&site.status.as_ref()?.conditions, conditions::site::CONNECTED)?;
    Some((condition.status == "True", condition.reason.clone()))
}

fn session_number(site: &Site) -> i64 {
    site.status.as_ref().and_then(|status| status.session.as_ref()).map_or(0, |session| session.number)
}

fn report(key: &v1::SliceKey, phase: v1::member::Phase) -> v1::SliceReport {
    let members =
        (0..2).map(|rank| v1::Member { rank, incarnation: 1, phase: phase.into(), ..v1::Member::default() }).collect();
    v1::SliceReport {
        key: Some(key.clone()),
        observed_epoch: 1,
        observed_generation: 1,
        reservation: v1::Reservation::Reserved.into(),
        members,
        ..v1::SliceReport::default()
    }
}

#[tokio::test]
async fn a_token_makes_one_site_and_its_key_alone_may_come_back() {
    require!(Core);
    let mut hub = Hub::start().await;
    let gateway = hub.gateway("gw-join", &[]).await;
    let token = hub.token(in_seconds(600)).await.presented().to_string();

    let mut first = SiteIdentity::new(gateway.port(), &hub.ca_pem);
    let name = first.join(&token).await.unwrap();
    let site = hub.sites().get(&name).await.unwrap();
    assert_eq!((site.spec.supplier.as_str(), site.spec.region.as_str()), ("acme", "eu-west"));
    assert_eq!(site.spec.trust, atoll_api::Trust::Contracted);
    assert_eq!(first.join(&token).await.unwrap(), name, "its answer may have been lost");
    first.renew().await.unwrap();

    let mut thief = SiteIdentity::new(gateway.port(), &hub.ca_pem);
    let refusal = thief.join(&token).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unauthenticated);
    assert!(refusal.message().contains("kubectl atoll token create"), "{refusal:?}");
    assert_eq!(thief.session(hello(&[], vec![])).await.err().map(|s| s.code()), Some(tonic::Code::Unauthenticated));
    assert_eq!(thief.renew().await.unwrap_err().code(), tonic::Code::Unauthenticated);

    let old = hub.token(in_seconds(-1)).await.presented().to_string();
    let refusal = thief.join(&old).await.unwrap_err();
    assert!(refusal.message().contains("expired"), "{refusal:?}");

    // Many keys, one token: exactly one becomes a Site.
    let token = hub.token(in_seconds(600)).await.presented().to_string();
    let mut joins = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (mut identity, token) = (SiteIdentity::new(gateway.port(), &hub.ca_pem), token.clone());
        joins.spawn(async move { identity.join(&token).await.is_ok() });
    }
    assert_eq!(joins.join_all().await.into_iter().filter(|joined| *joined).count(), 1);
    assert_eq!(hub.sites().list(&kube::api::ListParams::default()).await.unwrap().items.len(), 2);
    gateway.process.terminate(LIMIT).await.unwrap();
}

fn ready(slice: &ClusterSlice) -> bool {
    slice.status.as_ref().is_some_and(|status| {
        status.reservation == Some(ReservationPhase::Reserved)
            && status.members.len() == 2
            && status.members.iter().all(|member| member.phase == MemberPhase::Ready)
    })
}

async fn inventory_follows(hub: &Hub, site: &str, session: &AgentSession) {
    // 150 nodes at once, then the model arrives.
    let started = Instant::now();
    let full = v1::InventoryDelta { full: true, nodes: nodes(150), ..v1::InventoryDelta::default() };
    session.send(FromAgent::Inventory(full)).await;
    let copies: Api<GpuNode> = Api::all(hub.plane.client());
    let of_site = || watcher::Config::default().labels(&format!("{LABEL_SITE}={site}"));
    let written = |all: &[GpuNode]| all.len() == 150 && all.iter().all(|node| node.status.is_some());
    wait_all(&copies, of_site(), "150 nodes", LIMIT, written).await.unwrap();
    println!("150 nodes written in {:?}", started.elapsed());
    let model = json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUModel", "metadata": { "name": "h100-sxm5-80gb" },
        "spec": {
            "displayName": "H100", "vendor": "NVIDIA", "family": "hopper", "aliases": ["NVIDIA H100 80GB HBM3"],
            "memoryMib": 81920, "computeScore": 1000, "workloads": ["Training"], "referencePrice": "2.00",
        },
    });
    let models: Api<GpuModel> = Api::all(hub.plane.client());
    models.create(&PostParams::default(), &serde_json::from_value(model).unwrap()).await.unwrap();
    let matched = |all: &[GpuNode]| all.iter().all(|n| n.status.as_ref().is_some_and(|s| s.model == "h100-sxm5-80gb"));
    wait_all(&copies, of_site(), "the model of all", LIMIT, matched).await.unwrap();

    // One node goes, and one that cannot be is not believed.
    let delta = v1::InventoryDelta {
        nodes: vec![v1::Node { name: "../evil".to_owned(), ..nodes(1).remove(0) }],
        removed: vec!["n-149".to_owned()],
        ..v1::InventoryDelta::default()
    };
    session.send(FromAgent::Inventory(delta)).await;
    wait_all(&copies, of_site(), "149 nodes", LIMIT, |all| all.len() == 149).await.unwrap();
}

async fn slice_follows(hub: &Hub, site: &str, session: &mut AgentSession) -> v1::Slice {
    // A slice arrives at once, and its report is written at once.
    let started = Instant::now();
    hub.create_slice("train-1", site).await;
    let Some(ToAgent::Slice(slice)) = session.next().await.unwrap() else { panic!("no slice") };
    let delivered = started.elapsed();
    assert!(slice.spec_json.len() < limits::MAX_SPEC_BYTES);
    let key = slice.key.clone().unwrap();
    session.send(FromAgent::SliceReport(report(&key, v1::member::Phase::Starting))).await;
    session.send(FromAgent::SliceReport(report(&key, v1::member::Phase::Ready))).await;
    wait_for(&hub.slices(), "train-1", "to be ready", LIMIT, ready).await.unwrap();
    println!("slice delivered after {delivered:?}, ready after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let managers: Vec<_> = hub.slices().get("train-1").await.unwrap().metadata.managed_fields.unwrap();
    assert!(managers.iter().any(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER_GATEWAY)));
    slice
}

#[tokio::test]
async fn a_session_carries_inventory_slices_reports_and_leases() {
    require!(Core);
    let mut hub = Hub::start().await;
    let gateway = hub.gateway("gw-session", &[]).await;
    let (identity, site) = hub.joined(&gateway).await;
    let mut session = identity.session(hello(&nodes(0), vec![])).await.unwrap();
    let welcome = session.welcome().await;
    assert_eq!((welcome.session, welcome.want_full_inventory), (1, false));
    let (slices, _, complete) = session.synced().await;
    assert!(slices.is_empty() && complete.slices.is_empty());
    assert_eq!(session.heartbeat().await.next_heartbeat_ms, 10_000);
    hub.wait_site(&site, "to be connected", |site| {
        connected(site) == Some((true, site_reason::SESSION_LIVE.to_owned()))
    })
    .await;

    inventory_follows(&hub, &site, &session).await;
    let slice = slice_follows(&hub, &site, &mut session).await;
    let key = slice.key.clone().unwrap();

    // Another Site cannot report on it.
    let (other, _) = hub.joined(&gateway).await;
    let mut stranger = other.session(hello(&[], vec![])).await.unwrap();
    stranger.welcome().await;
    stranger.synced().await;
    stranger.send(FromAgent::SliceReport(report(&key, v1::member::Phase::Failed))).await;
    stranger.heartbeat().await;
    let slice_now = hub.slices().get("train-1").await.unwrap();
    assert!(ready(&slice_now), "{:?}", slice_now.status);

    // The same Site again: the older session ends, and what it holds is not sent again.
    let held = vec![v1::SliceDigest { key: Some(key.clone()), digest: digest::spec(&slice.spec_json).to_vec() }];
    let mut again = identity.session(hello(&nodes(149), held.clone())).await.unwrap();
    assert_eq!(session.goodbye().await, Reason::Superseded);
    let welcome = again.welcome().await;
    assert_eq!((welcome.session, welcome.want_full_inventory), (2, false));
    let (slices, deleted, complete) = again.synced().await;
    assert!(slices.is_empty() && deleted.is_empty(), "{slices:?} {deleted:?}");
    assert_eq!(complete.slices, std::slice::from_ref(&key));

    // Deletion goes down, its confirmation comes up.
    hub.slices().delete("train-1", &DeleteParams::default()).await.unwrap();
    let Some(ToAgent::SliceDeleted(deleted)) = again.next().await.unwrap() else { panic!("no deletion") };
    assert_eq!(deleted.key, Some(key.clone()));
    let gone = v1::SliceReport { gone: true, members: vec![], ..report(&key, v1::member::Phase::Ready) };
    again.send(FromAgent::SliceReport(gone)).await;
    let stopped = |slice: &ClusterSlice| {
        slice.status.as_ref().is_some_and(|s| conditions::is_true(&s.conditions, conditions::slice::STOPPED))
    };
    wait_for(&hub.slices(), "train-1", "to be stopped", LIMIT, stopped).await.unwrap();

    // A second hello breaks the protocol.
    again.send(FromAgent::Hello(hello(&[], vec![]))).await;
    assert_eq!(again.goodbye().await, Reason::Protocol);

    // Suspension ends the session at once, and is noted.
    let mut third = identity.session(hello(&nodes(149), vec![])).await.unwrap();
    third.welcome().await;
    third.synced().await;
    let suspend = json!({ "spec": { "suspended": true } });
    hub.sites().patch(&site, &PatchParams::default(), &Patch::Merge(&suspend)).await.unwrap();
    assert_eq!(third.goodbye().await, Reason::Suspended);
    let absent = hub
        .wait_site(&site, "to be called suspended", |site| {
            connected(site) == Some((false, site_reason::SUSPENDED.to_owned()))
        })
        .await;
    assert!(absent.status.unwrap().session.unwrap().last_grant.is_some());
    let mut fourth = identity.session(hello(&nodes(149), vec![])).await.unwrap();
    assert_eq!(fourth.goodbye().await, Reason::Suspended);

    let denied: Vec<_> = hub.plane.audit().events().unwrap().into_iter().filter(|event| event.code == 403).collect();
    assert!(denied.is_empty(), "{denied:?}");
    gateway.process.terminate(LIMIT).await.unwrap();
}

#[tokio::test]
async fn silence_is_noted_once_and_a_quiet_hub_writes_nothing() {
    require!(Core);
    let mut hub = Hub::start().await;
    let gateway = hub.gateway("gw-silence", &["--suspect-after=3s", "--heartbeat=1s"]).await;
    let (identity, site) = hub.joined(&gateway).await;
    let mut session = identity.session(hello(&[], vec![])).await.unwrap();
    session.welcome().await;
    session.synced().await;
    let mark = hub.plane.audit().mark().unwrap();
    for _ in 0..8 {
        assert_eq!(session.heartbeat().await.next_heartbeat_ms, 1_000);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let writes = hub.plane.audit().writes_since(mark).unwrap();
    assert!(writes.iter().all(|event| event.resource == "leases"), "{writes:?}");

    // The stream breaks: nothing is written before the Site has been silent for long enough.
    let last_grant = Timestamp::now();
    session.heartbeat().await;
    drop(session);
    let since = Instant::now();
    let absent = hub
        .wait_site(&site, "to be absent", |site| {
            connected(site) == Some((false, site_reason::HEARTBEATS_MISSED.to_owned()))
        })
        .await;
    assert!(since.elapsed() > Duration::from_millis(2_500), "{:?}", since.elapsed());
    let noted = absent.status.unwrap().session.unwrap().last_grant.unwrap().0;
    assert!(noted.duration_since(last_grant).abs() < SignedDuration::from_secs(1), "{noted} {last_grant}");

    // An agent that holds its stream and says nothing is told.
    let mut mute = identity.session(hello(&[], vec![])).await.unwrap();
    assert_eq!(mute.welcome().await.session, 2);
    mute.synced().await;
    hub.wait_site(&site, "to be back", |site| connected(site).is_some_and(|(connected, _)| connected)).await;
    assert_eq!(mute.goodbye().await, Reason::Silent);
    hub.wait_site(&site, "to be absent again", |site| connected(site).is_some_and(|(connected, _)| !connected)).await;
    gateway.process.terminate(LIMIT).await.unwrap();
}

#[tokio::test]
async fn sites_of_a_gateway_that_is_gone_are_kept_by_the_next_or_called_lost() {
    require!(Core);
    let mut hub = Hub::start().await;
    let flags = ["--suspect-after=2s", "--heartbeat=500ms", "--lease-seconds=4"];
    let first = hub.gateway("gw-a", &flags).await;
    let second = hub.gateway("gw-b", &flags).await;
    let (moving, moving_site) = hub.joined(&first).await;
    let (lost, lost_site) = hub.joined(&first).await;
    for identity in [&moving, &lost] {
        let mut session = identity.session(hello(&[], vec![])).await.unwrap();
        session.welcome().await;
        session.synced().await;
        session.heartbeat().await;
        std::mem::forget(session);
    }
    first.process.kill9().await.unwrap();
    let killed = Timestamp::now();

    let moving = moving.at(second.port());
    let mut session = moving.session(hello(&[], vec![])).await.unwrap();
    assert_eq!(session.welcome().await.session, 2);
    session.synced().await;
    let beats = tokio::spawn(async move {
        loop {
            session.heartbeat().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    // Somebody labels the Lease of a gateway, which is also how a lost answer looks to it: its sessions go on.
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(hub.plane.client(), SYSTEM);
    let label = json!({ "metadata": { "labels": { "touched": "true" } } });
    leases.patch("gw-b", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    let gone = hub
        .wait_site(&lost_site, "to be lost with its gateway", |site| {
            connected(site) == Some((false, site_reason::GATEWAY_LOST.to_owned()))
        })
        .await;
    let last_grant = gone.status.unwrap().session.unwrap().last_grant.unwrap().0;
    assert!(last_grant >= killed, "no grant was later than what is noted");
    let kept = hub.sites().get(&moving_site).await.unwrap();
    assert_eq!(connected(&kept), Some((true, site_reason::SESSION_LIVE.to_owned())));
    assert_eq!(session_number(&kept), 2);
    assert!(!beats.is_finished(), "the session ended");

    // A gateway that is told to go says goodbye and releases its Lease, so that its Sites are not waited for.
    beats.abort();
    let mut session = moving.session(hello(&[], vec![])).await.unwrap();
    session.welcome().await;
    session.synced().await;
    let status = second.process.terminate(LIMIT);
    let (status, reason) = tokio::join!(status, session.goodbye());
    assert_eq!(reason, Reason::Shutdown);
    assert!(status.unwrap().success());
    let lease = leases.get("gw-b").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some(""));
}
