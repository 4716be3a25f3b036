//! A real node: containerd, a kubelet and cluster DNS, for a test that runs as root.
//!
//! containerd and the kubelet run in mount and process namespaces of their
//! own, with their own `/run`, `/var/lib` and `/var/log`: the kubelet uses its
//! usual paths, two nodes do not meet, and when the namespaces' first process
//! dies the kernel kills every container and undoes every mount.

mod config;
mod host;

use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    ControlPlane, Error, Machine, ManagedProcess, ProcessSpec, Result,
    error::Doing as _,
    nodes,
    oci::{Image, ImageBuilder},
    ports::Port,
    scratch::Scratch,
    tools,
    wait::{eventually, wait_for},
};

const START_LIMIT: Duration = Duration::from_mins(2);

/// Whether a real node can run on this machine: it needs Linux, root, runc and the CNI plugins.
pub fn supported() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Unsupported("a real node needs root: run the test as root".to_owned()));
    }
    for file in ["/usr/sbin/runc", "/usr/lib/cni/bridge", "/usr/lib/cni/host-local", "/usr/lib/cni/loopback"] {
        if !Path::new(file).is_file() {
            return Err(Error::Unsupported(format!(
                "a real node needs {file}: run `make tools` as root, or apt-get install runc containernetworking-plugins"
            )));
        }
    }
    Ok(())
}

/// What a real node should be like.
#[derive(Debug, Clone)]
pub struct RealNodeOptions {
    /// The node's name.
    pub name: String,
    /// GPUs to pretend in the node's status, for tests without a device plugin; 0 leaves them to a real one.
    pub gpus: u32,
    /// Labels to add.
    pub labels: Vec<(String, String)>,
    /// Fields of `KubeletConfiguration` to set.
    pub kubelet: Value,
}

