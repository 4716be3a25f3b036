//! A measurement as Prometheus sees it: a row of a table.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::backend::Sample;

/// One series of each device. Rows of one metric stand together and differ in their own label.
pub(super) struct Field {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// A label and its value that tell this row from others of the same metric.
    pub label: Option<(&'static str, &'static str)>,
    /// None: not known of this device; it has no such series then.
    pub value: fn(&Sample) -> Option<f64>,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What is now. Says whose pod it is.
    Gauge,
    /// What is now about the device itself, whoever uses it.
    Condition,
    /// What was counted over the life of the device or its driver, for whichever pods.
    Counter,
}

/// Metrics on their way out.
#[derive(Default)]
pub(super) struct Families(Vec<MetricFamily>);

impl Families {
    /// Adds a series, to the last metric if it has the same name.
    pub fn add(&mut self, name: &str, help: &str, kind: Kind, labels: Vec<LabelPair>, value: f64) {
        if self.0.last().is_none_or(|last| last.name() != name) {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(if kind == Kind::Counter { MetricType::COUNTER } else { MetricType::GAUGE });
            self.0.push(family);
        }
        let mut metric = Metric::from_label(labels);
        if kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        if let Some(family) = self.0.last_mut() {
            family.mut_metric().push(metric);
        }
    }

    /// All of them.
    pub fn finish(self) -> Vec<MetricFamily> {
        self.0
    }
}

/// A label.
pub(super) fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// Counts as Prometheus has them. Above 2^53 the last digits are lost.
#[allow(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

/// 1 for true.
pub(super) fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}
