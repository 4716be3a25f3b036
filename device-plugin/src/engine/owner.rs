//! The thread that owns the backend: it lists, samples, prepares.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use tokio::sync::watch;

use super::node::{Look, Question};
use super::{Command, Node, Shared};
use crate::backend::{Backend, BackendError, ContainerEdits, Device, DeviceId, Events, Sample};
use crate::state::Round;

/// Looks that events ask for are this far apart, so that a storm of events does not become one of samples.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Owner {
    backend: Box<dyn Backend>,
    period: Duration,
    shared: Arc<Shared>,
    rounds: watch::Sender<Arc<Round>>,
    events: Sender<Box<dyn Events>>,
    /// The set of devices that the watcher waits for is no longer right, or its wait has failed.
    events_wanted: bool,
    /// When the next look may and has to be.
    look_from: Duration,
    look_wanted: bool,
    /// Logged once for as long as it lasts.
    complaint: Option<BackendError>,
}

impl Owner {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        period: Duration,
        shared: Arc<Shared>,
        rounds: watch::Sender<Arc<Round>>,
        events: Sender<Box<dyn Events>>,
    ) -> Self {
        Self {
            backend,
            period,
            shared,
            rounds,
            events,
            events_wanted: true,
            look_from: Duration::ZERO,
            look_wanted: false,
            complaint: None,
        }
    }

    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let mut round_due = self.shared.now();
        loop {
            let now = self.shared.now();
            if now >= round_due {
                // A round that took longer than the period is followed by the next one at once, not by two.
                round_due = (round_due + self.period).max(now);
                if !self.round(commands) {
                    return;
                }
                continue;
            }
            self.look_if_due();
            let due = if self.look_wanted { round_due.min(self.look_from) } else { round_due };
            let goes_on = match commands.recv_timeout(due.saturating_sub(self.shared.now())) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Lists and samples all devices. Commands that come meanwhile wait for one device at most. False: stop.
    pub(super) fn round(&mut self, commands: &Receiver<Command>) -> bool {
        let begun = self.shared.now();
        let mut samples = Vec::new();
        if self.list() {
            if self.events_wanted {
                self.make_events();
            }
            let devices: Vec<Arc<Device>> = self.shared.node().devices().cloned().collect();
            for device in devices {
                if let Some(sample) = self.sample(&device) {
                    samples.push((device, Arc::new(sample)));
                }
                while let Ok(command) = commands.try_recv() {
                    if !self.obey(command) {
                        return false;
                    }
                }
                self.look_if_due();
            }
            self.shared.decide(|node, _| node.round_ended());
        }
        let span = (begun, self.shared.now());
        let round = self.shared.node().round(span, samples);
        self.rounds.send_replace(Arc::new(round));
        true
    }

    /// Does what is asked. False: stop.
    pub(super) fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Prepare { ids, reply } => {
                // Who asked may have given up meanwhile.
                let _ = reply.send(self.prepare(&ids));
            }
            Command::Look => self.look_wanted = true,
            Command::EventsEnded => self.events_wanted = true,
            Command::Stop => return false,
        }
        true
    }

    /// Looks at what an event concerned, besides the rounds.
    pub(super) fn look_if_due(&mut self) {
        if !self.look_wanted || self.shared.now() < self.look_from {
            return;
        }
        self.look_wanted = false;
        let Some(look) = self.shared.node().take_look() else { return };
        if look == Look::Everywhere && !self.list() {
            return;
        }
        let wanted = |device: &Device| match &look {
            Look::At(ids) => ids.contains(&device.id),
            Look::Everywhere => true,
        };
        let devices: Vec<Arc<Device>> = self.shared.node().devices().filter(|device| wanted(device)).cloned().collect();
        for device in devices {
            self.sample(&device);
        }
        self.look_from = self.shared.now() + LOOK_PAUSE;
    }

    /// Asks which devices there are. False: there is no answer.
    fn list(&mut self) -> bool {
        let now = self.shared.now();
        self.shared.node().asked(Question::Devices, now);
        let answer = self.backend.driver().and_then(|driver| Ok((driver, self.backend.devices()?)));
        let (driver, devices) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.shared.decide(Node::away);
                self.events_wanted = true;
                if self.complaint.as_ref() != Some(&error) {
                    tracing::error!(%error, "no answer from the driver, trying again");
                }
                self.complaint = Some(error);
                return false;
            }
        };
        if self.complaint.take().is_some() {
            tracing::info!(driver = driver.version, devices = devices.len(), "the driver answers");
        }
        // Not published yet: new devices are sampled first. A lost one is published with the round.
        let now = self.shared.now();
        let changed = self.shared.node().listed(driver, devices, now);
        self.events_wanted |= changed;
        true
    }

    fn make_events(&mut self) {
        let devices: Vec<Device> = self.shared.node().devices().map(|device| Device::clone(device)).collect();
        match self.backend.events(&devices) {
            Ok(events) => {
                // The watcher is there as long as this thread is.
                let _ = self.events.send(events);
                self.events_wanted = false;
            }
            // Devices are still sampled, and the next round tries again: no reason to condemn any.
            Err(error) => tracing::warn!(%error, "no events from the driver; devices are sampled only"),
        }
    }

    /// None: lost, or no answer.
    fn sample(&mut self, device: &Device) -> Option<Sample> {
        // A lost device is known to be lost; asking it may hang. The list says when it is back.
        if device.lost {
            return None;
        }
        let now = self.shared.now();
        self.shared.node().asked(Question::Device(device.id.clone()), now);
        let answer = self.backend.sample(device);
        let reading = answer.as_ref().ok().map(|sample| &sample.reading);
        self.shared.decide(|node, now| node.sampled(&device.id, reading, now));
        answer.inspect_err(|error| tracing::debug!(%error, device = %device.id, "not sampled")).ok()
    }

    fn prepare(&mut self, ids: &[DeviceId]) -> Result<ContainerEdits, BackendError> {
        let devices = {
            let node = self.shared.node();
            let find =
                |id: &DeviceId| node.devices().find(|device| device.id == *id).map(|device| Device::clone(device));
            let devices: Result<Vec<Device>, BackendError> =
                ids.iter().map(|id| find(id).ok_or_else(|| BackendError::Unknown(id.clone()))).collect();
            devices?
        };
        self.backend.prepare(&devices)
    }
}
