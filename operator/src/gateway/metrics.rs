//! Metrics of the gateway.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::door::{Full, Wish};

/// All metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    sessions: IntGauge,
    joins: IntCounterVec,
    turned_away: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    refused: IntCounterVec,
    writes: IntCounterVec,
    grants_withheld: IntCounter,
    handshakes_failed: IntCounter,
    report_to_write: Histogram,
}

/// What a message could not be used for; a label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A report of a slice.
    Report,
    /// A node of an inventory.
    Node,
    /// A session that could not be begun.
    Session,
    /// A message that breaks the protocol, which ends its session.
    Protocol,
    /// Bytes that are no message, or too many of them, which end their session.
    Frame,
    /// A request without the certificate that it needs.
    Caller,
    /// A connection beyond those that a Site may have.
    Connection,
    /// A connection on which nothing happened for too long.
    Idle,
}

/// What is written; a label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Status of a `ClusterSlice`.
    Slice,
    /// A `GPUNode`.
    Node,
    /// Status of a `Site`.
    Site,
}

impl Written {
    fn label(self) -> &'static str {
        match self {
            Self::Slice => "clusterslice",
            Self::Node => "gpunode",
            Self::Site => "site",
        }
    }
}

impl Metrics {
    /// Registers all metrics.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let metrics = Self {
            sessions: IntGauge::new("atoll_gateway_sessions", "Sessions that are live.")?,
            joins: counters(
                "atoll_gateway_joins_total",
                "Requests to join, by what they showed and gRPC code.",
                &["by", "code"],
            )?,
            turned_away: counters(
                "atoll_gateway_turned_away_total",
                "Connections and joins that were too many.",
                &["what", "reason"],
            )?,
            received: counters("atoll_gateway_messages_received_total", "Messages of agents, by kind.", &["kind"])?,
            sent: counters("atoll_gateway_messages_sent_total", "Messages to agents, by kind.", &["kind"])?,
            refused: counters("atoll_gateway_refused_total", "What agents sent and was not believed.", &["what"])?,
            writes: counters(
                "atoll_gateway_writes_total",
                "Writes to the API, by kind and result.",
                &["kind", "result"],
            )?,
            grants_withheld: IntCounter::new(
                "atoll_gateway_grants_withheld_total",
                "Heartbeats not answered because this gateway did not hold its own Lease.",
            )?,
            handshakes_failed: IntCounter::new(
                "atoll_gateway_tls_handshakes_failed_total",
                "Connections that did not get through the TLS handshake.",
            )?,
            report_to_write: Histogram::with_opts(
                HistogramOpts::new(
                    "atoll_gateway_report_to_write_seconds",
                    "From receiving a report of a slice to its status being written.",
                )
                .buckets(vec![0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
            )?,
        };
        registry.register(Box::new(metrics.sessions.clone()))?;
        registry.register(Box::new(metrics.grants_withheld.clone()))?;
        registry.register(Box::new(metrics.handshakes_failed.clone()))?;
        registry.register(Box::new(metrics.report_to_write.clone()))?;
        Ok(metrics)
    }

    /// Counts a session until the guard is dropped.
    #[must_use]
    pub fn session(&self) -> SessionGuard {
        self.sessions.inc();
        SessionGuard(self.sessions.clone())
    }

    pub(super) fn join(&self, by: &str, code: tonic::Code) {
        self.joins.with_label_values(&[by, &format!("{code:?}")]).inc();
    }

    pub(super) fn turned_away(&self, what: Wish, reason: Full) {
        let what = match what {
            Wish::Handshake => "handshake",
            Wish::Join => "join",
        };
        let reason = match reason {
            Full::Source => "source",
            Full::SourceAtOnce => "source_at_once",
            Full::Overall => "overall",
        };
        self.turned_away.with_label_values(&[what, reason]).inc();
    }

    pub(super) fn received(&self, kind: &str) {
        self.received.with_label_values(&[kind]).inc();
    }

    pub(super) fn sent(&self, kind: &str) {
        self.sent.with_label_values(&[kind]).inc();
    }

    pub(super) fn refused(&self, what: Refused) {
        let what = match what {
            Refused::Report => "report",
            Refused::Node => "node",
            Refused::Session => "session",
            Refused::Protocol => "protocol",
            Refused::Frame => "frame",
            Refused::Caller => "caller",
            Refused::Connection => "connection",
            Refused::Idle => "idle",
        };
        self.refused.with_label_values(&[what]).inc();
    }

    pub(super) fn write<T>(&self, kind: Written, result: &Result<T, kube::Error>) {
        let result = match result {
            Ok(_) => "ok",
            Err(kube::Error::Api(status)) if status.is_conflict() => "conflict",
            Err(kube::Error::Api(status)) if status.is_not_found() => "not_found",
            Err(_) => "error",
        };
        self.writes.with_label_values(&[kind.label(), result]).inc();
    }

    pub(super) fn grant_withheld(&self) {
        self.grants_withheld.inc();
    }

    pub(super) fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    pub(super) fn report_written(&self, after: Duration) {
        self.report_to_write.observe(after.as_secs_f64());
    }
}

/// A live session in the gauge.
#[derive(Debug)]
pub struct SessionGuard(IntGauge);

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_while_they_live() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let one = metrics.session();
        let two = metrics.session();
        assert_eq!(metrics.sessions.get(), 2);
        drop((one, two));
        assert_eq!(metrics.sessions.get(), 0);
    }
}
