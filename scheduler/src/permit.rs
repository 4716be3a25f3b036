//! Leave to write.

use std::sync::Arc;

use atoll_runtime::leader::Leadership;

/// Whether this process may write now.
#[derive(Clone, Debug)]
pub enum Permit {
    /// It is the only one, says who started it.
    Alone,
    /// As long as it leads.
    Leader(Arc<Leadership>),
}

impl Permit {
    pub(crate) fn may_write(&self) -> bool {
        match self {
            Self::Alone => true,
            Self::Leader(leadership) => leadership.may_write(),
        }
    }
}
