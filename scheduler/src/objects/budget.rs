//! Disruption budgets.

use atoll_core::scheduling::Selector;

use super::ObjectKey;
use super::affinity::selector;
use crate::proto::PodDisruptionBudget;

/// How many more pods may be taken away from those that a budget protects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The pods of its namespace that it protects.
    pub selector: Selector,
    /// How many may be disrupted now.
    pub allowed: i32,
    /// Pods whose disruption has been counted in `allowed` already.
    pub disrupted: Vec<String>,
}

impl BudgetFacts {
    /// Reads a budget. For preemption, as in Kubernetes, an empty selector protects nothing; nor does one that cannot
    /// be understood.
    #[must_use]
    pub fn of(budget: PodDisruptionBudget) -> Self {
        let status = budget.status.unwrap_or_default();
        let selector = selector(budget.spec.unwrap_or_default().selector.as_ref()).unwrap_or_default();
        let selector = if selector == Selector::All(Vec::new()) { Selector::Nothing } else { selector };
        Self {
            key: ObjectKey::of(&budget.metadata.unwrap_or_default()),
            selector,
            allowed: status.disruptions_allowed,
            disrupted: status.disrupted_pods.into_keys().collect(),
        }
    }
}
