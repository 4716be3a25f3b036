//! What goes into the cycle and what comes out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::GangStatus;
use atoll_core::scheduling::NodeState;

use crate::objects::{BudgetFacts, ClaimFacts, GangFacts, ObjectKey, PodFacts, PodGroupFacts, VolumeFacts};

/// Reasons of the events that the cycle asks for.
pub mod event_reason {
    /// A pod, or a gang without an object of its own, does not fit or is not supported.
    pub const FAILED_SCHEDULING: &str = "FailedScheduling";
    /// A pod or a gang makes room for others of higher priority.
    pub const PREEMPTED: &str = "Preempted";
    /// The bound members of a gang are deleted, because the rest cannot be bound.
    pub const GANG_UNDONE: &str = "GangUndone";
}

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a hold lasts that is not followed by Run.
    pub hold: Duration,
    /// How long the rest of a half-bound gang is tried before the gang is refused, or its bound members are evicted.
    pub patience: Duration,
    /// How often the words of a pod's condition may change.
    pub reword: Duration,
    /// How long an elastic gang that has its minimum waits for the rest of its members.
    pub gather: Duration,
    /// How long a gang is refused for want of room before nodes are reserved for it; `None`: none ever are.
    pub reserve_after: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(15),
            patience: Duration::from_secs(3),
            reword: Duration::from_secs(10),
            gather: Duration::from_secs(1),
            reserve_after: Some(Duration::from_secs(30)),
        }
    }
}

/// What the scheduler hears.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node was added or changed; its `volume_limits` are empty here and come as [`Event::NodeVolumes`].
    Node(Box<NodeState>),
    /// A node is gone.
    NodeGone(String),
    /// How many volumes of each CSI driver a node may attach (`CSINode`).
    NodeVolumes {
        /// Name of the node.
        node: String,
        /// By driver.
        limits: BTreeMap<String, u32>,
    },
    /// The `CSINode` of this node is gone.
    NodeVolumesGone(String),
    /// A pod was added or changed.
    Pod(Box<PodFacts>),
    /// A pod is gone.
    PodGone(ObjectKey),
    /// A Gang was added or changed.
    Gang(Box<GangFacts>),
    /// A Gang is gone.
    GangGone(ObjectKey),
    /// An upstream `PodGroup` was added or changed.
    PodGroup(Box<PodGroupFacts>),
    /// An upstream `PodGroup` is gone.
    PodGroupGone(ObjectKey),
    /// A `PodDisruptionBudget` was added or changed.
    Budget(Box<BudgetFacts>),
    /// A `PodDisruptionBudget` is gone.
    BudgetGone(ObjectKey),
    /// A namespace was added or changed.
    Namespace {
        /// Its name.
        name: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// A namespace is gone.
    NamespaceGone(String),
    /// A `PersistentVolumeClaim` was added or changed.
    Claim(Box<ClaimFacts>),
    /// A `PersistentVolumeClaim` is gone.
    ClaimGone(ObjectKey),
    /// A `PersistentVolume` was added or changed.
    Volume(Box<VolumeFacts>),
    /// The `PersistentVolume` of this name is gone.
    VolumeGone(String),
    /// The API server took a binding.
    Bound(Binding),
    /// The API server refused a binding for good; nothing is tried for the pod before `retry_after`.
    NotBound {
        /// The binding.
        binding: Binding,
        /// How long to wait.
        retry_after: Duration,
    },
    /// The API server took the deletion of a pod that was to make room ([`Action::Evict`]), or the pod was gone
    /// already. Its room is free when [`Event::PodGone`] says so.
    Evicted {
        /// The pod.
        pod: ObjectKey,
        /// Its UID.
        uid: Arc<str>,
    },
    /// The API server refused the deletion for good.
    NotEvicted {
        /// The pod.
        pod: ObjectKey,
        /// Its UID.
        uid: Arc<str>,
        /// What it said.
        why: String,
    },
}

/// What makes pods a gang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GangKind {
    /// A Gang object.
    Object,
    /// Labels of the pods alone.
    Label,
    /// An upstream `PodGroup`.
    PodGroup,
}

/// One gang.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GangKey {
    /// What makes its pods a gang.
    pub kind: GangKind,
    /// Namespace, and the name of the object or the label's value.
    pub key: ObjectKey,
}

impl fmt::Display for GangKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

