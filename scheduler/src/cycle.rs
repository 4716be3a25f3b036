//! The cycle: events in, actions out, one gang or pod decided at a time.
//!
//! A plain state machine without a client or a clock. Whoever runs it hands in every event of the watches and every
//! outcome of a binding, and carries out the [`Action`]s.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{GangPhase, GangStatus};
use atoll_core::gang::{GangRequest, MemberRequest, Mode, NodeState, RefusedFor, Shape, decide};

use crate::cache::Cache;
use crate::gang::{GangEntry, MemberState, StatusChange};
use crate::objects::{GangFacts, MemberFacts, ObjectKey, PodFacts};
use crate::queue::{Order, Queue, Work};

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a hold lasts that is not followed by Run.
    pub hold: Duration,
    /// How long the rest of a half-bound gang is tried before the gang is refused.
    pub patience: Duration,
    /// How often the words of a pod's condition may change.
    pub reword: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { hold: Duration::from_secs(15), patience: Duration::from_secs(10), reword: Duration::from_secs(10) }
    }
}

/// What the scheduler hears.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node was added or changed.
    Node(NodeState),
    /// A node is gone.
    NodeGone(String),
    /// A pod was added or changed.
    Pod(PodFacts),
    /// A pod is gone.
    PodGone(ObjectKey),
    /// A gang was added or changed.
    Gang(GangFacts),
    /// A gang is gone.
    GangGone(ObjectKey),
    /// The API server took a binding.
    Bound(Binding),
    /// The API server refused a binding for good; nothing is tried for the pod before `retry_after`.
    NotBound {
        /// The binding.
        binding: Binding,
        /// How long to wait.
        retry_after: Duration,
    },
}

/// One pod and its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The pod.
    pub pod: ObjectKey,
    /// Its UID: no other pod of this name is bound by mistake.
    pub uid: String,
    /// The node.
    pub node: String,
    /// The pod's gang.
    pub gang: Option<ObjectKey>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Bind a pod; the outcome comes back as an [`Event`].
    Bind(Binding),
    /// Write a gang's status.
    GangStatus {
        /// The gang.
        gang: ObjectKey,
        /// Its UID.
        uid: String,
        /// The whole status.
        status: GangStatus,
    },
    /// Tell a gang's owner by an event that it is refused.
    GangRefused {
        /// The gang.
        gang: ObjectKey,
        /// Its UID.
        uid: String,
        /// Reason.
        reason: String,
        /// In words.
        message: String,
    },
    /// Set a pod's `PodScheduled` condition to False; `first` when it was not so before.
    Unschedulable {
        /// The pod.
        pod: ObjectKey,
        /// Its UID.
        uid: String,
        /// In words.
        message: String,
        /// Whether an event is due as well.
        first: bool,
    },
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to decide.
    Nothing,
    /// Room is held.
    Held,
    /// Bindings are on their way.
    Binding,
    /// All members are bound.
    Bound,
    /// It does not fit or is not supported.
    Refused,
    /// A hold ended.
    Expired,
}

/// One turn of the cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// How it ended.
    pub outcome: Outcome,
    /// What is to be done.
    pub actions: Vec<Action>,
}

