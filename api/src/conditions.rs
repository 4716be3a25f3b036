//! Condition types and reasons, each once, and the one way to write a condition.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Condition types of a Cluster.
pub mod cluster {
    /// At least `spec.members.min` members are Ready, and none is about to be placed or moved.
    pub const READY: &str = "Ready";
    /// The Cluster has a committed placement.
    pub const PLACED: &str = "Placed";
    /// The Cluster ended well; terminal.
    pub const COMPLETE: &str = "Complete";
    /// The Cluster ended badly; terminal.
    pub const FAILED: &str = "Failed";
    /// The Cluster holds no GPUs because `spec.suspend` is true.
    pub const SUSPENDED: &str = "Suspended";
    /// No member runs on a GPU that is Unhealthy. Absent while that was never otherwise.
    pub const GPUS_HEALTHY: &str = "GPUsHealthy";
}

/// Reasons of a Cluster's conditions.
pub mod cluster_reason {
    /// All members are Ready.
    pub const MEMBERS_READY: &str = "MembersReady";
    /// Members are placed and not all of them are Ready yet.
    pub const MEMBERS_STARTING: &str = "MembersStarting";
    /// Some members are placed, and the others do not fit now.
    pub const MEMBERS_MISSING: &str = "MembersMissing";
    /// A placement was committed.
    pub const PLACED: &str = "Placed";
    /// Sites are holding the capacity until all of them do.
    pub const RESERVING: &str = "Reserving";
    /// Nothing in the network is such a GPU.
    pub const NO_SUCH_GPU: &str = "NoSuchGPU";
    /// What was asked exists, and too little of it is free.
    pub const INSUFFICIENT_CAPACITY: &str = "InsufficientCapacity";
    /// A Site refused what the hub had placed there.
    pub const SITE_REFUSED: &str = "SiteRefused";
    /// Another commit of a higher term holds the same GPUs.
    pub const PLACEMENT_REVOKED: &str = "PlacementRevoked";
    /// A Site is lost and members wait for their fence.
    pub const SITE_LOST: &str = "SiteLost";
    /// As `SiteLost`, and nobody is replaced because many Sites vanished at once.
    pub const REPLACING_FROZEN: &str = "ReplacingFrozen";
    /// Members are on Sites that are draining, and stay for now.
    pub const SITE_DRAINING: &str = "SiteDraining";
    /// Members are being placed, or wait for former ones to stop.
    pub const REPLACING: &str = "Replacing";
    /// The gang starts again when all its members have stopped.
    pub const RESTARTING: &str = "Restarting";
    /// All members succeeded; for Ray: rank 0 did.
    pub const SUCCEEDED: &str = "Succeeded";
    /// The Cluster ran as long as `spec.duration` says.
    pub const DURATION_REACHED: &str = "DurationReached";
    /// More failures than `spec.backoffLimit` allows.
    pub const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
    /// A Site was lost and the disconnection policy is `Fail`.
    pub const MEMBERS_LOST: &str = "MembersLost";
    /// `spec.suspend` is true.
    pub const SUSPENDED: &str = "Suspended";
    /// The spec passed the API server but cannot be understood (an older CRD, say).
    pub const INVALID: &str = "Invalid";
    /// Members run on GPUs that are Unhealthy; the message names them.
    pub const GPU_UNHEALTHY: &str = "GPUUnhealthy";
    /// No member does any more.
    pub const ALL_HEALTHY: &str = "AllHealthy";
}

/// Condition types of a `ClusterSlice`, written by the gateway.
pub mod slice {
    /// The slice is being deleted and nothing of it is left on its Site.
    pub const STOPPED: &str = "Stopped";
}

/// Reasons of a `ClusterSlice`'s conditions.
pub mod slice_reason {
    /// The Site's agent said that nothing of the slice is left.
    pub const NOTHING_LEFT: &str = "NothingLeft";
}

/// Condition types of a Site.
pub mod site {
    /// The Site is known and may be hired.
    pub const ACCEPTED: &str = "Accepted";
    /// The Site's agent has a live session.
    pub const CONNECTED: &str = "Connected";
}

/// Reasons of a Site's conditions.
pub mod site_reason {
    /// Joined with a valid token.
    pub const JOINED: &str = "Joined";
    /// `spec.suspended` is true.
    pub const SUSPENDED: &str = "Suspended";
    /// `spec.quarantined` is true: it joined by a wallet's signature alone and was not promoted yet.
    pub const QUARANTINED: &str = "Quarantined";
    /// It was promoted from quarantine.
    pub const PROMOTED: &str = "Promoted";
    /// A session is live.
    pub const SESSION_LIVE: &str = "SessionLive";
    /// No heartbeat for longer than allowed.
    pub const HEARTBEATS_MISSED: &str = "HeartbeatsMissed";
    /// The gateway that held the session is gone.
    pub const GATEWAY_LOST: &str = "GatewayLost";
}

/// Reasons of events on the Lease that the hub's operators contend for: what concerns the whole hub.
pub mod hub_reason {
    /// Nobody is replaced: many Sites vanished at once.
    pub const REPLACING_FROZEN: &str = "ReplacingFrozen";
    /// Members are replaced again.
    pub const REPLACING_RESUMED: &str = "ReplacingResumed";
}

/// Condition types of a Site's own `GPUNode`, written by the device plugin.
pub mod gpu_node {
    /// The GPU driver answers.
    pub const DRIVER_READY: &str = "DriverReady";
    /// No GPU or instance of the node is Unhealthy.
    pub const GPUS_HEALTHY: &str = "GPUsHealthy";
}

