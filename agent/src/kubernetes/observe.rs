//! Watches of what the agent has made.

use std::fmt::Debug;

use atoll_api::gang::Gang;
use atoll_api::names;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, future};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::views;
use crate::runtime::Observation;

/// Everything that the agent has made, then every change of it.
pub(super) fn observe(client: &kube::Client) -> BoxStream<'static, Observation> {
    let namespaces = watch::<Namespace, _, _>(
        Api::all(client.clone()),
        |namespace, gone| views::namespace(namespace).map(|(uid, stopping)| (uid, (!gone).then_some(stopping))),
        |all| match all {
            Change::All(all) => {
                Observation::AllNamespaces(all.into_iter().filter_map(|(uid, is)| Some((uid, is?))).collect())
            }
            Change::One((uid, stopping)) => Observation::Namespace(uid, stopping),
        },
    );
    let gangs = watch::<Gang, _, _>(
        Api::all(client.clone()),
        |gang, gone| views::gang(gang).map(|(id, version, gang)| (id, version, (!gone).then_some(gang))),
        |change| match change {
            Change::All(all) => Observation::AllGangs(
                all.into_iter().filter_map(|(id, version, gang)| Some((id, version, gang?))).collect(),
            ),
            Change::One((id, version, gang)) => Observation::Gang(id, version, gang),
        },
    );
    let pods = watch::<Pod, _, _>(
        Api::all(client.clone()),
        |pod, gone| views::pod_identity(pod).map(|(id, member)| (id, member, (!gone).then(|| views::pod(pod)))),
        |change| match change {
            Change::All(all) => {
                Observation::AllPods(all.into_iter().filter_map(|(id, member, pod)| Some((id, member, pod?))).collect())
            }
            Change::One((id, member, pod)) => Observation::Pod(id, member, pod),
        },
    );
    futures::stream::select(namespaces, futures::stream::select(gangs, pods)).boxed()
}

enum Change<V> {
    All(Vec<V>),
    One(V),
}

fn watch<K, V, T>(
    api: Api<K>,
    view: impl Fn(&K, bool) -> Option<V> + Send + 'static,
    tell: impl Fn(Change<V>) -> T + Send + 'static,
) -> impl Stream<Item = T> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    V: Send + 'static,
    T: Send + 'static,
{
    let ours = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY_AGENT);
    let mut listed = Vec::new();
    watcher(api, watcher::Config::default().labels(&ours)).default_backoff().filter_map(move |event| {
        let change = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.extend(view(&object, false));
                None
            }
            Ok(watcher::Event::InitDone) => Some(Change::All(std::mem::take(&mut listed))),
            Ok(watcher::Event::Apply(object)) => view(&object, false).map(Change::One),
            Ok(watcher::Event::Delete(object)) => view(&object, true).map(Change::One),
            Err(error) => {
                tracing::warn!(kind = std::any::type_name::<K>(), %error, "watch failed; it goes on with a backoff");
                None
            }
        };
        future::ready(change.map(&tell))
    })
}
