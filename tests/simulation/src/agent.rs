//! An agent: keeps a session, hears the hub, has members started and stopped by `core::member`'s plans.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use atoll_core::cluster::Phase as SlicePhase;
use atoll_core::lease::{self, State, Times};
use atoll_core::member::{
    self, Action, Around, Gang, Member, Mode, Namespace, Orphan, Phase, Placed, Pod, Report, Slice, Stopped, Wanted,
    Wish,
};
use atoll_core::nodes::{Nodes, Running};
use atoll_core::session::Heartbeats;
use atoll_core::watchdog::Answer;

use crate::gateway::{Hello, ToAgent, ToGateway};
use crate::hub::{Key, Spec, Wants};
use crate::operator::{node_name, number};
use crate::rule::Rule;
use crate::site::{PodObject, SiteChange};
use crate::world::{ApiError, Link, Proc, Time, Way, World};

#[derive(Debug, Default)]
struct Entry {
    slice: Slice,
    spec: Option<Rc<Spec>>,
    told: Option<Report>,
    gang_version: u64,
    /// Whose creation was asked for, and that were not seen yet.
    attempted: BTreeSet<Member>,
    busy: bool,
    waiting: bool,
}

#[derive(Debug)]
struct Stream {
    id: u64,
    gateway: usize,
    live: bool,
}

/// An agent's memory.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Agent {
    listed: bool,
    /// When the heartbeat was sent that the newest grant answers; the start before that.
    granted: Duration,
    had_grant: bool,
    heartbeats: Heartbeats,
    stream: Option<Stream>,
    interval: Duration,
    last_grant: Duration,
    tries: u32,
    entries: BTreeMap<Key, Entry>,
    synced: bool,
    strangers: BTreeSet<(Key, Member)>,
    nodes: Nodes,
    /// Nodes whose word was not compared with the Site's pods yet.
    unread: BTreeSet<usize>,
    begun: bool,
    was_synced: bool,
    /// Members that run on a node and belong to no slice here.
    strays: BTreeMap<usize, BTreeSet<(String, Member)>>,
    deciding: bool,
    ready: Vec<bool>,
    /// Nodes that are not Ready, and since when.
    lost: BTreeMap<usize, Duration>,
    streams: u64,
    /// Heartbeats so far: only the newest one's timer sends the next.
    beats: u64,
    /// What the supplier wants; outlives the process.
    pub wants: Wants,
}

/// How often an agent looks at its lease: a machine that slept finds out soon after it woke up.
const LONGEST_SLEEP: Time = 5_000;

/// A Cluster's times as agents and watchdogs know them.
#[must_use]
pub fn times_of(times: (u64, u64, u64), autonomous: bool) -> Times {
    if autonomous { Times::Never } else { Times::from_seconds(times.0, times.1) }
}

fn wanted(spec: &Spec, generation: i64) -> Wanted {
    let placed = |m: &atoll_core::cluster::SliceMember| Placed {
        member: Member { rank: m.rank, incarnation: m.incarnation },
        node: m.node.clone(),
    };
    Wanted {
        epoch: spec.epoch,
        generation,
        mode: if spec.phase == SlicePhase::Reserve { Mode::Hold } else { Mode::Run },
        members: spec.members.iter().map(placed).collect(),
        times: times_of(spec.times, spec.autonomous),
        refusal: None,
    }
}

fn times(slice: &Slice) -> Times {
    slice.times().unwrap_or_else(|| Times::from_seconds(60, 90))
}

fn uid_of(cluster: usize) -> String {
    format!("c{cluster}")
}

impl World {
    /// An agent starts.
    pub fn start_agent(&mut self, s: usize) {
        let proc = Proc::Agent(s);
        self.set_up(proc, true);
        let now = self.boot(proc);
        let (wants, streams) = (self.agents[s].wants, self.agents[s].streams + 1_000);
        self.agents[s] = Agent { granted: now, wants, streams, ready: vec![true; 2], ..Agent::default() };
        self.trace(|| format!("agent {s} starts"));
        self.list_agent(s);
        self.wake_agent(s);
    }

