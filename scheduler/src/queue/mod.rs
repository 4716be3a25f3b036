//! What is to be tried, in which order, and what waits for something to change.
//!
//! What was refused stands in a [`Line`] with everything else that asks for the same: only the first of a line is
//! tried when something happened that could help, and who joins a line that was just refused is refused with it. So
//! many that cannot be had cost no more than one.

mod line;
mod place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::{GangRequest, Helps};

pub use line::{Alike, Clock, Line, LineId, LineKey, ShapeRef, Verdict};
pub use place::{Order, Place, Standing, Work};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Work(Work),
    Line(LineId),
}

/// Where a look through the waiting lines goes on.
#[derive(Clone, Copy, Debug)]
enum Sweep {
    FromFirst,
    After(Order, LineId),
}

/// First in, first out by [`Order`], ties by name.
#[derive(Debug, Default)]
pub struct Queue {
    /// Only gangs that are bound in part have a turn.
    only_half_bound: bool,
    ready: BTreeSet<(Order, Work)>,
    places: HashMap<Work, Place>,
    gangs: usize,
    alarms: BTreeSet<(Duration, Alarm)>,
    lines: HashMap<LineId, Line>,
    ids: HashMap<LineKey, LineId>,
    next_line: u64,
    /// Firsts of lines that had their line opened and are ready, or are being tried.
    heads: HashMap<Work, LineId>,
    /// Lines that are refused, by their first.
    waiting: BTreeSet<(Order, LineId)>,
    clock: Clock,
    /// How many lines wait for each kind of change.
    wanted: Clock,
    /// A look through the waiting lines is under way.
    sweep: Option<Sweep>,
    /// Something happened since it began that a waiting line is helped by.
    unswept: bool,
}

impl Queue {
    /// Something about it changed: it is tried as soon as its turn comes. What is delayed after a failure stays so.
    pub fn push(&mut self, work: Work, order: Order) {
        match self.places.get(&work) {
            Some(Place::Delayed(..)) => return,
            Some(Place::Ready(same)) if *same == order => return,
            Some(_) => self.remove(&work),
            None => {}
        }
        self.put(work, Place::Ready(order));
    }

    /// Waits for itself to change, or until `until`.
    pub fn wait(&mut self, work: Work, order: Order, why: Option<Arc<str>>, until: Option<Duration>) {
        self.take(&work);
        self.put(work, Place::Apart { order, why, until });
    }

    /// Failed: not tried before `until`.
    pub fn delay(&mut self, work: Work, order: Order, until: Duration) {
        self.take(&work);
        self.put(work, Place::Delayed(order, until));
    }

    /// It is tried at this time at the latest; what is ready or delayed keeps its turn.
    pub fn at_latest(&mut self, work: &Work, order: Order, at: Duration) {
        match self.places.get_mut(work) {
            Some(Place::Ready(_) | Place::Delayed(..)) => {}
            Some(Place::Apart { until, .. } | Place::Lined { until, .. }) => {
                if until.is_some_and(|until| until <= at) {
                    return;
                }
                if let Some(old) = until.replace(at) {
                    self.alarms.remove(&(old, Alarm::Work(work.clone())));
                }
                self.alarms.insert((at, Alarm::Work(work.clone())));
            }
            None => self.wait(work.clone(), order, None, Some(at)),
        }
    }

    /// Takes the first that is ready. Afterwards it is put somewhere again, and then [`Queue::settle`] is called.
    pub fn pop(&mut self) -> Option<(Order, Work)> {
        let (order, work) = self.ready.first().filter(|(order, _)| self.has_turn(*order)).cloned()?;
        self.take(&work);
        Some((order, work))
    }

    /// While `on`, only gangs that are bound in part have a turn.
    pub fn only_half_bound(&mut self, on: bool) {
        self.only_half_bound = on;
    }

    fn has_turn(&self, order: Order) -> bool {
        !(self.only_half_bound && order.whole)
    }

