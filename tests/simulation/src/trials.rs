//! Many trials at once.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::judge::{Crime, Verdict};
use crate::rule::Rule;
use crate::run;

/// What became of many trials.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many there were.
    pub trials: u64,
    /// Seeds of those that failed, and why, in order.
    pub failed: BTreeMap<u64, Verdict>,
    /// How often what happened in all of them.
    pub counts: BTreeMap<&'static str, u64>,
    /// Acts of all of them.
    pub acts: u64,
    /// Simulated milliseconds of all of them.
    pub time: u64,
}

/// Plays the seeds from `first` on, `count` of them, on all cores; ends early after so many `failures`.
#[must_use]
pub fn play(first: u64, count: u64, off: Option<Rule>, failures: usize) -> Tally {
    let (next, tally) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let enough = tally.lock().is_ok_and(|tally| tally.failed.len() >= failures);
                    if n >= count || enough {
                        return;
                    }
                    let seed = first + n;
                    let outcome = run(seed, off, false);
                    let Ok(mut tally) = tally.lock() else { return };
                    tally.trials += 1;
                    tally.acts += outcome.acts;
                    tally.time += outcome.time;
                    for (what, count) in outcome.counts {
                        *tally.counts.entry(what).or_default() += count;
                    }
                    if let Some(verdict) = outcome.verdict {
                        tally.failed.insert(seed, verdict);
                    }
                }
            });
        }
    });
    tally.into_inner().unwrap_or_default()
}

impl Tally {
    /// How often each judge spoke.
    #[must_use]
    pub fn crimes(&self) -> BTreeMap<Crime, usize> {
        let mut crimes = BTreeMap::new();
        for verdict in self.failed.values() {
            *crimes.entry(verdict.crime).or_default() += 1;
        }
        crimes
    }
}
