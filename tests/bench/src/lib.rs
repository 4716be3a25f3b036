//! What benchmarks share: figures with their targets, as a table and as JSON.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::Style;

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub figure: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it should be, such as "<= 2"; empty: nothing was promised.
    pub target: String,
    /// On what it was measured.
    pub conditions: String,
}

impl Figure {
    /// Seconds, to the millisecond.
    #[must_use]
    pub fn seconds(figure: &str, value: Duration, target: &str, conditions: &str) -> Self {
        Self::number(figure, value.as_secs_f64(), "s", target, conditions)
    }

    /// A number, to three places.
    #[must_use]
    pub fn number(figure: &str, value: f64, unit: &str, target: &str, conditions: &str) -> Self {
        Self {
            figure: figure.to_owned(),
            value: (value * 1000.0).round() / 1000.0,
            unit: unit.to_owned(),
            target: target.to_owned(),
            conditions: conditions.to_owned(),
        }
    }

    /// Whether the target is met; None when nothing was promised or the target is not a comparison.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        let (comparison, bound) = self.target.split_once(' ')?;
        let bound: f64 = bound.parse().ok()?;
        match comparison {
            "<=" => Some(self.value <= bound),
            ">=" => Some(self.value >= bound),
            _ => None,
        }
    }
}

/// Prints the figures as a table and writes them to `target/bench/<name>.json`.
pub fn report(name: &str, figures: &[Figure]) -> Result<()> {
    let mut table = Builder::default();
    table.push_record(["figure", "value", "unit", "target", ""]);
    for figure in figures {
        let met = figure.met().map_or("", |met| if met { "met" } else { "MISSED" });
        let value = format!("{:.3}", figure.value);
        table.push_record([&figure.figure, &value, &figure.unit, &figure.target, met]);
    }
    println!("\n{}", table.build().with(Style::sharp()));
    for figure in figures {
        println!("{}: {}", figure.figure, figure.conditions);
    }
    let folder = PathBuf::from("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join(format!("{name}.json"));
    fs::write(&path, serde_json::to_string_pretty(figures)? + "\n")
        .with_context(|| format!("write {}", path.display()))?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

/// The value below which `percent` of the samples lie (nearest rank); zero of none.
#[must_use]
pub fn percentile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let samples: Vec<Duration> = (1..=20).rev().map(Duration::from_secs).collect();
        assert_eq!(percentile(&samples, 50), Duration::from_secs(10));
        assert_eq!(percentile(&samples, 99), Duration::from_secs(20));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn targets_are_comparisons_with_the_value() {
        let figure = |target| Figure::number("f", 1.9, "s", target, "");
        assert_eq!(figure("<= 2").met(), Some(true));
        assert_eq!(figure(">= 2").met(), Some(false));
        assert_eq!(figure("").met(), None);
    }
}
