//! What the demo prints: each step with how long it took.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tabled::builder::Builder;
use tabled::settings::Style;

/// Announces steps and remembers their times.
#[derive(Debug)]
pub struct Narrator {
    started: Instant,
    done: Vec<(String, Duration)>,
}

impl Narrator {
    /// Starts the clock.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }

    /// Runs one step; a failing one ends the demo and names itself.
    pub async fn step<T>(&mut self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        println!("\n== {what}");
        let started = Instant::now();
        let value = work.await.with_context(|| format!("step {what:?}"))?;
        let took = started.elapsed();
        println!("   done in {:.1} s", took.as_secs_f64());
        self.done.push((what.to_owned(), took));
        Ok(value)
    }

    /// Prints text under the step that runs.
    pub fn show(text: &str) {
        for line in text.trim_end().lines() {
            println!("   {line}");
        }
    }

    /// Prints a table of all steps.
    pub fn summary(&self) {
        let mut table = Builder::default();
        table.push_record(["step", "seconds"]);
        for (what, took) in &self.done {
            table.push_record([what.clone(), format!("{:.1}", took.as_secs_f64())]);
        }
        table.push_record(["all".to_owned(), format!("{:.1}", self.started.elapsed().as_secs_f64())]);
        println!("\n{}", table.build().with(Style::sharp()));
    }
}
