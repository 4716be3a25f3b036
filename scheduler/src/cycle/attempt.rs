//! One turn: a gang or a pod is decided, assumed and handed on, or refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::GangPhase;
use atoll_core::gang::{GangRequest, MemberRequest, Mode, RefusedFor, Shape, decide};

use super::{Action, Attempt, Binding, Outcome, Scheduler, pod_order};
use crate::cache::Cache;
use crate::gang::{GangEntry, MemberState, StatusChange};
use crate::objects::{MemberFacts, ObjectKey, PodFacts};
use crate::queue::{Queue, Work};

impl Scheduler {
    pub(super) fn try_gang(&mut self, key: &ObjectKey, now: Duration) -> Attempt {
        let mut attempt = Attempt::of(Outcome::Nothing);
        attempt.outcome = self.decide_gang(key, now, &mut attempt.actions);
        self.report(key, now, &mut attempt);
        attempt
    }

    fn decide_gang(&mut self, key: &ObjectKey, now: Duration, actions: &mut Vec<Action>) -> Outcome {
        let Self { settings, cache, queue, gangs, expiries, taken_over, .. } = self;
        let Some(entry) = gangs.get_mut(key) else { return Outcome::Nothing };
        taken_over.remove(&(entry.facts.created, key.clone()));
        let states = entry.look(cache);
        if let Some(why) = not_supported(entry, &states) {
            if !cache.release(key, |_| true).is_empty() {
                queue.wake();
            }
            entry.message = why;
            entry.hold.refuse(RefusedFor::NotSupported);
            return Outcome::Refused;
        }
        let members = entry.members();
        let open: Vec<Open<'_>> = members.iter().zip(&states).filter_map(|(m, s)| Open::of(m, s)).collect();
        drop_other_holds(key, members, &open, cache, queue);
        if open.is_empty() {
            if states.iter().any(|state| matches!(state, MemberState::Binding)) {
                return Outcome::Nothing;
            }
            entry.half_bound = false;
            entry.stuck_since = None;
            entry.hold.all_bound();
            return Outcome::Bound;
        }
        if !entry.hold.wants_decision() {
            return Outcome::Nothing;
        }
        let (all, left) = (members.len(), open.len());
        let pods: Option<Vec<Arc<PodFacts>>> = open.iter().map(|open| open.pod.cloned()).collect();
        let mut held = hold_all(key, &open, cache, queue);
        // A half-bound gang did fit beside every hold that stood. So of those taken over, one was given up since.
        while entry.half_bound
            && held.is_err()
            && let Some((_, other)) = taken_over.pop_last()
        {
            cache.release(&other, |_| true);
            held = hold_all(key, &open, cache, queue);
        }
        if let Err(message) = held {
            let order = Self::order(entry);
            let work = Work::Gang(key.clone());
            if entry.half_bound {
                let give_up = *entry.stuck_since.get_or_insert(now) + settings.patience;
                if now < give_up {
                    queue.park(work, order, Some(give_up));
                    return Outcome::Nothing;
                }
            }
            entry.message = if entry.half_bound {
                format!("{} of {all} members are bound; {message}", all - left)
            } else {
                message
            };
            entry.hold.refuse(RefusedFor::InsufficientCapacity);
            if entry.hold.wants_decision() {
                queue.park(work, order, None);
            }
            return Outcome::Refused;
        }
        entry.hold.fits(now, settings.hold);
        entry.stuck_since = None;
        if let Some(at) = entry.hold.expires_at() {
            expiries.insert((at, key.clone()));
        }
        let Some(pods) = pods.filter(|_| entry.hold.mode() == Mode::Run) else { return Outcome::Held };
        entry.half_bound = true;
        let mut holds = cache.release(key, |_| true);
        for pod in pods {
            let Some(claim) = holds.remove(&pod.key.name) else { continue };
            cache.assume(&pod, &claim.node);
            entry.binding.insert(pod.key.name.clone());
            let gang = Some(key.clone());
            let (pod, uid) = (pod.key.clone(), pod.uid.clone());
            actions.push(Action::Bind(Binding { pod, uid, node: claim.node, gang }));
        }
        Outcome::Binding
    }

    /// Says where a gang stands, if that is news.
    pub(super) fn report(&mut self, key: &ObjectKey, now: Duration, attempt: &mut Attempt) {
        let Some(entry) = self.gangs.get_mut(key) else { return };
        match entry.status(&self.cache, now) {
            StatusChange::None => {}
            StatusChange::Later(at) => self.queue.park(Work::Gang(key.clone()), Self::order(entry), Some(at)),
            StatusChange::Write { status, news } => {
                let uid = entry.facts.uid.clone();
                if news && status.phase == Some(GangPhase::Refused) {
                    attempt.actions.push(Action::GangRefused {
                        gang: key.clone(),
                        uid: uid.clone(),
                        reason: status.reason.clone().unwrap_or_default(),
                        message: status.message.clone().unwrap_or_default(),
                    });
                }
                attempt.actions.push(Action::GangStatus { gang: key.clone(), uid, status });
            }
        }
    }

