//! A gateway: claims sessions, grants leases, delivers slices, writes reports and losses.

mod reports;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use atoll_core::member::Report;
use atoll_core::session::{Answer, Pulse, Rhythm, SeenLease, Tenure};

pub use reports::status;

use crate::hub::{Cache, Change, Key, SiteObject, SliceObject, Spec, Wants};
use crate::rule::Rule;
use crate::setup::{Scene, Setup};
use crate::world::{ApiError, Link, Proc, Time, Way, World};

/// What an agent says at the begin of a session.
#[derive(Clone, Debug)]
pub struct Hello {
    /// What it holds.
    pub held: BTreeMap<Key, Option<Rc<Spec>>>,
    /// What its supplier wants.
    pub wants: Wants,
    /// Whether its nodes are Ready.
    pub ready: Vec<bool>,
}

/// What a gateway says to an agent.
#[derive(Clone, Debug)]
pub enum ToAgent {
    /// The session has begun.
    Welcome,
    /// It ends, or does not begin.
    Goodbye,
    /// Members may run on.
    Grant {
        /// The heartbeat that this answers.
        sequence: u64,
        /// From that to the next one.
        next: Duration,
    },
    /// A slice as it is wanted.
    Slice(Rc<SliceObject>),
    /// A slice is being deleted.
    Deleted(Key),
    /// These are listed and no others.
    Synced(Vec<Key>),
}

/// What an agent says in a session.
#[derive(Clone, Debug)]
pub enum ToGateway {
    /// It lives.
    Heartbeat(u64),
    /// About a slice.
    Report(Key, Report),
    /// What its supplier wants, and which nodes are Ready.
    Inventory(Wants, Vec<bool>),
    /// The stream is closed.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Beginning,
    Live,
    /// Its stream is gone, and nobody has noted that.
    Lingering,
    /// It is being noted as lost.
    Losing,
}

#[derive(Debug)]
struct Session {
    stream: u64,
    stage: Stage,
    number: u64,
    pulse: Pulse,
    hello: Hello,
    sent: BTreeMap<Key, (u64, i64, bool)>,
    /// What the agent said last of each slice, and the slice's uid.
    said: BTreeMap<Key, (u64, Report)>,
    /// Epochs of Clusters that are fenced here; what was fenced once in a session stays so.
    fenced: BTreeMap<usize, u64>,
    /// The grants before the last, for who notes only these.
    earlier: [Duration; 2],
}

#[derive(Debug, Default)]
struct Writing {
    busy: bool,
    /// Number of the session that says it, uid of the slice.
    pending: Option<(u64, u64, Report)>,
}

/// A gateway's memory.
#[derive(Debug)]
pub struct Gateway {
    listed: bool,
    cache: Cache,
    tenure: Tenure,
    held: bool,
    sessions: Vec<Option<Session>>,
    seen: Vec<Option<SeenLease>>,
    unkept: Vec<Option<(u64, Duration)>>,
    writing: BTreeMap<Key, Writing>,
    sites: usize,
}

const RHYTHM: Rhythm = Rhythm { heartbeat: Duration::from_secs(10), patience: Duration::from_secs(30) };

impl Gateway {
    /// One that has just started.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let sites = setup.sites.len();
        Self {
            listed: false,
            cache: Cache::default(),
            tenure: Tenure::default(),
            held: false,
            sessions: (0..sites).map(|_| None).collect(),
            seen: vec![None; 2],
            unkept: vec![None; sites],
            writing: BTreeMap::new(),
            sites,
        }
    }
}

fn millis(duration: Duration) -> Time {
    u64::try_from(duration.as_millis()).unwrap_or(Time::MAX)
}

impl World {
    /// A gateway starts.
    pub fn start_gateway(&mut self, g: usize) {
        let proc = Proc::Gateway(g);
        self.set_up(proc, true);
        self.gateways[g] = Gateway::new(&self.setup);
        self.trace(|| format!("gateway {g} starts"));
        self.list_gateway(g);
    }

    fn list_gateway(&mut self, g: usize) {
        self.ask_hub(
            Proc::Gateway(g),
            |world| Ok(world.hub.list()),
            move |world, result| match result {
                Ok(cache) => {
                    world.gateways[g].cache = cache;
                    world.gateways[g].listed = true;
                    world.renew_own(g);
                    world.look_for_orphans(g);
                }
                Err(_) => world.after(Proc::Gateway(g), 500, move |world| world.list_gateway(g)),
            },
        );
    }

