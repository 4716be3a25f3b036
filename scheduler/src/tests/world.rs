//! A Site in memory: the objects, the watch events that they cause, and what the scheduler has in flight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{GangPhase, GangStatus};
use atoll_core::scheduling::{
    Amounts, Identity, Mode, NodeState, Nodes, Occupant, POD_SLOT, RESOURCE_PODS, Shape, Stage,
};

use crate::cycle::{Action, Binding, Event, Nominate, ObjectKind, Outcome, Scheduler, Settings};
use crate::objects::{
    BudgetFacts, GangFacts, GangName, GangSpecFacts, Interner, MemberFacts, ObjectKey, PodFacts, PodGroupFacts,
    since_epoch,
};

pub(super) const GPU: &str = "nvidia.com/gpu";
pub(crate) const NS: &str = "ns";

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(NS, name)
}

pub(crate) fn gpus(count: i128) -> Amounts {
    [(GPU.to_owned(), count * 1000), (RESOURCE_PODS.to_owned(), POD_SLOT)].into_iter().collect()
}

pub(crate) fn node(name: &str, count: i128) -> NodeState {
    let mut allocatable = gpus(count);
    allocatable.set(RESOURCE_PODS, 110 * POD_SLOT);
    NodeState { name: name.to_owned(), allocatable, ..NodeState::default() }
}

pub(crate) fn pod_facts(name: &str) -> PodFacts {
    PodFacts {
        key: key(name),
        uid: Arc::from(name),
        created: Duration::ZERO,
        node: None,
        finished: false,
        ours: true,
        deleting: false,
        gated: false,
        gang: None,
        rank: None,
        priority: 0,
        preempts: true,
        nominated: None,
        started: None,
        duration: None,
        topology: Vec::new(),
        shape: Arc::default(),
        identity: Arc::new(Identity { namespace: NS.to_owned(), ..Identity::default() }),
        claims: Vec::new(),
        not_supported: None,
        unschedulable: None,
    }
}

/// Counts a pod of this shape on a node.
fn count(nodes: &mut Nodes, node: &str, shape: &Arc<Shape>) {
    nodes.put(node, Occupant { shape: Arc::clone(shape), identity: Arc::default(), stage: Stage::Bound });
}

/// The objects, and everything that is on its way between them and the scheduler.
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) nodes: BTreeMap<String, NodeState>,
    pub(super) pods: BTreeMap<ObjectKey, PodFacts>,
    pub(super) gangs: BTreeMap<ObjectKey, GangFacts>,
    pub(super) pod_groups: BTreeMap<ObjectKey, PodGroupFacts>,
    pub(super) budgets: BTreeMap<ObjectKey, BudgetFacts>,
    pub(super) interner: Arc<Interner>,
    /// Of the process that the next restart makes.
    pub(super) settings: Settings,
    pub(super) scheduler: Scheduler,
    /// What the scheduler has not heard yet.
    pub(super) inbox: VecDeque<Event>,
    /// What it said and nobody has done yet.
    pub(super) outbox: Vec<Action>,
    /// Events that were published: about what, and why.
    pub(super) told: Vec<(ObjectKind, ObjectKey, String)>,
    /// Conditions of pods that were written.
    pub(super) conditions: usize,
    /// Pods that were evicted and have not ended.
    pub(super) ending: Vec<ObjectKey>,
    /// Pods that are evicted end at once.
    pub(super) kubelets: bool,
    /// Gangs of labels that were whole since one of their pods was bound.
    pub(super) whole: BTreeSet<ObjectKey>,
    /// When the first of the pods of a gang of labels was bound, since none was.
    pub(super) begun: BTreeMap<ObjectKey, Duration>,
    uids: u64,
}

impl World {
    pub(super) fn new(nodes: &[(&str, i128)]) -> Self {
        let mut world = Self {
            now: Duration::from_secs(1_000_000),
            nodes: nodes.iter().map(|(name, count)| ((*name).to_owned(), node(name, *count))).collect(),
            pods: BTreeMap::new(),
            gangs: BTreeMap::new(),
            pod_groups: BTreeMap::new(),
            budgets: BTreeMap::new(),
            interner: Arc::default(),
            settings: Settings::default(),
            scheduler: Scheduler::new(Settings::default(), Arc::default()),
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            told: Vec::new(),
            conditions: 0,
            ending: Vec::new(),
            kubelets: true,
            whole: BTreeSet::new(),
            begun: BTreeMap::new(),
            uids: 0,
        };
        world.restart();
        world
    }

