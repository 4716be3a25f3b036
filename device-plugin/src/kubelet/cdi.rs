//! The file by which a container runtime gives devices to containers (Container Device Interface).
//!
//! The file stays when this process ends: containers restart while it is away. It is never emptied either, which the
//! format does not allow; a name in it whose device is gone does no harm, for nobody is given it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::Prepare;
use crate::backend::{ContainerEdits, Device, DeviceId, Driver};
use crate::state::NodeDevices;

/// The version that knows all that is written here: older runtimes read it too.
const VERSION: &str = "0.3.0";
/// How often it is tried again to prepare a device or to write the file.
const RETRY: Duration = Duration::from_secs(10);

/// The file and what has to be in it.
#[derive(Debug)]
pub struct SpecFile {
    dir: PathBuf,
    kind: String,
    devices: BTreeMap<DeviceId, ContainerEdits>,
}

impl SpecFile {
    /// A file in `dir` for devices of this kind ("vendor/class"). Nothing is written yet.
    #[must_use]
    pub fn new(dir: PathBuf, kind: String) -> Self {
        Self { dir, kind, devices: BTreeMap::new() }
    }

    /// Sets what is in it and writes it, if that changes the file.
    pub async fn set(&mut self, devices: BTreeMap<DeviceId, ContainerEdits>) -> io::Result<()> {
        if !devices.is_empty() {
            self.devices = devices;
        }
        self.ensure().await
    }

    /// Writes the file if it is not as it has to be: folders below /run may be cleaned.
    pub async fn ensure(&self) -> io::Result<()> {
        if self.devices.is_empty() {
            return Ok(());
        }
        let text = format!("{:#}\n", spec(&self.kind, &self.devices));
        let path = self.path();
        if tokio::fs::read(&path).await.is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        tokio::fs::create_dir_all(&self.dir).await?;
        // Runtimes read all files that end in .json, so the unfinished one must not.
        let unfinished = path.with_extension("unfinished");
        tokio::fs::write(&unfinished, text).await?;
        tokio::fs::rename(&unfinished, &path).await
    }

    /// The names by which a container is given these devices. One that needs nothing has none, as the format demands.
    #[must_use]
    pub fn names(&self, ids: &[DeviceId]) -> Vec<String> {
        let named = ids.iter().filter(|id| self.devices.get(*id).is_some_and(|edits| !is_empty(edits)));
        named.map(|id| format!("{}={id}", self.kind)).collect()
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(format!("{}.json", self.kind.replace('/', "-")))
    }
}

/// Variables are left out: they depend on all devices of a container together, so the kubelet is told them.
fn is_empty(edits: &ContainerEdits) -> bool {
    edits.device_files.is_empty() && edits.mounts.is_empty()
}

fn spec(kind: &str, devices: &BTreeMap<DeviceId, ContainerEdits>) -> Value {
    let show = |path: &Path| path.display().to_string();
    let devices = devices.iter().filter(|(_, edits)| !is_empty(edits)).map(|(id, edits)| {
        let nodes = edits.device_files.iter().map(|path| json!({"path": show(path), "permissions": "rw"}));
        let mounts = edits.mounts.iter().map(|(host, inside)| {
            let options = ["ro", "nosuid", "nodev", "rbind", "rprivate"];
            json!({"hostPath": show(host), "containerPath": show(inside), "options": options})
        });
        let mut all = serde_json::Map::new();
        all.insert("deviceNodes".to_owned(), nodes.collect());
        all.insert("mounts".to_owned(), mounts.collect());
        all.retain(|_, list| list.as_array().is_some_and(|list| !list.is_empty()));
        json!({"name": &**id, "containerEdits": all})
    });
    json!({"cdiVersion": VERSION, "kind": kind, "devices": devices.collect::<Vec<_>>()})
}

/// Keeps the file up to date with the devices; `ready` shows which devices a container can be given by it, and is None
/// until the first have been tried.
pub(super) async fn follow<P: Prepare>(
    file: Arc<Mutex<SpecFile>>,
    prepare: P,
    mut devices: watch::Receiver<Arc<NodeDevices>>,
    ready: watch::Sender<Option<BTreeSet<DeviceId>>>,
    stop: CancellationToken,
) {
    let mut edits: BTreeMap<DeviceId, ContainerEdits> = BTreeMap::new();
    let mut done: Option<(Option<Driver>, Vec<Arc<Device>>)> = None;
    loop {
        let now = Arc::clone(&devices.borrow_and_update());
        let these: Vec<_> = now.devices.iter().map(|state| Arc::clone(&state.device)).collect();
        let current = Some((now.driver.clone(), these.clone()));
        if current != done {
            let prepared = prepare_each(&prepare, &these, &mut edits).await;
            let complete = prepared.len() == these.iter().filter(|device| !device.lost).count();
            let written = file.lock().await.set(edits.clone()).await;
            if let Err(error) = &written {
                tracing::warn!(%error, "cannot write the CDI file; no device is offered until it is written");
            }
            done = if complete && written.is_ok() { current } else { None };
            ready.send_replace(Some(if written.is_ok() { prepared } else { BTreeSet::new() }));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = devices.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if done.is_none() => {}
        }
    }
}

