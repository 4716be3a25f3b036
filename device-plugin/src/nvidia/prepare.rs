//! What a container needs to use GPUs: their device files, and the driver's libraries.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use atoll_nvml::find_library;

use crate::backend::{BackendError, ContainerEdits, Device, Instance};

/// Symbolic links that are followed on one way.
const MOST_LINKS: usize = 40;
/// What programs look at to know their GPUs.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// Device files that CUDA needs.
const CONTROL: [&str; 2] = ["dev/nvidiactl", "dev/nvidia-uvm"];
/// Those that only some programs need, and not every node has.
const EXTRA: [&str; 2] = ["dev/nvidia-uvm-tools", "dev/nvidia-modeset"];
/// Libraries without which nothing works.
const NEEDED: [&str; 2] = ["libcuda.so", "libnvidia-ml.so"];
/// Those of one kind of work or the other, or of some versions only.
const USEFUL: [&str; 11] = [
    "libcudadebugger.so",
    "libnvcuvid.so",
    "libnvidia-cfg.so",
    "libnvidia-encode.so",
    "libnvidia-gpucomp.so",
    "libnvidia-nvvm.so",
    "libnvidia-nvvm70.so",
    "libnvidia-opencl.so",
    "libnvidia-opticalflow.so",
    "libnvidia-pkcs11-openssl3.so",
    "libnvidia-ptxjitcompiler.so",
];
/// Programs of the driver.
const PROGRAMS: [&str; 1] = ["usr/bin/nvidia-smi"];
/// Where the loaders of Debian's family and of Fedora's look without being told, so that no image has to be prepared.
const LOADED_FROM: [&str; 2] = [
    if cfg!(target_arch = "aarch64") { "/usr/lib/aarch64-linux-gnu" } else { "/usr/lib/x86_64-linux-gnu" },
    "/usr/lib64",
];

/// The host's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFiles {
    /// Where this process sees the host's file tree: "/" on the host itself, else where it is mounted.
    pub host: PathBuf,
    /// Where the driver is installed, as the host sees it: "/", or a folder where a container brings it.
    pub driver: PathBuf,
}

impl HostFiles {
    /// The driver's library, where it is in a usual place, as this process can open it.
    pub(super) fn library(&self) -> Option<PathBuf> {
        let root = self.driver_root();
        let found = find_library(&root)?;
        Some(root.join(resolve(&root, found.strip_prefix(&root).ok()?)?))
    }

    /// The GPUs that the kernel's part of the driver has, by PCI address.
    pub(super) fn plugged(&self) -> BTreeSet<OsString> {
        let entries = fs::read_dir(self.host.join("proc/driver/nvidia/gpus"));
        entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name())).collect()
    }

    /// The NUMA node that the kernel names for a PCI address of NVML's form.
    pub(super) fn numa(&self, pci_address: &str) -> Option<u32> {
        // NVML writes eight digits of the domain, the kernel four.
        let address = pci_address.get(4..)?.to_lowercase();
        let file = self.host.join("sys/bus/pci/devices").join(address).join("numa_node");
        // -1: none.
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    fn driver_root(&self) -> PathBuf {
        self.host.join(relative(&self.driver))
    }

    /// A file of the driver by the host's path, with links followed within the driver's tree: None where it is not.
    fn of_driver(&self, path: &Path) -> Option<PathBuf> {
        resolve(&self.driver_root(), path).map(|real| self.driver.join(real))
    }
}

/// What a container needs to use these devices. Without files of the host: their names alone.
pub(super) fn edits(files: Option<&HostFiles>, devices: &[Device]) -> Result<ContainerEdits, BackendError> {
    let mut names: Vec<&str> = Vec::new();
    for device in devices {
        if !names.contains(&&*device.id) {
            names.push(&device.id);
        }
    }
    let mut edits = ContainerEdits { env: vec![(VISIBLE.to_owned(), names.join(","))], ..ContainerEdits::default() };
    if let Some(files) = files {
        edits.device_files = device_files(files, devices)?;
        edits.mounts = libraries(files)?;
        edits.mounts.extend(programs(files));
    }
    Ok(edits)
}

fn device_files(files: &HostFiles, devices: &[Device]) -> Result<Vec<PathBuf>, BackendError> {
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    let mut need = |path: String, advice: &str| {
        if files.host.join(&path).exists() {
            paths.insert(Path::new("/").join(path));
            return Ok(());
        }
        Err(problem(format!("/{path} is missing on this node; {advice}")))
    };
    for path in CONTROL {
        need(path.to_owned(), "run `nvidia-modprobe -c0 -u` on it, or nvidia-smi once as root")?;
    }
    for device in devices {
        let minor =
            device.minor.ok_or_else(|| problem(format!("the driver does not say which file {} has", device.gpu)))?;
        need(format!("dev/nvidia{minor}"), "run nvidia-smi on it once as root, which makes the files of all GPUs")?;
        if let Some(instance) = &device.instance {
            for capability in capabilities(files, minor, instance)? {
                need(capability, "run `nvidia-modprobe -f` for it, or nvidia-smi once as root")?;
            }
        }
    }
    for path in EXTRA {
        if files.host.join(path).exists() {
            paths.insert(Path::new("/").join(path));
        }
    }
    Ok(paths.into_iter().collect())
}

