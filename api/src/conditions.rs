//! Condition types and reasons, each once.

/// Condition types of a Cluster.
pub mod cluster {
    /// All members are Running and Ready as the hub sees it.
    pub const READY: &str = "Ready";
    /// The Cluster has a committed placement.
    pub const PLACED: &str = "Placed";
    /// The Cluster ended well; terminal.
    pub const COMPLETE: &str = "Complete";
    /// The Cluster ended badly; terminal.
    pub const FAILED: &str = "Failed";
    /// The Cluster holds no GPUs because `spec.suspend` is true.
    pub const SUSPENDED: &str = "Suspended";
}

/// Reasons of a Cluster's conditions.
pub mod cluster_reason {
    /// All members are Ready.
    pub const MEMBERS_READY: &str = "MembersReady";
    /// Members are being started.
    pub const MEMBERS_STARTING: &str = "MembersStarting";
    /// Some members run and the Cluster runs on with fewer than asked.
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
    /// Lost members are being replaced.
    pub const REPLACING: &str = "Replacing";
    /// The gang is being started again from its checkpoint.
    pub const RESTARTING: &str = "Restarting";
    /// All members succeeded.
    pub const SUCCEEDED: &str = "Succeeded";
    /// The Cluster ran as long as `spec.duration` says.
    pub const DURATION_REACHED: &str = "DurationReached";
    /// More members failed than `spec.backoffLimit` allows.
    pub const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
    /// A Site was lost and the disconnection policy is `Fail`.
    pub const MEMBERS_LOST: &str = "MembersLost";
    /// `spec.suspend` is true.
    pub const SUSPENDED: &str = "Suspended";
    /// The spec passed the API server but cannot be understood (an older CRD, say).
    pub const INVALID: &str = "Invalid";
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
    /// A session is live.
    pub const SESSION_LIVE: &str = "SessionLive";
    /// No heartbeat for longer than allowed.
    pub const HEARTBEATS_MISSED: &str = "HeartbeatsMissed";
    /// The gateway that held the session is gone.
    pub const GATEWAY_LOST: &str = "GatewayLost";
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
}
