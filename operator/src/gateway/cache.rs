//! What a watch has shown, grouped by Site, and what this process itself wrote since.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use atoll_api::names::LABEL_SITE;
use atoll_api::{ClusterSlice, GpuModel, GpuNode, Site, Supplier};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt as _};
use tokio::sync::watch;

/// A kind that is cached.
pub trait Cached: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static {
    /// What objects are looked up by besides their key; the Site, where there is one.
    fn group(&self) -> &str;
}

impl Cached for ClusterSlice {
    fn group(&self) -> &str {
        &self.spec.site
    }
}

impl Cached for GpuNode {
    fn group(&self) -> &str {
        self.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_SITE)).map_or("", String::as_str)
    }
}

/// Grouped by their supplier.
impl Cached for Site {
    fn group(&self) -> &str {
        &self.spec.supplier
    }
}

impl Cached for Supplier {
    fn group(&self) -> &'static str {
        ""
    }
}

impl Cached for GpuModel {
    fn group(&self) -> &'static str {
        ""
    }
}

impl Cached for Lease {
    fn group(&self) -> &'static str {
        ""
    }
}

/// Key of an object: its name, after its namespace and a slash where it has one.
#[must_use]
pub fn key_of(meta: &ObjectMeta) -> String {
    let name = meta.name.as_deref().unwrap_or_default();
    match meta.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// Version of an object as a number; versions of one resource can be compared. 0 when it has none.
#[must_use]
pub fn version_of(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// An object without what only the API server reads: a Site's list of who owns which field is larger than the rest of it.
pub fn lean<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

fn kept<K: Resource>(object: K) -> Arc<K> {
    Arc::new(lean(object))
}

/// Objects of one kind.
pub struct Cache<K> {
    inner: RwLock<Inner<K>>,
    changes: watch::Sender<u64>,
}

struct Inner<K> {
    groups: HashMap<String, HashMap<String, Arc<K>>>,
    group_of: HashMap<String, String>,
    /// Objects of a list that is still arriving.
    arriving: Option<HashMap<String, Arc<K>>>,
    listed: bool,
}

/// One object that changed or vanished.
pub struct Change<K> {
    /// Its key.
    pub key: String,
    /// Its group; when the object vanished, the one that it was in.
    pub group: String,
    /// What it is now; None: it is gone.
    pub object: Option<Arc<K>>,
}

impl<K: Cached> Default for Cache<K> {
    fn default() -> Self {
        let inner = Inner { groups: HashMap::new(), group_of: HashMap::new(), arriving: None, listed: false };
        Self { inner: RwLock::new(inner), changes: watch::Sender::new(0) }
    }
}

impl<K: Cached> Cache<K> {
    /// The object with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        self.read().get(key).cloned()
    }

    /// All objects of a group.
    #[must_use]
    pub fn group(&self, group: &str) -> Vec<Arc<K>> {
        self.read().groups.get(group).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// All objects.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().groups.values().flat_map(HashMap::values).cloned().collect()
    }

    /// How many objects there are like this.
    #[must_use]
    pub fn count(&self, like: impl Fn(&K) -> bool) -> usize {
        self.read().groups.values().flat_map(HashMap::values).filter(|object| like(object)).count()
    }

    /// Notified of every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the first list is complete.
    pub async fn listed(&self) {
        let mut changes = self.subscribe();
        while !self.read().listed {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes in what a write of our own returned, so that the next comparison sees it before the watch does.
    ///
    /// Only objects that are here and older are replaced: an object that the watch saw vanish must not come back.
    pub fn written(&self, object: K) {
        let mut inner = self.write();
        let key = key_of(object.meta());
        let newer = inner.get(&key).is_some_and(|known| {
            known.meta().uid == object.meta().uid && version_of(known.meta()) < version_of(object.meta())
        });
        if newer {
            inner.put(key, kept(object));
            drop(inner);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Takes in a deletion of our own, so that the next comparison sees it before the watch does.
    pub fn deleted(&self, object: &K) {
        let mut inner = self.write();
        let key = key_of(object.meta());
        if inner.get(&key).is_some_and(|known| known.meta().uid == object.meta().uid) {
            inner.remove(key);
            drop(inner);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Takes in what a watch said and returns what changed by it.
    pub fn apply(&self, event: Event<K>) -> Vec<Change<K>> {
        let changes = self.write().apply(event);
        self.changes.send_modify(|count| *count += 1);
        changes
    }

    /// Follows a watch and tells `on_change` of every change, until the stream ends.
    pub async fn follow(
        &self,
        events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
        mut on_change: impl FnMut(&Change<K>),
    ) {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.apply(event).iter().for_each(&mut on_change),
                Err(error) => tracing::warn!(%error, kind = %K::kind(&()), "watch failed; trying again"),
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Cached> Inner<K> {
    fn get(&self, key: &str) -> Option<&Arc<K>> {
        self.groups.get(self.group_of.get(key)?)?.get(key)
    }

    fn apply(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                self.arriving = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                self.arriving.get_or_insert_default().insert(key_of(object.meta()), kept(object));
                Vec::new()
            }
            Event::InitDone => {
                self.listed = true;
                let arrived = self.arriving.take().unwrap_or_default();
                let gone: Vec<String> =
                    self.group_of.keys().filter(|key| !arrived.contains_key(*key)).cloned().collect();
                let mut changes: Vec<Change<K>> = gone.into_iter().filter_map(|key| self.remove(key)).collect();
                for (key, object) in arrived {
                    if self.get(&key).is_none_or(|known| known.resource_version() != object.resource_version()) {
                        changes.push(self.seen(key, object));
                    }
                }
                changes
            }
            Event::Apply(object) => vec![self.seen(key_of(object.meta()), kept(object))],
            Event::Delete(object) => self.remove(key_of(object.meta())).into_iter().collect(),
        }
    }

    /// Tells of a change even when our own write is newer: that write may have brought somebody else's change along,
    /// which nobody was told of.
    fn seen(&mut self, key: String, object: Arc<K>) -> Change<K> {
        let newest = match self.get(&key) {
            Some(known)
                if known.meta().uid == object.meta().uid && version_of(known.meta()) > version_of(object.meta()) =>
            {
                Arc::clone(known)
            }
            _ => {
                self.put(key.clone(), Arc::clone(&object));
                object
            }
        };
        Change { key, group: newest.group().to_owned(), object: Some(newest) }
    }

    fn put(&mut self, key: String, object: Arc<K>) {
        let group = object.group().to_owned();
        if let Some(old) = self.group_of.insert(key.clone(), group.clone())
            && old != group
        {
            self.take(&old, &key);
        }
        self.groups.entry(group).or_default().insert(key, object);
    }

    fn remove(&mut self, key: String) -> Option<Change<K>> {
        let group = self.group_of.remove(&key)?;
        self.take(&group, &key);
        Some(Change { key, group, object: None })
    }

    fn take(&mut self, group: &str, key: &str) {
        if let Some(objects) = self.groups.get_mut(group) {
            objects.remove(key);
            if objects.is_empty() {
                self.groups.remove(group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, site: &str, version: u64) -> GpuNode {
        let mut node = GpuNode::new(name, atoll_api::GpuNodeSpec::default());
        node.metadata.uid = Some(format!("uid-{name}"));
        node.metadata.resource_version = Some(version.to_string());
        node.metadata.labels = Some([(LABEL_SITE.to_owned(), site.to_owned())].into());
        node
    }

    fn names(cache: &Cache<GpuNode>, site: &str) -> Vec<String> {
        let mut names: Vec<_> = cache.group(site).iter().map(|node| node.name_any()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_list_replaces_what_was_there_and_tells_only_what_changed() {
        let cache = Cache::default();
        for (name, version) in [("a", 1), ("b", 2), ("c", 3)] {
            cache.apply(Event::Apply(node(name, "s", version)));
        }
        assert!(cache.apply(Event::Init).is_empty());
        for (name, version) in [("a", 1), ("b", 9), ("d", 4)] {
            assert!(cache.apply(Event::InitApply(node(name, "s", version))).is_empty());
        }
        assert_eq!(names(&cache, "s"), ["a", "b", "c"]);
        let mut changed: Vec<_> =
            cache.apply(Event::InitDone).into_iter().map(|change| (change.key, change.object.is_some())).collect();
        changed.sort();
        assert_eq!(changed, [("b".to_owned(), true), ("c".to_owned(), false), ("d".to_owned(), true)]);
        assert_eq!(names(&cache, "s"), ["a", "b", "d"]);
    }

    #[test]
    fn our_own_write_is_seen_at_once_and_an_older_event_does_not_undo_it() {
        let cache = Cache::default();
        cache.apply(Event::Apply(node("a", "s", 1)));
        cache.written(node("a", "s", 3));
        assert_eq!(cache.get("a").unwrap().resource_version().as_deref(), Some("3"));
        let told = cache.apply(Event::Apply(node("a", "s", 2)));
        assert_eq!(told.len(), 1, "somebody else's change is told");
        assert_eq!(cache.get("a").unwrap().resource_version().as_deref(), Some("3"));
    }

    #[test]
    fn a_late_answer_to_a_write_does_not_bring_an_object_back() {
        let cache = Cache::default();
        cache.apply(Event::Apply(node("a", "s", 1)));
        cache.apply(Event::Delete(node("a", "s", 2)));
        cache.written(node("a", "s", 2));
        assert!(cache.get("a").is_none() && names(&cache, "s").is_empty());
    }

    #[test]
    fn our_own_deletion_is_seen_at_once_and_leaves_another_object_of_that_name_alone() {
        let cache = Cache::default();
        let old = node("a", "s", 1);
        cache.apply(Event::Apply(old.clone()));
        cache.deleted(&old);
        assert!(cache.get("a").is_none() && names(&cache, "s").is_empty());
        let mut new = node("a", "s", 2);
        new.metadata.uid = Some("another".to_owned());
        cache.apply(Event::Apply(new));
        cache.deleted(&old);
        assert_eq!(names(&cache, "s"), ["a"]);
    }

    #[test]
    fn an_object_is_in_one_group_only() {
        let cache = Cache::default();
        cache.apply(Event::Apply(node("a", "s", 1)));
        cache.apply(Event::Apply(node("a", "t", 2)));
        assert!(names(&cache, "s").is_empty());
        assert_eq!(names(&cache, "t"), ["a"]);
    }
}
