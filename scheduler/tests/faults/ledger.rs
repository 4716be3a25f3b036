//! What happened to pods, in the order in which the API server committed it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::load::{LABEL_GPUS, LABEL_RANK_IN_WORK, LABEL_WORK, NS, Work};

const GPUS_PER_NODE: u32 = 8;

/// Follows all pods with one watch. Clones share what they know.
#[derive(Clone)]
pub struct Ledger {
    state: Arc<Mutex<State>>,
    /// Counts changes, to be waited for.
    changed: watch::Receiver<u64>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Seen>,
    used: BTreeMap<String, u32>,
    work: BTreeMap<String, Progress>,
    bound: usize,
    last_binding: Option<Instant>,
    restarted: Option<Instant>,
    /// Gangs that the last restart found half-bound and that are neither whole nor undone yet.
    half: BTreeSet<String>,
    /// Gangs that the last restart found half-bound: more of their members than must be may follow.
    caught: BTreeSet<String>,
    /// How long after the last restart the last of them was.
    mended_after: Option<Duration>,
    /// Members that somebody else than the test deleted.
    lost: Vec<(String, u32)>,
    wrong: Vec<String>,
    /// The last things that happened, for people.
    history: VecDeque<String>,
    listed: bool,
}

struct Seen {
    work: String,
    gpus: u32,
    node: Option<String>,
}

struct Progress {
    min: u32,
    bound: u32,
    /// The test deletes it: what is left of it says nothing.
    leaving: bool,
    half_since: Option<Instant>,
}

