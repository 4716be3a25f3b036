//! The watches: everything that the cycle hears of, read on tasks of their own and handed over many events at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{GROUP, Gang, VERSION};
use futures::StreamExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

use crate::api::{Change, Connections, Listed, Watch, is_served};
use crate::cycle::Event;
use crate::objects::{
    BudgetFacts, ClaimFacts, GangFacts, Interner, ObjectKey, PodFacts, PodGroupFacts, VolumeFacts, node_state,
    volume_limits,
};
use crate::proto;

/// How often it is looked whether a kind is served that was not.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Nodes,
    Pods,
    Gangs,
    PodGroups,
    Budgets,
    Namespaces,
    Claims,
    Volumes,
    NodeVolumes,
}

impl Kind {
    /// All of them; the cycle starts when each was listed.
    pub(crate) const ALL: [Self; 9] = [
        Self::Nodes,
        Self::Pods,
        Self::Gangs,
        Self::PodGroups,
        Self::Budgets,
        Self::Namespaces,
        Self::Claims,
        Self::Volumes,
        Self::NodeVolumes,
    ];

    /// What readiness misses before it was listed.
    pub(crate) fn part(self) -> &'static str {
        match self {
            Self::Nodes => "nodes listed",
            Self::Pods => "pods listed",
            Self::Gangs => "gangs listed",
            Self::PodGroups => "pod groups listed",
            Self::Budgets => "disruption budgets listed",
            Self::Namespaces => "namespaces listed",
            Self::Claims => "volume claims listed",
            Self::Volumes => "volumes listed",
            Self::NodeVolumes => "volume limits listed",
        }
    }
}

/// What a watch says.
#[derive(Debug)]
pub(crate) enum Notice {
    Event(Event),
    /// Everything of this kind was handed in once, or there is no such kind.
    Listed(Kind),
}

/// Watches everything at the same time; `scheduler` is our name. The tasks end when nobody takes the notices.
pub(crate) fn start(
    client: &kube::Client,
    connections: &Connections,
    scheduler: &str,
    interner: &Arc<Interner>,
    notices: &Sender<Vec<Notice>>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let follow = Follow { connections: connections.clone(), notices: notices.clone() };
    // The largest first: they take longest.
    let (name, once) = (scheduler.to_owned(), Arc::clone(interner));
    let read = move |pod: proto::Pod| Event::Pod(Box::new(PodFacts::of(pod, &name, &once)));
    tasks.spawn(follow.clone().kind(Kind::Pods, read, Event::PodGone));
    let read = |node: proto::Node| Event::Node(Box::new(node_state(node)));
    tasks.spawn(follow.clone().kind(Kind::Nodes, read, |key| Event::NodeGone(key.name.to_string())));
    let read = |node: proto::CsiNode| {
        let (node, limits) = volume_limits(node);
        Event::NodeVolumes { node, limits }
    };
    tasks.spawn(follow.clone().kind(Kind::NodeVolumes, read, |key| Event::NodeVolumesGone(key.name.to_string())));
    let read = |namespace: proto::Namespace| {
        let meta = namespace.metadata.unwrap_or_default();
        Event::Namespace { name: meta.name, labels: meta.labels }
    };
    tasks.spawn(follow.clone().kind(Kind::Namespaces, read, |key| Event::NamespaceGone(key.name.to_string())));
    let read = |claim: proto::PersistentVolumeClaim| Event::Claim(Box::new(ClaimFacts::of(claim)));
    tasks.spawn(follow.clone().kind(Kind::Claims, read, Event::ClaimGone));
    let read = |volume: proto::PersistentVolume| Event::Volume(Box::new(VolumeFacts::of(volume)));
    tasks.spawn(follow.clone().kind(Kind::Volumes, read, |key| Event::VolumeGone(key.name.to_string())));
    let read = |budget: proto::PodDisruptionBudget| Event::Budget(Box::new(BudgetFacts::of(budget)));
    tasks.spawn(follow.clone().kind(Kind::Budgets, read, Event::BudgetGone));
    tasks.spawn(gangs(client.clone(), Arc::clone(interner), notices.clone()));
    tasks.spawn(pod_groups(client.clone(), follow));
    tasks
}

