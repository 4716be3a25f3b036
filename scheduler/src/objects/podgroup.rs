//! Gangs as Kubernetes itself has them.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::Level;

use super::{NotSupported, ObjectKey, created};
use crate::proto::PodGroup;

/// A `PodGroup` (`scheduling.k8s.io`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodGroupFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID.
    pub uid: Arc<str>,
    /// Counts the changes of its spec.
    pub generation: i64,
    /// Creation, since the Unix epoch.
    pub created: Duration,
    /// Being deleted.
    pub deleting: bool,
    /// How many of its pods are bound together or not at all; 1 for the basic policy, which binds each by itself.
    pub min: u32,
    /// Where its pods are to be together; always required.
    pub topology: Vec<Level>,
    /// Priority of the group, which goes before those of its pods.
    pub priority: Option<i32>,
    /// May take the place of others.
    pub preempts: bool,
    /// Others may take its place only as a whole.
    pub whole: bool,
    /// Status of its condition `PodGroupInitiallyScheduled`, when there is one.
    pub scheduled: Option<bool>,
    /// Why its pods cannot be scheduled here.
    pub not_supported: Option<NotSupported>,
}

/// Condition of a pod group that says whether its minimum was ever bound.
const INITIALLY_SCHEDULED: &str = "PodGroupInitiallyScheduled";

impl PodGroupFacts {
    /// Reads a pod group.
    #[must_use]
    pub fn of(group: PodGroup) -> Self {
        let meta = group.metadata.unwrap_or_default();
        let spec = group.spec.unwrap_or_default();
        let policy = spec.scheduling_policy.unwrap_or_default();
        let mut features = Vec::new();
        if !spec.resource_claims.is_empty() {
            features.push("resource claims");
        }
        if spec.parent_composite_pod_group_name.is_some() {
            features.push("composite pod groups");
        }
        if policy.basic.is_none() && policy.gang.is_none() {
            features.push("a scheduling policy other than basic and gang");
        }
        let topology = spec.scheduling_constraints.unwrap_or_default().topology;
        let conditions = group.status.unwrap_or_default().conditions;
        let scheduled = conditions.iter().find(|c| c.r#type == INITIALLY_SCHEDULED).map(|c| c.status == "True");
        Self {
            key: ObjectKey::of(&meta),
            generation: meta.generation,
            created: created(&meta),
            deleting: meta.deletion_timestamp.is_some(),
            uid: Arc::from(meta.uid),
            min: policy.gang.map_or(1, |gang| u32::try_from(gang.min_count).unwrap_or(1).max(1)),
            topology: topology.into_iter().map(|level| Level { key: level.key, required: true }).collect(),
            priority: spec.priority,
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            whole: spec.disruption_mode.is_some_and(|mode| mode.all.is_some()),
            scheduled,
            not_supported: if features.is_empty() { None } else { Some(NotSupported::PodGroup(features)) },
        }
    }
}
