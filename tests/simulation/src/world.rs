//! Time, machines, links and the queue of what happens next.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use crate::agent::Agent;
use crate::gateway::Gateway;
use crate::hub::Hub;
use crate::judge::Judge;
use crate::operator::Operator;
use crate::rng::Rng;
use crate::rule::Rule;
use crate::setup::Setup;
use crate::site::Site;

/// Milliseconds of true time since the begin of a trial, which no process sees.
pub type Time = u64;
/// Something that happens.
pub type Act = Box<dyn FnOnce(&mut World)>;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proc {
    /// An operator.
    Operator(usize),
    /// A gateway.
    Gateway(usize),
    /// A Site's agent.
    Agent(usize),
    /// The kubelet of a Site's node.
    Kubelet(usize, usize),
    /// The watchdog of a Site's node.
    Watchdog(usize, usize),
}

/// Between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// A Site's agent and a gateway.
    AgentGateway(usize, usize),
    /// A gateway and the hub's API.
    GatewayApi(usize),
    /// An operator and the hub's API.
    OperatorApi(usize),
    /// A Site's agent and the Site's API.
    AgentApi(usize),
    /// A Site's node and the Site's API.
    NodeApi(usize, usize),
    /// A Site's node and its agent.
    NodeAgent(usize, usize),
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who opened the connection.
    Up = 0,
    /// Towards it.
    Down = 1,
}

/// A server did not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// No answer in time: it may have been taken.
    Timeout,
    /// The server is not well.
    Unavailable,
    /// Somebody else's write came before.
    Conflict,
    /// There is no such object.
    NotFound,
    /// The writer's term as leader is over.
    Refused,
}

/// The clocks of a machine, and whether it runs.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Boot-time clock minus true time, milliseconds.
    offset: i64,
    /// So many millionths faster than true time.
    rate: i64,
    /// Wall clock minus true time, milliseconds.
    pub wall: i64,
    /// Since when it sleeps, and until when.
    pub asleep: Option<(Time, Time)>,
    /// Its last sleep.
    slept: (Time, Time),
    /// Changes when it boots.
    pub boot: u32,
}

/// A process's life.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Grows with each start.
    pub number: u32,
    /// It runs.
    pub up: bool,
}

#[derive(Default)]
struct Direction {
    cut: bool,
    floor: Time,
    stuck: Vec<(Time, bool, Act)>,
}

struct Entry {
    at: Time,
    order: u64,
    act: Act,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything.
pub struct World {
    /// True time.
    pub now: Time,
    /// Random choices.
    pub rng: Rng,
    /// The rule that does not hold in this trial.
    pub off: Option<Rule>,
    /// What the trial is made of.
    pub setup: Setup,
    /// The hub's API.
    pub hub: Hub,
    /// Operators.
    pub operators: Vec<Operator>,
    /// Gateways.
    pub gateways: Vec<Gateway>,
    /// Agents, one a Site.
    pub agents: Vec<Agent>,
    /// Sites.
    pub sites: Vec<Site>,
    /// Who watches all of it.
    pub judge: Judge,
    /// Lines of the trace; None: nobody reads them.
    pub lines: Option<Vec<String>>,
    /// How many acts there were.
    pub acts: u64,
    /// The Site that is to return when it is fenced.
    pub returning: Option<usize>,
    /// The Site whose gateway is to hear no more once it is welcomed.
    pub deaf: Option<usize>,
    /// The Site and its node where members are to be placed once it is welcomed.
    pub unlisted: Option<(usize, usize)>,
    /// What operators ask for is often done late.
    pub hurried: bool,
    /// Operators often stand still before they write.
    pub held_up: bool,
    /// A Site that hears its gateways so late.
    pub slow: Option<(usize, Time)>,
    machines: Vec<Machine>,
    lives: Vec<Life>,
    links: Vec<[Direction; 2]>,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

/// How long a request waits for its answer.
const TIMEOUT: Time = 10_000;
/// Older messages than this are not sent again after a cut: their connection is gone.
const RESENT: Time = 60_000;

impl World {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(seed: u64, setup: Setup, off: Option<Rule>, trace: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let (sites, nodes) = (setup.sites.len(), crate::setup::NODES);
        let machines = 4 + sites + sites * nodes;
        let machines = (0..machines)
            .map(|_| Machine {
                offset: i64::try_from(rng.between(0, 1_000_000_000)).unwrap_or(0),
                rate: i64::try_from(rng.between(0, 2 * crate::setup::DRIFT)).unwrap_or(0)
                    - i64::try_from(crate::setup::DRIFT).unwrap_or(0),
                wall: i64::try_from(rng.between(0, 2 * crate::setup::SKEW)).unwrap_or(0)
                    - i64::try_from(crate::setup::SKEW).unwrap_or(0),
                asleep: None,
                slept: (0, 0),
                boot: 1,
            })
            .collect();
        let lives = vec![Life { number: 0, up: false }; 4 + sites + 2 * sites * nodes];
        let mut links = Vec::new();
        links.resize_with(4 + 3 * sites + 2 * sites * nodes, <[Direction; 2]>::default);
        Self {
            now: 0,
            rng,
            off,
            hub: Hub::new(&setup),
            operators: (0..2).map(|_| Operator::default()).collect(),
            gateways: (0..2).map(|_| Gateway::new(&setup)).collect(),
            agents: (0..sites).map(|_| Agent::default()).collect(),
            sites: setup.sites.iter().map(Site::new).collect(),
            judge: Judge::new(&setup),
            lines: trace.then(Vec::new),
            acts: 0,
            returning: None,
            deaf: None,
            unlisted: None,
            hurried: false,
            held_up: false,
            slow: None,
            setup,
            machines,
            lives,
            links,
            queue: BinaryHeap::new(),
            order: 0,
        }
    }