    fn wake_agent(&mut self, s: usize) {
        self.after(Proc::Agent(s), LONGEST_SLEEP, move |world| {
            world.decide_agent(s);
            world.wake_agent(s);
        });
    }

    fn list_agent(&mut self, s: usize) {
        let list = move |world: &mut World| Some(Ok(world.list_site(s)));
        self.call(Proc::Agent(s), Link::AgentApi(s), list, move |world, result| match result {
            Ok(changes) => {
                world.agents[s].listed = true;
                for change in changes {
                    world.observe(s, change);
                }
                world.decide_agent(s);
                world.connect(s);
            }
            Err(_) => world.after(Proc::Agent(s), 1_000, move |world| world.list_agent(s)),
        });
    }

    /// A watch of the Site's API shows something.
    pub fn agent_sees(&mut self, s: usize, change: SiteChange) {
        if self.agents[s].listed {
            self.observe(s, change);
            self.decide_soon(s);
        }
    }

    fn observe(&mut self, s: usize, change: SiteChange) {
        let now = self.boot(Proc::Agent(s));
        let orphans = self.holds(Rule::NodesOwnLease) && self.setup.sites[s].watchdog;
        let agent = &mut self.agents[s];
        match change {
            SiteChange::Gang(key, version, gang) => {
                if gang.is_none() && !agent.entries.contains_key(&key) {
                    return;
                }
                let entry = agent.entries.entry(key).or_default();
                if version >= entry.gang_version {
                    entry.gang_version = version;
                    entry.slice.gang = gang;
                }
            }
            SiteChange::Pod(key, member, pod) => {
                if pod.is_none() && !agent.entries.contains_key(&key) {
                    return;
                }
                let entry = agent.entries.entry(key).or_default();
                entry.attempted.remove(&member);
                let slice = &mut entry.slice;
                slice.started.insert(member);
                let before = slice.pods.remove(&member);
                if let Some(pod) = pod {
                    let mut pod = view(&pod);
                    if let Some(before) = before.filter(|before| before.phase.is_over()) {
                        pod.phase = before.phase;
                        pod.reason = before.reason;
                        pod.abandoned = before.abandoned;
                    }
                    if pod.phase.is_over() {
                        agent.strangers.remove(&(key, member));
                    }
                    slice.orphans.remove(&member);
                    slice.pods.insert(member, pod);
                    return;
                }
                match before {
                    Some(before) if before.phase.is_over() => {
                        slice.ended.insert(member, before);
                        agent.strangers.remove(&(key, member));
                    }
                    before => {
                        let node = before.and_then(|pod| pod.node).filter(|_| orphans);
                        if !node.is_some_and(|node| agent.orphan(key, member, node, now)) {
                            agent.strangers.remove(&(key, member));
                        }
                    }
                }
            }
            SiteChange::Ready(ready) => {
                for (node, ready) in ready.iter().enumerate() {
                    if *ready {
                        agent.lost.remove(&node);
                    } else {
                        agent.lost.entry(node).or_insert(now);
                    }
                }
                if agent.ready != ready {
                    agent.ready.clone_from(&ready);
                    let wants = agent.wants;
                    self.tell_gateway(s, ToGateway::Inventory(wants, ready));
                }
            }
        }
    }

    /// The supplier wants something else.
    pub fn supplier_wants(&mut self, s: usize, wants: Wants) {
        self.agents[s].wants = wants;
        let ready = self.agents[s].ready.clone();
        if self.life(Proc::Agent(s)).up {
            self.tell_gateway(s, ToGateway::Inventory(wants, ready));
        }
    }

    fn tell_gateway(&mut self, s: usize, message: ToGateway) {
        let Some(stream) = self.agents[s].stream.as_ref().filter(|stream| stream.live) else { return };
        let (id, g) = (stream.id, stream.gateway);
        self.tell(Link::AgentGateway(s, g), Way::Up, Proc::Gateway(g), true, move |world| {
            world.gateway_hears(g, s, id, message);
        });
    }

