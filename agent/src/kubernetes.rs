//! Members as pods of a Kubernetes cluster.

mod apply;
mod network;
mod objects;
mod observe;
#[cfg(test)]
mod tests;
mod views;

use std::sync::Arc;

use atoll_core::member::{Action, Stopped};
use futures::stream::BoxStream;
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::{Semaphore, watch};

use crate::metrics::Metrics;
use crate::naming::SliceId;
use crate::policy::Policy;
use crate::runtime::{MemberRuntime, Observation, Outcome, SliceSpec};

/// Requests to the Site's API server that are under way at once.
const REQUESTS_AT_ONCE: usize = 48;

/// Runs members as pods.
pub struct KubernetesRuntime {
    client: kube::Client,
    requests: Semaphore,
    recorder: Recorder,
    cluster_domain: String,
    policy: watch::Receiver<Arc<Policy>>,
    metrics: Metrics,
}

impl KubernetesRuntime {
    /// On the Site of `client`, whose DNS serves `cluster_domain` and whose supplier has this policy.
    #[must_use]
    pub fn new(
        client: kube::Client,
        cluster_domain: String,
        policy: watch::Receiver<Arc<Policy>>,
        metrics: Metrics,
    ) -> Self {
        let reporter = Reporter { controller: atoll_api::names::FIELD_MANAGER_AGENT.into(), instance: None };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            requests: Semaphore::new(REQUESTS_AT_ONCE),
            cluster_domain,
            policy,
            metrics,
        }
    }
}

impl MemberRuntime for KubernetesRuntime {
    fn observe(&self) -> BoxStream<'static, Observation> {
        observe::observe(&self.client)
    }

    async fn apply(
        &self,
        id: SliceId,
        spec: Option<Arc<SliceSpec>>,
        remember: Stopped,
        actions: Vec<Action>,
    ) -> Outcome {
        apply::Steps { site: self, id: &id, spec: spec.as_deref(), remember }.take(actions).await
    }

    async fn remove_namespace(&self, cluster_uid: String) -> Result<(), String> {
        apply::remove_namespace(self, &cluster_uid).await
    }
}
