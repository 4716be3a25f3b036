//! What victims cost.

use std::cmp::Reverse;
use std::time::Duration;

use super::{Budget, Unit};

/// What a set of victims costs, compared from the first field on; the order of kube-scheduler's choice among nodes
/// (`pickOneNodeForPreemption`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Pods evicted beyond what their budgets allow.
    pub violations: u32,
    /// The highest priority among the victims; `i32::MIN` when there are none.
    pub highest: i32,
    /// Sum over the pods of priority + 2³¹, so that fewer pods are better whatever the sign of their priority.
    pub sum: i128,
    /// Pods.
    pub pods: usize,
    /// When the oldest of the victims of the highest priority started: the later the better.
    pub started: Reverse<Duration>,
}

/// Costs of sets of some units.
pub(super) struct Costs<'a> {
    units: &'a [Unit],
    budgets: &'a [Budget],
}

impl<'a> Costs<'a> {
    pub(super) fn new(units: &'a [Unit], budgets: &'a [Budget]) -> Self {
        Self { units, budgets }
    }

    pub(super) fn of(&self, chosen: &[usize]) -> Cost {
        let mut counted = vec![0_u32; self.budgets.len()];
        let mut cost = Cost { violations: 0, highest: i32::MIN, sum: 0, pods: 0, started: Reverse(Duration::MAX) };
        for unit in chosen.iter().map(|unit| &self.units[*unit]) {
            cost.violations += self.count(unit, &mut counted);
            cost.pods += unit.pods.len();
            cost.sum += weight(unit);
            if unit.priority > cost.highest {
                cost.highest = unit.priority;
                cost.started = Reverse(unit.started);
            } else if unit.priority == cost.highest {
                cost.started = cost.started.max(Reverse(unit.started));
            }
        }
        cost
    }

    /// Units that can be evicted together without violating a budget: the cheapest first, as far as budgets go.
    pub(super) fn within_budgets(&self) -> Vec<bool> {
        let mut order: Vec<usize> = (0..self.units.len()).collect();
        order.sort_by_key(|unit| (self.units[*unit].priority, Reverse(self.units[*unit].started), *unit));
        let mut counted = vec![0_u32; self.budgets.len()];
        let mut within = vec![false; self.units.len()];
        for unit in order {
            let mut with = counted.clone();
            if self.count(&self.units[unit], &mut with) == 0 {
                counted = with;
                within[unit] = true;
            }
        }
        within
    }

    /// Counts the unit's pods; how many of them violate a budget.
    fn count(&self, unit: &Unit, counted: &mut [u32]) -> u32 {
        let mut violations = 0;
        for pod in &unit.pods {
            let mut violates = false;
            for budget in &pod.budgets {
                counted[*budget] += 1;
                violates |= counted[*budget] > self.budgets[*budget].allowed;
            }
            violations += u32::from(violates);
        }
        violations
    }
}

/// The unit's part of [`Cost::sum`].
pub(super) fn weight(unit: &Unit) -> i128 {
    (i128::from(unit.priority) + (1 << 31)) * i128::try_from(unit.pods.len()).unwrap_or(i128::MAX >> 33)
}
