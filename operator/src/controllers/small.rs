//! How the small controllers write: status only, their own fields only, when something differs.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::Site;
use atoll_api::conditions::site_reason;
use atoll_api::names::FIELD_MANAGER_OPERATOR;
use atoll_runtime::backoff::Backoff;
use atoll_runtime::leader::Leadership;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::network::Network;
use super::owned::Owned;
use super::site::Promotion;
use super::{gpu_model, site, supplier};
use crate::metrics::Metrics;

/// Writes of one kind in flight.
const IN_FLIGHT: usize = 16;
/// Between two rounds, so that no object is written more than once a second.
const ROUND: Duration = Duration::from_secs(1);
/// The longest between two rounds of which the first failed in part.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Between two looks at Sites in quarantine while nothing changes.
const PROMOTION_ROUND: Duration = Duration::from_mins(1);

/// What the small controllers need.
pub struct Parts {
    /// Client of the hub.
    pub client: Client,
    /// Where they look.
    pub network: watch::Receiver<Arc<Network>>,
    /// They write while this lasts.
    pub leadership: Arc<Leadership>,
    /// Metrics.
    pub metrics: Metrics,
    /// Who publishes events.
    pub recorder: Recorder,
    /// How long a Site stays in quarantine; None: until somebody promotes it.
    pub quarantine: Option<SignedDuration>,
    /// When to end.
    pub shutdown: CancellationToken,
}

/// Runs the small controllers until shutdown.
pub async fn run(parts: Parts) {
    let Parts { client, mut network, leadership, metrics, recorder, quarantine, shutdown } = parts;
    // However this ends, the process ends with it.
    let _end = shutdown.clone().drop_guard();
    let writer = Writer { client, leadership, metrics, recorder };
    let backoff = Backoff::new(ROUND, LONGEST_PAUSE);
    loop {
        let seen = Arc::clone(&network.borrow_and_update());
        let now = Timestamp::now();
        let sites = writer.write("Site", site::changes(&seen, now), Api::<Site>::all);
        let models = writer.write("GPUModel", gpu_model::changes(&seen, now), Api::<atoll_api::GpuModel>::all);
        let suppliers = writer.write("Supplier", supplier::changes(&seen, now), Api::<atoll_api::Supplier>::all);
        let (sites, models, suppliers) = tokio::join!(sites, models, suppliers);
        let promotions = quarantine.map(|least| site::promotions(&seen, least, now)).unwrap_or_default();
        let failed = sites + models + suppliers + writer.promote(promotions).await;
        // What failed is tried again with the next round, which then comes by itself.
        let pause = if failed == 0 {
            backoff.reset(&());
            ROUND
        } else {
            tracing::warn!(failed, "some statuses could not be written, trying again");
            ROUND.max(backoff.next(&()))
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let waits = quarantine.is_some() && seen.sites.iter().any(|(site, _)| site.spec.quarantined);
        if failed == 0 {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PROMOTION_ROUND), if waits => {}
                changed = network.changed() => if changed.is_err() { return },
            }
        }
    }
}

struct Writer {
    client: Client,
    leadership: Arc<Leadership>,
    metrics: Metrics,
    recorder: Recorder,
}

impl Writer {
    /// Takes Sites out of quarantine and returns of how many that failed.
    async fn promote(&self, promotions: Vec<Promotion>) -> usize {
        let api: &Api<Site> = &Api::all(self.client.clone());
        let results = futures::stream::iter(promotions).map(|promotion| async move {
            let name = promotion.site.name_any();
            let params =
                PatchParams { field_manager: Some(FIELD_MANAGER_OPERATOR.to_owned()), ..PatchParams::default() };
            let patch = Patch::Merge(promotion.patch());
            match self.leading(api.patch(&name, &params, &patch)).await {
                Ok(site) => {
                    self.tell(&site, &promotion).await;
                    0
                }
                // Whoever changed it may have had a reason: it is looked at anew.
                Err(Failure::Gone) => 0,
                Err(failure) => {
                    self.metrics.write_errors.with_label_values(&["Site", failure.label()]).inc();
                    1
                }
            }
        });
        results.buffer_unordered(IN_FLIGHT).fold(0, |all, failed| async move { all + failed }).await
    }

    async fn tell(&self, site: &Site, promotion: &Promotion) {
        tracing::info!(site = site.name_any(), connected = ?promotion.connected, "promoted from quarantine");
        let hours = promotion.connected.as_hours();
        let event = Event {
            type_: EventType::Normal,
            reason: site_reason::PROMOTED.to_owned(),
            note: Some(format!("left quarantine after {hours} h connected without a loss")),
            action: "Promote".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &site.object_ref(&())).await {
            tracing::debug!(%error, "an event could not be published");
        }
    }

    /// A write, unless leadership ends.
    async fn leading<T>(&self, write: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
        if !self.leadership.may_write() {
            return Err(Failure::NotLeading);
        }
        tokio::select! {
            answer = write => answer.map_err(Failure::of),
            () = self.leadership.lapsed() => Err(Failure::NotLeading),
        }
    }

    /// Writes `changes` and returns how many of them failed.
    async fn write<K>(&self, kind: &'static str, changes: Vec<Owned>, api: fn(Client) -> Api<K>) -> usize
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api = &api(self.client.clone());
        let results = futures::stream::iter(changes).map(|change| async move {
            let Err(failure) = self.apply(api, &change).await else { return 0 };
            self.metrics.write_errors.with_label_values(&[kind, failure.label()]).inc();
            if let Failure::Refused(error) = &failure {
                tracing::warn!(kind, name = change.name, %error, "a status was refused");
            }
            1
        });
        results.buffer_unordered(IN_FLIGHT).fold(0, |all, failed| async move { all + failed }).await
    }

    async fn apply<K>(&self, api: &Api<K>, change: &Owned) -> Result<(), Failure>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let object = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": change.status});
        let params = PatchParams::apply(FIELD_MANAGER_OPERATOR).force();
        let patch = Patch::Apply(&object);
        match self.leading(api.patch_status(&change.name, &params, &patch)).await {
            Ok(_) | Err(Failure::Gone) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}
