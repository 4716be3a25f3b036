//! Who watches a trial, and speaks when something is wrong. Judges see true time and everything else.

use std::collections::{BTreeMap, BTreeSet};

use atoll_core::cluster::{Kind, Policy};
use atoll_core::member::Member;

use crate::gateway;
use crate::hub::{ClusterObject, Key, SiteObject, SliceObject, SliceStatus, Wants};
use crate::operator::{LATEST, number};
use crate::setup::{GPUS, NODES, Scene, Setup};
use crate::world::{Proc, Time, World};

/// What a judge may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Crime {
    /// Two incarnations of a rank run.
    Twice,
    /// More members than GPUs on a node.
    GpuTwice,
    /// An older session's word was written over a newer one's.
    StaleReport,
    /// An incarnation that had stopped runs again.
    Again,
    /// A member left the commit of an elastic gang, and nothing was wrong with it.
    SurvivorMoved,
    /// A lost or drained member was not replaced in time.
    Late,
    /// Members were replaced in a freeze.
    NotFrozen,
    /// All faults are healed, and not all is well.
    Restless,
}

impl Crime {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Twice,
        Self::GpuTwice,
        Self::StaleReport,
        Self::Again,
        Self::SurvivorMoved,
        Self::Late,
        Self::NotFrozen,
        Self::Restless,
    ];
}

/// What is wrong, and when it became so.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which judge.
    pub crime: Crime,
    /// In words.
    pub words: String,
    /// When.
    pub at: Time,
}

/// A machine that wakes up needs a moment to find out: its watchdog looks every two seconds, and then kills.
const WAKING: Time = 3_500;
/// From the end of a fence, or the notice of a drain, until all run elsewhere.
const PROMPT: Time = 5_000;

/// A commit may be written so long after what it was decided on.
const LATE: Time = 3 * LATEST;

/// What the judges remember.
#[derive(Debug)]
pub struct Judge {
    /// The first thing that is wrong.
    pub verdict: Option<Verdict>,
    /// How often something happened that ought to be tried.
    pub counts: BTreeMap<&'static str, u64>,
    stopped: BTreeSet<(usize, Member)>,
    /// The newest session of each Site, and its last grant.
    sessions: Vec<(u64, Time)>,
    /// Since when a Site's members are to be elsewhere, in a trial by the clock: the Site, and whether it drains.
    pub clock: Option<(usize, bool, Time)>,
    /// Nobody is to be replaced.
    pub frozen: bool,
    /// When each Site was last seen by the hub in a state that lets members move.
    troubled: Vec<Time>,
}

impl Judge {
    /// Nothing has happened.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        Self {
            verdict: None,
            counts: BTreeMap::new(),
            stopped: BTreeSet::new(),
            sessions: vec![(0, 0); setup.sites.len()],
            clock: None,
            frozen: false,
            troubled: vec![0; setup.sites.len()],
        }
    }

    /// Something happened that ought to be tried.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A session began.
    pub fn began(&mut self, site: usize, session: u64) {
        let known = &mut self.sessions[site];
        known.0 = session.max(known.0);
    }

    /// A lease was granted.
    pub fn granted(&mut self, site: usize, session: u64, now: Time) {
        let known = &mut self.sessions[site];
        if session >= known.0 {
            *known = (session, now);
        }
    }

    /// When a Site was last granted a lease.
    #[must_use]
    pub fn last_grant(&self, site: usize) -> Time {
        self.sessions[site].1
    }
}

fn speak(world: &mut World, crime: Crime, words: String) {
    let at = world.now;
    world.trace(|| format!("JUDGE {crime:?}: {words}"));
    world.judge.verdict.get_or_insert(Verdict { crime, words, at });
}

/// Where members run, on machines that execute: Cluster, member, Site, node.
fn running(world: &World) -> impl Iterator<Item = (usize, Member, usize, usize)> + '_ {
    world.sites.iter().enumerate().flat_map(move |(s, site)| {
        site.nodes.iter().enumerate().flat_map(move |(n, node)| {
            let awake = world.awake(Proc::Kubelet(s, n));
            node.containers.values().filter(move |c| c.runs && awake).map(move |c| (c.key.0, c.member, s, n))
        })
    })
}

