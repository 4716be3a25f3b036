//! What can go wrong, in words that say what to do.

use std::path::PathBuf;

use atoll_convert::InvalidSpec;
use atoll_core::units::UnitError;
use atoll_wire::pin::PinError;
use thiserror::Error;

/// Why a command could not be carried out.
#[derive(Debug, Error)]
pub enum Error {
    /// No kubeconfig, or one that cannot be used.
    #[error("no hub to talk to: {0}\nSet KUBECONFIG, or name the file with --kubeconfig.")]
    Kubeconfig(#[source] anyhow::Error),
    /// The API server does not answer.
    #[error("the hub's API server cannot be reached: {0}")]
    Unreachable(#[source] kube::Error),
    /// A kind of Atoll is not known there.
    #[error(
        "this Kubernetes cluster does not know {0}: Atoll is not installed there, or this is not a hub.\n\
         To install the kinds: kubectl apply --server-side -f crds/"
    )]
    NotInstalled(String),
    /// An object that was named does not exist.
    #[error("{kind} {name} does not exist{hint}")]
    NotFound {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What to do about it.
        hint: String,
    },
    /// The user may not do this.
    #[error("the hub does not allow this: {0}")]
    Forbidden(String),
    /// The API server refused a manifest.
    #[error("{0} is refused by the hub's API server:\n{1}")]
    Refused(String, String),
    /// Any other answer of the API server.
    #[error("the hub's API server says: {0}")]
    Api(String),
    /// An object that passed the API server and cannot be understood.
    #[error("{object}: {source}")]
    Invalid {
        /// Which object.
        object: String,
        /// What is wrong.
        source: InvalidSpec,
    },
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// A file is no manifest.
    #[error("{0}")]
    Manifest(String),
    /// A flag has a wrong value.
    #[error("--ttl: {0}")]
    Ttl(#[from] UnitError),
    /// A token that lives too long.
    #[error("--ttl: a join token lives 24h at most")]
    TtlTooLong,
    /// The hub's CA has not been made.
    #[error("the hub has no CA yet (Secret {0}): a gateway makes it when it first starts")]
    NoCa(String),
    /// The hub's CA cannot be read.
    #[error("the hub's CA (Secret {0}) cannot be read: {1}")]
    BadCa(String, #[source] PinError),
    /// A rotation is under way already.
    #[error("the hub's CA is being replaced already. {0}")]
    Rotating(String),
    /// No gateway made the next CA.
    #[error("no gateway has made the next CA yet: is one running, with the rights of deploy/hub/gateway-rbac.yaml?")]
    NoGateway,
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            // The answer to a path that the server does not serve names no object.
            kube::Error::Api(status) if status.code == 404 => {
                let kind = status.details.as_ref().map(|details| details.kind.clone()).filter(|kind| !kind.is_empty());
                Self::NotInstalled(kind.unwrap_or_else(|| "the kinds of atoll.dev".to_owned()))
            }
            kube::Error::Api(status) if status.code == 401 || status.code == 403 => Self::Forbidden(status.message),
            kube::Error::Api(status) => Self::Api(status.message),
            error => Self::Unreachable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn answers_of_the_api_server_become_advice() {
        let of = |code, message: &str| {
            Error::from(kube::Error::Api(Box::new(Status::failure(message, "Reason").with_code(code)))).to_string()
        };
        assert!(of(404, "404 page not found").contains("kubectl apply --server-side -f crds/"));
        assert!(of(403, "sites.atoll.dev is forbidden").starts_with("the hub does not allow this: sites.atoll.dev"));
        assert_eq!(of(500, "boom"), "the hub's API server says: boom");
    }
}
