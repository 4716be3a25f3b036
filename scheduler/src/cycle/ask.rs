//! One question: does this fit, and if not, what could help.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::{Assignment, GangRefusal, GangRequest, Helps, Level, MemberRequest, Shape, is_coupled};

use super::{Attempt, LOOKS, PASSES, Scheduler};
use crate::objects::ObjectKey;
use crate::queue::{Alike, LineId, LineKey, Order, ShapeRef, Standing, Verdict, Work};

/// After so many refusals in a row although it looked as if it could fit, a line pauses before it is tried again.
const PATIENT_REFUSALS: u32 = 2;
const PAUSE_BASE: Duration = Duration::from_millis(20);
const PAUSE_CAP: Duration = Duration::from_secs(5);
/// How long after a refusal others are asked to make room again.
const PREEMPT_BASE: Duration = Duration::from_secs(1);
const PREEMPT_CAP: Duration = Duration::from_secs(10);
/// How often it is tried whether something fits without waiting for those that are being evicted for it.
pub(super) const MEANWHILE: Duration = Duration::from_secs(1);

/// Who asks, and for what.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) work: Work,
    pub(super) order: Order,
    pub(super) request: GangRequest,
    /// Pods of the request's members.
    pub(super) pods: Vec<ObjectKey>,
    pub(super) priority: i32,
    /// Others may have to make room for it; its pods are there.
    pub(super) preempts: bool,
    /// Nothing else asks for the same: a part of a gang.
    pub(super) alone: bool,
}

/// What becomes of it.
#[derive(Debug)]
pub(super) enum Answer {
    /// A node for each.
    Fits(Assignment),
    /// It waits with its line.
    Refused(Arc<str>),
    /// Others make room for it.
    Preempts,
    /// An older one that asks for the same comes first.
    Behind,
}

impl Scheduler {
    /// Gives back what is held for it and decides anew, on the same nodes if they still do. Unless it fits it waits: in
    /// its line, or for those that make room for it.
    pub(super) fn place(&mut self, mut ask: Ask, now: Duration, attempt: &mut Attempt) -> Answer {
        let held = self.cache.release(&ask.work, |_| true);
        for (member, pod) in ask.request.members.iter_mut().zip(&ask.pods) {
            if let Some(claim) = held.get(pod) {
                member.node = Some(claim.node.to_string());
            }
        }
        if let Some(message) = self.awaited(&ask.work) {
            attempt.decided = true;
            if let Ok(assignment) = self.decide(&ask, attempt) {
                self.end_preemption(&ask.work);
                self.freed();
                return Answer::Fits(assignment);
            }
            for (pod, claim) in &held {
                self.cache.hold(&ask.work, pod, &claim.node, &claim.shape);
            }
            self.queue.wait(ask.work, ask.order, Some(message), Some(now + MEANWHILE));
            return Answer::Preempts;
        }
        self.end_preemption(&ask.work);
        let answer = self.consult(ask, now, attempt);
        if !held.is_empty() {
            // Held room moved or became free.
            self.freed();
        }
        answer
    }

    /// Decides, or gives the verdict that stands for everything that asks for the same. Refused or behind, it waits in
    /// its line.
    fn consult(&mut self, ask: Ask, now: Duration, attempt: &mut Attempt) -> Answer {
        let key = self.line_key(&ask);
        let mut standing = self.queue.standing(&key, &ask.work, ask.order, now);
        if let Standing::Stale(id) = standing {
            self.look_at(id, now);
            standing = self.queue.standing(&key, &ask.work, ask.order, now);
        }
        match standing {
            Standing::Behind => {
                self.queue.join(&key, &ask.work, ask.order);
                return Answer::Behind;
            }
            Standing::Refused(message) => {
                self.queue.join(&key, &ask.work, ask.order);
                return Answer::Refused(message);
            }
            Standing::Free | Standing::Stale(_) => {}
        }
        attempt.decided = true;
        let refusal = match self.decide(&ask, attempt) {
            Ok(assignment) => return Answer::Fits(assignment),
            Err(refusal) => refusal,
        };
        let message: Arc<str> = Arc::from(refusal.to_string());
        if ask.preempts && self.preempt(&ask, &message, now, attempt) {
            return Answer::Preempts;
        }
        self.refuse(key, ask, Arc::clone(&message), refusal.helped_by, now);
        Answer::Refused(message)
    }

    /// It waits with its line until something could help.
    fn refuse(&mut self, key: LineKey, ask: Ask, message: Arc<str>, helped_by: Helps, now: Duration) {
        let refusals = self.queue.refusals(&key);
        let mut verdict = Verdict::new(message, helped_by);
        if let Some(over) = (refusals + 1).checked_sub(PATIENT_REFUSALS) {
            verdict.again = Some(now + PAUSE_BASE.saturating_mul(1 << over.min(16)).min(PAUSE_CAP));
        }
        if ask.preempts {
            verdict.preempt_at = Some(now + PREEMPT_BASE.saturating_mul(1 << refusals.min(16)).min(PREEMPT_CAP));
        }
        self.queue.refuse(key, &ask.work, ask.order, ask.request, verdict);
        if helped_by.intersects(Helps::ROOM) {
            self.note_refused(&ask.work, now);
        }
        if let Some((line, _)) = self.queue.line_of(&ask.work) {
            self.spread(line, now);
        }
    }

