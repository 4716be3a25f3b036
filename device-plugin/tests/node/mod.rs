//! A node of the fake library for one test.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use atoll_core::device::Fault;
use atoll_device_plugin::backend::{Backend, Device, Events, Subject};
use atoll_device_plugin::nvidia::{HostFiles, Nvidia, Options};
use atoll_fake_nvml::{Control, World};

const CONTROL: &str = "ATOLL_FAKE_NVML_CONTROL";

/// A node, and the backend over it.
pub struct Node {
    control: Control,
    pub backend: Nvidia,
}

/// Runs a test on a node of its own. The library finds its node by the environment, which belongs to a process, so the
/// test runs again in a process of its own.
pub fn on(test: &str, spec: &str, body: impl FnOnce(&mut Node)) {
    if let Some(path) = std::env::var_os(CONTROL) {
        let control = Control::open(path).unwrap();
        return body(&mut Node { control, backend: backend(None) });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    Control::create(&path, spec).unwrap();
    let mut itself = Command::new(std::env::current_exe().unwrap());
    let done = itself.args([test, "--exact", "--nocapture"]).env(CONTROL, path).output().unwrap();
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(done.status.success(), "{spec}\n{}", said.join("\n"));
    assert!(said[0].contains("1 passed"), "{test} is not the name of this test");
}

/// The backend over the fake library.
pub fn backend(files: Option<HostFiles>) -> Nvidia {
    let test = std::env::current_exe().unwrap();
    let library: PathBuf = test.parent().unwrap().join("libatoll_fake_nvml.so");
    assert!(library.exists(), "{} is built with the tests", library.display());
    Nvidia::new(Options { library: Some(library), files })
}

impl Node {
    pub fn send(&mut self, command: &str) {
        self.control.send(command).unwrap();
    }

    pub fn world(&mut self) -> World {
        self.control.world().clone()
    }

    pub fn devices(&mut self) -> Vec<Device> {
        self.backend.devices().unwrap()
    }

    pub fn events(&mut self) -> Box<dyn Events> {
        let devices = self.devices();
        self.backend.events(&devices).unwrap()
    }

    /// The fake's clock in seconds, which stands still from now on.
    pub fn stop_clock(&mut self) -> f64 {
        self.send("clock stop");
        self.world().time(0.0)
    }
}

/// The next events, as (whom, what).
pub fn next(events: &mut dyn Events) -> Vec<(Subject, Fault)> {
    let events = events.wait(Duration::from_secs(5)).unwrap();
    events.into_iter().map(|event| (event.subject, event.fault)).collect()
}
