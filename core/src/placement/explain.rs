//! A decision or a refusal with everything that led to it.

use super::refusal::{self, Asked, Capacity, Refusal};
use super::survey::{self, FilterCount};
use super::{Decision, Request, place};
use crate::inventory::Inventory;

/// What a request meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked.
    pub asked: Asked,
    /// What each filter left out, every filter, in order.
    pub filters: Vec<FilterCount>,
    /// What there is.
    pub capacity: Capacity,
    /// What [`place`] says.
    pub outcome: Result<Decision, Refusal>,
}

/// Places members as [`place`] does and tells what the filters left out, also where members fit.
#[must_use]
pub fn explain(inventory: &Inventory, request: &Request) -> Explanation {
    let survey = survey::survey(inventory, request);
    Explanation {
        asked: refusal::asked(request, survey.placed),
        filters: survey.filters,
        capacity: survey.capacity,
        outcome: place(inventory, request),
    }
}
