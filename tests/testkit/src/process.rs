//! Child processes that cannot outlive the test and that tests can hurt.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::watch;

use crate::{Error, Result, error::Doing as _, machine::Machine};

/// How long a process that got SIGKILL may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    dir: Option<PathBuf>,
    log: PathBuf,
}

impl ProcessSpec {
    /// Runs `program`, which errors call `name`, with its output in the file `log`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            dir: None,
            log: log.into(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs it on a host of its own; on this one if `None`.
    #[must_use]
    pub fn on(mut self, machine: Option<&Machine>) -> Self {
        if let Some(machine) = machine {
            let program = std::mem::replace(&mut self.program, PathBuf::from("/usr/bin/nsenter"));
            let enter = machine.enter().map(OsString::from);
            self.args.splice(0..0, enter.into_iter().chain([program.into_os_string()]));
        }
        self
    }

    fn command(&self) -> Result<Command> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .doing(format!("open {}", self.log.display()))?;
        let errors = log.try_clone().doing("share a log file")?;
        // setpriv asks the kernel to send SIGKILL when the spawner thread is gone, then becomes the program.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(&self.args)
            .envs(&self.env)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        Ok(command)
    }
}

/// A child process in a process group of its own. It is killed on drop, and
/// by the kernel if the test's process dies first.
#[derive(Debug)]
pub struct ManagedProcess {
    spec: ProcessSpec,
    running: Mutex<Running>,
}

/// One life of the process.
#[derive(Debug, Clone)]
struct Running {
    pid: Pid,
    /// None while the pid is ours: signals are sent under this lock, so that
    /// none hits a process that got the pid later.
    ended: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
    watch: watch::Receiver<Option<ExitStatus>>,
}

impl ManagedProcess {
    /// Starts the process; it returns as soon as it runs, not when it is ready.
    pub fn start(spec: ProcessSpec) -> Result<Self> {
        let running = Mutex::new(Running::start(&spec)?);
        Ok(Self { spec, running })
    }

    /// The name that errors use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its process id, which is also its group's.
    #[must_use]
    pub fn pid(&self) -> i32 {
        lock(&self.running).pid.as_raw_nonzero().get()
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.spec.log, lines)
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *lock(&lock(&self.running).ended.0)
    }

    /// An error with the end of the log if the process has ended.
    pub fn check_running(&self) -> Result<()> {
        match self.exit_status() {
            None => Ok(()),
            Some(status) => Err(Error::Exited {
                name: self.spec.name.clone(),
                status: status.to_string(),
                log: self.spec.log.clone(),
                tail: self.log_tail(30),
            }),
        }
    }

    /// Its resident memory in bytes, or 0 when it has ended.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory that it has had so far in bytes, or 0 when it has ended.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let kib = status.lines().find_map(|line| {
            let rest = line.strip_prefix(field)?;
            rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        kib.unwrap_or(0) * 1024
    }

    /// CPU time it has used so far, its threads and reaped children included.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // After the name in parentheses: utime, stime, cutime and cstime are fields 14 to 17 of all.
        let ticks: u64 = stat.rsplit_once(')').map_or(0, |(_, rest)| {
            let numbers = rest.split_whitespace().skip(11).take(4);
            numbers.filter_map(|n| n.parse::<u64>().ok()).sum()
        });
        // The kernel shows times in hundredths of a second, whatever its own tick is.
        Duration::from_millis(ticks * 10)
    }

    /// Kills it and its group with SIGKILL and waits until they are gone.
    pub async fn kill9(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_exit(KILL_LIMIT).await.map(drop)
    }

    /// Freezes it, SIGSTOP: it keeps its connections and answers nothing.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on, SIGCONT.
    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end, SIGTERM, and kills it when it has not after `limit`.
    /// Gives how it ended.
    pub async fn terminate(&self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match self.wait_exit(limit).await {
            Err(Error::Timeout { .. }) => {
                self.signal(Signal::KILL)?;
                self.wait_exit(KILL_LIMIT).await
            }
            ended => ended,
        }
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&self, limit: Duration) -> Result<ExitStatus> {
        let mut watch = lock(&self.running).watch.clone();
        let ended = tokio::time::timeout(limit, watch.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(status)) => Ok(status.unwrap_or_default()),
            // The thread that waits for the child never ends before the child.
            Ok(Err(_)) => Ok(self.exit_status().unwrap_or_default()),
            Err(_) => Err(Error::Timeout {
                what: format!("{} to end", self.spec.name),
                after: limit,
                last: self.log_tail(10),
            }),
        }
    }

    /// Kills it if it runs and starts it again with the same command line;
    /// the log goes on in the same file.
    pub async fn restart(&self) -> Result<()> {
        self.kill9().await?;
        *lock(&self.running) = Running::start(&self.spec)?;
        Ok(())
    }

    /// Sends a signal to the process and its group; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        lock(&self.running).signal(signal).doing(format!("send {signal:?} to {}", self.spec.name))
    }
}

impl Drop for ManagedProcess {
    fn drop(&mut self) {
        let running = lock(&self.running).clone();
        let _ = running.signal(Signal::KILL);
        // So that its port and files are free when drop returns.
        let (ended, condition) = &*running.ended;
        drop(condition.wait_timeout_while(lock(ended), KILL_LIMIT, |status| status.is_none()));
    }
}

