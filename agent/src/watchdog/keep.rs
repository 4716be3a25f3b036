//! The one task that knows what runs and how the lease stands, has `atoll_core::watchdog` decide, and acts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use atoll_core::watchdog::{Lease, Saved, Taken, Watchdog};
use atoll_runtime::readiness::Readiness;
use atoll_wire::watchdog::RunningMember;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ask::{AskError, Asked, running};
use super::cgroup::{self, CgroupError};
use super::file::StateFile;
use super::members::Found;
use super::metrics::{FAILED, Metrics, word};
use super::runtime::{Runtime, RuntimeError};
use super::{AGENT, RUNTIME, clocks};

/// Timers stand still while the machine sleeps, boot time does not: it is looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// Killing a container takes the runtime milliseconds. The hub gives a watchdog a second from the time to kill.
const KILL_LIMIT: Duration = Duration::from_millis(500);
/// Nothing of a member runs any more; what is left is its network.
const END_LIMIT: Duration = Duration::from_secs(2);

/// The two ways to kill a member.
#[derive(Clone, Debug)]
pub struct Killer {
    /// The usual one.
    pub runtime: Runtime,
    /// Mount point of the cgroup file system, for the other one.
    pub cgroups: PathBuf,
}

/// What came of killing a pod.
#[derive(Debug)]
struct Killed {
    uid: String,
    /// Through the cgroup: whether nothing of it runs.
    cgroup: Option<Result<(), CgroupError>>,
}

impl Killer {
    async fn kill(self, uid: String, found: Found, runtime_answers: bool) -> Killed {
        let containers = &found.containers;
        let killed = if runtime_answers {
            self.runtime.kill(containers, KILL_LIMIT).await
        } else {
            Err(RuntimeError::Silent(Duration::ZERO))
        };
        let cgroup = match killed {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(pod = found.pod.name, uid, %error, "killing a member through its cgroup");
                let (root, of) = (self.cgroups, uid.clone());
                // Only fails when it panics, or the process ends.
                tokio::task::spawn_blocking(move || cgroup::kill(&root, &of)).await.ok()
            }
        };
        if runtime_answers && let Err(error) = self.runtime.end(&found.sandboxes, END_LIMIT).await {
            tracing::debug!(pod = found.pod.name, uid, %error, "what is left of a killed member cannot be ended yet");
        }
        Killed { uid, cgroup }
    }
}

/// What the task knows.
pub struct Keeper {
    watchdog: Watchdog,
    boot_id: String,
    members: BTreeMap<String, Found>,
    /// Whether the container runtime has listed them since this process started.
    listed: bool,
    runtime_answers: bool,
    agent_answers: bool,
    file: StateFile,
    killer: Killer,
    /// Pods that are being killed, or were since the runtime was asked last.
    killing: BTreeSet<String>,
    killed: BTreeSet<String>,
    kills: JoinSet<Killed>,
    metrics: Metrics,
    readiness: Readiness,
    running: watch::Sender<Option<Vec<RunningMember>>>,
}

impl Keeper {
    /// Goes on where an earlier process of the same boot ended. `running` is what the agent is told.
    #[must_use]
    pub fn start(
        boot_id: String,
        file: StateFile,
        killer: Killer,
        metrics: Metrics,
        readiness: Readiness,
        running: watch::Sender<Option<Vec<RunningMember>>>,
    ) -> Self {
        let saved = file.read().filter(|saved| saved.boot_id == boot_id);
        let watchdog = Watchdog::start(saved.as_ref(), &boot_id, clocks());
        tracing::info!(lease = ?watchdog.lease(), members = saved.as_ref().map_or(0, |saved| saved.pods.len()), "started");
        // Until the runtime says what runs: it may never do so, and these can be killed without it.
        let pods = saved.into_iter().flat_map(|saved| saved.pods);
        let members =
            pods.map(|(uid, pod)| (uid, Found { pod, sandboxes: Vec::new(), containers: Vec::new() })).collect();
        Self {
            watchdog,
            boot_id,
            members,
            listed: false,
            runtime_answers: true,
            agent_answers: true,
            file,
            killer,
            killing: BTreeSet::new(),
            killed: BTreeSet::new(),
            kills: JoinSet::new(),
            metrics,
            readiness,
            running,
        }
    }

