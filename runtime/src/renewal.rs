//! Keeps a Lease that was won, and gives it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::boot_time;
use crate::lease_record::{is_held_by, term_of};

/// How long a process that ends tries to give its Lease back.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// Milliseconds of boot time until which writes are allowed.
#[derive(Debug)]
pub(crate) struct Deadline(AtomicU64);

impl Deadline {
    pub fn at(at: Duration) -> Self {
        let deadline = Self(AtomicU64::new(0));
        deadline.set(at);
        deadline
    }

    pub fn passed(&self, now: Duration) -> bool {
        self.left(now).is_zero()
    }

    pub fn left(&self, now: Duration) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst)).saturating_sub(now)
    }

    fn set(&self, at: Duration) {
        self.0.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

/// A Lease that was won, and what is needed to keep it.
pub(crate) struct Renewal {
    pub api: Api<Lease>,
    pub name: String,
    pub identity: String,
    /// How long after sending a renewal writes are allowed.
    pub window: Duration,
    /// How long one answer is waited for.
    pub patience: Duration,
    pub deadline: Arc<Deadline>,
}

/// The Lease could not be written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("somebody else wrote the Lease")]
    Changed,
    #[error("somebody else holds the Lease, or it was deleted")]
    Taken,
    #[error("{0}")]
    Refused(kube::Error),
    #[error("no answer in time")]
    Silence,
}

impl Failure {
    fn of(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 409 => Self::Changed,
            kube::Error::Api(status) if status.code == 404 => Self::Taken,
            _ => Self::Refused(error),
        }
    }
}

impl Renewal {
    /// Renews until `release`, and then gives the Lease back; or until it is lost. However it ends, a panic included,
    /// `lost` says so.
    pub async fn run(self, mut lease: Lease, lost: DropGuard, release: CancellationToken) {
        // Three chances within the window.
        let period = self.window * 3 / 10;
        loop {
            tokio::select! {
                () = release.cancelled() => {
                    drop(lost);
                    return self.give_back(lease).await;
                }
                () = tokio::time::sleep(period.min(self.deadline.left(boot_time()))) => {}
            }
            let sent = boot_time();
            if self.deadline.passed(sent) {
                tracing::error!(lease = self.name, "leadership lost: the Lease could not be renewed in time");
                return;
            }
            if let Some(spec) = &mut lease.spec {
                spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
            }
            match self.write(&lease).await {
                Ok(renewed) => {
                    self.deadline.set(sent + self.window);
                    lease = renewed;
                }
                Err(error @ Failure::Taken) => {
                    tracing::error!(lease = self.name, %error, "leadership lost");
                    return;
                }
                Err(error) => tracing::warn!(%error, lease = self.name, "renewing leadership"),
            }
        }
    }

    async fn give_back(&self, mut lease: Lease) {
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        match tokio::time::timeout(GIVING_BACK, self.write(&lease)).await.unwrap_or(Err(Failure::Silence)) {
            Ok(_) => tracing::info!(lease = self.name, "leadership released"),
            Err(error) => {
                tracing::warn!(lease = self.name, %error, "leadership could not be released; others wait for its end");
            }
        }
    }

    /// Writes `lease` over the version that it carries, or over a newer one that still names this process in this term:
    /// the answer to an earlier write was lost, or somebody labelled the Lease.
    async fn write(&self, lease: &Lease) -> Result<Lease, Failure> {
        match self.replace(lease.clone()).await {
            Err(Failure::Changed) => {
                let metadata = self.held(lease).await?.metadata;
                self.replace(Lease { metadata, spec: lease.spec.clone() }).await
            }
            written => written,
        }
    }

    /// The Lease as it is, if it is still ours.
    async fn held(&self, lease: &Lease) -> Result<Lease, Failure> {
        let present = self.answer(self.api.get(&self.name)).await?;
        if is_held_by(&present, &self.identity) && term_of(&present) == term_of(lease) {
            Ok(present)
        } else {
            Err(Failure::Taken)
        }
    }

    async fn replace(&self, mut lease: Lease) -> Result<Lease, Failure> {
        lease.metadata.managed_fields = None;
        self.answer(self.api.replace(&self.name, &PostParams::default(), &lease)).await
    }

    async fn answer<T>(&self, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
        match tokio::time::timeout(self.patience, request).await {
            Ok(answer) => answer.map_err(Failure::of),
            Err(_) => Err(Failure::Silence),
        }
    }
}
