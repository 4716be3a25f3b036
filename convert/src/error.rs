//! What an object may have wrong with it although the API server took it: an older CRD let it in, or the rule needs
//! more than CEL can do.

use atoll_core::units::UnitError;
use thiserror::Error;

/// A field that cannot be understood, and why.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct InvalidSpec {
    /// Path of the field, such as `spec.price.maxPerGpuHour`.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// A number outside its bounds.
    #[error("is {value}, must be {bound}")]
    OutOfBounds {
        /// The number.
        value: i64,
        /// What it must be, in words.
        bound: &'static str,
    },
    /// A price, duration or quantity that cannot be read.
    #[error(transparent)]
    Unreadable(UnitError),
    /// A choice that another field rules out.
    #[error("{0}")]
    Conflict(&'static str),
    /// Needed and absent.
    #[error("is missing")]
    Missing,
}

impl Problem {
    pub(crate) fn of(self, field: &'static str) -> InvalidSpec {
        InvalidSpec { field, problem: self }
    }
}

/// `value` as an unsigned number of at least `least`.
pub(crate) fn count(field: &'static str, value: i32, least: u32) -> Result<u32, InvalidSpec> {
    u32::try_from(value).ok().filter(|value| *value >= least).ok_or_else(|| {
        let bound = if least == 0 { "0 or more" } else { "1 or more" };
        Problem::OutOfBounds { value: value.into(), bound }.of(field)
    })
}

/// `value` as an unsigned number.
pub(crate) fn amount(field: &'static str, value: i64) -> Result<u64, InvalidSpec> {
    u64::try_from(value).map_err(|_| Problem::OutOfBounds { value, bound: "0 or more" }.of(field))
}
