//! The loop: a thread owns the backend and samples, another waits for its events, and what follows is published.
//!
//! Both threads change one [`Node`] under one lock, held for the time of a decision and never across a call of the driver:
//! a call that hangs delays neither an event of another device nor its way to the kubelet.

mod node;
mod owner;
mod watcher;

#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::backend::{Backend, BackendError, ContainerEdits, DeviceId};
use crate::kubelet::Prepare;
use crate::state::{NodeDevices, Round};

use node::{Look, Node};
use owner::Owner;
use watcher::Watcher;

/// Time since some fixed moment; never goes back.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// A container does not wait longer than this for its devices. The kubelet itself sets no limit, and admits no other pod
/// meanwhile.
const PREPARE_LIMIT: Duration = Duration::from_secs(10);

/// What the thread of the backend is asked to do.
enum Command {
    Prepare {
        ids: Vec<DeviceId>,
        reply: oneshot::Sender<Result<ContainerEdits, BackendError>>,
    },
    /// [`Node::take_look`] has something.
    Look,
    /// The event wait failed: make it anew.
    EventsEnded,
    Stop,
}

/// What both threads share.
struct Shared {
    node: Mutex<Node>,
    clock: Clock,
    devices: watch::Sender<Arc<NodeDevices>>,
}

impl Shared {
    fn now(&self) -> Duration {
        (self.clock)()
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides, and publishes what follows if it is another than before. In one lock, so that a later decision is never
    /// overtaken by an earlier one.
    fn decide<R>(&self, decision: impl FnOnce(&mut Node, Duration) -> R) -> R {
        let mut node = self.node();
        let now = self.now();
        let result = decision(&mut node, now);
        if let Some(devices) = node.published(now) {
            self.devices.send_if_modified(|last| {
                let changed = **last != devices;
                if changed {
                    *last = Arc::new(devices);
                }
                changed
            });
        }
        result
    }
}

/// The way from asynchronous code to the threads. Ends them when the last clone of it is dropped.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: Arc<Commands>,
}

struct Commands(Sender<Command>);

impl Drop for Commands {
    fn drop(&mut self) {
        let _ = self.0.send(Command::Stop);
    }
}

impl Handle {
    /// Tells which devices containers hold, or are about to get.
    pub fn occupied(&self, held: BTreeSet<DeviceId>) {
        self.shared.decide(|node, now| node.occupied(held, now));
    }
}

impl Prepare for Handle {
    async fn prepare(&self, ids: &[DeviceId]) -> Result<ContainerEdits, BackendError> {
        let call = |message: &str| BackendError::Call { call: "prepare", message: message.to_owned() };
        let (reply, answer) = oneshot::channel();
        let command = Command::Prepare { ids: ids.to_vec(), reply };
        self.commands.0.send(command).map_err(|_| call("the thread of the driver has ended"))?;
        match tokio::time::timeout(PREPARE_LIMIT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(call("the thread of the driver has ended")),
            Err(_) => Err(call("the driver has not answered for 10 s")),
        }
    }
}

/// What the threads publish.
pub struct Engine {
    /// The devices; changes when something about them has.
    pub devices: watch::Receiver<Arc<NodeDevices>>,
    /// The last round of samples.
    pub rounds: watch::Receiver<Arc<Round>>,
    /// To ask and to tell.
    pub handle: Handle,
}

/// Starts both threads; a device is sampled once a `period`.
pub fn start(backend: Box<dyn Backend>, period: Duration, clock: Clock) -> std::io::Result<Engine> {
    let (devices, devices_seen) = watch::channel(Arc::default());
    let (rounds, rounds_seen) = watch::channel(Arc::default());
    let (commands, commands_taken) = channel();
    let (events, events_taken) = channel();
    let shared = Arc::new(Shared { node: Mutex::default(), clock, devices });
    let owner = Owner::new(backend, period, Arc::clone(&shared), rounds, events);
    let watcher = Watcher::new(Arc::clone(&shared), commands.clone(), events_taken);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("gpu-samples").spawn(move || owner.run(&commands_taken))?;
    thread("gpu-events").spawn(move || watcher.run())?;
    let handle = Handle { shared, commands: Arc::new(Commands(commands)) };
    Ok(Engine { devices: devices_seen, rounds: rounds_seen, handle })
}
