//! What a process still misses before it is ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts that must be there before the process is ready; shared by all tasks.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    parts: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    /// Names a part that is missing until [`Readiness::set`] says otherwise.
    pub fn expect(&self, part: &'static str) {
        self.lock().entry(part).or_insert(false);
    }

    /// Says whether `part` is there.
    pub fn set(&self, part: &'static str, ready: bool) {
        self.lock().insert(part, ready);
    }

    /// The parts that are missing, in alphabetical order; empty: ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.lock().iter().filter(|(_, ready)| !**ready).map(|(part, _)| *part).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, bool>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_parts_are_missing_until_set() {
        let readiness = Readiness::default();
        readiness.expect("cache/sites");
        readiness.expect("cache/clusters");
        assert_eq!(readiness.missing(), ["cache/clusters", "cache/sites"]);
        readiness.set("cache/sites", true);
        readiness.expect("cache/sites");
        assert_eq!(readiness.missing(), ["cache/clusters"]);
        readiness.set("cache/clusters", true);
        assert!(readiness.missing().is_empty());
    }
}
