//! A node for one test.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(unsafe_code, reason = "selecting a node is a C call")]

use std::ffi::CString;
use std::path::PathBuf;

use atoll_fake_nvml::Control;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::NvmlLib;

/// The library, built beside this test.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().join("libatoll_fake_nvml.so")
}

/// A node with a control file of its own. The calling thread talks to it.
pub struct Node {
    folder: tempfile::TempDir,
    control: Control,
}

impl Node {
    /// A new one.
    pub fn new(spec: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = Control::create(folder.path().join("control"), spec).unwrap();
        let node = Self { folder, control };
        node.select();
        node
    }

    /// The path of its control file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// From now on this thread talks to it.
    pub fn select(&self) {
        select(&CString::new(self.path().to_str().unwrap()).unwrap());
    }

    /// The library as C programs see it, initialised.
    pub fn library(&self) -> NvmlLib {
        self.select();
        // SAFETY: the library was made for it.
        let found = unsafe { NvmlLib::new(library()) }.unwrap();
        // SAFETY: the function has this type.
        assert_eq!(unsafe { found.nvmlInit_v2() }, 0);
        found
    }

    /// Sends a command.
    pub fn send(&mut self, command: &str) {
        self.control.send(command).unwrap();
    }

    /// The library as programs see it.
    pub fn nvml(&self) -> Nvml {
        self.try_nvml().unwrap()
    }

    /// The library as programs see it, or why it cannot be used.
    pub fn try_nvml(&self) -> Result<Nvml, NvmlError> {
        self.select();
        Nvml::builder().lib_path(library().as_os_str()).init()
    }
}

/// A node whose control file is at a path that somebody else looks after.
pub struct Named {
    path: CString,
    /// For commands.
    pub control: Control,
    /// None while it is being closed.
    pub nvml: Option<Nvml>,
}

impl Named {
    /// A new one, which the calling thread talks to.
    pub fn create(path: &std::path::Path, spec: &str) -> Self {
        let control = Control::create(path, spec).unwrap();
        let mut node = Self { path: CString::new(path.to_str().unwrap()).unwrap(), control, nvml: None };
        node.select();
        node.nvml = Some(Nvml::builder().lib_path(library().as_os_str()).init().unwrap());
        node
    }

    /// From now on this thread talks to it.
    pub fn select(&self) {
        select(&self.path);
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // What is closed is what the thread talks to.
        self.select();
        self.nvml = None;
    }
}

/// From now on this thread talks to the node of a control file.
fn select(path: &std::ffi::CStr) {
    static LIBRARY: std::sync::OnceLock<NvmlLib> = std::sync::OnceLock::new();
    // SAFETY: the library was made for it. Its state is in it, so it stays loaded.
    let library = LIBRARY.get_or_init(|| unsafe { NvmlLib::new(library()) }.unwrap());
    // SAFETY: the function is there with this type, and the path ends with a zero byte.
    unsafe {
        let select =
            library.__library.get::<unsafe extern "C" fn(*const std::ffi::c_char) -> u32>(b"atollFakeNvmlSelect\0");
        assert_eq!(select.unwrap()(path.as_ptr()), 0);
    }
}