    /// Whether it fits; room of nominees of lower priority is taken if there is no other.
    pub(super) fn decide(&mut self, ask: &Ask, attempt: &mut Attempt) -> Result<Assignment, Box<GangRefusal>> {
        let decided = self.decider.decide(self.cache.nodes_mut(), &ask.request);
        let Err(refusal) = decided else { return decided };
        let lower = self.nominees.iter().take_while(|(priority, _)| *priority < ask.priority);
        let lower: Vec<Work> = lower.map(|(_, work)| work).filter(|work| **work != ask.work).cloned().collect();
        if lower.is_empty() {
            return Err(refusal);
        }
        let lifted: Vec<_> = lower.iter().flat_map(|work| self.cache.lift(work)).collect();
        let decided = self.decider.decide(self.cache.nodes_mut(), &ask.request);
        self.cache.restore(lifted);
        if let Ok(assignment) = &decided {
            let taken: BTreeSet<&str> = assignment.nodes.iter().flatten().map(|node| &**node).collect();
            // Another scheduler's nominee is for that one to look after.
            let is_ours = |work: &Work| match work {
                Work::Pod(pod) => self.cache.pod(pod).is_none_or(|pod| pod.ours),
                Work::Gang(_) => true,
            };
            let outbid =
                |work: &Work| is_ours(work) && self.cache.holds(work).any(|(_, claim)| taken.contains(&*claim.node));
            let outbid: Vec<Work> = lower.into_iter().filter(outbid).collect();
            for work in outbid {
                self.withdraw(&work, attempt);
                self.queue_work(&work);
            }
        }
        decided
    }

    /// Looks at some of the lines that something could have helped; where it did, the first is tried.
    pub(super) fn look_at_lines(&mut self, now: Duration) {
        let mut passes = PASSES;
        for _ in 0..LOOKS {
            let Some(id) = self.queue.next_stale(&mut passes, now) else { return };
            self.look_at(id, now);
        }
    }

    fn look_at(&mut self, id: LineId, now: Duration) {
        // Reservations come and go; those of the request are as old as the verdict.
        let closed = match self.queue.line(id) {
            Some(line) if !line.request.closed.is_empty() => self.closed_to_line(line, now),
            _ => Arc::default(),
        };
        let Some(line) = self.queue.line_mut(id) else { return };
        line.request.closed = closed;
        if self.decider.might_fit(self.cache.nodes(), &line.request) {
            self.queue.open(id);
            return;
        }
        let preempts = match line.key() {
            LineKey::Alike(alike) => alike.preempts && self.cache.has_lower(alike.priority),
            LineKey::Alone(_) => true,
        };
        let preempt_at = line.verdict.as_ref().and_then(|verdict| verdict.preempt_at);
        self.queue.refresh(id, preempt_at.filter(|_| preempts).map(|at| at.max(now)));
        self.words_are_old(id, now);
    }

    pub(super) fn line_key(&self, ask: &Ask) -> LineKey {
        if ask.alone {
            return LineKey::Alone(ask.work.clone());
        }
        let mut shapes: Vec<(ShapeRef, usize)> = Vec::with_capacity(1);
        for member in &ask.request.members {
            match shapes.iter_mut().find(|(shape, _)| Arc::ptr_eq(&shape.0, &member.shape)) {
                Some((_, count)) => *count += 1,
                None => shapes.push((ShapeRef(Arc::clone(&member.shape)), 1)),
            }
        }
        let nodes = self.cache.nodes();
        let mut coupled = ask.request.members.iter().filter(|m| is_coupled(nodes, &m.shape, &m.identity));
        let identity = match (coupled.next(), ask.request.members.len()) {
            (None, _) => None,
            (Some(member), 1) => Some((member.identity.namespace.clone(), member.identity.labels.clone())),
            (Some(_), _) => return LineKey::Alone(ask.work.clone()),
        };
        LineKey::Alike(Arc::new(Alike {
            priority: ask.priority,
            preempts: ask.preempts,
            shapes,
            minimum: ask.request.minimum,
            topology: ask.request.topology.clone(),
            identity,
            closed: !ask.request.closed.is_empty(),
        }))
    }

    /// The request for the rest of a gang of which some are bound: it stays in the required domains of those.
    pub(super) fn beside(&self, node: &str, members: &mut [MemberRequest], topology: &mut Vec<Level>) {
        let Some(state) = self.cache.nodes().get(node) else { return };
        let required = topology.iter().filter(|level| level.required);
        let domains = required.filter_map(|level| Some((level.key.clone(), state.labels.get(&level.key)?.clone())));
        let domains: Vec<(String, String)> = domains.collect();
        if domains.is_empty() {
            return;
        }
        topology.retain(|level| !level.required);
        let mut known: Vec<(Arc<Shape>, Arc<Shape>)> = Vec::new();
        for member in members {
            let pinned = known.iter().find(|(shape, _)| Arc::ptr_eq(shape, &member.shape)).map(|(_, pinned)| pinned);
            if let Some(pinned) = pinned {
                member.shape = Arc::clone(pinned);
            } else {
                let pinned = self.cache.intern(pin(&member.shape, &domains));
                let shape = std::mem::replace(&mut member.shape, Arc::clone(&pinned));
                known.push((shape, pinned));
            }
        }
    }
}

fn pin(shape: &Shape, domains: &[(String, String)]) -> Shape {
    let mut pinned = shape.clone();
    for (key, value) in domains {
        let other = pinned.node_selector.insert(key.clone(), value.clone());
        if other.is_some_and(|other| other != *value) {
            // It asks for another domain than the one that the others are in.
            pinned.affinity = Some(Vec::new());
        }
    }
    pinned
}
