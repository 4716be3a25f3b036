//! Gangs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{Gang, GangMode, GangSpec, GangStatus};
use atoll_core::gang::{Mode, POD_SLOT, RESOURCE_PODS, Shape};

use super::{NotSupported, ObjectKey, amounts, created, tolerations};

/// A Gang as the API server shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct GangFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID.
    pub uid: String,
    /// Creation, since the Unix epoch.
    pub created: Duration,
    /// Being deleted: it wants nothing any more.
    pub deleting: bool,
    /// What is wanted.
    pub spec: GangSpecFacts,
    /// What this or an earlier process said about it.
    pub status: Option<GangStatus>,
}

/// What a Gang wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GangSpecFacts {
    /// Generation of the spec.
    pub generation: i64,
    /// Hold or Run.
    pub mode: Mode,
    /// The members, or why they cannot be understood.
    pub members: Result<Vec<MemberFacts>, NotSupported>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFacts {
    /// Name of its pod.
    pub pod: String,
    /// What the pod will ask for, as far as known before there is one.
    pub shape: Arc<Shape>,
    /// The node that the hub chose.
    pub node: Option<String>,
}

impl GangFacts {
    /// Reads a Gang.
    #[must_use]
    pub fn of(gang: &Gang) -> Self {
        let mode = match gang.spec.mode {
            GangMode::Hold => Mode::Hold,
            GangMode::Run => Mode::Run,
        };
        let generation = gang.metadata.generation.unwrap_or(0);
        Self {
            key: ObjectKey::of(&gang.metadata),
            uid: gang.metadata.uid.clone().unwrap_or_default(),
            created: created(&gang.metadata),
            deleting: gang.metadata.deletion_timestamp.is_some(),
            spec: GangSpecFacts { generation, mode, members: members(&gang.spec) },
            status: gang.status.clone(),
        }
    }
}

fn members(spec: &GangSpec) -> Result<Vec<MemberFacts>, NotSupported> {
    let shapes = spec.shapes.iter().map(|shape| {
        let mut requests = amounts(Some(&shape.requests))?;
        requests.set(RESOURCE_PODS, POD_SLOT);
        let tolerations = tolerations(Some(&shape.tolerations))?;
        Ok(Arc::new(Shape { requests, node_selector: shape.node_selector.clone(), affinity: None, tolerations }))
    });
    let shapes: Vec<Arc<Shape>> = shapes.collect::<Result<_, _>>()?;
    let mut pods = HashSet::new();
    spec.members
        .iter()
        .map(|member| {
            if !pods.insert(member.pod.as_str()) {
                return Err(NotSupported::SamePod(member.pod.clone()));
            }
            let shape = usize::try_from(member.shape).ok().and_then(|index| shapes.get(index));
            let shape = shape.cloned().ok_or_else(|| NotSupported::NoSuchShape {
                pod: member.pod.clone(),
                shape: member.shape,
                shapes: shapes.len(),
            })?;
            Ok(MemberFacts { pod: member.pod.clone(), shape, node: member.node.clone() })
        })
        .collect()
}
