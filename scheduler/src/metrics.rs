//! The scheduler's metrics; each name stands here once.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::cycle::Outcome;

const ATTEMPTS: &str = "atoll_scheduler_attempts_total";
const DECISION_SECONDS: &str = "atoll_scheduler_decision_seconds";
const BINDINGS: &str = "atoll_scheduler_bindings_total";
const BIND_SECONDS: &str = "atoll_scheduler_bind_seconds";
const PENDING: &str = "atoll_scheduler_pending";
const HOLDS: &str = "atoll_scheduler_holds";

/// The scheduler's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: IntCounterVec,
    decision_seconds: Histogram,
    bindings: IntCounterVec,
    bind_seconds: Histogram,
    pending: IntGaugeVec,
    holds: IntGauge,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let decision = prometheus::exponential_buckets(0.000_01, 4.0, 10)?;
        let bind = prometheus::exponential_buckets(0.001, 2.0, 14)?;
        let metrics = Self {
            attempts: IntCounterVec::new(Opts::new(ATTEMPTS, "Turns of the cycle, by result."), &["result"])?,
            decision_seconds: Histogram::with_opts(
                HistogramOpts::new(DECISION_SECONDS, "Seconds that one turn of the cycle took.").buckets(decision),
            )?,
            bindings: IntCounterVec::new(Opts::new(BINDINGS, "Answers to bindings, by result."), &["result"])?,
            bind_seconds: Histogram::with_opts(
                HistogramOpts::new(BIND_SECONDS, "Seconds from sending a binding to its final answer.").buckets(bind),
            )?,
            pending: IntGaugeVec::new(
                Opts::new(PENDING, "Gangs, and pods without a gang, that wait for room or for a retry."),
                &["kind"],
            )?,
            holds: IntGauge::new(HOLDS, "Members that room is held for.")?,
        };
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.decision_seconds.clone()))?;
        registry.register(Box::new(metrics.bindings.clone()))?;
        registry.register(Box::new(metrics.bind_seconds.clone()))?;
        registry.register(Box::new(metrics.pending.clone()))?;
        registry.register(Box::new(metrics.holds.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn attempt(&self, outcome: Outcome, seconds: f64) {
        let result = match outcome {
            Outcome::Nothing => "nothing",
            Outcome::Held => "held",
            Outcome::Binding => "binding",
            Outcome::Bound => "bound",
            Outcome::Refused => "refused",
            Outcome::Expired => "expired",
        };
        self.attempts.with_label_values(&[result]).inc();
        self.decision_seconds.observe(seconds);
    }

    pub(crate) fn binding(&self, result: &str, seconds: f64) {
        self.bindings.with_label_values(&[result]).inc();
        self.bind_seconds.observe(seconds);
    }

    pub(crate) fn sizes(&self, (gangs, pods): (usize, usize), holds: usize) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.pending.with_label_values(&["gang"]).set(count(gangs));
        self.pending.with_label_values(&["pod"]).set(count(pods));
        self.holds.set(count(holds));
    }
}
