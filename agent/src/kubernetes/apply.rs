//! Taking the steps that `core` decided on.

use std::fmt::Debug;

use atoll_api::gang::Gang;
use atoll_api::names;
use atoll_core::member::{Action, Member};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{KubernetesRuntime, objects, views};
use crate::naming::{SliceId, site_namespace};
use crate::pod::{self, PodContext};
use crate::runtime::{Outcome, SliceSpec};

/// Requests of one slice that are under way at once.
const REQUESTS_OF_ONE_SLICE: usize = 16;
/// Reason of the event on a Gang whose pods the Site refuses.
const EVENT_POD_REFUSED: &str = "PodRefused";

/// The steps of one slice.
pub(super) struct Steps<'a> {
    pub(super) site: &'a KubernetesRuntime,
    pub(super) id: &'a SliceId,
    pub(super) spec: Option<&'a SliceSpec>,
    pub(super) remember: u64,
}

/// Why a step was not taken.
enum Failure {
    /// The Site's API server refuses such an object.
    Refused(String),
    /// Anything that may pass.
    Passing(String),
    /// Already done, or there is nothing to do it to.
    Moot,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.is_not_found() || status.is_already_exists() => Self::Moot,
            // A namespace that is being deleted and an account that admission does not see yet are refused with the same
            // code as what the Site's policies forbid.
            kube::Error::Api(status)
                if matches!(status.code, 403 | 422)
                    && !status.message.contains("being terminated")
                    && !status.message.contains("service account")
                    && !status.message.contains("serviceaccount") =>
            {
                Self::Refused(status.message.clone())
            }
            _ => Self::Passing(error.to_string()),
        }
    }
}

enum Done {
    Furnished,
    Gang(u64, Box<atoll_core::member::Gang>),
    GangDeleted,
    Created(Member),
    Deleted(Member, bool),
    Marked,
}

