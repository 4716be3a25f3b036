//! What goes into the cycle and what comes out.

use std::time::Duration;

use atoll_api::GangStatus;
use atoll_core::gang::NodeState;

use crate::objects::{GangFacts, ObjectKey, PodFacts};

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a hold lasts that is not followed by Run.
    pub hold: Duration,
    /// How long the rest of a half-bound gang is tried before the gang is refused.
    pub patience: Duration,
    /// How often the words of a pod's condition may change.
    pub reword: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { hold: Duration::from_secs(15), patience: Duration::from_secs(10), reword: Duration::from_secs(10) }
    }
}

/// What the scheduler hears.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node was added or changed.
    Node(NodeState),
    /// A node is gone.
    NodeGone(String),
    /// A pod was added or changed.
    Pod(PodFacts),
    /// A pod is gone.
    PodGone(ObjectKey),
    /// A gang was added or changed.
    Gang(GangFacts),
    /// A gang is gone.
    GangGone(ObjectKey),
    /// The API server took a binding.
    Bound(Binding),
    /// The API server refused a binding for good; nothing is tried for the pod before `retry_after`.
    NotBound {
        /// The binding.
        binding: Binding,
        /// How long to wait.
        retry_after: Duration,
    },
}

/// One pod and its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The pod.
    pub pod: ObjectKey,
    /// Its UID: no other pod of this name is bound by mistake.
    pub uid: String,
    /// The node.
    pub node: String,
    /// The pod's gang.
    pub gang: Option<ObjectKey>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Bind a pod; the outcome comes back as an [`Event`].
    Bind(Binding),
    /// Write a gang's status.
    GangStatus {
        /// The gang.
        gang: ObjectKey,
        /// Its UID.
        uid: String,
        /// The whole status.
        status: GangStatus,
    },
    /// Tell a gang's owner by an event that it is refused.
    GangRefused {
        /// The gang.
        gang: ObjectKey,
        /// Its UID.
        uid: String,
        /// Reason.
        reason: String,
        /// In words.
        message: String,
    },
    /// Set a pod's `PodScheduled` condition to False; `first` when it was not so before.
    Unschedulable {
        /// The pod.
        pod: ObjectKey,
        /// Its UID.
        uid: String,
        /// In words.
        message: String,
        /// Whether an event is due as well.
        first: bool,
    },
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to decide.
    Nothing,
    /// Room is held.
    Held,
    /// Bindings are on their way.
    Binding,
    /// All members are bound.
    Bound,
    /// It does not fit or is not supported.
    Refused,
    /// A hold ended.
    Expired,
}

/// One turn of the cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// How it ended.
    pub outcome: Outcome,
    /// What is to be done.
    pub actions: Vec<Action>,
}

impl Attempt {
    pub(super) fn of(outcome: Outcome) -> Self {
        Self { outcome, actions: Vec::new() }
    }
}
