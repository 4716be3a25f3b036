//! One turn of a gang that a Gang object rules: decided, held, and bound when its pods are there; or refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::GangPhase;
use atoll_core::scheduling::{GangRequest, Identity, MemberRequest, Mode, RefusedFor, Shape};

use super::ask::{Answer, Ask};
use super::{Action, Attempt, Binding, Object, ObjectKind, Outcome, Scheduler};
use crate::gangs::{GangEntry, MemberAt, MemberState, StatusChange};
use crate::objects::{MemberFacts, ObjectKey, PodFacts};
use crate::queue::Work;

/// What became of holding room for all.
enum Held {
    All,
    Refused(Arc<str>),
    /// It waits for its turn, or for others to make room.
    Waits(Outcome),
}

impl Scheduler {
    pub(super) fn try_object(&mut self, entry: &mut GangEntry, now: Duration, attempt: &mut Attempt) -> Outcome {
        let work = entry.work();
        self.taken_over.remove(&(entry.facts.created, entry.facts.key.clone()));
        let states = entry.look(&self.cache);
        if let Some(why) = not_supported(entry, &states) {
            self.give_back(&work, attempt);
            entry.message = why;
            entry.hold.refuse(RefusedFor::NotSupported);
            return Outcome::Refused;
        }
        let members = entry.members().to_vec();
        let open: Vec<Open<'_>> =
            members.iter().zip(&states).filter_map(|(m, s)| Open::of(entry.pod_key(&m.pod), m, s)).collect();
        self.drop_other_holds(&work, &members, &open);
        if open.is_empty() {
            if states.iter().any(|state| matches!(state, MemberState::Binding)) {
                return Outcome::Nothing;
            }
            self.withdraw(&work, attempt);
            entry.half_bound = false;
            entry.stuck_since = None;
            entry.hold.all_bound();
            return Outcome::Bound;
        }
        if !entry.hold.wants_decision() {
            self.give_back(&work, attempt);
            return Outcome::Nothing;
        }
        match self.hold_all(entry, &open, now, attempt) {
            Held::All => {}
            Held::Waits(outcome) => return outcome,
            Held::Refused(why) => return self.not_held(entry, members.len() - open.len(), &why, now),
        }
        entry.hold.fits(now, self.settings.hold);
        entry.stuck_since = None;
        if let Some(at) = entry.hold.expires_at() {
            self.expiries.insert((at, entry.facts.key.clone()));
        }
        let pods: Option<Vec<Arc<PodFacts>>> = open.iter().map(|open| open.pod.cloned()).collect();
        let Some(pods) = pods.filter(|_| entry.hold.mode() == Mode::Run) else { return Outcome::Held };
        entry.half_bound = true;
        let gang = entry.gang_key();
        let mut holds = self.cache.release(&work, |_| true);
        for pod in pods {
            let Some(claim) = holds.remove(&pod.key) else { continue };
            self.cache.assume(&pod.key, &claim.node);
            entry.binding.insert(pod.key.name.to_string());
            if let Some(group) = self.groups.get_mut(&gang) {
                group.mark(&pod.key, MemberAt::Binding);
            }
            let (pod, uid) = (pod.key.clone(), Arc::clone(&pod.uid));
            attempt.actions.push(Action::Bind(Binding { pod, uid, node: claim.node, gang: Some(gang.clone()) }));
        }
        self.pods_moved();
        Outcome::Binding
    }

    /// There is no room for all. `bound`: so many members have theirs.
    fn not_held(&mut self, entry: &mut GangEntry, bound: usize, why: &str, now: Duration) -> Outcome {
        let work = entry.work();
        if entry.half_bound {
            let give_up = *entry.stuck_since.get_or_insert(now) + self.settings.patience;
            if now < give_up {
                self.queue.at_latest(&work, Self::object_order(entry), give_up);
                return Outcome::Nothing;
            }
        }
        entry.reword(why);
        if entry.half_bound {
            entry.message = format!("{bound} of {} members are bound; {why}", entry.members().len());
        }
        entry.hold.refuse(RefusedFor::InsufficientCapacity);
        if !entry.hold.wants_decision() {
            self.queue.remove(&work);
        }
        Outcome::Refused
    }

    /// Says where a gang stands, if that is news.
    pub(super) fn report(&mut self, entry: &mut GangEntry, now: Duration, attempt: &mut Attempt) {
        match entry.status(&self.cache, now) {
            StatusChange::None => {}
            StatusChange::Later(at) => self.queue.at_latest(&entry.work(), Self::object_order(entry), at),
            StatusChange::Write { status, news } => {
                let uid: Arc<str> = Arc::from(entry.facts.uid.as_str());
                let gang = entry.facts.key.clone();
                if news && status.phase == Some(GangPhase::Refused) {
                    attempt.actions.push(Action::Tell {
                        on: Object { kind: ObjectKind::Gang, key: gang.clone(), uid: Arc::clone(&uid) },
                        warning: true,
                        reason: status.reason.clone().unwrap_or_default(),
                        message: Arc::from(status.message.clone().unwrap_or_default()),
                    });
                }
                attempt.actions.push(Action::GangStatus { gang, uid, status });
            }
        }
    }

