//! Leader election over a `coordination.k8s.io` Lease, with terms and a deadline for writes.
//!
//! Every write of the Lease carries its resourceVersion, so two candidates cannot both win. A leader may write only
//! until its own boot-time clock says that its last renewal is two thirds of the lease old; others take over only after
//! the whole lease. What still slips through (a process stopped between the check and the write) is settled by the
//! term that each commit carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::boot_time;
use crate::lease_record::{Seen, Verdict, verdict};

/// Flags of leader election.
#[derive(Clone, Debug, clap::Args)]
pub struct LeaderArgs {
    /// Seconds after which others take over from a silent leader.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=3600))]
    pub leader_lease_seconds: u32,
}

/// Which Lease is contended for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Leadership could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// The process is shutting down.
    #[error("shut down while waiting for leadership")]
    Shutdown,
    /// The watch of the Lease ended, which it never does by itself.
    #[error("the watch of Lease {namespace}/{name} ended")]
    WatchEnded {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// A term as leader. Renewed in the background until released, lost, or dropped.
#[derive(Debug)]
pub struct Leadership {
    term: i64,
    deadline: Arc<Deadline>,
    lost: CancellationToken,
    release: CancellationToken,
    renewal: JoinHandle<()>,
}

/// Milliseconds of boot time until which writes are allowed.
#[derive(Debug, Default)]
struct Deadline(AtomicU64);

impl Deadline {
    fn set(&self, at: Duration) {
        self.0.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
    fn passed(&self, now: Duration) -> bool {
        now.as_millis() >= u128::from(self.0.load(Ordering::SeqCst))
    }
}

struct Elector {
    api: Api<Lease>,
    name: LeaseName,
    identity: String,
    duration: Duration,
}

impl Leadership {
    /// Waits until this process leads. `identity` must be unique to the process, not to the machine: a restarted
    /// process is a new candidate, so that terms always grow.
    pub async fn acquire(
        client: kube::Client,
        name: LeaseName,
        identity: String,
        args: &LeaderArgs,
        shutdown: &CancellationToken,
    ) -> Result<Self, LeaderError> {
        let elector = Elector {
            api: Api::namespaced(client, &name.namespace),
            duration: Duration::from_secs(u64::from(args.leader_lease_seconds)),
            name,
            identity,
        };
        let mut changes = Box::pin(elector.watch());
        let mut seen: Option<Seen> = None;
        loop {
            let wait = match &seen {
                None => None,
                Some(known) => match verdict(known, elector.duration, boot_time()) {
                    Verdict::Wait(wait) => Some(wait),
                    chance => {
                        if let Some(leadership) = elector.try_take(known, chance).await {
                            return Ok(leadership);
                        }
                        // Somebody else was faster, or the API server did not answer: the watch tells, and a pause
                        // keeps a failing server from being asked in a tight loop.
                        seen = None;
                        Some(elector.duration / 5)
                    }
                },
            };
            tokio::select! {
                () = shutdown.cancelled() => return Err(LeaderError::Shutdown),
                change = changes.next() => match change {
                    Some(lease) => seen = Some(Seen { lease, at: boot_time() }),
                    None => return Err(elector.watch_ended()),
                },
                () = sleep_or_forever(wait) => {
                    if seen.is_none() {
                        seen = elector.read().await;
                    }
                }
            }
        }
    }

    /// The term: grows with every change of leader.
    #[must_use]
    pub fn term(&self) -> i64 {
        self.term
    }

    /// Whether a write may start now.
    #[must_use]
    pub fn may_write(&self) -> bool {
        !self.lost.is_cancelled() && !self.deadline.passed(boot_time())
    }

    /// Cancelled when leadership is lost.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the Lease back, so that others need not wait for its end. Call it after the last write.
    pub async fn release(self) {
        self.release.cancel();
        if let Err(error) = self.renewal.await {
            tracing::error!(%error, "the renewal of leadership could not be joined");
        }
    }
}

async fn sleep_or_forever(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

impl Elector {
    /// The Lease whenever it changes, None while it does not exist.
    fn watch(&self) -> impl Stream<Item = Option<Lease>> + Send + use<> {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name.name));
        let mut during_list = None;
        watcher(self.api.clone(), config).default_backoff().into_stream().filter_map(move |event| {
            let out = match event {
                Ok(watcher::Event::Apply(lease)) => Some(Some(lease)),
                Ok(watcher::Event::Delete(_)) => Some(None),
                Ok(watcher::Event::Init) => {
                    during_list = None;
                    None
                }
                Ok(watcher::Event::InitApply(lease)) => {
                    during_list = Some(lease);
                    None
                }
                Ok(watcher::Event::InitDone) => Some(during_list.take()),
                Err(error) => {
                    tracing::warn!(%error, "watching the leader's Lease");
                    None
                }
            };
            std::future::ready(out)
        })
    }

    async fn read(&self) -> Option<Seen> {
        match self.api.get_opt(&self.name.name).await {
            Ok(lease) => Some(Seen { lease, at: boot_time() }),
            Err(error) => {
                tracing::warn!(%error, lease = self.name.name, "reading the leader's Lease");
                None
            }
        }
    }

    async fn try_take(&self, seen: &Seen, chance: Verdict) -> Option<Leadership> {
        let sent = boot_time();
        let (term, written) = match chance {
            Verdict::Create => {
                let lease = self.record(ObjectMeta { name: Some(self.name.name.clone()), ..ObjectMeta::default() }, 1);
                (1, self.api.create(&PostParams::default(), &lease).await)
            }
            Verdict::TakeOver { term } => {
                let metadata = seen.lease.as_ref().map(|lease| lease.metadata.clone()).unwrap_or_default();
                let lease = self.record(metadata, term);
                (term, self.api.replace(&self.name.name, &PostParams::default(), &lease).await)
            }
            Verdict::Wait(_) => return None,
        };
        match written {
            Ok(lease) => Some(self.lead(lease, term, sent)),
            Err(error) => {
                tracing::info!(%error, lease = self.name.name, "did not become leader");
                None
            }
        }
    }

    /// The Lease as held by this process. The metadata's resourceVersion makes the write conditional.
    fn record(&self, mut metadata: ObjectMeta, term: i64) -> Lease {
        metadata.managed_fields = None;
        let now = MicroTime(jiff::Timestamp::now());
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: i32::try_from(term).ok(),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Starts the renewal of a Lease that was just won by a request sent at `sent`.
    fn lead(&self, lease: Lease, term: i64, sent: Duration) -> Leadership {
        let deadline = Arc::new(Deadline::default());
        deadline.set(sent + self.write_window());
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        tracing::info!(term, lease = self.name.name, identity = self.identity, "leading");
        let renewal = tokio::spawn(renew(
            Renewal { api: self.api.clone(), name: self.name.name.clone(), window: self.write_window() },
            lease,
            deadline.clone(),
            lost.clone(),
            release.clone(),
        ));
        Leadership { term, deadline, lost, release, renewal }
    }

    /// How long after sending a renewal writes are allowed.
    fn write_window(&self) -> Duration {
        self.duration * 2 / 3
    }

    fn watch_ended(&self) -> LeaderError {
        LeaderError::WatchEnded { namespace: self.name.namespace.clone(), name: self.name.name.clone() }
    }
}

struct Renewal {
    api: Api<Lease>,
    name: String,
    window: Duration,
}

async fn renew(
    renewal: Renewal,
    mut lease: Lease,
    deadline: Arc<Deadline>,
    lost: CancellationToken,
    release: CancellationToken,
) {
    // Three chances within the window.
    let period = renewal.window * 3 / 10;
    loop {
        tokio::select! {
            () = release.cancelled() => {
                lost.cancel();
                give_back(&renewal, lease).await;
                return;
            }
            () = tokio::time::sleep(period) => {}
        }
        let sent = boot_time();
        if deadline.passed(sent) {
            tracing::error!(lease = renewal.name, "leadership lost: the Lease could not be renewed in time");
            lost.cancel();
            return;
        }
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
        }
        lease.metadata.managed_fields = None;
        let params = PostParams::default();
        let write = renewal.api.replace(&renewal.name, &params, &lease);
        match tokio::time::timeout(renewal.window, write).await {
            Ok(Ok(renewed)) => {
                deadline.set(sent + renewal.window);
                lease = renewed;
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => {
                tracing::error!(lease = renewal.name, "leadership lost: somebody else wrote the Lease");
                lost.cancel();
                return;
            }
            Ok(Err(error)) => tracing::warn!(%error, lease = renewal.name, "renewing leadership"),
            Err(_) => tracing::warn!(lease = renewal.name, "renewing leadership: no answer in time"),
        }
    }
}

async fn give_back(renewal: &Renewal, mut lease: Lease) {
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
    }
    lease.metadata.managed_fields = None;
    let params = PostParams::default();
    let write = renewal.api.replace(&renewal.name, &params, &lease);
    match tokio::time::timeout(Duration::from_secs(2), write).await {
        Ok(Ok(_)) => tracing::info!(lease = renewal.name, "leadership released"),
        Ok(Err(error)) => tracing::warn!(%error, "leadership could not be released; others wait for its end"),
        Err(_) => tracing::warn!("leadership could not be released in time; others wait for its end"),
    }
}
