//! What a scheduler did, by the API server's audit log and its process.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use anyhow::{Context, Result};
use atoll_testkit::audit::Mark;
use atoll_testkit::{AuditEvent, ManagedProcess};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::contender::Contender;
use crate::world::World;

/// A contender at work.
pub struct Measured<'w> {
    world: &'w World,
    contender: &'w Contender,
    pub process: ManagedProcess,
    pub started: Timestamp,
    mark: Mark,
}

/// What it did up to the last binding that was waited for.
#[derive(Debug, Clone)]
pub struct Run {
    /// Pods that should have been bound.
    pub wanted: usize,
    /// Pods that were.
    pub bound: usize,
    /// From the start of its process to the answer to the first binding.
    pub first: Duration,
    /// The same of the last one.
    pub last: Duration,
    /// How long it was given, if it did not finish.
    pub gave_up: Option<Duration>,
    /// CPU time of its process since its start.
    pub cpu: Duration,
    /// The most memory that its process had, in bytes.
    pub peak: u64,
    /// Its writes, trailing ones included.
    pub writes: usize,
}

impl Run {
    /// Pods per second between the first and the last binding.
    pub fn rate(&self) -> f64 {
        per_second(self.bound, self.last.saturating_sub(self.first))
    }

    /// Pods per second since the start of its process.
    pub fn rate_from_start(&self) -> f64 {
        per_second(self.bound, self.gave_up.unwrap_or(self.last))
    }

    /// CPU-seconds per 1,000 pods; of a run that bound none, as if it had bound one.
    pub fn cpu_per_thousand(&self) -> f64 {
        self.cpu.as_secs_f64() / float(self.bound.max(1)) * 1000.0
    }

    /// Writes per bound pod; infinite if there are writes and no bound pods.
    pub fn writes_per_pod(&self) -> f64 {
        float(self.writes) / float(self.bound)
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "{} of {} bound, first {:.2} s, last {:.2} s, {:.0}/s; {:.2} CPU-s per 1,000; peak {} MiB; {:.3} writes per pod",
            self.bound,
            self.wanted,
            self.first.as_secs_f64(),
            self.last.as_secs_f64(),
            self.rate(),
            self.cpu_per_thousand(),
            self.peak >> 20,
            self.writes_per_pod(),
        )
    }
}

impl<'w> Measured<'w> {
    /// Starts the contender.
    pub fn start(world: &'w World, contender: &'w Contender) -> Result<Self> {
        let mark = world.plane.audit().mark()?;
        let started = Timestamp::now();
        Ok(Self { world, contender, process: contender.start(world)?, started, mark })
    }

    /// Starts the contender, waits until it has bound so many pods or `limit` is over, and ends it.
    pub async fn once(world: &World, contender: &Contender, wanted: usize, limit: Duration) -> Result<Run> {
        let measured = Measured::start(world, contender)?;
        let run = measured.bound(wanted, limit).await?;
        eprintln!("   {}: {}", contender.name(), run.line());
        measured.process.kill9().await?;
        Ok(run)
    }

    /// Waits until so many pods are bound since its start, or until `limit` after its start.
    ///
    /// The log is only searched for bindings meanwhile: this process must not compete with those it measures.
    pub async fn bound(&self, wanted: usize, limit: Duration) -> Result<Run> {
        let mut counter = BindingCounter::new(self.world, self.mark)?;
        let deadline = Instant::now() + limit;
        while counter.count()? < wanted && Instant::now() < deadline {
            // A binder without a queue ends when it is done.
            if self.process.exit_status().is_none_or(|status| !status.success()) {
                self.process.check_running()?;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let (cpu, peak, now) = (self.process.cpu_time(), self.process.peak_memory(), Timestamp::now());
        let finished = counter.count()? >= wanted;
        let mut events = self.events()?;
        if finished {
            // Events and the like trail behind.
            self.quiet().await?;
            events = self.events()?;
        } else {
            events.retain(|event| event.answered <= now);
        }
        let bindings: Vec<&AuditEvent> = events.iter().filter(|event| is_binding(event)).collect();
        let at = |time: Option<Timestamp>| self.since_start(time.unwrap_or(self.started));
        Ok(Run {
            wanted,
            bound: bindings.len(),
            first: at(bindings.iter().map(|event| event.answered).min()),
            last: at(bindings.iter().map(|event| event.answered).max()),
            gave_up: (!finished).then_some(limit),
            cpu,
            peak,
            writes: events.iter().filter(|event| event.is_write() && event.resource != "leases").count(),
        })
    }

    /// How long after its start something was.
    pub fn since_start(&self, time: Timestamp) -> Duration {
        Duration::try_from(time.duration_since(self.started)).unwrap_or_default()
    }

    /// What it asked of the API server and got an answer to, in the order of the answers; reads are not logged.
    pub fn events(&self) -> Result<Vec<AuditEvent>> {
        let mut events = self.world.plane.audit().since(self.mark)?;
        events.retain(|event| event.user == self.contender.user());
        Ok(events)
    }

    /// Waits until nothing has been written for a second, half a minute at most.
    pub async fn quiet(&self) -> Result<()> {
        let audit = self.world.plane.audit();
        let mut end = audit.mark()?;
        for _ in 0..30 {
            sleep(Duration::from_secs(1)).await;
            let now = audit.mark()?;
            if now == end {
                break;
            }
            end = now;
        }
        Ok(())
    }
}

/// Whether this is a binding that was granted.
pub fn is_binding(event: &AuditEvent) -> bool {
    event.subresource == "binding" && event.verb == "create" && event.succeeded()
}

/// Counts granted bindings in the log without parsing it.
struct BindingCounter {
    file: File,
    rest: Vec<u8>,
    count: usize,
}

impl BindingCounter {
    fn new(world: &World, mark: Mark) -> Result<Self> {
        let path = world.plane.audit().path().to_owned();
        let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        file.seek(SeekFrom::Start(mark.bytes()))?;
        Ok(Self { file, rest: Vec::new(), count: 0 })
    }

    fn count(&mut self) -> Result<usize> {
        self.file.read_to_end(&mut self.rest)?;
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            return Ok(self.count);
        };
        let lines = String::from_utf8_lossy(&self.rest[..=end]);
        let granted = |line: &&str| line.contains(r#""subresource":"binding""#) && line.contains(r#""code":201"#);
        self.count += lines.lines().filter(granted).count();
        self.rest.drain(..=end);
        Ok(self.count)
    }
}

/// A count as a float; counts here are far below where that is inexact.
pub fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

fn per_second(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { float(count) / time.as_secs_f64() }
}

/// The middle value (the lower of two); zero of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}
