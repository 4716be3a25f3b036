//! Many agents in a process of their own, so that their memory and time are not the gateway's nor the benchmark's.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atoll_wire_client::{Endpoint, Identity};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;

use crate::agent::{Agent, State};

/// Agents begin so many connections a second at the first time.
const RAMP: u32 = 400;

/// What the process of the agents is told in a file.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// The gateway.
    pub gateway: SocketAddr,
    /// The hub's CA, DER.
    pub ca: Vec<u8>,
    /// Name, certificate and key of each Site.
    pub sites: Vec<(String, Vec<u8>, Vec<u8>)>,
}

impl Plan {
    fn identities(&self) -> Vec<Identity> {
        let identity = |(site, certificate, key): &(String, Vec<u8>, Vec<u8>)| Identity {
            site: site.clone(),
            certificate: certificate.clone().into(),
            key: key.clone().into(),
        };
        self.sites.iter().map(identity).collect()
    }
}

/// As many open files as the kernel allows this process.
pub fn raise_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// The process of the agents: `on` and `off` on its input; how many are in step on its output, ten times a second.
pub async fn serve(plan: &Path) -> Result<()> {
    raise_files()?;
    let plan: Plan = serde_json::from_slice(&std::fs::read(plan)?)?;
    let endpoint = Endpoint::new(plan.gateway, &plan.ca.clone().into())?;
    let (on, switch) = watch::channel(false);
    let synced = Arc::new(AtomicUsize::new(0));
    for (number, identity) in plan.identities().into_iter().enumerate() {
        let (agent, switch, synced) = (Agent::new(endpoint.clone(), identity), switch.clone(), Arc::clone(&synced));
        let tell = move |state| {
            match state {
                State::Synced => synced.fetch_add(1, Ordering::Relaxed),
                State::Away => synced.fetch_sub(1, Ordering::Relaxed),
            };
        };
        let wait = Duration::from_secs(1) * u32::try_from(number)? / RAMP;
        tokio::spawn(async move {
            let mut first = switch.clone();
            if first.wait_for(|on| *on).await.is_ok() {
                tokio::time::sleep(wait).await;
                agent.run(switch, tell).await;
            }
        });
    }
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            on.send_replace(line == "on");
        }
        // Nobody is left who could tell.
        std::process::exit(0);
    });
    loop {
        println!("{}", synced.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The process, from outside.
pub struct Fleet {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Fleet {
    /// Starts it; nobody connects yet.
    pub fn start(plan: &Path) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--agents")
            .arg(plan)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?).lines();
        Ok(Self { process, input, output })
    }

    /// Connects all agents, or cuts them off.
    pub async fn switch(&mut self, on: bool) -> Result<()> {
        self.input.write_all(if on { b"on\n" } else { b"off\n" }).await?;
        Ok(self.input.flush().await?)
    }

    /// Waits until so many are in step, and says how long that took.
    pub async fn synced(&mut self, count: usize, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < limit {
            last = self.output.next_line().await?.context("the agents ended")?;
            if last.parse() == Ok(count) {
                return Ok(began.elapsed());
            }
        }
        bail!("{last} of {count} sessions in step after {limit:?}")
    }

    /// Reads what was said meanwhile for so long, and says how few were in step.
    pub async fn least(&mut self, length: Duration) -> Result<usize> {
        let (began, mut least) = (Instant::now(), usize::MAX);
        while began.elapsed() < length {
            let line = self.output.next_line().await?.context("the agents ended")?;
            least = least.min(line.parse()?);
        }
        Ok(least)
    }

    /// Ends it.
    pub async fn stop(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}