    fn connect(&mut self, s: usize) {
        let proc = Proc::Agent(s);
        if self.agents[s].stream.is_some() {
            return;
        }
        let g = self.rng.index(2);
        let now = self.boot(proc);
        let agent = &mut self.agents[s];
        agent.synced = false;
        for entry in agent.entries.values_mut() {
            entry.told = None;
        }
        agent.streams += 1;
        let id = agent.streams;
        agent.stream = Some(Stream { id, gateway: g, live: false });
        agent.heartbeats = Heartbeats::default();
        agent.last_grant = now;
        agent.interval = Duration::from_secs(5);
        let held = agent.entries.iter().map(|(key, entry)| (*key, entry.spec.clone())).collect();
        let hello = Hello { held, wants: agent.wants, ready: agent.ready.clone() };
        // A connection needs both ways before anything is said.
        let link = Link::AgentGateway(s, g);
        let life = self.life(proc).number;
        self.tell(link, Way::Up, Proc::Gateway(g), false, move |world| {
            world.tell(link, Way::Down, proc, false, move |world| {
                if world.life(proc).number == life && world.of(s, id).is_some() {
                    world.tell(link, Way::Up, Proc::Gateway(g), false, move |world| {
                        world.gateway_greeted(g, s, id, hello);
                    });
                }
            });
        });
        self.after(proc, 10_000, move |world| {
            if world.of(s, id).is_some_and(|stream| !stream.live) {
                world.end_session(s, id);
            }
        });
    }

    fn of(&self, s: usize, id: u64) -> Option<&Stream> {
        self.agents[s].stream.as_ref().filter(|stream| stream.id == id)
    }

    /// The stream of an agent's present session.
    #[must_use]
    pub fn of_agent(&self, s: usize) -> Option<u64> {
        self.agents[s].stream.as_ref().map(|stream| stream.id)
    }

    fn end_session(&mut self, s: usize, id: u64) {
        if self.of(s, id).is_none() {
            return;
        }
        self.tell_gateway(s, ToGateway::Close);
        let agent = &mut self.agents[s];
        agent.stream = None;
        agent.synced = false;
        agent.tries += 1;
        let cap = 30_000.min(500 << agent.tries.min(6));
        let wait = self.rng.between(100, cap);
        self.after(Proc::Agent(s), wait, move |world| world.connect(s));
        self.decide_soon(s);
    }

    fn beat(&mut self, s: usize, id: u64) {
        let proc = Proc::Agent(s);
        if self.of(s, id).is_none() {
            return;
        }
        let now = self.boot(proc);
        let agent = &mut self.agents[s];
        agent.beats += 1;
        let beats = agent.beats;
        let silent = Duration::from_secs(6).max(agent.interval * 3);
        if now.saturating_sub(agent.last_grant) >= silent {
            return self.end_session(s, id);
        }
        let sequence = agent.heartbeats.next(now);
        let wait = Time::try_from(agent.interval.as_millis()).unwrap_or(Time::MAX);
        self.tell_gateway(s, ToGateway::Heartbeat(sequence));
        self.after(proc, wait, move |world| {
            if world.agents[s].beats == beats {
                world.beat(s, id);
            }
        });
    }

