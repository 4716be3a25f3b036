//! Slices at a steady pace: from creating one until the API shows its agent's word, beside a client that says the same
//! without gateway and agent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atoll_api::names::SLICE_FINALIZER;
use atoll_api::{ClusterSlice, MemberPhase};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use tokio::sync::mpsc;

/// A Site that no agent speaks for.
const NOBODY: &str = "site-of-nobody";
/// How long the last ones may take.
const LAST: Duration = Duration::from_secs(10);

/// What was measured.
pub struct Changes {
    /// From creating a slice until its status says that its member is Ready.
    pub times: Vec<Duration>,
    /// Slices that were created.
    pub created: usize,
}

/// Who answers a slice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The agent of its Site.
    Agents,
    /// A client here, which sees it in its own watch.
    Client,
}

/// Creates slices for these Sites, one after another, so many a second.
pub async fn measure(client: &kube::Client, sites: &[String], pace: u32, length: Duration, by: By) -> Result<Changes> {
    let slices: Api<ClusterSlice> = Api::namespaced(client.clone(), "default");
    let prefix = if by == By::Agents { "agent" } else { "client" };
    let (seen, mut ready) = mpsc::unbounded_channel();
    let mut events = watcher(slices.clone(), watcher::Config::default()).default_backoff().applied_objects().boxed();
    let answering = slices.clone();
    let watching = tokio::spawn(async move {
        while let Some(slice) = events.try_next().await? {
            let name = slice.name_any();
            if !name.starts_with(prefix) {
                continue;
            }
            let members = slice.status.map(|status| status.members).unwrap_or_default();
            if members.iter().any(|member| member.phase == MemberPhase::Ready) {
                // The receiver has what it waits for.
                drop(seen.send((name, Instant::now())));
            } else if by == By::Client {
                let slices = answering.clone();
                tokio::spawn(async move { answer(&slices, &name).await });
            }
        }
        Ok::<_, watcher::Error>(())
    });
    let mut created: HashMap<String, Instant> = HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / pace);
    let began = Instant::now();
    let (told, mut names) = mpsc::unbounded_channel();
    let slices = Arc::new(slices);
    let mut number = 0;
    while began.elapsed() < length {
        ticks.tick().await;
        let site = if by == By::Agents { sites.get(number % sites.len()).context("no Sites")? } else { NOBODY };
        let (name, slices, told) = (format!("{prefix}-{number}"), Arc::clone(&slices), told.clone());
        let slice = serde_json::from_value(slice(&name, site))?;
        number += 1;
        tokio::spawn(async move {
            let asked = Instant::now();
            let made = slices.create(&PostParams::default(), &slice).await;
            drop(told.send((name, asked, made.map(drop))));
        });
    }
    drop(told);
    while let Some((name, asked, made)) = names.recv().await {
        made.with_context(|| format!("create {name}"))?;
        created.insert(name, asked);
    }
    let mut times = HashMap::new();
    let collect = async {
        while times.len() < created.len() {
            let Some((name, at)) = ready.recv().await else { return };
            if let Some(asked) = created.get(&name) {
                times.entry(name).or_insert(at - *asked);
            }
        }
    };
    // What is missing after this is missing in the count.
    drop(tokio::time::timeout(LAST, collect).await);
    watching.abort();
    Ok(Changes { times: times.into_values().collect(), created: created.len() })
}

async fn answer(slices: &Api<ClusterSlice>, name: &str) {
    let status = json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "ClusterSlice", "metadata": { "name": name },
        "status": {
            "observedEpoch": 1, "reservation": "Reserved",
            "members": [{ "rank": 0, "incarnation": 1, "phase": "Ready", "node": "n-0", "address": "10.0.0.1" }],
        },
    });
    let params = PatchParams::apply("bench").force();
    if let Err(error) = slices.patch_status(name, &params, &Patch::Apply(&status)).await {
        eprintln!("{name}: {error}");
    }
}

fn slice(name: &str, site: &str) -> serde_json::Value {
    json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "ClusterSlice",
        "metadata": { "name": name, "finalizers": [SLICE_FINALIZER] },
        "spec": {
            "site": site, "cluster": "train", "clusterUid": format!("uid-{name}"), "epoch": 1, "term": 1, "phase": "Run",
            "type": "Pods", "gpus": 1, "rendezvous": { "worldSize": 1, "leaderIncarnation": 1 },
            "members": [{ "rank": 0, "node": "n-0", "incarnation": 1 }],
            "fence": { "stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120 },
            "template": { "spec": { "containers": [{ "name": "main", "image": "example.com/train" }] } },
        },
    })
}
