//! The cycle: events in, actions out, one gang or pod decided at a time.
//!
//! A plain state machine without a client or a clock. Whoever runs it hands in every event of the watches and every
//! outcome of a binding, and carries out the [`Action`]s.

mod attempt;
mod messages;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

pub use messages::{Action, Attempt, Binding, Event, Outcome, Settings};

use crate::cache::Cache;
use crate::gang::GangEntry;
use crate::objects::{GangFacts, ObjectKey, PodFacts};
use crate::queue::{Order, Queue, Work};

/// The scheduler's whole state.
#[derive(Debug)]
pub struct Scheduler {
    settings: Settings,
    cache: Cache,
    queue: Queue,
    gangs: HashMap<ObjectKey, GangEntry>,
    /// Gangs seen before [`Scheduler::start`].
    unread: HashMap<ObjectKey, GangFacts>,
    started: bool,
    expiries: BTreeSet<(Duration, ObjectKey)>,
    /// Gangs, by creation, whose holds an earlier process wrote down and that had no turn yet. It may have given such
    /// a hold up and been killed before it could say so.
    taken_over: BTreeSet<(Duration, ObjectKey)>,
    /// When the words of a pod's condition were written last.
    told: HashMap<ObjectKey, Duration>,
}

impl Scheduler {
    /// A scheduler that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            cache: Cache::default(),
            queue: Queue::default(),
            gangs: HashMap::new(),
            unread: HashMap::new(),
            started: false,
            expiries: BTreeSet::new(),
            taken_over: BTreeSet::new(),
            told: HashMap::new(),
        }
    }

    /// Every node, pod and gang was handed in once: holds of an earlier process are taken over, gangs that it bound
    /// in part come first, and from now on [`Scheduler::attempt`] decides.
    pub fn start(&mut self, now: Duration) {
        if self.started {
            return;
        }
        self.started = true;
        let mut gangs: Vec<GangFacts> = self.unread.drain().map(|(_, facts)| facts).collect();
        gangs.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
        for facts in gangs {
            self.gang(facts, now);
        }
        let pods: Vec<ObjectKey> = self.cache.pods().cloned().collect();
        for key in pods {
            self.queue_pod(&key);
        }
    }

    /// Takes in an event.
    pub fn handle(&mut self, event: Event, now: Duration) {
        match event {
            Event::Node(node) => {
                let name = node.name.clone();
                if self.cache.set_node(node) {
                    self.node_changed(&name);
                }
            }
            Event::NodeGone(name) => {
                if self.cache.remove_node(&name) {
                    self.node_changed(&name);
                }
            }
            Event::Pod(pod) => self.pod(pod),
            Event::PodGone(key) => self.pod_gone(&key),
            Event::Gang(facts) => {
                if self.started {
                    self.gang(facts, now);
                } else {
                    self.unread.insert(facts.key.clone(), facts);
                }
            }
            Event::GangGone(key) => {
                self.unread.remove(&key);
                self.gang_gone(&key);
            }
            Event::Bound(binding) => self.bound(&binding),
            Event::NotBound { binding, retry_after } => self.not_bound(&binding, now + retry_after),
        }
    }

    /// The next turn, if there is something to do now.
    pub fn attempt(&mut self, now: Duration) -> Option<Attempt> {
        if !self.started {
            return None;
        }
        if let Some(expired) = self.expire(now) {
            return Some(expired);
        }
        Some(match self.queue.pop(now)? {
            Work::Gang(key) => self.try_gang(&key, now),
            Work::Pod(key) => self.try_pod(&key, now),
        })
    }

    /// When [`Scheduler::attempt`] has to be called without an event; the past when at once.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let expiry = self.expiries.first().map(|(at, _)| *at);
        if !self.started {
            return None;
        }
        match (self.queue.next_due(), expiry) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// How many gangs and how many pods without a gang wait for a decision or a binding.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        self.queue.len()
    }

    /// What is on the nodes.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    fn order(entry: &GangEntry) -> Order {
        Order { whole: !entry.half_bound, priority: Reverse(0), created: entry.facts.created }
    }

    fn queue_gang(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.gangs.get(key) {
            self.queue.push(Work::Gang(key.clone()), Self::order(entry));
        }
    }

    fn queue_pod(&mut self, key: &ObjectKey) {
        let work = Work::Pod(key.clone());
        match self.cache.pod(key) {
            Some(pod) if pod.waits() && pod.gang.is_none() => {
                if self.cache.assumed(key).is_none() {
                    self.queue.push(work, pod_order(pod));
                }
            }
            _ => self.queue.remove(&work),
        }
    }

    fn node_changed(&mut self, name: &str) {
        self.queue.wake();
        self.queue_holders(name);
    }

    /// Gangs that hold room on a node look again whether they still can.
    fn queue_holders(&mut self, node: &str) {
        let holders: Vec<ObjectKey> = self
            .gangs
            .keys()
            .filter(|gang| self.cache.holds(gang).any(|(_, claim)| claim.node == node))
            .cloned()
            .collect();
        for gang in holders {
            self.queue_gang(&gang);
        }
    }

    fn pod(&mut self, pod: PodFacts) {
        let key = pod.key.clone();
        let gang = pod.gang.as_ref().map(|name| ObjectKey::new(&key.namespace, name));
        let elsewhere = pod.occupies().filter(|_| !pod.ours).map(str::to_owned);
        let told = pod.unschedulable.clone();
        let change = self.cache.set_pod(pod);
        if change.freed {
            self.queue.wake();
        }
        let Some(now) = self.cache.pod(&key) else { return };
        if let Some(before) = &change.before {
            // Our own word in its condition is no news.
            let same = PodFacts { unschedulable: told, ..(**before).clone() };
            if same == **now {
                return;
            }
        }
        if !self.started {
            return;
        }
        if let Some(node) = elsewhere
            && change.before.as_ref().is_none_or(|before| before.occupies() != Some(&node))
        {
            self.queue_holders(&node);
        }
        let left = change.before.as_ref().and_then(|before| before.gang.as_deref());
        if let Some(left) = left.filter(|left| gang.as_ref().is_none_or(|gang| gang.name != *left)) {
            self.queue_gang(&ObjectKey::new(&key.namespace, left));
        }
        match gang {
            Some(gang) => {
                self.queue.remove(&Work::Pod(key));
                self.queue_gang(&gang);
            }
            None => self.queue_pod(&key),
        }
    }

    fn pod_gone(&mut self, key: &ObjectKey) {
        let change = self.cache.remove_pod(key);
        self.told.remove(key);
        self.queue.remove(&Work::Pod(key.clone()));
        if change.freed {
            self.queue.wake();
        }
        if let Some(gang) = change.before.as_ref().and_then(|pod| pod.gang.as_deref()) {
            self.queue_gang(&ObjectKey::new(&key.namespace, gang));
        }
    }

    fn gang(&mut self, facts: GangFacts, now: Duration) {
        let key = facts.key.clone();
        if self.gangs.get(&key).is_some_and(|entry| entry.facts.uid != facts.uid) || facts.deleting {
            self.gang_gone(&key);
        }
        if facts.deleting {
            return;
        }
        if let Some(entry) = self.gangs.get_mut(&key) {
            if entry.update(facts) {
                self.queue_gang(&key);
            }
            return;
        }
        let mut entry = GangEntry::restore(facts, &mut self.cache, now);
        entry.look(&self.cache);
        if let Some(at) = entry.hold.expires_at() {
            self.expiries.insert((at, key.clone()));
        }
        if self.cache.holds(&key).next().is_some() {
            self.taken_over.insert((entry.facts.created, key.clone()));
        }
        self.gangs.insert(key.clone(), entry);
        self.queue_gang(&key);
    }

    fn gang_gone(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.gangs.remove(key) {
            self.taken_over.remove(&(entry.facts.created, key.clone()));
        }
        self.queue.remove(&Work::Gang(key.clone()));
        if !self.cache.release(key, |_| true).is_empty() {
            self.queue.wake();
        }
    }

    fn bound(&mut self, binding: &Binding) {
        let Some(key) = &binding.gang else { return };
        let Some(entry) = self.gangs.get_mut(key) else { return };
        // A gang that was made anew under the name does not know the bindings of the one before.
        if entry.binding.remove(&binding.pod.name) {
            entry.note_bound(&binding.pod.name, &binding.node);
        }
        if entry.binding.is_empty() {
            self.queue_gang(key);
        }
    }

    fn not_bound(&mut self, binding: &Binding, until: Duration) {
        let forgotten = self.cache.forget(&binding.pod, &binding.uid);
        let pod = self.cache.pod(&binding.pod).filter(|pod| pod.uid == binding.uid).cloned();
        let Some(key) = &binding.gang else {
            self.queue.wake();
            if let Some(pod) = pod.filter(|pod| pod.waits()) {
                self.queue.delay(Work::Pod(binding.pod.clone()), pod_order(&pod), until);
            }
            return;
        };
        let Some(entry) = self.gangs.get_mut(key) else {
            self.queue.wake();
            return;
        };
        entry.binding.remove(&binding.pod.name);
        match pod {
            // Nobody else gets the room that a half-bound gang needs.
            Some(pod) if forgotten => self.cache.hold(key, &binding.pod.name, &binding.node, &pod.shape),
            _ => self.queue.wake(),
        }
        self.queue.delay(Work::Gang(key.clone()), Self::order(entry), until);
    }

    fn expire(&mut self, now: Duration) -> Option<Attempt> {
        while let Some((at, _)) = self.expiries.first()
            && *at <= now
        {
            let (_, key) = self.expiries.pop_first()?;
            let Some(entry) = self.gangs.get_mut(&key) else { continue };
            if !entry.hold.expire(now) {
                continue;
            }
            entry.message = format!("held for {} s and not followed by Run", self.settings.hold.as_secs());
            self.cache.release(&key, |_| true);
            self.queue.wake();
            let mut attempt = Attempt::of(Outcome::Expired);
            self.report(&key, now, &mut attempt);
            return Some(attempt);
        }
        None
    }
}

fn pod_order(pod: &PodFacts) -> Order {
    Order { whole: true, priority: Reverse(pod.priority), created: pod.created }
}