    /// A gateway says something.
    pub fn agent_hears(&mut self, s: usize, id: u64, message: ToAgent) {
        let proc = Proc::Agent(s);
        let now = self.boot(proc);
        let ours = self.of(s, id).is_some();
        if let ToAgent::Grant { sequence, next } = message {
            // Without the rule an answer to another session's heartbeat of that number counts.
            if ours || !self.holds(Rule::OwnSession) {
                let counted = self.holds(Rule::CountedFromSending);
                let agent = &mut self.agents[s];
                let Some(sent) = agent.heartbeats.answered(sequence) else { return };
                let sent = if counted { sent } else { now };
                agent.granted = sent.max(agent.granted);
                agent.had_grant = true;
                agent.nodes.grant(now);
                agent.last_grant = now;
                agent.interval = next;
                agent.tries = 0;
                agent.beats += 1;
                let beats = agent.beats;
                let wait = Time::try_from(next.as_millis()).unwrap_or(Time::MAX);
                if let Some(id) = agent.stream.as_ref().map(|stream| stream.id) {
                    self.after(proc, wait, move |world| {
                        if world.agents[s].beats == beats {
                            world.beat(s, id);
                        }
                    });
                }
                self.decide_soon(s);
            }
            return;
        }
        if !ours {
            return;
        }
        match message {
            ToAgent::Welcome => {
                if let Some(stream) = &mut self.agents[s].stream {
                    stream.live = true;
                }
                self.beat(s, id);
            }
            ToAgent::Goodbye => self.end_session(s, id),
            ToAgent::Slice(object) => {
                self.beat(s, id);
                let entry = self.agents[s].entries.entry(object.key).or_default();
                let wanted = wanted(&object.spec, object.generation);
                let older = match &entry.slice.wish {
                    Wish::Wanted(known) => !known.yields_to(wanted.epoch, object.generation),
                    Wish::Unsaid | Wish::Dropped => wanted.epoch < entry.slice.epoch(),
                };
                if older {
                    return;
                }
                let Slice { pods, orphans, started, ended, .. } = &mut entry.slice;
                let concerns = |member: &Member| {
                    pods.contains_key(member)
                        || orphans.contains_key(member)
                        || wanted.members.iter().any(|placed| placed.member == *member)
                };
                started.retain(concerns);
                ended.retain(|member, _| concerns(member));
                entry.attempted.retain(|member| wanted.members.iter().any(|placed| placed.member == *member));
                entry.slice.wish = Wish::Wanted(wanted);
                entry.spec = Some(Rc::clone(&object.spec));
                entry.waiting = false;
            }
            ToAgent::Deleted(key) => self.agents[s].drop_slice(key),
            ToAgent::Synced(listed) => {
                let agent = &mut self.agents[s];
                let unlisted: Vec<Key> = agent.entries.keys().filter(|key| !listed.contains(key)).copied().collect();
                for key in unlisted {
                    agent.drop_slice(key);
                }
                agent.synced = true;
                agent.was_synced = true;
                agent.unread.extend(0..crate::setup::NODES);
                agent.strangers = agent
                    .entries
                    .iter()
                    .flat_map(|(key, entry)| entry.slice.strangers().map(|member| (*key, member)))
                    .collect();
                let (wants, ready) = (agent.wants, agent.ready.clone());
                self.tell_gateway(s, ToGateway::Inventory(wants, ready));
            }
            ToAgent::Grant { .. } => {}
        }
        self.decide_soon(s);
    }

    fn decide_soon(&mut self, s: usize) {
        if !std::mem::replace(&mut self.agents[s].deciding, true) {
            self.after(Proc::Agent(s), 1, move |world| {
                world.agents[s].deciding = false;
                world.decide_agent(s);
            });
        }
    }

    fn decide_agent(&mut self, s: usize) {
        if !self.agents[s].listed {
            return;
        }
        let now = self.boot(Proc::Agent(s));
        let off = self.off;
        let watched = self.holds(Rule::NodesOwnLease) && self.setup.sites[s].watchdog;
        let agent = &mut self.agents[s];
        if watched {
            agent.settle(now);
        }
        let may_start =
            (agent.synced && agent.strangers.is_empty() && agent.strays.is_empty()) || off == Some(Rule::UnlistedFirst);
        let granted = agent.granted;
        let keys: Vec<Key> = agent.entries.keys().copied().collect();
        for key in keys {
            self.decide_slice(s, key, granted, now, may_start);
        }
        // What a lease allows changes between two looks.
        let slices = self.agents[s].entries.values().map(|entry| &entry.slice);
        let changes = slices.filter_map(|slice| lease::next_change(granted, now, times(slice)));
        if let Some(wait) =
            changes.min().map(|at| Time::try_from(at.saturating_sub(now).as_millis()).unwrap_or(Time::MAX))
            && wait < LONGEST_SLEEP
        {
            self.after(Proc::Agent(s), wait + 1, move |world| world.decide_soon(s));
        }
    }

