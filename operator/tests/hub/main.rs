//! The operator as a process on a real API server, with its own roles; the gateway is played by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fences;
mod terms;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_api::conditions::{condition, is_true, site_reason};
use atoll_api::names::{FIELD_MANAGER_GATEWAY, SYSTEM_NAMESPACE};
use atoll_api::{Cluster, ClusterSlice, ClusterStatus, GpuNode, Site, SlicePhase, Supplier};
use atoll_testkit::ports::Port;
use atoll_testkit::wait::{eventually, wait_all, wait_for, wait_gone};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, ManagedProcess, ProcessSpec, require};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(30);
const TENANT: &str = "team";

struct Hub {
    operators: Vec<ManagedProcess>,
    plane: ControlPlane,
    gateway: Client,
    hand: JoinHandle<()>,
    ports: Vec<Port>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.hand.abort();
    }
}

impl Hub {
    async fn start(operators: usize) -> Self {
        let plane = ControlPlane::start(ControlPlaneOptions::new("hub").crds(atoll_api::crd::all())).await.unwrap();
        plane.create_namespace(SYSTEM_NAMESPACE).await.unwrap();
        plane.create_namespace(TENANT).await.unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for folder in ["deploy/hub", "api/catalogue"] {
            let dir = root.join(folder);
            plane.kubectl(["apply".as_ref(), "-f".as_ref(), dir.as_os_str()]).await.unwrap().ok().unwrap();
        }
        let gateway = client(&plane, "atoll-gateway").await;
        let hand = tokio::spawn(play_gateway(gateway.clone()));
        let mut hub = Self { operators: Vec::new(), plane, gateway, hand, ports: Vec::new() };
        hub.lease("gw-1").await;
        for n in 0..operators {
            hub.start_operator(n);
        }
        hub
    }

    fn start_operator(&mut self, n: usize) {
        let user = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:atoll-operator");
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{SYSTEM_NAMESPACE}")];
        let kubeconfig = self.plane.kubeconfig_as(&user, &groups.each_ref().map(String::as_str)).unwrap();
        let http = Port::lease().unwrap();
        let log = self.plane.dir().join(format!("operator-{n}.log"));
        let spec = ProcessSpec::new(format!("operator {n}"), env!("CARGO_BIN_EXE_atoll-operator"), log)
            .args([format!("--kubeconfig={}", kubeconfig.display())])
            .args([format!("--http-address=127.0.0.1:{}", http.number()), "--leader-lease-seconds=10".to_owned()]);
        self.operators.push(ManagedProcess::start(spec).unwrap());
        self.ports.push(http);
    }

