//! What the watchdog leaves on its node.

use std::io;
use std::path::{Path, PathBuf};

use atoll_core::watchdog::Saved;

/// Name of the file in its folder.
pub const FILE: &str = "lease";

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot make {dir} (choose another with --state-dir): {source}")]
pub struct StateError {
    dir: PathBuf,
    source: io::Error,
}

/// The file, and what is in it as far as this process has written it.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    written: String,
}

impl StateFile {
    /// The file in this folder, which is made if need be.
    pub fn new(dir: &Path) -> Result<Self, StateError> {
        std::fs::create_dir_all(dir).map_err(|source| StateError { dir: dir.to_owned(), source })?;
        Ok(Self { path: dir.join(FILE), written: String::new() })
    }

    /// What an earlier process left; `None`: nothing that can be understood.
    #[must_use]
    pub fn read(&self) -> Option<Saved> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "cannot read what an earlier watchdog left");
                return None;
            }
        };
        text.parse().inspect_err(|error| tracing::error!(file = %self.path.display(), %error, "ignored")).ok()
    }

    /// Writes it if it changed; readers see the old file or the new one. A failure is logged when it begins: who reads the
    /// file sees an older lease then, never a newer one.
    pub fn write(&mut self, saved: &Saved) {
        let text = saved.to_string();
        if text == self.written {
            return;
        }
        let new = self.path.with_extension("new");
        match std::fs::write(&new, &text).and_then(|()| std::fs::rename(&new, &self.path)) {
            Ok(()) => self.written = text,
            Err(error) => tracing::error!(file = %self.path.display(), %error, "cannot write down the lease"),
        }
    }
}
