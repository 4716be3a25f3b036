//! What a trial is made of: Sites, Clusters, times, and what will go wrong. All of it follows from the seed.

use atoll_core::cluster::{Cluster, Kind, Policy, Terms};

use crate::rng::Rng;
use crate::world::Time;

/// Nodes of a Site.
pub const NODES: usize = 2;
/// GPUs of a node; each member takes one.
pub const GPUS: usize = 2;
/// Clocks run faster or slower by so many millionths at most.
pub const DRIFT: u64 = 100;
/// Wall clocks are wrong by so many milliseconds at most.
pub const SKEW: u64 = 1_800_000;

/// What kind of trial it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scene {
    /// A dozen faults of all kinds, some at the same time.
    Storm,
    /// One fault: a Site is cut off or dies, and the hub is well. Judged by the clock.
    Lost,
    /// Its supplier drains a Site, and nothing else happens. Judged by the clock.
    Drained,
    /// Most of many Sites vanish at once.
    Many,
    /// Sessions begin and end in quick succession, and their grants come again later.
    Replayed,
    /// A Site that was never told of a member comes back when that member's fence is written.
    Returning,
    /// A node hears of a member only when its Site is fenced, and its agent is down.
    Starting,
    /// A Site comes back with members that the hub does not list, of which its own API knows nothing.
    Unlisted,
    /// Members fail again and again, and requests of operators are taken late.
    Failing,
    /// Leaders often stand still before they write, while what they decided on changes.
    Deposed,
    /// What a gateway says arrives seconds later, and then the Site is not heard.
    Slow,
    /// An agent dies, and the machines of its nodes are paused until others have taken their members' place.
    Paused,
}

impl Scene {
    /// Those that chance seldom makes of a storm.
    pub const DIRECTED: [Self; 8] = [
        Self::Replayed,
        Self::Returning,
        Self::Starting,
        Self::Unlisted,
        Self::Failing,
        Self::Deposed,
        Self::Slow,
        Self::Paused,
    ];

    /// Whatever goes wrong now and then goes wrong here: it is not judged by the clock.
    #[must_use]
    pub fn is_rough(self) -> bool {
        !matches!(self, Self::Lost | Self::Drained | Self::Many)
    }

    /// The first of the seeds that play this scene only; there are [`SEEDS`] of them.
    #[must_use]
    pub fn first_seed(self) -> Option<u64> {
        let at = Self::DIRECTED.iter().position(|scene| *scene == self)?;
        Some(SEEDS * (u64::try_from(at).ok()? + 1))
    }

    /// What a seed is for.
    fn of(seed: u64, rng: &mut Rng) -> Self {
        let directed = |at: u64| usize::try_from(at).ok().and_then(|at| Self::DIRECTED.get(at)).copied();
        if let Some(scene) = (seed / SEEDS).checked_sub(1).and_then(directed) {
            return scene;
        }
        match rng.between(0, 200) {
            0 => Self::Many,
            1..20 => Self::Lost,
            20..30 => Self::Drained,
            other => directed(other - 30).unwrap_or(Self::Storm),
        }
    }
}

/// Seeds from here on play one scene.
pub const SEEDS: u64 = 1 << 32;

/// A Site.
#[derive(Clone, Debug)]
pub struct SiteSetup {
    /// Its nodes have watchdogs.
    pub watchdog: bool,
    /// Whose it is.
    pub supplier: usize,
}

/// A Cluster.
#[derive(Clone, Debug)]
pub struct ClusterSetup {
    /// As it is applied.
    pub state: Cluster,
    /// Seconds to stop, kill and fence.
    pub times: (u64, u64, u64),
}

impl ClusterSetup {
    /// Its members run on without a lease.
    #[must_use]
    pub fn autonomous(&self) -> bool {
        self.state.terms.policy == Policy::Autonomous
    }
}

/// A trial.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What kind.
    pub scene: Scene,
    /// Sites.
    pub sites: Vec<SiteSetup>,
    /// Clusters.
    pub clusters: Vec<ClusterSetup>,
    /// How long a gateway's Lease lasts.
    pub lease: Time,
    /// When faults end.
    pub faults_until: Time,
}

const TIMES: [(u64, u64, u64); 4] = [(60, 90, 120), (30, 45, 60), (20, 26, 29), (8, 11, 14)];

impl Setup {
    /// The trial of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let scene = Scene::of(seed, &mut rng);
        let count = match scene {
            Scene::Many => 24,
            Scene::Storm => usize::try_from(rng.between(2, 5)).unwrap_or(2),
            // Room for everybody wherever the others are.
            Scene::Lost | Scene::Drained => 4,
            Scene::Unlisted => 2,
            _ => 3,
        };
        let sites = (0..count)
            .map(|n| SiteSetup { watchdog: scene != Scene::Storm || rng.percent(85), supplier: n % 4 })
            .collect();
        let clusters = match scene {
            Scene::Many => 12,
            Scene::Unlisted => 2,
            _ => rng.between(1, 3),
        };
        let clusters = (0..clusters).map(|n| cluster(&mut rng, scene, n > 0)).collect();
        let lease = if rng.percent(40) { 60_000 } else { 300_000 };
        let faults_until = match scene {
            Scene::Storm => rng.between(120_000, 600_000),
            Scene::Lost | Scene::Many => 400_000,
            Scene::Drained => 120_000,
            _ => 300_000,
        };
        Self { scene, sites, clusters, lease, faults_until }
    }
}

fn cluster(rng: &mut Rng, scene: Scene, another: bool) -> ClusterSetup {
    let movable = scene != Scene::Storm;
    let pods = another && movable;
    let (kind, policy) = match rng.between(0, 10) {
        _ if scene == Scene::Unlisted && !another => (Kind::Pods, Policy::Autonomous),
        _ if pods => (Kind::Pods, Policy::Replace),
        0..5 => (Kind::Pods, Policy::Replace),
        5..8 => (Kind::Torch, Policy::Restart),
        8 => (Kind::Ray, Policy::Restart),
        _ if movable => (Kind::Torch, Policy::Restart),
        _ if rng.percent(50) => (Kind::Pods, Policy::Autonomous),
        _ => (Kind::Torch, Policy::Fail),
    };
    let count = if scene == Scene::Unlisted { 2 } else { u32::try_from(rng.between(1, 4)).unwrap_or(1) };
    let terms =
        Terms { kind, count, min: count, backoff_limit: 1_000, duration: None, ttl: None, suspend: false, policy };
    let state = Cluster {
        terms,
        deleting: false,
        epoch: 0,
        members: Vec::new(),
        failures: 0,
        started_at: None,
        finished_at: None,
    };
    let times = match scene {
        Scene::Many => TIMES[0],
        scene if Scene::DIRECTED.contains(&scene) => TIMES[2 + rng.index(2)],
        _ => TIMES[rng.index(TIMES.len())],
    };
    ClusterSetup { state, times }
}