    /// A gateway's Lease that lasts longer than any test.
    async fn lease(&self, name: &str) {
        let leases: Api<Lease> = Api::namespaced(self.gateway.clone(), SYSTEM_NAMESPACE);
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 3_600, "renewTime": "2026-01-01T00:00:00.000000Z"}});
        leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
    }

    /// A connected Site with so many nodes of so many GPUs.
    async fn site(&self, name: &str, nodes: u32, gpus: u32) {
        self.site_with(name, nodes, gpus, &json!({})).await;
        let sites: Api<Site> = Api::all(self.gateway.clone());
        wait_for(&sites, name, "to be counted", LIMIT, |site| {
            site.status
                .as_ref()
                .is_some_and(|s| s.nodes == i32::try_from(nodes).unwrap() && is_true(&s.conditions, "Accepted"))
        })
        .await
        .unwrap();
    }

    /// The same with another spec, and without waiting for the operator.
    async fn site_with(&self, name: &str, nodes: u32, gpus: u32, change: &Value) {
        let sites: Api<Site> = Api::all(self.gateway.clone());
        let mut site = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": {"name": name},
                              "spec": {"supplier": "acme", "region": "eu-west", "trust": "Contracted"}});
        for (key, value) in change.as_object().unwrap() {
            site["spec"][key] = value.clone();
        }
        sites.create(&PostParams::default(), &serde_json::from_value(site).unwrap()).await.unwrap();
        self.connect(name, true).await;
        let api: Api<GpuNode> = Api::all(self.gateway.clone());
        let params = PatchParams::apply(FIELD_MANAGER_GATEWAY).force();
        for n in 0..nodes {
            let object = format!("{name}.n{n}");
            let metadata = json!({"name": object, "labels": {"atoll.dev/site": name}});
            let head = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "GPUNode", "metadata": metadata, "spec": {}});
            api.patch(&object, &params, &Patch::Apply(&head)).await.unwrap();
            let status = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "GPUNode", "status": {
                "site": name, "node": format!("n{n}"), "model": "h100-sxm5-80gb", "product": "NVIDIA H100 80GB HBM3",
                "memoryMib": 81_559, "allocatable": gpus, "ready": true}});
            api.patch_status(&object, &params, &Patch::Apply(&status)).await.unwrap();
        }
    }

    async fn connect(&self, name: &str, connected: bool) {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut status = json!({
            "session": {"number": 1, "gateway": "gw-1"},
            "conditions": [{"type": "Connected", "status": if connected { "True" } else { "False" },
                            "reason": "SessionLive", "message": "", "lastTransitionTime": now}]});
        if !connected {
            status["session"]["lastGrant"] = json!(now);
            status["session"]["lastGrantAgeMilliseconds"] = json!(0);
        }
        let object = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "status": status});
        let sites: Api<Site> = Api::all(self.gateway.clone());
        let params = PatchParams::apply(FIELD_MANAGER_GATEWAY).force();
        sites.patch_status(name, &params, &Patch::Apply(&object)).await.unwrap();
    }

    fn clusters(&self) -> Api<Cluster> {
        Api::namespaced(self.plane.client(), TENANT)
    }

    fn slices(&self) -> Api<ClusterSlice> {
        Api::namespaced(self.plane.client(), TENANT)
    }

    async fn apply(&self, name: &str, change: &Value) {
        let mut spec = json!({
            "type": "Pods", "members": {"count": 1, "gpus": 1}, "gpu": {"models": ["h100-sxm5-80gb"]},
            "disconnection": {"times": {"stopSeconds": 5, "killSeconds": 8, "fenceSeconds": 10}},
            "template": {"spec": {"terminationGracePeriodSeconds": 2, "containers": [{"name": "m", "image": "example.com/m:1"}]}},
        });
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let cluster =
            json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec});
        let params = PatchParams::apply("tenant").force();
        self.clusters().patch(name, &params, &Patch::Apply(&cluster)).await.unwrap();
    }

    async fn reaches(&self, name: &str, what: &str, mut holds: impl FnMut(&ClusterStatus) -> bool) -> ClusterStatus {
        let found = wait_for(&self.clusters(), name, what, LIMIT, |c| c.status.as_ref().is_some_and(&mut holds)).await;
        match found {
            Ok(cluster) => cluster.status.unwrap(),
            Err(error) => {
                let slices = self.slices().list(&ListParams::default()).await.unwrap().items;
                let slices = serde_json::to_string(&slices).unwrap();
                let logs: Vec<_> = self.operators.iter().map(|o| o.log_tail(25)).collect();
                panic!("{error}\nslices: {slices}\n{}", logs.join("\n---\n"));
            }
        }
    }

    async fn running(&self, name: &str) -> ClusterStatus {
        self.reaches(name, "to be Ready", |status| is_true(&status.conditions, "Ready")).await
    }
}

async fn client(plane: &ControlPlane, account: &str) -> Client {
    let user = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{account}");
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{SYSTEM_NAMESPACE}")];
    plane.client_as(&user, &groups.each_ref().map(String::as_str)).await.unwrap()
}

/// Every Site does at once what it is told, unless its Cluster's name says otherwise.
async fn play_gateway(client: Client) {
    let mut events = Box::pin(watcher(Api::<ClusterSlice>::all(client.clone()), watcher::Config::default()));
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(slice) | watcher::Event::InitApply(slice)) = event else { continue };
        if slice.spec.cluster.starts_with("mute") {
            continue;
        }
        let mut status = json!({
            "observedEpoch": slice.spec.epoch, "observedGeneration": slice.metadata.generation,
            "reservation": "Reserved",
        });
        if slice.metadata.deletion_timestamp.is_some() {
            status["conditions"] = json!([{"type": "Stopped", "status": "True", "reason": "Stopped", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        } else if slice.spec.phase == SlicePhase::Run {
            let member = |m: &atoll_api::SliceMember| json!({"rank": m.rank, "incarnation": m.incarnation, "phase": "Ready", "node": m.node});
            status["members"] = slice.spec.members.iter().map(member).collect();
        }
        let object = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "ClusterSlice", "status": status});
        let api: Api<ClusterSlice> = Api::namespaced(client.clone(), TENANT);
        let params = PatchParams::apply(FIELD_MANAGER_GATEWAY).force();
        // A slice that is gone meanwhile needs no answer.
        let _ = api.patch_status(&slice.name_any(), &params, &Patch::Apply(&object)).await;
    }
}

