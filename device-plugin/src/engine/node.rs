//! What is known of the node's devices, and what follows from each thing that happens. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use atoll_core::device::{DeviceHealth, Fault, Reading};

use crate::backend::{Device, DeviceId, Driver, Event, Sample, Subject};
use crate::state::{DeviceState, NodeDevices, Round};

/// A device that is no longer there is remembered this long: a reset or a reload of the driver does not wipe the count
/// of its faults. Longer than the hour over which faults are counted.
const FORGET_AFTER: Duration = Duration::from_hours(2);
/// A question that the driver has not answered for so long is taken as unanswered.
const STALLED_AFTER: Duration = Duration::from_secs(15);
/// A device that could not be sampled so often in a row counts as lost; a single failure is no news.
const LOST_AFTER_FAILURES: u32 = 2;

/// What the thread of the driver is waiting for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which devices there are.
    Devices,
    /// How one is.
    Device(DeviceId),
}

/// What has to be looked at now instead of in the next round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// These devices.
    At(Vec<DeviceId>),
    /// All, and whether there are others than before.
    Everywhere,
}

/// The devices of this node.
#[derive(Debug, Default)]
pub struct Node {
    driver: Option<Driver>,
    slots: Vec<Slot>,
    gone: Vec<(Slot, Duration)>,
    xids: BTreeMap<(DeviceId, u32), u64>,
    last_xids: BTreeMap<DeviceId, u32>,
    question: Option<(Question, Duration)>,
    look: Option<Look>,
    /// None as long as nobody knows.
    held: Option<BTreeSet<DeviceId>>,
    complete: bool,
}

#[derive(Debug)]
struct Slot {
    device: Arc<Device>,
    health: DeviceHealth,
    /// It was looked at since it appeared. It is not offered before.
    seen: bool,
    failures: u32,
    held: Option<bool>,
}

impl Slot {
    fn occupied(&mut self, held: Option<&BTreeSet<DeviceId>>, now: Duration) {
        let held = held.is_none_or(|held| held.contains(&self.device.id));
        if self.held != Some(held) {
            self.held = Some(held);
            self.health.occupied(held, now);
        }
    }

    fn lost(&mut self, now: Duration) {
        self.seen = true;
        self.health.reading(&Reading { lost: true, ..Reading::default() }, now);
    }
}

impl Node {
    /// The driver listed the devices. True when the set that events come from is another one than before.
    pub fn listed(&mut self, driver: Driver, devices: Vec<Device>, now: Duration) -> bool {
        self.question = None;
        let key = |device: &Device| (device.id.clone(), device.lost);
        let same = self.driver.is_some() && self.slots.iter().map(|slot| key(&slot.device)).eq(devices.iter().map(key));
        self.driver = Some(driver);
        let mut before = std::mem::take(&mut self.slots);
        for device in devices {
            let known = before.iter().position(|slot| slot.device.id == device.id).map(|at| before.swap_remove(at));
            let mut slot = known.or_else(|| self.remembered(&device.id)).unwrap_or_else(|| Slot {
                health: DeviceHealth::new(device.instance.is_some()),
                device: Arc::new(device.clone()),
                seen: false,
                failures: 0,
                held: None,
            });
            slot.occupied(self.held.as_ref(), now);
            if device.lost {
                // The driver may know less of a lost device than it did: what it is has not changed.
                if !slot.device.lost {
                    slot.device = Arc::new(Device { lost: true, ..Device::clone(&slot.device) });
                }
                slot.lost(now);
            } else if *slot.device != device {
                slot.device = Arc::new(device);
            }
            self.slots.push(slot);
        }
        self.gone.extend(before.into_iter().map(|slot| (slot, now)));
        self.gone.retain(|(_, since)| now.saturating_sub(*since) < FORGET_AFTER);
        let (slots, gone) = (&self.slots, &self.gone);
        let known = |id: &DeviceId| {
            let mut devices = slots.iter().chain(gone.iter().map(|(slot, _)| slot)).map(|slot| &slot.device);
            devices.any(|device| device.id == *id || device.gpu == *id)
        };
        self.xids.retain(|(id, _), _| known(id));
        self.last_xids.retain(|id, _| known(id));
        !same
    }

    /// A device that was away and is back; it has to be looked at before it is offered.
    fn remembered(&mut self, id: &DeviceId) -> Option<Slot> {
        let at = self.gone.iter().position(|(slot, _)| slot.device.id == *id)?;
        Some(Slot { seen: false, failures: 0, ..self.gone.swap_remove(at).0 })
    }

    /// The driver does not answer. Its devices stay known, as lost ones.
    pub fn away(&mut self, now: Duration) {
        self.question = None;
        self.driver = None;
        self.complete = true;
        for slot in &mut self.slots {
            slot.lost(now);
        }
    }

