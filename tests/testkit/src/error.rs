//! The one error type of this crate.

use std::{fmt::Display, io, path::PathBuf, time::Duration};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong; each message says what to do or where to look next.
#[derive(thiserror::Error)]
pub enum Error {
    /// A program from `make tools` is not in the cache.
    #[error("{tool} is not at {}: run `make tools`", path.display())]
    MissingTool {
        /// Its name in `hack/tools.sh`.
        tool: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// One of Atoll's own programs has not been built.
    #[error("{name} is not in {}: run `cargo build --workspace --bins`, or set ATOLL_BIN_DIR", dir.display())]
    MissingBinary {
        /// The program.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A call to the operating system failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A child process ended although it should run.
    #[error("{name} ended ({status}); the end of {}:\n{tail}", log.display())]
    Exited {
        /// Its name.
        name: String,
        /// How it ended.
        status: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of its log.
        tail: String,
    },
    /// A command gave an error.
    #[error("`{command}` failed ({status}):\n{stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// Something that was waited for did not come.
    #[error("{what}: not within {after:?}; last seen:\n{last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
        /// The last object, error or log seen.
        last: String,
    },
    /// A request to an API server failed.
    #[error("cannot {doing}: {source}")]
    Kube {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The caller asked for something that cannot be had.
    #[error("{0}")]
    Unsupported(String),
}

/// As [`Display`]: tests unwrap, and logs should stay readable then.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Display::fmt(self, f)
    }
}

/// Adds what was being done to an error.
pub(crate) trait Doing<T> {
    /// Turns the error into one that reads "cannot {doing}: …".
    fn doing(self, doing: impl Display) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: impl Display) -> Result<T> {
        self.map_err(|source| Error::Io { doing: doing.to_string(), source })
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, doing: impl Display) -> Result<T> {
        self.map_err(io::Error::from).doing(doing)
    }
}

impl<T> Doing<T> for kube::Result<T> {
    fn doing(self, doing: impl Display) -> Result<T> {
        self.map_err(|source| Error::Kube { doing: doing.to_string(), source: Box::new(source) })
    }
}
