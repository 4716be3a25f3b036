//! Hub, gateways, agents and watchdogs on simulated clocks and links, with faults and judges.
//!
//! What decides is `atoll-core`, the same that the processes run: [`atoll_core::cluster`] in operators,
//! [`atoll_core::session`] in gateways and agents, [`atoll_core::member`], [`atoll_core::lease`] and [`atoll_core::nodes`]
//! in agents, [`atoll_core::watchdog`] on nodes. What is simulated is what lies between: APIs with versions and watches,
//! streams, kubelets, a scheduler, clocks, and everything that goes wrong with them.
//!
//! A trial follows from its seed alone, so a seed can be played again with a trace of all that happened.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
// Sites, nodes, gateways and operators are numbers that index what was made for them at the begin.
#![allow(clippy::indexing_slicing)]

pub mod agent;
pub mod faults;
pub mod gateway;
pub mod hub;
pub mod judge;
pub mod node;
pub mod operator;
pub mod rng;
pub mod rule;
pub mod setup;
pub mod site;
pub mod trials;
pub mod world;

use std::collections::BTreeMap;

use judge::Verdict;
use rule::Rule;
use setup::{NODES, Setup};
use world::{Proc, Time, World};

/// How long all may take to come to rest after the last fault.
const REST: Time = 1_500_000;
/// How often that is looked at.
const LOOK: Time = 5_000;

/// What became of a trial.
#[derive(Debug)]
pub struct Outcome {
    /// What a judge said; None: nothing was wrong.
    pub verdict: Option<Verdict>,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// How many acts there were.
    pub acts: u64,
    /// How much time went by, milliseconds.
    pub time: Time,
    /// The trace, when it was asked for.
    pub lines: Vec<String>,
}

/// The trial of a seed, without a rule if one is named.
#[must_use]
pub fn run(seed: u64, off: Option<Rule>, trace: bool) -> Outcome {
    let mut world = World::new(seed, Setup::new(seed), off, trace);
    let setup = format!("{:?}", world.setup.scene);
    world.trace(|| format!("seed {seed}: {setup}"));
    for n in 0..2 {
        for proc in [Proc::Operator(n), Proc::Gateway(n)] {
            world.start(proc);
        }
    }
    for s in 0..world.setup.sites.len() {
        for n in 0..NODES {
            world.start(Proc::Kubelet(s, n));
            world.start(Proc::Watchdog(s, n));
        }
        world.start(Proc::Agent(s));
        world.tick_site(s);
    }
    world.plan_faults();
    world.run(world.setup.faults_until);
    if world.judge.verdict.is_none() {
        world.heal();
        settle(&mut world);
    }
    Outcome {
        verdict: world.judge.verdict,
        counts: world.judge.counts,
        acts: world.acts,
        time: world.now,
        lines: world.lines.unwrap_or_default(),
    }
}

fn settle(world: &mut World) {
    let end = world.now + REST;
    let mut well = 0;
    while world.judge.verdict.is_none() {
        world.run(world.now + LOOK);
        match judge::whole(world) {
            None if well >= 3 => return,
            None => well += 1,
            Some(words) if world.now > end => return judge::restless(world, words),
            Some(_) => well = 0,
        }
    }
}
