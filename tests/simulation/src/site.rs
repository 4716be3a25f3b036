//! A Site: its API, its scheduler, and its nodes.

use std::collections::BTreeMap;

use atoll_core::lease::Times;
use atoll_core::member::{Action, Gang, Member, Mode, Phase, Verdict};

use crate::hub::Key;
use crate::node::Node;
use crate::operator::number;
use crate::setup::{GPUS, NODES, SiteSetup};
use crate::world::{ApiError, Link, Proc, Time, Way, World};

/// A pod of a member.
#[derive(Clone, Debug)]
pub struct PodObject {
    /// Its slice.
    pub key: Key,
    /// Its member.
    pub member: Member,
    /// Never used again.
    pub uid: u64,
    /// Where it was bound.
    pub node: Option<usize>,
    /// How far it has come.
    pub phase: Phase,
    /// It is being deleted.
    pub deleting: bool,
    /// With a grace of a second.
    pub killed: bool,
    /// When its member stops without a lease.
    pub times: Times,
}

/// What a watch of a Site's API shows.
#[derive(Clone, Debug)]
pub enum SiteChange {
    /// A pod; None: it is gone.
    Pod(Key, Member, Option<PodObject>),
    /// A Gang with its version; None: it is gone.
    Gang(Key, u64, Option<Gang>),
    /// Which nodes are Ready.
    Ready(Vec<bool>),
}

/// A Site.
#[derive(Debug)]
pub struct Site {
    version: u64,
    /// Pods.
    pub pods: BTreeMap<(Key, Member), PodObject>,
    gangs: BTreeMap<Key, (u64, Gang)>,
    /// Until when capacity is held.
    holds: BTreeMap<Key, Time>,
    ready: Vec<bool>,
    /// When each kubelet was last heard.
    heard: Vec<Time>,
    scheduling: bool,
    /// Nodes.
    pub nodes: Vec<Node>,
}

/// Without news of a kubelet a node is not Ready after this, and its pods are evicted after that.
const NOT_READY: Time = 40_000;
const EVICTED: Time = 340_000;
/// How long capacity is held.
const HOLD: Time = 15_000;

impl Site {
    /// An empty one.
    #[must_use]
    pub fn new(_: &SiteSetup) -> Self {
        Self {
            version: 0,
            pods: BTreeMap::new(),
            gangs: BTreeMap::new(),
            holds: BTreeMap::new(),
            ready: vec![true; NODES],
            heard: vec![0; NODES],
            scheduling: false,
            nodes: (0..NODES).map(|_| Node::default()).collect(),
        }
    }
}

impl World {
    /// Everything that a Site's API holds.
    pub fn list_site(&mut self, s: usize) -> Vec<SiteChange> {
        let site = &self.sites[s];
        let pods = site.pods.iter().map(|((key, member), pod)| SiteChange::Pod(*key, *member, Some(pod.clone())));
        let gangs =
            site.gangs.iter().map(|(key, (version, gang))| SiteChange::Gang(*key, *version, Some(gang.clone())));
        gangs.chain(pods).chain([SiteChange::Ready(site.ready.clone())]).collect()
    }

    fn publish_site(&mut self, s: usize, change: SiteChange) {
        let proc = Proc::Agent(s);
        if self.life(proc).up {
            let life = self.life(proc).number;
            self.tell(Link::AgentApi(s), Way::Down, proc, true, move |world| {
                if world.life(proc).number == life {
                    world.agent_sees(s, change);
                }
            });
        }
    }

    fn publish_pod(&mut self, s: usize, key: Key, member: Member, node: Option<usize>, uid: u64) {
        let pod = self.sites[s].pods.get(&(key, member)).cloned();
        self.publish_site(s, SiteChange::Pod(key, member, pod.clone()));
        if let Some(node) = node {
            let proc = Proc::Kubelet(s, node);
            if self.life(proc).up {
                let life = self.life(proc).number;
                self.tell(Link::NodeApi(s, node), Way::Down, proc, true, move |world| {
                    if world.life(proc).number == life {
                        world.kubelet_sees(s, node, uid, pod);
                    }
                });
            }
        }
        self.schedule_soon(s);
    }

    fn set_gang(&mut self, s: usize, key: Key, gang: Option<Gang>) -> SiteChange {
        self.sites[s].version += 1;
        let version = self.sites[s].version;
        match &gang {
            Some(gang) => drop(self.sites[s].gangs.insert(key, (version, gang.clone()))),
            None => drop(self.sites[s].gangs.remove(&key)),
        }
        let change = SiteChange::Gang(key, version, gang);
        self.publish_site(s, change.clone());
        self.schedule_soon(s);
        change
    }

