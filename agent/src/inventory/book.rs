//! What the hub was told of the inventory and what it is still to be told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_wire::digest;
use atoll_wire::limits::{MAX_NODES, MAX_NODES_PER_MESSAGE};
use atoll_wire::v1::{InventoryDelta, Node};
use tokio::sync::{Notify, watch};

use super::devices::Ailing;
use super::facts::Facts;

/// The inventory, shared by who watches the Site and who talks to the hub.
#[derive(Debug)]
pub struct InventoryBook {
    inner: Mutex<Inner>,
    news: Notify,
    listed: watch::Sender<bool>,
    ailing: watch::Sender<Arc<Ailing>>,
    lost: watch::Sender<Arc<BTreeSet<String>>>,
}

#[derive(Debug, Default)]
struct Inner {
    facts: Facts,
    /// Nodes that changed since the session's hello.
    changed: BTreeSet<String>,
    all: bool,
}

impl Default for InventoryBook {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            news: Notify::new(),
            listed: watch::Sender::new(false),
            ailing: watch::Sender::default(),
            lost: watch::Sender::default(),
        }
    }
}

impl InventoryBook {
    /// Members that hold GPUs that are Unhealthy, as they come and go.
    pub fn ailing(&self) -> watch::Receiver<Arc<Ailing>> {
        self.ailing.subscribe()
    }

    /// Nodes with GPUs that are not Ready, as they come and go.
    pub fn lost(&self) -> watch::Receiver<Arc<BTreeSet<String>>> {
        self.lost.subscribe()
    }

    /// Which nodes have a watchdog.
    pub fn set_watched(&self, watched: BTreeSet<String>) {
        self.change(|facts| facts.set_watched(watched));
    }

    /// Waits until the Site's Nodes, `GPUNode`s and pods were listed once.
    pub async fn listed(&self) {
        let mut listed = self.listed.subscribe();
        // The sender lives as long as this book.
        let _ = listed.wait_for(|listed| *listed).await;
    }

    pub(super) fn set_listed(&self) {
        self.listed.send_replace(true);
    }

    /// A session begins: the digest of all nodes. What changes from now on is news.
    pub fn begin(&self) -> [u8; 32] {
        let mut inner = self.lock();
        inner.changed.clear();
        inner.all = false;
        digest::inventory(inner.facts.nodes().values())
    }

    /// The hub knows another inventory: everything is news.
    pub fn want_all(&self) {
        self.lock().all = true;
        self.news.notify_one();
    }

    /// Waits until there is something to tell.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// What is to be told, in messages of bounded size.
    pub fn take(&self) -> Vec<InventoryDelta> {
        let mut inner = self.lock();
        let changed = std::mem::take(&mut inner.changed);
        if std::mem::take(&mut inner.all) {
            let nodes: Vec<Node> = inner.facts.nodes().values().take(MAX_NODES).cloned().collect();
            return full(&nodes);
        }
        let nodes = inner.facts.nodes();
        let (there, gone): (Vec<String>, Vec<String>) = changed.into_iter().partition(|name| nodes.contains_key(name));
        let there: Vec<Node> = there.iter().filter_map(|name| nodes.get(name).cloned()).collect();
        let changed = there
            .chunks(MAX_NODES_PER_MESSAGE)
            .map(|nodes| InventoryDelta { nodes: nodes.to_vec(), ..InventoryDelta::default() });
        let removed = gone
            .chunks(MAX_NODES_PER_MESSAGE)
            .map(|removed| InventoryDelta { removed: removed.to_vec(), ..InventoryDelta::default() });
        changed.chain(removed).collect()
    }