    /// kill -9 and a new process: everything in flight is lost, everything written stays.
    pub(super) fn restart(&mut self) {
        self.inbox.clear();
        self.outbox.clear();
        self.interner = Arc::default();
        self.scheduler = Scheduler::new(self.settings, Arc::clone(&self.interner));
        // Pods after gangs: the lists come in any order.
        let gangs = self.gangs.values().cloned().map(|gang| Event::Gang(Box::new(gang)));
        let groups = self.pod_groups.values().cloned().map(|group| Event::PodGroup(Box::new(group)));
        let budgets = self.budgets.values().cloned().map(|budget| Event::Budget(Box::new(budget)));
        let pods: Vec<Event> = self.pods.values().cloned().map(|pod| Event::Pod(Box::new(pod))).collect();
        let nodes = self.nodes.values().cloned().map(|node| Event::Node(Box::new(node)));
        for event in gangs.chain(groups).chain(budgets).chain(pods).chain(nodes).collect::<Vec<_>>() {
            self.scheduler.handle(event, self.now);
        }
        self.scheduler.start(self.now);
    }

    pub(super) fn uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    pub(super) fn set_node(&mut self, node: NodeState) {
        self.nodes.insert(node.name.clone(), node.clone());
        self.inbox.push_back(Event::Node(Box::new(node)));
    }

    pub(super) fn set_gang(&mut self, name: &str, mode: Mode, members: &[(&str, i128, Option<&str>)]) {
        let members: Vec<MemberFacts> = members
            .iter()
            .map(|(pod, count, node)| MemberFacts {
                pod: (*pod).to_owned(),
                shape: self.shape(*count),
                node: node.map(str::to_owned),
            })
            .collect();
        let facts = match self.gangs.get(&key(name)) {
            Some(old) => GangFacts {
                spec: GangSpecFacts {
                    generation: old.spec.generation + 1,
                    members: Ok(members),
                    mode,
                    ..old.spec.clone()
                },
                ..old.clone()
            },
            None => GangFacts {
                key: key(name),
                uid: self.uid(),
                created: self.now,
                deleting: false,
                spec: GangSpecFacts { generation: 1, mode, members: Ok(members), topology: Vec::new() },
                status: None,
            },
        };
        self.gangs.insert(facts.key.clone(), facts.clone());
        self.inbox.push_back(Event::Gang(Box::new(facts)));
    }

    pub(super) fn set_mode(&mut self, name: &str, mode: Mode) {
        let Some(facts) = self.gangs.get_mut(&key(name)) else { return };
        if facts.spec.mode != mode {
            facts.spec.mode = mode;
            facts.spec.generation += 1;
            self.inbox.push_back(Event::Gang(Box::new(facts.clone())));
        }
    }

    pub(super) fn delete_gang(&mut self, name: &str) {
        if self.gangs.remove(&key(name)).is_some() {
            self.inbox.push_back(Event::GangGone(key(name)));
        }
    }

    pub(super) fn create_pod(&mut self, name: &str, count: i128, gang: Option<&str>) {
        if self.pods.contains_key(&key(name)) {
            return;
        }
        let pod = self.pod(name, count);
        self.set_pod(PodFacts { gang: gang.map(|gang| GangName::Object(gang.to_owned())), ..pod });
    }

    /// A pod with so many GPUs that is created now.
    pub(super) fn pod(&mut self, name: &str, count: i128) -> PodFacts {
        PodFacts { uid: Arc::from(self.uid()), created: self.now, shape: self.shape(count), ..pod_facts(name) }
    }

    pub(super) fn shape(&self, count: i128) -> Arc<Shape> {
        self.interner.shape(Shape { requests: gpus(count), ..Shape::default() })
    }

    /// Members of a gang of labels, as a controller makes them: name-0 and so on.
    pub(super) fn create_members(&mut self, gang: &str, ranks: std::ops::Range<u32>, size: u32, min: u32, count: i128) {
        for rank in ranks {
            let name = format!("{gang}-{rank}");
            if !self.pods.contains_key(&key(&name)) {
                let pod = self.pod(&name, count);
                let gang = Some(GangName::Label { name: gang.to_owned(), size, min });
                self.set_pod(PodFacts { gang, rank: Some(rank), ..pod });
            }
        }
    }

    pub(super) fn set_pod_group(&mut self, name: &str, min: u32) {
        let facts = PodGroupFacts {
            key: key(name),
            uid: Arc::from(self.uid()),
            generation: 1,
            created: self.now,
            deleting: false,
            min,
            topology: Vec::new(),
            priority: None,
            preempts: true,
            whole: true,
            scheduled: None,
            not_supported: None,
        };
        self.pod_groups.insert(facts.key.clone(), facts.clone());
        self.inbox.push_back(Event::PodGroup(Box::new(facts)));
    }

