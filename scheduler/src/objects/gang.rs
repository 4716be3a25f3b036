//! Gangs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{Gang, GangMode, GangShape, GangSpec, GangStatus, TopologyMode};
use atoll_core::scheduling::{Level, Mode, Shape};

use super::affinity::toleration;
use super::quantities::member_requests;
use super::{Interner, NotSupported, ObjectKey, since_epoch};

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
    /// Where they are to be together, coarse to fine.
    pub topology: Vec<Level>,
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
    pub fn of(gang: &Gang, interner: &Interner) -> Self {
        let mode = match gang.spec.mode {
            GangMode::Hold => Mode::Hold,
            GangMode::Run => Mode::Run,
        };
        let topology = gang.spec.topology.iter();
        let topology =
            topology.map(|level| Level { key: level.key.clone(), required: level.mode == TopologyMode::Required });
        Self {
            key: ObjectKey::of_json(&gang.metadata),
            uid: gang.metadata.uid.clone().unwrap_or_default(),
            created: gang.metadata.creation_timestamp.as_ref().map(|t| since_epoch(&t.0)).unwrap_or_default(),
            deleting: gang.metadata.deletion_timestamp.is_some(),
            spec: GangSpecFacts {
                generation: gang.metadata.generation.unwrap_or(0),
                mode,
                members: members(&gang.spec, interner),
                topology: topology.collect(),
            },
            status: gang.status.clone(),
        }
    }
}

fn members(spec: &GangSpec, interner: &Interner) -> Result<Vec<MemberFacts>, NotSupported> {
    let shapes = spec.shapes.iter().map(|of| Ok(interner.shape(shape(of)?)));
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

fn shape(of: &GangShape) -> Result<Shape, NotSupported> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let tolerations = of.tolerations.iter();
    let tolerations =
        tolerations.map(|t| toleration(&text(&t.key), &text(&t.operator), &text(&t.value), &text(&t.effect)));
    Ok(Shape {
        requests: member_requests(of.requests.iter().map(|(resource, quantity)| (resource, quantity.0.as_str())))?,
        node_selector: of.node_selector.clone(),
        tolerations: tolerations.collect::<Result<_, _>>()?,
        ..Shape::default()
    })
}
