//! One fault, and what became of every Cluster that it touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use kube::ResourceExt;
use kube::api::ListParams;
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::fault::{Expect, Fault, rest};
use super::judge::{Promise, Verdict, doubles, judge};
use super::witness::Run;
use super::world::{LOAD, NAMESPACE, World, load};
use super::{Times, boot_now};
use crate::clusters;

/// What became of one Cluster.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// What happened.
    pub fault: String,
    /// To which Site, or to the hub.
    pub target: String,
    /// The Cluster.
    pub cluster: String,
    /// What was promised.
    pub expected: String,
    /// What became of it.
    pub verdict: Verdict,
    /// In words, if not as promised.
    pub detail: String,
    /// How long after its Site's last lease, or its supplier's word, the last lost member ran elsewhere.
    pub replaced_after_milliseconds: Option<u64>,
    /// How long after it the operator decided so: the rest is what containers take to start.
    pub decided_after_milliseconds: Option<u64>,
    /// The machine's load average of a minute after it: lateness may be the machine's.
    pub load: f64,
}

/// What is remembered between rounds.
#[derive(Debug, Default)]
pub struct Rounds {
    known: BTreeSet<(String, String)>,
}

impl Rounds {
    /// Lets a fault happen to a Site, or to the hub, mends it and judges every Cluster that it touched: the trials, and
    /// whether the world is whole again.
    pub async fn round(&mut self, world: &World, fault: Fault, target: usize) -> Result<(Vec<Trial>, bool)> {
        let times = world.times;
        let site = fault.of_site().then(|| world.site(target)).flatten().map(|(site, _)| site.options.name.clone());
        let expect = fault.expect(&times);
        let before = world.standing_runs(world.witness.alive());
        let loading = fault.under_load().then(|| load_up(world));
        let began = boot_now();
        fault.happen(world, target).await?;
        let all_moved = || {
            let alive = world.witness.alive();
            let mut lost = before.iter().filter(|run| Some(&run.site) == site.as_ref());
            let elsewhere = |lost: &Run| {
                let is_it = |run: &&Run| (&run.cluster, run.rank) == (&lost.cluster, lost.rank);
                alive.iter().find(is_it).is_some_and(|run| run.uid != lost.uid)
            };
            matches!(expect, Expect::Moved | Expect::Drained) && lost.all(elsewhere)
        };
        rest(world, fault.lasts(&times), all_moved).await?;
        let lease = match (expect, &site) {
            // The cut itself comes after the last lease: counting from it would forgive lateness.
            (Expect::Moved, Some(_)) => world.last_grant(target).await?.map_or(began, |grant| grant.min(began)),
            _ => began,
        };
        let decided =
            if matches!(expect, Expect::Moved | Expect::Drained) { world.decided().await? } else { BTreeMap::new() };
        drop(loading);
        let mended = boot_now();
        world.mend().await?;
        unload(world).await;
        let mut unsettled = BTreeMap::new();
        let settled = world.settle(settle_limit(&times)).await;
        if settled.is_err() {
            unsettled = world.unsettled().await.unwrap_or_default();
        }

        let runs = world.witness.runs();
        let after = world.standing_runs(runs.clone());
        let found = doubles(&runs, &world.may_run_twice());
        let news: Vec<_> = found.into_iter().filter(|double| self.known.insert(double.key())).collect();
        let mut trials = Vec::new();
        for standing in &world.standing {
            let mine: Vec<_> = before.iter().filter(|run| run.cluster == standing.name).cloned().collect();
            let touched = site.as_ref().is_none_or(|site| mine.iter().any(|run| &run.site == site));
            let promise = match (expect, &site) {
                (Expect::Moved, Some(site)) if touched => {
                    let until = standing.autonomous.then_some(mended);
                    Promise::Moved { site, lease, within: times.replaced_within(), all: standing.gang, until }
                }
                (Expect::Drained, Some(site)) if touched => {
                    let grace = if standing.stubborn { times.grace() } else { Duration::ZERO };
                    let within = times.drained_within() + grace;
                    Promise::Moved { site, lease, within, all: standing.gang, until: None }
                }
                (Expect::Safe, _) if touched => Promise::Safe,
                _ => Promise::Undisturbed,
            };
            let (mut verdict, mut detail, replaced) = judge(&mine, &after, promise);
            if let Some(wrong) = unsettled.get(&standing.name) {
                (verdict, detail) = (Verdict::NotSettled, wrong.clone());
            }
            if let Some(double) = news.iter().find(|double| double.one.cluster == standing.name) {
                (verdict, detail) = (Verdict::Double, double.say());
            }
            if touched || verdict != Verdict::Held {
                trials.push(Trial {
                    fault: fault.name(),
                    target: site.clone().unwrap_or_else(|| "hub".to_owned()),
                    cluster: standing.name.clone(),
                    expected: format!("{expect:?}"),
                    verdict,
                    detail,
                    replaced_after_milliseconds: replaced.map(milliseconds),
                    decided_after_milliseconds: replaced
                        .and_then(|_| decided.get(&standing.name)?.checked_sub(lease))
                        .map(milliseconds),
                    load: load_average(),
                });
            }
        }
        for double in news.iter().filter(|double| double.one.cluster.starts_with(LOAD)) {
            trials.push(Trial {
                fault: fault.name(),
                target: "hub".to_owned(),
                cluster: double.one.cluster.clone(),
                expected: format!("{:?}", Expect::Safe),
                verdict: Verdict::Double,
                detail: double.say(),
                replaced_after_milliseconds: None,
                decided_after_milliseconds: None,
                load: load_average(),
            });
        }
        Ok((trials, settled.is_ok()))
    }
}

/// The machine's load average of a minute.
fn load_average() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// How long everything may take to run again.
fn settle_limit(times: &Times) -> Duration {
    times.long() * 2 + Duration::from_secs(40)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Names of Clusters that come and go are never used again: who has the same name is the same member.
static LOADS: AtomicUsize = AtomicUsize::new(0);

/// Clusters come and go until this is dropped.
fn load_up(world: &World) -> AbortOnDropHandle<()> {
    let (client, times) = (world.network.client(), world.times);
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let number = LOADS.fetch_add(1, Ordering::Relaxed);
            let name = format!("{LOAD}{number}");
            // The hub is being restarted: what fails now is tried with the next one.
            let both = async {
                let made = clusters::create(&client, NAMESPACE, &load(number, times)).await;
                sleep(Duration::from_secs(1)).await;
                if made.is_ok() { clusters::delete(&client, NAMESPACE, &name).await } else { Ok(()) }
            };
            let _ = timeout(Duration::from_secs(5), both).await;
        }
    }))
}

/// Deletes what the load left, and waits until it is gone: the next fault's Clusters need the room.
async fn unload(world: &World) {
    let client = world.network.client();
    let api = clusters::api(&client, NAMESPACE);
    for _ in 0..300 {
        let Ok(Ok(all)) = timeout(Duration::from_secs(5), api.list(&ListParams::default())).await else { continue };
        let left: Vec<_> = all.iter().map(ResourceExt::name_any).filter(|name| name.starts_with(LOAD)).collect();
        if left.is_empty() {
            return;
        }
        for name in left {
            let _ = timeout(Duration::from_secs(5), clusters::delete(&client, NAMESPACE, &name)).await;
        }
        sleep(Duration::from_millis(200)).await;
    }
}