impl Steps<'_> {
    /// Takes the steps: single ones in order, creations and deletions of pods together. What follows a failed step that
    /// it builds on is left for the next round; stopping goes on, whatever failed before.
    pub(super) async fn take(self, actions: Vec<Action>) -> Outcome {
        let mut outcome = Outcome::default();
        let (pods, single): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| matches!(action, Action::CreatePod(_)) || is_removal(action));
        for action in single {
            // The rest builds on what is made, and deletions on nothing.
            if outcome.refused.is_some() || outcome.failed.is_some() {
                break;
            }
            let making = action != Action::DeleteGang;
            let result = match self.step(action).await {
                // Something vanished under the hands; what follows must not build on it.
                Err(Failure::Moot) if making => Err(Failure::Passing("changed meanwhile".into())),
                result => result,
            };
            note(&mut outcome, result);
        }
        let may_create = outcome.refused.is_none() && outcome.failed.is_none();
        let pods = pods.into_iter().filter(|action| may_create || is_removal(action));
        let mut results =
            futures::stream::iter(pods.map(|action| self.step(action))).buffer_unordered(REQUESTS_OF_ONE_SLICE);
        while let Some(result) = results.next().await {
            note(&mut outcome, result);
        }
        if let Some(message) = &outcome.refused {
            self.tell_refusal(message).await;
        }
        outcome
    }

    async fn step(&self, action: Action) -> Result<Done, Failure> {
        let name = format!("{action:?}");
        let stops = matches!(action, Action::MarkStopped(_) | Action::DeleteGang) || is_removal(&action);
        let result = match action {
            Action::Furnish => self.furnish().await,
            Action::ApplyGang => self.apply_gang().await,
            Action::MarkStopped(incarnation) => self.mark_stopped(incarnation).await,
            Action::CreatePod(member) => self.create_pod(member).await,
            Action::DeletePod { member, kill } => {
                self.delete_pod(member, kill, kill.then_some(pod::SHORTEST_GRACE_SECONDS)).await
            }
            Action::RemovePod(member) => self.delete_pod(member, true, Some(0)).await,
            Action::DeleteGang => self.delete_gang().await,
        };
        let result = match result {
            // An answer to what is to be made. What is to stop is tried until it has.
            Err(Failure::Refused(error)) if stops => Err(Failure::Passing(error)),
            result => result,
        };
        match &result {
            Ok(_) => tracing::debug!(slice = %self.id.name, action = name, "done"),
            Err(Failure::Moot) => tracing::debug!(slice = %self.id.name, action = name, "nothing to do"),
            Err(Failure::Refused(error) | Failure::Passing(error)) => {
                self.site.metrics.site_errors.inc();
                tracing::warn!(slice = %self.id.name, cluster = %self.id.cluster_uid, action = name, error, "failed");
            }
        }
        result
    }

    fn spec(&self) -> Result<&SliceSpec, Failure> {
        self.spec.ok_or_else(|| Failure::Passing("the hub has not said what the slice is".into()))
    }

    async fn furnish(&self) -> Result<Done, Failure> {
        let cluster = &self.spec()?.spec.cluster;
        let namespace = self.id.site_namespace();
        let client = &self.site.client;
        self.server_side_apply(Api::all(client.clone()), &objects::namespace(self.id)).await?;
        let (account, service) = (objects::service_account(self.id), objects::service(self.id, cluster));
        tokio::try_join!(
            self.server_side_apply(Api::namespaced(client.clone(), &namespace), &account),
            self.server_side_apply(Api::namespaced(client.clone(), &namespace), &service),
        )?;
        Ok(Done::Furnished)
    }

    async fn apply_gang(&self) -> Result<Done, Failure> {
        let gang = objects::gang(self.id, self.spec()?, self.remember)
            .map_err(|error| Failure::Refused(format!("template.spec.containers: {error}")))?;
        let gang = self.server_side_apply(self.gangs(), &gang).await?;
        self.gang_done(&gang)
    }

    async fn mark_stopped(&self, incarnation: u64) -> Result<Done, Failure> {
        let patch = json!({"metadata": {"annotations": {
            (names::ANNOTATION_STOPPED_INCARNATION): incarnation.to_string(),
        }}});
        let _permit = self.site.requests.acquire().await;
        let params = PatchParams { field_manager: Some(names::FIELD_MANAGER_AGENT.into()), ..PatchParams::default() };
        match self.gangs().patch(&self.id.name, &params, &Patch::Merge(patch)).await {
            Ok(gang) => self.gang_done(&gang),
            // Without a Gang there is nothing to remember it by but this process.
            Err(error) => match Failure::from(error) {
                Failure::Moot => Ok(Done::Marked),
                failure => Err(failure),
            },
        }
    }

    fn gang_done(&self, gang: &Gang) -> Result<Done, Failure> {
        views::gang(gang)
            .filter(|(id, _, _)| id == self.id)
            .map(|(_, version, gang)| Done::Gang(version, Box::new(gang)))
            .ok_or_else(|| Failure::Passing("the Gang came back without the agent's labels".into()))
    }

    async fn create_pod(&self, member: Member) -> Result<Done, Failure> {
        let slice = self.spec()?;
        let context = PodContext {
            id: self.id,
            spec: &slice.spec,
            times: slice.times,
            cluster_domain: &self.site.cluster_domain,
        };
        let pod = pod::build(&context, member);
        let _permit = self.site.requests.acquire().await;
        let params = PostParams { field_manager: Some(names::FIELD_MANAGER_AGENT.into()), ..PostParams::default() };
        self.pods().create(&params, &pod).await.map_err(Failure::from)?;
        self.site.metrics.pods_created.inc();
        Ok(Done::Created(member))
    }

    async fn delete_pod(&self, member: Member, kill: bool, grace: Option<u32>) -> Result<Done, Failure> {
        let Some(name) = self.pod_name(member).await? else { return Err(Failure::Moot) };
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        let _permit = self.site.requests.acquire().await;
        self.pods().delete(&name, &params).await.map_err(Failure::from)?;
        self.site.metrics.pods_deleted.inc();
        Ok(Done::Deleted(member, kill))
    }

    /// The name of a member's pod; without a specification it is looked up by its labels.
    async fn pod_name(&self, member: Member) -> Result<Option<String>, Failure> {
        if let Some(slice) = self.spec {
            return Ok(Some(names::member_pod_name(&slice.spec.cluster, member.rank, member.incarnation)));
        }
        let selector = format!(
            "{}={},{}={},{}={},{}={}",
            names::LABEL_MANAGED_BY,
            names::MANAGED_BY_AGENT,
            names::LABEL_GANG,
            self.id.name,
            names::LABEL_RANK,
            member.rank,
            names::LABEL_INCARNATION,
            member.incarnation
        );
        let _permit = self.site.requests.acquire().await;
        let found = self.pods().list_metadata(&kube::api::ListParams::default().labels(&selector)).await?;
        Ok(found.items.first().map(kube::ResourceExt::name_any))
    }

    async fn delete_gang(&self) -> Result<Done, Failure> {
        let _permit = self.site.requests.acquire().await;
        self.gangs().delete(&self.id.name, &DeleteParams::default()).await.map_err(Failure::from)?;
        Ok(Done::GangDeleted)
    }

    async fn server_side_apply<K>(&self, api: Api<K>, object: &K) -> Result<K, Failure>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let _permit = self.site.requests.acquire().await;
        let params = PatchParams::apply(names::FIELD_MANAGER_AGENT).force();
        Ok(api.patch(&object.name_any(), &params, &Patch::Apply(object)).await?)
    }

    async fn tell_refusal(&self, message: &str) {
        let gang = Gang::new(
            &self.id.name,
            atoll_api::gang::GangSpec {
                mode: atoll_api::gang::GangMode::Hold,
                shapes: Vec::new(),
                members: Vec::new(),
                topology: Vec::new(),
            },
        );
        let mut reference = gang.object_ref(&());
        reference.namespace = Some(self.id.site_namespace());
        let event = Event {
            type_: EventType::Warning,
            reason: EVENT_POD_REFUSED.into(),
            note: Some(message.chars().take(1000).collect()),
            action: "StartMembers".into(),
            secondary: None,
        };
        if let Err(error) = self.site.recorder.publish(&event, &reference).await {
            tracing::debug!(%error, "the event could not be published");
        }
    }

    fn gangs(&self) -> Api<Gang> {
        Api::namespaced(self.site.client.clone(), &self.id.site_namespace())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.site.client.clone(), &self.id.site_namespace())
    }
}