impl Running {
    fn start(spec: &ProcessSpec) -> Result<Self> {
        if !spec.program.is_file() {
            return Err(Error::Unsupported(format!(
                "cannot start {}: there is no {}",
                spec.name,
                spec.program.display()
            )));
        }
        let child = spawn(spec.command()?).doing(format!("start {} (is setpriv installed?)", spec.name))?;
        let pid = Pid::from_child(&child);
        let ended = Arc::new((Mutex::new(None), Condvar::new()));
        let (sender, watch) = watch::channel(None);
        let state = Arc::clone(&ended);
        std::thread::Builder::new()
            .name(format!("wait-{}", spec.name))
            .spawn(move || wait(child, &state, &sender))
            .doing("start a thread")?;
        Ok(Self { pid, ended, watch })
    }

    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        let ended = lock(&self.ended.0);
        if ended.is_some() {
            return Ok(());
        }
        match kill_process_group(self.pid, signal) {
            // Only the unreaped process itself is left.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::PERM) => Ok(()),
            result => result,
        }
    }
}

/// Waits for the child, ends what it left in its group, and tells everyone.
fn wait(mut child: Child, state: &(Mutex<Option<ExitStatus>>, Condvar), sender: &watch::Sender<Option<ExitStatus>>) {
    let pid = Pid::from_child(&child);
    // Leave it unreaped at first: until then neither its pid nor its group's can go to others.
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
    let mut ended = lock(&state.0);
    let _ = kill_process_group(pid, Signal::KILL);
    // Who was told that it ended relies on sockets and files being free.
    for _ in 0..1000 {
        if !group_lives(pid) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(-1));
    *ended = Some(status);
    drop(ended);
    state.1.notify_all();
    sender.send_replace(Some(status));
}

/// Whether any process of the group has not ended yet, reaped or not.
fn group_lives(group: Pid) -> bool {
    let group = group.as_raw_nonzero().to_string();
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // After the name in parentheses: the state, the parent, the group.
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let state = fields.next();
        if fields.nth(1) != Some(group.as_str()) {
            return false;
        }
        // A process whose first thread is a zombie still has its files while others end.
        let threads = fs::read_dir(entry.path().join("task")).map_or(0, Iterator::count);
        !matches!(state, Some("Z" | "X")) || threads > 1
    })
}

/// Spawns from one thread that lives as long as this process: the kernel
/// sends the death signal when the *thread* that spawned a child ends, and
/// threads of tests and runtimes come and go.
fn spawn(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name("spawner".to_owned());
        // If the thread cannot be had, sending below fails and says so.
        let _ = thread.spawn(move || {
            for (mut command, reply) in jobs {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, answer) = mpsc::channel();
    let gone = || io::Error::other("the spawner thread is gone");
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last `lines` lines of a file, or why it cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    const MOST: u64 = 64 * 1024;
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let all: Vec<_> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, ManagedProcess) {
        let dir = tempfile::tempdir().unwrap();
        let spec = ProcessSpec::new("shell", "/bin/sh", dir.path().join("log")).args(["-c", script]);
        let process = ManagedProcess::start(spec).unwrap();
        (dir, process)
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn an_end_is_noticed_and_shows_the_log() {
        let (_dir, process) = shell("echo no such luck; exit 3");
        assert_eq!(process.wait_exit(LIMIT).await.unwrap().code(), Some(3));
        let message = process.check_running().unwrap_err().to_string();
        assert!(message.contains("no such luck"), "{message}");
    }

    #[tokio::test]
    async fn the_whole_group_is_killed() {
        let (_dir, process) = shell("sleep 1000 & echo $!; wait");
        let grandchild: u32 = crate::wait::eventually("the grandchild", LIMIT, async || {
            process.log_tail(1).parse().map_err(|error| format!("{error}"))
        })
        .await
        .unwrap();
        process.kill9().await.unwrap();
        // Its parent being gone, it may stay a zombie for a while.
        let stat = fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
        assert_eq!(process.exit_status().unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed_after_the_limit() {
        let (_dir, process) = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done");
        crate::wait::eventually("the trap", LIMIT, async || {
            let log = process.log_tail(1);
            if log == "ready" { Ok(()) } else { Err(log) }
        })
        .await
        .unwrap();
        let status = process.terminate(Duration::from_millis(100)).await.unwrap();
        assert_eq!(status.signal(), Some(9));
    }

    #[tokio::test]
    async fn a_restart_gives_a_new_process_and_the_same_log() {
        let (_dir, process) = shell("echo started; exec sleep 1000");
        let first = process.pid();
        crate::wait::eventually("the first start", LIMIT, async || {
            let log = process.log_tail(9);
            if log == "started" { Ok(()) } else { Err(log) }
        })
        .await
        .unwrap();
        process.restart().await.unwrap();
        assert_ne!(process.pid(), first);
        crate::wait::eventually("the second start", LIMIT, async || {
            let log = process.log_tail(9);
            if log == "started\nstarted" { Ok(()) } else { Err(log) }
        })
        .await
        .unwrap();
        assert!(process.memory() > 0);
    }
}