/// Asks for the edits of each device; gives those that answered. What another one needed before is kept, for the
/// containers that have it.
async fn prepare_each<P: Prepare>(
    prepare: &P,
    devices: &[Arc<Device>],
    edits: &mut BTreeMap<DeviceId, ContainerEdits>,
) -> BTreeSet<DeviceId> {
    edits.retain(|id, _| devices.iter().any(|device| device.id == *id));
    let mut prepared = BTreeSet::new();
    for device in devices.iter().filter(|device| !device.lost) {
        match prepare.prepare(std::slice::from_ref(&device.id)).await {
            Ok(needs) => {
                edits.insert(Arc::clone(&device.id), needs);
                prepared.insert(Arc::clone(&device.id));
            }
            Err(error) => {
                tracing::warn!(device = %device.id, %error, "cannot say how a container uses the device; it is not offered");
            }
        }
    }
    prepared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(file: &str) -> ContainerEdits {
        ContainerEdits {
            env: vec![("A".to_owned(), "b".to_owned())],
            device_files: vec!["/dev/control".into(), file.into()],
            mounts: vec![("/usr/lib/host.so".into(), "/usr/lib/inside.so".into())],
        }
    }

    #[test]
    fn each_device_has_its_files_and_mounts_and_no_variables() {
        let devices =
            BTreeMap::from([("GPU-1".into(), edits("/dev/one")), ("GPU-2".into(), ContainerEdits::default())]);
        let expected = json!({
            "cdiVersion": "0.3.0",
            "kind": "atoll.dev/gpu",
            "devices": [{
                "name": "GPU-1",
                "containerEdits": {
                    "deviceNodes": [
                        {"path": "/dev/control", "permissions": "rw"},
                        {"path": "/dev/one", "permissions": "rw"},
                    ],
                    "mounts": [{
                        "hostPath": "/usr/lib/host.so",
                        "containerPath": "/usr/lib/inside.so",
                        "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
                    }],
                },
            }],
        });
        assert_eq!(spec("atoll.dev/gpu", &devices), expected);
    }

    #[tokio::test]
    async fn the_file_is_written_only_when_it_differs_and_never_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = SpecFile::new(dir.path().join("cdi"), "atoll.dev/gpu".to_owned());
        let modified = |file: &SpecFile| std::fs::metadata(file.path()).unwrap().modified().unwrap();
        file.set(BTreeMap::new()).await.unwrap();
        assert!(!file.path().exists());

        file.set(BTreeMap::from([("a".into(), edits("/dev/a"))])).await.unwrap();
        assert_eq!(file.path(), dir.path().join("cdi/atoll.dev-gpu.json"));
        let old = std::time::SystemTime::UNIX_EPOCH;
        std::fs::File::open(file.path()).unwrap().set_modified(old).unwrap();
        file.set(BTreeMap::from([("a".into(), edits("/dev/a"))])).await.unwrap();
        file.set(BTreeMap::new()).await.unwrap();
        assert_eq!(modified(&file), old);

        file.set(BTreeMap::from([("a".into(), edits("/dev/b"))])).await.unwrap();
        assert!(modified(&file) > old);
        std::fs::remove_dir_all(dir.path().join("cdi")).unwrap();
        file.ensure().await.unwrap();
        let names: Vec<_> =
            std::fs::read_dir(dir.path().join("cdi")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["atoll.dev-gpu.json"]);
    }

    #[tokio::test]
    async fn names_are_those_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = SpecFile::new(dir.path().to_owned(), "atoll.dev/gpu".to_owned());
        let devices = BTreeMap::from([("a".into(), edits("/dev/a")), ("b".into(), ContainerEdits::default())]);
        file.set(devices).await.unwrap();
        assert_eq!(file.names(&["a".into(), "b".into(), "c".into()]), ["atoll.dev/gpu=a"]);
    }
}