    fn decide_slice(&mut self, s: usize, key: Key, granted: Duration, now: Duration, may_start: bool) {
        let forgetful = !self.holds(Rule::StoppedForGood);
        let agent = &mut self.agents[s];
        let Some(entry) = agent.entries.get_mut(&key) else { return };
        if forgetful {
            let Slice { started, pods, gang, decided, ended, .. } = &mut entry.slice;
            *decided = Stopped::default();
            started.retain(|member| pods.contains_key(member));
            ended.clear();
            if let Some(gang) = gang {
                gang.stopped = Stopped::default();
                gang.bound.clear();
            }
        }
        if let Some(report) = member::report(&entry.slice)
            && agent.stream.as_ref().is_some_and(|stream| stream.live)
            && entry.told.as_ref() != Some(&report)
        {
            entry.told = Some(report.clone());
            self.tell_gateway(s, ToGateway::Report(key, report));
        }
        let agent = &mut self.agents[s];
        let Some(entry) = agent.entries.get_mut(&key) else { return };
        if entry.busy || entry.waiting {
            return;
        }
        let elsewhere = BTreeSet::new();
        let lease = lease::state(granted, now, times(&entry.slice));
        let around =
            Around { namespace: Namespace::Furnished, may_start, lease, drained: false, elsewhere: &elsewhere };
        let mut actions = member::plan(&entry.slice, &around);
        if actions.is_empty() {
            if entry.slice.wish == Wish::Dropped && entry.slice.is_gone() {
                agent.entries.remove(&key);
            }
            return;
        }
        if forgetful {
            actions.retain(|action| !matches!(action, Action::MarkStopped(..)));
        }
        for action in &actions {
            match action {
                Action::MarkStopped(cause, incarnation) => {
                    entry.slice.decided = entry.slice.decided.with(*cause, *incarnation);
                }
                Action::CreatePod(member) => drop(entry.attempted.insert(*member)),
                _ => {}
            }
        }
        if actions.is_empty() {
            return;
        }
        entry.busy = true;
        if lease != State::Live {
            self.judge.count("members stop for want of a lease");
        }
        self.take_steps(s, key, actions.into(), false);
    }

    /// One step after the other; the process may end between any two.
    fn take_steps(&mut self, s: usize, key: Key, mut left: VecDeque<Action>, failed: bool) {
        let Some(action) = left.pop_front() else {
            if let Some(entry) = self.agents[s].entries.get_mut(&key) {
                entry.busy = false;
                entry.waiting = failed;
            }
            if failed {
                self.after(Proc::Agent(s), 500, move |world| {
                    if let Some(entry) = world.agents[s].entries.get_mut(&key) {
                        entry.waiting = false;
                    }
                    world.decide_soon(s);
                });
            }
            return self.decide_soon(s);
        };
        let stops = matches!(action, Action::DeletePod { .. } | Action::RemovePod(_));
        if failed && !stops {
            return self.take_steps(s, key, left, failed);
        }
        self.trace(|| format!("agent {s}: {action:?} of Cluster {}", key.0));
        let Some(entry) = self.agents[s].entries.get(&key) else { return };
        let gang = self.gang_to_apply(s, key);
        let fence = (times(&entry.slice), entry.spec.as_ref().is_some_and(|spec| spec.autonomous));
        let step = action.clone();
        let ask = move |world: &mut World| Some(world.take_step(s, key, &step, gang, fence));
        self.call(Proc::Agent(s), Link::AgentApi(s), ask, move |world, result| {
            let ok = match result {
                Ok(change) => {
                    world.stepped(s, key, &action, change);
                    true
                }
                // There is nothing to do it to.
                Err(ApiError::NotFound) => !matches!(action, Action::CreatePod(_)),
                Err(_) => false,
            };
            world.take_steps(s, key, left, failed || !ok);
        });
    }

