//! The control file: commands, one a line, that are only ever added to it.
//!
//! Why a file: it needs no server, outlives every process, is the same for all processes that load the library with it,
//! and a call that begins after a line was written sees what it says, so tests need not wait. Its lines are
//! `[@SECONDS] COMMAND`, where SECONDS is the time of writing since 1970; the first may be `node SPECIFICATION`.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::spec::{Invalid, Spec, invalid};
use crate::world::{Event, World};

/// Seconds since 1970.
#[must_use]
pub(crate) fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A node that follows its control file, if it has one.
#[derive(Debug)]
pub(crate) struct Followed {
    pub world: World,
    /// Real time at which the node began, seconds since 1970.
    pub began: f64,
    path: Option<PathBuf>,
    /// Used unless the file names one.
    default: Spec,
    inode: u64,
    read: u64,
}

impl Followed {
    pub fn new(spec: Spec, path: Option<PathBuf>) -> Self {
        let seed = path.as_ref().map_or(0, |path| seed_of(path));
        let world = World::new(&spec, seed);
        Self { world, began: seconds_since_1970(), path, default: spec, inode: 0, read: 0 }
    }

    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Real seconds since the node began.
    pub fn real(&self) -> f64 {
        (seconds_since_1970() - self.began).max(0.0)
    }

    /// Does what was written since the last call, and says what the driver reports of it.
    pub fn follow(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(path) = &self.path else { return events };
        let Ok(found) = std::fs::metadata(path) else { return events };
        if found.ino() != self.inode || found.len() < self.read {
            (self.inode, self.read) = (found.ino(), 0);
            self.world = World::new(&self.default, seed_of(path));
        }
        if found.len() == self.read {
            return events;
        }
        let Ok(text) = read_from(path, self.read) else { return events };
        // A line that is still being written waits for its end.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        for line in text[..whole].lines() {
            match self.line(line) {
                Ok(raised) => events.extend(raised),
                Err(error) => {
                    eprintln!("atoll-fake-nvml: {}: {error}", self.path.as_deref().unwrap_or(Path::new("")).display())
                }
            }
        }
        events
    }

    fn line(&mut self, line: &str) -> Result<Vec<Event>, Invalid> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(Vec::new());
        }
        let (at, command) = split(line);
        if let Some(spec) = command.strip_prefix("node ") {
            let spec = Spec::parse(spec)?;
            self.world = World::new(&spec, self.path.as_deref().map_or(0, seed_of));
            self.began = at.unwrap_or_else(seconds_since_1970);
            return Ok(Vec::new());
        }
        let at = at.unwrap_or_else(seconds_since_1970);
        self.world.apply(command, (at - self.began).max(0.0))
    }
}

fn split(line: &str) -> (Option<f64>, &str) {
    match line.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
        Some((at, command)) => (at.parse().ok(), command.trim()),
        None => (None, line),
    }
}

fn seed_of(path: &Path) -> u64 {
    path.as_os_str().as_encoded_bytes().iter().fold(7, |seed, byte| crate::gpu::mix(seed ^ u64::from(*byte)))
}

fn read_from(path: &Path, offset: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes commands into a control file. Several may write into one, and people with `echo`.
#[derive(Debug)]
pub struct Control {
    followed: Followed,
}

impl Control {
    /// Begins a node: its control file is made anew.
    pub fn create(path: impl AsRef<Path>, spec: &str) -> Result<Self, Invalid> {
        let path = path.as_ref();
        let known = Spec::parse(spec)?;
        // A new file, never one cut short: a process that follows the old one would read nonsense in between.
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, format!("@{} node {spec}\n", seconds_since_1970()))?;
        std::fs::rename(&fresh, path)?;
        Ok(Self { followed: Followed::new(known, Some(path.to_path_buf())) })
    }

    /// Opens the control file of a node that began before.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Invalid> {
        let path = path.as_ref();
        let first = std::fs::read_to_string(path)?;
        let Some(spec) = first.lines().next().and_then(|line| split(line.trim()).1.strip_prefix("node ")) else {
            return invalid(format!("{}: the first line names no node", path.display()));
        };
        Ok(Self { followed: Followed::new(Spec::parse(spec)?, Some(path.to_path_buf())) })
    }

    /// Writes a command, if it can be done now. Every call to the library that begins after this one sees it done.
    pub fn send(&mut self, command: &str) -> Result<(), Invalid> {
        let command = command.trim();
        if command.contains('\n') || command.starts_with(['@', '#']) {
            return invalid(format!("{command}: one command a time, without a time of its own"));
        }
        self.followed.follow();
        self.followed.world.clone().apply(command, self.followed.real())?;
        let path = self.followed.path.clone().unwrap_or_default();
        let mut file = OpenOptions::new().append(true).open(path)?;
        // One write of a short line: lines of several writers do not mix.
        file.write_all(format!("@{} {command}\n", seconds_since_1970()).as_bytes())?;
        Ok(())
    }

    /// The node as it is now.
    pub fn world(&mut self) -> &World {
        self.followed.follow();
        &self.followed.world
    }
}