impl Attempt {
    fn of(outcome: Outcome) -> Self {
        Self { outcome, actions: Vec::new() }
    }
}

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
        self.gangs.insert(key.clone(), entry);
        self.queue_gang(&key);
    }

    fn gang_gone(&mut self, key: &ObjectKey) {
        self.gangs.remove(key);
        self.queue.remove(&Work::Gang(key.clone()));
        if !self.cache.release(key, |_| true).is_empty() {
            self.queue.wake();
        }
    }

    fn bound(&mut self, binding: &Binding) {
        let Some(key) = &binding.gang else { return };
        let Some(entry) = self.gangs.get_mut(key) else { return };
        entry.binding.remove(&binding.pod.name);
        entry.note_bound(&binding.pod.name, &binding.node);
        if entry.binding.is_empty() {
            self.queue_gang(key);
        }
    }

    fn not_bound(&mut self, binding: &Binding, until: Duration) {
        if self.cache.forget(&binding.pod, &binding.uid) {
            self.queue.wake();
        }
        match &binding.gang {
            Some(key) => {
                if let Some(entry) = self.gangs.get_mut(key) {
                    entry.binding.remove(&binding.pod.name);
                    self.queue.delay(Work::Gang(key.clone()), Self::order(entry), until);
                }
            }
            None => {
                if let Some(pod) = self.cache.pod(&binding.pod).filter(|pod| pod.waits()) {
                    self.queue.delay(Work::Pod(binding.pod.clone()), pod_order(pod), until);
                }
            }
        }
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

    fn try_gang(&mut self, key: &ObjectKey, now: Duration) -> Attempt {
        let mut attempt = Attempt::of(Outcome::Nothing);
        attempt.outcome = self.decide_gang(key, now, &mut attempt.actions);
        self.report(key, now, &mut attempt);
        attempt
    }

    fn decide_gang(&mut self, key: &ObjectKey, now: Duration, actions: &mut Vec<Action>) -> Outcome {
        let Self { settings, cache, queue, gangs, expiries, .. } = self;
        let Some(entry) = gangs.get_mut(key) else { return Outcome::Nothing };
        let states = entry.look(cache);
        if let Some(why) = not_supported(entry, &states) {
            if !cache.release(key, |_| true).is_empty() {
                queue.wake();
            }
            entry.message = why;
            entry.hold.refuse(RefusedFor::NotSupported);
            return Outcome::Refused;
        }
        let members = entry.members();
        let open: Vec<Open<'_>> = members.iter().zip(&states).filter_map(|(m, s)| Open::of(m, s)).collect();
        drop_other_holds(key, members, &open, cache, queue);
        if open.is_empty() {
            if states.iter().any(|state| matches!(state, MemberState::Binding)) {
                return Outcome::Nothing;
            }
            entry.half_bound = false;
            entry.stuck_since = None;
            entry.hold.all_bound();
            return Outcome::Bound;
        }
        if !entry.hold.wants_decision() {
            return Outcome::Nothing;
        }
        if let Err(message) = hold_all(key, &open, cache, queue) {
            let order = Self::order(entry);
            let work = Work::Gang(key.clone());
            if entry.half_bound {
                let give_up = *entry.stuck_since.get_or_insert(now) + settings.patience;
                if now < give_up {
                    queue.park(work, order, Some(give_up));
                    return Outcome::Nothing;
                }
            }
            let (all, left) = (members.len(), open.len());
            entry.message =
                if entry.half_bound { format!("{} of {all} members are bound; {message}", all - left) } else { message };
            entry.hold.refuse(RefusedFor::InsufficientCapacity);
            if entry.hold.wants_decision() {
                queue.park(work, order, None);
            }
            return Outcome::Refused;
        }
        let ready = entry.hold.mode() == Mode::Run && open.iter().all(|open| open.pod.is_some());
        let pods: Vec<Arc<PodFacts>> = open.iter().filter_map(|open| open.pod.cloned()).collect();
        entry.hold.fits(now, settings.hold);
        entry.stuck_since = None;
        if let Some(at) = entry.hold.expires_at() {
            expiries.insert((at, key.clone()));
        }
        if !ready {
            return Outcome::Held;
        }
        entry.half_bound = true;
        let mut holds = cache.release(key, |_| true);
        for pod in pods {
            let Some(claim) = holds.remove(&pod.key.name) else { continue };
            cache.assume(&pod, &claim.node);
            entry.binding.insert(pod.key.name.clone());
            let gang = Some(key.clone());
            let (pod, uid) = (pod.key.clone(), pod.uid.clone());
            actions.push(Action::Bind(Binding { pod, uid, node: claim.node, gang }));
        }
        Outcome::Binding
    }

    /// Says where a gang stands, if that is news.
    fn report(&mut self, key: &ObjectKey, now: Duration, attempt: &mut Attempt) {
        let Some(entry) = self.gangs.get_mut(key) else { return };
        match entry.status(&self.cache, now) {
            StatusChange::None => {}
            StatusChange::Later(at) => self.queue.park(Work::Gang(key.clone()), Self::order(entry), Some(at)),
            StatusChange::Write { status, news } => {
                let uid = entry.facts.uid.clone();
                if news && status.phase == Some(GangPhase::Refused) {
                    attempt.actions.push(Action::GangRefused {
                        gang: key.clone(),
                        uid: uid.clone(),
                        reason: status.reason.clone().unwrap_or_default(),
                        message: status.message.clone().unwrap_or_default(),
                    });
                }
                attempt.actions.push(Action::GangStatus { gang: key.clone(), uid, status });
            }
        }
    }

    fn try_pod(&mut self, key: &ObjectKey, now: Duration) -> Attempt {
        let Some(pod) = self.cache.pod(key).cloned() else { return Attempt::of(Outcome::Nothing) };
        if !pod.waits() || pod.gang.is_some() || self.cache.assumed(key).is_some() {
            return Attempt::of(Outcome::Nothing);
        }
        let decided = match &pod.not_supported {
            Some(why) => Err(why.to_string()),
            None => {
                let member = MemberRequest { pod: key.name.clone(), shape: Arc::clone(&pod.shape), node: None };
                decide(self.cache.nodes(), &GangRequest { members: vec![member] }).map_err(|why| why.to_string())
            }
        };
        let message = match decided {
            Ok(assignment) => {
                let mut attempt = Attempt::of(Outcome::Binding);
                for node in assignment.nodes {
                    self.cache.assume(&pod, &node);
                    let binding = Binding { pod: key.clone(), uid: pod.uid.clone(), node, gang: None };
                    attempt.actions.push(Action::Bind(binding));
                }
                return attempt;
            }
            Err(message) => message,
        };
        let mut attempt = Attempt::of(Outcome::Refused);
        let mut until = None;
        if pod.unschedulable.as_ref() != Some(&message) {
            let next = self.told.get(key).map(|told| *told + self.settings.reword).filter(|next| *next > now);
            if next.is_none() {
                self.told.insert(key.clone(), now);
                let first = pod.unschedulable.is_none();
                let (pod, uid) = (key.clone(), pod.uid.clone());
                attempt.actions.push(Action::Unschedulable { pod, uid, message, first });
            }
            until = next;
        }
        self.queue.park(Work::Pod(key.clone()), pod_order(&pod), until);
        attempt
    }
}

