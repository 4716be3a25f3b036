//! A gateway as a real process on a real API server, with agents that exist only for it but speak over real TLS: what a
//! session costs, how soon changes arrive, how all of them come back at once, how fast Sites join and are suspended.

mod agent;
mod authorization;
mod changes;
mod fleet;
mod hub;
mod joins;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use atoll_bench::{Figure, percentile, report};
use atoll_testkit::AuditEvent;
use clap::Parser;
use jiff::Timestamp;

use changes::By;
use fleet::{Fleet, Plan};
use hub::Hub;

/// Measures a gateway with sessions of agents that another process plays; takes about six minutes.
#[derive(Debug, Parser)]
#[command(name = "bench-gateway")]
struct Args {
    /// Sessions at once.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    sessions: usize,
    /// How long idle, and slices that change, are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
    /// Slices created each second.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    changes: u32,
    /// How long all agents stay away; beyond 30 s Sites are noted as absent.
    #[arg(long, value_name = "SECONDS", default_value_t = 45)]
    away: u64,
    /// Joins each second, for 20 s.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    joins: u32,
    /// Sites suspended one after another.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    suspended: usize,
    /// Be the agents of this plan instead.
    #[arg(long, hide = true)]
    agents: Option<PathBuf>,
}

const SYNC: Duration = Duration::from_mins(5);
const JOINING: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(plan) = &args.agents {
        return fleet::serve(plan).await;
    }
    fleet::raise_files()?;
    let mut figures = authorized()?;
    figures.extend(at_scale(&args).await?);
    report("gateway", &figures)
}

fn authorized() -> Result<Vec<Figure>> {
    const REQUESTS: usize = 50_000;
    eprintln!("authorization");
    // The first run warms up.
    authorization::among(100, REQUESTS)?;
    let (few, many) = (authorization::among(100, REQUESTS)?, authorization::among(100_000, REQUESTS)?);
    let micro = |name: &str, time: Duration| {
        let conditions = format!(
            "{REQUESTS} requests in one thread: certificate to Site, Site and session looked up, its report of its own \
             slice taken and one of another Site's slice refused"
        );
        Figure::number(name, time.as_secs_f64() * 1e6, "µs", "", &conditions)
    };
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    Ok(vec![
        micro("authorization among 100 Sites, p99", few),
        micro("authorization among 100,000 Sites, p99", many),
        Figure::number("authorization, 100,000 Sites to 100", ratio, "x", "<= 1.5", "of the two figures before"),
    ])
}

async fn at_scale(args: &Args) -> Result<Vec<Figure>> {
    let hub = Hub::start().await?;
    eprintln!("{} Sites", args.sessions);
    let identities = hub.sites(args.sessions).await?;
    let names: Vec<String> = identities.iter().map(|identity| identity.site.clone()).collect();
    let sites = identities
        .into_iter()
        .map(|site| (site.site.clone(), site.certificate.to_vec(), site.key.secret_pkcs8_der().to_vec()));
    let plan = Plan { gateway: hub.address, ca: hub.authority.certificate().to_vec(), sites: sites.collect() };
    let path = hub.plane.dir().join("agents.json");
    std::fs::write(&path, serde_json::to_vec(&plan)?)?;
    let mut fleet = Fleet::start(&path)?;
    let mut bench = Bench { args, hub, figures: Vec::new() };
    bench.sessions(&mut fleet).await?;
    bench.idle(&mut fleet).await?;
    bench.changes(&names).await?;
    bench.storm(&mut fleet).await?;
    bench.joins().await?;
    let figures = bench.figures;
    fleet.stop().await?;
    Ok(figures)
}