    /// Whether a rule holds in this trial.
    #[must_use]
    pub fn holds(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// Notes a line for who reads the trace.
    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>4}.{:03} {}", self.now / 1000, self.now % 1000, line()));
        }
    }

    fn life_index(&self, proc: Proc) -> usize {
        let (sites, nodes) = (self.setup.sites.len(), crate::setup::NODES);
        match proc {
            Proc::Operator(n) => n,
            Proc::Gateway(n) => 2 + n,
            Proc::Agent(site) => 4 + site,
            Proc::Kubelet(site, node) => 4 + sites + site * nodes + node,
            Proc::Watchdog(site, node) => 4 + sites + sites * nodes + site * nodes + node,
        }
    }

    fn machine_index(&self, proc: Proc) -> usize {
        match proc {
            Proc::Watchdog(site, node) => self.life_index(Proc::Kubelet(site, node)),
            other => self.life_index(other),
        }
    }

    fn link_index(&self, link: Link) -> usize {
        let (sites, nodes) = (self.setup.sites.len(), crate::setup::NODES);
        match link {
            Link::GatewayApi(n) => n,
            Link::OperatorApi(n) => 2 + n,
            Link::AgentGateway(site, gateway) => 4 + site * 2 + gateway,
            Link::AgentApi(site) => 4 + 2 * sites + site,
            Link::NodeApi(site, node) => 4 + 3 * sites + site * nodes + node,
            Link::NodeAgent(site, node) => 4 + 3 * sites + sites * nodes + site * nodes + node,
        }
    }

    /// The machine of a process.
    #[must_use]
    pub fn machine(&self, proc: Proc) -> &Machine {
        &self.machines[self.machine_index(proc)]
    }

    /// The machine of a process, to be changed.
    pub fn machine_mut(&mut self, proc: Proc) -> &mut Machine {
        let at = self.machine_index(proc);
        &mut self.machines[at]
    }

    /// The boot-time clock that a process reads.
    #[must_use]
    pub fn boot(&self, proc: Proc) -> Duration {
        let machine = self.machine(proc);
        let now = i64::try_from(self.now).unwrap_or(i64::MAX);
        let shown = now + now * machine.rate / 1_000_000 + machine.offset;
        Duration::from_millis(u64::try_from(shown).unwrap_or(0))
    }

    /// The wall clock that a process reads.
    #[must_use]
    pub fn wall(&self, proc: Proc) -> i64 {
        i64::try_from(self.now).unwrap_or(i64::MAX) + self.machine(proc).wall + 1_000_000_000_000
    }

