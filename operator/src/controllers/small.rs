//! How the small controllers write: status only, their own fields only, when something differs.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::names::FIELD_MANAGER_OPERATOR;
use atoll_runtime::leader::Leadership;
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::network::Network;
use super::{gpu_model, site, supplier};
use crate::metrics::Metrics;

/// A status that one controller owns, for one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    /// The object's name.
    pub name: String,
    /// The owned fields.
    pub status: Value,
}

/// Writes of one kind in flight.
const IN_FLIGHT: usize = 16;
/// Between two rounds, so that no object is written more than once a second.
const ROUND: Duration = Duration::from_secs(1);

/// Runs the small controllers until `shutdown`.
pub async fn run(
    client: Client,
    mut network: watch::Receiver<Arc<Network>>,
    leadership: Arc<Leadership>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let writer = Writer { client, leadership, metrics };
    loop {
        let seen = Arc::clone(&network.borrow_and_update());
        let sites = writer.write("Site", site::changes(&seen, Timestamp::now()), Api::<atoll_api::Site>::all);
        let models = writer.write("GPUModel", gpu_model::changes(&seen), Api::<atoll_api::GpuModel>::all);
        let suppliers = writer.write("Supplier", supplier::changes(&seen), Api::<atoll_api::Supplier>::all);
        let (sites, models, suppliers) = tokio::join!(sites, models, suppliers);
        // What failed is tried again with the next round, which then comes by itself.
        let settled = sites && models && suppliers;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
        if settled {
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
    /// Whether all was written.
    async fn write<K>(&self, kind: &'static str, changes: Vec<Owned>, api: fn(Client) -> Api<K>) -> bool
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api = &api(self.client.clone());
        let results = futures::stream::iter(changes).map(|change| async move {
            if !self.leadership.may_write() {
                return false;
            }
            let object = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": change.status});
            let params = PatchParams::apply(FIELD_MANAGER_OPERATOR).force();
            match api.patch_status(&change.name, &params, &Patch::Apply(&object)).await {
                Ok(_) => true,
                Err(kube::Error::Api(status)) if status.is_not_found() => true,
                Err(error) => {
                    self.metrics.write_errors.with_label_values(&[kind, "refused"]).inc();
                    tracing::warn!(kind, name = change.name, %error, "status could not be written");
                    false
                }
            }
        });
        results.buffer_unordered(IN_FLIGHT).fold(true, |all, written| async move { all && written }).await
    }
}
