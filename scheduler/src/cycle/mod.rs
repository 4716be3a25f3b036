//! The cycle: events in, actions out, one gang or pod decided at a time.
//!
//! A plain state machine without a client or a clock. Whoever runs it hands in every event of the watches and every
//! answer to an action, and carries out the [`Action`]s.

mod ask;
mod events;
mod groups;
mod messages;
mod nominees;
mod objects;
mod pods;
mod preempt;
mod reserve;
mod tell;
mod view;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::{Decider, Helps, Phase};

pub use messages::{
    Action, Attempt, Binding, Event, GangKey, GangKind, Nominate, Object, ObjectKind, Outcome, PendingView, Settings,
    WaitsFor, event_reason,
};
pub use view::Counts;

use crate::cache::Cache;
use crate::gangs::{GangEntry, Group};
use crate::objects::{BudgetFacts, GangFacts, Interner, ObjectKey, PodFacts};
use crate::queue::{LineId, Order, Queue, Work};
use nominees::Preemption;
use reserve::Reserving;
pub(crate) use tell::Written;
use tell::{Listener, Said};

/// How long others wait at most, after a start, for gangs that were left half-bound.
const OTHERS_AFTER: Duration = Duration::from_secs(5);
/// How many waiting lines are passed by in one turn to find those that something could have helped …
const PASSES: usize = 64;
/// … and how many of those are looked at.
const LOOKS: usize = 16;
/// One turn of so many goes to words that are overdue although there is something to decide.
const TELL_EVERY: u64 = 16;

/// The scheduler's whole state.
#[derive(Debug)]
pub struct Scheduler {
    settings: Settings,
    cache: Cache,
    decider: Decider,
    queue: Queue,
    /// Gang objects.
    objects: HashMap<ObjectKey, GangEntry>,
    /// Pods that name a gang, whatever rules it, and `PodGroup`s.
    groups: HashMap<GangKey, Group>,
    budgets: BTreeMap<ObjectKey, BudgetFacts>,
    /// Gang objects seen before [`Scheduler::start`].
    unread: HashMap<ObjectKey, GangFacts>,
    started: bool,
    expiries: BTreeSet<(Duration, ObjectKey)>,
    /// Gangs, by creation, whose holds an earlier process wrote down and that had no turn yet. It may have given such
    /// a hold up and been killed before it could say so.
    taken_over: BTreeSet<(Duration, ObjectKey)>,
    /// Whose held room gives way to higher priorities: nominated by us or by another scheduler.
    nominees: BTreeSet<(i32, Work)>,
    /// For whom others are being evicted.
    preemptions: HashMap<Work, Preemption>,
    /// Pods that end, and who waits for that; nobody where the gang is undone.
    evicting: HashMap<ObjectKey, Vec<Work>>,
    /// Who could not be evicted.
    spared: HashSet<ObjectKey>,
    /// What was said about pods.
    said: HashMap<ObjectKey, Said>,
    /// Whose words are to be said (again), and when.
    words: BTreeSet<(Duration, Listener)>,
    /// Lines whose refusal is put in new words when there is nothing else to do, and from when on.
    old_words: BTreeSet<(Duration, LineId)>,
    reserving: Reserving,
    /// Gangs that an earlier process left half-bound, until they are completed or undone. Nothing else is bound before.
    left_half_bound: BTreeSet<GangKey>,
    /// When others have their turn in any case.
    others_from: Duration,
    turns: u64,
}

impl Scheduler {
    /// A scheduler that knows nothing yet. `interner` is the one that reads the pods, so that equal shapes are one.
    #[must_use]
    pub fn new(settings: Settings, interner: Arc<Interner>) -> Self {
        Self {
            settings,
            cache: Cache::new(interner),
            decider: Decider::default(),
            queue: Queue::default(),
            objects: HashMap::new(),
            groups: HashMap::new(),
            budgets: BTreeMap::new(),
            unread: HashMap::new(),
            started: false,
            expiries: BTreeSet::new(),
            taken_over: BTreeSet::new(),
            nominees: BTreeSet::new(),
            preemptions: HashMap::new(),
            evicting: HashMap::new(),
            spared: HashSet::new(),
            said: HashMap::new(),
            words: BTreeSet::new(),
            old_words: BTreeSet::new(),
            reserving: Reserving::default(),
            left_half_bound: BTreeSet::new(),
            others_from: Duration::ZERO,
            turns: 0,
        }
    }

