//! The wire to a real API server: watches that lose nothing, and what they cost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_scheduler::api::{Change, Connections, Listed, Method, Watch};
use atoll_scheduler::proto::ObjectMeta;
use atoll_testkit::{ControlPlane, ControlPlaneOptions, require};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::{JoinHandle, JoinSet};

const LIMIT: Duration = Duration::from_mins(1);

/// A `ConfigMap`, of which only the metadata is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Map {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

impl Listed for Map {
    const PATH: &'static str = "/api/v1/configmaps";

    fn meta(&self) -> Option<&ObjectMeta> {
        self.metadata.as_ref()
    }
}

async fn config(plane: &ControlPlane) -> kube::Config {
    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

/// A way to the API server that can be cut.
struct Relay {
    port: u16,
    to: String,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { port, to: to.to_owned(), task: Self::carry(listener, to.to_owned()) }
    }

    fn carry(listener: TcpListener, to: String) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut ways = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let to = to.clone();
                ways.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(to).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        })
    }

    async fn cut(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    async fn mend(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.task = Self::carry(listener, self.to.clone());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a watch said of the `ConfigMap`s of the test.
#[derive(Default)]
struct Heard {
    there: BTreeMap<String, String>,
    /// How often each was handed in.
    times: BTreeMap<String, usize>,
    lists: usize,
}

impl Heard {
    async fn until(&mut self, changes: &mut Receiver<Vec<Change<Map>>>, what: &str, done: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            let left = LIMIT.saturating_sub(started.elapsed());
            let batch = tokio::time::timeout(left, changes.recv()).await;
            let batch = batch.unwrap_or_else(|_| panic!("waiting for {what}: {:?}", self.there)).unwrap();
            for change in batch {
                match change {
                    Change::Set(map) => {
                        let meta = map.metadata.unwrap();
                        let version = meta.labels.get("version").cloned().unwrap_or_default();
                        *self.times.entry(meta.name.clone()).or_default() += 1;
                        self.there.insert(meta.name, version);
                    }
                    Change::Gone(key) => {
                        self.there.remove(&*key.name);
                    }
                    Change::Listed => self.lists += 1,
                }
            }
        }
        println!("{what}: {:?}", started.elapsed());
    }

    fn is(&self, expected: &[(&str, &str)]) -> bool {
        let ours = self.there.iter().filter(|(name, _)| name.starts_with("t-"));
        ours.map(|(name, version)| (name.as_str(), version.as_str())).eq(expected.iter().copied())
    }
}

async fn write(maps: &Api<ConfigMap>, name: &str, version: &str) {
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "version": version } },
    });
    maps.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&map)).await.unwrap();
}

async fn delete(maps: &Api<ConfigMap>, name: &str) {
    maps.delete(name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_loses_nothing_to_cuts_and_restarts() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::new("wire")).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(plane.client(), "default");
    let server = plane.server();
    let mut relay = Relay::start(server.trim_start_matches("https://")).await;
    let mut config = config(&plane).await;
    config.cluster_url = format!("https://127.0.0.1:{}", relay.port).parse().unwrap();
    write(&maps, "t-a", "1").await;
    write(&maps, "t-b", "1").await;

    let (to, mut changes) = channel(8);
    let watch = Watch::new::<Map>(Connections::new(&config, 1).unwrap());
    let watch = tokio::spawn(watch.run(|change: Change<Map>, batch: &mut Vec<_>| batch.push(change), to));
    let mut heard = Heard::default();
    heard.until(&mut changes, "the list", |heard| heard.lists == 1).await;
    assert!(heard.is(&[("t-a", "1"), ("t-b", "1")]), "{:?}", heard.there);

    write(&maps, "t-a", "2").await;
    write(&maps, "t-c", "1").await;
    delete(&maps, "t-b").await;
    heard.until(&mut changes, "changes", |heard| heard.is(&[("t-a", "2"), ("t-c", "1")])).await;

    // What happens meanwhile comes afterwards, and a new list is not needed.
    relay.cut().await;
    write(&maps, "t-a", "3").await;
    delete(&maps, "t-c").await;
    write(&maps, "t-d", "1").await;
    relay.mend().await;
    heard.until(&mut changes, "changes of a cut connection", |heard| heard.is(&[("t-a", "3"), ("t-d", "1")])).await;
    assert_eq!(heard.lists, 1);

    // A fresh API server knows nothing of the past, so here the answer is 410 and everything is listed again; what did
    // not change is not handed in again.
    relay.cut().await;
    write(&maps, "t-e", "1").await;
    delete(&maps, "t-a").await;
    let times = heard.times["t-d"];
    plane.restart_apiserver().await.unwrap();
    relay.mend().await;
    heard.until(&mut changes, "a new list", |heard| heard.lists == 2).await;
    assert!(heard.is(&[("t-d", "1"), ("t-e", "1")]), "{:?}", heard.there);
    assert_eq!(heard.times["t-d"], times);

    write(&maps, "t-e", "2").await;
    heard.until(&mut changes, "changes after a new list", |heard| heard.is(&[("t-d", "1"), ("t-e", "2")])).await;

    // And one that restarts under an open watch.
    plane.apiserver().kill9().await.unwrap();
    plane.restart_apiserver().await.unwrap();
    write(&maps, "t-f", "1").await;
    heard.until(&mut changes, "changes after a crash", |heard| heard.there.contains_key("t-f")).await;
    watch.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_service_accounts_are_taken() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::new("wire-token")).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.client(), "default");
    let token =
        accounts.create_token_request("default", &PostParams::default(), &TokenRequest::default()).await.unwrap();
    let file = plane.dir().join("token");
    std::fs::write(&file, token.status.unwrap().token.unwrap()).unwrap();
    let mut config = config(&plane).await;
    config.auth_info = kube::config::AuthInfo { token_file: Some(file.display().to_string()), ..Default::default() };
    let connections = Connections::new(&config, 2).unwrap();
    let body = prost::bytes::Bytes::from_static(b"{}");
    let answer = connections.send(Method::Apply, "/api/v1/namespaces/default", body, LIMIT).await.unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.message().contains("system:serviceaccount:default:default"), "{}", answer.message());
}
