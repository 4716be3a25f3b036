//! What the API server says, validated into the scheduler's own types.

mod gang;
mod node;
mod pod;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use atoll_core::gang::{Amounts, Effect, Toleration};
use atoll_core::units::parse_quantity_milli;
use k8s_openapi::api::core::v1::Toleration as ApiToleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

pub use gang::{GangFacts, GangSpecFacts, MemberFacts};
pub use node::node_state;
pub use pod::PodFacts;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// The key of these two.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of an object; empty where it has no namespace.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why an object cannot be scheduled as it is written, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSupported {
    /// A quantity that does not parse.
    #[error("the amount of {resource} is no valid quantity: {text:?}")]
    Quantity {
        /// Resource.
        resource: String,
        /// What stands there.
        text: String,
    },
    /// A toleration whose operator or effect is not known.
    #[error("tolerations with {0:?} are not supported by atoll-scheduler")]
    Toleration(String),
    /// A node affinity whose operator or field is not known.
    #[error("node affinity with {0:?} is not supported by atoll-scheduler")]
    NodeAffinity(String),
    /// Features that this scheduler would get wrong.
    #[error("the pod uses what atoll-scheduler does not support: {}", .0.join(", "))]
    Features(Vec<&'static str>),
    /// A member names a shape that is not there.
    #[error("member {pod} has shape {shape}, of {shapes}")]
    NoSuchShape {
        /// Pod of the member.
        pod: String,
        /// Its shape.
        shape: i32,
        /// How many there are.
        shapes: usize,
    },
    /// Two members with one pod.
    #[error("two members have the pod {0}")]
    SamePod(String),
}

/// Whole seconds and nanoseconds since the Unix epoch; times before it count as the epoch.
#[must_use]
pub fn since_epoch(time: &Timestamp) -> Duration {
    Duration::try_from(time.duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default()
}

/// The reverse of [`since_epoch`].
#[must_use]
pub fn api_time(time: Duration) -> Time {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

fn created(meta: &ObjectMeta) -> Duration {
    meta.creation_timestamp.as_ref().map(|t| since_epoch(&t.0)).unwrap_or_default()
}

fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> Result<Amounts, NotSupported> {
    quantities
        .into_iter()
        .flatten()
        .map(|(resource, quantity)| match parse_quantity_milli(&quantity.0) {
            Ok(milli) if milli >= 0 => Ok((resource.clone(), milli)),
            _ => Err(NotSupported::Quantity { resource: resource.clone(), text: quantity.0.clone() }),
        })
        .collect()
}

fn effect(effect: &str) -> Option<Effect> {
    match effect {
        "NoSchedule" => Some(Effect::NoSchedule),
        "NoExecute" => Some(Effect::NoExecute),
        _ => None,
    }
}

/// `PreferNoSchedule` taints are not represented, so tolerations of them are left out too.
fn tolerations(tolerations: Option<&Vec<ApiToleration>>) -> Result<Vec<Toleration>, NotSupported> {
    let mut all = Vec::new();
    for toleration in tolerations.into_iter().flatten() {
        let value = match toleration.operator.as_deref() {
            Some("Exists") => None,
            None | Some("" | "Equal") => Some(toleration.value.clone().unwrap_or_default()),
            Some(other) => return Err(NotSupported::Toleration(other.to_owned())),
        };
        let tolerated = match toleration.effect.as_deref() {
            None | Some("") => None,
            Some("PreferNoSchedule") => continue,
            Some(other) => Some(effect(other).ok_or_else(|| NotSupported::Toleration(other.to_owned()))?),
        };
        let key = toleration.key.clone().filter(|key| !key.is_empty());
        all.push(Toleration { key, value, effect: tolerated });
    }
    Ok(all)
}
