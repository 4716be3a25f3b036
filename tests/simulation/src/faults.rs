//! What goes wrong, and how it is healed.

use crate::hub::Wants;
use crate::judge;
use crate::setup::{NODES, Scene};
use crate::world::{Link, Proc, Time, Way, World};

impl World {
    /// Plans everything that will go wrong.
    pub fn plan_faults(&mut self) {
        match self.setup.scene {
            Scene::Storm => {
                let count = self.rng.between(8, 16);
                for _ in 0..count {
                    let at = self.rng.between(5_000, self.setup.faults_until);
                    self.at(at, World::some_fault);
                }
            }
            Scene::Lost => self.at(90_000, World::lose_a_site),
            Scene::Drained => self.at(60_000, World::drain_a_site),
            Scene::Many => self.at(90_000, World::lose_many),
            Scene::Replayed => self.at(60_000, World::flap),
            Scene::Returning => self.at(60_000, World::return_when_fenced),
            Scene::Starting => self.at(60_000, World::hear_too_late),
            Scene::Unlisted => self.at(60_000, World::return_with_unlisted),
            Scene::Failing => self.at(60_000, World::fail_often),
            Scene::Deposed => self.at(60_000, World::hold_up_leaders),
            Scene::Slow => self.at(60_000, World::slow_down),
            Scene::Paused => self.at(60_000, World::pause_nodes),
        }
    }

    /// How long something lasts, short more often than long; not longer than faults do.
    fn lasting(&mut self) -> Time {
        let top = [2_000, 15_000, 60_000, 150_000, 400_000][self.rng.index(5)];
        self.rng.between(200, top).min(self.setup.faults_until.saturating_sub(self.now) + 1)
    }

    fn cut_for(&mut self, links: &[Link], ways: &[Way], span: Time) {
        for link in links.iter().copied() {
            for way in ways.iter().copied() {
                self.cut(link, way, true);
                self.at(self.now + span, move |world| world.cut(link, way, false));
            }
        }
        let (links, ways) = (links.to_vec(), ways.to_vec());
        self.trace(|| format!("FAULT {links:?} {ways:?} cut for {span} ms"));
    }

