//! How the small controllers write: status only, their own fields only, when something differs.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::names::FIELD_MANAGER_OPERATOR;
use atoll_runtime::backoff::Backoff;
use atoll_runtime::leader::Leadership;
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::network::Network;
use super::owned::Owned;
use super::{gpu_model, site, supplier};
use crate::metrics::Metrics;

/// Writes of one kind in flight.
const IN_FLIGHT: usize = 16;
/// Between two rounds, so that no object is written more than once a second.
const ROUND: Duration = Duration::from_secs(1);
/// The longest between two rounds of which the first failed in part.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Runs the small controllers until `shutdown`.
pub async fn run(
    client: Client,
    mut network: watch::Receiver<Arc<Network>>,
    leadership: Arc<Leadership>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    // However this ends, the process ends with it.
    let _end = shutdown.clone().drop_guard();
    let writer = Writer { client, leadership, metrics };
    let backoff = Backoff::new(ROUND, LONGEST_PAUSE);
    loop {
        let seen = Arc::clone(&network.borrow_and_update());
        let now = Timestamp::now();
        let sites = writer.write("Site", site::changes(&seen, now), Api::<atoll_api::Site>::all);
        let models = writer.write("GPUModel", gpu_model::changes(&seen, now), Api::<atoll_api::GpuModel>::all);
        let suppliers = writer.write("Supplier", supplier::changes(&seen, now), Api::<atoll_api::Supplier>::all);
        let (sites, models, suppliers) = tokio::join!(sites, models, suppliers);
        let failed = sites + models + suppliers;
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
        if failed == 0 {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = network.changed() => if changed.is_err() { return },
            }
        }
    }
}

struct Writer {
    client: Client,
    leadership: Arc<Leadership>,
    metrics: Metrics,
}

impl Writer {
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
        if !self.leadership.may_write() {
            return Err(Failure::NotLeading);
        }
        let object = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": change.status});
        let params = PatchParams::apply(FIELD_MANAGER_OPERATOR).force();
        let patch = Patch::Apply(&object);
        let answer = tokio::select! {
            answer = api.patch_status(&change.name, &params, &patch) => answer,
            () = self.leadership.lapsed() => return Err(Failure::NotLeading),
        };
        match answer.map_err(Failure::of) {
            Ok(_) | Err(Failure::Gone) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}
