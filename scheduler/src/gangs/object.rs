//! A gang that a Gang object rules: what is known of its members, and the status that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::conditions::member_reason;
use atoll_api::{GangNode, GangPhase, GangStatus};
use atoll_core::scheduling::{Hold, Mode, Phase, RefusedFor, Shape};

use crate::cache::Cache;
use crate::cycle::{GangKey, GangKind};
use crate::objects::{GangFacts, GangName, MemberFacts, ObjectKey, PodFacts, api_time, since_epoch};
use crate::queue::Work;

/// Where a member stands, by its pod.
pub(crate) enum MemberState {
    /// No pod yet, or none that can be bound now: room is kept for it.
    Absent,
    /// Its pod waits to be bound; what it asks with its volumes.
    Waiting(Arc<PodFacts>, Arc<Shape>),
    /// On its way to the API server.
    Binding,
    /// Bound, whatever became of the pod since.
    Bound,
}

/// A gang and how far it is.
#[derive(Debug)]
pub(crate) struct GangEntry {
    pub(crate) facts: GangFacts,
    pub(crate) hold: Hold,
    /// Why it is refused, for people.
    pub(crate) message: String,
    /// Nodes of members that were seen bound. A member that is here and has no pod was lost, it is not new.
    bound: BTreeMap<String, String>,
    /// Pods that bindings are under way for.
    pub(crate) binding: BTreeSet<String>,
    /// Some of the members that were decided together are bound, others not.
    pub(crate) half_bound: bool,
    /// Since when the rest of a half-bound gang does not fit.
    pub(crate) stuck_since: Option<Duration>,
    /// The highest priority of its pods.
    pub(crate) priority: i32,
    written: Option<GangStatus>,
    written_at: Duration,
}

/// What to do about a gang's status.
pub(crate) enum StatusChange {
    /// It says so already.
    None,
    /// Write it; `news` when phase or reason changed.
    Write { status: GangStatus, news: bool },
    /// Only the words changed, too soon after the last time: not before this.
    Later(Duration),
}

/// How often a status may be written that says the same in other words.
const REWORD_AFTER: Duration = Duration::from_secs(1);

impl GangEntry {
    /// A gang that this process sees for the first time. What an earlier process held for it is held again in
    /// `cache`; what it bound is known from the status.
    pub(crate) fn restore(facts: GangFacts, cache: &mut Cache, now: Duration) -> Self {
        let generation = facts.spec.generation;
        let mode = facts.spec.mode;
        let mut entry = Self {
            hold: Hold::new(generation, mode),
            message: String::new(),
            bound: BTreeMap::new(),
            binding: BTreeSet::new(),
            half_bound: false,
            stuck_since: None,
            priority: 0,
            written: facts.status.clone(),
            written_at: Duration::ZERO,
            facts,
        };
        let Some(status) = entry.written.clone() else { return entry };
        let until = status.hold_until.as_ref().map(|t| since_epoch(&t.0));
        let reserved = status.phase == Some(GangPhase::Reserved);
        let phase = match status.phase {
            None | Some(GangPhase::Pending) => Phase::Pending,
            Some(GangPhase::Reserved) => Phase::Reserved { until },
            Some(GangPhase::Bound) => Phase::Bound,
            Some(GangPhase::Refused) => Phase::Refused(refused_for(status.reason.as_deref())),
        };
        let answered = status.observed_generation.unwrap_or(generation);
        entry.hold = Hold::restored(answered, mode, phase);
        entry.hold.observe(generation, mode);
        entry.message = status.message.clone().unwrap_or_default();
        let keep = reserved && (mode == Mode::Run || until.is_some_and(|until| until > now));
        for GangNode { pod, node } in status.nodes {
            if !reserved {
                entry.bound.insert(pod, node);
            } else if keep && let Some(member) = entry.members().iter().find(|m| m.pod == pod).cloned() {
                let key = entry.pod_key(&pod);
                if cache.pod(&key).is_some_and(|pod| pod.node.is_some()) {
                    continue;
                }
                let known = cache.shape(&key).and_then(Result::ok).cloned();
                cache.hold(&entry.work(), &key, &node, &known.unwrap_or(member.shape));
            }
        }
        entry
    }

    /// The members; none where the spec cannot be understood.
    pub(crate) fn members(&self) -> &[MemberFacts] {
        self.facts.spec.members.as_deref().unwrap_or_default()
    }

    pub(crate) fn pod_key(&self, pod: &str) -> ObjectKey {
        ObjectKey { namespace: Arc::clone(&self.facts.key.namespace), name: Arc::from(pod) }
    }

    pub(crate) fn gang_key(&self) -> GangKey {
        GangKey { kind: GangKind::Object, key: self.facts.key.clone() }
    }

    pub(crate) fn work(&self) -> Work {
        Work::Gang(self.gang_key())
    }

