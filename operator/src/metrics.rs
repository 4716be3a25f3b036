//! Metrics of the operator process. No object's name is ever a label.

use prometheus::{
    Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets, histogram_opts,
};

/// Metrics of the operator.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Placements by `result`: placed, `no_such_gpu`, `insufficient_capacity`.
    pub placements: IntCounterVec,
    /// Seconds that one decision took.
    pub decision_seconds: Histogram,
    /// Seconds from sending a commit to its answer.
    pub commit_seconds: Histogram,
    /// Clusters that wait for capacity.
    pub waiting: IntGauge,
    /// 1 while this process leads.
    pub leader: IntGauge,
    /// The term of this process's leadership; 0: none.
    pub term: IntGauge,
    /// Fences by `result` of their write: written, conflict (the Site came back), gone, refused.
    pub fences: IntCounterVec,
    /// 1 while nobody is replaced because many Sites vanished at once.
    pub frozen: IntGauge,
    /// Failed writes by `kind` of object and `error`: conflict, gone, refused, unreachable, `not_leading`.
    pub write_errors: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = |start| exponential_buckets(start, 2.0, 16);
        let metrics = Self {
            placements: IntCounterVec::new(
                Opts::new("atoll_operator_placements_total", "Placement decisions by result."),
                &["result"],
            )?,
            decision_seconds: Histogram::with_opts(histogram_opts!(
                "atoll_operator_decision_seconds",
                "Seconds of one decision about a Cluster.",
                buckets(0.000_01)?
            ))?,
            commit_seconds: Histogram::with_opts(
                HistogramOpts::new("atoll_operator_commit_seconds", "Seconds from sending a commit to its answer.")
                    .buckets(buckets(0.001)?),
            )?,
            waiting: IntGauge::new("atoll_operator_waiting_clusters", "Clusters that wait for capacity.")?,
            leader: IntGauge::new("atoll_operator_leader", "1 while this process leads.")?,
            term: IntGauge::new("atoll_operator_term", "Term of this process's leadership, 0 when it has none.")?,
            fences: IntCounterVec::new(
                Opts::new("atoll_operator_fences_total", "Writes of fences on lost Sites, by result."),
                &["result"],
            )?,
            frozen: IntGauge::new(
                "atoll_operator_replacing_frozen",
                "1 while nobody is replaced because many Sites vanished at once.",
            )?,
            write_errors: IntCounterVec::new(
                Opts::new("atoll_operator_write_errors_total", "Failed writes by kind of object and error."),
                &["kind", "error"],
            )?,
        };
        registry.register(Box::new(metrics.placements.clone()))?;
        registry.register(Box::new(metrics.decision_seconds.clone()))?;
        registry.register(Box::new(metrics.commit_seconds.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.term.clone()))?;
        registry.register(Box::new(metrics.fences.clone()))?;
        registry.register(Box::new(metrics.frozen.clone()))?;
        registry.register(Box::new(metrics.write_errors.clone()))?;
        Ok(metrics)
    }
}
