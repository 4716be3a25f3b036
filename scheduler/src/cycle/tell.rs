//! What is said to whom, and how often.
//!
//! Who is refused is told at once. Other words for the same come later and later, because each of them is a write for
//! something that does not run.

use std::sync::Arc;
use std::time::Duration;

use super::messages::event_reason;
use super::{Action, Attempt, GangKey, GangKind, Nominate, Outcome, Scheduler};
use crate::objects::ObjectKey;
use crate::queue::{LineId, Work};

/// How many pods or gangs are told in one turn.
const TOLD_AT_ONCE: usize = 64;
/// The pause between two wordings doubles up to this many times.
const MOST_DOUBLINGS: u32 = 5;
const SCHEDULED: &str = "Scheduled";
const UNSCHEDULABLE: &str = "Unschedulable";

/// What was said about a pod.
#[derive(Debug)]
pub(super) struct Said {
    message: Arc<str>,
    at: Duration,
    times: u32,
    nominated: bool,
}

/// Who is to be told what is known of it by then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Listener {
    Work(Work),
    Line(LineId),
}

impl Scheduler {
    /// Says why a pod waits, if that is news. `event`: nobody else has one about it.
    pub(super) fn tell(
        &mut self,
        key: &ObjectKey,
        message: &Arc<str>,
        nominate: &Nominate,
        event: bool,
        now: Duration,
        attempt: &mut Attempt,
    ) {
        let Some(pod) = self.cache.pod(key).filter(|pod| pod.waits()) else { return };
        let said = self.said.get(key);
        let nominated = said.map_or(pod.nominated.is_some(), |said| said.nominated);
        let nominate = match nominate {
            Nominate::Leave if nominated => Nominate::Clear,
            other => other.clone(),
        };
        if nominate == Nominate::Leave {
            let known = said.map_or(pod.unschedulable.as_deref(), |said| Some(&said.message));
            if known == Some(message) {
                return;
            }
            if let Some(said) = said {
                let pause = self.settings.reword.saturating_mul(1 << (said.times - 1).min(MOST_DOUBLINGS));
                let due = said.at + pause;
                if now < due {
                    self.words.insert((due, Listener::Work(Self::work_of(pod))));
                    return;
                }
            }
        }
        let first = said.is_none() && pod.unschedulable.is_none();
        let times = said.map_or(1, |said| said.times.saturating_add(1));
        attempt.actions.push(Action::Unschedulable {
            pod: key.clone(),
            uid: Arc::clone(&pod.uid),
            message: Arc::clone(message),
            turned: pod.unschedulable.is_none(),
            event: event && first,
            nominate: nominate.clone(),
        });
        let nominated = matches!(nominate, Nominate::Node(_));
        self.said.insert(key.clone(), Said { message: Arc::clone(message), at: now, times, nominated });
    }

    /// A pod is about to be bound: what was to be said of it and is not written yet never will be.
    pub(super) fn unsay(&mut self, key: &ObjectKey) {
        let (Some(pod), Some(said)) = (self.cache.pod(key), self.said.get_mut(key)) else { return };
        said.nominated |= pod.nominated.is_some();
        if pod.unschedulable.as_deref() != Some(&said.message) {
            said.message = Arc::from(pod.unschedulable.as_deref().unwrap_or_default());
        }
    }

    /// A pod is no longer nominated.
    pub(super) fn clear_nomination(&mut self, key: &ObjectKey, attempt: &mut Attempt) {
        let Some(pod) = self.cache.pod(key).filter(|pod| pod.waits()) else { return };
        let Some(said) = self.said.get_mut(key).filter(|said| said.nominated) else { return };
        said.nominated = false;
        attempt.actions.push(Action::Unschedulable {
            pod: key.clone(),
            uid: Arc::clone(&pod.uid),
            message: Arc::clone(&said.message),
            turned: pod.unschedulable.is_none(),
            event: false,
            nominate: Nominate::Clear,
        });
    }

    /// Tells the members of a gang without a Gang object, and its `PodGroup`, why they wait: one event for all.
    pub(super) fn tell_group(&mut self, gang: &GangKey, message: &Arc<str>, now: Duration, attempt: &mut Attempt) {
        let Some(group) = self.groups.get_mut(gang) else { return };
        let pods: Vec<ObjectKey> = group.waiting().cloned().collect();
        let mut has_event = false;
        if gang.kind == GangKind::PodGroup
            && let Some(object) = &group.object
        {
            has_event = true;
            let written = group.written.as_ref();
            let news =
                written.is_none_or(|written| written.message != *message && now >= written.at + self.settings.reword);
            if object.scheduled != Some(true) && written.is_none_or(|written| !written.scheduled) && news {
                let first = written.is_none() && object.scheduled.is_none();
                let (uid, generation, turned) =
                    (Arc::clone(&object.uid), object.generation, object.scheduled.is_none());
                group.written = Some(Written { scheduled: false, message: Arc::clone(message), at: now });
                attempt.actions.push(Action::PodGroupStatus {
                    group: gang.key.clone(),
                    uid,
                    generation,
                    scheduled: false,
                    turned,
                    reason: UNSCHEDULABLE,
                    message: Arc::clone(message),
                });
                if first && let Some(on) = self.object_of(gang) {
                    attempt.actions.push(Action::Tell {
                        on,
                        warning: true,
                        reason: event_reason::FAILED_SCHEDULING.to_owned(),
                        message: Arc::clone(message),
                    });
                }
            }
        }
        for (index, pod) in pods.iter().enumerate() {
            self.tell(pod, message, &Nominate::Leave, index == 0 && !has_event, now, attempt);
        }
    }

