//! A node: its kubelet, what really runs there, and its watchdog.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_core::lease::Times;
use atoll_core::member::{Member, Phase};
use atoll_core::nodes::Running;
use atoll_core::watchdog::{Admission, Answer, Clocks, Lease, Pod, Saved, Watchdog, admission};

use crate::hub::Key;
use crate::judge;
use crate::rule::Rule;
use crate::site::PodObject;
use crate::world::{Link, Proc, Time, Way, World};

/// Something that runs, or is about to.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its slice.
    pub key: Key,
    /// Its member.
    pub member: Member,
    /// When it stops without a lease.
    pub times: Times,
    /// It runs; else it is about to.
    pub runs: bool,
    /// It was told to end.
    stopping: bool,
    killed: bool,
}

/// A node.
#[derive(Debug, Default)]
pub struct Node {
    /// What the container runtime shows, by UID of the pod.
    pub containers: BTreeMap<u64, Container>,
    /// What has run and ended: it never runs again.
    ended: BTreeSet<u64>,
    /// What the kubelet knows.
    known: BTreeMap<u64, PodObject>,
    /// The memory of the watchdog.
    watchdog: Option<Watchdog>,
    /// Its file under /run.
    saved: Option<Saved>,
    /// Containers take long to start, as when an image is pulled: until then.
    pub slow_until: Time,
}

/// From one question of a watchdog to the next.
const ASK: Time = 2_000;

impl World {
    /// A kubelet starts: it lists its pods, containers have run on.
    pub fn start_kubelet(&mut self, s: usize, n: usize) {
        self.set_up(Proc::Kubelet(s, n), true);
        let node = &mut self.sites[s].nodes[n];
        node.known.clear();
        // What the one before was about to start or to end is begun again.
        node.containers.retain(|_, container| container.runs);
        for container in node.containers.values_mut() {
            (container.stopping, container.killed) = (false, false);
        }
        self.list_kubelet(s, n);
    }

    fn list_kubelet(&mut self, s: usize, n: usize) {
        let list = move |world: &mut World| {
            Some(Ok(world.sites[s].pods.values().filter(|pod| pod.node == Some(n)).cloned().collect::<Vec<_>>()))
        };
        self.call(Proc::Kubelet(s, n), Link::NodeApi(s, n), list, move |world, result| match result {
            Ok(pods) => {
                let unlisted: Vec<u64> = {
                    let running = world.sites[s].nodes[n].containers.keys();
                    running.filter(|uid| !pods.iter().any(|pod| pod.uid == **uid)).copied().collect()
                };
                for uid in unlisted {
                    world.end_container(s, n, uid, true);
                }
                for pod in pods {
                    world.kubelet_sees(s, n, pod.uid, Some(pod));
                }
            }
            Err(_) => world.after(Proc::Kubelet(s, n), 1_000, move |world| world.list_kubelet(s, n)),
        });
    }

    /// A kubelet's watch shows a pod.
    pub fn kubelet_sees(&mut self, s: usize, n: usize, uid: u64, pod: Option<PodObject>) {
        let node = &mut self.sites[s].nodes[n];
        let Some(pod) = pod else {
            node.known.remove(&uid);
            return self.end_container(s, n, uid, true);
        };
        node.known.insert(uid, pod.clone());
        if pod.deleting {
            if !node.containers.contains_key(&uid) {
                // It never ran, or has ended: nothing is left.
                return self.kubelet_says(s, n, uid, pod.key, pod.member, Phase::Failed);
            }
            return self.end_container(s, n, uid, pod.killed);
        }
        if node.ended.contains(&uid) {
            return self.kubelet_says(s, n, uid, pod.key, pod.member, Phase::Failed);
        }
        if pod.phase.is_over() || node.containers.contains_key(&uid) {
            return;
        }
        let container = Container {
            key: pod.key,
            member: pod.member,
            times: pod.times,
            runs: false,
            stopping: false,
            killed: false,
        };
        node.containers.insert(uid, container);
        let slow = node.slow_until.saturating_sub(self.now);
        let wait = self.rng.between(100, 600) + slow;
        self.after(Proc::Kubelet(s, n), wait, move |world| world.start_container(s, n, uid));
        if self.life(Proc::Watchdog(s, n)).up {
            self.after(Proc::Watchdog(s, n), 50, move |world| world.watchdog_looks(s, n));
        }
    }

