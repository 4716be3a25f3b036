//! Who ran when, without asking Kubernetes or Atoll: the kernel's list of the processes in each container's cgroup,
//! looked at 20 times a second, and the boot-time stamps that members log.
//!
//! A run spans from the earliest to the latest moment at which its process certainly ran, so two runs that overlap did
//! run at once; what happens between two looks and is not in a log is missed, see [`Summary::largest_gap`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use atoll_testkit::realnode::RealNode;

use super::boot_now;
use crate::judge::rank_and_incarnation;

/// The members' program: its name is that of a member's process.
pub const PROGRAM: &str = "witness";
const PERIOD: Duration = Duration::from_millis(50);
/// After so long without a process nothing more comes into its log.
const SETTLED: Duration = Duration::from_secs(2);

/// One life of a member's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Name of the Cluster.
    pub cluster: String,
    /// Which member.
    pub rank: u32,
    /// Which life of the member, by Atoll's count.
    pub incarnation: u64,
    /// Display name of the Site.
    pub site: String,
    /// The pod's UID, unique to the run.
    pub uid: String,
    /// When it certainly ran for the first time, by the boot-time clock.
    pub first: Duration,
    /// When it certainly ran for the last time so far.
    pub last: Duration,
    /// Its process is gone.
    pub ended: bool,
}

/// How well it was looked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Looks at all nodes.
    pub looks: u64,
    /// The longest time between two looks.
    pub largest_gap: Duration,
}

/// A node as the witness sees it.
struct Place {
    site: String,
    cgroup: PathBuf,
    logs: PathBuf,
}

#[derive(Default)]
struct Seen {
    runs: HashMap<String, Watched>,
    summary: Summary,
}

struct Watched {
    run: Run,
    log: Option<File>,
    /// The first stamp of the log has been read.
    begun: bool,
    /// Nothing more can come.
    closed: bool,
}

/// Looks at nodes until it is dropped.
#[derive(Debug)]
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen").field("runs", &self.runs.len()).field("summary", &self.summary).finish()
    }
}

impl Witness {
    /// Begins to look at these nodes, each with the display name of its Site.
    pub fn start<'a>(nodes: impl IntoIterator<Item = (&'a str, &'a RealNode)>) -> Result<Self> {
        let pids = Path::new("/sys/fs/cgroup/pids");
        let cgroups = if pids.is_dir() { pids } else { Path::new("/sys/fs/cgroup") };
        let places: Vec<Place> = nodes
            .into_iter()
            .map(|(site, node)| Place {
                site: site.to_owned(),
                cgroup: cgroups.join(node.cgroup().trim_start_matches('/')).join("kubepods"),
                logs: node.dir().join("var-log/pods"),
            })
            .collect();
        let (seen, end) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (of_thread, until) = (Arc::clone(&seen), Arc::clone(&end));
        let look = move || {
            let mut before = boot_now();
            while !until.load(Ordering::Relaxed) {
                let now = boot_now();
                let mut seen = lock(&of_thread);
                seen.summary.largest_gap = seen.summary.largest_gap.max(now.saturating_sub(before));
                seen.summary.looks += 1;
                before = now;
                for place in &places {
                    seen.look(place);
                }
                drop(seen);
                std::thread::sleep(PERIOD.saturating_sub(boot_now().saturating_sub(now)));
            }
        };
        let thread = std::thread::Builder::new().name("witness".to_owned()).spawn(look).context("start a thread")?;
        Ok(Self { seen, end, thread: Some(thread) })
    }

    /// All runs so far, by when they began.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = lock(&self.seen).runs.values().map(|watched| watched.run.clone()).collect();
        runs.sort_by_key(|run| run.first);
        runs
    }

    /// Those that run now.
    #[must_use]
    pub fn alive(&self) -> Vec<Run> {
        self.runs().into_iter().filter(|run| !run.ended).collect()
    }

    /// How well it was looked so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        lock(&self.seen).summary
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Seen {
    fn look(&mut self, place: &Place) {
        let pods = pods(&place.logs);
        for watched in self.runs.values_mut().filter(|watched| watched.run.site == place.site) {
            watched.run.ended = true;
        }
        for uid in running(&place.cgroup) {
            // Taken before the next process is looked at: it certainly ran then or later.
            let now = boot_now();
            let Some(watched) = self.watch(place, &pods, &uid, now) else { continue };
            watched.run.last = watched.run.last.max(now);
            watched.run.ended = false;
        }
        // What came and went between two looks is in a log.
        for uid in pods.keys() {
            if !self.runs.contains_key(uid)
                && let Some(log) = open(&pods, uid)
                && let Some(first) = first_stamp(&log)
            {
                self.watch(place, &pods, uid, first);
            }
        }
        let now = boot_now();
        for watched in self.runs.values_mut().filter(|watched| watched.run.site == place.site && !watched.closed) {
            watched.read_log(&pods, now);
        }
    }

    fn watch(&mut self, place: &Place, pods: &HashMap<String, Pod>, uid: &str, at: Duration) -> Option<&mut Watched> {
        if !self.runs.contains_key(uid) {
            let pod = pods.get(uid)?;
            let run = Run {
                cluster: pod.cluster.clone(),
                rank: pod.rank,
                incarnation: pod.incarnation,
                site: place.site.clone(),
                uid: uid.to_owned(),
                first: at,
                last: at,
                ended: true,
            };
            self.runs.insert(uid.to_owned(), Watched { run, log: None, begun: false, closed: false });
        }
        self.runs.get_mut(uid)
    }
}

