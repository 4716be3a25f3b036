//! What a run of trials comes to: a table for people, a file for machines.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::Style;

use super::judge::Verdict;
use super::trial::Trial;
use super::witness::Summary;
use super::{Times, boot_now};

/// A run, written as target/faults/real.json.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    #[serde(skip)]
    began: Duration,
    /// Seed of the choices.
    pub seed: u64,
    /// Stop, kill and fence seconds.
    pub times: [u32; 3],
    /// Trials asked for.
    pub asked: usize,
    /// Why the run ended before all trials were done, if it did.
    pub ended_early: Option<String>,
    /// How long the run took, in seconds.
    pub seconds: f64,
    /// How often all nodes were looked at.
    pub looks: u64,
    /// The longest time between two looks, in milliseconds: what began and ended in it is known from logs alone.
    pub largest_gap_milliseconds: u64,
    /// All trials.
    pub trials: Vec<Trial>,
}

/// Times of one kind of fault, and how often each verdict was given.
#[derive(Default)]
struct Row {
    expected: String,
    counts: BTreeMap<&'static str, usize>,
    trials: usize,
    slowest: Option<u64>,
    decided: Option<u64>,
}

const VERDICTS: [(&str, Verdict); 6] = [
    ("held", Verdict::Held),
    ("double", Verdict::Double),
    ("disturbed", Verdict::Disturbed),
    ("not replaced", Verdict::NotReplaced),
    ("late", Verdict::Late),
    ("not settled", Verdict::NotSettled),
];

impl Report {
    /// A run that begins.
    #[must_use]
    pub fn new(seed: u64, times: &Times, asked: usize) -> Self {
        Self {
            began: boot_now(),
            seed,
            times: [times.stop, times.kill, times.fence],
            asked,
            ended_early: None,
            seconds: 0.0,
            looks: 0,
            largest_gap_milliseconds: 0,
            trials: Vec::new(),
        }
    }

    /// So far it was looked so well.
    pub fn note(&mut self, witness: Summary) {
        self.seconds = boot_now().saturating_sub(self.began).as_secs_f64();
        self.looks = witness.looks;
        self.largest_gap_milliseconds = u64::try_from(witness.largest_gap.as_millis()).unwrap_or(u64::MAX);
    }

    /// Trials with this verdict.
    #[must_use]
    pub fn count(&self, verdict: &Verdict) -> usize {
        self.trials.iter().filter(|trial| &trial.verdict == verdict).count()
    }

    /// The highest load average of the machine that a trial saw.
    #[must_use]
    pub fn load(&self) -> f64 {
        self.trials.iter().map(|trial| trial.load).fold(0.0, f64::max)
    }

    /// Whether every trial that was asked for was done, and all was as promised.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.trials.len() >= self.asked && self.count(&Verdict::Held) == self.trials.len()
    }

    /// A row for each kind of fault.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        for trial in &self.trials {
            let row = rows.entry(&trial.fault).or_default();
            trial.expected.clone_into(&mut row.expected);
            row.trials += 1;
            row.slowest = row.slowest.max(trial.replaced_after_milliseconds);
            row.decided = row.decided.max(trial.decided_after_milliseconds);
            if let Some((name, _)) = VERDICTS.iter().find(|(_, verdict)| verdict == &trial.verdict) {
                *row.counts.entry(name).or_default() += 1;
            }
        }
        let mut table = Builder::default();
        let names = VERDICTS.iter().map(|(name, _)| (*name).to_owned());
        let head = ["fault", "promised", "trials"].map(str::to_owned).into_iter().chain(names);
        table.push_record(head.chain(["slowest decision", "slowest replacement"].map(str::to_owned)));
        for (fault, row) in rows {
            let counts =
                VERDICTS.iter().map(|(name, _)| row.counts.get(name).map_or_else(String::new, ToString::to_string));
            let slowest = [row.decided, row.slowest]
                .map(|time| time.map_or_else(String::new, |ms| format!("{:.1} s", seconds(ms))));
            let cells = [fault.to_owned(), row.expected.clone(), row.trials.to_string()];
            table.push_record(cells.into_iter().chain(counts).chain(slowest));
        }
        table.build().with(Style::sharp()).to_string()
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let text = serde_json::to_string_pretty(self).context("a report as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }
}

/// One line about a trial.
#[must_use]
pub fn line(number: usize, trial: &Trial) -> String {
    let after = trial.replaced_after_milliseconds;
    let after = after.map_or_else(String::new, |ms| format!(", elsewhere after {:.1} s", seconds(ms)));
    let decided = trial.decided_after_milliseconds;
    let decided = decided.map_or_else(String::new, |ms| format!(", decided at {:.1} s", seconds(ms)));
    let detail = if trial.detail.is_empty() { String::new() } else { format!(": {}", trial.detail) };
    let Trial { fault, target, cluster, verdict, .. } = trial;
    format!("{number:4}  {fault}, {target}, Cluster {cluster}: {verdict:?}{after}{decided}{detail}")
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(verdict: Verdict) -> Trial {
        Trial {
            fault: "cut".to_owned(),
            target: "alpha".to_owned(),
            cluster: "wide".to_owned(),
            expected: "Moved".to_owned(),
            verdict,
            detail: String::new(),
            replaced_after_milliseconds: Some(12_300),
            decided_after_milliseconds: Some(12_000),
            load: 1.0,
        }
    }

    #[test]
    fn a_run_passes_when_all_that_was_asked_for_held() {
        let mut report = Report::new(1, &Times::TENTH, 2);
        report.trials.push(trial(Verdict::Held));
        assert!(!report.passed(), "one is missing");
        report.trials.push(trial(Verdict::Held));
        assert!(report.passed());
        report.trials.push(trial(Verdict::Late));
        assert!(!report.passed());
        assert!(report.table().contains("12.3 s"), "{}", report.table());
        assert_eq!(
            line(7, &trial(Verdict::Held)).trim_start(),
            "7  cut, alpha, Cluster wide: Held, elsewhere after 12.3 s, decided at 12.0 s"
        );
    }
}