#[derive(Clone)]
struct Follow {
    connections: Connections,
    notices: Sender<Vec<Notice>>,
}

impl Follow {
    async fn kind<M: Listed>(
        self,
        kind: Kind,
        mut read: impl FnMut(M) -> Event,
        mut gone: impl FnMut(ObjectKey) -> Event,
    ) {
        let make = |change, batch: &mut Vec<Notice>| {
            batch.push(match change {
                Change::Set(object) => Notice::Event(read(object)),
                Change::Gone(key) => Notice::Event(gone(key)),
                Change::Listed => Notice::Listed(kind),
            });
        };
        Watch::new::<M>(self.connections).run(make, self.notices).await;
    }
}

/// Pod groups are served only where an API server was told to.
async fn pod_groups(client: kube::Client, follow: Follow) {
    until_served(&client, "scheduling.k8s.io/v1beta1", "podgroups", Kind::PodGroups, &follow.notices).await;
    let read = |group: proto::PodGroup| Event::PodGroup(Box::new(PodGroupFacts::of(group)));
    follow.kind(Kind::PodGroups, read, Event::PodGroupGone).await;
}

/// Gangs are Atoll's own: served where its CRDs are installed, and in JSON only.
async fn gangs(client: kube::Client, interner: Arc<Interner>, notices: Sender<Vec<Notice>>) {
    until_served(&client, &format!("{GROUP}/{VERSION}"), "gangs", Kind::Gangs, &notices).await;
    let mut known: HashSet<ObjectKey> = HashSet::new();
    let mut listed: HashSet<ObjectKey> = HashSet::new();
    let api: Api<Gang> = Api::all(client);
    let mut events = Box::pin(watcher(api, watcher::Config::default()).default_backoff());
    let read = |gang: &Gang| Notice::Event(Event::Gang(Box::new(GangFacts::of(gang, &interner))));
    let gone = |key| Notice::Event(Event::GangGone(key));
    while let Some(event) = events.next().await {
        let batch = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(gang)) => {
                listed.insert(ObjectKey::of_json(&gang.metadata));
                vec![read(&gang)]
            }
            // After a gap in the watch, what is not listed any more is gone.
            Ok(watcher::Event::InitDone) => {
                let seen = std::mem::take(&mut listed);
                let lost = known.difference(&seen).cloned().map(gone);
                let batch = lost.chain([Notice::Listed(Kind::Gangs)]).collect();
                known = seen;
                batch
            }
            Ok(watcher::Event::Apply(gang)) => {
                known.insert(ObjectKey::of_json(&gang.metadata));
                vec![read(&gang)]
            }
            Ok(watcher::Event::Delete(gang)) => {
                let key = ObjectKey::of_json(&gang.metadata);
                known.remove(&key);
                vec![gone(key)]
            }
            Err(error) => {
                tracing::warn!(%error, "watch of gangs interrupted");
                continue;
            }
        };
        if notices.send(batch).await.is_err() {
            return;
        }
    }
}

/// Waits for a kind that may be missing. Nothing else waits for it: a kind that is not served has no objects.
async fn until_served(
    client: &kube::Client,
    group_version: &str,
    plural: &str,
    kind: Kind,
    notices: &Sender<Vec<Notice>>,
) {
    if is_served(client, group_version, plural).await {
        return;
    }
    tracing::info!(group_version, plural, "not served, looking again from time to time");
    // The receiver is gone only when the process ends.
    let _ = notices.send(vec![Notice::Listed(kind)]).await;
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if is_served(client, group_version, plural).await {
            return;
        }
    }
}