impl Watched {
    fn read_log(&mut self, pods: &HashMap<String, Pod>, now: Duration) {
        if self.log.is_none() {
            self.log = open(pods, &self.run.uid);
        }
        if !self.begun
            && let Some(first) = self.log.as_ref().and_then(first_stamp)
        {
            self.run.first = self.run.first.min(first);
            self.begun = true;
        }
        if self.run.ended {
            if let Some(last) = self.log.as_ref().and_then(last_stamp) {
                self.run.last = self.run.last.max(last);
            }
            // The open file outlives the folder that the kubelet removes; let go of it in the end.
            if now.saturating_sub(self.run.last) > SETTLED {
                (self.closed, self.log) = (true, None);
            }
        }
    }
}

/// What a pod's log folder says: `<namespace>_<cluster>-<rank>-<incarnation>_<uid>`.
struct Pod {
    cluster: String,
    rank: u32,
    incarnation: u64,
    folder: PathBuf,
}

fn pods(logs: &Path) -> HashMap<String, Pod> {
    let entries = fs::read_dir(logs).into_iter().flatten().flatten();
    entries.filter_map(|entry| pod(&entry.file_name().to_string_lossy(), entry.path())).collect()
}

fn pod(name: &str, folder: PathBuf) -> Option<(String, Pod)> {
    let mut parts = name.split('_').skip(1);
    let (pod, uid) = (parts.next()?, parts.next()?);
    let (rank, incarnation) = rank_and_incarnation(pod)?;
    let cluster = pod.strip_suffix(&format!("-{rank}-{incarnation}"))?.to_owned();
    let (rank, incarnation) = (rank.parse().ok()?, incarnation.parse().ok()?);
    Some((uid.to_owned(), Pod { cluster, rank, incarnation, folder }))
}

fn open(pods: &HashMap<String, Pod>, uid: &str) -> Option<File> {
    let mut containers = fs::read_dir(&pods.get(uid)?.folder).ok()?.flatten();
    containers.find_map(|container| File::open(container.path().join("0.log")).ok())
}

/// UIDs of the pods whose member's process runs.
fn running(kubepods: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for class in ["", "besteffort", "burstable"] {
        for pod in folders(&kubepods.join(class)) {
            let name = pod.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(uid) = name.strip_prefix("pod") else { continue };
            let containers = folders(&pod);
            let mut processes = containers.iter().flat_map(|container| {
                let list = fs::read_to_string(container.join("cgroup.procs")).unwrap_or_default();
                list.lines().map(str::to_owned).collect::<Vec<_>>()
            });
            if processes.any(|process| is_member(&process)) {
                found.push(uid.to_owned());
            }
        }
    }
    found
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Whether a process is a member's, and has not ended.
fn is_member(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    lives_as(&stat, PROGRAM)
}

fn lives_as(stat: &str, program: &str) -> bool {
    let Some((head, rest)) = stat.rsplit_once(')') else { return false };
    let state = rest.split_whitespace().next();
    head.split_once('(').is_some_and(|(_, name)| name == program) && !matches!(state, Some("Z" | "X"))
}

fn first_stamp(mut log: &File) -> Option<Duration> {
    let mut head = [0; 256];
    log.seek(SeekFrom::Start(0)).ok()?;
    let count = log.read(&mut head).ok()?;
    let text = String::from_utf8_lossy(head.get(..count)?).into_owned();
    let (line, _) = text.split_once('\n')?;
    stamp(line)
}

fn last_stamp(mut log: &File) -> Option<Duration> {
    let length = log.seek(SeekFrom::End(0)).ok()?;
    log.seek(SeekFrom::Start(length.saturating_sub(512))).ok()?;
    let mut text = String::new();
    log.read_to_string(&mut text).ok()?;
    // The last line may not be written to its end.
    let (whole, _) = text.rsplit_once('\n')?;
    stamp(whole.lines().last()?)
}

/// `<time> stdout F <boot-time nanoseconds> <host>`, as the container runtime writes it.
fn stamp(line: &str) -> Option<Duration> {
    line.split(' ').nth(3)?.parse().ok().map(Duration::from_nanos)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_folder_names_the_member() {
        let (uid, found) = pod("atoll-4f2a_my-job-3-17_11-22", PathBuf::new()).unwrap();
        assert_eq!((uid.as_str(), found.cluster.as_str(), found.rank, found.incarnation), ("11-22", "my-job", 3, 17));
        assert!(pod("kube-system_coredns-1_33", PathBuf::new()).is_none());
    }

    #[test]
    fn only_a_living_member_counts() {
        assert!(lives_as("7 (witness) S 1 7", PROGRAM));
        for other in ["7 (witness) Z 1 7", "7 (pause) S 1 7", "7 (runc:[2:INIT]) S 1 7", ""] {
            assert!(!lives_as(other, PROGRAM), "{other}");
        }
    }

    #[test]
    fn stamps_are_read_from_what_the_runtime_wrote() {
        let path = std::env::temp_dir().join(format!("witness-{}", std::process::id()));
        let line = |nanoseconds: u64| format!("2026-01-01T00:00:00.1Z stdout F {nanoseconds} host\n");
        fs::write(&path, format!("{}{}2026-01-01T00:00:00.2Z stdout F 99", line(5), line(7))).unwrap();
        let log = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(first_stamp(&log), Some(Duration::from_nanos(5)));
        assert_eq!(last_stamp(&log), Some(Duration::from_nanos(7)), "an unfinished line says nothing");
    }
}
