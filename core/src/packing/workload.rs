//! What usually comes, learned from what came.

use super::machine::{Gpus, Task};

/// Most kinds of task that are told apart.
pub(super) const MAX_KINDS: usize = 256;
/// What one task adds to its kind, so that halving keeps the rare ones for a while.
const UNIT: u64 = 16;
/// When this many tasks are remembered, each counts half: what came long ago fades.
const MEMORY: u64 = 32_768;

/// One kind of task and how often it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The task.
    pub task: Task,
    /// How often it comes, relative to the others.
    pub weight: u64,
}

/// Tasks with GPUs that came, by kind, with the older ones fading. Bounded: a new kind takes the place of the rarest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// By task.
    kinds: Vec<Kind>,
    total: u64,
}

impl Workload {
    /// Nothing came yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that some of a task came. Tasks without GPUs are not kept.
    pub fn observe(&mut self, task: &Task, count: u32) {
        if task.gpus.milli() == 0 || count == 0 {
            return;
        }
        let weight = u64::from(count) * UNIT;
        match self.kinds.binary_search_by(|kind| kind.task.cmp(task)) {
            Ok(at) => {
                if let Some(kind) = self.kinds.get_mut(at) {
                    kind.weight += weight;
                }
            }
            Err(mut at) => {
                if self.kinds.len() >= MAX_KINDS
                    && let Some((rarest, _)) = self.kinds.iter().enumerate().min_by_key(|(_, kind)| kind.weight)
                {
                    self.total -= self.kinds.remove(rarest).weight;
                    at -= usize::from(rarest < at);
                }
                self.kinds.insert(at, Kind { task: *task, weight });
            }
        }
        self.total += weight;
        while self.total > MEMORY * UNIT {
            self.fade();
        }
    }

    /// The kinds, by task.
    #[must_use]
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// How many tasks are remembered.
    #[must_use]
    pub fn tasks(&self) -> u64 {
        self.total / UNIT
    }

    /// How different another workload is, in thousandths: 0 for the same mix, 1000 for nothing in common.
    #[must_use]
    pub fn differs(&self, other: &Self) -> u64 {
        if self.total == 0 || other.total == 0 {
            return if self.total == other.total { 0 } else { 1000 };
        }
        let (mut mine, mut theirs) = (self.kinds.iter().peekable(), other.kinds.iter().peekable());
        let part = |weight: u64, total: u64| weight * 1_000_000 / total;
        let mut apart = 0;
        loop {
            let (a, b) = match (mine.peek(), theirs.peek()) {
                (None, None) => return apart / 2000,
                (Some(a), Some(b)) if a.task == b.task => (mine.next(), theirs.next()),
                (Some(a), Some(b)) if a.task > b.task => (None, theirs.next()),
                (None, Some(_)) => (None, theirs.next()),
                _ => (mine.next(), None),
            };
            let weight = |kind: Option<&Kind>, total| kind.map_or(0, |kind| part(kind.weight, total));
            apart += weight(a, self.total).abs_diff(weight(b, other.total));
        }
    }

    /// Sizes of the shares that come and how often, ascending.
    pub(super) fn shares(&self) -> Vec<(u16, u64)> {
        let mut sizes: Vec<(u16, u64)> = Vec::new();
        // Kinds are ordered by their GPUs first, so equal sizes are neighbours.
        for kind in &self.kinds {
            if let Gpus::Share(milli) = kind.task.gpus {
                match sizes.last_mut() {
                    Some((size, weight)) if *size == milli => *weight += kind.weight,
                    _ => sizes.push((milli, kind.weight)),
                }
            }
        }
        sizes
    }

    fn fade(&mut self) {
        for kind in &mut self.kinds {
            kind.weight /= 2;
        }
        self.kinds.retain(|kind| kind.weight > 0);
        self.total = self.kinds.iter().map(|kind| kind.weight).sum();
    }
}