/// Says what the writes of the Site and of the second with most of them were.
fn tell_busiest(writes: &[AuditEvent], sites: &HashMap<&str, usize>, seconds: &HashMap<i64, usize>) {
    let site = sites.iter().max_by_key(|(_, count)| **count).map(|(site, _)| *site);
    let second = seconds.iter().max_by_key(|(_, count)| **count).map(|(second, _)| *second);
    let of_site = |write: &&AuditEvent| Some(site_of(write)) == site;
    for write in writes.iter().filter(of_site) {
        let AuditEvent { verb, resource, subresource, name, code, received, .. } = write;
        eprintln!("    busiest Site: {received} {verb} {resource}/{subresource} {name}: {code}");
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for write in writes.iter().filter(|write| Some(write.received.as_second()) == second) {
        *kinds
            .entry(format!("{} {}/{}: {}", write.verb, write.resource, write.subresource, write.code))
            .or_default() += 1;
    }
    eprintln!("    busiest second: {kinds:?}");
}

/// The Site that a write is about: an Event is named after it.
fn site_of(write: &AuditEvent) -> &str {
    write.name.split('.').next().unwrap_or_default()
}

struct Bench<'a> {
    args: &'a Args,
    hub: Hub,
    figures: Vec<Figure>,
}

impl Bench<'_> {
    fn figure(&mut self, name: &str, value: f64, unit: &str, target: &str, more: &str) {
        let conditions = format!("{} sessions over TLS on one gateway, {more}", self.args.sessions);
        self.figures.push(Figure::number(name, value, unit, target, &conditions));
        eprintln!("  {name}: {value:.3} {unit}");
    }

    /// What a session costs in memory.
    async fn sessions(&mut self, fleet: &mut Fleet) -> Result<()> {
        eprintln!("sessions");
        // The caches have shown everything by then.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = self.hub.gateway.memory();
        let mark = self.hub.plane.audit().mark()?;
        fleet.switch(true).await?;
        let took = fleet.synced(self.args.sessions, SYNC).await?;
        self.figure("first sessions, until all are in step", took.as_secs_f64(), "s", "", "400 begun a second");
        self.figure_writes("first sessions, API writes per Site", &self.hub.written(mark)?);
        tokio::time::sleep(Duration::from_secs(12)).await;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a process")]
        let each = self.hub.gateway.memory().saturating_sub(before) as f64 / self.args.sessions as f64 / 1024.0;
        let more = "growth of its resident memory by them, after a round of heartbeats; each Site has a node";
        self.figure("memory of a session", each, "KiB", "<= 64", more);
        Ok(())
    }

    fn figure_writes(&mut self, name: &str, writes: &[AuditEvent]) {
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let each = writes.len() as f64 / self.args.sessions as f64;
        self.figure(name, each, "writes", "", "from the API server's audit log");
    }

    /// Heartbeats only.
    async fn idle(&mut self, fleet: &mut Fleet) -> Result<()> {
        eprintln!("idle");
        let (mark, cpu, began) = (self.hub.plane.audit().mark()?, self.hub.gateway.cpu_time(), Instant::now());
        let beats = self.hub.metric("atoll_gateway_messages_received_total").await?;
        let least = fleet.least(Duration::from_secs(self.args.seconds)).await?;
        let seconds = began.elapsed().as_secs_f64();
        let share = self.hub.gateway.cpu_time().saturating_sub(cpu).as_secs_f64() / seconds;
        let beats = self.hub.metric("atoll_gateway_messages_received_total").await? - beats;
        let more = format!("a heartbeat every 10 s each, over {seconds:.0} s; at least {least} of them were in step");
        self.figure("processor in idle", share, "cores", "<= 0.5", &more);
        self.figure("heartbeats in idle", beats / seconds, "1/s", "", &more);
        let writes = self.hub.written(mark)?.len();
        #[expect(clippy::cast_precision_loss, reason = "few")]
        self.figure("API writes from heartbeats", writes as f64, "writes", "<= 0", &more);
        Ok(())
    }

    /// Slices that change.
    async fn changes(&mut self, names: &[String]) -> Result<()> {
        eprintln!("changes");
        let length = Duration::from_secs(self.args.seconds);
        let pace = self.args.changes;
        for by in [By::Client, By::Agents] {
            let measured = changes::measure(&self.hub.plane.client(), names, pace, length, by).await?;
            let (who, target) = match by {
                By::Agents => ("create to agent-acknowledged", "<= 250"),
                By::Client => ("the same writes by a plain client", ""),
            };
            let more = format!(
                "{pace} slices created a second for {} s; from sending the create to seeing the status in a watch; \
                 {} of {} were answered",
                length.as_secs(),
                measured.times.len(),
                measured.created
            );
            let ms = |percent| percentile(&measured.times, percent).as_secs_f64() * 1000.0;
            self.figure(&format!("{who}, p50"), ms(50), "ms", "", &more);
            self.figure(&format!("{who}, p99"), ms(99), "ms", target, &more);
            #[expect(clippy::cast_precision_loss, reason = "thousands")]
            let lost = (measured.created - measured.times.len()) as f64;
            self.figure(&format!("{who}, unanswered"), lost, "slices", "<= 0", &more);
        }
        Ok(())
    }

    /// All agents away, then all back at once.
    async fn storm(&mut self, fleet: &mut Fleet) -> Result<()> {
        eprintln!("storm");
        let before = self.hub.gateway.memory();
        let mark = self.hub.plane.audit().mark()?;
        fleet.switch(false).await?;
        fleet.synced(0, SYNC).await?;
        fleet.least(Duration::from_secs(self.args.away)).await?;
        fleet.switch(true).await?;
        let took = fleet.synced(self.args.sessions, SYNC).await?;
        // The log has the last ones by then.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let writes = self.hub.written(mark)?;
        let more = format!(
            "all connections cut for {} s, then all agents back at once with full jitter from 0.5 s",
            self.args.away
        );
        self.figure("storm, until all are in step", took.as_secs_f64(), "s", "<= 120", &more);
        let (mut sites, mut seconds): (HashMap<&str, usize>, HashMap<i64, usize>) = Default::default();
        for write in &writes {
            *sites.entry(site_of(write)).or_default() += 1;
            *seconds.entry(write.received.as_second()).or_default() += 1;
        }
        tell_busiest(&writes, &sites, &seconds);
        let most = |counts: Option<&usize>| u32::try_from(counts.copied().unwrap_or(0)).unwrap_or(u32::MAX);
        let (of_site, in_second) = (most(sites.values().max()), most(seconds.values().max()));
        self.figure("storm, most API writes for one Site", f64::from(of_site), "writes", "<= 2", &more);
        self.figure("storm, API writes in the busiest second", f64::from(in_second), "writes", "<= 200", &more);
        self.figure_writes("storm, API writes per Site", &writes);
        #[expect(clippy::cast_precision_loss, reason = "bytes of a process")]
        let grown = (self.hub.gateway.memory() as f64 - before as f64) / self.args.sessions as f64 / 1024.0;
        self.figure("storm, memory of a session beside that before", grown, "KiB", "", &more);
        Ok(())
    }

    /// Joins, then suspensions of those.
    async fn joins(&mut self) -> Result<()> {
        eprintln!("joins");
        let (times, mut joined) = joins::measure(&self.hub, self.args.joins, JOINING).await?;
        let more = format!(
            "{} joins a second for {} s beside them; from connecting to join until the session is in step",
            self.args.joins,
            JOINING.as_secs()
        );
        self.figure("join to Ready, p50", percentile(&times, 50).as_secs_f64(), "s", "", &more);
        self.figure("join to Ready, p99", percentile(&times, 99).as_secs_f64(), "s", "<= 3", &more);
        eprintln!("suspensions");
        let last = joined.len().min(self.args.suspended);
        let times = joins::suspend(&self.hub, joined.get_mut(..last).unwrap_or_default()).await?;
        let more = format!("worst of {last}, from sending the patch to the goodbye");
        self.figure("suspended to session dead", percentile(&times, 100).as_secs_f64(), "s", "<= 2", &more);
        eprintln!("{}", Timestamp::now());
        Ok(())
    }
}
