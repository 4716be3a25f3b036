//! Which nodes of a Site the pods get: a gang's members all together or none.
//!
//! [`Nodes`] is what a Site's machines have and who is on them; [`Shape`] is what a pod asks for.
//! [`Decider::decide`] answers one [`GangRequest`] (a single pod is a gang of one), leaving the nodes as they were; the
//! caller then takes what was decided. [`preempt`] says who would have to go. [`Hold`] is what a gang goes through
//! from its first decision to its last bound pod.

mod amounts;
mod between;
mod decide;
mod filter;
mod hold;
mod node;
mod nodes;
mod pod;
mod preempt;
mod refusal;
mod reserve;
mod selector;

pub use amounts::{Amounts, POD_SLOT, RESOURCE_PODS};
pub use between::{Surroundings, fits, is_coupled};
pub use decide::{Assignment, Decider, GangRequest, Level, MemberRequest};
pub use filter::{Why, preference, room_for, suits, why_not};
pub use hold::{Hold, Mode, Phase, RefusedFor};
pub use node::{Effect, NodeState, Taint};
pub use nodes::{Aside, NodeIx, Nodes, Occupant, OccupantId, Room, Stage};
pub use pod::{
    Coupling, ExclusiveVolume, HostPort, Identity, NodeTerm, PodTerm, Shape, Spread, Toleration, TolerationValue,
    VolumeNeeds,
};
pub use preempt::{Budget, Cost, Evictee, Preemption, Unit, preempt};
pub use refusal::{DomainRoom, GangRefusal, Helps};
pub use reserve::{Ending, Reservation, reserve};
pub use selector::{Operator, Requirement, Selector};