    /// Its turn is over: if it was the first of an opened line and does not stand in it again, the next one is.
    pub fn settle(&mut self, work: &Work) {
        if matches!(self.places.get(work), Some(Place::Ready(_))) {
            return;
        }
        let Some(id) = self.heads.remove(work) else { return };
        if let Some(line) = self.lines.get_mut(&id)
            && line.head.take_if(|(_, head)| head == work).is_some()
        {
            if line.verdict.is_none() {
                (line.refusals, line.wordings) = (0, 0);
            }
            self.advance(id);
        }
    }

    /// Nothing is to be done for it any more.
    pub fn remove(&mut self, work: &Work) {
        self.take(work);
        self.settle(work);
    }

    /// What the line of `key` says to it.
    #[must_use]
    pub fn standing(&self, key: &LineKey, work: &Work, order: Order, now: Duration) -> Standing {
        let Some((id, line)) = self.ids.get(key).and_then(|id| Some((*id, self.lines.get(id)?))) else {
            return Standing::Free;
        };
        match (&line.verdict, &line.head) {
            (None, Some((first, head))) if head != work && *first < order => Standing::Behind,
            (None, _) => Standing::Free,
            (Some(verdict), _) if self.is_stale(verdict, now) => Standing::Stale(id),
            (Some(verdict), _) => Standing::Refused(Arc::clone(&verdict.message)),
        }
    }

    /// It waits with those that ask for the same.
    pub fn join(&mut self, key: &LineKey, work: &Work, order: Order) {
        if let Some(id) = self.ids.get(key).copied() {
            self.enter(id, work, order);
        }
    }

    /// It was refused, and everything that asks for the same with it.
    pub fn refuse(&mut self, key: LineKey, work: &Work, order: Order, request: GangRequest, verdict: Verdict) {
        let id = self.ids.get(&key).copied().unwrap_or_else(|| {
            self.next_line += 1;
            let id = LineId(self.next_line);
            self.ids.insert(key.clone(), id);
            self.lines.insert(id, Line::new(key, request.clone()));
            id
        });
        self.close(id);
        if let Some(line) = self.lines.get_mut(&id) {
            line.request = request;
            line.refusals = line.refusals.saturating_add(1);
            line.message = Arc::clone(&verdict.message);
            if line.refusals == 1 && line.parked.is_empty() {
                line.told = Arc::clone(&verdict.message);
            }
            if let Some(again) = verdict.again {
                self.alarms.insert((again, Alarm::Line(id)));
            }
            if let Some(first) = line.order() {
                self.waiting.insert((first, id));
                self.wanted.tick(verdict.helped_by);
            }
            line.verdict = Some(Verdict { seen: self.clock, ..verdict });
        }
        self.enter(id, work, order);
    }

    /// How often the line was refused since somebody of it went.
    #[must_use]
    pub fn refusals(&self, key: &LineKey) -> u32 {
        self.ids.get(key).and_then(|id| self.lines.get(id)).map_or(0, |line| line.refusals)
    }

    /// It was decided again and is refused still; nothing else changes.
    pub fn reword(&mut self, id: LineId, message: Arc<str>, helped_by: Helps) {
        self.helped_by(id, helped_by);
        if let Some(line) = self.lines.get_mut(&id) {
            line.wordings = line.wordings.saturating_add(1);
            if let Some(verdict) = &mut line.verdict {
                verdict.message = Arc::clone(&message);
                verdict.seen = self.clock;
            }
            line.message = message;
        }
    }

    /// Something happened that could help those that wait for it.
    pub fn tick(&mut self, what: Helps) {
        self.clock.tick(what);
        self.unswept |= self.wanted.any(what);
    }

    /// The next line, in order, that something could have helped, if there is one within `passes` lines.
    pub fn next_stale(&mut self, passes: &mut usize, now: Duration) -> Option<LineId> {
        while self.sweeping() {
            if self.sweep.is_none() {
                self.unswept = false;
            }
            let from = match self.sweep.get_or_insert(Sweep::FromFirst) {
                Sweep::FromFirst => Bound::Unbounded,
                Sweep::After(order, id) => Bound::Excluded((*order, *id)),
            };
            let Some(at) = self.waiting.range((from, Bound::Unbounded)).next().copied() else {
                self.sweep = None;
                continue;
            };
            *passes = passes.checked_sub(1)?;
            self.sweep = Some(Sweep::After(at.0, at.1));
            let verdict = self.lines.get(&at.1).and_then(|line| line.verdict.as_ref());
            if verdict.is_some_and(|verdict| self.is_stale(verdict, now)) {
                return Some(at.1);
            }
        }
        None
    }

