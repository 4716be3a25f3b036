//! What a small controller wants written.

use atoll_api::conditions::{self, offer, offer_reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use serde_json::{Value, json};

/// A status that one controller owns, for one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    /// The object's name.
    pub name: String,
    /// The owned fields.
    pub status: Value,
}

impl Owned {
    /// `new` in place of `old`, where a controller owns the whole status; None when they are equal.
    pub fn changed<S: PartialEq + Serialize>(name: Option<&String>, old: &S, new: &S) -> Option<Self> {
        if old == new {
            return None;
        }
        Some(Self { name: name?.clone(), status: json!(new) })
    }
}

/// A condition as it is to be now; its transition time is that of `old` unless its status changes.
#[must_use]
pub fn condition(
    old: &[Condition],
    (type_, holds): (&str, bool),
    (reason, message): (&str, &str),
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let mut known: Vec<Condition> = conditions::condition(old, type_).cloned().into_iter().collect();
    conditions::set_condition(&mut known, type_, holds, reason, message, generation, now);
    known.swap_remove(0)
}

/// The Offered condition of a `GPUModel` or a Supplier.
#[must_use]
pub fn offered(old: &[Condition], gpus: i32, generation: Option<i64>, now: Timestamp) -> Condition {
    let why = if gpus > 0 {
        (offer_reason::SITES_OFFER, "connected Sites offer these GPUs")
    } else {
        (offer_reason::NO_SITE_OFFERS, "no connected Site offers such GPUs")
    };
    condition(old, (offer::OFFERED, gpus > 0), why, generation, now)
}
