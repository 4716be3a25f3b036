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
        let path = CString::new(self.path().to_str().unwrap()).unwrap();
        // SAFETY: the function is there with this type, and the path ends with a zero byte.
        unsafe {
            let library = NvmlLib::new(library()).unwrap();
            let select =
                library.__library.get::<unsafe extern "C" fn(*const std::ffi::c_char) -> u32>(b"atollFakeNvmlSelect\0");
            assert_eq!(select.unwrap()(path.as_ptr()), 0);
            // Its state is in the library, which has to stay loaded.
            std::mem::forget(library);
        }
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
        Nvml::builder().lib_path(library().as_os_str()).init()
    }
}