    /// The first of the line is tried.
    pub fn open(&mut self, id: LineId) {
        self.close(id);
        if let Some(line) = self.lines.get_mut(&id) {
            line.verdict = None;
        }
        self.advance(id);
    }

    /// The line was looked at: what happened did not help. With `reopen` its first is tried at that time all the same.
    pub fn refresh(&mut self, id: LineId, reopen: Option<Duration>) {
        let Some(verdict) = self.lines.get_mut(&id).and_then(|line| line.verdict.as_mut()) else { return };
        verdict.seen = self.clock;
        // What happened may have taken one obstacle away, and the next one is not known.
        let helped_by = verdict.helped_by | Helps::NODES | Helps::ROOM | Helps::VOLUMES;
        self.helped_by(id, helped_by);
        let Some(line) = self.lines.get_mut(&id) else { return };
        if let Some(at) = reopen
            && line.reopen.is_none()
        {
            line.reopen = Some(at);
            self.alarms.insert((at, Alarm::Line(id)));
        }
    }

    /// A line.
    #[must_use]
    pub fn line(&self, id: LineId) -> Option<&Line> {
        self.lines.get(&id)
    }

    /// A line, to bring what it asks up to date.
    pub fn line_mut(&mut self, id: LineId) -> Option<&mut Line> {
        self.lines.get_mut(&id)
    }

    /// The line that it stands in.
    #[must_use]
    pub fn line_of(&self, work: &Work) -> Option<(LineId, &Line)> {
        match self.places.get(work)? {
            Place::Lined { line, .. } => Some((*line, self.lines.get(line)?)),
            _ => None,
        }
    }

    /// Where it is, if it is pending.
    #[must_use]
    pub fn place(&self, work: &Work) -> Option<&Place> {
        self.places.get(work)
    }

    /// Why it waits, for people.
    #[must_use]
    pub fn why(&self, work: &Work) -> Option<Arc<str>> {
        match self.places.get(work)? {
            Place::Apart { why, .. } => why.clone(),
            Place::Lined { line, .. } => self.lines.get(line).map(|line| Arc::clone(&line.message)),
            Place::Ready(_) | Place::Delayed(..) => None,
        }
    }

    /// Everything that is pending.
    pub fn pending(&self) -> impl Iterator<Item = (&Work, &Place)> {
        self.places.iter()
    }

