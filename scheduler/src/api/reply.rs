//! What became of a write.

use http::StatusCode;

use super::connections::{Answer, RequestError};

/// What the API server made of a write, as far as is known.
#[derive(Debug)]
pub(crate) enum Reply {
    /// It was done.
    Done,
    /// It is certain that this request changed nothing.
    Refused {
        /// Status code, from 400 to 499.
        code: StatusCode,
        /// What the API server says.
        message: String,
    },
    /// It may have been done or not, or it is worth another try.
    Unsure(String),
}

impl Reply {
    pub(crate) fn of(answer: Result<Answer, RequestError>) -> Self {
        match answer {
            Ok(answer) if answer.is_success() => Self::Done,
            Ok(answer) if is_certain(answer.status) => Self::Refused { code: answer.status, message: answer.message() },
            Ok(answer) => Self::Unsure(answer.message()),
            Err(error) => Self::Unsure(error.to_string()),
        }
    }
}

/// Whether the API server itself refused, so that nothing was written, and would refuse again.
fn is_certain(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}