    fn gang_to_apply(&self, s: usize, key: Key) -> Option<Gang> {
        let entry = self.agents[s].entries.get(&key)?;
        let Wish::Wanted(wanted) = &entry.slice.wish else { return None };
        Some(Gang {
            epoch: wanted.epoch,
            mode: wanted.mode,
            members: wanted.members.clone(),
            times: wanted.times,
            verdict: member::Verdict::Pending,
            reason: None,
            message: None,
            bound: BTreeSet::new(),
            stopped: entry.slice.stopped(),
            stopping: false,
        })
    }

    fn stepped(&mut self, s: usize, key: Key, action: &Action, change: Option<SiteChange>) {
        if let Some(change) = change {
            self.observe(s, change);
        }
        let Some(entry) = self.agents[s].entries.get_mut(&key) else { return };
        if let Action::DeletePod { member, kill } = action
            && let Some(pod) = entry.slice.pods.get_mut(member)
        {
            pod.stopping = true;
            pod.killed |= *kill;
            pod.abandoned = false;
        }
        if *action == Action::DeleteGang
            && let Some(gang) = &mut entry.slice.gang
        {
            gang.stopping = true;
        }
    }

    /// A watchdog asks; what it is answered: the age of the newest grant, and pods to kill.
    pub fn agent_asked(&mut self, s: usize, node: usize, boot: u32, running: Vec<Running>) -> Answer {
        let now = self.boot(Proc::Agent(s));
        let agent = &mut self.agents[s];
        let name = node_name(node);
        agent.nodes.ask(&name, &boot.to_string(), running, now);
        agent.unread.insert(node);
        let age = agent.had_grant.then(|| now.saturating_sub(agent.granted));
        if age.is_some() {
            agent.nodes.answer(&name, now);
        }
        let kill = agent.to_kill(&name);
        self.decide_soon(s);
        Answer { age, kill }
    }

    /// A process at one end of sessions ended: the other end is told when the way to it is open.
    pub fn sessions_break(&mut self, proc: Proc) {
        match proc {
            Proc::Gateway(g) => {
                for s in 0..self.agents.len() {
                    let Some(id) = self.agents[s].stream.as_ref().filter(|stream| stream.gateway == g).map(|s| s.id)
                    else {
                        continue;
                    };
                    self.tell(Link::AgentGateway(s, g), Way::Down, Proc::Agent(s), false, move |world| {
                        world.agent_hears(s, id, ToAgent::Goodbye);
                    });
                }
            }
            Proc::Agent(s) => self.tell_gateway(s, ToGateway::Close),
            _ => {}
        }
    }

    /// What an agent said last of a slice in its present session.
    #[must_use]
    pub fn said(&self, key: Key) -> Option<Report> {
        self.agents[key.1].entries.get(&key)?.told.clone()
    }

    /// Whether an agent has nothing under way.
    #[must_use]
    pub fn agent_rests(&self, s: usize) -> bool {
        let agent = &self.agents[s];
        agent.synced && agent.strangers.is_empty() && agent.entries.values().all(|entry| !entry.busy && !entry.waiting)
    }
}

/// What the nodes' watchdogs say, and what follows from it.
impl Agent {
    fn to_kill(&self, node: &str) -> Vec<String> {
        if !self.listed || !self.was_synced {
            return Vec::new();
        }
        let running = self.nodes.running(node).filter(|running| !self.may_have_pod(running));
        running.map(|running| running.pod_uid.clone()).collect()
    }

    fn may_have_pod(&self, running: &Running) -> bool {
        let member = &running.member;
        let mut of_cluster = self.entries.iter().filter(|(key, _)| uid_of(key.0) == running.cluster_uid);
        of_cluster.any(|(_, entry)| entry.slice.pods.contains_key(member) || entry.attempted.contains(member))
    }