    /// The life of a process.
    #[must_use]
    pub fn life(&self, proc: Proc) -> Life {
        self.lives[self.life_index(proc)]
    }

    /// Starts or ends a process; what it had under way is forgotten.
    pub fn set_up(&mut self, proc: Proc, up: bool) {
        let at = self.life_index(proc);
        self.lives[at].number += 1;
        self.lives[at].up = up;
    }

    /// Whether a process's machine executes anything.
    #[must_use]
    pub fn awake(&self, proc: Proc) -> bool {
        self.machine(proc).asleep.is_none()
    }

    /// A machine sleeps for `span`; `frozen`: its boot-time clock stops meanwhile, as when a hypervisor pauses it.
    pub fn sleep(&mut self, proc: Proc, span: Time, frozen: bool) {
        let until = self.now + span;
        let now = self.now;
        let machine = self.machine_mut(proc);
        if machine.asleep.is_some() {
            return;
        }
        machine.asleep = Some((now, until));
        self.at(until, move |world| {
            let now = world.now;
            let machine = world.machine_mut(proc);
            machine.slept = (now - span, now);
            machine.asleep = None;
            if frozen {
                machine.offset -= i64::try_from(span).unwrap_or(0);
            }
            world.trace(|| format!("{proc:?}'s machine wakes"));
        });
    }

    /// When the machine of a process last woke up.
    #[must_use]
    pub fn woke(&self, proc: Proc) -> Time {
        self.machine(proc).slept.1
    }

    /// A machine boots: its clock begins anew.
    pub fn reboot(&mut self, proc: Proc) {
        let now = i64::try_from(self.now).unwrap_or(i64::MAX);
        let machine = self.machine_mut(proc);
        machine.offset = -now - now * machine.rate / 1_000_000;
        machine.boot += 1;
    }

    /// Something happens at a time, whoever sleeps.
    pub fn at(&mut self, at: Time, act: impl FnOnce(&mut World) + 'static) {
        self.put(at, Box::new(act));
    }

