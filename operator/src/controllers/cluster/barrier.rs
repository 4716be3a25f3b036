//! What a new leader reads before it decides anything.

use std::fmt::Debug;
use std::time::Duration;

use atoll_api::names::TERM_IS_OVER;
use atoll_api::{Cluster, ClusterSlice};
use atoll_runtime::leader::Leadership;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

/// Objects in a page.
const PAGE: u32 = 500;
/// Between two attempts to write as a former leader: the API server has seen the Lease some milliseconds after it was won.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// All Clusters and all slices at one moment after leadership was won.
pub struct Present {
    /// Clusters.
    pub clusters: Vec<Cluster>,
    /// Slices.
    pub slices: Vec<ClusterSlice>,
}

/// Reads what is committed, when the API server takes nothing of former leaders any more. The watches may lag behind a
/// former leader's last writes; a list without a resourceVersion does not. The Lease is in `namespace`. None when leadership
/// ends first.
pub async fn read(client: &Client, namespace: &str, leadership: &Leadership) -> Option<Present> {
    let lost = leadership.lost();
    tokio::select! {
        () = lost.cancelled() => None,
        present = async {
            former_leaders_are_refused(client, namespace, leadership.term()).await;
            let clusters = list(Api::all(client.clone())).await;
            let slices = list(Api::all(client.clone())).await;
            Present { clusters, slices }
        } => Some(present),
    }
}

/// Tries to write as the leader before would, without writing anything, until that is refused.
async fn former_leaders_are_refused(client: &Client, namespace: &str, term: i64) {
    let resource = ApiResource::erase::<ClusterSlice>(&());
    let late = DynamicObject::new("of-a-former-leader", &resource).data(json!({"spec": {
        "site": "none", "cluster": "none", "clusterUid": "none", "epoch": 1, "term": term.saturating_sub(1),
        "phase": "Reserve", "type": "Pods", "members": [], "gpus": 1,
        "rendezvous": {"worldSize": 0, "leaderIncarnation": 0},
        "fence": {"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120},
        "template": {"spec": {"containers": [{"name": "none", "image": "none"}]}},
    }}));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let mut pause = SHORTEST;
    loop {
        match api.create(&params, &late).await {
            Err(kube::Error::Api(status)) if status.message.contains(TERM_IS_OVER) => return,
            Ok(_) if pause < LONGEST => {}
            Ok(_) => tracing::warn!(
                term,
                "the API server takes what a former leader writes, so nothing is decided: the policy atoll-terms of \
                 deploy/hub/admission-policy.yaml is missing, or is for another account than this operator's"
            ),
            Err(error) => tracing::warn!(%error, term, "cannot see whether former leaders are refused, trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = LONGEST.min(pause * 2);
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
