//! What the agent counts. Every name stands here once.

use atoll_core::member::MemberPhase;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The agent's metrics; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// 1 while a session with the hub is in step.
    pub session_connected: IntGauge,
    /// Sessions that were begun.
    pub sessions: IntCounter,
    /// Slices that the Site holds.
    pub slices: IntGauge,
    /// Members by the phase that was last reported.
    pub members: IntGaugeVec,
    /// Nodes with GPUs.
    pub nodes: IntGauge,
    /// Pods created.
    pub pods_created: IntCounter,
    /// Deletions of pods requested.
    pub pods_deleted: IntCounter,
    /// Requests to the Site's API server that failed.
    pub site_errors: IntCounter,
    /// Messages of the hub that were refused: malformed, too large, or of an older epoch.
    pub hub_messages_refused: IntCounter,
    /// Nodes with a watchdog.
    pub watched_nodes: IntGauge,
    /// Members that may still run and have no pod.
    pub orphans: IntGauge,
    /// Requests of watchdogs that were answered.
    pub watchdog_asks: IntCounter,
    /// Requests of watchdogs that were refused, by reason.
    pub watchdog_refused: IntCounterVec,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let members =
            IntGaugeVec::new(Opts::new("atoll_agent_members", "Members by the phase last reported"), &["phase"])?;
        registry.register(Box::new(members.clone()))?;
        let watchdog_refused = IntCounterVec::new(
            Opts::new("atoll_agent_watchdog_refused_total", "Requests of watchdogs that were refused"),
            &["reason"],
        )?;
        registry.register(Box::new(watchdog_refused.clone()))?;
        Ok(Self {
            session_connected: gauge("atoll_agent_session_connected", "1 while a session with the hub is in step")?,
            sessions: counter("atoll_agent_sessions_total", "Sessions begun")?,
            slices: gauge("atoll_agent_slices", "Slices that the Site holds")?,
            members,
            nodes: gauge("atoll_agent_gpu_nodes", "Nodes with GPUs")?,
            pods_created: counter("atoll_agent_pods_created_total", "Pods created")?,
            pods_deleted: counter("atoll_agent_pods_deleted_total", "Deletions of pods requested")?,
            site_errors: counter("atoll_agent_site_errors_total", "Requests to the Site's API server that failed")?,
            hub_messages_refused: counter(
                "atoll_agent_hub_messages_refused_total",
                "Messages of the hub that were refused",
            )?,
            watched_nodes: gauge("atoll_agent_watched_nodes", "Nodes with a watchdog")?,
            orphans: gauge("atoll_agent_orphans", "Members that may still run and have no pod")?,
            watchdog_asks: counter("atoll_agent_watchdog_asks_total", "Requests of watchdogs that were answered")?,
            watchdog_refused,
        })
    }

    /// Every phase that [`Metrics::members`] counts.
    pub const PHASES: [MemberPhase; 7] = [
        MemberPhase::Pending,
        MemberPhase::Starting,
        MemberPhase::Ready,
        MemberPhase::Stopping,
        MemberPhase::Succeeded,
        MemberPhase::Failed,
        MemberPhase::Lost,
    ];

    /// The value of the label `phase` of [`Metrics::members`].
    #[must_use]
    pub fn phase_label(phase: MemberPhase) -> &'static str {
        match phase {
            MemberPhase::Pending => "pending",
            MemberPhase::Starting => "starting",
            MemberPhase::Ready => "ready",
            MemberPhase::Stopping => "stopping",
            MemberPhase::Succeeded => "succeeded",
            MemberPhase::Failed => "failed",
            MemberPhase::Lost => "lost",
        }
    }
}
