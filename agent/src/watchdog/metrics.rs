//! What the watchdog counts. Every name stands here once.

use atoll_core::watchdog::{Cause, Taken};
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The watchdog's metrics; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Age of the node's lease, seconds; infinite without one.
    pub lease_age: Gauge,
    /// Requests to the agent, by what came of them.
    pub asks: IntCounterVec,
    /// Members that were killed, by cause.
    pub kills: IntCounterVec,
    /// Times that a pod was killed through its cgroup.
    pub cgroup_kills: IntCounter,
    /// Members of which anything runs.
    pub members: IntGauge,
    /// Lists that the container runtime did not give.
    pub runtime_errors: IntCounter,
}

/// What came of a request that has no answer.
pub const FAILED: &str = "failed";

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            lease_age: Gauge::new("atoll_watchdog_lease_age_seconds", "Age of the node's lease; infinite without one")?,
            asks: IntCounterVec::new(
                Opts::new("atoll_watchdog_asks_total", "Requests to the agent, by what came of them"),
                &["result"],
            )?,
            kills: IntCounterVec::new(Opts::new("atoll_watchdog_kills_total", "Members killed, by cause"), &["cause"])?,
            cgroup_kills: IntCounter::new(
                "atoll_watchdog_cgroup_kills_total",
                "Times that a pod was killed through its cgroup",
            )?,
            members: IntGauge::new("atoll_watchdog_members", "Members of which anything runs on the node")?,
            runtime_errors: IntCounter::new(
                "atoll_watchdog_runtime_errors_total",
                "Lists that the container runtime did not give",
            )?,
        };
        // All series are there from the start, so that their first increase counts.
        for result in [Taken::Renewed, Taken::Unchanged, Taken::NotGranted, Taken::Late].map(word) {
            metrics.asks.with_label_values(&[result]);
        }
        metrics.asks.with_label_values(&[FAILED]);
        for cause in Cause::ALL {
            metrics.kills.with_label_values(&[cause.word()]);
        }
        metrics.lease_age.set(f64::INFINITY);
        registry.register(Box::new(metrics.lease_age.clone()))?;
        registry.register(Box::new(metrics.asks.clone()))?;
        registry.register(Box::new(metrics.kills.clone()))?;
        registry.register(Box::new(metrics.cgroup_kills.clone()))?;
        registry.register(Box::new(metrics.members.clone()))?;
        registry.register(Box::new(metrics.runtime_errors.clone()))?;
        Ok(metrics)
    }
}

/// The value of the label `result` of [`Metrics::asks`].
#[must_use]
pub fn word(taken: Taken) -> &'static str {
    match taken {
        Taken::Renewed => "renewed",
        Taken::Unchanged => "unchanged",
        Taken::NotGranted => "not_granted",
        Taken::Late => "late",
    }
}
