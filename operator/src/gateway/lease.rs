//! This gateway's own Lease: while it holds it, it may grant leases to Sites.
//!
//! Others count the Sites of this gateway as lost when the Lease has not changed for its whole duration. So this gateway
//! stops granting when that much time has passed since it sent its last successful renewal, by the boot-time clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atoll_api::names::{COMPONENT_GATEWAY, FIELD_MANAGER_GATEWAY, LABEL_COMPONENT};
use atoll_core::session::Tenure;
use atoll_runtime::clock::boot_time;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Renewals in one lease's duration.
const RENEWALS: u32 = 6;
/// Pause before a failed renewal is tried again, unless a quarter of the time between renewals is less.
const RETRY: Duration = Duration::from_secs(2);

/// This gateway's Lease.
pub struct OwnLease {
    api: Api<Lease>,
    name: String,
    duration: Duration,
    /// Milliseconds of boot time until which it is held.
    until: AtomicU64,
    /// Counts how often it lapsed; sessions begun before a lapse end.
    lapses: watch::Sender<u64>,
}

impl OwnLease {
    /// Not held yet.
    pub fn new(api: Api<Lease>, name: String, duration: Duration) -> Self {
        Self { api, name, duration, until: AtomicU64::new(0), lapses: watch::Sender::new(0) }
    }

    /// Whether grants are allowed at `now`, boot time.
    #[must_use]
    pub fn held(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.until.load(Ordering::SeqCst))
    }

    /// Tells of lapses.
    #[must_use]
    pub fn lapses(&self) -> watch::Receiver<u64> {
        self.lapses.subscribe()
    }

    /// Takes and renews the Lease until `shutdown`; says through `ready` whether it is held.
    pub async fn keep(&self, shutdown: CancellationToken, ready: impl Fn(bool)) {
        let period = self.duration / RENEWALS;
        let mut known: Option<Lease> = None;
        loop {
            let sent = boot_time();
            let renewed = tokio::time::timeout(period.max(Duration::from_secs(1)), self.renew(known.as_ref())).await;
            let wait = match renewed {
                Ok(Ok(lease)) => {
                    if known.is_none() {
                        tracing::info!(lease = %self.name, "holding this gateway's Lease");
                    }
                    known = Some(lease);
                    self.hold_until(Tenure::renewed(sent, self.duration).until());
                    ready(true);
                    period
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = %self.name, "cannot renew this gateway's Lease");
                    // Gone, or not ours any more: what others concluded from that is not known, so begin anew.
                    if matches!(&error, kube::Error::Api(status) if status.is_conflict() || status.is_not_found()) {
                        self.until.store(0, Ordering::SeqCst);
                    }
                    RETRY.min(period / 4)
                }
                Err(_) => {
                    tracing::warn!(lease = %self.name, "renewing this gateway's Lease takes too long");
                    RETRY.min(period / 4)
                }
            };
            // A lapse is noticed when it happens and not at the next renewal.
            let lapse = Duration::from_millis(self.until.load(Ordering::SeqCst)).saturating_sub(boot_time());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait.min(lapse.max(period / 8))) => {}
            }
            if known.is_some() && !self.held(boot_time()) {
                tracing::error!(lease = %self.name, "this gateway's Lease lapsed; ending all sessions");
                ready(false);
                known = None;
                self.lapses.send_modify(|count| *count += 1);
            }
        }
    }

    /// Gives the Lease up: others need not wait for its end. Nothing is granted after this.
    pub async fn release(&self) {
        self.until.store(0, Ordering::SeqCst);
        let released = async {
            let lease = self.api.get(&self.name).await?;
            let spec = LeaseSpec { holder_identity: Some(String::new()), ..self.spec() };
            match self.replace(lease, spec.clone()).await {
                // A renewal that was under way came in between.
                Err(error) if is_conflict(&error) => self.replace(self.api.get(&self.name).await?, spec).await,
                result => result,
            }
        };
        match tokio::time::timeout(Duration::from_secs(2), released).await {
            Ok(Ok(_)) => tracing::info!(lease = %self.name, "released this gateway's Lease"),
            Ok(Err(error)) => tracing::warn!(%error, lease = %self.name, "cannot release this gateway's Lease"),
            Err(_) => tracing::warn!(lease = %self.name, "releasing this gateway's Lease takes too long"),
        }
    }

    /// Creates it, or renews what is known. After a lapse whatever is there is taken over: the name is ours alone.
    async fn renew(&self, known: Option<&Lease>) -> Result<Lease, kube::Error> {
        let Some(known) = known else {
            return match self.api.get_opt(&self.name).await? {
                Some(lease) => self.replace(lease, self.spec()).await,
                None => self.api.create(&params(), &self.object()).await,
            };
        };
        match self.replace(known.clone(), self.spec()).await {
            // The answer to an earlier renewal was lost, or somebody labelled it: while it names this gateway nobody has
            // concluded anything.
            Err(error) if is_conflict(&error) => {
                let present = self.api.get(&self.name).await?;
                if present.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.name) {
                    self.replace(present, self.spec()).await
                } else {
                    Err(error)
                }
            }
            result => result,
        }
    }

    async fn replace(&self, lease: Lease, spec: LeaseSpec) -> Result<Lease, kube::Error> {
        self.api.replace(&self.name, &params(), &Lease { spec: Some(spec), ..lease }).await
    }

    fn object(&self) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([(LABEL_COMPONENT.to_owned(), COMPONENT_GATEWAY.to_owned())])),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec()),
        }
    }

    fn spec(&self) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX)),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }
    }

    fn hold_until(&self, at: Duration) {
        self.until.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER_GATEWAY.to_owned()), ..PostParams::default() }
}
