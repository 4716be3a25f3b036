//! The thread that waits for the driver's events, and for time to pass.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

use super::{Command, Look, Node, Shared};
use crate::backend::Events;

/// How long one wait lasts at most; a changed set of devices is waited for after this.
const LIMIT: Duration = Duration::from_millis(500);
/// How long it lasts at least.
const SHORTEST: Duration = Duration::from_millis(20);

pub(super) struct Watcher {
    shared: Arc<Shared>,
    commands: Sender<Command>,
    incoming: Receiver<Box<dyn Events>>,
    events: Option<Box<dyn Events>>,
}

impl Watcher {
    pub(super) fn new(shared: Arc<Shared>, commands: Sender<Command>, incoming: Receiver<Box<dyn Events>>) -> Self {
        Self { shared, commands, incoming, events: None }
    }

    pub(super) fn run(mut self) {
        while self.step() {}
    }

    /// One wait and what follows from it. False: the owner has ended.
    pub(super) fn step(&mut self) -> bool {
        loop {
            match self.incoming.try_recv() {
                Ok(events) => self.events = Some(events),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        let now = self.shared.now();
        // A verdict that is due meanwhile is judged after the wait.
        let due = self.shared.node().next_due(now).map_or(LIMIT, |due| due.saturating_sub(now));
        let goes_on = self.wait(due.clamp(SHORTEST, LIMIT));
        if self.shared.decide(Node::waited) {
            tracing::error!("the driver has not answered for a long time");
        }
        goes_on
    }

    fn wait(&mut self, limit: Duration) -> bool {
        let Some(events) = &mut self.events else {
            return match self.incoming.recv_timeout(limit) {
                Ok(events) => {
                    self.events = Some(events);
                    true
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
        };
        match events.wait(limit) {
            Ok(events) if events.is_empty() => true,
            Ok(events) => {
                self.shared.decide(|node, now| events.iter().for_each(|event| node.fault(event, now)));
                for event in &events {
                    tracing::warn!(subject = ?event.subject, fault = ?event.fault, "the driver reports a fault");
                }
                self.commands.send(Command::Look).is_ok()
            }
            Err(error) => {
                // Says nothing about any device: all are sampled, now and each period.
                tracing::warn!(%error, "waiting for events failed; making it anew");
                self.events = None;
                self.shared.decide(|node, _| node.look_at(Look::Everywhere));
                self.commands.send(Command::EventsEnded).is_ok() && self.commands.send(Command::Look).is_ok()
            }
        }
    }
}
