//! Leader election over a `coordination.k8s.io` Lease, with terms and a deadline for writes.
//!
//! Every write of the Lease carries its resourceVersion, so two candidates cannot both win. A leader may write only
//! until its own boot-time clock says that its last renewal is two thirds of the lease old; others take over only after
//! the whole lease. What still slips through (a process stopped between the check and the write) is settled by the
//! term that each commit carries.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::boot_time;
use crate::lease_record::{Seen, Verdict};
use crate::renewal::{Deadline, Renewal};

/// The longest that the answer to one request about the Lease is waited for. A longer silence mostly means that the
/// connection is dead, and the next request opens another.
const LONGEST_PATIENCE: Duration = Duration::from_secs(5);

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
    release: DropGuard,
    renewal: JoinHandle<()>,
}

struct Elector {
    api: Api<Lease>,
    name: LeaseName,
    identity: String,
    duration: Duration,
}

impl Leadership {
    /// Waits until this process leads. `identity` must be unique to the process, not to the machine
    /// ([`process_identity`](crate::process::process_identity)): a restarted process is a new candidate, so that terms
    /// always grow.
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
        // Between attempts: somebody else was faster, or the API server is in trouble and must not be asked in a tight
        // loop.
        let pause = elector.duration / 5;
        let mut changes = Box::pin(elector.watch());
        let mut seen: Option<Seen> = None;
        let mut failed = false;
        loop {
            let wait = match &seen {
                None => None,
                Some(_) if failed => Some(pause),
                Some(known) => match known.verdict(boot_time()) {
                    Verdict::Wait(wait) => Some(wait),
                    chance => {
                        if let Some(leadership) = elector.try_take(known, chance).await {
                            return Ok(leadership);
                        }
                        failed = true;
                        Some(pause)
                    }
                },
            };
            let found = tokio::select! {
                () = shutdown.cancelled() => return Err(LeaderError::Shutdown),
                change = changes.next() => match change {
                    Some(lease) => Some(lease),
                    None => return Err(elector.watch_ended()),
                },
                // The watch tells what has changed, but not that nothing has although a write failed.
                () = sleep_or_forever(wait) => if failed { elector.read().await } else { None },
            };
            if let Some(lease) = found {
                seen = Some(Seen::new(seen.as_ref(), lease, &elector.identity, elector.duration, boot_time()));
                failed = false;
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

    /// Waits until [`Leadership::may_write`] is false. A request that is still on its way then is better dropped: it
    /// may reach the API server when another process leads.
    pub async fn lapsed(&self) {
        while self.may_write() {
            tokio::select! {
                () = self.lost.cancelled() => return,
                () = tokio::time::sleep(self.deadline.left(boot_time())) => {}
            }
        }
    }

    /// Cancelled when leadership is lost.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the Lease back, so that others need not wait for its end. Call it after the last write.
    pub async fn release(self) {
        drop(self.release);
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
        watcher(self.api.clone(), config).default_backoff().filter_map(move |event| {
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

    /// The Lease as it is now (None: there is none), unless the API server does not say.
    async fn read(&self) -> Option<Option<Lease>> {
        match tokio::time::timeout(self.patience(), self.api.get_opt(&self.name.name)).await {
            Ok(Ok(lease)) => return Some(lease),
            Ok(Err(error)) => tracing::warn!(%error, lease = self.name.name, "reading the leader's Lease"),
            Err(_) => tracing::warn!(lease = self.name.name, "reading the leader's Lease: no answer in time"),
        }
        None
    }

    /// One attempt. Whether it succeeded although its answer was lost, the next look at the Lease shows.
    async fn try_take(&self, seen: &Seen, chance: Verdict) -> Option<Leadership> {
        let sent = boot_time();
        let params = PostParams::default();
        let limit = self.patience();
        let (term, written) = match chance {
            Verdict::Create { term } => {
                let metadata = ObjectMeta { name: Some(self.name.name.clone()), ..ObjectMeta::default() };
                let lease = self.record(metadata, term);
                (term, tokio::time::timeout(limit, self.api.create(&params, &lease)).await)
            }
            Verdict::TakeOver { term } => {
                let lease = self.record(seen.metadata(), term);
                (term, tokio::time::timeout(limit, self.api.replace(&self.name.name, &params, &lease)).await)
            }
            Verdict::Wait(_) => return None,
        };
        match written {
            Ok(Ok(lease)) => return Some(self.lead(lease, term, sent)),
            Ok(Err(error)) => tracing::info!(%error, lease = self.name.name, "did not become leader"),
            Err(_) => tracing::warn!(lease = self.name.name, "becoming leader: no answer in time"),
        }
        None
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
        let deadline = Arc::new(Deadline::at(sent + self.write_window()));
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        tracing::info!(term, lease = self.name.name, identity = self.identity, "leading");
        let renewal = Renewal {
            api: self.api.clone(),
            name: self.name.name.clone(),
            identity: self.identity.clone(),
            window: self.write_window(),
            patience: self.patience(),
            deadline: Arc::clone(&deadline),
        };
        let renewal = tokio::spawn(renewal.run(lease, lost.clone().drop_guard(), release.clone()));
        Leadership { term, deadline, lost, release: release.drop_guard(), renewal }
    }

    /// How long after sending a renewal writes are allowed.
    fn write_window(&self) -> Duration {
        self.duration * 2 / 3
    }

    /// How long the answer to one request about the Lease is waited for.
    fn patience(&self) -> Duration {
        self.write_window().min(LONGEST_PATIENCE)
    }

    fn watch_ended(&self) -> LeaderError {
        LeaderError::WatchEnded { namespace: self.name.namespace.clone(), name: self.name.name.clone() }
    }
}