    /// Every object was handed in once: holds of an earlier process are taken over, gangs that it bound in part come
    /// first, and from now on [`Scheduler::attempt`] decides. What runs tells what is usually asked for.
    pub fn start(&mut self, now: Duration) {
        if self.started {
            return;
        }
        self.started = true;
        self.cache.renew(None);
        for (_, occupant) in self.cache.nodes().all_occupants() {
            self.decider.observe(&occupant.shape, 1);
        }
        let mut gangs: Vec<GangFacts> = self.unread.drain().map(|(_, facts)| facts).collect();
        gangs.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
        for facts in gangs {
            self.gang(facts, now);
        }
        for group in self.groups.values_mut() {
            group.half_bound = group.was_left_half_bound(&self.cache);
            group.whole = !group.half_bound;
        }
        let groups = self.groups.iter().filter(|(_, group)| group.half_bound).map(|(gang, _)| gang.clone());
        let objects = self.objects.values().filter(|entry| entry.half_bound).map(GangEntry::gang_key);
        self.left_half_bound = groups.chain(objects).collect();
        self.others_from = now + OTHERS_AFTER;
        let pods: Vec<Arc<PodFacts>> = self.cache.pods().filter(|pod| pod.node.is_none()).cloned().collect();
        for pod in &pods {
            self.note_nominee(pod);
            self.queue_pod(&pod.key);
        }
        let groups: Vec<GangKey> = self.groups.keys().cloned().collect();
        for group in groups {
            self.queue_gang(&group);
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
        self.keep_reservation(now);
        self.queue.ring(now);
        self.look_at_lines(now);
        self.turns += 1;
        if self.turns.is_multiple_of(TELL_EVERY)
            && let Some(told) = self.say_what_is_due(now)
        {
            return Some(told);
        }
        self.settle_left_half_bound(now);
        let Some((order, work)) = self.queue.pop() else {
            return self.say_what_is_due(now).or_else(|| self.find_new_words(now));
        };
        let mut attempt = Attempt::of(Outcome::Nothing);
        attempt.outcome = match &work {
            Work::Gang(gang) => self.try_gang(gang, order, now, &mut attempt),
            Work::Pod(pod) => self.try_pod(pod, order, now, &mut attempt),
        };
        self.queue.settle(&work);
        Some(attempt)
    }

    /// Forgets those that are completed, refused, gone, or evicted again, and all of them after a while: one that
    /// waits for a pod that nobody makes must not stop the others.
    fn settle_left_half_bound(&mut self, now: Duration) {
        if self.left_half_bound.is_empty() {
            return;
        }
        let Self { left_half_bound, groups, objects, evicting, cache, queue, .. } = self;
        let undone: BTreeSet<GangKey> =
            evicting.keys().filter_map(|pod| cache.pod(pod)).filter_map(|pod| Group::key_of(pod)).collect();
        left_half_bound.retain(|gang| match gang.kind {
            GangKind::Object => objects
                .get(&gang.key)
                .is_some_and(|entry| entry.half_bound && !matches!(entry.hold.phase(), Phase::Refused(_))),
            _ => undone.contains(gang) || groups.get(gang).is_some_and(|group| group.half_bound),
        });
        if now >= self.others_from {
            left_half_bound.clear();
        }
        queue.only_half_bound(!left_half_bound.is_empty());
    }

    /// When [`Scheduler::attempt`] has to be called without an event; the past when at once.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        if !self.started {
            return None;
        }
        let expiry = self.expiries.first().map(|(at, _)| *at);
        let words = self.words.first().map(|(at, _)| *at);
        let old_words = self.old_words.first().map(|(at, _)| *at);
        let others = (!self.left_half_bound.is_empty()).then_some(self.others_from);
        [self.queue.next_due(), expiry, words, old_words, self.reserving.next_due(), others].into_iter().flatten().min()
    }

    /// What is on the nodes.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    fn try_gang(&mut self, gang: &GangKey, order: Order, now: Duration, attempt: &mut Attempt) -> Outcome {
        if gang.kind == GangKind::Object
            && let Some(mut entry) = self.objects.remove(&gang.key)
        {
            let outcome = self.try_object(&mut entry, now, attempt);
            self.report(&mut entry, now, attempt);
            self.objects.insert(gang.key.clone(), entry);
            return outcome;
        }
        self.try_group(gang, order, now, attempt)
    }

    fn object_order(entry: &GangEntry) -> Order {
        Order { whole: !entry.half_bound, priority: Reverse(entry.priority), created: entry.facts.created }
    }

    fn pod_order(pod: &PodFacts) -> Order {
        Order { whole: true, priority: Reverse(pod.priority), created: pod.created }
    }

    /// Of its first member that waits.
    fn group_order(&self, group: &Group) -> Order {
        let first = group.waiting().next().and_then(|pod| self.cache.pod(pod));
        let priority = group.object.as_ref().and_then(|object| object.priority);
        Order {
            whole: !group.half_bound,
            priority: Reverse(priority.or(first.map(|pod| pod.priority)).unwrap_or(0)),
            created: first.map_or(Duration::ZERO, |pod| pod.created),
        }
    }

    fn queue_gang(&mut self, gang: &GangKey) {
        let work = Work::Gang(gang.clone());
        if gang.kind == GangKind::Object
            && let Some(entry) = self.objects.get(&gang.key)
        {
            self.queue.push(work, Self::object_order(entry));
            return;
        }
        match self.groups.get(gang) {
            Some(group) => {
                let order = self.group_order(group);
                self.queue.push(work, order);
            }
            None => self.queue.remove(&work),
        }
    }

    fn queue_pod(&mut self, key: &ObjectKey) {
        let work = Work::Pod(key.clone());
        match self.cache.pod(key) {
            Some(pod) if pod.waits() && pod.gang.is_none() => {
                if self.cache.assumed(key).is_none() {
                    self.queue.push(work, Self::pod_order(pod));
                }
            }
            _ => self.queue.remove(&work),
        }
    }

    fn queue_work(&mut self, work: &Work) {
        match work {
            Work::Gang(gang) => self.queue_gang(gang),
            Work::Pod(pod) => self.queue_pod(pod),
        }
    }

    /// Room became free.
    fn freed(&mut self) {
        self.queue.tick(Helps::ROOM);
    }

    fn expire(&mut self, now: Duration) -> Option<Attempt> {
        while let Some((at, _)) = self.expiries.first()
            && *at <= now
        {
            let (_, key) = self.expiries.pop_first()?;
            let Some(mut entry) = self.objects.remove(&key) else { continue };
            let expired = entry.hold.expire(now).then(|| {
                entry.message = format!("held for {} s and not followed by Run", self.settings.hold.as_secs());
                self.cache.release(&entry.work(), |_| true);
                self.freed();
                let mut attempt = Attempt::of(Outcome::Expired);
                self.report(&mut entry, now, &mut attempt);
                attempt
            });
            self.objects.insert(key, entry);
            if expired.is_some() {
                return expired;
            }
        }
        None
    }
}
