//! The scheduler's metrics; each name stands here once.

use std::collections::BTreeMap;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, exponential_buckets,
};

use crate::cycle::Outcome;

const ATTEMPTS: &str = "atoll_scheduler_attempts_total";
const ATTEMPT_SECONDS: &str = "atoll_scheduler_attempt_seconds";
const BINDINGS: &str = "atoll_scheduler_bindings_total";
const BINDINGS_IN_FLIGHT: &str = "atoll_scheduler_bindings_in_flight";
const BIND_SECONDS: &str = "atoll_scheduler_bind_seconds";
const POD_SECONDS: &str = "atoll_scheduler_pod_seconds";
const PENDING: &str = "atoll_scheduler_pending";
const PENDING_REASONS: &str = "atoll_scheduler_pending_reasons";
const PREEMPTION_VICTIMS: &str = "atoll_scheduler_preemption_victims";
const EVICTIONS: &str = "atoll_scheduler_evictions_total";
const CACHE_SIZE: &str = "atoll_scheduler_cache_size";
const HOLDS: &str = "atoll_scheduler_holds";

/// The scheduler's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: IntCounterVec,
    attempt_seconds: HistogramVec,
    bindings: IntCounterVec,
    bindings_in_flight: IntGauge,
    bind_seconds: Histogram,
    pod_seconds: Histogram,
    pending: IntGaugeVec,
    pending_reasons: IntGaugeVec,
    preemption_victims: Histogram,
    evictions: IntCounterVec,
    cache_size: IntGaugeVec,
    holds: IntGauge,
}

/// How much there is.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// Gangs, and pods without a gang, that wait.
    pub(crate) pending: [(&'static str, usize); 2],
    /// The same by what they wait for.
    pub(crate) reasons: BTreeMap<&'static str, usize>,
    /// What is in the cache, by kind.
    pub(crate) cache: [(&'static str, usize); 4],
    /// Members that room is held for.
    pub(crate) holds: usize,
    /// Bindings that wait or are in flight.
    pub(crate) bindings: usize,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets| HistogramOpts::new(name, help).buckets(buckets);
        let metrics = Self {
            attempts: IntCounterVec::new(Opts::new(ATTEMPTS, "Turns of the cycle, by result."), &["result"])?,
            attempt_seconds: HistogramVec::new(
                histogram(
                    ATTEMPT_SECONDS,
                    "Seconds that one turn of the cycle took, by result; a decision when it took one.",
                    exponential_buckets(0.000_01, 4.0, 10)?,
                ),
                &["result"],
            )?,
            bindings: IntCounterVec::new(Opts::new(BINDINGS, "Answers to bindings, by result."), &["result"])?,
            bindings_in_flight: IntGauge::new(BINDINGS_IN_FLIGHT, "Bindings that wait for their turn or an answer.")?,
            bind_seconds: Histogram::with_opts(histogram(
                BIND_SECONDS,
                "Seconds from sending a binding to its final answer.",
                exponential_buckets(0.001, 2.0, 14)?,
            ))?,
            pod_seconds: Histogram::with_opts(histogram(
                POD_SECONDS,
                "Seconds from a pod's creation, whole ones, to its binding.",
                exponential_buckets(0.01, 2.0, 20)?,
            ))?,
            pending: IntGaugeVec::new(
                Opts::new(PENDING, "Gangs, and pods without a gang, that wait to be bound."),
                &["kind"],
            )?,
            pending_reasons: IntGaugeVec::new(
                Opts::new(PENDING_REASONS, "Gangs and pods without a gang by what they wait for."),
                &["waits_for"],
            )?,
            preemption_victims: Histogram::with_opts(histogram(
                PREEMPTION_VICTIMS,
                "Pods that one preemption evicts.",
                exponential_buckets(1.0, 2.0, 13)?,
            ))?,
            evictions: IntCounterVec::new(Opts::new(EVICTIONS, "Answers to evictions, by result."), &["result"])?,
            cache_size: IntGaugeVec::new(Opts::new(CACHE_SIZE, "Objects in the cache, by kind."), &["kind"])?,
            holds: IntGauge::new(HOLDS, "Members that room is held for.")?,
        };
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.attempt_seconds.clone()))?;
        registry.register(Box::new(metrics.bindings.clone()))?;
        registry.register(Box::new(metrics.bindings_in_flight.clone()))?;
        registry.register(Box::new(metrics.bind_seconds.clone()))?;
        registry.register(Box::new(metrics.pod_seconds.clone()))?;
        registry.register(Box::new(metrics.pending.clone()))?;
        registry.register(Box::new(metrics.pending_reasons.clone()))?;
        registry.register(Box::new(metrics.preemption_victims.clone()))?;
        registry.register(Box::new(metrics.evictions.clone()))?;
        registry.register(Box::new(metrics.cache_size.clone()))?;
        registry.register(Box::new(metrics.holds.clone()))?;
        Ok(metrics)
    }

    /// `victims` is how many pods are evicted to make room.
    pub(crate) fn attempt(&self, outcome: Outcome, seconds: f64, victims: usize) {
        let result = result(outcome);
        self.attempts.with_label_values(&[result]).inc();
        self.attempt_seconds.with_label_values(&[result]).observe(seconds);
        if victims > 0 {
            self.preemption_victims.observe(f64::from(u32::try_from(victims).unwrap_or(u32::MAX)));
        }
    }

    pub(crate) fn binding(&self, result: &str, seconds: f64) {
        self.bindings.with_label_values(&[result]).inc();
        self.bind_seconds.observe(seconds);
    }

    /// A pod was bound so many seconds after its creation.
    pub(crate) fn pod(&self, seconds: f64) {
        self.pod_seconds.observe(seconds);
    }

    pub(crate) fn eviction(&self, result: &str) {
        self.evictions.with_label_values(&[result]).inc();
    }

    pub(crate) fn sizes(&self, sizes: &Sizes) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for (kind, pending) in sizes.pending {
            self.pending.with_label_values(&[kind]).set(count(pending));
        }
        self.pending_reasons.reset();
        for (waits_for, pending) in &sizes.reasons {
            self.pending_reasons.with_label_values(&[waits_for]).set(count(*pending));
        }
        for (kind, size) in sizes.cache {
            self.cache_size.with_label_values(&[kind]).set(count(size));
        }
        self.holds.set(count(sizes.holds));
        self.bindings_in_flight.set(count(sizes.bindings));
    }
}

fn result(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Nothing => "nothing",
        Outcome::Incomplete => "incomplete",
        Outcome::Held => "held",
        Outcome::Binding => "binding",
        Outcome::Bound => "bound",
        Outcome::Refused => "refused",
        Outcome::Expired => "expired",
        Outcome::Preempting => "preempting",
        Outcome::Undone => "undone",
    }
}