impl Ledger {
    /// Follows the pods from now on.
    pub fn follow(client: Client) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (tell, changed) = watch::channel(0);
        let ledger = Self { state: Arc::clone(&state), changed };
        tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(Api::<Pod>::namespaced(client, NS), Config::default()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => state.lock().unwrap().apply(event),
                    // What happens until the next list would be unseen; and in the end the API server is gone.
                    Err(error) => {
                        state.lock().unwrap().wrong.push(format!("the test's watch failed: {error}"));
                        break;
                    }
                }
                tell.send_modify(|changes| *changes += 1);
            }
        });
        ledger
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Says what is about to be created.
    pub fn expect(&self, work: &Work) {
        let progress = Progress { min: work.min, bound: 0, leaving: false, half_since: None };
        self.state().work.insert(work.name.clone(), progress);
    }

    /// Says what is about to be deleted by the test.
    pub fn leaves(&self, work: &str) {
        let mut state = self.state();
        if let Some(progress) = state.work.get_mut(work) {
            progress.leaving = true;
        }
        state.settle(work);
    }

    /// Bindings seen so far.
    pub fn bound(&self) -> usize {
        self.state().bound
    }

    /// Whether enough of its members are bound.
    pub fn is_whole(&self, work: &str) -> bool {
        self.state().work.get(work).is_some_and(|progress| progress.bound >= progress.min)
    }

    /// How many of its members are bound.
    pub fn bound_of(&self, work: &str) -> u32 {
        self.state().work.get(work).map_or(0, |progress| progress.bound)
    }

    /// Its members that are there and not bound.
    pub fn unbound(&self, work: &str) -> Vec<String> {
        let state = self.state();
        let unbound = state.pods.iter().filter(|(_, seen)| seen.work == work && seen.node.is_none());
        unbound.map(|(name, _)| name.clone()).collect()
    }

    /// Members that the scheduler deleted since this was asked last.
    pub fn take_lost(&self) -> Vec<(String, u32)> {
        std::mem::take(&mut self.state().lost)
    }

    /// Says of lost members that they are lost still.
    pub fn put_back_lost(&self, lost: Vec<(String, u32)>) {
        self.state().lost.extend(lost);
    }

    /// Gangs that are half-bound now.
    pub fn half_bound(&self) -> BTreeSet<String> {
        let state = self.state();
        state.work.iter().filter(|(_, progress)| progress.half_since.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// The scheduler starts now.
    pub fn restarted(&self) {
        let half = self.half_bound();
        let mut state = self.state();
        state.note(&format!("started again, half-bound: {half:?}"));
        state.caught.clone_from(&half);
        state.half = half;
        state.mended_after = None;
        state.restarted = Some(Instant::now());
    }

    /// What must never happen and did.
    pub fn violations(&self, limit: Duration) -> Vec<String> {
        let state = self.state();
        let up = state.restarted.unwrap_or_else(Instant::now);
        let late = state.work.iter().filter_map(|(name, progress)| {
            let since = progress.half_since?.max(up);
            (since.elapsed() > limit).then(|| {
                format!(
                    "{name} is half-bound ({} of at least {}) for {:?}",
                    progress.bound,
                    progress.min,
                    since.elapsed()
                )
            })
        });
        state.wrong.iter().cloned().chain(late).collect()
    }

    /// The scheduler was killed just now.
    pub fn killed(&self) {
        self.state().note("killed");
    }

    /// What happened last.
    pub fn history(&self) -> String {
        self.state().history.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    /// Waits until so many bindings were seen, or for as long as this.
    pub async fn wait_bound(&self, count: usize, limit: Duration) {
        self.wait(limit, |state| state.bound >= count).await;
    }

    /// Waits until nothing is half-bound of what the last restart found so; gives how long after it that was.
    pub async fn mended(&self, limit: Duration) -> Duration {
        // A little longer: what is late is then seen as late.
        self.wait(limit + Duration::from_millis(100), |state| state.half.is_empty()).await;
        let state = self.state();
        if state.half.is_empty() { state.mended_after.unwrap_or_default() } else { limit }
    }

    /// Waits until no binding has been committed for a while: none of a dead process is under way then.
    pub async fn quiet(&self) {
        const QUIET: Duration = Duration::from_millis(30);
        let since = Instant::now();
        loop {
            let last = self.state().last_binding.map_or(since, |last| last.max(since));
            if last.elapsed() >= QUIET {
                return;
            }
            tokio::time::sleep(QUIET.saturating_sub(last.elapsed())).await;
        }
    }

    async fn wait(&self, limit: Duration, mut until: impl FnMut(&State) -> bool) {
        let mut changed = self.changed.clone();
        let wait = changed.wait_for(|_| until(&self.state()));
        // Whether it came in time is for the caller to see.
        let _ = timeout(limit, wait).await;
    }
}

impl State {
    fn note(&mut self, what: &str) {
        const KEPT: usize = 300;
        // What came after the first mistake explains nothing.
        if !self.wrong.is_empty() {
            return;
        }
        if self.history.len() == KEPT {
            self.history.pop_front();
        }
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.history.push_back(format!("{:.3} {what}", at.as_secs_f64() % 1000.0));
    }

    fn apply(&mut self, event: Event<Pod>) {
        match event {
            // Between two lists something may have gone unseen.
            Event::Init if self.listed => self.wrong.push("the test's watch was interrupted".to_owned()),
            Event::Init => {}
            Event::InitDone => self.listed = true,
            Event::InitApply(pod) | Event::Apply(pod) => self.seen(&pod),
            Event::Delete(pod) => self.gone(&pod),
        }
    }

    fn seen(&mut self, pod: &Pod) {
        let Some((work, gpus)) = work_of(pod) else { return };
        let entry = self.pods.entry(pod.name_any()).or_insert(Seen { work: work.clone(), gpus, node: None });
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { return };
        if entry.node.is_some() {
            return;
        }
        entry.node = Some(node.clone());
        self.note(&format!("{} bound to {node}", pod.name_any()));
        self.bound += 1;
        self.last_binding = Some(Instant::now());
        let used = self.used.entry(node.clone()).or_default();
        *used += gpus;
        if *used > GPUS_PER_NODE {
            self.wrong.push(format!("{node} is over capacity: {used} GPUs with {}", pod.name_any()));
        }
        if !self.half.is_empty() && !self.caught.contains(&work) {
            self.wrong.push(format!("{} was bound while {:?} were half-bound", pod.name_any(), self.half));
        }
        if let Some(progress) = self.work.get_mut(&work) {
            progress.bound += 1;
        }
        self.settle(&work);
    }

    fn gone(&mut self, pod: &Pod) {
        let Some(seen) = self.pods.remove(&pod.name_any()) else { return };
        self.note(&format!("{} gone from {:?}", pod.name_any(), seen.node));
        if let Some(node) = &seen.node
            && let Some(used) = self.used.get_mut(node)
        {
            *used -= seen.gpus;
        }
        if let Some(progress) = self.work.get_mut(&seen.work) {
            progress.bound -= u32::from(seen.node.is_some());
            if !progress.leaving {
                let rank = pod.labels().get(LABEL_RANK_IN_WORK).and_then(|rank| rank.parse().ok());
                self.lost.extend(rank.map(|rank| (seen.work.clone(), rank)));
            }
        }
        self.settle(&seen.work);
    }

    /// Says anew whether it is half-bound.
    fn settle(&mut self, work: &str) {
        let Some(progress) = self.work.get_mut(work) else { return };
        let half = !progress.leaving && progress.bound > 0 && progress.bound < progress.min;
        if half {
            progress.half_since.get_or_insert_with(Instant::now);
        } else {
            progress.half_since = None;
            if self.half.remove(work) {
                self.mended_after = self.restarted.map(|restarted| restarted.elapsed());
            }
        }
        if progress.leaving && !self.pods.values().any(|seen| seen.work == work) {
            self.work.remove(work);
        }
    }
}

fn work_of(pod: &Pod) -> Option<(String, u32)> {
    let labels = pod.labels();
    Some((labels.get(LABEL_WORK)?.clone(), labels.get(LABEL_GPUS)?.parse().ok()?))
}