    fn start_container(&mut self, s: usize, n: usize, uid: u64) {
        let Some(container) = self.sites[s].nodes[n].containers.get(&uid) else { return };
        if container.runs || container.stopping {
            return;
        }
        if self.setup.sites[s].watchdog && self.holds(Rule::LeaseToStart) {
            let clocks = self.clocks(s, n);
            let boot = self.machine(Proc::Kubelet(s, n)).boot.to_string();
            let saved = self.sites[s].nodes[n].saved.as_ref();
            let name = pod_name(container.key, container.member);
            let may = saved.is_some_and(|saved| admission(saved, &boot, clocks, &name) == Admission::Granted);
            if !may {
                self.judge.count("a container without a lease waits");
                return self.after(Proc::Kubelet(s, n), 1_000, move |world| world.start_container(s, n, uid));
            }
        }
        let Some(container) = self.sites[s].nodes[n].containers.get_mut(&uid) else { return };
        container.runs = true;
        let (key, member) = (container.key, container.member);
        self.trace(|| format!("site {s} node {n}: {}/{}.{} runs", key.0, member.rank, member.incarnation));
        judge::started(self, s, n, key, member);
        self.kubelet_says(s, n, uid, key, member, Phase::Ready);
    }

    fn kubelet_says(&mut self, s: usize, n: usize, uid: u64, key: Key, member: Member, phase: Phase) {
        let proc = Proc::Kubelet(s, n);
        let say = move |world: &mut World| {
            world.pod_says(s, key, member, uid, phase);
            Some(Ok(()))
        };
        self.call(proc, Link::NodeApi(s, n), say, move |world, result| {
            if result.is_err() {
                // What is true by then is said.
                let phase = if world.sites[s].nodes[n].containers.contains_key(&uid) { phase } else { Phase::Failed };
                world.after(proc, 1_000, move |world| world.kubelet_says(s, n, uid, key, member, phase));
            }
        });
    }

    /// A container is asked to end, or killed.
    fn end_container(&mut self, s: usize, n: usize, uid: u64, kill: bool) {
        let Some(container) = self.sites[s].nodes[n].containers.get_mut(&uid) else { return };
        if container.killed || (container.stopping && !kill) {
            return;
        }
        let runs = container.runs;
        container.stopping = true;
        container.killed = kill;
        let grace = match container.times {
            Times::At { .. } => container.times.longest_grace_seconds().min(20) * 1_000,
            Times::Never => 20_000,
        };
        let wait = match (runs, kill) {
            (false, _) => 10,
            (true, true) => self.rng.between(50, 1_000),
            (true, false) if self.setup.scene.is_rough() && self.rng.percent(30) => grace,
            (true, false) => self.rng.between(50, grace.min(2_000)),
        };
        self.after(Proc::Kubelet(s, n), wait, move |world| world.container_ends(s, n, uid, "is stopped"));
    }

    /// A container has ended.
    pub fn container_ends(&mut self, s: usize, n: usize, uid: u64, how: &str) {
        let Some(container) = self.sites[s].nodes[n].containers.remove(&uid) else { return };
        self.sites[s].nodes[n].ended.insert(uid);
        let (key, member) = (container.key, container.member);
        if container.runs {
            self.trace(|| format!("site {s} node {n}: {}/{}.{} {how}", key.0, member.rank, member.incarnation));
            judge::stopped(self, s, n, key, member);
        }
        if self.life(Proc::Kubelet(s, n)).up {
            self.kubelet_says(s, n, uid, key, member, Phase::Failed);
        }
    }

    /// A node loses its power; everything on it ends at once.
    pub fn node_dies(&mut self, s: usize, n: usize) {
        self.set_up(Proc::Kubelet(s, n), false);
        self.set_up(Proc::Watchdog(s, n), false);
        self.sites[s].nodes[n].watchdog = None;
        let running: Vec<u64> = self.sites[s].nodes[n].containers.keys().copied().collect();
        for uid in running {
            self.container_ends(s, n, uid, "dies with its node");
        }
    }

    fn clocks(&self, s: usize, n: usize) -> Clocks {
        let proc = Proc::Kubelet(s, n);
        let boot = self.boot(proc);
        let wall = if self.holds(Rule::JumpIsExpiry) {
            Duration::from_millis(u64::try_from(self.wall(proc)).unwrap_or(0))
        } else {
            // As if nobody compared.
            boot + Duration::from_secs(1_000_000_000)
        };
        Clocks { boot, wall }
    }

