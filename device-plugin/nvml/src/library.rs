//! The library: found, loaded, initialised, and shut down when nobody uses it any more.

use std::ffi::{c_char, c_uint};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvml_wrapper_sys::bindings::{NvmlLib, nvmlDevice_t};

use crate::call::{check, symbol, text};
use crate::{Device, Error};

/// Name of the library, as the driver installs it.
const NAME: &str = "libnvidia-ml.so.1";

/// Folders in which drivers install it: Debian's, Fedora's, plain ones, and those of drivers in containers and of
/// nodes that Google, Talos and WSL make.
const FOLDERS: [&str; 12] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "lib64",
    "lib",
    "usr/local/nvidia/lib64",
    "home/kubernetes/bin/nvidia/lib64",
    "usr/local/glibc/usr/lib",
    "usr/lib/wsl/lib",
];

/// Where the driver's library lies below this root, and None where it lies in no usual place. It may be a symbolic link,
/// and one that means the root: following it is left to the caller.
#[must_use]
pub fn find_library(root: &Path) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| root.join(folder).join(NAME)).find(|path| path.symlink_metadata().is_ok())
}

/// NVML, loaded and initialised. Copies share it; it is shut down with the last of them and of what came from them.
#[derive(Clone)]
pub struct Nvml(Arc<Library>);

impl fmt::Debug for Nvml {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Nvml")
    }
}

impl Nvml {
    /// Loads this library and initialises it. Without a path the loader looks in its own places.
    pub fn open(path: Option<&Path>) -> Result<Self, Error> {
        let path = path.unwrap_or(Path::new(NAME));
        // SAFETY: loading runs the library's initialisers. Whoever configures the path vouches that it is NVML, of
        // which they are known to be harmless; the bindings then only look symbols up.
        let symbols = unsafe { NvmlLib::new(path) }
            .map_err(|error| Error::Load { path: path.display().to_string(), message: error.to_string() })?;
        let initialise = symbol("nvmlInit_v2", &symbols.nvmlInit_v2)?;
        // SAFETY: it takes nothing, and may be called at any time.
        check("nvmlInit_v2", unsafe { initialise() })?;
        Ok(Self(Arc::new(Library { symbols })))
    }

    /// Version of the driver, such as "580.95.05".
    pub fn driver_version(&self) -> Result<String, Error> {
        let function = symbol("nvmlSystemGetDriverVersion", &self.symbols().nvmlSystemGetDriverVersion)?;
        text::<80>("nvmlSystemGetDriverVersion", |buffer: *mut c_char, length: c_uint| {
            // SAFETY: `text` passes a buffer and its length, of which the function fills at most so much.
            unsafe { function(buffer, length) }
        })
    }

    /// Highest CUDA version that the driver supports, as (major, minor).
    pub fn cuda_version(&self) -> Result<(u32, u32), Error> {
        let function = symbol("nvmlSystemGetCudaDriverVersion_v2", &self.symbols().nvmlSystemGetCudaDriverVersion_v2)?;
        let mut version = 0;
        // SAFETY: the pointer is to one int, which the function writes.
        check("nvmlSystemGetCudaDriverVersion_v2", unsafe { function(&raw mut version) })?;
        let version = version.unsigned_abs();
        Ok((version / 1000, version % 1000 / 10))
    }

    /// How many GPUs the driver counts, those that it cannot reach included.
    pub fn device_count(&self) -> Result<u32, Error> {
        let function = symbol("nvmlDeviceGetCount_v2", &self.symbols().nvmlDeviceGetCount_v2)?;
        let mut count = 0;
        // SAFETY: the pointer is to one unsigned int, which the function writes.
        check("nvmlDeviceGetCount_v2", unsafe { function(&raw mut count) })?;
        Ok(count)
    }

    /// The GPU of this number.
    pub fn device(&self, index: u32) -> Result<Device, Error> {
        let function = symbol("nvmlDeviceGetHandleByIndex_v2", &self.symbols().nvmlDeviceGetHandleByIndex_v2)?;
        let mut handle: nvmlDevice_t = std::ptr::null_mut();
        // SAFETY: the pointer is to one handle, which the function writes.
        check("nvmlDeviceGetHandleByIndex_v2", unsafe { function(index, &raw mut handle) })?;
        Ok(Device::new(self.clone(), handle))
    }

    pub(crate) fn symbols(&self) -> &NvmlLib {
        &self.0.symbols
    }
}

struct Library {
    symbols: NvmlLib,
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Ok(shutdown) = &self.symbols.nvmlShutdown {
            // SAFETY: matches the call of nvmlInit_v2 in `open`. Everything that holds a handle holds this library,
            // so no handle is left. What it returns changes nothing: we are done either way.
            unsafe { shutdown() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_an_error_that_names_it() {
        let error = Nvml::open(Some(Path::new("/nowhere/libnvidia-ml.so.1"))).unwrap_err();
        assert!(error.to_string().starts_with("cannot load /nowhere/libnvidia-ml.so.1: "), "{error}");
        assert_eq!(error.code(), None);
    }

    #[test]
    fn the_library_is_found_below_a_root() {
        let root = std::env::temp_dir().join(format!("atoll-nvml-find-{}", std::process::id()));
        assert_eq!(find_library(&root), None);
        let folder = root.join("usr/lib64");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(NAME), "").unwrap();
        assert_eq!(find_library(&root), Some(folder.join(NAME)));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