    pub(super) fn try_pod(&mut self, key: &ObjectKey, now: Duration) -> Attempt {
        let Some(pod) = self.cache.pod(key).cloned() else { return Attempt::of(Outcome::Nothing) };
        if !pod.waits() || pod.gang.is_some() || self.cache.assumed(key).is_some() {
            return Attempt::of(Outcome::Nothing);
        }
        let decided = if let Some(why) = &pod.not_supported {
            Err(why.to_string())
        } else {
            let member = MemberRequest { pod: key.name.clone(), shape: Arc::clone(&pod.shape), node: None };
            decide(self.cache.nodes(), &GangRequest { members: vec![member] }).map_err(|why| why.to_string())
        };
        let message = match decided {
            Ok(assignment) => {
                let mut attempt = Attempt::of(Outcome::Binding);
                for node in assignment.nodes {
                    self.cache.assume(&pod, &node);
                    let binding = Binding { pod: key.clone(), uid: pod.uid.clone(), node, gang: None };
                    attempt.actions.push(Action::Bind(binding));
                }
                return attempt;
            }
            Err(message) => message,
        };
        let mut attempt = Attempt::of(Outcome::Refused);
        let mut until = None;
        if pod.unschedulable.as_ref() != Some(&message) {
            let next = self.told.get(key).map(|told| *told + self.settings.reword).filter(|next| *next > now);
            if next.is_none() {
                self.told.insert(key.clone(), now);
                let first = pod.unschedulable.is_none();
                let (pod, uid) = (key.clone(), pod.uid.clone());
                attempt.actions.push(Action::Unschedulable { pod, uid, message, first });
            }
            until = next;
        }
        self.queue.park(Work::Pod(key.clone()), pod_order(&pod), until);
        attempt
    }
}

/// A member that has no node yet.
struct Open<'a> {
    member: &'a MemberFacts,
    /// Its pod, when that can be bound.
    pod: Option<&'a Arc<PodFacts>>,
}

impl<'a> Open<'a> {
    fn of(member: &'a MemberFacts, state: &'a MemberState) -> Option<Self> {
        match state {
            MemberState::Absent => Some(Self { member, pod: None }),
            MemberState::Waiting(pod) => Some(Self { member, pod: Some(pod) }),
            MemberState::Binding | MemberState::Bound => None,
        }
    }

    /// The pod knows better than the gang what it asks for.
    fn shape(&self) -> &'a Arc<Shape> {
        self.pod.map_or(&self.member.shape, |pod| &pod.shape)
    }
}

fn not_supported(entry: &GangEntry, states: &[MemberState]) -> Option<String> {
    if let Err(why) = &entry.facts.spec.members {
        return Some(why.to_string());
    }
    states.iter().find_map(|state| match state {
        MemberState::Waiting(pod) => pod.not_supported.as_ref().map(|why| format!("pod {}: {why}", pod.key.name)),
        _ => None,
    })
}

/// Gives back what is held for members that are bound by now, or left the gang.
fn drop_other_holds(key: &ObjectKey, members: &[MemberFacts], open: &[Open<'_>], cache: &mut Cache, queue: &mut Queue) {
    if cache.holds(key).next().is_none() {
        return;
    }
    let wanted: BTreeSet<&str> = open.iter().map(|open| open.member.pod.as_str()).collect();
    let dropped = cache.release(key, |pod| !wanted.contains(pod));
    let members: BTreeSet<&str> = members.iter().map(|member| member.pod.as_str()).collect();
    if dropped.keys().any(|pod| !members.contains(pod.as_str())) {
        queue.wake();
    }
}

/// Holds room for all of these members, on the nodes where it is held already as far as they still do; or for none.
fn hold_all(key: &ObjectKey, open: &[Open<'_>], cache: &mut Cache, queue: &mut Queue) -> Result<(), String> {
    let stands = open.iter().all(|open| {
        cache.held(key, &open.member.pod).is_some_and(|claim| {
            claim.requests == open.shape().requests && cache.nodes().still_suits(&claim.node, open.shape())
        })
    });
    if stands {
        return Ok(());
    }
    let old = cache.release(key, |_| true);
    let members = open.iter().map(|open| MemberRequest {
        pod: open.member.pod.clone(),
        shape: Arc::clone(open.shape()),
        node: old.get(&open.member.pod).map(|claim| claim.node.clone()).or_else(|| open.member.node.clone()),
    });
    let decided = decide(cache.nodes(), &GangRequest { members: members.collect() });
    if !old.is_empty() {
        // Held room moved or became free.
        queue.wake();
    }
    let assignment = decided.map_err(|why| why.to_string())?;
    for (open, node) in open.iter().zip(&assignment.nodes) {
        cache.hold(key, &open.member.pod, node, open.shape());
    }
    Ok(())
}