    /// A watchdog starts, with the file of the one before it.
    pub fn start_watchdog(&mut self, s: usize, n: usize) {
        let proc = Proc::Watchdog(s, n);
        self.set_up(proc, true);
        let (now, boot) = (self.clocks(s, n), self.machine(proc).boot.to_string());
        let node = &mut self.sites[s].nodes[n];
        let fresh = Saved {
            boot_id: boot.clone(),
            lease: Lease::Granted { granted: now.boot, asked: now },
            pods: BTreeMap::new(),
        };
        let kept = self.off != Some(Rule::LeaseKeptOverRestart);
        let saved = if kept { node.saved.clone() } else { node.saved.as_ref().map(|_| fresh) };
        node.watchdog = Some(Watchdog::start(saved.as_ref(), &boot, now));
        self.ask_agent(s, n);
    }

    fn ask_agent(&mut self, s: usize, n: usize) {
        let proc = Proc::Watchdog(s, n);
        self.after(proc, ASK, move |world| world.ask_agent(s, n));
        self.watchdog_looks(s, n);
        let asked = self.clocks(s, n);
        let boot = self.machine(proc).boot;
        let running = self.sites[s].nodes[n].containers.iter().map(|(uid, container)| Running {
            cluster_uid: format!("c{}", container.key.0),
            member: container.member,
            pod_uid: uid.to_string(),
        });
        let running: Vec<Running> = running.collect();
        let (link, life) = (Link::NodeAgent(s, n), self.life(proc).number);
        self.tell(link, Way::Up, Proc::Agent(s), false, move |world| {
            let answer = world.agent_asked(s, n, boot, running);
            world.tell(link, Way::Down, proc, false, move |world| {
                if world.life(proc).number == life {
                    world.watchdog_answered(s, n, asked, answer);
                }
            });
        });
    }

    fn watchdog_answered(&mut self, s: usize, n: usize, mut asked: Clocks, mut answer: Answer) {
        let now = self.clocks(s, n);
        if !self.holds(Rule::LeaseFromAsking) {
            asked = now;
            answer.age = answer.age.map(|_| Duration::ZERO);
        }
        if let Some(watchdog) = &mut self.sites[s].nodes[n].watchdog {
            watchdog.answered(asked, now, &answer);
        }
        self.watchdog_looks(s, n);
    }

    fn watchdog_looks(&mut self, s: usize, n: usize) {
        let now = self.clocks(s, n);
        let boot = self.machine(Proc::Watchdog(s, n)).boot.to_string();
        let proc = Proc::Watchdog(s, n);
        let node = &mut self.sites[s].nodes[n];
        let members: BTreeMap<String, Times> =
            node.containers.iter().map(|(uid, container)| (uid.to_string(), container.times)).collect();
        let Some(watchdog) = &mut node.watchdog else { return };
        let decision = watchdog.decide(now, &members);
        let pods = node.containers.iter().map(|(uid, container)| {
            let pod = Pod {
                name: pod_name(container.key, container.member),
                cluster_uid: format!("c{}", container.key.0),
                member: container.member,
                times: container.times,
                condemned: decision.kill.get(&uid.to_string()).copied(),
            };
            (uid.to_string(), pod)
        });
        let pods = pods.collect();
        node.saved = Some(Saved { boot_id: boot, lease: watchdog.lease(), pods });
        if self.holds(Rule::WatchdogKills) {
            for uid in decision.kill.keys().filter_map(|uid| uid.parse().ok()) {
                let wait = self.rng.between(20, 400);
                self.judge.count("a watchdog kills");
                self.after(proc, wait, move |world| world.container_ends(s, n, uid, "is killed by the watchdog"));
            }
        }
        if let Some(next) = decision.next {
            let wait = next.saturating_sub(now.boot).as_millis();
            let wait = Time::try_from(wait).unwrap_or(Time::MAX);
            // Otherwise the next question comes first.
            if wait < ASK {
                self.after(proc, wait + 1, move |world| world.watchdog_looks(s, n));
            }
        }
    }
}

fn pod_name(key: Key, member: Member) -> String {
    format!("c{}/{}-{}", key.0, member.rank, member.incarnation)
}
