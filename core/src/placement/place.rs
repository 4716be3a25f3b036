//! A decision or a refusal, alone or with everything that led to it.

use super::alternatives::alternatives;
use super::choose::choose;
use super::decision::Decision;
use super::filter::FilterCount;
use super::refusal::{Asked, Capacity, Refusal, RefusalKind};
use super::request::Request;
use super::survey::{Survey, survey};
use crate::inventory::Inventory;

/// Places members, as many of `ranks` as fit and at least `min_new` of them, or says why not.
pub fn place(inventory: &Inventory, request: &Request) -> Result<Decision, Refusal> {
    if request.ranks.is_empty() {
        return Ok(Decision::default());
    }
    choose(inventory, request).ok_or_else(|| refuse(request, survey(inventory, request)))
}

fn refuse(request: &Request, survey: Survey<'_>) -> Refusal {
    Refusal {
        kind: if survey.capacity.exist == 0 { RefusalKind::NoSuchGpu } else { RefusalKind::InsufficientCapacity },
        asked: Box::new(Asked::of(request, survey.placed)),
        fits: alternatives(request, &survey),
        filters: survey.filters,
        capacity: Box::new(survey.capacity),
    }
}

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
    let survey = survey(inventory, request);
    Explanation {
        asked: Asked::of(request, survey.placed),
        filters: survey.filters,
        capacity: survey.capacity,
        outcome: place(inventory, request),
    }
}