/// The files that allow the use of an instance: of its GPU instance and of its compute instance. The driver numbers
/// them as it likes, and says how.
fn capabilities(files: &HostFiles, minor: u32, instance: &Instance) -> Result<[String; 2], BackendError> {
    let of_gpu = format!("proc/driver/nvidia/capabilities/gpu{minor}/mig/gi{}", instance.gpu_instance);
    let of_compute = format!("{of_gpu}/ci{}", instance.compute_instance);
    let file = |folder: &str| {
        let path = format!("{folder}/access");
        let text = fs::read_to_string(files.host.join(&path))
            .map_err(|error| problem(format!("cannot read /{path}: {error}; was the instance just removed?")))?;
        let number: Option<u32> =
            text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:")?.trim().parse().ok());
        let number = number.ok_or_else(|| problem(format!("/{path} does not name a device file")))?;
        Ok(format!("dev/nvidia-caps/nvidia-cap{number}"))
    };
    Ok([file(&of_gpu)?, file(&of_compute)?])
}

fn libraries(files: &HostFiles) -> Result<Vec<(PathBuf, PathBuf)>, BackendError> {
    let root = files.driver_root();
    let folder = find_library(&root).and_then(|library| library.parent().map(Path::to_path_buf));
    let folder = folder.ok_or_else(|| {
        problem(format!("no libnvidia-ml.so.1 below {}; say with --driver-root where the driver is", root.display()))
    })?;
    let entries =
        fs::read_dir(&folder).map_err(|error| problem(format!("cannot read {}: {error}", folder.display())))?;
    let names: BTreeSet<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let inside_root = folder.strip_prefix(&root).unwrap_or(&folder);
    let mut mounts = Vec::new();
    for stem in NEEDED.into_iter().chain(USEFUL) {
        let found = versions(&names, stem);
        if found.is_empty() && NEEDED.contains(&stem) {
            return Err(problem(format!("no {stem}.1 in {}; is the driver installed completely?", folder.display())));
        }
        for name in found {
            if let Some(source) = files.of_driver(&inside_root.join(name)) {
                mounts.extend(LOADED_FROM.map(|target| (source.clone(), Path::new(target).join(name))));
            }
        }
    }
    Ok(mounts)
}

/// The names under which programs load a library: its plain name and its interface's, such as `libcuda.so.1`; and
/// where it has none but the full version, that one.
fn versions<'a>(names: &'a BTreeSet<String>, stem: &str) -> Vec<&'a str> {
    let version = |name: &'a str| name.strip_prefix(stem);
    let short = |name: &&'a str| version(name).is_some_and(|rest| rest.is_empty() || is_number(rest));
    let full = |name: &&'a str| {
        version(name).is_some_and(|rest| rest.starts_with('.') && rest.split('.').skip(1).all(is_digits))
    };
    let all = || names.iter().map(String::as_str);
    if all().any(|name| version(name).is_some_and(is_number)) {
        return all().filter(short).collect();
    }
    all().filter(full).collect()
}

fn is_number(rest: &str) -> bool {
    rest.strip_prefix('.').is_some_and(is_digits)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn programs(files: &HostFiles) -> Vec<(PathBuf, PathBuf)> {
    let mount = |path: &&str| Some((files.of_driver(Path::new(path))?, Path::new("/").join(path)));
    PROGRAMS.iter().filter_map(mount).collect()
}

fn problem(message: String) -> BackendError {
    BackendError::Call { call: "preparing a container", message }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Follows symbolic links as if `root` were the root of the file tree; the result is relative to it. None where a part
/// is missing or links go in circles.
fn resolve(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut real = PathBuf::new();
    let mut left: Vec<OsString> = parts(path);
    let mut followed = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            real.pop();
            continue;
        }
        let next = root.join(&real).join(&part);
        if !next.symlink_metadata().ok()?.is_symlink() {
            real.push(part);
            continue;
        }
        followed += 1;
        if followed > MOST_LINKS {
            return None;
        }
        let target = fs::read_link(&next).ok()?;
        if target.is_absolute() {
            real.clear();
        }
        left.extend(parts(&target));
    }
    Some(real)
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().rev().filter_map(part).collect()
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
