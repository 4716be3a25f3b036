use super::*;

use std::os::unix::fs::symlink;

use tempfile::TempDir;

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A node with two GPUs, of which the second is divided, and the driver below this folder of it.
fn node(driver: &str) -> (TempDir, HostFiles) {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    for file in
        ["nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1", "nvidia-caps/nvidia-cap30", "nvidia-caps/nvidia-cap31"]
    {
        write(root, &format!("dev/{file}"), "");
    }
    let mig = "proc/driver/nvidia/capabilities/gpu1/mig/gi3";
    write(root, &format!("{mig}/access"), "DeviceFileMinor: 30\nDeviceFileMode: 292\n");
    write(root, &format!("{mig}/ci0/access"), "DeviceFileMinor: 31\nDeviceFileMode: 292\n");
    write(root, "proc/driver/nvidia/gpus/0000:1b:00.0/information", "");
    write(root, "sys/bus/pci/devices/0000:1b:00.0/numa_node", "1\n");
    write(root, "sys/bus/pci/devices/0000:1c:00.0/numa_node", "-1\n");
    let installed = root.join(driver.trim_start_matches('/'));
    for library in ["libcuda.so.580.95.05", "libnvidia-ml.so.580.95.05", "libnvidia-gpucomp.so.580.95.05", "libc.so.6"]
    {
        write(&installed, &format!("{LIBRARIES}/{library}"), "");
    }
    let link = |target: &str, name: &str| symlink(target, installed.join(LIBRARIES).join(name)).unwrap();
    link("libcuda.so.580.95.05", "libcuda.so.1");
    link("libcuda.so.1", "libcuda.so");
    // As Debian's alternatives do it: an absolute link, which leads out of the driver's tree if followed as it is.
    link("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05", "libnvidia-ml.so.1");
    write(&installed, "usr/bin/nvidia-smi", "");
    let files = HostFiles { host: root.to_owned(), driver: driver.into() };
    (folder, files)
}

fn gpu(minor: u32) -> Device {
    let id: crate::backend::DeviceId = format!("GPU-{minor}").into();
    Device { id: id.clone(), gpu: id, minor: Some(minor), ..Device::default() }
}

fn mig() -> Device {
    let instance = Instance { gpu_instance: 3, compute_instance: 0, profile: "2g.20gb".to_owned() };
    Device { id: "MIG-a".into(), instance: Some(instance), ..gpu(1) }
}

fn paths(edits: &ContainerEdits) -> Vec<&str> {
    edits.device_files.iter().map(|path| path.to_str().unwrap()).collect()
}

#[test]
fn a_container_gets_the_files_of_its_gpu_and_no_other() {
    let (_folder, files) = node("/");
    let edits = edits(Some(&files), &[gpu(0), gpu(0)]).unwrap();
    assert_eq!(paths(&edits), ["/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"]);
    assert_eq!(edits.env, [("NVIDIA_VISIBLE_DEVICES".to_owned(), "GPU-0".to_owned())]);
}

#[test]
fn an_instance_comes_with_the_files_that_allow_its_use() {
    let (_folder, files) = node("/");
    let edits = edits(Some(&files), &[mig()]).unwrap();
    let caps = ["/dev/nvidia-caps/nvidia-cap30", "/dev/nvidia-caps/nvidia-cap31"];
    assert_eq!(paths(&edits), [caps[0], caps[1], "/dev/nvidia-uvm", "/dev/nvidia1", "/dev/nvidiactl"]);
    assert_eq!(edits.env[0].1, "MIG-a");
}

#[test]
fn files_that_only_some_nodes_have_are_given_where_they_are() {
    let (folder, files) = node("/");
    write(folder.path(), "dev/nvidia-modeset", "");
    let edits = edits(Some(&files), &[gpu(0)]).unwrap();
    assert!(paths(&edits).contains(&"/dev/nvidia-modeset") && !paths(&edits).contains(&"/dev/nvidia-uvm-tools"));
}

#[test]
fn libraries_are_mounted_under_the_names_that_programs_load() {
    for driver in ["/", "/run/nvidia/driver"] {
        let (_folder, files) = node(driver);
        let edits = edits(Some(&files), &[gpu(0)]).unwrap();
        let source = |name: &str| Path::new(driver).join(LIBRARIES).join(name);
        let mounted = |name: &str| -> Vec<&PathBuf> {
            let targets = LOADED_FROM.map(|folder| Path::new(folder).join(name));
            edits.mounts.iter().filter(|(_, to)| targets.contains(to)).map(|(from, _)| from).collect()
        };
        for (name, real) in [
            ("libcuda.so.1", "libcuda.so.580.95.05"),
            ("libcuda.so", "libcuda.so.580.95.05"),
            ("libnvidia-ml.so.1", "libnvidia-ml.so.580.95.05"),
            ("libnvidia-gpucomp.so.580.95.05", "libnvidia-gpucomp.so.580.95.05"),
        ] {
            assert_eq!(mounted(name), [&source(real), &source(real)], "{name} of {driver}");
        }
        assert!(mounted("libcuda.so.580.95.05").is_empty() && mounted("libc.so.6").is_empty());
        let program = (Path::new(driver).join("usr/bin/nvidia-smi"), PathBuf::from("/usr/bin/nvidia-smi"));
        assert!(edits.mounts.contains(&program));
    }
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    type Break = fn(&Path);
    let broken: [(Break, &str); 4] = [
        (|root| fs::remove_file(root.join("dev/nvidia-uvm")).unwrap(), "/dev/nvidia-uvm is missing on this node; run"),
        (|root| fs::remove_file(root.join("dev/nvidia1")).unwrap(), "/dev/nvidia1 is missing on this node; run"),
        (
            |root| fs::remove_dir_all(root.join("proc")).unwrap(),
            "cannot read /proc/driver/nvidia/capabilities/gpu1/mig/gi3/",
        ),
        (|root| fs::remove_dir_all(root.join("usr")).unwrap(), "say with --driver-root where the driver is"),
    ];
    for (break_it, message) in broken {
        let (folder, files) = node("/");
        break_it(folder.path());
        let error = edits(Some(&files), &[mig()]).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn without_files_of_the_host_a_container_gets_names_only() {
    let edits = edits(None, &[gpu(0), mig()]).unwrap();
    let env = vec![("NVIDIA_VISIBLE_DEVICES".to_owned(), "GPU-0,MIG-a".to_owned())];
    assert_eq!(edits, ContainerEdits { env, ..ContainerEdits::default() });
}

#[test]
fn the_kernel_says_which_gpus_are_plugged_in_and_near_which_memory() {
    let (_folder, files) = node("/");
    assert_eq!(files.plugged(), [OsString::from("0000:1b:00.0")].into());
    assert_eq!(files.numa("00000000:1B:00.0"), Some(1));
    assert_eq!((files.numa("00000000:1C:00.0"), files.numa("00000000:1D:00.0"), files.numa("")), (None, None, None));
}

#[test]
fn links_in_circles_lead_nowhere() {
    let folder = TempDir::new().unwrap();
    symlink("b", folder.path().join("a")).unwrap();
    symlink("a", folder.path().join("b")).unwrap();
    assert_eq!(resolve(folder.path(), Path::new("a")), None);
}