/// One pod and its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The pod.
    pub pod: ObjectKey,
    /// Its UID: no other pod of this name is bound by mistake.
    pub uid: Arc<str>,
    /// The node.
    pub node: Arc<str>,
    /// The pod's gang.
    pub gang: Option<GangKey>,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `v1` Pod.
    Pod,
    /// `atoll.dev/v1alpha1` Gang.
    Gang,
    /// `scheduling.k8s.io/v1beta1` `PodGroup`.
    PodGroup,
}

/// An object that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Kind.
    pub kind: ObjectKind,
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID.
    pub uid: Arc<str>,
}

/// What is to become of a pod's `status.nominatedNodeName`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nominate {
    /// It stays as it is.
    Leave,
    /// It is emptied.
    Clear,
    /// It becomes this node.
    Node(Arc<str>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Bind a pod; the outcome comes back as [`Event::Bound`] or [`Event::NotBound`].
    Bind(Binding),
    /// Write a Gang's status.
    GangStatus {
        /// The gang.
        gang: ObjectKey,
        /// Its UID.
        uid: Arc<str>,
        /// The whole status.
        status: GangStatus,
    },
    /// Write a `PodGroup`'s condition `PodGroupInitiallyScheduled`.
    PodGroupStatus {
        /// The group.
        group: ObjectKey,
        /// Its UID.
        uid: Arc<str>,
        /// The generation that this is said of.
        generation: i64,
        /// True or False.
        scheduled: bool,
        /// It was not so before: the time of its transition is now.
        turned: bool,
        /// Reason of the condition.
        reason: &'static str,
        /// In words.
        message: Arc<str>,
    },
    /// Publish one event.
    Tell {
        /// About this object.
        on: Object,
        /// A Warning, else Normal.
        warning: bool,
        /// Reason.
        reason: String,
        /// In words.
        message: Arc<str>,
    },
    /// Set a pod's `PodScheduled` condition to False. These writes yield to bindings. Of those for one pod only the last
    /// one matters, and none does once an [`Action::Bind`] for the pod follows: one that is under way ends before the
    /// pod is bound, one that is not is dropped.
    Unschedulable {
        /// The pod.
        pod: ObjectKey,
        /// Its UID.
        uid: Arc<str>,
        /// In words.
        message: Arc<str>,
        /// It was not False before: the time of its transition is now.
        turned: bool,
        /// Whether an event is due as well: it was not told so before, and no gang speaks for it.
        event: bool,
        /// What becomes of its nomination.
        nominate: Nominate,
    },
    /// Delete a pod, with its UID as a precondition: it makes room, or its gang cannot be completed. Comes back as
    /// [`Event::Evicted`] or [`Event::NotEvicted`]. A condition `DisruptionTarget` is due first where the pod serves
    /// one of higher priority.
    Evict {
        /// The pod.
        pod: ObjectKey,
        /// Its UID.
        uid: Arc<str>,
        /// For whom; `None` when its own gang is undone.
        preemptor: Option<Arc<str>>,
        /// In words.
        message: Arc<str>,
    },
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// There was nothing to decide.
    Nothing,
    /// Not all members are there yet, or a claim is not bound.
    Incomplete,
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
    /// Others are evicted for it.
    Preempting,
    /// A gang that could not be completed is undone.
    Undone,
}

/// One turn of the cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// How it ended.
    pub outcome: Outcome,
    /// What is to be done.
    pub actions: Vec<Action>,
    /// Whether a decision was computed; otherwise a known verdict was given or there was none to give.
    pub decided: bool,
}

impl Attempt {
    pub(super) fn of(outcome: Outcome) -> Self {
        Self { outcome, actions: Vec::new(), decided: false }
    }
}

/// One gang or pod that waits, for the debug view.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingView {
    /// Namespace and name.
    pub key: ObjectKey,
    /// What makes it a gang; `None` for a pod without a gang.
    pub gang: Option<GangKind>,
    /// Priority.
    pub priority: i32,
    /// Creation, since the Unix epoch.
    pub since: Duration,
    /// Members that wait.
    pub members: usize,
    /// Why it waits, for people; `None` when its turn did not come yet.
    pub reason: Option<Arc<str>>,
    /// Which changes could help it, or when it is tried again.
    pub waits_for: WaitsFor,
}

/// What something that is pending waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitsFor {
    /// Its turn.
    Turn,
    /// A change that could help: "nodes", "room", "pods", "volumes".
    Change(Vec<&'static str>),
    /// More of its members, its object, or its claims.
    Parts,
    /// A time, since the Unix epoch.
    Time(Duration),
    /// Others that are being evicted for it.
    Victims,
}
