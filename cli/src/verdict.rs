//! What a command ends with.

use std::process::ExitCode;

/// What a command found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs, or would.
    Fits,
    /// It does not fit.
    DoesNotFit,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Fits => Self::SUCCESS,
            Verdict::DoesNotFit => Self::from(3),
        }
    }
}
