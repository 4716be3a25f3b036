//! Why a write did not happen.

/// What an error means for who wrote.
#[derive(Debug)]
pub enum Failure {
    /// Somebody else wrote first.
    Conflict,
    /// The object is gone.
    Gone,
    /// The API server refused; the same write again is refused again.
    Refused(kube::Error),
    /// It is not known whether the write happened.
    Unknown(kube::Error),
    /// Leadership ended before the write.
    NotLeading,
}

impl Failure {
    /// What `error` means.
    #[must_use]
    pub fn of(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Self::Conflict,
            kube::Error::Api(status) if status.is_not_found() => Self::Gone,
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => Self::Refused(error),
            _ => Self::Unknown(error),
        }
    }

    /// The metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unreachable",
            Self::NotLeading => "not_leading",
        }
    }
}
