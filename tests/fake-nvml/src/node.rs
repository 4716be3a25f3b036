//! The nodes of this process, and what programs keep open on them.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use crate::code::{Answer, Code};
use crate::journal::Followed;
use crate::spec::{Invalid, Spec};
use crate::world::{Event, World};

/// A node and what is open on it.
#[derive(Debug)]
pub(crate) struct Node {
    state: Mutex<State>,
    /// Events came, or a set was freed.
    pub changed: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub followed: Followed,
    /// Calls of nvmlInit without nvmlShutdown.
    pub users: u32,
    pub sets: BTreeMap<u32, EventSet>,
    pub samples: BTreeMap<u32, Option<Sample>>,
    next: u32,
}

/// Events that a program waits for.
#[derive(Debug, Default)]
pub(crate) struct EventSet {
    /// Bits by slot.
    pub registered: BTreeMap<u32, u64>,
    pub waiting: VecDeque<Event>,
}

/// Counters of the hardware at one time.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub slot: u32,
    /// Virtual seconds.
    pub time: f64,
    pub busy: f64,
    pub gpu_instance: Option<u32>,
}

impl Node {
    fn new(spec: Spec, path: Option<PathBuf>) -> Self {
        let followed = Followed::new(spec, path);
        let state = State { followed, users: 0, sets: BTreeMap::new(), samples: BTreeMap::new(), next: 1 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The state after everything that the control file says.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.catch_up() {
            self.changed.notify_all();
        }
        state
    }
}

impl State {
    /// Does what the control file says; true if events came.
    pub fn catch_up(&mut self) -> bool {
        let events = self.followed.follow();
        for event in &events {
            for set in self.sets.values_mut() {
                if set.registered.get(&event.slot).is_some_and(|bits| bits & event.kind != 0) {
                    set.waiting.push_back(event.clone());
                }
            }
        }
        !events.is_empty()
    }

    pub fn world(&self) -> &World {
        &self.followed.world
    }

    /// Virtual seconds.
    pub fn now(&self) -> f64 {
        self.followed.world.time(self.followed.real())
    }

    /// Virtual microseconds since 1970.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "until the year 586,000")]
    pub fn timestamp(&self) -> u64 {
        ((self.followed.began + self.now()) * 1e6) as u64
    }

    /// A number for something new.
    pub fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// The last user left: what was open is closed.
    pub fn close(&mut self) {
        self.sets.clear();
        self.samples.clear();
    }
}

static NODES: RwLock<Vec<(Option<PathBuf>, Arc<Node>)>> = RwLock::new(Vec::new());

thread_local! {
    static SELECTED: Cell<u16> = const { Cell::new(0) };
}

/// The node with a number.
pub(crate) fn numbered(number: u16) -> Answer<Arc<Node>> {
    let known = NODES.read().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, node)) = known.get(usize::from(number)) {
        return Ok(Arc::clone(node));
    }
    drop(known);
    if number != 0 {
        return Err(Code::INVALID_ARGUMENT);
    }
    let mut known = NODES.write().unwrap_or_else(PoisonError::into_inner);
    if known.is_empty() {
        let node = of_environment().map_err(|error| {
            eprintln!("atoll-fake-nvml: {error}");
            Code::DRIVER_NOT_LOADED
        })?;
        known.push((None, Arc::new(node)));
    }
    known.first().map(|(_, node)| Arc::clone(node)).ok_or(Code::UNKNOWN)
}

fn of_environment() -> Result<Node, Invalid> {
    let spec = std::env::var("ATOLL_FAKE_NVML_NODE").unwrap_or_else(|_| "h100:8".to_owned());
    let path = std::env::var_os("ATOLL_FAKE_NVML_CONTROL").map(PathBuf::from);
    Ok(Node::new(Spec::parse(&spec)?, path))
}

/// The number of the node that this thread talks to.
pub(crate) fn selected() -> u16 {
    SELECTED.get()
}

/// From now on this thread talks to the node of a control file; None: to that of the environment.
pub(crate) fn select(path: Option<PathBuf>) -> Answer<()> {
    let Some(path) = path else {
        SELECTED.set(0);
        return Ok(());
    };
    numbered(0)?;
    let mut known = NODES.write().unwrap_or_else(PoisonError::into_inner);
    let number = match known.iter().position(|(known, _)| known.as_ref() == Some(&path)) {
        Some(number) => number,
        None => {
            let spec = Spec::parse("none").map_err(|_| Code::UNKNOWN)?;
            known.push((Some(path.clone()), Arc::new(Node::new(spec, Some(path)))));
            known.len() - 1
        }
    };
    SELECTED.set(u16::try_from(number).map_err(|_| Code::INSUFFICIENT_RESOURCES)?);
    Ok(())
}