/// A container began to run.
pub fn started(world: &mut World, s: usize, n: usize, key: Key, member: Member) {
    if world.judge.stopped.contains(&(key.0, member)) {
        speak(
            world,
            Crime::Again,
            format!("Cluster {} rank {} incarnation {}", key.0, member.rank, member.incarnation),
        );
    }
    let on_node = world.sites[s].nodes[n].containers.values().filter(|container| container.runs).count();
    if on_node > GPUS {
        speak(world, Crime::GpuTwice, format!("{on_node} members on node {n} of site {s}"));
    }
    alone(world, key.0, member.rank, Some(member));
    let quick = world.judge.clock.is_some();
    if quick {
        in_time(world);
    }
}

/// No rank runs twice. `starts`: who has just begun to run; a machine that wakes excuses what ran before only.
fn alone(world: &mut World, cluster: usize, rank: u32, starts: Option<Member>) {
    if world.setup.clusters[cluster].state.terms.policy == Policy::Autonomous {
        return;
    }
    let lives: Vec<(Member, usize, usize)> = running(world)
        .filter(|(c, member, ..)| (*c, member.rank) == (cluster, rank))
        .map(|(_, member, s, n)| (member, s, n))
        .collect();
    if lives.len() < 2 {
        return;
    }
    let before = lives.iter().filter(|(member, ..)| Some(*member) != starts);
    let waking = before.map(|(_, s, n)| world.woke(Proc::Kubelet(*s, *n)) + WAKING).max().unwrap_or(0);
    if waking > world.now && waking > WAKING {
        return world.at(waking + 1, move |world| alone(world, cluster, rank, None));
    }
    speak(world, Crime::Twice, format!("rank {rank} of Cluster {cluster}: {lives:?}"));
}

/// A machine woke up: whoever it ran has had its moment.
pub fn woke(world: &mut World, s: usize, n: usize) {
    let at = world.now + WAKING + 1;
    world.at(at, move |world| {
        let here: Vec<(usize, u32)> =
            world.sites[s].nodes[n].containers.values().filter(|c| c.runs).map(|c| (c.key.0, c.member.rank)).collect();
        for (cluster, rank) in here {
            alone(world, cluster, rank, None);
        }
    });
}

/// A container ended.
pub fn stopped(world: &mut World, _: usize, _: usize, key: Key, member: Member) {
    world.judge.stopped.insert((key.0, member));
}

/// A commit is about to be written.
pub fn committed(world: &mut World, c: usize, new: &ClusterObject) {
    let old = std::rc::Rc::clone(&world.hub.clusters[c]);
    let terms = &old.state.terms;
    let lost: Vec<_> = old.state.members.iter().filter(|member| !new.state.members.contains(member)).cloned().collect();
    if world.judge.frozen && !lost.is_empty() {
        speak(world, Crime::NotFrozen, format!("Cluster {c} loses {lost:?}"));
    }
    if terms.kind != Kind::Pods || !matches!(terms.policy, Policy::Replace) || terms.suspend {
        return;
    }
    for member in lost {
        let (site, rank) = (number(&member.site), member.rank);
        let at = Member { rank, incarnation: member.incarnation };
        let runs = running(world).any(|(cluster, member, s, _)| cluster == c && member == at && s == site);
        let there = &world.hub.sites[site];
        // What was decided then may be written late.
        let well = is_well(there) && world.judge.troubled[site] + LATE < world.now;
        let fenced = there.fenced.iter().any(|(uid, epoch)| *uid == c && at.incarnation <= *epoch);
        let said = world
            .hub
            .slices
            .get(&(c, site))
            .and_then(|slice| slice.status.as_ref()?.members.get(&(rank, at.incarnation)));
        let ended = said.is_some_and(|(state, _)| state.ended());
        let refused = said.is_none_or(|(state, _)| *state == atoll_core::cluster::MemberState::Pending);
        let going = world.hub.slices.get(&(c, site)).is_none_or(|slice| slice.deleting);
        if runs && well && !fenced && !ended && !refused && !going {
            speak(world, Crime::SurvivorMoved, format!("Cluster {c} rank {rank}.{} at site {site}", at.incarnation));
        }
    }
}

fn is_well(site: &SiteObject) -> bool {
    site.connected && site.wants == Wants::Accepting && site.ready.iter().all(|ready| *ready)
}

/// A Site's status is about to be written.
pub fn changes(world: &mut World, s: usize, new: &SiteObject) {
    if !is_well(&world.hub.sites[s]) || !is_well(new) {
        world.judge.troubled[s] = world.now;
    }
}

/// What a Site said is about to be written.
pub fn reported(world: &mut World, slice: &SliceObject, new: &SliceStatus) {
    let Some(old) = &slice.status else { return };
    if new.session < old.session {
        let words = format!(
            "slice {:?}: what session {} said of epoch {} over what session {} said of epoch {}",
            slice.key, new.session, new.epoch, old.session, old.epoch
        );
        speak(world, Crime::StaleReport, words);
    }
}