    /// A gateway ends in order: it releases its Lease, and its sessions end.
    pub fn release_gateway(&mut self, g: usize) {
        let proc = Proc::Gateway(g);
        if !self.life(proc).up {
            return;
        }
        self.end_all(g);
        self.gateways[g].tenure = Tenure::default();
        self.gateways[g].held = false;
        let wall = self.wall(proc);
        self.ask_hub(proc, move |world| world.renew_lease(g, wall, true), |_, _| {});
    }

    fn renew_own(&mut self, g: usize) {
        let proc = Proc::Gateway(g);
        let (sent, wall) = (self.boot(proc), self.wall(proc));
        let lease = self.setup.lease;
        self.ask_hub(
            proc,
            move |world| world.renew_lease(g, wall, false),
            move |world, result| {
                let period = lease / 6;
                let wait = if result.is_ok() {
                    world.gateways[g].tenure = Tenure::renewed(sent, Duration::from_millis(lease));
                    world.gateways[g].held = true;
                    period
                } else {
                    2_000.min(period / 4)
                };
                world.after(proc, wait, move |world| world.renew_own(g));
                world.watch_own(g);
            },
        );
    }

    /// A lapse is noticed when it happens.
    fn watch_own(&mut self, g: usize) {
        let proc = Proc::Gateway(g);
        let now = self.boot(proc);
        let until = self.gateways[g].tenure.until();
        if self.may_grant(g) {
            self.after(proc, millis(until.saturating_sub(now)) + 1, move |world| {
                if world.gateways[g].held && !world.may_grant(g) {
                    world.trace(|| format!("gateway {g}'s own Lease lapsed"));
                    world.gateways[g].held = false;
                    world.end_all(g);
                }
            });
        }
    }

    fn may_grant(&self, g: usize) -> bool {
        let held = self.gateways[g].tenure.held(self.boot(Proc::Gateway(g)));
        held || (!self.holds(Rule::UnderOwnLease) && self.gateways[g].held)
    }

    fn end_all(&mut self, g: usize) {
        for site in 0..self.gateways[g].sites {
            if let Some(session) = self.gateways[g].sessions[site].take()
                && matches!(session.stage, Stage::Beginning | Stage::Live)
            {
                self.tell_agent(g, site, session.stream, ToAgent::Goodbye);
            }
        }
    }

    /// Whichever gateway has a session of this Site ends it.
    pub fn dismiss(&mut self, site: usize) {
        for g in 0..2 {
            if let Some(session) = self.gateways[g].sessions[site].take_if(|session| session.stage == Stage::Live) {
                self.trace(|| format!("gateway {g} ends session {} of site {site}", session.number));
                self.tell_agent(g, site, session.stream, ToAgent::Goodbye);
            }
        }
    }

    fn tell_agent(&mut self, g: usize, site: usize, stream: u64, message: ToAgent) {
        self.tell(Link::AgentGateway(site, g), Way::Down, Proc::Agent(site), true, move |world| {
            world.agent_hears(site, stream, message);
        });
    }

    fn rhythm(&self, g: usize, site: usize) -> Rhythm {
        let slices = self.gateways[g].cache.slices.values().filter(|slice| slice.key.1 == site);
        RHYTHM.of(slices.map(|slice| Duration::from_secs(slice.spec.times.0)).min())
    }

    /// A hello arrives.
    pub fn gateway_greeted(&mut self, g: usize, site: usize, stream: u64, hello: Hello) {
        let gateway = &mut self.gateways[g];
        gateway.sessions[site] = None;
        if !gateway.listed || !self.may_grant(g) {
            return self.tell_agent(g, site, stream, ToAgent::Goodbye);
        }
        let pulse = Pulse::begin(Duration::ZERO, RHYTHM);
        let session = Session {
            stream,
            stage: Stage::Beginning,
            number: 0,
            pulse,
            hello,
            sent: BTreeMap::new(),
            said: BTreeMap::new(),
            fenced: BTreeMap::new(),
            earlier: [Duration::ZERO; 2],
        };
        self.gateways[g].sessions[site] = Some(session);
        let version = self.gateways[g].cache.sites[site].version;
        self.claim(g, site, stream, version, 0);
    }