fn pod_order(pod: &PodFacts) -> Order {
    Order { whole: true, priority: Reverse(pod.priority), created: pod.created }
}

/// A member that has no node yet.
struct Open<'a> {
    member: &'a MemberFacts,
    /// Its pod, when that can be bound.
    pod: Option<&'a Arc<PodFacts>>,
}

impl<'a> Open<'a> {
    fn of(member: &'a MemberFacts, state: &'a MemberState) -> Option<Self> {
        match state {
            MemberState::Absent => Some(Self { member, pod: None }),
            MemberState::Waiting(pod) => Some(Self { member, pod: Some(pod) }),
            MemberState::Binding | MemberState::Bound => None,
        }
    }

    /// The pod knows better than the gang what it asks for.
    fn shape(&self) -> &'a Arc<Shape> {
        self.pod.map_or(&self.member.shape, |pod| &pod.shape)
    }
}

fn not_supported(entry: &GangEntry, states: &[MemberState]) -> Option<String> {
    if let Err(why) = &entry.facts.spec.members {
        return Some(why.to_string());
    }
    states.iter().find_map(|state| match state {
        MemberState::Waiting(pod) => pod.not_supported.as_ref().map(|why| format!("pod {}: {why}", pod.key.name)),
        _ => None,
    })
}

/// Gives back what is held for members that are bound by now, or left the gang.
fn drop_other_holds(key: &ObjectKey, members: &[MemberFacts], open: &[Open<'_>], cache: &mut Cache, queue: &mut Queue) {
    if cache.holds(key).next().is_none() {
        return;
    }
    let wanted: BTreeSet<&str> = open.iter().map(|open| open.member.pod.as_str()).collect();
    let dropped = cache.release(key, |pod| !wanted.contains(pod));
    let members: BTreeSet<&str> = members.iter().map(|member| member.pod.as_str()).collect();
    if dropped.keys().any(|pod| !members.contains(pod.as_str())) {
        queue.wake();
    }
}

/// Holds room for all of these members, on the nodes where it is held already as far as they still do; or for none.
fn hold_all(key: &ObjectKey, open: &[Open<'_>], cache: &mut Cache, queue: &mut Queue) -> Result<(), String> {
    let stands = open.iter().all(|open| {
        cache.held(key, &open.member.pod).is_some_and(|claim| {
            claim.requests == open.shape().requests && cache.nodes().still_suits(&claim.node, open.shape())
        })
    });
    if stands {
        return Ok(());
    }
    let old = cache.release(key, |_| true);
    let members = open.iter().map(|open| MemberRequest {
        pod: open.member.pod.clone(),
        shape: Arc::clone(open.shape()),
        node: old.get(&open.member.pod).map(|claim| claim.node.clone()).or_else(|| open.member.node.clone()),
    });
    let decided = decide(cache.nodes(), &GangRequest { members: members.collect() });
    if !old.is_empty() {
        // Held room moved or became free.
        queue.wake();
    }
    let assignment = decided.map_err(|why| why.to_string())?;
    for (open, node) in open.iter().zip(&assignment.nodes) {
        cache.hold(key, &open.member.pod, node, open.shape());
    }
    Ok(())
}
