//! The watches: every node, pod and gang, as events of the cycle.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

use atoll_api::Gang;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;

use crate::cycle::Event;
use crate::objects::{GangFacts, ObjectKey, PodFacts, node_state};

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nodes,
    Pods,
    Gangs,
}

/// What a watch says.
pub(crate) enum Notice {
    Event(Box<Event>),
    /// Everything of this kind was handed in once.
    Listed(Kind),
}

/// Follows all nodes.
pub(crate) async fn nodes(client: kube::Client, notices: UnboundedSender<Notice>) {
    let read = |node: &Node| {
        let state = node_state(node);
        (state.name.clone(), Event::Node(state))
    };
    follow(Api::all(client), Kind::Nodes, notices, read, Event::NodeGone).await;
}

/// Follows all pods; `scheduler` is our name.
pub(crate) async fn pods(client: kube::Client, scheduler: String, notices: UnboundedSender<Notice>) {
    let read = move |pod: &Pod| (ObjectKey::of(&pod.metadata), Event::Pod(PodFacts::of(pod, &scheduler)));
    follow(Api::all(client), Kind::Pods, notices, read, Event::PodGone).await;
}

/// Follows all gangs.
pub(crate) async fn gangs(client: kube::Client, notices: UnboundedSender<Notice>) {
    let read = |gang: &Gang| (ObjectKey::of(&gang.metadata), Event::Gang(GangFacts::of(gang)));
    follow(Api::all(client), Kind::Gangs, notices, read, Event::GangGone).await;
}

/// Ends when the receiver is gone. After a gap in the watch, what is not listed any more is gone.
async fn follow<K, Id>(
    api: Api<K>,
    kind: Kind,
    notices: UnboundedSender<Notice>,
    read: impl Fn(&K) -> (Id, Event),
    gone: impl Fn(Id) -> Event,
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    Id: Clone + Eq + Hash,
{
    let mut known: HashSet<Id> = HashSet::new();
    let mut listed: HashSet<Id> = HashSet::new();
    let mut events = Box::pin(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        let mut out = Vec::new();
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                let (id, event) = read(&object);
                listed.insert(id);
                out.push(Notice::Event(Box::new(event)));
            }
            Ok(watcher::Event::InitDone) => {
                let seen = std::mem::take(&mut listed);
                out.extend(known.difference(&seen).cloned().map(|id| Notice::Event(Box::new(gone(id)))));
                out.push(Notice::Listed(kind));
                known = seen;
            }
            Ok(watcher::Event::Apply(object)) => {
                let (id, event) = read(&object);
                known.insert(id);
                out.push(Notice::Event(Box::new(event)));
            }
            Ok(watcher::Event::Delete(object)) => {
                let (id, _) = read(&object);
                known.remove(&id);
                out.push(Notice::Event(Box::new(gone(id))));
            }
            Err(error) => tracing::warn!(?kind, %error, "watch interrupted"),
        }
        for notice in out {
            if notices.send(notice).is_err() {
                return;
            }
        }
    }
}
