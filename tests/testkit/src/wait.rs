//! Waits that are bounded, end as soon as they can, and say what they saw when they give up.

use std::{fmt::Debug, pin::pin, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};

use crate::{Error, Result};

/// Everything that can be waited for in an API.
pub trait Watchable:
    Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static
{
}

impl<K> Watchable for K where
    K: Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static
{
}

/// Tries until `attempt` gives a value; an `Err` says what was seen instead.
///
/// This polls, every 20 ms: for objects in an API use [`wait_for`], [`wait_gone`] or [`wait_all`].
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = "nothing".to_owned();
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen,
            Err(_) => last.push_str("\n(the last attempt did not return)"),
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout { what: what.to_owned(), after: limit, last });
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + Duration::from_millis(20))).await;
    }
}

/// Waits until the object is there and satisfies `predicate`; gives it.
pub async fn wait_for<K: Watchable>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    mut predicate: impl FnMut(&K) -> bool,
) -> Result<K> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let what = format!("{} {name}: {what}", K::kind(&K::DynamicType::default()));
    let found = wait_all(api, config, &what, limit, |all| all.first().is_some_and(&mut predicate)).await?;
    found.into_iter().next().ok_or(Error::Timeout { what, after: limit, last: "nothing".to_owned() })
}

/// Waits until there is no object of this name.
pub async fn wait_gone<K: Watchable>(api: &Api<K>, name: &str, limit: Duration) -> Result<()> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let what = format!("{} {name} to be gone", K::kind(&K::DynamicType::default()));
    wait_all(api, config, &what, limit, <[K]>::is_empty).await.map(drop)
}

/// Waits until the objects that `config` selects satisfy `predicate` together;
/// gives them, ordered by namespace and name.
///
/// Watch-based: the predicate sees the state after each change.
pub async fn wait_all<K: Watchable>(
    api: &Api<K>,
    config: watcher::Config,
    what: &str,
    limit: Duration,
    mut predicate: impl FnMut(&[K]) -> bool,
) -> Result<Vec<K>> {
    let deadline = Instant::now() + limit;
    let mut events = pin!(watcher(api.clone(), config).default_backoff());
    let mut state = State::default();
    let mut trouble = None;
    loop {
        match timeout_at(deadline, events.next()).await {
            Ok(Some(Ok(event))) => {
                state.apply(event);
                if let Some(all) = state.all() {
                    trouble = None;
                    if predicate(all) {
                        return Ok(state.objects);
                    }
                }
            }
            Ok(Some(Err(error))) => trouble = Some(error.to_string()),
            Ok(None) | Err(_) => {
                let last = trouble.unwrap_or_else(|| describe(&state.objects));
                return Err(Error::Timeout { what: what.to_owned(), after: limit, last });
            }
        }
    }
}

/// The objects as the watch shows them, ordered by namespace and name.
struct State<K> {
    objects: Vec<K>,
    /// What a list that is under way has given so far.
    listing: Option<Vec<K>>,
}

impl<K> Default for State<K> {
    fn default() -> Self {
        Self { objects: Vec::new(), listing: None }
    }
}

impl<K: Watchable> State<K> {
    fn apply(&mut self, event: Event<K>) {
        match event {
            Event::Init => self.listing = Some(Vec::new()),
            Event::InitApply(object) => put(self.listing.get_or_insert_default(), object),
            Event::InitDone => self.objects = self.listing.take().unwrap_or_default(),
            Event::Apply(object) => put(&mut self.objects, object),
            Event::Delete(object) => {
                if let Ok(at) = find(&self.objects, &object) {
                    self.objects.remove(at);
                }
            }
        }
    }

    /// All objects, unless a list is under way.
    fn all(&self) -> Option<&[K]> {
        self.listing.is_none().then_some(&self.objects)
    }
}

fn put<K: Watchable>(objects: &mut Vec<K>, object: K) {
    match find(objects, &object) {
        Ok(at) => objects[at] = object,
        Err(at) => objects.insert(at, object),
    }
}

/// Where the object of the same name is, or where it belongs.
fn find<K: Watchable>(objects: &[K], object: &K) -> Result<usize, usize> {
    fn key<K: Watchable>(object: &K) -> (Option<&str>, Option<&str>) {
        let meta = object.meta();
        (meta.namespace.as_deref(), meta.name.as_deref())
    }
    objects.binary_search_by(|other| key(other).cmp(&key(object)))
}

/// The first objects as YAML-like JSON without managed fields, and how many there are.
fn describe<K: Watchable>(objects: &[K]) -> String {
    const SHOWN: usize = 3;
    let mut text = format!("{} objects", objects.len());
    for object in objects.iter().take(SHOWN) {
        let mut object = object.clone();
        object.managed_fields_mut().clear();
        text.push('\n');
        text.push_str(&serde_json::to_string_pretty(&object).unwrap_or_else(|error| error.to_string()));
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    #[tokio::test]
    async fn a_wait_that_fails_says_what_it_saw_last() {
        let error = eventually::<()>("the impossible", Duration::from_millis(30), async || Err("a wall".to_owned()))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "the impossible: not within 30ms; last seen:\na wall");
    }

    #[tokio::test]
    async fn an_attempt_that_hangs_is_bounded() {
        let error = eventually::<()>("the stuck", Duration::from_millis(30), async || {
            std::future::pending::<()>().await;
            Ok(())
        })
        .await
        .unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }));
    }

    #[test]
    fn a_list_under_way_is_not_shown_and_replaces_what_was() {
        let mut state = State::default();
        for (event, count) in vec![
            (Event::Init, None),
            (Event::InitApply(pod("b")), None),
            (Event::InitDone, Some(1)),
            (Event::Apply(pod("a")), Some(2)),
            (Event::Apply(pod("b")), Some(2)),
            (Event::Delete(pod("b")), Some(1)),
            (Event::Delete(pod("b")), Some(1)),
            (Event::Init, None),
            (Event::InitDone, Some(0)),
        ] {
            state.apply(event.clone());
            assert_eq!(state.all().map(<[Pod]>::len), count, "after {event:?}");
        }
    }
}