    /// Runs until `stop`.
    pub async fn run(
        mut self,
        mut lists: mpsc::Receiver<Result<BTreeMap<String, Found>, RuntimeError>>,
        mut answers: mpsc::Receiver<Result<Asked, AskError>>,
        stop: CancellationToken,
    ) {
        loop {
            let wait = self.act();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                Some(list) = lists.recv() => self.listed(list),
                Some(answer) = answers.recv() => self.answered(answer),
                Some(killed) = self.kills.join_next() => self.killed(killed.ok()),
            }
        }
    }

    /// Does what is to be done now; gives how long until something may have to be done again.
    fn act(&mut self) -> Duration {
        let now = clocks();
        let times = self.members.iter().map(|(uid, found)| (uid.clone(), found.pod.times)).collect();
        let decision = self.watchdog.decide(now, &times);
        for (uid, found) in &mut self.members {
            let cause = decision.kill.get(uid).copied();
            if let Some(cause) = cause.filter(|_| found.pod.condemned.is_none()) {
                self.metrics.kills.with_label_values(&[cause.word()]).inc();
                let age = self.watchdog.lease().age(now);
                tracing::warn!(pod = found.pod.name, uid, cause = cause.word(), lease_age = ?age, "killing a member");
            }
            found.pod.condemned = cause;
        }
        // Written before anybody dies, so that nothing of them starts meanwhile.
        self.save();
        // Before the first list they have no containers to name, and only their cgroups are known.
        let usual = self.runtime_answers && self.listed;
        for uid in decision.kill.into_keys() {
            if let Some(found) = self.members.get(&uid)
                && self.killing.insert(uid.clone())
            {
                self.kills.spawn(self.killer.clone().kill(uid, found.clone(), usual));
            }
        }
        self.metrics.lease_age.set(self.watchdog.lease().age(now).map_or(f64::INFINITY, |age| age.as_secs_f64()));
        self.metrics.members.set(i64::try_from(self.members.len()).unwrap_or(i64::MAX));
        decision.next.map_or(LOOK, |next| next.saturating_sub(now.boot).min(LOOK))
    }

    fn save(&mut self) {
        let pods = self.members.iter().map(|(uid, found)| (uid.clone(), found.pod.clone())).collect();
        self.file.write(&Saved { boot_id: self.boot_id.clone(), lease: self.watchdog.lease(), pods });
    }

    fn listed(&mut self, list: Result<BTreeMap<String, Found>, RuntimeError>) {
        let answers = list.is_ok();
        // Whoever was killed and runs nevertheless is killed again, as often as that is looked at.
        for uid in std::mem::take(&mut self.killed) {
            self.killing.remove(&uid);
        }
        match list {
            Ok(mut members) => {
                for (uid, found) in &mut members {
                    found.pod.condemned = self.members.get(uid).and_then(|known| known.pod.condemned);
                }
                self.members = members;
                self.listed = true;
                self.tell();
            }
            Err(error) => {
                self.metrics.runtime_errors.inc();
                if self.runtime_answers {
                    tracing::error!(%error, "what runs on this node is not known; members are killed through their cgroups");
                }
            }
        }
        if answers && !self.runtime_answers {
            tracing::info!("the container runtime answers again");
        }
        self.runtime_answers = answers;
        self.readiness.set(RUNTIME, answers);
    }

    fn answered(&mut self, answer: Result<Asked, AskError>) {
        let answers = answer.is_ok();
        match answer {
            Ok(Asked { at, answer }) => {
                let had = matches!(self.watchdog.lease(), Lease::Granted { .. });
                let taken = self.watchdog.answered(at, clocks(), &answer);
                if taken == Taken::Renewed && !had {
                    tracing::info!(lease = ?self.watchdog.lease(), "this node has a lease");
                }
                self.metrics.asks.with_label_values(&[word(taken)]).inc();
            }
            Err(error) => {
                self.metrics.asks.with_label_values(&[FAILED]).inc();
                if self.agent_answers {
                    tracing::error!(%error, lease = ?self.watchdog.lease(), "no word from the agent; the lease runs out");
                }
            }
        }
        if answers && !self.agent_answers {
            tracing::info!("the agent answers again");
        }
        self.agent_answers = answers;
        self.readiness.set(AGENT, answers);
    }

    fn killed(&mut self, killed: Option<Killed>) {
        let Some(Killed { uid, cgroup }) = killed else {
            // Which one it was is not known any more; those that still run are killed again.
            self.killing.clear();
            return;
        };
        self.killed.insert(uid.clone());
        match cgroup {
            Some(Ok(())) => {
                self.metrics.cgroup_kills.inc();
                // The runtime cannot say it.
                if !self.runtime_answers && self.members.remove(&uid).is_some() {
                    self.tell();
                }
            }
            Some(Err(error)) => tracing::error!(uid, %error, "a member could not be killed through its cgroup"),
            None => {}
        }
    }

    /// Tells the agent what runs, unless nobody has said it since this process started.
    fn tell(&self) {
        if !self.listed {
            return;
        }
        let running: Vec<_> = self.members.iter().map(|(uid, found)| running(uid, &found.pod)).collect();
        self.running.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&running);
            *told = Some(running);
            changed
        });
    }
}