/// Reasons of a `GPUNode`'s conditions, and of the events that the device plugin publishes on Nodes.
pub mod gpu_node_reason {
    /// The driver answers.
    pub const DRIVER_ANSWERS: &str = "DriverAnswers";
    /// There is no driver, or it does not answer.
    pub const NO_DRIVER: &str = "NoDriver";
    /// No device is Unhealthy.
    pub const ALL_HEALTHY: &str = "AllHealthy";
    /// A device is Unhealthy and not given out.
    pub const GPU_UNHEALTHY: &str = "GPUUnhealthy";
    /// A device is given out, and somebody should look at it.
    pub const GPU_DEGRADED: &str = "GPUDegraded";
    /// A device is Healthy again.
    pub const GPU_HEALTHY: &str = "GPUHealthy";
}

/// Condition types of a `GPUModel` and of a Supplier.
pub mod offer {
    /// `GPUModel`: connected Sites have such GPUs. Supplier: one of its Sites at least is connected.
    pub const OFFERED: &str = "Offered";
}

/// Reasons of the conditions of a `GPUModel` and of a Supplier.
pub mod offer_reason {
    /// Connected Sites offer something.
    pub const SITES_OFFER: &str = "SitesOffer";
    /// No connected Site does.
    pub const NO_SITE_OFFERS: &str = "NoSiteOffers";
}

/// Reasons of a refused or failed member or gang on a Site.
pub mod member_reason {
    /// The GPUs asked for are not free on the node that the hub chose, nor elsewhere on the Site.
    pub const INSUFFICIENT_CAPACITY: &str = "InsufficientCapacity";
    /// A reservation was not followed by Run in time.
    pub const RESERVATION_EXPIRED: &str = "ReservationExpired";
    /// The Site's rules or the agent's own refuse such a pod.
    pub const POD_REFUSED: &str = "PodRefused";
    /// The pod vanished or was evicted by the Site.
    pub const LOST: &str = "Lost";
    /// The member was stopped because its lease ran out.
    pub const LEASE_EXPIRED: &str = "LeaseExpired";
    /// The member's containers ended with a failure.
    pub const CONTAINERS_FAILED: &str = "ContainersFailed";
    /// The member runs, and a GPU that it holds is Unhealthy.
    pub const GPU_UNHEALTHY: &str = "GPUUnhealthy";
}

const TRUE: &str = "True";
const FALSE: &str = "False";

/// Sets the condition of type `type_` to True when it `holds`, else to False, adding it when it is missing; says whether
/// anything changed.
///
/// `lastTransitionTime` becomes `now` only when the status changes, so that writing the same condition again changes
/// nothing and causes no API write.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    holds: bool,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let status = if holds { TRUE } else { FALSE };
    let Some(found) = conditions.iter_mut().find(|condition| condition.type_ == type_) else {
        conditions.push(Condition {
            last_transition_time: Time(now),
            message: message.to_owned(),
            observed_generation,
            reason: reason.to_owned(),
            status: status.to_owned(),
            type_: type_.to_owned(),
        });
        return true;
    };
    let moved = found.status != status;
    if !moved && found.reason == reason && found.message == message && found.observed_generation == observed_generation
    {
        return false;
    }
    if moved {
        found.last_transition_time = Time(now);
        status.clone_into(&mut found.status);
    }
    reason.clone_into(&mut found.reason);
    message.clone_into(&mut found.message);
    found.observed_generation = observed_generation;
    true
}

/// The condition of type `type_`, when there is one.
#[must_use]
pub fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// True when there is a condition of type `type_` and its status is True.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    condition(conditions, type_).is_some_and(|condition| condition.status == TRUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_missing_condition_is_added() {
        let mut conditions = Vec::new();
        assert!(set_condition(&mut conditions, "Ready", false, "Starting", "2 of 3", Some(4), at(10)));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].status, "False");
        assert_eq!(conditions[0].observed_generation, Some(4));
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
        assert!(!is_true(&conditions, "Ready"));
        assert!(condition(&conditions, "Placed").is_none());
    }

    #[test]
    fn the_same_condition_again_changes_nothing() {
        let mut conditions = Vec::new();
        set_condition(&mut conditions, "Ready", true, "AllReady", "", Some(1), at(10));
        let before = conditions.clone();
        assert!(!set_condition(&mut conditions, "Ready", true, "AllReady", "", Some(1), at(99)));
        assert_eq!(conditions, before);
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        set_condition(&mut conditions, "Placed", true, "Placed", "", Some(1), at(1));
        set_condition(&mut conditions, "Ready", false, "Starting", "1 of 3", Some(1), at(10));

        assert!(set_condition(&mut conditions, "Ready", false, "Starting", "2 of 3", Some(1), at(20)));
        assert!(set_condition(&mut conditions, "Ready", false, "Waiting", "2 of 3", Some(1), at(21)));
        assert!(set_condition(&mut conditions, "Ready", false, "Waiting", "2 of 3", Some(2), at(22)));
        assert_eq!(condition(&conditions, "Ready").unwrap().last_transition_time, Time(at(10)));

        assert!(set_condition(&mut conditions, "Ready", true, "AllReady", "", Some(2), at(30)));
        assert_eq!(condition(&conditions, "Ready").unwrap().last_transition_time, Time(at(30)));
        assert!(set_condition(&mut conditions, "Ready", false, "Gone", "", Some(2), at(40)));
        assert_eq!(condition(&conditions, "Ready").unwrap().last_transition_time, Time(at(40)));
        assert_eq!(conditions.len(), 2);
        assert_eq!(condition(&conditions, "Placed").unwrap().last_transition_time, Time(at(1)));
    }
}