    /// A step of the agent, as the Site's API takes it.
    pub fn take_step(
        &mut self,
        s: usize,
        key: Key,
        action: &Action,
        gang: Option<Gang>,
        (times, _): (Times, bool),
    ) -> Result<Option<SiteChange>, ApiError> {
        match action {
            Action::Furnish => Ok(None),
            Action::ApplyGang => {
                let mut gang = gang.ok_or(ApiError::Conflict)?;
                if let Some((_, known)) = self.sites[s].gangs.get(&key) {
                    if known.stopping {
                        return Err(ApiError::Conflict);
                    }
                    gang.stopped = gang.stopped.or(known.stopped);
                    gang.bound.clone_from(&known.bound);
                    if known.members != gang.members {
                        self.sites[s].holds.remove(&key);
                    }
                }
                Ok(Some(self.set_gang(s, key, Some(gang))))
            }
            Action::MarkStopped(cause, incarnation) => {
                let Some((_, known)) = self.sites[s].gangs.get(&key) else { return Ok(None) };
                let gang = Gang { stopped: known.stopped.with(*cause, *incarnation), ..known.clone() };
                Ok(Some(self.set_gang(s, key, Some(gang))))
            }
            Action::CreatePod(member) => {
                let at = (key, *member);
                if self.sites[s].pods.contains_key(&at) {
                    return Err(ApiError::Conflict);
                }
                self.sites[s].version += 1;
                let uid = self.sites[s].version;
                let pod = PodObject {
                    key,
                    member: *member,
                    uid,
                    node: None,
                    phase: Phase::Waiting,
                    deleting: false,
                    killed: false,
                    times,
                };
                self.sites[s].pods.insert(at, pod.clone());
                self.publish_pod(s, key, *member, None, uid);
                Ok(Some(SiteChange::Pod(key, *member, Some(pod))))
            }
            Action::DeletePod { member, kill } => {
                self.delete_pod(s, key, *member, *kill)?;
                Ok(None)
            }
            Action::RemovePod(member) => {
                self.force_away(s, key, *member);
                Ok(None)
            }
            Action::DeleteGang => {
                self.sites[s].gangs.get(&key).ok_or(ApiError::NotFound)?;
                self.sites[s].holds.remove(&key);
                self.set_gang(s, key, None);
                Ok(None)
            }
        }
    }

    /// Begins the deletion of a pod: its kubelet ends it, or nobody has to.
    pub fn delete_pod(&mut self, s: usize, key: Key, member: Member, kill: bool) -> Result<(), ApiError> {
        let pod = self.sites[s].pods.get_mut(&(key, member)).ok_or(ApiError::NotFound)?;
        pod.deleting = true;
        pod.killed |= kill;
        let (node, uid, over) = (pod.node, pod.uid, pod.phase.is_over());
        if node.is_none() || over {
            self.sites[s].pods.remove(&(key, member));
        }
        self.publish_pod(s, key, member, node, uid);
        Ok(())
    }

    /// A pod vanishes, whatever runs: somebody forced it, or its Node was deleted.
    pub fn force_away(&mut self, s: usize, key: Key, member: Member) {
        if let Some(pod) = self.sites[s].pods.remove(&(key, member)) {
            self.trace(|| format!("site {s}: the pod of {}/{}.{} vanishes", key.0, member.rank, member.incarnation));
            self.publish_pod(s, key, member, pod.node, pod.uid);
        }
    }

    /// What a kubelet says of a pod's containers.
    pub fn pod_says(&mut self, s: usize, key: Key, member: Member, uid: u64, phase: Phase) {
        let Some(pod) = self.sites[s].pods.get_mut(&(key, member)).filter(|pod| pod.uid == uid) else { return };
        if pod.phase.is_over() {
            return;
        }
        pod.phase = phase;
        let (node, gone) = (pod.node, pod.deleting && phase.is_over());
        self.publish_pod(s, key, member, node, uid);
        if gone {
            self.sites[s].pods.remove(&(key, member));
            self.publish_pod(s, key, member, node, uid);
        }
    }

