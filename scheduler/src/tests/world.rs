//! A Site in memory: the objects, the watch events that they cause, and what the scheduler has in flight.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{GangPhase, GangStatus};
use atoll_core::gang::{Amounts, Mode, NodeState, Nodes, POD_SLOT, RESOURCE_PODS, Shape};

use crate::cycle::{Action, Binding, Event, Outcome, Scheduler, Settings};
use crate::objects::{GangFacts, GangSpecFacts, MemberFacts, ObjectKey, PodFacts, since_epoch};

pub(super) const GPU: &str = "nvidia.com/gpu";
pub(super) const NS: &str = "ns";

pub(super) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(NS, name)
}

pub(super) fn gpus(count: i128) -> Amounts {
    [(GPU.to_owned(), count * 1000), (RESOURCE_PODS.to_owned(), POD_SLOT)].into_iter().collect()
}

pub(super) fn node(name: &str, count: i128) -> NodeState {
    let mut allocatable = gpus(count);
    allocatable.set(RESOURCE_PODS, 110 * POD_SLOT);
    NodeState { name: name.to_owned(), allocatable, ready: true, ..NodeState::default() }
}

/// The objects, and everything that is on its way between them and the scheduler.
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) nodes: BTreeMap<String, NodeState>,
    pub(super) pods: BTreeMap<ObjectKey, PodFacts>,
    pub(super) gangs: BTreeMap<ObjectKey, GangFacts>,
    pub(super) scheduler: Scheduler,
    /// What the scheduler has not heard yet.
    pub(super) inbox: VecDeque<Event>,
    /// What it said and nobody has done yet.
    pub(super) outbox: Vec<Action>,
    pub(super) refusals: Vec<(ObjectKey, String)>,
    uids: u64,
}

impl World {
    pub(super) fn new(nodes: &[(&str, i128)]) -> Self {
        let mut world = Self {
            now: Duration::from_secs(1_000_000),
            nodes: nodes.iter().map(|(name, count)| ((*name).to_owned(), node(name, *count))).collect(),
            pods: BTreeMap::new(),
            gangs: BTreeMap::new(),
            scheduler: Scheduler::new(Settings::default()),
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            refusals: Vec::new(),
            uids: 0,
        };
        world.restart();
        world
    }

    /// kill -9 and a new process: everything in flight is lost, everything written stays.
    pub(super) fn restart(&mut self) {
        self.inbox.clear();
        self.outbox.clear();
        self.scheduler = Scheduler::new(Settings::default());
        // Pods after gangs: the lists come in any order.
        let gangs = self.gangs.values().cloned().map(Event::Gang);
        let pods = self.pods.values().cloned().map(Event::Pod);
        let nodes = self.nodes.values().cloned().map(Event::Node);
        for event in gangs.chain(pods).chain(nodes).collect::<Vec<_>>() {
            self.scheduler.handle(event, self.now);
        }
        self.scheduler.start(self.now);
    }

    fn uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    pub(super) fn set_node(&mut self, node: NodeState) {
        self.nodes.insert(node.name.clone(), node.clone());
        self.inbox.push_back(Event::Node(node));
    }

    pub(super) fn set_gang(&mut self, name: &str, mode: Mode, members: &[(&str, i128, Option<&str>)]) {
        let members: Vec<MemberFacts> = members
            .iter()
            .map(|(pod, count, node)| MemberFacts {
                pod: (*pod).to_owned(),
                shape: Arc::new(Shape { requests: gpus(*count), ..Shape::default() }),
                node: node.map(str::to_owned),
            })
            .collect();
        let facts = match self.gangs.get(&key(name)) {
            Some(old) => GangFacts {
                spec: GangSpecFacts { generation: old.spec.generation + 1, mode, members: Ok(members) },
                ..old.clone()
            },
            None => GangFacts {
                key: key(name),
                uid: self.uid(),
                created: self.now,
                deleting: false,
                spec: GangSpecFacts { generation: 1, mode, members: Ok(members) },
                status: None,
            },
        };
        self.gangs.insert(facts.key.clone(), facts.clone());
        self.inbox.push_back(Event::Gang(facts));
    }

    pub(super) fn set_mode(&mut self, name: &str, mode: Mode) {
        let Some(facts) = self.gangs.get_mut(&key(name)) else { return };
        if facts.spec.mode != mode {
            facts.spec.mode = mode;
            facts.spec.generation += 1;
            self.inbox.push_back(Event::Gang(facts.clone()));
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
        let pod = PodFacts {
            key: key(name),
            uid: self.uid(),
            created: self.now,
            node: None,
            finished: false,
            ours: true,
            deleting: false,
            gated: false,
            gang: gang.map(str::to_owned),
            priority: 0,
            shape: Arc::new(Shape { requests: gpus(count), ..Shape::default() }),
            not_supported: None,
            unschedulable: None,
        };
        self.set_pod(pod);
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
        self.inbox.push_back(Event::Pod(pod));
    }

    pub(super) fn delete_pod(&mut self, name: &str) {
        if self.pods.remove(&key(name)).is_some() {
            self.inbox.push_back(Event::PodGone(key(name)));
        }
    }

    pub(super) fn hear(&mut self) -> bool {
        let Some(event) = self.inbox.pop_front() else { return false };
        self.scheduler.handle(event, self.now);
        true
    }

    pub(super) fn turn(&mut self) -> Option<Outcome> {
        let attempt = self.scheduler.attempt(self.now)?;
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
            Action::Bind(_) | Action::GangRefused { .. } => None,
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
                if let Some(facts) = self.gangs.get_mut(&gang).filter(|facts| facts.uid == uid) {
                    facts.status = Some(status);
                    self.inbox.push_back(Event::Gang(facts.clone()));
                }
            }
            Action::GangRefused { gang, reason, .. } => self.refusals.push((gang, reason)),
            Action::Unschedulable { pod, uid, message, .. } => {
                if let Some(facts) = self.pods.get_mut(&pod).filter(|facts| facts.uid == uid) {
                    facts.unschedulable = Some(message);
                    self.inbox.push_back(Event::Pod(facts.clone()));
                }
            }
        }
    }

    /// As the API server does it; it knows nothing of capacity, so that is judged here.
    fn bind(&mut self, binding: &Binding) -> bool {
        let Some(pod) = self.pods.get(&binding.pod) else { return false };
        if pod.uid != binding.uid || pod.node.is_some() || pod.deleting {
            return false;
        }
        let mut used = self.counted();
        used.take(&binding.node, &pod.shape.requests);
        for (gang, facts) in &self.gangs {
            if Some(gang) != binding.gang.as_ref() {
                self.count_hold(facts, &mut used);
            }
        }
        let node = self.nodes.get(&binding.node).expect("bound to a node that exists");
        let used = used.used(&binding.node);
        assert!(
            used.iter().all(|(resource, milli)| milli <= node.allocatable.get(resource)),
            "{binding:?} puts {used} on {node:?}"
        );
        let mut pod = pod.clone();
        pod.node = Some(binding.node.clone());
        pod.unschedulable = None;
        self.set_pod(pod);
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
                used.take(&place.node, &member.shape.requests);
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
                nodes.take(node, &pod.shape.requests);
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
            } else if self.turn().is_none() {
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
