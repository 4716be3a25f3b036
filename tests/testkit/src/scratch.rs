//! Folders that go when the test does, also after `kill -9`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::fs::{FlockOperation, flock};

use crate::{Result, error::Doing as _};

const LOCK: &str = ".lock";

/// A folder that is removed on drop. When the test panicked it stays, for its
/// logs, until the next test starts.
///
/// The owner holds a lock in it for as long as it lives, so that whoever
/// starts next can tell which folders nobody owns any more.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes a folder whose name starts with `atoll-test-`, after removing
    /// those whose owner is gone.
    pub fn new(name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::temp_dir();
        sweep(&base);
        let dir =
            base.join(format!("atoll-test-{}-{}-{name}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        // Under a hidden name until it is locked, so that no other test sweeps it away.
        let hidden = dir.with_file_name(format!(".{}", name_of(&dir)));
        fs::create_dir_all(&hidden).doing(format!("make {}", hidden.display()))?;
        let lock = File::create(hidden.join(LOCK)).doing("make a lock file")?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).doing("lock a new folder")?;
        fs::rename(&hidden, &dir).doing(format!("make {}", dir.display()))?;
        Ok(Self { dir, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A path inside the folder.
    #[must_use]
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("logs are in {} until the next test starts", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Removes folders whose lock nobody holds.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for dir in entries.flatten().map(|entry| entry.path()) {
        if !name_of(&dir).starts_with("atoll-test-") {
            continue;
        }
        let Ok(lock) = File::open(dir.join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(&dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stays_while_it_is_owned_and_goes_with_its_owner() {
        let scratch = Scratch::new("a").unwrap();
        let dir = scratch.path().to_path_buf();
        let other = Scratch::new("b").unwrap();
        assert!(dir.is_dir(), "a second test must not sweep the first one's folder");
        drop((scratch, other));
        assert!(!dir.exists());
    }

    #[test]
    fn a_folder_without_owner_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join("atoll-test-1-0-dead");
        let foreign = base.path().join("something-else");
        for dir in [&dead, &foreign] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join(LOCK), "").unwrap();
        }
        sweep(base.path());
        assert!(!dead.exists());
        assert!(foreign.exists());
    }
}