    /// Gives back what is held for members that are bound by now, or left the gang.
    fn drop_other_holds(&mut self, work: &Work, members: &[MemberFacts], open: &[Open<'_>]) {
        if self.cache.holds(work).next().is_none() {
            return;
        }
        let wanted: BTreeSet<&ObjectKey> = open.iter().map(|open| &open.key).collect();
        let dropped = self.cache.release(work, |pod| !wanted.contains(pod));
        let members: BTreeSet<&str> = members.iter().map(|member| member.pod.as_str()).collect();
        if dropped.keys().any(|pod| !members.contains(&*pod.name)) {
            self.freed();
        }
    }

    /// Nothing is held for it any more.
    pub(super) fn give_back(&mut self, work: &Work, attempt: &mut Attempt) {
        self.withdraw(work, attempt);
        if !self.cache.release(work, |_| true).is_empty() {
            self.freed();
        }
    }

    /// Holds room for all of these members, on the nodes where it is held already as far as they still do; or for none.
    fn hold_all(&mut self, entry: &GangEntry, open: &[Open<'_>], now: Duration, attempt: &mut Attempt) -> Held {
        let work = entry.work();
        let stands = self.awaited(&work).is_none()
            && open.iter().all(|open| {
                self.cache.held(&work, &open.key).is_some_and(|claim| {
                    claim.shape.requests == open.shape.requests && self.cache.still_suits(&claim.node, open.shape)
                })
            });
        if stands {
            self.end_preemption(&work);
            return Held::All;
        }
        let ask = self.ask_for(entry, open, now);
        let again = entry.half_bound.then(|| ask.clone());
        let mut answer = self.place(ask, now, attempt);
        // A half-bound gang did fit beside every hold that stood. So of those taken over, one was given up since.
        while let (Answer::Refused(_), Some(ask)) = (&answer, &again)
            && let Some((_, other)) = self.taken_over.pop_last()
        {
            if let Some(other) = self.objects.get(&other).map(GangEntry::work) {
                self.cache.release(&other, |_| true);
                self.freed();
            }
            if let Ok(assignment) = self.decide(ask, attempt) {
                self.queue.remove(&work);
                answer = Answer::Fits(assignment);
            }
        }
        match answer {
            Answer::Fits(assignment) => {
                for (open, node) in open.iter().zip(&assignment.nodes) {
                    if let Some(node) = node {
                        self.cache.hold(&work, &open.key, node, open.shape);
                    }
                }
                Held::All
            }
            Answer::Refused(why) => {
                for open in open {
                    self.clear_nomination(&open.key, attempt);
                }
                Held::Refused(why)
            }
            Answer::Preempts => Held::Waits(Outcome::Preempting),
            Answer::Behind => Held::Waits(Outcome::Nothing),
        }
    }

    fn ask_for(&self, entry: &GangEntry, open: &[Open<'_>], now: Duration) -> Ask {
        let absent = Arc::new(Identity { namespace: entry.facts.key.namespace.to_string(), ..Identity::default() });
        let mut members: Vec<MemberRequest> = open
            .iter()
            .map(|open| MemberRequest {
                shape: Arc::clone(open.shape),
                identity: open.pod.map_or_else(|| Arc::clone(&absent), |pod| Arc::clone(&pod.identity)),
                node: open.member.node.clone(),
            })
            .collect();
        let mut topology = entry.facts.spec.topology.clone();
        let bound_on = entry.a_node();
        if let Some(node) = bound_on {
            self.beside(node, &mut members, &mut topology);
        }
        let closed = self.closed_to(&entry.work(), Self::object_order(entry), None, now);
        Ask {
            work: entry.work(),
            order: Self::object_order(entry),
            request: GangRequest { minimum: members.len(), members, topology, closed },
            pods: open.iter().map(|open| open.key.clone()).collect(),
            priority: entry.priority,
            // On a joined Site only the hub decides who gives way.
            preempts: false,
            alone: entry.half_bound || bound_on.is_some(),
        }
    }
}

/// A member that has no node yet.
struct Open<'a> {
    key: ObjectKey,
    member: &'a MemberFacts,
    /// Its pod, when that can be bound.
    pod: Option<&'a Arc<PodFacts>>,
    /// The pod knows better than the gang what it asks for.
    shape: &'a Arc<Shape>,
}

impl<'a> Open<'a> {
    fn of(key: ObjectKey, member: &'a MemberFacts, state: &'a MemberState) -> Option<Self> {
        match state {
            MemberState::Absent => Some(Self { key, member, pod: None, shape: &member.shape }),
            MemberState::Waiting(pod, shape) => Some(Self { key, member, pod: Some(pod), shape }),
            MemberState::Binding | MemberState::Bound => None,
        }
    }
}

fn not_supported(entry: &GangEntry, states: &[MemberState]) -> Option<String> {
    if let Err(why) = &entry.facts.spec.members {
        return Some(why.to_string());
    }
    states.iter().find_map(|state| match state {
        MemberState::Waiting(pod, _) => pod.not_supported.as_ref().map(|why| format!("pod {}: {why}", pod.key.name)),
        _ => None,
    })
}