    fn of_stream(&mut self, g: usize, site: usize, stream: u64) -> Option<&mut Session> {
        self.gateways[g].sessions[site].as_mut().filter(|session| session.stream == stream)
    }

    fn claim(&mut self, g: usize, site: usize, stream: u64, version: u64, tries: u32) {
        let Some(session) = self.of_stream(g, site, stream) else { return };
        let wants = session.hello.wants;
        let ready = session.hello.ready.clone();
        if !self.holds(Rule::NumberedSession) && self.gateways[g].cache.sites[site].number > 0 {
            let object = Rc::clone(&self.gateways[g].cache.sites[site]);
            return self.claimed(g, site, stream, &object);
        }
        let claim = move |world: &mut World| {
            world.patch_site(site, Some(version), |object| {
                object.number += 1;
                object.gateway = g;
                object.connected = true;
                object.lost_age = None;
                object.lost_wall = None;
                object.wants = wants;
                object.ready = ready;
            })
        };
        self.ask_hub(Proc::Gateway(g), claim, move |world, result| {
            if world.of_stream(g, site, stream).is_none() {
                return;
            }
            match result {
                Ok(object) => {
                    world.gateways[g].cache.take(Change::Site(site, Rc::clone(&object)));
                    world.claimed(g, site, stream, &object);
                }
                Err(ApiError::Conflict) if tries < 16 => {
                    let get = move |world: &mut World| Ok(world.hub.sites[site].version);
                    world.ask_hub(Proc::Gateway(g), get, move |world, result| match result {
                        Ok(version) => world.claim(g, site, stream, version, tries + 1),
                        Err(_) => world.refuse(g, site, stream),
                    });
                }
                Err(_) => world.refuse(g, site, stream),
            }
        });
    }

    fn refuse(&mut self, g: usize, site: usize, stream: u64) {
        if self.of_stream(g, site, stream).is_some() {
            self.gateways[g].sessions[site] = None;
            self.tell_agent(g, site, stream, ToAgent::Goodbye);
        }
    }

    /// The session is numbered: its slices are compared with a list that is as new.
    fn claimed(&mut self, g: usize, site: usize, stream: u64, object: &SiteObject) {
        let (now, rhythm, number) = (self.boot(Proc::Gateway(g)), self.rhythm(g, site), object.number);
        let Some(session) = self.of_stream(g, site, stream) else { return };
        session.number = number;
        session.pulse = Pulse::begin(now, rhythm);
        session.earlier = [now; 2];
        self.trace(|| format!("gateway {g}: session {number} of site {site} begins"));
        self.judge.began(site, number);
        self.learn_fences(g, site, object);
        let list = move |world: &mut World| {
            let slices = world.hub.slices.values().filter(|slice| slice.key.1 == site).cloned();
            Ok((slices.collect::<Vec<_>>(), world.hub.version))
        };
        self.ask_hub(Proc::Gateway(g), list, move |world, result| {
            let Ok((slices, version)) = result else { return world.refuse(g, site, stream) };
            if world.of_stream(g, site, stream).is_none() {
                return;
            }
            let cache = &mut world.gateways[g].cache;
            let unlisted: Vec<Key> = cache
                .slices
                .values()
                .filter(|slice| slice.key.1 == site && slice.version <= version)
                .map(|slice| slice.key)
                .filter(|key| !slices.iter().any(|listed| listed.key == *key))
                .collect();
            for key in unlisted {
                cache.take(Change::SliceGone(key, version));
            }
            for slice in slices {
                cache.take(Change::Slice(slice));
            }
            world.welcome(g, site, stream);
        });
    }

    /// Whether a slice is fenced: its members count as stopped, so it is not delivered.
    fn is_fenced(&self, g: usize, slice: &SliceObject) -> bool {
        let (cluster, site) = slice.key;
        let session = self.gateways[g].sessions[site].as_ref();
        self.holds(Rule::FencedWithheld)
            && session
                .is_some_and(|session| session.fenced.get(&cluster).is_some_and(|epoch| slice.spec.epoch <= *epoch))
    }

    fn learn_fences(&mut self, g: usize, site: usize, object: &SiteObject) {
        let Some(session) = &mut self.gateways[g].sessions[site] else { return };
        for (cluster, epoch) in &object.fenced {
            let known = session.fenced.entry(*cluster).or_default();
            *known = (*epoch).max(*known);
        }
    }

