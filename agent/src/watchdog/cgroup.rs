//! Kills a pod through its cgroup: that takes the kernel and nothing else.
//!
//! The kubelet keeps a cgroup for each pod and writes the pod's UID into its name, whichever driver it uses, so that it is
//! found without having been seen before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Killed processes leave their cgroup when they have ended, which takes a moment.
const ROUNDS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Why it is not known that nothing of the pod runs.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The pod has none.
    #[error("no cgroup below {} belongs to the pod: is the node's cgroup file system mounted there?", .0.display())]
    Absent(PathBuf),
    /// Processes are still there.
    #[error("{left} processes are left in {} after they were killed", .cgroup.display())]
    Left {
        /// Where.
        cgroup: PathBuf,
        /// How many.
        left: usize,
    },
    /// The file system refused.
    #[error("{}: {source}", .path.display())]
    Refused {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Kills everything in the cgroups of the pod with this UID, below the mount point `root`. When it returns well, nothing of
/// the pod runs. Blocks for half a second at most.
pub fn kill(root: &Path, uid: &str) -> Result<(), CgroupError> {
    // The systemd driver has dashes mean levels.
    let names = [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))];
    if kill_below(root, &names)? { Ok(()) } else { Err(CgroupError::Absent(root.to_owned())) }
}

/// Kills what is in the folders below `dir` whose name ends with one of `names`, as they are found: with version 1 there is
/// one in each hierarchy, and each of them holds all. Gives whether there was any.
fn kill_below(dir: &Path, names: &[String]) -> Result<bool, CgroupError> {
    let mut found = false;
    // What vanishes meanwhile is no pod that runs.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if names.iter().any(|wanted| name.trim_end_matches(".slice").ends_with(wanted.as_str())) {
            kill_all(&entry.path())?;
            found = true;
        } else {
            found |= kill_below(&entry.path(), names)?;
        }
    }
    Ok(found)
}

fn kill_all(cgroup: &Path) -> Result<(), CgroupError> {
    let mut left = Vec::new();
    for _ in 0..ROUNDS {
        left.clear();
        processes(cgroup, &mut left)?;
        if left.is_empty() {
            return Ok(());
        }
        // Version 2 kills them all in one step, those that are born meanwhile too.
        let at_once = cgroup.join("cgroup.kill");
        match fs::write(&at_once, "1") {
            Ok(()) => {}
            // Version 1: one by one, until there are none. They are read anew each time, a moment before they are killed.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
                    && !at_once.exists() =>
            {
                for pid in left.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                    match kill_process(pid, Signal::KILL) {
                        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                        Err(source) => {
                            return Err(CgroupError::Refused { path: cgroup.to_owned(), source: source.into() });
                        }
                    }
                }
            }
            Err(source) => return Err(CgroupError::Refused { path: at_once, source }),
        }
        std::thread::sleep(PAUSE);
    }
    Err(CgroupError::Left { cgroup: cgroup.to_owned(), left: left.len() })
}

/// Processes in a cgroup and all below it, by the ids that they have here.
fn processes(cgroup: &Path, found: &mut Vec<i32>) -> Result<(), CgroupError> {
    let path = cgroup.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // It has been removed: nothing was in it.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(19) => return Ok(()),
        Err(source) => return Err(CgroupError::Refused { path, source }),
    };
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), found)?;
        }
    }
    Ok(())
}