    /// The Site's controllers look at its nodes.
    pub fn tick_site(&mut self, s: usize) {
        self.at(self.now + 5_000, move |world| world.tick_site(s));
        for node in 0..NODES {
            let kubelet = Proc::Kubelet(s, node);
            let link = Link::NodeApi(s, node);
            if self.life(kubelet).up
                && self.awake(kubelet)
                && !self.is_cut(link, Way::Up)
                && !self.is_cut(link, Way::Down)
            {
                self.sites[s].heard[node] = self.now;
            }
            let silent = self.now - self.sites[s].heard[node];
            let ready = silent < NOT_READY;
            if self.sites[s].ready[node] != ready {
                self.sites[s].ready[node] = ready;
                let all = self.sites[s].ready.clone();
                self.publish_site(s, SiteChange::Ready(all));
                self.schedule_soon(s);
            }
            if silent >= EVICTED {
                let there: Vec<(Key, Member)> = self.sites[s]
                    .pods
                    .iter()
                    .filter(|(_, pod)| pod.node == Some(node) && !pod.deleting)
                    .map(|(at, _)| *at)
                    .collect();
                for (key, member) in there {
                    // One that is gone needs no deletion.
                    let _: Result<(), ApiError> = self.delete_pod(s, key, member, false);
                }
            }
        }
    }

    fn schedule_soon(&mut self, s: usize) {
        if !std::mem::replace(&mut self.sites[s].scheduling, true) {
            let at = self.now + self.rng.between(10, 150);
            self.at(at, move |world| {
                world.sites[s].scheduling = false;
                world.schedule(s);
            });
        }
    }

    /// Free GPUs of a node, those held for `but` included.
    fn free(&self, s: usize, node: usize, but: Key) -> usize {
        let site = &self.sites[s];
        let pods = site.pods.values().filter(|pod| pod.node == Some(node) && !pod.phase.is_over()).count();
        let held: usize = site
            .holds
            .iter()
            .filter(|(key, until)| **key != but && **until > self.now)
            .filter_map(|(key, _)| Some((*key, &site.gangs.get(key)?.1)))
            .flat_map(|(key, gang)| {
                gang.members.iter().filter(move |placed| !site.pods.contains_key(&(key, placed.member)))
            })
            .filter(|placed| number(&placed.node) == node)
            .count();
        if site.ready[node] { GPUS.saturating_sub(pods + held) } else { 0 }
    }

    fn schedule(&mut self, s: usize) {
        let gangs: Vec<(Key, Gang)> = self.sites[s]
            .gangs
            .iter()
            .map(|(key, (_, gang))| (*key, gang.clone()))
            .filter(|(_, g)| !g.stopping)
            .collect();
        for (key, mut gang) in gangs {
            let before = gang.clone();
            let mut free: Vec<usize> = (0..NODES).map(|node| self.free(s, node, key)).collect();
            let mut take = |wanted: usize| {
                let node = [wanted, 1 - wanted.min(1)].into_iter().find(|node| free[*node] > 0)?;
                free[node] -= 1;
                Some(node)
            };
            let waiting: Vec<(Member, usize)> = gang
                .members
                .iter()
                .map(|placed| (placed.member, number(&placed.node)))
                .filter(|(member, _)| match self.sites[s].pods.get(&(key, *member)) {
                    Some(pod) => pod.node.is_none() && !pod.deleting,
                    None => !gang.bound.contains(member),
                })
                .collect();
            let places: Option<Vec<usize>> = waiting.iter().map(|(_, node)| take(*node)).collect();
            match (gang.mode, places) {
                (Mode::Hold, _) if gang.verdict != Verdict::Pending => {}
                (Mode::Hold, Some(_)) => {
                    gang.verdict = Verdict::Reserved;
                    let until = self.now + HOLD;
                    self.sites[s].holds.insert(key, until);
                }
                (_, None) => {
                    gang.verdict = Verdict::Refused;
                    if gang.mode == Mode::Run {
                        self.at(self.now + 1_000, move |world| world.schedule_soon(s));
                    }
                }
                (Mode::Run, Some(places)) => {
                    // All that are to come have their pods, or none is bound.
                    let all = waiting.iter().all(|(member, _)| self.sites[s].pods.contains_key(&(key, *member)));
                    if all {
                        self.sites[s].holds.remove(&key);
                        for ((member, _), node) in waiting.iter().zip(places) {
                            gang.bound.insert(*member);
                            let Some(pod) = self.sites[s].pods.get_mut(&(key, *member)) else { continue };
                            pod.node = Some(node);
                            let uid = pod.uid;
                            self.publish_pod(s, key, *member, Some(node), uid);
                        }
                        gang.verdict = Verdict::Bound;
                    }
                }
            }
            if gang != before {
                self.set_gang(s, key, Some(gang));
            }
        }
    }
}