    fn welcome(&mut self, g: usize, site: usize, stream: u64) {
        self.tell_agent(g, site, stream, ToAgent::Welcome);
        let slices: Vec<Rc<SliceObject>> =
            self.gateways[g].cache.slices.values().filter(|slice| slice.key.1 == site).cloned().collect();
        let mut listed = Vec::new();
        for slice in slices {
            let key = slice.key;
            if self.is_fenced(g, &slice) {
                continue;
            }
            let Some(session) = self.of_stream(g, site, stream) else { return };
            session.sent.insert(key, (slice.uid, slice.generation, slice.deleting));
            let same = session.hello.held.get(&key).is_some_and(|held| held.as_ref() == Some(&slice.spec));
            if slice.deleting {
                if slice.status.as_ref().is_none_or(|status| !status.stopped) {
                    self.tell_agent(g, site, stream, ToAgent::Deleted(key));
                }
            } else {
                listed.push(key);
                if !same {
                    self.tell_agent(g, site, stream, ToAgent::Slice(slice));
                }
            }
        }
        self.tell_agent(g, site, stream, ToAgent::Synced(listed));
        self.welcomed(g, site);
        if let Some(session) = self.of_stream(g, site, stream) {
            session.stage = Stage::Live;
        }
        self.watch_pulse(g, site, stream);
    }

    fn watch_pulse(&mut self, g: usize, site: usize, stream: u64) {
        let now = self.boot(Proc::Gateway(g));
        let Some(session) = self.of_stream(g, site, stream) else { return };
        match session.pulse.left(now) {
            Some(left) => {
                let wait = millis(left).min(5_000) + 1;
                self.after(Proc::Gateway(g), wait, move |world| world.watch_pulse(g, site, stream));
            }
            None if session.stage == Stage::Losing => {}
            None => {
                if session.stage == Stage::Live {
                    self.tell_agent(g, site, stream, ToAgent::Goodbye);
                }
                if let Some(session) = self.of_stream(g, site, stream) {
                    session.stage = Stage::Losing;
                }
                self.lose(g, site, stream);
            }
        }
    }

    /// Notes that a session is over, until that is done or a newer one has begun.
    fn lose(&mut self, g: usize, site: usize, stream: u64) {
        let Some(session) = self.of_stream(g, site, stream) else { return };
        let (number, earlier) = (session.number, session.earlier);
        let noted = self.holds(Rule::NotedBeforeSent);
        let Some(session) = self.of_stream(g, site, stream) else { return };
        let since = if noted { session.pulse.last_grant() } else { earlier[0] };
        self.call_lost(g, site, g, number, since, move |world, done| {
            if world.of_stream(g, site, stream).is_none() {
                return;
            }
            if done {
                world.gateways[g].sessions[site] = None;
            } else {
                world.after(Proc::Gateway(g), 2_000, move |world| world.lose(g, site, stream));
            }
        });
    }

    fn call_lost(
        &mut self,
        g: usize,
        site: usize,
        gateway: usize,
        number: u64,
        since: Duration,
        then: impl FnOnce(&mut World, bool) + 'static,
    ) {
        let proc = Proc::Gateway(g);
        let get = move |world: &mut World| Ok(Rc::clone(&world.hub.sites[site]));
        self.ask_hub(proc, get, move |world, result| {
            let Ok(object) = result else { return then(world, false) };
            if object.number != number || object.gateway != gateway || !object.connected {
                return then(world, true);
            }
            let version = object.version;
            let age = world.boot(proc).saturating_sub(since);
            let wall = world.wall(proc) - i64::try_from(age.as_millis()).unwrap_or(0);
            let patch = move |world: &mut World| {
                world.patch_site(site, Some(version), |object| {
                    object.connected = false;
                    object.lost_age = Some(millis(age));
                    object.lost_wall = Some(wall);
                })
            };
            world.ask_hub(proc, patch, move |world, result| {
                if let Ok(object) = &result {
                    world.trace(|| {
                        format!("gateway {g}: session {number} of site {site} is lost, last grant {age:?} ago")
                    });
                    world.gateways[g].cache.take(Change::Site(site, Rc::clone(object)));
                }
                then(world, result.is_ok());
            });
        });
    }