    /// Where each member stands; notes what is seen bound.
    pub(crate) fn look(&mut self, cache: &Cache) -> Vec<MemberState> {
        let recorded = self.bound.len();
        let mut states = Vec::with_capacity(self.members().len());
        self.priority = i32::MIN;
        for index in 0..self.members().len() {
            let name = self.members()[index].pod.clone();
            let key = self.pod_key(&name);
            let is_mine = |gang: &GangName| matches!(gang, GangName::Object(name) if **name == *self.facts.key.name);
            let pod = cache.pod(&key).filter(|pod| pod.ours && pod.gang.as_ref().is_some_and(is_mine));
            if let Some(pod) = pod {
                self.priority = self.priority.max(pod.priority);
            }
            let state = match pod {
                Some(pod) if let Some(node) = &pod.node => {
                    self.bound.insert(name, node.to_string());
                    MemberState::Bound
                }
                Some(pod) if pod.finished => MemberState::Bound,
                Some(_) if self.binding.contains(&name) => MemberState::Binding,
                // The API server took the binding and the watch has not shown it yet.
                Some(_) if cache.assumed(&key).is_some() => MemberState::Bound,
                Some(pod)
                    if pod.waits()
                        && let Some(Ok(shape)) = cache.shape(&key) =>
                {
                    MemberState::Waiting(Arc::clone(pod), Arc::clone(shape))
                }
                None if self.bound.contains_key(&name) => MemberState::Bound,
                Some(_) | None => MemberState::Absent,
            };
            states.push(state);
        }
        if self.priority == i32::MIN {
            self.priority = 0;
        }
        // Seen bound although no status says so: an earlier process was stopped in between.
        self.half_bound |= self.hold.mode() == Mode::Run && self.bound.len() > recorded;
        states
    }

    /// A node that a member is bound to, if there is one.
    pub(crate) fn a_node(&self) -> Option<&str> {
        self.bound.values().next().map(String::as_str)
    }

    /// Other words for what keeps it from fitting.
    pub(crate) fn reword(&mut self, why: &str) {
        if !self.half_bound {
            why.clone_into(&mut self.message);
        }
    }

    pub(crate) fn note_bound(&mut self, pod: &str, node: &str) {
        self.bound.insert(pod.to_owned(), node.to_owned());
    }

    /// Takes note of a new spec. Members that left are forgotten.
    pub(crate) fn update(&mut self, facts: GangFacts) -> bool {
        let changed = self.hold.observe(facts.spec.generation, facts.spec.mode);
        self.facts = facts;
        if changed {
            self.stuck_since = None;
            let members: BTreeSet<&str> =
                self.facts.spec.members.as_deref().unwrap_or_default().iter().map(|m| m.pod.as_str()).collect();
            self.bound.retain(|pod, _| members.contains(pod.as_str()));
        }
        changed
    }

    /// The status that its state asks for, against the one that was written last.
    pub(crate) fn status(&mut self, cache: &Cache, now: Duration) -> StatusChange {
        let Some(status) = self.wanted(cache) else { return StatusChange::None };
        let Some(written) = &self.written else { return self.write(status, now, true) };
        if *written == status {
            return StatusChange::None;
        }
        let reworded = GangStatus { message: status.message.clone(), ..written.clone() } == status;
        let next = self.written_at + REWORD_AFTER;
        if reworded && now < next {
            return StatusChange::Later(next);
        }
        let news = written.phase != status.phase || written.reason != status.reason;
        self.write(status, now, news)
    }

    fn write(&mut self, status: GangStatus, now: Duration, news: bool) -> StatusChange {
        self.written = Some(status.clone());
        self.written_at = now;
        StatusChange::Write { status, news }
    }

    /// `None` while there is nothing to say: not decided, or decided to run and waiting for pods.
    fn wanted(&self, cache: &Cache) -> Option<GangStatus> {
        let (phase, reason, hold_until) = match self.hold.phase() {
            Phase::Pending => return None,
            Phase::Reserved { until: None } => {
                let refused = self.written.as_ref().and_then(|s| s.phase) == Some(GangPhase::Refused);
                if !refused {
                    return None;
                }
                (GangPhase::Reserved, None, None)
            }
            Phase::Reserved { until } => (GangPhase::Reserved, None, until.map(api_time)),
            Phase::Bound => (GangPhase::Bound, None, None),
            Phase::Refused(why) => (GangPhase::Refused, Some(reason(why).to_owned()), None),
        };
        let message = reason.is_some().then(|| self.message.clone());
        let work = self.work();
        let nodes = self.members().iter().filter_map(|member| {
            let held = || cache.held(&work, &self.pod_key(&member.pod)).map(|claim| claim.node.to_string());
            let node = self.bound.get(&member.pod).cloned().or_else(held)?;
            Some(GangNode { pod: member.pod.clone(), node })
        });
        Some(GangStatus {
            observed_generation: Some(self.hold.generation()),
            phase: Some(phase),
            reason,
            message,
            hold_until,
            nodes: nodes.collect(),
        })
    }
}

fn reason(why: RefusedFor) -> &'static str {
    match why {
        RefusedFor::InsufficientCapacity => member_reason::INSUFFICIENT_CAPACITY,
        RefusedFor::ReservationExpired => member_reason::RESERVATION_EXPIRED,
        RefusedFor::NotSupported => member_reason::POD_REFUSED,
    }
}

fn refused_for(reason: Option<&str>) -> RefusedFor {
    match reason {
        Some(member_reason::RESERVATION_EXPIRED) => RefusedFor::ReservationExpired,
        Some(member_reason::POD_REFUSED) => RefusedFor::NotSupported,
        _ => RefusedFor::InsufficientCapacity,
    }
}