fn is_removal(action: &Action) -> bool {
    matches!(action, Action::DeletePod { .. } | Action::RemovePod(_))
}

fn note(outcome: &mut Outcome, result: Result<Done, Failure>) {
    match result {
        Ok(Done::Furnished) => outcome.furnished = true,
        Ok(Done::Gang(version, gang)) => outcome.gang = Some((version, *gang)),
        Ok(Done::GangDeleted) => outcome.gang_deleted = true,
        Ok(Done::Created(member)) => outcome.created.push(member),
        Ok(Done::Deleted(member, kill)) => outcome.deleted.push((member, kill)),
        // The watch tells what is there.
        Ok(Done::Marked) | Err(Failure::Moot) => {}
        Err(Failure::Refused(message)) => outcome.refused = Some(message),
        Err(Failure::Passing(message)) => outcome.failed = Some(message),
    }
}

/// Deletes the namespace of a Cluster, if it is there.
pub(super) async fn remove_namespace(site: &KubernetesRuntime, cluster_uid: &str) -> Result<(), String> {
    let _permit = site.requests.acquire().await;
    let namespaces: Api<Namespace> = Api::all(site.client.clone());
    match namespaces.delete(&site_namespace(cluster_uid), &DeleteParams::default()).await.map_err(Failure::from) {
        Ok(_) | Err(Failure::Moot) => Ok(()),
        Err(Failure::Refused(message) | Failure::Passing(message)) => {
            site.metrics.site_errors.inc();
            Err(message)
        }
    }
}