    /// The driver is asked, and has not answered yet.
    pub fn asked(&mut self, question: Question, now: Duration) {
        self.question = Some((question, now));
    }

    /// Time went by. A question that waits for too long counts as unanswered; true when one newly does.
    pub fn waited(&mut self, now: Duration) -> bool {
        let Some((question, since)) = &self.question else { return false };
        if now.saturating_sub(*since) < STALLED_AFTER {
            return false;
        }
        match question.clone() {
            Question::Devices => self.away(now),
            Question::Device(id) => {
                self.question = None;
                self.complete = true;
                self.each(&id, |slot| slot.lost(now));
            }
        }
        true
    }

    /// A device was sampled; None: nothing about it could be read.
    pub fn sampled(&mut self, id: &DeviceId, reading: Option<&Reading>, now: Duration) {
        self.question = None;
        self.each(id, |slot| {
            if let Some(reading) = reading {
                slot.seen = true;
                slot.failures = 0;
                slot.health.reading(reading, now);
            } else {
                slot.failures = slot.failures.saturating_add(1);
                if slot.failures >= LOST_AFTER_FAILURES {
                    slot.lost(now);
                }
            }
        });
    }

    /// Every device was sampled once.
    pub fn round_ended(&mut self) {
        self.complete = true;
    }

    /// The driver reported a fault: it hits exactly whom it names, and whom it hits is looked at.
    pub fn fault(&mut self, event: &Event, now: Duration) {
        let (id, whole) = match &event.subject {
            Subject::Gpu(id) => (id, true),
            Subject::Instance(id) => (id, false),
            Subject::Unknown => return self.look_at(Look::Everywhere),
        };
        if let Fault::Xid(code) = event.fault {
            *self.xids.entry((id.clone(), code)).or_default() += 1;
            self.last_xids.insert(id.clone(), code);
        }
        let mut hit = Vec::new();
        for slot in &mut self.slots {
            if slot.device.id == *id || (whole && slot.device.gpu == *id) {
                slot.health.fault(&event.fault, now);
                hit.push(slot.device.id.clone());
            }
        }
        // Somebody who is not in the list: the list is no longer right.
        self.look_at(if hit.is_empty() { Look::Everywhere } else { Look::At(hit) });
    }

    /// Something has to be looked at. What is asked for several times before it is done is done once.
    pub fn look_at(&mut self, look: Look) {
        self.look = Some(match (self.look.take(), look) {
            (Some(Look::At(mut before)), Look::At(more)) => {
                before.extend(more);
                before.sort_unstable();
                before.dedup();
                Look::At(before)
            }
            (None, look) => look,
            _ => Look::Everywhere,
        });
    }

    /// What has to be looked at, to do it now.
    pub fn take_look(&mut self) -> Option<Look> {
        self.look.take()
    }

    /// Which devices containers hold, or are about to get. As long as nobody knows, all count as held: processes of pods
    /// that were there before this process are not taken for strangers.
    pub fn occupied(&mut self, held: BTreeSet<DeviceId>, now: Duration) {
        self.held = Some(held);
        for slot in &mut self.slots {
            slot.occupied(self.held.as_ref(), now);
        }
    }

    fn each(&mut self, id: &DeviceId, act: impl FnMut(&mut Slot)) {
        self.slots.iter_mut().filter(|slot| slot.device.id == *id).for_each(act);
    }

    /// The devices as the driver listed them last.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.slots.iter().map(|slot| &slot.device)
    }

    /// What was sampled in `span`, with what was counted until now.
    pub fn round(&self, span: (Duration, Duration), samples: Vec<(Arc<Device>, Arc<Sample>)>) -> Round {
        Round {
            span,
            samples,
            xids: self.xids.iter().map(|((id, code), count)| (id.clone(), *code, *count)).collect(),
            last_xids: self.last_xids.iter().map(|(id, code)| (id.clone(), *code)).collect(),
        }
    }

    /// What everybody is told; None as long as not everything was looked at once.
    pub fn published(&self, now: Duration) -> Option<NodeDevices> {
        let state = |slot: &Slot| DeviceState { device: Arc::clone(&slot.device), verdict: slot.health.verdict(now) };
        self.complete.then(|| NodeDevices {
            driver: self.driver.clone(),
            devices: self.slots.iter().filter(|slot| slot.seen).map(state).collect(),
        })
    }

    /// When the verdict on some device changes by the passing of time alone.
    pub fn next_due(&self, now: Duration) -> Option<Duration> {
        // A time that has passed says nothing.
        self.slots.iter().filter_map(|slot| slot.health.next_due()).filter(|due| *due > now).min()
    }
}