    /// Sites whose gateway is gone.
    fn look_for_orphans(&mut self, g: usize) {
        let proc = Proc::Gateway(g);
        let now = self.boot(proc);
        let lease = Duration::from_millis(self.setup.lease);
        for other in 0..2 {
            let object = Rc::clone(&self.gateways[g].cache.leases[other]);
            let version = (object.version > 0).then(|| object.version.to_string());
            let lasts = if object.holder.is_some() { lease } else { Duration::ZERO };
            let seen = &mut self.gateways[g].seen[other];
            match seen {
                Some(seen) => seen.see(version, lasts, now),
                None => *seen = Some(SeenLease::new(version, lasts, now)),
            }
        }
        for site in 0..self.gateways[g].sites {
            let object = Rc::clone(&self.gateways[g].cache.sites[site]);
            if !object.connected || self.gateways[g].sessions[site].is_some() {
                self.gateways[g].unkept[site] = None;
                continue;
            }
            let own = object.gateway == g;
            if own && self.gateways[g].unkept[site].is_none_or(|(number, _)| number != object.number) {
                self.gateways[g].unkept[site] = Some((object.number, now));
            }
            let end = match self.gateways[g].unkept[site].filter(|_| own) {
                Some((_, since)) => Some(since),
                None => self.gateways[g].seen[object.gateway].as_ref().map(SeenLease::end),
            };
            let end = if self.holds(Rule::LeaseAsObserved) || own {
                end
            } else {
                let left = self.gateways[g].cache.leases[object.gateway].renewed
                    + i64::try_from(self.setup.lease).unwrap_or(0)
                    - self.wall(proc);
                Some(if left > 0 {
                    now + Duration::from_hours(1)
                } else {
                    now.saturating_sub(Duration::from_millis(left.unsigned_abs()))
                })
            };
            if let Some(end) = end.filter(|end| now >= *end + RHYTHM.patience) {
                let (gateway, number) = (object.gateway, object.number);
                if own {
                    self.call_lost(g, site, gateway, number, end, |_, _| {});
                } else {
                    self.call_orphan_lost(g, site, gateway, number, end);
                }
            }
        }
        self.after(proc, 2_000, move |world| world.look_for_orphans(g));
    }

    /// A watch that stands still shows no renewals either: the Lease is read before anybody is called lost for it.
    fn call_orphan_lost(&mut self, g: usize, site: usize, gateway: usize, number: u64, end: Duration) {
        let seen = self.gateways[g].cache.leases[gateway].version;
        let get = move |world: &mut World| Ok(Rc::clone(&world.hub.leases[gateway]));
        self.ask_hub(Proc::Gateway(g), get, move |world, result| match result {
            Ok(lease) if lease.version == seen => world.call_lost(g, site, gateway, number, end, |_, _| {}),
            Ok(lease) => world.gateways[g].cache.take(Change::Lease(gateway, lease)),
            Err(_) => {}
        });
    }

    /// A watch shows something.
    pub fn gateway_sees(&mut self, g: usize, change: Change) {
        if !self.gateways[g].listed {
            return;
        }
        let told = change.clone();
        self.gateways[g].cache.take(change);
        match told {
            Change::Site(site, object) => {
                let Some(session) = &self.gateways[g].sessions[site] else { return };
                let (number, stream) = (session.number, session.stream);
                let over = object.number > number || (object.number == number && !object.connected);
                if session.stage != Stage::Beginning && over && self.holds(Rule::NumberedSession) {
                    self.gateways[g].sessions[site] = None;
                    self.tell_agent(g, site, stream, ToAgent::Goodbye);
                } else {
                    self.learn_fences(g, site, &object);
                }
            }
            Change::Slice(object) => {
                self.deliver(g, object.key);
                self.say_again(g, object.key);
            }
            Change::SliceGone(key, _) => self.deliver(g, key),
            Change::Cluster(..) | Change::Lease(..) => {}
        }
    }

