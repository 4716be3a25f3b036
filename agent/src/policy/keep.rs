//! Reads the supplier's `SitePolicy`, passes on what it means, and writes its status.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::conditions::{self, site_policy, site_policy_reason};
use atoll_api::{Availability, PresentMembers, SitePolicy, SitePolicyStatus, names};
use atoll_runtime::readiness::Readiness;
use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::drain::Drain;
use super::{Closed, Policy};
use crate::metrics::Metrics;

/// Part of the readiness: it is known what the supplier's policy is, or that there is none.
pub const PART_POLICY: &str = "policy";
/// The status is written at most so often.
const PACE: Duration = Duration::from_secs(1);

/// How far the network rules of a policy have been brought.
#[derive(Clone, Debug, Default)]
pub struct NetworkWritten {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Why it is not in force everywhere; `None`: it is.
    pub error: Option<String>,
}

/// What it works with.
pub struct Keeper {
    /// Client of the Site's API server.
    pub client: kube::Client,
    /// The agent's namespace.
    pub namespace: String,
    /// Where what the policy means is passed on.
    pub policy: watch::Sender<Arc<Policy>>,
    /// Members on the Site; `None` until everything was listed.
    pub present: watch::Receiver<Option<PresentMembers>>,
    /// How far the network rules have been brought.
    pub network: watch::Receiver<NetworkWritten>,
    /// The boot-time clock.
    pub clock: fn() -> Duration,
    /// The wall clock.
    pub wall: fn() -> Timestamp,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What is counted.
    pub metrics: Metrics,
}

/// What is known of the object.
#[derive(Default)]
struct Known {
    object: Option<SitePolicy>,
    drain: Option<Drain>,
}

impl Keeper {
    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let api: Api<SitePolicy> = Api::namespaced(self.client.clone(), &self.namespace);
        let ours = watcher::Config::default().fields(&format!("metadata.name={}", names::SITE_POLICY));
        let mut events = pin!(watcher(api.clone(), ours).default_backoff());
        let mut known = Known::default();
        let mut listed = None;
        let mut next_write = Instant::now();
        loop {
            let status =
                known.status(&self.policy.borrow(), *self.present.borrow(), &self.network.borrow(), (self.wall)());
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(event) = events.next() => match event {
                    Ok(watcher::Event::Init) => listed = None,
                    Ok(watcher::Event::InitApply(object)) => listed = Some(object),
                    Ok(watcher::Event::InitDone) => self.take(listed.take(), &mut known),
                    Ok(watcher::Event::Apply(object)) => self.take(Some(object), &mut known),
                    Ok(watcher::Event::Delete(_)) => self.take(None, &mut known),
                    Err(error) if is_absent(&error) => {
                        tracing::debug!(%error, "the Site knows no SitePolicies");
                        self.take(None, &mut known);
                    }
                    Err(error) => tracing::warn!(%error, "the SitePolicy cannot be read; what is known of it counts on"),
                },
                Ok(()) = self.present.changed() => {}
                Ok(()) = self.network.changed() => {}
                () = sleep_until(next_write), if status.is_some() => {
                    next_write = Instant::now() + PACE;
                    if let Some(status) = status {
                        self.write(&api, status, &mut known).await;
                    }
                }
            }
        }
    }

    /// Takes in what the supplier's policy is; `None`: there is none.
    fn take(&self, object: Option<SitePolicy>, known: &mut Known) {
        known.drain = object.as_ref().and_then(|object| Drain::of(object, known.drain, (self.clock)(), (self.wall)()));
        let policy = match &object {
            Some(object) => Policy::new(&object.spec, known.drain.map(|drain| drain.deadline(object))),
            None => Policy::default(),
        };
        known.object = object;
        self.readiness.set(PART_POLICY, true);
        self.metrics.availability.set(match policy.availability {
            Availability::Accepting => 0,
            Availability::Paused => 1,
            Availability::Draining => 2,
        });
        self.policy.send_if_modified(|told| {
            if **told == policy {
                return false;
            }
            let (before, now) = (told.availability, policy.availability);
            tracing::info!(?before, ?now, deadline = ?policy.deadline, closed = ?policy.closed, "the supplier's policy");
            *told = Arc::new(policy);
            true
        });
    }

    async fn write(&self, api: &Api<SitePolicy>, status: SitePolicyStatus, known: &mut Known) {
        let mut patch = json!({"status": status});
        // Without it a merge patch would leave it as it was.
        if status.draining_since.is_none() {
            patch["status"]["drainingSince"] = serde_json::Value::Null;
        }
        let params = PatchParams { field_manager: Some(names::FIELD_MANAGER_AGENT.into()), ..PatchParams::default() };
        match api.patch_status(names::SITE_POLICY, &params, &Patch::Merge(patch)).await {
            Ok(_) => {
                if let Some(object) = &mut known.object {
                    object.status = Some(status);
                }
            }
            Err(error) => {
                self.metrics.site_errors.inc();
                tracing::warn!(%error, "the SitePolicy's status could not be written");
            }
        }
    }
}