    fn orphan(&mut self, key: Key, member: Member, node: String, now: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else { return false };
        let orphan = Orphan { node, since: now };
        let may_run = self.nodes.may_run(&uid_of(key.0), member, &orphan, times(&entry.slice), now);
        if may_run {
            entry.slice.orphans.insert(member, orphan);
        }
        may_run
    }

    fn settle(&mut self, now: Duration) {
        let unread = std::mem::take(&mut self.unread);
        if !std::mem::replace(&mut self.begun, true) {
            // Who was bound before this process began and has no pod now vanished while nobody watched.
            let missing = self.entries.iter().flat_map(|(key, entry)| {
                let gang = entry.slice.gang.iter();
                let bound =
                    gang.flat_map(|gang| gang.members.iter().filter(|placed| gang.bound.contains(&placed.member)));
                bound
                    .filter(|placed| !entry.slice.pods.contains_key(&placed.member))
                    .map(|placed| (*key, placed.member, placed.node.clone()))
            });
            for (key, member, node) in missing.collect::<Vec<_>>() {
                self.orphan(key, member, node, now);
            }
        }
        for node in unread {
            self.adopt(node, now);
        }
        for (key, entry) in &mut self.entries {
            let (uid, times) = (uid_of(key.0), times(&entry.slice));
            let (nodes, strangers) = (&self.nodes, &mut self.strangers);
            entry.slice.orphans.retain(|member, orphan| {
                let may_run = nodes.may_run(&uid, *member, orphan, times, now);
                if !may_run {
                    strangers.remove(&(*key, *member));
                }
                may_run
            });
            // Pods whose Node is lost, and of which nothing runs any more, are lost with it.
            for (member, pod) in entry.slice.pods.iter_mut().filter(|(_, pod)| !pod.phase.is_over()) {
                let Some(node) = pod.node.clone() else { continue };
                let Some(since) = self.lost.get(&number(&node)) else { continue };
                let orphan = Orphan { node: node.clone(), since: *since };
                let ended = nodes.end(&node, times).is_some_and(|end| now >= end)
                    || (pod.stopping && !nodes.may_run(&uid, *member, &orphan, times, now));
                if nodes.has_answered(&node) && ended {
                    pod.phase = Phase::Lost;
                    pod.abandoned = true;
                    strangers.remove(&(*key, *member));
                }
            }
        }
    }

    /// Who runs on a node without a pod is an orphan of its slice, or a stray.
    fn adopt(&mut self, at: usize, now: Duration) {
        let node = node_name(at);
        let without: Vec<Running> =
            self.nodes.running(&node).filter(|running| !self.may_have_pod(running)).cloned().collect();
        let mut strays = BTreeSet::new();
        for Running { cluster_uid, member, .. } in without {
            let mut of_cluster = self.entries.iter_mut().filter(|(key, _)| uid_of(key.0) == cluster_uid);
            let Some((_, entry)) = of_cluster.next() else {
                strays.insert((cluster_uid, member));
                continue;
            };
            if !entry.slice.ended.contains_key(&member) && !entry.slice.orphans.contains_key(&member) {
                entry.slice.orphans.insert(member, Orphan { node: node.clone(), since: now });
                entry.slice.started.insert(member);
            }
        }
        self.strays.insert(at, strays);
        self.strays.retain(|_, strays| !strays.is_empty());
    }
}

impl Agent {
    fn drop_slice(&mut self, key: Key) {
        let entry = self.entries.entry(key).or_default();
        entry.slice.wish = Wish::Dropped;
        entry.spec = None;
        entry.waiting = false;
    }
}

fn view(pod: &PodObject) -> Pod {
    Pod {
        phase: pod.phase,
        stopping: pod.deleting,
        killed: pod.killed,
        node: pod.node.map(node_name),
        address: None,
        reason: None,
        message: None,
        abandoned: false,
    }
}