    /// Sends what has changed of a slice.
    fn deliver(&mut self, g: usize, key: Key) {
        let site = key.1;
        let slice = self.gateways[g].cache.slices.get(&key).cloned();
        let slice = slice.filter(|slice| !self.is_fenced(g, slice));
        let Some(session) = &mut self.gateways[g].sessions[site] else { return };
        if session.stage != Stage::Live {
            return;
        }
        let stream = session.stream;
        let sent = session.sent.get(&key).copied();
        match slice {
            None => {
                session.sent.remove(&key);
                if sent.is_some_and(|(_, _, deleted)| !deleted) {
                    self.tell_agent(g, site, stream, ToAgent::Deleted(key));
                }
            }
            Some(slice) => {
                let same = sent.filter(|(uid, ..)| *uid == slice.uid);
                if same.is_some_and(|(_, generation, deleted)| {
                    deleted || (!slice.deleting && generation == slice.generation)
                }) {
                    return;
                }
                session.sent.insert(key, (slice.uid, slice.generation, slice.deleting));
                if !slice.deleting {
                    self.tell_agent(g, site, stream, ToAgent::Slice(slice));
                } else if slice.status.as_ref().is_none_or(|status| !status.stopped) {
                    self.tell_agent(g, site, stream, ToAgent::Deleted(key));
                }
            }
        }
    }

    /// An agent says something.
    pub fn gateway_hears(&mut self, g: usize, site: usize, stream: u64, message: ToGateway) {
        let (now, held, rhythm) = (self.boot(Proc::Gateway(g)), self.may_grant(g), self.rhythm(g, site));
        let Some(session) = self.of_stream(g, site, stream) else { return };
        if session.stage != Stage::Live {
            return;
        }
        match message {
            ToGateway::Heartbeat(sequence) => match session.pulse.heartbeat(sequence, now, rhythm, held) {
                Ok(Answer::Grant) => {
                    session.earlier = [session.earlier[1], now];
                    let number = session.number;
                    self.judge.granted(site, number, self.now);
                    let grant = ToAgent::Grant { sequence, next: rhythm.heartbeat };
                    let replayed = self.setup.scene == Scene::Replayed;
                    let again = if replayed { 3 } else { u64::from(self.rng.percent(10)) };
                    for _ in 0..again {
                        // It comes once more, when its session may be over.
                        let (again, wait) = (grant.clone(), self.rng.between(5_000, 90_000));
                        self.at(self.now + wait, move |world| {
                            if !world.is_cut(Link::AgentGateway(site, g), Way::Down)
                                && world.of_agent(site) != Some(stream)
                            {
                                world.judge.count("a grant of an ended session comes again");
                                world.tell_agent(g, site, stream, again);
                            }
                        });
                    }
                    self.tell_agent(g, site, stream, grant);
                }
                Ok(Answer::Withhold) => {}
                Err(_) => self.gateways[g].sessions[site] = None,
            },
            ToGateway::Report(key, report) => {
                let number = session.number;
                let Some(slice) = self.gateways[g].cache.slices.get(&key).cloned() else { return };
                // What counts as stopped has nothing to say any more.
                if report.epoch > slice.spec.epoch || self.is_fenced(g, &slice) {
                    return;
                }
                let uid = slice.uid;
                if let Some(session) = self.of_stream(g, site, stream) {
                    session.said.insert(key, (uid, report.clone()));
                }
                self.gateways[g].writing.entry(key).or_default().pending = Some((number, uid, report));
                self.write_report(g, key);
            }
            ToGateway::Inventory(wants, ready) => {
                session.hello.wants = wants;
                session.hello.ready = ready;
                self.write_inventory(g, site, stream);
            }
            ToGateway::Close => session.stage = Stage::Lingering,
        }
    }

    fn write_inventory(&mut self, g: usize, site: usize, stream: u64) {
        let Some(session) = self.of_stream(g, site, stream) else { return };
        let (wants, ready) = (session.hello.wants, session.hello.ready.clone());
        let object = Rc::clone(&self.gateways[g].cache.sites[site]);
        if (object.wants, &object.ready) == (wants, &ready) {
            return;
        }
        let version = object.version;
        let patch = move |world: &mut World| {
            world.patch_site(site, Some(version), |object| {
                object.wants = wants;
                object.ready = ready;
            })
        };
        self.ask_hub(Proc::Gateway(g), patch, move |world, result| match result {
            Ok(object) => {
                world.gateways[g].cache.take(Change::Site(site, object));
                // The agent may have said something else meanwhile.
                world.write_inventory(g, site, stream);
            }
            Err(_) => world.after(Proc::Gateway(g), 200, move |world| world.write_inventory(g, site, stream)),
        });
    }
}
