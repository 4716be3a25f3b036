//! Where members run: a trait, so that a Site need not be a Kubernetes cluster for ever.

use std::future::Future;
use std::sync::Arc;

use atoll_api::ClusterSliceSpec;
use atoll_core::lease::Times;
use atoll_core::member::{Action, Gang, Member, Pod, Stopped};
use futures::stream::BoxStream;

use crate::naming::SliceId;

/// A slice as the hub sent it, and how long its members may take to stop.
#[derive(Clone, Debug)]
pub struct SliceSpec {
    /// What the hub wants.
    pub spec: ClusterSliceSpec,
    /// When members stop without a lease.
    pub times: Times,
}

/// Something seen on the Site. `All…` replaces everything of its kind that was seen before; the first one of each kind
/// comes before any single one.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// UIDs of Clusters that have a namespace here, and whether it is being deleted.
    AllNamespaces(Vec<(String, bool)>),
    /// One of them; `None`: it is gone.
    Namespace(String, Option<bool>),
    /// All Gangs, each with its version.
    AllGangs(Vec<(SliceId, u64, Gang)>),
    /// A Gang as of this version; `None`: it is gone.
    Gang(SliceId, u64, Option<Gang>),
    /// All pods of members.
    AllPods(Vec<(SliceId, Member, Pod)>),
    /// A pod; `None`: it is gone.
    Pod(SliceId, Member, Option<Pod>),
}

/// What became of actions.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The namespace has what members need.
    pub furnished: bool,
    /// The Gang as it is now, with its version.
    pub gang: Option<(u64, Gang)>,
    /// Members whose pod is there now.
    pub created: Vec<Member>,
    /// Members whose pod is being deleted, and whether without grace.
    pub deleted: Vec<(Member, bool)>,
    /// The deletion of the Gang was taken.
    pub gang_deleted: bool,
    /// The Site refuses such objects: not worth trying again.
    pub refused: Option<String>,
    /// Something else failed: worth trying again.
    pub failed: Option<String>,
}

impl Outcome {
    /// Whether anything came of it.
    #[must_use]
    pub fn progressed(&self) -> bool {
        self.furnished
            || self.gang.is_some()
            || self.gang_deleted
            || !self.created.is_empty()
            || !self.deleted.is_empty()
    }
}

/// Where members run.
pub trait MemberRuntime: Send + Sync + 'static {
    /// What is there, then every change, for as long as the stream is held.
    fn observe(&self) -> BoxStream<'static, Observation>;

    /// Takes these steps for one slice, in order. `remember` is what the Gang must keep: which members were stopped
    /// for good. `spec` is there whenever something is to be made.
    fn apply(
        &self,
        id: SliceId,
        spec: Option<Arc<SliceSpec>>,
        remember: Stopped,
        actions: Vec<Action>,
    ) -> impl Future<Output = Outcome> + Send;

    /// Deletes the namespace of a Cluster.
    fn remove_namespace(&self, cluster_uid: String) -> impl Future<Output = Result<(), String>> + Send;
}