    /// When something that waits for a time is due; zero when something is to be done now.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        if self.ready.first().is_some_and(|(order, _)| self.has_turn(*order)) || self.sweeping() {
            return Some(Duration::ZERO);
        }
        self.alarms.first().map(|(at, _)| *at)
    }

    /// How many (gangs, pods) are in here.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.gangs, self.places.len() - self.gangs)
    }

    /// How many lines there are.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    fn sweeping(&self) -> bool {
        self.sweep.is_some() || self.unswept
    }

    fn is_stale(&self, verdict: &Verdict, now: Duration) -> bool {
        verdict.again.is_none_or(|again| again <= now) && self.clock.helped(&verdict.seen, verdict.helped_by)
    }

    /// Does what is due by now: works become ready, lines are looked at again.
    pub fn ring(&mut self, now: Duration) {
        while let Some((at, _)) = self.alarms.first()
            && *at <= now
        {
            match self.alarms.pop_first() {
                Some((_, Alarm::Work(work))) => {
                    if let Some(order) = self.places.get(&work).map(Place::order) {
                        self.take(&work);
                        self.put(work, Place::Ready(order));
                    }
                }
                Some((_, Alarm::Line(id))) => {
                    if self.lines.get(&id).is_some_and(|line| line.reopen.is_some_and(|at| at <= now)) {
                        self.open(id);
                    } else {
                        self.unswept = true;
                    }
                }
                None => {}
            }
        }
    }

    fn put(&mut self, work: Work, place: Place) {
        self.gangs += usize::from(matches!(work, Work::Gang(_)));
        match &place {
            Place::Ready(order) => {
                self.ready.insert((*order, work.clone()));
            }
            Place::Lined { order, line, .. } => {
                if let Some(entered) = self.lines.get_mut(line) {
                    let before = entered.order();
                    entered.parked.insert((*order, work.clone()));
                    self.reindex(*line, before);
                }
            }
            Place::Delayed(..) | Place::Apart { .. } => {}
        }
        if let Some(due) = place.due() {
            self.alarms.insert((due, Alarm::Work(work.clone())));
        }
        self.places.insert(work, place);
    }

    fn take(&mut self, work: &Work) -> Option<Place> {
        let place = self.places.remove(work)?;
        self.gangs -= usize::from(matches!(work, Work::Gang(_)));
        if let Some(due) = place.due() {
            self.alarms.remove(&(due, Alarm::Work(work.clone())));
        }
        match &place {
            Place::Ready(order) => {
                self.ready.remove(&(*order, work.clone()));
            }
            Place::Lined { order, line, .. } => {
                if let Some(left) = self.lines.get_mut(line) {
                    let before = left.order();
                    left.parked.remove(&(*order, work.clone()));
                    self.reindex(*line, before);
                    self.drop_if_empty(*line);
                }
            }
            Place::Delayed(..) | Place::Apart { .. } => {}
        }
        Some(place)
    }

    fn enter(&mut self, id: LineId, work: &Work, order: Order) {
        self.take(work);
        self.put(work.clone(), Place::Lined { order, line: id, until: None });
    }

    /// Other changes than before could help a refused line.
    fn helped_by(&mut self, id: LineId, helped_by: Helps) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        let waits = !line.parked.is_empty();
        let Some(verdict) = &mut line.verdict else { return };
        if waits {
            self.wanted.drop(verdict.helped_by);
            self.wanted.tick(helped_by);
        }
        verdict.helped_by = helped_by;
    }

    /// Puts a refused line where its first member belongs.
    fn reindex(&mut self, id: LineId, before: Option<Order>) {
        let Some(line) = self.lines.get(&id) else { return };
        let Some(verdict) = &line.verdict else { return };
        let now = line.order();
        if before == now {
            return;
        }
        if let Some(before) = before {
            self.waiting.remove(&(before, id));
            self.wanted.drop(verdict.helped_by);
        }
        if let Some(now) = now {
            self.waiting.insert((now, id));
            self.wanted.tick(verdict.helped_by);
        }
    }

    /// Its verdict does not stand any more.
    fn close(&mut self, id: LineId) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        let Some(verdict) = line.verdict.take() else { return };
        if let Some(first) = line.order() {
            self.waiting.remove(&(first, id));
            self.wanted.drop(verdict.helped_by);
        }
        for at in [verdict.again, line.reopen.take()].into_iter().flatten() {
            self.alarms.remove(&(at, Alarm::Line(id)));
        }
    }

    /// The next of an open line becomes ready.
    fn advance(&mut self, id: LineId) {
        let Some(line) = self.lines.get(&id) else { return };
        if line.verdict.is_none()
            && line.head.is_none()
            && let Some((order, work)) = line.parked.first().cloned()
        {
            // Not dropped with its last one: it comes back if that one is refused.
            if let Some(line) = self.lines.get_mut(&id) {
                line.head = Some((order, work.clone()));
            }
            self.take(&work);
            self.heads.insert(work.clone(), id);
            self.put(work, Place::Ready(order));
            return;
        }
        self.drop_if_empty(id);
    }

    fn drop_if_empty(&mut self, id: LineId) {
        if self.lines.get(&id).is_some_and(|line| line.parked.is_empty() && line.head.is_none()) {
            self.close(id);
            if let Some(line) = self.lines.remove(&id) {
                self.ids.remove(&line.key);
            }
        }
    }
}