impl RealNodeOptions {
    /// A node without GPUs.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), gpus: 0, labels: Vec::new(), kubelet: json!({}) }
    }

    /// Pretends GPUs.
    #[must_use]
    pub fn gpus(mut self, gpus: u32) -> Self {
        self.gpus = gpus;
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// A running node; it ends on drop with all its containers.
#[derive(Debug)]
pub struct RealNode {
    // Fields are dropped in this order.
    dns: ManagedProcess,
    kubelet: ManagedProcess,
    containerd: ManagedProcess,
    /// Holds the namespaces; its end is everything's end.
    anchor: ManagedProcess,
    anchor_child: i32,
    options: RealNodeOptions,
    dns_ready_at: SocketAddr,
    _dns_port: Port,
    _kubelet_port: Port,
    slot: host::Slot,
    scratch: Scratch,
}

impl RealNode {
    /// Starts a node of this control plane, which must run the controllers of
    /// [`crate::ControlPlaneOptions::real_node`], and waits until it is Ready and DNS answers.
    pub async fn start(plane: &ControlPlane, options: RealNodeOptions) -> Result<Self> {
        Self::start_on(None, plane, options).await
    }

    /// The same with a network of its own, if given: whether it reaches anybody is up to that host's links.
    pub async fn start_on(machine: Option<&Machine>, plane: &ControlPlane, options: RealNodeOptions) -> Result<Self> {
        supported()?;
        let scratch = Scratch::new(&options.name)?;
        let slot = host::Slot::take(machine)?;
        let (kubelet_port, dns_port) = (Port::lease()?, Port::lease()?);
        let dir = scratch.path();
        let answers_at = machine.map_or(IpAddr::from([127, 0, 0, 1]), Machine::address);
        let kubelet_config =
            config::Kubelet { dir, address: &slot.address(), port: kubelet_port.number(), cgroup: &slot.cgroup() };
        let corefile = config::corefile(&slot.address(), answers_at, dns_port.number(), plane.kubeconfig());
        let cni = config::cni(&slot.bridge(), &slot.subnet(), &slot.address());
        write(dir, "cni/atoll.conflist", &cni.to_string())?;
        write(dir, "containerd.toml", &config::containerd(dir))?;
        write(dir, "kubelet.json", &kubelet_config.configuration(&options.kubelet).to_string())?;
        write(dir, "Corefile", &corefile)?;
        write_identity(dir, plane, &options.name, &slot)?;

        let name = |part: &str| format!("{} {part}", options.name);
        let (anchor, anchor_child) = start_anchor(&name("namespaces"), dir, machine).await?;
        let inside = Inside { dir, child: anchor_child };
        let containerd = inside.start(
            &name("containerd"),
            "containerd",
            &tools::path("containerd")?,
            &["--config".as_ref(), dir.join("containerd.toml").as_os_str()],
        )?;
        wait_socket(&containerd, &dir.join("containerd.sock")).await?;
        let dns = ManagedProcess::start(
            ProcessSpec::new(name("coredns"), tools::path("coredns")?, dir.join("coredns.log"))
                .args([OsStr::new("-conf"), dir.join("Corefile").as_os_str()])
                .on(machine),
        )?;
        let kubelet = inside.start(
            &name("kubelet"),
            "kubelet",
            &tools::path("kube")?,
            &[
                "kubelet".as_ref(),
                "--config".as_ref(),
                dir.join("kubelet.json").as_os_str(),
                "--kubeconfig".as_ref(),
                dir.join("kubelet.kubeconfig").as_os_str(),
                format!("--hostname-override={}", options.name).as_ref(),
                format!("--node-ip={}", slot.address()).as_ref(),
            ],
        )?;
        let node = Self {
            dns,
            kubelet,
            containerd,
            anchor,
            anchor_child,
            options,
            dns_ready_at: SocketAddr::new(answers_at, dns_port.number()),
            _dns_port: dns_port,
            _kubelet_port: kubelet_port,
            slot,
            scratch,
        };
        let pause = ImageBuilder::new(config::PAUSE).program("/pause", tools::path("pause")?).entrypoint(["/pause"]);
        node.import(&pause.write(node.scratch.join("pause.tar"))?).await?;
        node.wait_ready(plane.client()).await?;
        Ok(node)
    }

    async fn wait_ready(&self, client: Client) -> Result<()> {
        let api: Api<Node> = Api::all(client.clone());
        let ready = wait_for(&api, &self.options.name, "to be Ready", START_LIMIT, nodes::is_ready);
        let died = self.kubelet.wait_exit(START_LIMIT);
        tokio::select! {
            ready = ready => ready.map_err(|error| match error {
                Error::Timeout { what, after, last } => {
                    Error::Timeout { what, after, last: format!("{last}\n{}", self.kubelet.log_tail(30)) }
                }
                other => other,
            })?,
            _ = died => return self.kubelet.check_running(),
        };
        if self.options.gpus > 0 {
            self.set_gpus(&client, self.options.gpus).await?;
        }
        let labels: serde_json::Map<_, _> =
            self.options.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let patch = json!({"metadata": {"labels": labels}});
        api.patch(&self.options.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .doing(format!("label node {}", self.options.name))?;
        eventually("CoreDNS to be ready", START_LIMIT, async || {
            let ready = self.dns_ready().await;
            if let Err(error) = self.dns.check_running() {
                return Ok(Err(error));
            }
            ready.map(Ok)
        })
        .await?
    }

    async fn dns_ready(&self) -> Result<(), String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect(self.dns_ready_at).await?;
            stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        match tokio::time::timeout(Duration::from_secs(2), ask).await {
            Ok(Ok(answer)) if answer.contains(" 200 ") => Ok(()),
            Ok(Ok(answer)) => Err(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The node's address, where its pods also find DNS.
    #[must_use]
    pub fn address(&self) -> String {
        self.slot.address()
    }

    /// Where device plugins put their sockets and find the kubelet's, as seen from outside of the node.
    #[must_use]
    pub fn device_plugin_dir(&self) -> PathBuf {
        self.scratch.join("var-lib/kubelet/device-plugins")
    }

    /// The kubelet's pod-resources socket, as seen from outside of the node.
    #[must_use]
    pub fn pod_resources_socket(&self) -> PathBuf {
        self.scratch.join("var-lib/kubelet/pod-resources/kubelet.sock")
    }

    /// Where the container runtime reads files of the Container Device Interface.
    #[must_use]
    pub fn cdi_dir(&self) -> PathBuf {
        self.scratch.join("cdi")
    }

    /// The container runtime's socket. Process ids that it gives are those inside the node.
    #[must_use]
    pub fn runtime_socket(&self) -> PathBuf {
        self.scratch.join("containerd.sock")
    }

    /// The cgroup that all pods are in, below each hierarchy's mount point.
    #[must_use]
    pub fn cgroup(&self) -> String {
        self.slot.cgroup()
    }

    /// A folder that goes with the node; its logs are there.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// The kubelet's process.
    #[must_use]
    pub fn kubelet(&self) -> &ManagedProcess {
        &self.kubelet
    }

    /// Kills the kubelet, starts it again and waits for its socket for device plugins; gives when that was made.
    pub async fn restart_kubelet(&self) -> Result<SystemTime> {
        use std::os::unix::fs::MetadataExt as _;
        let socket = self.device_plugin_dir().join("kubelet.sock");
        let identity = || {
            let data = fs::metadata(&socket).map_err(|error| error.to_string())?;
            Ok::<_, String>((data.ino(), data.modified().map_err(|error| error.to_string())?))
        };
        let before = identity().ok();
        self.kubelet.restart().await?;
        eventually("the kubelet's socket for device plugins", START_LIMIT, async || {
            if let Err(error) = self.kubelet.check_running() {
                return Ok(Err(error));
            }
            let now = identity()?;
            if Some(now) == before { Err("the old one".to_owned()) } else { Ok(Ok(now.1)) }
        })
        .await?
    }

    /// containerd's process; containers outlive it.
    #[must_use]
    pub fn containerd(&self) -> &ManagedProcess {
        &self.containerd
    }

    /// Pulls the plug: kubelet, runtime and containers end at once, and the node is not deleted.
    pub async fn kill9(&self) -> Result<()> {
        self.anchor.kill9().await?;
        self.kubelet.kill9().await?;
        self.containerd.kill9().await
    }

    /// Makes the node's status say that it has so many GPUs. A kubelet keeps that until it restarts.
    pub async fn set_gpus(&self, client: &Client, gpus: u32) -> Result<()> {
        let count = json!({"nvidia.com/gpu": gpus.to_string()});
        let patch = json!({"status": {"capacity": count, "allocatable": count}});
        let api: Api<Node> = Api::all(client.clone());
        let patched = api.patch_status(&self.options.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.doing(format!("give GPUs to node {}", self.options.name)).map(drop)
    }

    /// Makes an image known to the node; pods then need `imagePullPolicy: Never` or `IfNotPresent`.
    pub async fn import(&self, image: &Image) -> Result<()> {
        self.ctr(["images".as_ref(), "import".as_ref(), image.archive.as_os_str()]).await.map(drop)
    }

    /// Imports the demo worker (see tests/controlplane/cmd/torch-demo); gives the image's name.
    pub async fn import_torch_demo(&self) -> Result<String> {
        let image = ImageBuilder::new("atoll.test/torch-demo:1")
            .program("/torch-demo", tools::path("torch-demo")?)
            .entrypoint(["/torch-demo"])
            .write(self.scratch.join("torch-demo.tar"))?;
        self.import(&image).await?;
        Ok(image.reference)
    }

    /// A container of the demo worker's image that is a rank by itself, stays until it is stopped, and knows its pod's name as
    /// `TEST_POD`.
    #[must_use]
    pub fn staying_container(image: &str, pod: &str) -> Value {
        json!({
            "name": "main",
            "image": image,
            "imagePullPolicy": "Never",
            "args": ["--stay"],
            "env": [
                {"name": "TEST_POD", "value": pod},
                {"name": "MASTER_ADDR", "value": "localhost"},
                {"name": "MASTER_PORT", "value": "29500"},
                {"name": "RANK", "value": "0"},
                {"name": "WORLD_SIZE", "value": "1"},
            ],
        })
    }

    /// Runs containerd's own client in the kubelet's namespace; gives its output.
    pub async fn ctr<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let socket = self.runtime_socket();
        let run = tokio::process::Command::new("nsenter")
            .args(nsenter_args(self.anchor_child))
            .arg(tools::path("ctr")?)
            .args([OsStr::new("--address"), socket.as_os_str()])
            .args(["--namespace", "k8s.io"])
            .args(args)
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(START_LIMIT, run)
            .await
            .map_err(|_| Error::Timeout {
                what: "ctr to end".to_owned(),
                after: START_LIMIT,
                last: self.containerd.log_tail(10),
            })?
            .doing("run ctr")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Command {
            command: "ctr".to_owned(),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// Processes inside the node's namespaces.
struct Inside<'a> {
    dir: &'a Path,
    child: i32,
}

impl Inside<'_> {
    fn start(&self, name: &str, part: &str, program: &Path, args: &[&OsStr]) -> Result<ManagedProcess> {
        let tools = tools::path("containerd")?;
        let tools = tools.parent().unwrap_or(Path::new("/"));
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
        let spec = ProcessSpec::new(name, "/usr/bin/nsenter", self.dir.join(format!("{part}.log")))
            .args(nsenter_args(self.child))
            .args([program])
            .args(args)
            .env("PATH", path);
        ManagedProcess::start(spec)
    }
}

fn nsenter_args(child: i32) -> [String; 6] {
    let child = child.to_string();
    ["--target", &child, "--mount", "--pid", "--net", "--"].map(str::to_owned)
}

/// Starts the process that holds the namespaces, with the node's own `/run`, `/var/lib` and `/var/log` in place.
async fn start_anchor(name: &str, dir: &Path, machine: Option<&Machine>) -> Result<(ManagedProcess, i32)> {
    for own in ["var-lib/kubelet", "var-lib/cni", "var-log/pods"] {
        fs::create_dir_all(dir.join(own)).doing(format!("make {own}"))?;
    }
    let script = r#"set -e
cd "$1"
mount -t tmpfs tmpfs /run
mount --rbind var-lib /var/lib
mount --rbind var-log /var/log
: >namespaces-ready
exec "$2""#;
    let pause = tools::path("pause")?;
    let spec = ProcessSpec::new(name, "/usr/bin/unshare", dir.join("namespaces.log"))
        .args(["--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"])
        .args(["/bin/sh", "-c", script, "sh"])
        .args([dir, &pause])
        .on(machine);
    let anchor = ManagedProcess::start(spec)?;
    let child = eventually("the node's namespaces", START_LIMIT, async || {
        if let Err(error) = anchor.check_running() {
            return Ok(Err(error));
        }
        if !dir.join("namespaces-ready").exists() {
            return Err(anchor.log_tail(10));
        }
        host::child_of(anchor.pid()).map(Ok).ok_or_else(|| "no child".to_owned())
    })
    .await??;
    Ok((anchor, child))
}

async fn wait_socket(containerd: &ManagedProcess, socket: &Path) -> Result<()> {
    eventually("containerd to listen", START_LIMIT, async || {
        if let Err(error) = containerd.check_running() {
            return Ok(Err(error));
        }
        match tokio::net::UnixStream::connect(socket).await {
            Ok(_) => Ok(Ok(())),
            Err(error) => Err(format!("{error}\n{}", containerd.log_tail(10))),
        }
    })
    .await?
}

fn write(dir: &Path, name: &str, content: &str) -> Result<()> {
    let path = dir.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).doing(format!("make {}", parent.display()))?;
    }
    fs::write(&path, content).doing(format!("write {}", path.display()))
}

/// The kubelet's certificates and its kubeconfig, as the node that it is.
fn write_identity(dir: &Path, plane: &ControlPlane, name: &str, slot: &host::Slot) -> Result<()> {
    let serving = plane.authority().server(&[name, &slot.address()])?;
    write(dir, "ca.crt", plane.authority().certificate())?;
    write(dir, "kubelet.crt", &serving.certificate)?;
    write(dir, "kubelet.key", &serving.key)?;
    let kubeconfig = plane.kubeconfig_as(&format!("system:node:{name}"), &["system:nodes"])?;
    fs::copy(&kubeconfig, dir.join("kubelet.kubeconfig")).doing("copy the kubelet's kubeconfig").map(drop)
}