    /// Says of a `PodGroup` that its minimum is bound, once.
    pub(super) fn report_bound(&mut self, gang: &GangKey, now: Duration, attempt: &mut Attempt) {
        let Some(group) = self.groups.get_mut(gang).filter(|group| group.is_bound()) else { return };
        let Some(object) = group.object.as_ref().filter(|object| object.scheduled != Some(true)) else { return };
        if group.written.as_ref().is_some_and(|written| written.scheduled) {
            return;
        }
        let message: Arc<str> = Arc::from("");
        attempt.actions.push(Action::PodGroupStatus {
            group: gang.key.clone(),
            uid: Arc::clone(&object.uid),
            generation: object.generation,
            scheduled: true,
            turned: true,
            reason: SCHEDULED,
            message: Arc::clone(&message),
        });
        group.written = Some(Written { scheduled: true, message, at: now });
    }

    /// After a while everyone in the line hears the last refusal, if that is news.
    pub(super) fn spread(&mut self, id: LineId, now: Duration) {
        if let Some(line) = self.queue.line_mut(id)
            && line.message != line.told
            && !std::mem::replace(&mut line.telling, true)
        {
            self.words.insert((now + self.settings.reword, Listener::Line(id)));
        }
    }

    /// What the line was told is not quite true any more, although it does not fit still.
    pub(super) fn words_are_old(&mut self, id: LineId, now: Duration) {
        if let Some(line) = self.queue.line_mut(id)
            && !std::mem::replace(&mut line.aging, true)
        {
            let doublings = line.wordings().min(MOST_DOUBLINGS);
            self.old_words.insert((now + self.settings.reword.saturating_mul(1 << doublings), id));
        }
    }

    /// Puts the refusal of one line in new words: everything else goes first.
    pub(super) fn find_new_words(&mut self, now: Duration) -> Option<Attempt> {
        let (_, id) = self.old_words.first().copied().filter(|(at, _)| *at <= now)?;
        self.old_words.pop_first();
        let mut attempt = Attempt::of(Outcome::Nothing);
        if let Some(line) = self.queue.line_mut(id) {
            line.aging = false;
            attempt.decided = true;
            match self.decider.decide(self.cache.nodes_mut(), &line.request) {
                Ok(_) => self.queue.open(id),
                Err(refusal) => {
                    self.queue.reword(id, Arc::from(refusal.to_string()), refusal.helped_by);
                    self.spread(id, now);
                }
            }
        }
        Some(attempt)
    }

    /// Tells some of those whose words are due.
    pub(super) fn say_what_is_due(&mut self, now: Duration) -> Option<Attempt> {
        let mut attempt = Attempt::of(Outcome::Nothing);
        let mut told = 0;
        while told < TOLD_AT_ONCE
            && let Some((at, _)) = self.words.first()
            && *at <= now
        {
            told += 1;
            match self.words.pop_first() {
                Some((at, Listener::Line(id))) => {
                    if let Some(line) = self.queue.line_mut(id) {
                        line.telling = false;
                        line.told = Arc::clone(&line.message);
                        self.words.extend(line.members().map(|work| (at, Listener::Work(work.clone()))));
                    }
                }
                Some((_, Listener::Work(work))) => self.tell_work(&work, now, &mut attempt),
                None => {}
            }
        }
        (told > 0).then_some(attempt)
    }

    fn tell_work(&mut self, work: &Work, now: Duration, attempt: &mut Attempt) {
        let Some(why) = self.queue.why(work) else { return };
        match work {
            Work::Pod(pod) => self.tell(pod, &why, &Nominate::Leave, true, now, attempt),
            Work::Gang(gang) if gang.kind == GangKind::Object && self.objects.contains_key(&gang.key) => {
                if let Some(mut entry) = self.objects.remove(&gang.key) {
                    entry.reword(&why);
                    self.report(&mut entry, now, attempt);
                    self.objects.insert(gang.key.clone(), entry);
                }
            }
            Work::Gang(gang) => self.tell_group(gang, &why, now, attempt),
        }
    }
}

/// What was last written to a `PodGroup`.
#[derive(Debug)]
pub(crate) struct Written {
    scheduled: bool,
    message: Arc<str>,
    at: Duration,
}