    /// The pods of a gang that do not exist yet, as its agent makes them.
    pub(super) fn create_pods_of(&mut self, gang: &str) {
        let members = self.gangs.get(&key(gang)).and_then(|g| g.spec.members.clone().ok()).unwrap_or_default();
        for member in members {
            self.create_pod(&member.pod, member.shape.requests.get(GPU) / 1000, Some(gang));
        }
    }

    pub(super) fn set_pod(&mut self, pod: PodFacts) {
        self.pods.insert(pod.key.clone(), pod.clone());
        self.inbox.push_back(Event::Pod(Box::new(pod)));
    }

    pub(super) fn delete_pod(&mut self, name: &str) {
        if let Some(pod) = self.pods.remove(&key(name)) {
            self.inbox.push_back(Event::PodGone(key(name)));
            if let Some(gang) = pod.gang.filter(|gang| self.bound_of(gang.name()) == 0) {
                self.whole.remove(&key(gang.name()));
                self.begun.remove(&key(gang.name()));
            }
        }
    }

    pub(super) fn hear(&mut self) -> bool {
        let Some(event) = self.inbox.pop_front() else { return false };
        self.scheduler.handle(event, self.now);
        true
    }

    pub(super) fn turn(&mut self) -> Option<Outcome> {
        let attempt = self.scheduler.attempt(self.now)?;
        // What was to be said about a pod is dropped when it is bound.
        for action in &attempt.actions {
            if let Action::Bind(Binding { pod: bound, .. }) = action {
                self.outbox.retain(|a| !matches!(a, Action::Unschedulable { pod, .. } if pod == bound));
            }
        }
        self.outbox.extend(attempt.actions);
        Some(attempt.outcome)
    }

    /// Does one thing that the scheduler said. `refuse`: a binding is refused instead.
    pub(super) fn act(&mut self, index: usize, refuse: bool) {
        // The writer keeps the order of what it writes to one object.
        let index = match &self.outbox[index] {
            Action::GangStatus { gang: this, .. } => {
                self.outbox.iter().position(|a| matches!(a, Action::GangStatus { gang, .. } if gang == this))
            }
            Action::Unschedulable { pod: this, .. } => {
                self.outbox.iter().position(|a| matches!(a, Action::Unschedulable { pod, .. } if pod == this))
            }
            Action::Bind(_) | Action::Tell { .. } | Action::Evict { .. } | Action::PodGroupStatus { .. } => None,
        }
        .unwrap_or(index);
        match self.outbox.remove(index) {
            Action::Bind(binding) => {
                let event = if !refuse && self.bind(&binding) {
                    Event::Bound(binding)
                } else {
                    Event::NotBound { binding, retry_after: Duration::from_secs(1) }
                };
                self.inbox.push_back(event);
            }
            Action::GangStatus { gang, uid, status } => {
                if let Some(facts) = self.gangs.get_mut(&gang).filter(|facts| *facts.uid == *uid) {
                    facts.status = Some(status);
                    self.inbox.push_back(Event::Gang(Box::new(facts.clone())));
                }
            }
            Action::Tell { on, reason, .. } => self.told.push((on.kind, on.key, reason)),
            Action::PodGroupStatus { group, uid, scheduled, .. } => {
                if let Some(facts) = self.pod_groups.get_mut(&group).filter(|facts| facts.uid == uid) {
                    facts.scheduled = Some(scheduled);
                    self.inbox.push_back(Event::PodGroup(Box::new(facts.clone())));
                }
            }
            Action::Evict { pod, uid, .. } => self.evict(pod, uid, refuse),
            Action::Unschedulable { pod, uid, message, event, nominate, .. } => {
                self.conditions += 1;
                if event {
                    self.told.push((ObjectKind::Pod, pod.clone(), "FailedScheduling".to_owned()));
                }
                if let Some(facts) = self.pods.get_mut(&pod).filter(|facts| facts.uid == uid) {
                    facts.unschedulable = Some(message.to_string());
                    match nominate {
                        Nominate::Leave => {}
                        Nominate::Clear => facts.nominated = None,
                        Nominate::Node(node) => facts.nominated = Some(node.to_string()),
                    }
                    self.inbox.push_back(Event::Pod(Box::new(facts.clone())));
                }
            }
        }
    }

    fn evict(&mut self, pod: ObjectKey, uid: Arc<str>, refuse: bool) {
        if refuse {
            self.inbox.push_back(Event::NotEvicted { pod, uid, why: "no".to_owned() });
            return;
        }
        if let Some(facts) = self.pods.get(&pod).filter(|facts| facts.uid == uid).cloned() {
            self.ending.push(pod.clone());
            self.set_pod(PodFacts { deleting: true, ..facts });
        }
        self.inbox.push_back(Event::Evicted { pod, uid });
    }