    fn some_ways(&mut self) -> &'static [Way] {
        [&[Way::Up, Way::Down][..], &[Way::Up], &[Way::Down]][self.rng.index(3)]
    }

    fn some_fault(&mut self) {
        let (span, ways) = (self.lasting(), self.some_ways());
        let site = self.rng.index(self.setup.sites.len());
        let (node, g, o) = (self.rng.index(NODES), self.rng.index(2), self.rng.index(2));
        let both = [Link::AgentGateway(site, 0), Link::AgentGateway(site, 1)];
        // Where the agent and the Site's API are all there is, what is promised needs them.
        let watched = self.setup.sites[site].watchdog;
        let kind = self.rng.between(0, 28);
        let kind = if !watched && (10..22).contains(&kind) { kind % 2 } else { kind };
        match kind {
            0 => self.fault("a Site cut off from one gateway", |w| w.cut_for(&[both[g]], ways, span)),
            1 | 2 => self.fault("a Site cut off from the hub", |w| w.cut_for(&both, ways, span)),
            3 => self.fault("a gateway cut off from the hub's API", |w| w.cut_for(&[Link::GatewayApi(g)], ways, span)),
            4 => {
                self.fault("an operator cut off from the hub's API", |w| {
                    w.cut_for(&[Link::OperatorApi(o)], ways, span);
                });
            }
            5 => self.fault("the hub's API is out", |w| {
                w.hub.out = true;
                w.at(w.now + span, |w| w.hub.out = false);
                w.trace(|| format!("FAULT the hub's API is out for {span} ms"));
            }),
            6 => self.fault("an operator crashes", |w| w.crash(Proc::Operator(o), span)),
            7 => self.fault("a gateway crashes", |w| w.crash(Proc::Gateway(g), span)),
            8 => self.fault("a gateway ends in order", |w| {
                w.release_gateway(g);
                let wait = w.rng.between(10, 1_500);
                w.at(w.now + wait, move |w| w.crash(Proc::Gateway(g), span));
            }),
            9 => {
                let proc = if self.rng.percent(50) { Proc::Operator(o) } else { Proc::Gateway(g) };
                self.fault("a machine of the hub sleeps", |w| w.doze(proc, span, false));
            }
            10 | 11 => self.fault("an agent crashes", |w| w.crash(Proc::Agent(site), span)),
            12 => self.fault("an agent's machine sleeps", |w| w.doze(Proc::Agent(site), span, false)),
            13 => {
                self.fault("an agent cut off from its Site's API", |w| w.cut_for(&[Link::AgentApi(site)], ways, span));
            }
            14 => self.fault("a node cut off from everything", |w| {
                w.cut_for(&[Link::NodeApi(site, node), Link::NodeAgent(site, node)], &[Way::Up, Way::Down], span);
            }),
            15 => {
                let link = if self.rng.percent(50) { Link::NodeApi(site, node) } else { Link::NodeAgent(site, node) };
                self.fault("a node cut off from its agent or API", |w| w.cut_for(&[link], ways, span));
            }
            16 => self.fault("a node's machine sleeps", |w| w.doze(Proc::Kubelet(site, node), span, false)),
            17 => self.fault("a node is a paused virtual machine", |w| w.doze(Proc::Kubelet(site, node), span, true)),
            18 => self.fault("a node boots", |w| w.reboot_node(site, node, span)),
            19 => self.fault("a kubelet or watchdog crashes", |w| {
                if w.rng.percent(50) {
                    // It is started again at once: while there is none nobody else kills.
                    w.crash(Proc::Watchdog(site, node), span.min(1_500));
                } else {
                    w.crash(Proc::Kubelet(site, node), span);
                }
            }),
            20 => self.fault("a watchdog restarts again and again", |w| w.restless_watchdog(site, node, span)),
            21 => self.fault("a node is cut off and its Node deleted", |w| {
                w.cut_for(&[Link::NodeApi(site, node)], &[Way::Up, Way::Down], span);
                if w.rng.percent(50) {
                    w.cut_for(&[Link::NodeAgent(site, node)], &[Way::Up, Way::Down], span);
                }
                let wait = w.rng.between(10, 30_000);
                w.at(w.now + wait, move |w| w.delete_node(site, node));
            }),
            22 => self.fault("a wall clock is set", |w| {
                let procs = [Proc::Operator(o), Proc::Gateway(g), Proc::Agent(site)];
                let proc = procs[w.rng.index(3)];
                let by = i64::try_from(w.rng.between(0, 7_200_000)).unwrap_or(0) - 3_600_000;
                w.machine_mut(proc).wall += by;
                w.trace(|| format!("FAULT the wall clock of {proc:?} jumps by {by} ms"));
            }),
            23 | 24 => self.fault("members fail while a Site is cut off", |w| {
                // What is placed anew may be on its way to that Site.
                let cluster = w.rng.index(w.setup.clusters.len());
                w.cut_for(&both, &[Way::Up, Way::Down], span);
                w.fail_members(cluster);
            }),
            25 => self.fault("members fail", |w| {
                let cluster = w.rng.index(w.setup.clusters.len());
                w.fail_members(cluster);
            }),
            26 => self.fault("containers start slowly", |w| {
                w.sites[site].nodes[node].slow_until = w.now + span;
                w.trace(|| format!("FAULT containers of site {site} node {node} start slowly for {span} ms"));
            }),
            _ => self.fault("a supplier drains its Site", |w| {
                w.trace(|| format!("FAULT site {site} drains for {span} ms"));
                w.supplier_wants(site, Wants::Draining);
                w.at(w.now + span, move |w| w.supplier_wants(site, Wants::Accepting));
            }),
        }
    }

    fn fault(&mut self, what: &'static str, act: impl FnOnce(&mut World)) {
        self.judge.count(what);
        act(self);
    }

    fn crash(&mut self, proc: Proc, span: Time) {
        if !self.life(proc).up {
            return;
        }
        self.trace(|| format!("FAULT {proc:?} crashes for {span} ms"));
        self.sessions_break(proc);
        self.set_up(proc, false);
        let number = self.life(proc).number;
        self.at(self.now + span, move |world| {
            if world.life(proc).number == number {
                world.start(proc);
            }
        });
    }

    /// A process starts.
    pub fn start(&mut self, proc: Proc) {
        match proc {
            Proc::Operator(o) => self.start_operator(o),
            Proc::Gateway(g) => self.start_gateway(g),
            Proc::Agent(s) => self.start_agent(s),
            Proc::Kubelet(s, n) => self.start_kubelet(s, n),
            Proc::Watchdog(s, n) if self.setup.sites[s].watchdog => self.start_watchdog(s, n),
            Proc::Watchdog(..) => {}
        }
    }

    fn doze(&mut self, proc: Proc, span: Time, frozen: bool) {
        if !self.awake(proc) {
            return;
        }
        self.trace(|| format!("FAULT the machine of {proc:?} sleeps for {span} ms, frozen: {frozen}"));
        self.sleep(proc, span, frozen);
        if let Proc::Kubelet(s, n) = proc {
            self.at(self.now + span, move |world| judge::woke(world, s, n));
        }
    }

    fn reboot_node(&mut self, s: usize, n: usize, span: Time) {
        self.trace(|| format!("FAULT node {n} of site {s} is off for {span} ms"));
        self.node_dies(s, n);
        let number = self.life(Proc::Kubelet(s, n)).number;
        self.at(self.now + span, move |world| {
            if world.life(Proc::Kubelet(s, n)).number == number {
                world.reboot(Proc::Kubelet(s, n));
                world.start(Proc::Kubelet(s, n));
                world.start(Proc::Watchdog(s, n));
            }
        });
    }

    fn restless_watchdog(&mut self, s: usize, n: usize, left: Time) {
        let wait = self.rng.between(500, 8_000).min(left + 1);
        self.at(self.now + wait, move |world| {
            if world.life(Proc::Kubelet(s, n)).up {
                world.set_up(Proc::Watchdog(s, n), false);
                world.start(Proc::Watchdog(s, n));
            }
            if left > wait {
                world.restless_watchdog(s, n, left - wait);
            }
        });
    }

    fn fail_members(&mut self, cluster: usize) {
        self.trace(|| format!("FAULT members of Cluster {cluster} fail"));
        for (s, n) in judge::all_nodes(self.setup.sites.len()) {
            let node = Proc::Kubelet(s, n);
            let there = self.sites[s].nodes[n].containers.iter().filter(|(_, c)| c.runs && c.key.0 == cluster);
            let there: Vec<u64> = there.map(|(uid, _)| *uid).collect();
            if self.awake(node) {
                for uid in there {
                    self.container_ends(s, n, uid, "fails");
                }
            }
        }
    }

    /// The Site's controllers remove all pods of a Node that is gone.
    fn delete_node(&mut self, s: usize, n: usize) {
        let there: Vec<_> =
            self.sites[s].pods.iter().filter(|(_, pod)| pod.node == Some(n)).map(|(at, _)| *at).collect();
        for (key, member) in there {
            self.force_away(s, key, member);
        }
    }

    /// A Site that runs something.
    fn busy_site(&mut self) -> Option<usize> {
        if let Some(words) = judge::whole(self) {
            judge::restless(self, format!("before anything went wrong: {words}"));
            return None;
        }
        let member = self.hub.clusters.first().and_then(|cluster| cluster.state.members.first())?;
        Some(crate::operator::number(&member.site))
    }

    /// The same once all is well, whatever went wrong until then; else that is looked at again.
    fn settled_site(&mut self, again: fn(&mut World)) -> Option<usize> {
        if judge::whole(self).is_some() {
            if self.now < self.setup.faults_until {
                self.at(self.now + 5_000, again);
            }
            return None;
        }
        self.busy_site()
    }

    fn lose_a_site(&mut self) {
        let Some(site) = self.busy_site() else { return };
        let links = [Link::AgentGateway(site, 0), Link::AgentGateway(site, 1)];
        let span = 300_000;
        match self.rng.index(6) {
            0 => self.fault("one fault: a Site cut off", |w| w.cut_for(&links, &[Way::Up, Way::Down], span)),
            1 => self.fault("one fault: a Site is not heard", |w| w.cut_for(&links, &[Way::Up], span)),
            2 => self.fault("one fault: a Site does not hear", |w| w.cut_for(&links, &[Way::Down], span)),
            3 => self.fault("one fault: an agent is down", |w| w.crash(Proc::Agent(site), span)),
            4 => self.fault("one fault: an agent's machine sleeps", |w| w.doze(Proc::Agent(site), span, false)),
            _ => self.fault("one fault: a Site loses its power", |w| {
                w.crash(Proc::Agent(site), span);
                for n in 0..NODES {
                    w.reboot_node(site, n, span);
                }
            }),
        }
        judge::deadline(self, site, false, self.now);
    }

    fn drain_a_site(&mut self) {
        let Some(site) = self.busy_site() else { return };
        self.fault("one fault: a Site drains", |w| {
            w.trace(|| format!("site {site} drains"));
            w.supplier_wants(site, Wants::Draining);
        });
        judge::deadline(self, site, true, self.now);
        let until = self.setup.faults_until - 1;
        self.at(until, move |world| world.supplier_wants(site, Wants::Accepting));
    }

    fn lose_many(&mut self) {
        if self.busy_site().is_none() {
            return;
        }
        let sites = self.setup.sites.len() - 3;
        self.fault("most of many Sites cut off at once", |w| {
            for site in 0..sites {
                w.cut_for(&[Link::AgentGateway(site, 0), Link::AgentGateway(site, 1)], &[Way::Up, Way::Down], 250_000);
            }
        });
        self.judge.frozen = true;
        self.at(self.now + 249_000, |world| world.judge.frozen = false);
    }

    /// A Site's sessions are ended by its gateways one after the other, and then the Site is not heard for long.
    fn flap(&mut self) {
        let Some(site) = self.settled_site(World::flap) else { return };
        self.judge.count("sessions in quick succession");
        let mut at = self.now;
        for _ in 0..8 {
            at += self.rng.between(3_000, 20_000);
            self.at(at, move |w| w.dismiss(site));
        }
        at += self.rng.between(1_000, 15_000);
        let links = [Link::AgentGateway(site, 0), Link::AgentGateway(site, 1)];
        self.at(at, move |w| w.cut_for(&links, &[Way::Up], 60_000));
    }

    /// A Site is cut off, and what is placed anew may be on its way there; see [`World::about_to_fence`].
    fn return_when_fenced(&mut self) {
        let Some(site) = self.settled_site(World::return_when_fenced) else { return };
        let away = (site + 1) % self.setup.sites.len();
        let links = [Link::AgentGateway(away, 0), Link::AgentGateway(away, 1)];
        self.fault("a Site returns when it is fenced", |w| {
            w.returning = Some(away);
            w.cut_for(&links, &[Way::Up, Way::Down], 200_000);
            let wait = w.rng.between(50, 500);
            w.at(w.now + wait, |w| w.fail_members(0));
        });
    }

    /// In the scene of a Site that returns: an operator has decided to fence it. How long it stands still before it writes
    /// that, and from then on.
    pub fn about_to_fence(&mut self, site: usize) -> Option<(Time, Time)> {
        self.returning.take_if(|returning| *returning == site)?;
        let wait = self.rng.between(0, 500);
        self.at(self.now + wait, move |w| {
            for link in [Link::AgentGateway(site, 0), Link::AgentGateway(site, 1)] {
                w.cut(link, Way::Up, false);
                w.cut(link, Way::Down, false);
            }
            // A new process does not wait until it tries again.
            w.crash(Proc::Agent(site), 50);
            w.deaf = Some(site);
        });
        Some(if self.rng.percent(50) { (self.rng.between(500, 6_000), 0) } else { (0, self.rng.between(500, 6_000)) })
    }

    /// A session has begun. In the scene of a Site that returns: its gateway hears no more news.
    pub fn welcomed(&mut self, g: usize, site: usize) {
        if self.deaf.take_if(|deaf| *deaf == site).is_some() && self.rng.percent(50) {
            self.cut_for(&[Link::GatewayApi(g)], &[Way::Down], 40_000);
        }
        if let Some((_, node)) = self.unlisted.take_if(|(unlisted, _)| *unlisted == site) {
            self.place_at_unlisted(site, node);
        }
    }

    /// A Site's nodes are cut off from its API when members are placed there, and its agent dies; they hear of these members
    /// when others have taken their place.
    fn hear_too_late(&mut self) {
        let Some(site) = self.settled_site(World::hear_too_late) else { return };
        let away = (site + 1) % self.setup.sites.len();
        let fence = self.setup.clusters.iter().map(|cluster| cluster.times.2 * 1_000).max().unwrap_or(0);
        self.fault("a node hears of a member too late", |w| {
            let dies = w.rng.between(1_000, 4_000);
            let span = dies + fence + w.rng.between(1_000, 15_000);
            let links: Vec<Link> = (0..NODES).map(|n| Link::NodeApi(away, n)).collect();
            w.cut_for(&links, &[Way::Up, Way::Down], span);
            w.fail_members(0);
            w.at(w.now + dies, move |w| w.crash(Proc::Agent(away), 100_000));
        });
    }

    /// A Site comes back whose members run on without a lease, and without their pods.
    fn return_with_unlisted(&mut self) {
        let Some(site) = self.settled_site(World::return_with_unlisted) else { return };
        let Some(member) = self.hub.clusters.first().and_then(|cluster| cluster.state.members.first()) else { return };
        let node = crate::operator::number(&member.node);
        let links = [Link::AgentGateway(site, 0), Link::AgentGateway(site, 1)];
        let fence = self.setup.clusters.iter().map(|cluster| cluster.times.2 * 1_000).max().unwrap_or(0);
        self.fault("a Site returns with members that are not listed", |w| {
            let span = fence + w.rng.between(8_000, 15_000);
            w.cut_for(&links, &[Way::Up, Way::Down], span);
            // A new process has no list of the hub's, so it names nobody to be killed.
            w.at(w.now + 3_000, move |w| w.crash(Proc::Agent(site), 100));
            w.at(w.now + span - 2_000, move |w| {
                w.cut_for(&[Link::NodeApi(site, node)], &[Way::Up, Way::Down], 20_000);
                w.delete_node(site, node);
            });
            w.at(w.now + span, move |w| {
                w.unlisted = Some((site, node));
                // Another one does not wait until it connects.
                w.crash(Proc::Agent(site), 50);
            });
        });
    }

    /// Members are to be placed there now, and then the node hears of them.
    fn place_at_unlisted(&mut self, site: usize, node: usize) {
        let (fails, heals) = (self.rng.between(10, 300), self.rng.between(400, 2_500));
        self.at(self.now + fails, |w| w.fail_members(1));
        self.at(self.now + heals, move |w| {
            w.cut(Link::NodeApi(site, node), Way::Up, false);
            w.cut(Link::NodeApi(site, node), Way::Down, false);
        });
    }

    /// Members fail again and again, and what operators ask for is often done late.
    fn fail_often(&mut self) {
        if self.settled_site(World::fail_often).is_none() {
            return;
        }
        self.judge.count("members fail again and again");
        self.hurried = true;
        let mut at = self.now;
        for _ in 0..30 {
            at += self.rng.between(500, 6_000);
            let cluster = self.rng.index(self.setup.clusters.len());
            self.at(at, move |w| w.fail_members(cluster));
        }
        self.at(at, |w| w.hurried = false);
    }

    /// Leaders stand still before they write; members fail and Sites drain meanwhile.
    fn hold_up_leaders(&mut self) {
        if self.settled_site(World::hold_up_leaders).is_none() {
            return;
        }
        self.judge.count("leaders are held up");
        self.held_up = true;
        let mut at = self.now;
        for _ in 0..20 {
            at += self.rng.between(1_000, 10_000);
            let (site, cluster) = (self.rng.index(self.setup.sites.len()), self.rng.index(self.setup.clusters.len()));
            self.at(at, move |w| {
                if w.rng.percent(50) {
                    return w.fail_members(cluster);
                }
                let span = w.rng.between(5_000, 30_000);
                w.trace(|| format!("FAULT site {site} drains for {span} ms"));
                w.supplier_wants(site, Wants::Draining);
                w.at(w.now + span, move |w| w.supplier_wants(site, Wants::Accepting));
            });
        }
        self.at(at, |w| w.held_up = false);
    }

    /// A Site's agent dies, and its nodes are paused until their members' fence is over.
    fn pause_nodes(&mut self) {
        let Some(site) = self.settled_site(World::pause_nodes) else { return };
        let fence = self.setup.clusters.iter().map(|cluster| cluster.times.2 * 1_000).max().unwrap_or(0);
        self.fault("nodes are paused beyond a fence", |w| {
            w.crash(Proc::Agent(site), 100_000);
            let span = fence + w.rng.between(500, 10_000);
            for n in 0..NODES {
                w.doze(Proc::Kubelet(site, n), span, true);
            }
        });
    }

    /// A Site hears its gateways later and later, and then they do not hear it.
    fn slow_down(&mut self) {
        let Some(site) = self.settled_site(World::slow_down) else { return };
        let slow = self.rng.between(2_500, 6_500);
        self.fault("a Site hears late, and is not heard then", |w| {
            w.trace(|| format!("FAULT what gateways say to site {site} takes {slow} ms"));
            w.slow = Some((site, slow));
            let (cut, heals) = (w.rng.between(5_000, 15_000), 60_000);
            let links = [Link::AgentGateway(site, 0), Link::AgentGateway(site, 1)];
            w.at(w.now + cut, move |w| w.cut_for(&links, &[Way::Up], 60_000));
            w.at(w.now + cut + heals, |w| w.slow = None);
        });
    }

    /// Nothing is wrong any more.
    pub fn heal(&mut self) {
        self.trace(|| "all is healed".to_owned());
        self.hub.out = false;
        let sites = self.setup.sites.len();
        let mut links: Vec<Link> = (0..2).flat_map(|n| [Link::GatewayApi(n), Link::OperatorApi(n)]).collect();
        let mut procs: Vec<Proc> = (0..2).flat_map(|n| [Proc::Operator(n), Proc::Gateway(n)]).collect();
        for s in 0..sites {
            links.extend([Link::AgentGateway(s, 0), Link::AgentGateway(s, 1), Link::AgentApi(s)]);
            procs.push(Proc::Agent(s));
            for n in 0..NODES {
                links.extend([Link::NodeApi(s, n), Link::NodeAgent(s, n)]);
                self.sites[s].nodes[n].slow_until = 0;
                if !self.life(Proc::Kubelet(s, n)).up {
                    self.reboot(Proc::Kubelet(s, n));
                }
                procs.extend([Proc::Kubelet(s, n), Proc::Watchdog(s, n)]);
            }
            if self.agents[s].wants != Wants::Accepting {
                self.supplier_wants(s, Wants::Accepting);
            }
        }
        for link in links {
            self.cut(link, Way::Up, false);
            self.cut(link, Way::Down, false);
        }
        for proc in procs {
            if !self.life(proc).up {
                self.start(proc);
            }
        }
    }
}
