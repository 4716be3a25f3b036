//! What the API server says, validated into the scheduler's own types.

mod affinity;
mod budget;
mod gang;
mod interner;
mod node;
mod pod;
mod podgroup;
mod quantities;
#[cfg(test)]
mod tests;
mod volumes;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta as ApiObjectMeta, Time as ApiTime};
use k8s_openapi::jiff::Timestamp;

use crate::proto::{ObjectMeta, Time};

pub use budget::BudgetFacts;
pub use gang::{GangFacts, GangSpecFacts, MemberFacts};
pub use interner::Interner;
pub use node::{node_state, volume_limits};
pub use pod::{GangName, PodFacts};
pub use podgroup::PodGroupFacts;
pub use volumes::{ClaimFacts, ClaimRef, VolumeCatalog, VolumeFacts, VolumeWait};

/// Namespace and name of an object; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace; empty where there is none.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of these two.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: Arc::from(namespace), name: Arc::from(name) }
    }

    /// The key of an object that was read as protobuf.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(&meta.namespace, &meta.name)
    }

    /// The key of an object that was read as JSON.
    #[must_use]
    pub fn of_json(meta: &ApiObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
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
    /// A toleration whose operator, effect or number is not known.
    #[error("tolerations with {0:?} are not supported by atoll-scheduler")]
    Toleration(String),
    /// A node affinity whose operator or field is not known.
    #[error("node affinity with {0:?} is not supported by atoll-scheduler")]
    NodeAffinity(String),
    /// A label selector whose operator is not known.
    #[error("label selectors with {0:?} are not supported by atoll-scheduler")]
    Selector(String),
    /// A topology spread constraint with a policy that is not known.
    #[error("topology spread constraints with {0:?} are not supported by atoll-scheduler")]
    Spread(String),
    /// Features that this scheduler would get wrong.
    #[error("the pod uses what atoll-scheduler does not support: {}", .0.join(", "))]
    Features(Vec<&'static str>),
    /// A gang of labels and annotations whose numbers make no sense.
    #[error("{key} must be a whole number from 1{}, not {text:?}", .most.map(|most| format!(" to {most}")).unwrap_or_default())]
    GangSize {
        /// Label or annotation.
        key: &'static str,
        /// What stands there.
        text: String,
        /// The largest that makes sense, if there is one.
        most: Option<u32>,
    },
    /// A pod group that uses what this scheduler would get wrong.
    #[error("the pod group uses what atoll-scheduler does not support: {}", .0.join(", "))]
    PodGroup(Vec<&'static str>),
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
pub fn api_time(time: Duration) -> ApiTime {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    ApiTime(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

/// [`since_epoch`] of a time that was read as protobuf.
fn instant(time: Time) -> Duration {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.nanos).unwrap_or(0).min(999_999_999))
}

fn created(meta: &ObjectMeta) -> Duration {
    meta.creation_timestamp.map(instant).unwrap_or_default()
}
