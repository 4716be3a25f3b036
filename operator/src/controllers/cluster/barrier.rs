//! What a new leader reads before it decides anything.

use std::fmt::Debug;

use atoll_api::{Cluster, ClusterSlice};
use atoll_runtime::leader::Leadership;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

/// Objects in a page.
const PAGE: u32 = 500;

/// All Clusters and all slices at one moment after leadership was won.
pub struct Present {
    /// Clusters.
    pub clusters: Vec<Cluster>,
    /// Slices.
    pub slices: Vec<ClusterSlice>,
}

/// Reads what is committed. The watches may lag behind a former leader's last writes; a list without a resourceVersion
/// does not. None when leadership ends first.
pub async fn read(client: &Client, leadership: &Leadership) -> Option<Present> {
    let lost = leadership.lost();
    tokio::select! {
        () = lost.cancelled() => None,
        present = async {
            let clusters = list(Api::all(client.clone())).await;
            let slices = list(Api::all(client.clone())).await;
            Present { clusters, slices }
        } => Some(present),
    }
}

/// Every object, however long it takes.
async fn list<K>(api: Api<K>) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut objects = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        match api.list(&params).await {
            Ok(page) => {
                objects.extend(page.items);
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => return objects,
                }
            }
            Err(error) => {
                // A page may have expired: begin again.
                tracing::warn!(kind = %K::kind(&()), %error, "cannot list, trying again");
                objects.clear();
                params = ListParams::default().limit(PAGE);
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
    }
}