    /// How many nodes have GPUs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().facts.nodes().len()
    }

    /// Whether no node has GPUs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets `change` change the facts; it names the nodes that became different.
    pub(super) fn change(&self, change: impl FnOnce(&mut Facts) -> BTreeSet<String>) {
        let news = {
            let mut inner = self.lock();
            let changed = change(&mut inner.facts);
            let news = !changed.is_empty();
            if news {
                let lost = inner.facts.lost();
                self.lost.send_if_modified(|told| {
                    let changed = **told != lost;
                    if changed {
                        *told = Arc::new(lost);
                    }
                    changed
                });
            }
            inner.changed.extend(changed);
            news
        };
        if news {
            self.news.notify_one();
        }
    }

    /// Like [`InventoryBook::change`], of what may say something about members too.
    pub(super) fn change_devices(&self, change: impl FnOnce(&mut Facts) -> BTreeSet<String>) {
        self.change(change);
        let ailing = self.lock().facts.ailing();
        self.ailing.send_if_modified(|told| {
            let changed = **told != ailing;
            if changed {
                *told = Arc::new(ailing);
            }
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything, at least one message so that an empty inventory is told too.
fn full(nodes: &[Node]) -> Vec<InventoryDelta> {
    let mut parts: Vec<InventoryDelta> = nodes
        .chunks(MAX_NODES_PER_MESSAGE)
        .map(|nodes| InventoryDelta { full: true, nodes: nodes.to_vec(), removed: Vec::new(), more: true })
        .collect();
    match parts.last_mut() {
        Some(last) => last.more = false,
        None => parts.push(InventoryDelta { full: true, ..InventoryDelta::default() }),
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::facts::{self, Machine};
    use super::*;

    fn node(allocatable: u32) -> Machine {
        facts::machine(
            &serde_json::from_value(serde_json::json!({
                "metadata": {"name": "n", "labels": {"nvidia.com/gpu.product": "x"}},
                "status": {"allocatable": {"nvidia.com/gpu": allocatable.to_string()}},
            }))
            .unwrap(),
        )
    }

    fn told(name: &str, allocatable: u32) -> Node {
        facts::describe(name, &node(allocatable), None, 0, false).unwrap()
    }

    fn set(book: &InventoryBook, name: &str, node: Option<Machine>) {
        book.change(|facts| facts.set_machine(name, node));
    }

    #[test]
    fn only_what_changed_since_the_hello_is_told() {
        let book = InventoryBook::default();
        set(&book, "a", Some(node(8)));
        set(&book, "b", Some(node(8)));
        let before = book.begin();
        assert_eq!(book.take(), []);
        set(&book, "a", Some(node(8)));
        assert_eq!(book.take(), [], "the same again is no news");
        set(&book, "a", Some(node(4)));
        set(&book, "b", None);
        let news = book.take();
        assert_eq!(news.iter().flat_map(|delta| &delta.nodes).collect::<Vec<_>>(), [&told("a", 4)]);
        assert_eq!(news.iter().flat_map(|delta| &delta.removed).collect::<Vec<_>>(), ["b"]);
        assert_ne!(book.begin(), before);
    }

    #[test]
    fn whether_a_node_has_a_watchdog_is_news_once() {
        use atoll_wire::v1::node::Fence;
        let book = InventoryBook::default();
        set(&book, "a", Some(node(8)));
        book.begin();
        assert_eq!(told("a", 8).fence(), Fence::ApiOnly);
        for (watched, fence) in [(true, Fence::Watchdog), (false, Fence::ApiOnly)] {
            let nodes: BTreeSet<String> = ["a".to_owned()].into_iter().filter(|_| watched).collect();
            book.set_watched(nodes.clone());
            assert_eq!(book.take()[0].nodes[0].fence(), fence);
            book.set_watched(nodes);
            assert_eq!(book.take(), []);
        }
        book.set_watched(["unknown".to_owned()].into());
        assert_eq!(book.take(), []);
    }

    #[test]
    fn nodes_with_gpus_that_are_not_ready_are_lost() {
        let book = InventoryBook::default();
        let lost = book.lost();
        set(&book, "a", Some(node(8)));
        assert_eq!(**lost.borrow(), ["a".to_owned()].into());
        set(&book, "a", None);
        assert_eq!(**lost.borrow(), BTreeSet::new());
    }

    #[test]
    fn everything_comes_in_parts_of_which_the_last_says_so() {
        let book = InventoryBook::default();
        book.want_all();
        let told = book.take();
        assert_eq!((told.len(), told[0].full, told[0].more), (1, true, false), "nothing is something to tell");
        for index in 0..=MAX_NODES_PER_MESSAGE {
            let name = format!("n{index:05}");
            set(&book, &name, Some(node(1)));
        }
        book.want_all();
        let told = book.take();
        let parts: Vec<(usize, bool, bool)> =
            told.iter().map(|delta| (delta.nodes.len(), delta.full, delta.more)).collect();
        assert_eq!(parts, [(MAX_NODES_PER_MESSAGE, true, true), (1, true, false)]);
        assert_eq!(book.take(), [], "told once");
    }
}