    fn put(&mut self, at: Time, act: Act) {
        self.order += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), order: self.order, act }));
    }

    /// A process does something after a while, unless it ended before. Its timers stand still while its machine sleeps.
    pub fn after(&mut self, proc: Proc, wait: Time, act: impl FnOnce(&mut World) + 'static) {
        let (set, life) = (self.now, self.life(proc).number);
        self.put(self.now + wait, Box::new(move |world| world.wake(proc, life, set, Box::new(act))));
    }

    fn wake(&mut self, proc: Proc, life: u32, set: Time, act: Act) {
        if !self.is(proc, life) {
            return;
        }
        let (now, machine) = (self.now, self.machine(proc));
        let again = match machine.asleep {
            Some((from, until)) => Some((until + now.saturating_sub(from.max(set)), until)),
            None if machine.slept.0 >= set && machine.slept.1 > machine.slept.0 => {
                Some((now + machine.slept.1 - machine.slept.0, now))
            }
            None => None,
        };
        match again {
            Some((at, set)) => self.put(at, Box::new(move |world| world.wake(proc, life, set, act))),
            None => act(self),
        }
    }

    fn is(&self, proc: Proc, life: u32) -> bool {
        let present = self.life(proc);
        present.up && present.number == life
    }

    /// Cuts or heals one way of a link.
    pub fn cut(&mut self, link: Link, way: Way, cut: bool) {
        let index = self.link_index(link);
        let wait = self.rng.between(5, 1_500);
        let direction = &mut self.links[index][way as usize];
        if direction.cut == cut {
            return;
        }
        direction.cut = cut;
        if cut {
            return;
        }
        let mut stuck = std::mem::take(&mut direction.stuck);
        // What was on its way when the link was cut was sent before what was held up at once.
        stuck.sort_by_key(|(sent, ..)| *sent);
        let at = self.now + wait;
        direction.floor = direction.floor.max(at);
        for (sent, reliable, act) in stuck {
            let late = self.now.saturating_sub(sent) > RESENT || self.rng.percent(50);
            if reliable || !late {
                self.put(at, act);
            }
        }
    }

    /// Whether a link is cut that way.
    #[must_use]
    pub fn is_cut(&self, link: Link, way: Way) -> bool {
        self.links[self.link_index(link)][way as usize].cut
    }

    /// Sends something that happens when it arrives. `reliable`: it arrives after any cut. Nothing overtakes.
    fn send(&mut self, link: Link, way: Way, reliable: bool, act: Act) {
        let index = self.link_index(link);
        let rough = self.setup.scene.is_rough();
        let latency = if rough && self.rng.percent(1) { self.rng.between(100, 1_000) } else { self.rng.between(1, 20) };
        let latency = match (link, self.slow) {
            (Link::AgentGateway(site, _), Some((slow, by))) if site == slow && way == Way::Down => by,
            _ => latency,
        };
        let sent = self.now;
        let direction = &mut self.links[index][way as usize];
        if direction.cut {
            direction.stuck.push((sent, reliable, act));
            return;
        }
        let at = direction.floor.max(self.now + latency);
        direction.floor = at;
        self.put(
            at,
            Box::new(move |world| {
                let direction = &mut world.links[index][way as usize];
                if direction.cut {
                    direction.stuck.push((sent, reliable, act));
                } else {
                    act(world);
                }
            }),
        );
    }

    /// Sends a message to a process, which gets it if it runs then; one that sleeps gets it when it wakes.
    pub fn tell(&mut self, link: Link, way: Way, to: Proc, reliable: bool, act: impl FnOnce(&mut World) + 'static) {
        self.send(link, way, reliable, Box::new(move |world| world.arrive(to, Box::new(act))));
    }

    fn arrive(&mut self, to: Proc, act: Act) {
        if !self.life(to).up {
            return;
        }
        let Some((_, until)) = self.machine(to).asleep else { return act(self) };
        let life = self.life(to).number;
        self.put(
            until,
            Box::new(move |world| {
                if world.is(to, life) {
                    world.arrive(to, act);
                }
            }),
        );
    }

    /// Asks a server. It may be asked late, after who asked has given up or ended; then nobody hears the answer.
    pub fn call<R: 'static>(
        &mut self,
        proc: Proc,
        link: Link,
        ask: impl FnOnce(&mut World) -> Option<Result<R, ApiError>> + 'static,
        then: impl FnOnce(&mut World, Result<R, ApiError>) + 'static,
    ) {
        let life = self.life(proc).number;
        let then = Rc::new(RefCell::new(Some(then)));
        let timed = Rc::clone(&then);
        self.after(proc, TIMEOUT, move |world| {
            let then = timed.borrow_mut().take();
            if let Some(then) = then {
                then(world, Err(ApiError::Timeout));
            }
        });
        let mut handling = self.rng.between(0, 8);
        let one_of = match link {
            Link::OperatorApi(_) if self.hurried => 12,
            Link::OperatorApi(_) | Link::GatewayApi(_) if self.setup.scene.is_rough() => 500,
            _ => Time::MAX,
        };
        if self.rng.between(0, one_of) == 0 {
            // Its connection breaks, and what was asked is done when nobody thinks of it any more.
            handling = self.rng.between(1_000, 30_000);
            self.judge.count("a request is taken late");
            let (broken, wait) = (Rc::clone(&then), self.rng.between(10, 500));
            self.after(proc, wait, move |world| {
                let then = broken.borrow_mut().take();
                if let Some(then) = then {
                    then(world, Err(ApiError::Timeout));
                }
            });
        }
        self.send(
            link,
            Way::Up,
            false,
            Box::new(move |world| {
                let at = world.now + handling;
                world.at(at, move |world| {
                    // No answer: the server hangs.
                    let Some(result) = ask(world) else { return };
                    world.tell(link, Way::Down, proc, false, move |world| {
                        let then = then.borrow_mut().take();
                        if let Some(then) = then
                            && world.is(proc, life)
                        {
                            then(world, result);
                        }
                    });
                });
            }),
        );
    }

    /// Lets things happen until `end`, or until a judge has spoken.
    pub fn run(&mut self, end: Time) {
        while let Some(Reverse(entry)) = self.queue.pop() {
            if entry.at > end {
                self.queue.push(Reverse(entry));
                break;
            }
            self.now = entry.at;
            self.acts += 1;
            (entry.act)(self);
            if self.judge.verdict.is_some() {
                return;
            }
        }
        self.now = end;
    }
}