fn sites_of(status: &ClusterStatus) -> BTreeSet<String> {
    status.placement.iter().flat_map(|p| &p.sites).map(|site| site.site.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_over_two_sites_is_reserved_run_ready_scaled_replaced_and_deleted() {
    require!(Core);
    let hub = Hub::start(1).await;
    hub.site("site-a", 2, 2).await;
    hub.site("site-b", 2, 2).await;

    hub.apply("wide", &json!({"members": {"count": 6, "gpus": 1}})).await;
    let status = hub.running("wide").await;
    assert_eq!((status.ready, status.total, status.ready_members.as_deref()), (6, 6, Some("6/6")));
    assert_eq!(status.location.as_deref(), Some("2 Sites"));
    let first = status.placement.clone().unwrap();

    hub.apply("wide", &json!({"members": {"count": 8, "gpus": 1}})).await;
    let grown = hub.reaches("wide", "to grow", |s| s.ready == 8).await;
    let survivors = grown.placement.iter().flat_map(|p| &p.sites).flat_map(|s| &s.nodes);
    let kept: i32 = survivors.filter(|node| node.incarnation == first.epoch).map(|node| node.count).sum();
    assert_eq!(kept, 6, "members that stay are not touched");

    hub.apply("wide", &json!({"members": {"count": 3, "gpus": 1}})).await;
    hub.reaches("wide", "to shrink", |s| s.ready == 3 && s.total == 3).await;
    let before = hub.running("wide").await;

    // One Site goes away: its members are placed elsewhere when the fence has expired, the others stay.
    let lost = sites_of(&before).into_iter().next().unwrap();
    hub.connect(&lost, false).await;
    hub.reaches("wide", "to be Degraded", |s| s.state.as_deref() == Some("Degraded")).await;
    let moved = hub.running("wide").await;
    assert!(!sites_of(&moved).contains(&lost));
    assert!(moved.epoch > before.epoch);
    hub.connect(&lost, true).await;

    hub.clusters().delete("wide", &DeleteParams::default()).await.unwrap();
    wait_gone(&hub.clusters(), "wide", LIMIT).await.unwrap();
    wait_all(&hub.slices(), watcher::Config::default(), "no slice is left", LIMIT, <[_]>::is_empty).await.unwrap();
    let sites: Api<Site> = Api::all(hub.plane.client());
    for site in ["site-a", "site-b"] {
        wait_for(&sites, site, "to be free", LIMIT, |s| s.status.as_ref().is_some_and(|s| s.free_gpus == 4))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_want_the_last_gpu_one_gets_it_and_the_oldest_next_also_with_another_leader() {
    require!(Core);
    let mut hub = Hub::start(1).await;
    hub.site("site-a", 1, 1).await;
    hub.apply("winner", &json!({})).await;
    hub.running("winner").await;
    for n in 0..40 {
        hub.apply(&format!("waits-{n:02}"), &json!({})).await;
        if n == 0 {
            // Creation times are whole seconds: the first must be older than the others.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
    }
    let placed = |clusters: &[Cluster]| -> Vec<String> {
        let holds = |c: &&Cluster| c.status.as_ref().is_some_and(|s| s.placement.is_some());
        clusters.iter().filter(holds).map(ResourceExt::name_any).collect()
    };
    let pending = |clusters: &[Cluster]| {
        let says = |c: &&Cluster| {
            c.status.as_ref().is_some_and(|s| s.state.as_deref() == Some("Pending") && s.message.is_some())
        };
        clusters.iter().filter(says).count()
    };
    let clusters = hub.clusters();
    let all = wait_all(&clusters, watcher::Config::default(), "all others say why", LIMIT, |c| pending(c) == 40);
    let all = all.await.unwrap();
    assert_eq!(placed(&all), ["winner"]);

    // At rest nobody writes but the leader its Lease.
    let mark = hub.plane.audit().mark().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes = hub.plane.audit().writes_since(mark).unwrap();
    let writes: Vec<_> = writes.iter().filter(|w| w.full_resource() != "leases.coordination.k8s.io").collect();
    assert!(writes.iter().all(|w| !w.full_resource().contains("atoll.dev")), "{writes:?}");

    // The leader dies; another one knows all the same.
    hub.operators[0].kill9().await.unwrap();
    hub.start_operator(1);
    hub.clusters().delete("winner", &DeleteParams::default()).await.unwrap();
    hub.running("waits-00").await;
    let all = hub.clusters().list(&ListParams::default()).await.unwrap();
    assert_eq!(placed(&all.items), ["waits-00"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_of_an_older_term_is_revoked_before_slices_are_made() {
    require!(Core);
    let hub = Hub::start(1).await;
    hub.site("site-a", 1, 1).await;
    hub.apply("holder", &json!({})).await;
    let holder = hub.running("holder").await;
    hub.apply("late", &json!({})).await;
    hub.reaches("late", "to wait", |s| s.state.as_deref() == Some("Pending")).await;
    // What a leader that was stopped between its decision and its write would write when it goes on.
    let operator = client(&hub.plane, "atoll-operator").await;
    let clusters: Api<Cluster> = Api::namespaced(operator, TENANT);
    eventually("the late commit to be written", LIMIT, async || {
        let mut late = clusters.get("late").await.map_err(|e| e.to_string())?;
        let status = late.status.as_mut().unwrap();
        let mut placement = holder.placement.clone().unwrap();
        status.epoch += 1;
        placement.term = 0;
        placement.epoch = status.epoch;
        placement.sites[0].nodes[0].incarnation = status.epoch;
        status.placement = Some(placement);
        clusters.replace_status("late", &PostParams::default(), &late).await.map(drop).map_err(|e| e.to_string())
    })
    .await
    .unwrap();
    let status = hub.reaches("late", "to be revoked", |s| s.placement.is_none() && s.epoch >= 2).await;
    assert!(status.message.is_some_and(|message| !message.is_empty()));
    let slices = hub.slices().list(&ListParams::default()).await.unwrap();
    assert!(slices.items.iter().all(|slice| slice.spec.cluster == "holder"));
    assert_eq!(hub.running("holder").await.placement, holder.placement);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_atoll_writes_a_placement_or_a_slice() {
    require!(Core);
    let hub = Hub::start(1).await;
    hub.site("site-a", 1, 2).await;
    hub.apply("mine", &json!({})).await;
    hub.running("mine").await;
    let slice = hub.slices().list(&ListParams::default()).await.unwrap().items.remove(0);
    // A namespace's admin who gave themselves everything there.
    let role = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "all", "namespace": TENANT},
         "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "all", "namespace": TENANT},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "all"},
         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "boss"}]}]});
    hub.plane.kubectl_input(["apply", "-f", "-"], &role.to_string()).await.unwrap().ok().unwrap();
    let boss = hub.plane.client_as("boss", &[]).await.unwrap();
    let clusters: Api<Cluster> = Api::namespaced(boss.clone(), TENANT);
    let slices: Api<ClusterSlice> = Api::namespaced(boss, TENANT);
    let merge = PatchParams::default();
    let name = slice.name_any();
    let refused = |result: Result<(), kube::Error>, what: &str| {
        let error = result.expect_err(what).to_string();
        assert!(error.contains("alone"), "{what}: {error}");
    };
    let status = Patch::Merge(json!({"status": {"epoch": 99}}));
    refused(clusters.patch_status("mine", &merge, &status).await.map(drop), "a Cluster's status");
    let spec = Patch::Merge(json!({"spec": {"epoch": 99}}));
    refused(slices.patch(&name, &merge, &spec).await.map(drop), "a slice");
    let status = Patch::Merge(json!({"status": {"observedEpoch": 99}}));
    refused(slices.patch_status(&name, &merge, &status).await.map(drop), "a slice's status");
    refused(slices.delete(&name, &DeleteParams::default()).await.map(drop), "deleting a slice");
    let mut copy = ClusterSlice::new("copy", slice.spec.clone());
    copy.metadata.namespace = Some(TENANT.to_owned());
    refused(slices.create(&PostParams::default(), &copy).await.map(drop), "a new slice");
    // The namespace as a whole may be deleted all the same, and nothing holds it up.
    hub.plane.kubectl(["delete", "namespace", TENANT, "--wait=false"]).await.unwrap().ok().unwrap();
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(hub.plane.client());
    wait_gone(&namespaces, TENANT, LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_of_a_suspended_supplier_is_not_offered() {
    require!(Core);
    let hub = Hub::start(1).await;
    let suppliers: Api<Supplier> = Api::all(hub.plane.client());
    let supplier = json!({"apiVersion": "atoll.dev/v1alpha1", "kind": "Supplier", "metadata": {"name": "acme"},
                          "spec": {"displayName": "Acme"}});
    suppliers.create(&PostParams::default(), &serde_json::from_value(supplier).unwrap()).await.unwrap();
    hub.site("site-a", 1, 2).await;
    let sites: Api<Site> = Api::all(hub.plane.client());
    let suspend = async |suspended: bool, reason: &str| {
        let began = Instant::now();
        let patch = json!({"spec": {"suspended": suspended}});
        suppliers.patch("acme", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let accepted = |site: &Site| {
            let status = site.status.as_ref();
            let found = status.and_then(|status| condition(&status.conditions, "Accepted"));
            found
                .is_some_and(|found| found.status == if suspended { "False" } else { "True" } && found.reason == reason)
        };
        wait_for(&sites, "site-a", reason, LIMIT, accepted).await.unwrap();
        println!("from suspended={suspended} to {reason}: {:?}", began.elapsed());
    };
    suspend(true, site_reason::SUPPLIER_SUSPENDED).await;
    hub.apply("mine", &json!({})).await;
    let waits = |cluster: &Cluster| {
        let status = cluster.status.as_ref();
        let placed = status.and_then(|status| condition(&status.conditions, "Placed"));
        placed.is_some_and(|placed| placed.status == "False")
    };
    wait_for(&hub.clusters(), "mine", "to wait", LIMIT, waits).await.unwrap();
    suspend(false, site_reason::JOINED).await;
    hub.running("mine").await;
}
