//! A real plugin process on the library that plays GPUs.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atoll_testkit::ports::Port;
use atoll_testkit::{ManagedProcess, ProcessSpec, binaries};

use crate::kubelet::Kubelet;
use crate::site::Site;

/// A kubeconfig of an API server that is not there: the plugin keeps trying.
const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\ncurrent-context: none\n\
    clusters: [{name: none, cluster: {server: 'http://127.0.0.1:9'}}]\n\
    users: [{name: none, user: {}}]\n\
    contexts: [{name: none, context: {cluster: none, user: none}}]\n";

/// One process and its kubelet.
pub struct Plugin {
    /// What it is told by, and tells.
    pub kubelet: Kubelet,
    process: ManagedProcess,
    control: PathBuf,
    port: Port,
    began: Instant,
}

impl Plugin {
    /// Starts one on a node with these GPUs, in a folder of its own; without a Site and a name of the node there, nobody
    /// takes its `GPUNode`.
    pub fn start(dir: &Path, gpus: &str, on: Option<(&Site, &str)>) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let kubelet = Kubelet::start(dir)?;
        let control = dir.join("control");
        fs::write(&control, format!("node {gpus}\n"))?;
        let (kubeconfig, name) = if let Some((site, name)) = on {
            (site.kubeconfig(), name)
        } else {
            let file = dir.join("kubeconfig");
            fs::write(&file, KUBECONFIG)?;
            (file, "bench")
        };
        let port = Port::lease()?;
        let program = binaries::path("atoll-device-plugin")?;
        let spec = ProcessSpec::new("atoll-device-plugin", program, dir.join("log"))
            .args([
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--node-name={name}"),
                format!("--http-address=127.0.0.1:{}", port.number()),
                format!("--nvml={}", atoll_testkit::fake_nvml()?.display()),
                "--without-host-files".to_owned(),
                format!("--kubelet-dir={}", dir.display()),
                format!("--cdi-dir={}", dir.join("cdi").display()),
            ])
            // As in deploy/site/device-plugin.yaml.
            .env("MALLOC_ARENA_MAX", "2")
            .env("ATOLL_FAKE_NVML_CONTROL", &control)
            .env("ATOLL_FAKE_NVML_LATENCY", "recorded");
        let began = Instant::now();
        let process = ManagedProcess::start(spec)?;
        Ok(Self { kubelet, process, control, port, began })
    }

    /// Tells the library what happens, and gives the time before it can know.
    pub fn happens(&self, command: &str) -> Result<Instant> {
        let mut file = OpenOptions::new().append(true).open(&self.control)?;
        let now = Instant::now();
        writeln!(file, "{command}")?;
        Ok(now)
    }

    /// What a scrape says.
    pub fn scrape(&self) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number()))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("{}", answer.lines().next().unwrap_or("no answer"));
        }
        Ok(answer)
    }

    /// From the start until a scrape shows so many devices.
    pub fn first_scrape(&self, devices: usize) -> Result<Duration> {
        loop {
            let scraped = self.scrape().unwrap_or_default();
            if scraped.lines().filter(|line| line.starts_with("DCGM_FI_DEV_GPU_TEMP{")).count() == devices {
                return Ok(self.began.elapsed());
            }
            if self.began.elapsed() > Duration::from_secs(30) {
                bail!("no scrape shows {devices} devices");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory in MiB: (all, of which private).
    pub fn memory(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let kib = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
            Ok(line.trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
        };
        Ok((kib("VmRSS:")?, kib("RssAnon:")?))
    }

    /// Time on a processor so far, all threads.
    pub fn cpu(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.pid()))? {
            let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += stat.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}