    /// A pod that is evicted ends.
    pub(super) fn end_one(&mut self) -> bool {
        let Some(pod) = self.ending.pop() else { return false };
        if self.pods.get(&pod).is_some_and(|facts| facts.deleting) {
            self.delete_pod(&pod.name);
        }
        true
    }

    /// As the API server does it; it knows nothing of capacity, so that is judged here.
    fn bind(&mut self, binding: &Binding) -> bool {
        let Some(pod) = self.pods.get(&binding.pod) else { return false };
        if pod.uid != binding.uid || pod.node.is_some() || pod.deleting {
            return false;
        }
        let mut used = self.counted();
        count(&mut used, &binding.node, &pod.shape);
        for (gang, facts) in &self.gangs {
            if Some(gang) != binding.gang.as_ref().map(|gang| &gang.key) {
                self.count_hold(facts, &mut used);
            }
        }
        let node = self.nodes.get(&*binding.node).expect("bound to a node that exists");
        let used = used.used(&binding.node);
        assert!(
            used.iter().all(|(resource, milli)| milli <= node.allocatable.get(resource)),
            "{binding:?} puts {used} on {node:?}"
        );
        let mut pod = pod.clone();
        pod.node = Some(binding.node.clone());
        pod.unschedulable = None;
        pod.nominated = None;
        pod.started = Some(self.now);
        self.set_pod(pod.clone());
        if let Some(GangName::Label { name, min, .. }) = &pod.gang {
            self.begun.entry(key(name)).or_insert(self.now);
            if self.bound_of(name) >= usize::try_from(*min).unwrap() {
                self.whole.insert(key(name));
            }
        }
        true
    }

    /// What a status promises to a gang counts until it ends.
    fn count_hold(&self, facts: &GangFacts, used: &mut Nodes) {
        let Some(status) = &facts.status else { return };
        let until = status.hold_until.as_ref().map(|t| since_epoch(&t.0)).unwrap_or_default();
        let answers = status.observed_generation == Some(facts.spec.generation);
        if status.phase != Some(GangPhase::Reserved) || until <= self.now || !answers {
            return;
        }
        for place in &status.nodes {
            let bound = self.pods.get(&key(&place.pod)).is_some_and(|pod| pod.node.is_some());
            let member = facts.spec.members.iter().flatten().find(|member| member.pod == place.pod);
            if let Some(member) = member.filter(|_| !bound) {
                count(used, &place.node, &member.shape);
            }
        }
    }

    /// The nodes with what is bound on them.
    pub(super) fn counted(&self) -> Nodes {
        let mut nodes = Nodes::default();
        for node in self.nodes.values() {
            nodes.set(node.clone());
        }
        for pod in self.pods.values() {
            if let Some(node) = pod.occupies() {
                count(&mut nodes, node, &pod.shape);
            }
        }
        nodes
    }

    /// Until there is nothing to do at this moment.
    pub(super) fn settle_now(&mut self) {
        for _ in 0..100_000 {
            if self.hear() {
                continue;
            }
            if !self.outbox.is_empty() {
                self.act(0, false);
            } else if self.turn().is_none() && !(self.kubelets && self.end_one()) {
                return;
            }
        }
        panic!("the scheduler does not come to rest");
    }

    /// Until there is nothing to do ever, unless something happens.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            self.settle_now();
            match self.scheduler.next_due() {
                Some(due) => self.now = self.now.max(due),
                None => return,
            }
        }
        panic!("the scheduler waits for times without end");
    }

    pub(super) fn status(&self, gang: &str) -> GangStatus {
        self.gangs.get(&key(gang)).and_then(|facts| facts.status.clone()).unwrap_or_default()
    }

    /// Refusals of Gang objects that were published.
    pub(super) fn refusals(&self) -> usize {
        self.told.iter().filter(|(kind, ..)| *kind == ObjectKind::Gang).count()
    }

    /// How many pods of the gang are bound.
    pub(super) fn bound_of(&self, gang: &str) -> usize {
        let of = |pod: &&PodFacts| pod.gang.as_ref().is_some_and(|name| name.name() == gang);
        self.pods.values().filter(of).filter(|pod| pod.node.is_some()).count()
    }

    pub(super) fn why(&self, pod: &str) -> &str {
        self.pods[&key(pod)].unschedulable.as_deref().unwrap_or_default()
    }

    pub(super) fn phase(&self, gang: &str) -> Option<GangPhase> {
        self.status(gang).phase
    }

    pub(super) fn node_of(&self, pod: &str) -> Option<&str> {
        self.pods.get(&key(pod)).and_then(|pod| pod.node.as_deref())
    }

    pub(super) fn nodes_of(&self, gang: &str) -> Vec<String> {
        self.status(gang).nodes.into_iter().map(|place| place.node).collect()
    }
}
