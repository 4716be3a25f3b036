//! Numbers that only one process of the machine holds at a time: ports, places for real nodes.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::{Result, error::Doing as _};

/// A folder with one lock file for each number; the kernel lets go of a lock when its holder ends, however that is.
#[derive(Debug)]
pub(crate) struct Locks(PathBuf);

impl Locks {
    /// Those of this name, which all users of the machine's temporary folder share.
    pub fn open(name: &str) -> Result<Self> {
        Self::at(&std::env::temp_dir().join(name))
    }

    fn at(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).doing(format!("make {}", dir.display()))?;
        Ok(Self(dir.to_owned()))
    }

    /// Takes a number until the file is dropped; `None` when somebody has it.
    pub fn try_take(&self, number: u16) -> Result<Option<File>> {
        let path = self.0.join(number.to_string());
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .doing(format!("open {}", path.display()))?;
        Ok(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(lock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Locks::at(dir.path()).unwrap(), Locks::at(dir.path()).unwrap());
        let held = one.try_take(7).unwrap();
        assert!(held.is_some());
        assert!(other.try_take(7).unwrap().is_none());
        assert!(other.try_take(8).unwrap().is_some());
        drop(held);
        assert!(other.try_take(7).unwrap().is_some());
    }
}
