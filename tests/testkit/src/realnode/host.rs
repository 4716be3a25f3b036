//! What a real node takes of the machine, and how that is given back also after `kill -9`.
//!
//! Processes and mounts live in namespaces that the kernel ends with their
//! first process, so nothing has to be found and killed. What is left is a
//! bridge and cgroups: their names go by a slot that is locked while it is
//! used, and the slot's next owner starts by removing what it finds.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Error, Result,
    error::Doing as _,
    locks::Locks,
    machine::{Machine, run},
};

const SLOTS: u8 = 16;

/// One of the machine's places for a real node.
#[derive(Debug)]
pub(super) struct Slot {
    number: u8,
    _lock: File,
}

impl Slot {
    /// Takes a free slot, cleans it and makes its bridge and cgroup.
    /// The bridge is that machine's if given, and goes with it.
    pub fn take(machine: Option<&Machine>) -> Result<Self> {
        let locks = Locks::open("atoll-testkit-nodes")?;
        for number in 0..SLOTS {
            if let Some(lock) = locks.try_take(number.into())? {
                let slot = Self { number, _lock: lock };
                slot.clean();
                slot.prepare(machine)?;
                return Ok(slot);
            }
        }
        Err(Error::Unsupported(format!("{SLOTS} real nodes run already: stop one first")))
    }

    /// The bridge that pods are plugged into.
    pub fn bridge(&self) -> String {
        format!("atoll{}", self.number)
    }

    /// The bridge's address: the node's own, and where its DNS answers.
    pub fn address(&self) -> String {
        format!("10.249.{}.1", self.number)
    }

    /// The network of the pods.
    pub fn subnet(&self) -> String {
        format!("10.249.{}.0/24", self.number)
    }

    /// The cgroup that all pods are in.
    pub fn cgroup(&self) -> String {
        format!("/atoll-test-{}", self.number)
    }

    fn prepare(&self, machine: Option<&Machine>) -> Result<()> {
        let (bridge, address) = (self.bridge(), format!("{}/24", self.address()));
        for args in [
            &["link", "add", &bridge, "type", "bridge"][..],
            &["addr", "add", &address, "dev", &bridge],
            &["link", "set", &bridge, "up"],
        ] {
            machine.map_or_else(|| run(None, "ip", args), |machine| machine.run("ip", args))?;
        }
        for hierarchy in hierarchies() {
            let dir = join_absolute(&hierarchy, &self.cgroup());
            fs::create_dir_all(&dir).doing(format!("make cgroup {}", dir.display()))?;
        }
        Ok(())
    }

    /// Removes bridge and cgroups. Processes in them are gone or going.
    fn clean(&self) {
        let bridge = self.bridge();
        if Path::new("/sys/class/net").join(&bridge).exists() {
            let _ = run(None, "ip", &["link", "delete", &bridge]);
        }
        for hierarchy in hierarchies() {
            let dir = join_absolute(&hierarchy, &self.cgroup());
            // A cgroup can be removed once its last process has been reaped.
            for _ in 0..200 {
                if !dir.exists() || remove_cgroup(&dir).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.clean();
    }
}

/// The mount points of cgroup hierarchies: many for version 1, one for version 2.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroups = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (dir, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(dir))
    });
    cgroups.collect()
}

/// Removes a cgroup and all below it, innermost first: they hold no files that could be removed.
fn remove_cgroup(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

fn join_absolute(base: &Path, path: &str) -> PathBuf {
    base.join(path.trim_start_matches('/'))
}

/// The process whose parent is `parent`.
pub(super) fn child_of(parent: i32) -> Option<i32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name in parentheses come the state and the parent.
        let ppid = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        ppid == Some(parent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_folders_go_innermost_first() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir_all(top.join("c")).unwrap();
        remove_cgroup(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn a_child_is_found_by_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(child_of(me).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
