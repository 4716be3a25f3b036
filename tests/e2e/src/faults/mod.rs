//! Faults on real processes: a hub and Sites whose members are containers, hosts whose links are cut, processes that
//! are killed and frozen, and a judge that asks nobody but the kernel and the members themselves who ran when.

pub mod fault;
pub mod judge;
pub mod report;
pub mod trial;
pub mod witness;
pub mod world;

use std::time::Duration;

pub use fault::{Expect, Fault};
pub use trial::Trial;
pub use witness::Witness;
pub use world::World;

/// Time since this machine started, suspended time included: the one clock of all that is judged here.
#[must_use]
pub fn boot_now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The times of a world. Hub and Sites get them by their usual flags and fields.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// What every Cluster asks for, in seconds: members stop, are killed, may be replaced.
    pub stop: u32,
    /// See `stop`.
    pub kill: u32,
    /// See `stop`.
    pub fence: u32,
    /// The gateways' Lease, in seconds.
    pub gateway_lease: u32,
    /// How long a Site is silent before it counts as lost, in seconds.
    pub suspect: u32,
    /// How often agents send a heartbeat, in seconds.
    pub heartbeat: u32,
    /// The operator's leader lease, in seconds.
    pub leader_lease: u32,
    /// How long etcd stands still, in seconds.
    pub etcd_outage: u32,
}

impl Times {
    /// Atoll's defaults.
    pub const FULL: Self = Self {
        stop: 60,
        kill: 90,
        fence: 120,
        gateway_lease: 300,
        suspect: 30,
        heartbeat: 10,
        leader_lease: 15,
        etcd_outage: 200,
    };
    /// A tenth of that, but for the leader lease: with 1.5 s an operator on a busy machine loses it again and again.
    pub const TENTH: Self = Self {
        stop: 6,
        kill: 9,
        fence: 12,
        gateway_lease: 30,
        suspect: 3,
        heartbeat: 1,
        leader_lease: 10,
        etcd_outage: 20,
    };

    /// How long after its Site's last lease a lost member may take to run elsewhere.
    #[must_use]
    pub const fn replaced_within(&self) -> Duration {
        Duration::from_secs(self.fence as u64 + 5)
    }

    /// How long after a supplier's word a member that ends when it is told to may take to run elsewhere.
    #[must_use]
    pub const fn drained_within(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// How long members that ignore SIGTERM are waited for.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        Duration::from_secs((self.kill - self.stop) as u64 * 2 / 3)
    }

    /// A fault so long that every fence has expired and what follows can be seen.
    #[must_use]
    pub const fn long(&self) -> Duration {
        Duration::from_secs(self.fence as u64 + 8)
    }

    /// A fault so short that nobody may notice.
    #[must_use]
    pub const fn short(&self) -> Duration {
        Duration::from_secs(self.stop as u64 / 3)
    }
}