impl Known {
    /// The status that is to be written; `None`: it is there already, or it is too early.
    fn status(
        &self,
        policy: &Arc<Policy>,
        present: Option<PresentMembers>,
        network: &NetworkWritten,
        now: Timestamp,
    ) -> Option<SitePolicyStatus> {
        let (object, members) = (self.object.as_ref()?, present?);
        let before = object.status.clone().unwrap_or_default();
        let mut status = SitePolicyStatus {
            observed_generation: object.metadata.generation,
            conditions: before.conditions.clone(),
            draining_since: self.drain.map(|drain| Time(drain.since)),
            members,
        };
        let word = match (&policy.closed, &network.error) {
            (Some(closed @ Closed::NotUnderstood(_)), _) => {
                Some((false, site_policy_reason::NOT_UNDERSTOOD, closed.to_string()))
            }
            _ if !Arc::ptr_eq(&network.policy, policy) => None,
            (_, Some(error)) => Some((false, site_policy_reason::NETWORK_NOT_WRITTEN, error.clone())),
            (_, None) => Some((true, site_policy_reason::IN_FORCE, String::new())),
        };
        if let Some((holds, reason, message)) = word {
            let generation = object.metadata.generation;
            let applied = site_policy::APPLIED;
            conditions::set_condition(&mut status.conditions, applied, holds, reason, &message, generation, now);
        }
        (status != before).then_some(status)
    }
}

/// The API server does not know the kind.
fn is_absent(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(spec: &serde_json::Value, status: &serde_json::Value) -> Known {
        let object = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "SitePolicy",
            "metadata": {"name": "default", "generation": 3}, "spec": spec, "status": status,
        });
        Known { object: Some(serde_json::from_value(object).unwrap()), drain: None }
    }

    fn applied(status: &SitePolicyStatus) -> Option<(String, String)> {
        status.conditions.first().map(|condition| (condition.status.clone(), condition.reason.clone()))
    }

    #[test]
    fn the_status_says_what_is_in_force_and_is_written_when_it_changes_only() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let mut known = known(&json!({}), &json!({}));
        let policy = Arc::new(Policy::default());
        let members = Some(PresentMembers { running: 2, leaving: 1 });
        let elsewhere = NetworkWritten { policy: Arc::new(Policy::default()), error: None };
        assert_eq!(known.status(&policy, None, &elsewhere, now), None, "nothing is listed yet");
        let early = known.status(&policy, members, &elsewhere, now).unwrap();
        assert_eq!((early.observed_generation, early.members.running, applied(&early)), (Some(3), 2, None));
        let failed = NetworkWritten { policy: policy.clone(), error: Some("no right".into()) };
        let told = known.status(&policy, members, &failed, now).unwrap();
        assert_eq!(applied(&told), Some(("False".into(), "NetworkNotWritten".into())));
        let written = NetworkWritten { policy: policy.clone(), error: None };
        let told = known.status(&policy, members, &written, now).unwrap();
        assert_eq!(applied(&told), Some(("True".into(), "InForce".into())));
        known.object.as_mut().unwrap().status = Some(told);
        assert_eq!(known.status(&policy, members, &written, Timestamp::UNIX_EPOCH), None);
        known.object = None;
        assert_eq!(known.status(&policy, members, &written, now), None);
    }

    #[test]
    fn a_policy_that_is_not_understood_is_said_to_be() {
        let known = known(&json!({"members": {"cpu": "much"}}), &json!({}));
        let policy = Arc::new(Policy::new(&known.object.as_ref().unwrap().spec, None));
        let told =
            known.status(&policy, Some(PresentMembers::default()), &NetworkWritten::default(), Timestamp::UNIX_EPOCH);
        let told = told.unwrap();
        assert_eq!(applied(&told), Some(("False".into(), "NotUnderstood".into())));
        assert!(told.conditions[0].message.contains("\"much\""), "{told:?}");
    }
}
