//! NVIDIA's GPUs, through NVML.
//!
//! A session is the time from opening the library until the driver goes away, or until GPUs were plugged in or out,
//! which NVML notices only when it is opened anew. The next call opens the next session; waiting for events of an old
//! one ends with an error, and letting go of it is what frees the library.

mod events;
mod inventory;
mod plan;
mod prepare;
mod sample;
mod topology;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atoll_nvml::{Code, Error, Nvml};

use crate::backend::{Backend, BackendError, ContainerEdits, Device, Driver, Events, Sample};
use events::NvidiaEvents;
use inventory::Inventory;
pub use prepare::HostFiles;
use sample::Sampler;

/// Where the driver is.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The library (libnvidia-ml.so.1). None: where `files` has it, else where the loader finds it.
    pub library: Option<PathBuf>,
    /// The host's files. None: there are none that belong to these GPUs, as with a library that only plays them;
    /// containers then get the names of their GPUs and nothing else.
    pub files: Option<HostFiles>,
}

/// NVIDIA's GPUs on this node.
pub struct Nvidia {
    options: Options,
    session: Option<Session>,
    /// Outlives sessions: a GPU that cannot be asked is listed as it was last known.
    inventory: Inventory,
}

struct Session {
    nvml: Nvml,
    /// Shared with those who wait for events. False: nobody shall use this session any more.
    alive: Arc<AtomicBool>,
    /// What the kernel's part of the driver had when the session began.
    plugged: BTreeSet<OsString>,
    sampler: Sampler,
}

impl Nvidia {
    /// A backend that finds the driver when it is first asked.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, session: None, inventory: Inventory::default() }
    }

    fn plugged(&self) -> BTreeSet<OsString> {
        self.options.files.as_ref().map(HostFiles::plugged).unwrap_or_default()
    }

    fn open(&mut self) -> Result<(), BackendError> {
        if self.session.is_some() {
            return Ok(());
        }
        let found = self.options.files.as_ref().and_then(HostFiles::library);
        let plugged = self.plugged();
        let nvml = Nvml::open(self.options.library.as_deref().or(found.as_deref()));
        let nvml = nvml.map_err(|error| no_driver(&error))?;
        self.inventory.refresh(&nvml, self.options.files.as_ref()).map_err(failed)?;
        self.session =
            Some(Session { nvml, alive: Arc::new(AtomicBool::new(true)), plugged, sampler: Sampler::default() });
        Ok(())
    }

    /// Runs a call in the session; when the driver turns out to be away, the session is over.
    fn within<T>(
        &mut self,
        call: impl FnOnce(&mut Session, &mut Inventory, &Options) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        self.open()?;
        let Some(session) = &mut self.session else {
            return Err(BackendError::NoDriver("it was not opened".to_owned()));
        };
        let answer = call(session, &mut self.inventory, &self.options);
        if matches!(answer, Err(BackendError::NoDriver(_))) {
            self.close();
        }
        answer
    }

    fn close(&mut self) {
        if let Some(session) = self.session.take() {
            session.alive.store(false, Ordering::Relaxed);
        }
        self.inventory.let_go();
    }

    /// Ends the session when GPUs came or went below it. Who waits for events has to let go first: while one does,
    /// the library stays as it is, and so does everything else.
    fn follow_plugs(&mut self) {
        let plugged = self.plugged();
        let Some(session) = &self.session else { return };
        if session.plugged != plugged {
            session.alive.store(false, Ordering::Relaxed);
            if Arc::strong_count(&session.alive) == 1 {
                self.close();
            }
        }
    }
}

impl Backend for Nvidia {
    fn driver(&mut self) -> Result<Driver, BackendError> {
        self.within(|session, _, _| {
            let version = session.nvml.driver_version().map_err(failed)?;
            Ok(Driver { version, cuda: session.nvml.cuda_version().ok() })
        })
    }

    fn devices(&mut self) -> Result<Vec<Device>, BackendError> {
        self.follow_plugs();
        self.within(|session, inventory, options| {
            let changed = inventory.refresh(&session.nvml, options.files.as_ref()).map_err(failed)?;
            if changed {
                session.sampler = Sampler::default();
            }
            Ok(inventory.devices())
        })
    }

    fn events(&mut self, devices: &[Device]) -> Result<Box<dyn Events>, BackendError> {
        self.within(|session, inventory, _| {
            if !session.alive.load(Ordering::Relaxed) {
                return Err(BackendError::Call {
                    call: "nvmlEventSetCreate",
                    message: "GPUs were plugged in or out, and NVML is about to be opened anew; ask again".to_owned(),
                });
            }
            let events = NvidiaEvents::new(&session.nvml, session.alive.clone(), inventory, devices).map_err(failed)?;
            Ok(Box::new(events) as Box<dyn Events>)
        })
    }

    fn sample(&mut self, device: &Device) -> Result<Sample, BackendError> {
        self.within(|session, inventory, _| session.sampler.sample(&session.nvml, inventory, device))
    }

    fn prepare(&mut self, devices: &[Device]) -> Result<ContainerEdits, BackendError> {
        prepare::edits(self.options.files.as_ref(), devices)
    }
}

/// The driver is not there, whatever the call said.
fn no_driver(error: &Error) -> BackendError {
    BackendError::NoDriver(error.to_string())
}

/// Whether the driver as a whole is away, and not only what was asked for.
fn is_driver_away(error: &Error) -> bool {
    matches!(error.code(), None | Some(Code::UNINITIALIZED | Code::DRIVER_NOT_LOADED | Code::LIB_RM_VERSION_MISMATCH))
}

fn failed(error: Error) -> BackendError {
    match error {
        Error::Call { function, code } if !is_driver_away(&error) => {
            BackendError::Call { call: function, message: code.to_string() }
        }
        error => no_driver(&error),
    }
}