/// In a trial by the clock: whether all members run elsewhere, which ends the clock.
fn in_time(world: &mut World) {
    let Some((site, drains, since)) = world.judge.clock else { return };
    let all = world.setup.clusters.iter().enumerate().all(|(c, cluster)| {
        (0..cluster.state.terms.count)
            .all(|rank| running(world).any(|(other, member, s, _)| other == c && member.rank == rank && s != site))
    });
    if all {
        world.judge.clock = None;
        let base = if drains { since } else { world.judge.last_grant(site) };
        let took = world.now - base;
        world.trace(|| format!("all run elsewhere after {took} ms"));
        world.judge.count(if drains { "moved off a draining Site in time" } else { "replaced in time" });
    }
}

/// When the clock of a trial runs out.
pub fn deadline(world: &mut World, site: usize, drains: bool, since: Time) {
    world.judge.clock = Some((site, drains, since));
    in_time(world);
    let fence = world.setup.clusters.iter().map(|cluster| cluster.times.2 * 1_000).max().unwrap_or(0);
    let base = if drains { since } else { world.judge.last_grant(site).min(since) + fence };
    look(world, base + PROMPT);
}

fn look(world: &mut World, at: Time) {
    world.at(at, |world| {
        let Some((site, drains, since)) = world.judge.clock else { return };
        // It may have had a grant after its fault began.
        let fence = world.setup.clusters.iter().map(|cluster| cluster.times.2 * 1_000).max().unwrap_or(0);
        let end = if drains { since } else { world.judge.last_grant(site) + fence } + PROMPT;
        if end > world.now {
            return look(world, end);
        }
        speak(world, Crime::Late, format!("site {site}: not all members run elsewhere, drains: {drains}"));
    });
}

/// Whether all is as it ought to be when nothing is wrong any more; what is not, in words.
#[must_use]
pub fn whole(world: &World) -> Option<String> {
    for (c, cluster) in world.hub.clusters.iter().enumerate() {
        let terms = &cluster.state.terms;
        let runs: Vec<(Member, usize, usize)> =
            running(world).filter(|(other, ..)| *other == c).map(|(_, member, s, n)| (member, s, n)).collect();
        if cluster.state.finished_at.is_some() {
            if !runs.is_empty() || world.hub.slices.keys().any(|key| key.0 == c) {
                return Some(format!("Cluster {c} has ended, and is still there: {runs:?}"));
            }
            continue;
        }
        if cluster.state.members.len() != terms.count as usize {
            return Some(format!("Cluster {c} has {} members of {}", cluster.state.members.len(), terms.count));
        }
        for member in &cluster.state.members {
            let at = Member { rank: member.rank, incarnation: member.incarnation };
            if !runs.iter().any(|(other, s, _)| *other == at && *s == number(&member.site)) {
                return Some(format!("Cluster {c}: rank {} does not run at {}: {runs:?}", member.rank, member.site));
            }
        }
        if runs.len() != terms.count as usize {
            return Some(format!("Cluster {c}: something else runs: {runs:?}"));
        }
    }
    for (s, site) in world.hub.sites.iter().enumerate() {
        if !site.connected {
            return Some(format!("site {s} is not connected"));
        }
        if !site.fenced.is_empty() {
            return Some(format!("site {s} stays fenced: {:?}", site.fenced));
        }
        if !world.agent_rests(s) {
            return Some(format!("the agent of site {s} does not come to rest"));
        }
        for slice in world.hub.slices.values().filter(|slice| slice.key.1 == s) {
            let said = world.said(slice.key).map(|report| gateway::status(&report, 0, slice));
            let stands = slice.status.as_ref().zip(said.as_ref()).is_some_and(|(stands, said)| stands.says(said));
            if !stands {
                return Some(format!(
                    "slice {:?}: its Site says {said:?}, and the hub has {:?}",
                    slice.key, slice.status
                ));
            }
        }
    }
    None
}

/// The end of a trial.
pub fn restless(world: &mut World, words: String) {
    speak(world, Crime::Restless, words);
}

/// Whether this kind of trial has a clock.
#[must_use]
pub fn is_clocked(scene: Scene) -> bool {
    matches!(scene, Scene::Lost | Scene::Drained)
}

/// Nodes of all Sites.
#[must_use]
pub fn all_nodes(sites: usize) -> Vec<(usize, usize)> {
    (0..sites).flat_map(|s| (0..NODES).map(move |n| (s, n))).collect()
}
