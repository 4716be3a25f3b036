//! Hosts of their own on this machine: network namespaces on one wire, each of whose links can be cut in one direction.
//!
//! A host lives in a namespace that its first process holds; the kernel ends it with that process, and with it go its
//! interface and the rules that cut its links. What is left is the wire, a bridge: its name goes by a number that is
//! locked while it is used, and the number's next owner starts by removing what it finds.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use crate::{
    Error, ManagedProcess, ProcessSpec, Result, error::Doing as _, locks::Locks, scratch::Scratch, tools, wait,
};

const WIRES: u8 = 16;
const START_LIMIT: Duration = Duration::from_secs(30);
const PROGRAMS: [&str; 3] = ["/usr/sbin/iptables", "/usr/bin/nsenter", "/usr/bin/unshare"];

/// Whether hosts can be made here: that needs Linux, root, iproute2 and iptables.
pub fn supported() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Unsupported("network namespaces need root: run as root".to_owned()));
    }
    for file in PROGRAMS {
        if !Path::new(file).is_file() {
            let text = format!("network namespaces need {file}: on Debian, apt-get install iptables util-linux");
            return Err(Error::Unsupported(text));
        }
    }
    Ok(())
}

/// Which packets of a link are dropped, seen from the host that asked for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the host sends.
    Out,
    /// What it should get.
    In,
    /// Everything.
    Both,
}

/// What hosts are plugged into. This machine itself is on it too, at [`Wire::address`].
#[derive(Debug)]
pub struct Wire {
    number: u8,
    hosts: AtomicU8,
    scratch: Scratch,
    _lock: File,
}

impl Wire {
    /// Lays a wire.
    pub fn new() -> Result<Arc<Self>> {
        supported()?;
        let locks = Locks::open("atoll-testkit-wires")?;
        for number in 0..WIRES {
            if let Some(lock) = locks.try_take(number.into())? {
                let wire = Self { number, hosts: AtomicU8::new(1), scratch: Scratch::new("wire")?, _lock: lock };
                wire.remove();
                let (bridge, address) = (wire.bridge(), format!("{}/24", wire.address()));
                run(None, "ip", &["link", "add", &bridge, "type", "bridge"])?;
                run(None, "ip", &["addr", "add", &address, "dev", &bridge])?;
                run(None, "ip", &["link", "set", &bridge, "up"])?;
                return Ok(Arc::new(wire));
            }
        }
        Err(Error::Unsupported(format!("{WIRES} wires are in use already: stop a test first")))
    }

    /// Where this machine itself is reached from its hosts.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.host(1)
    }

    fn bridge(&self) -> String {
        format!("atollw{}", self.number)
    }

    fn host(&self, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 248, self.number, host))
    }

    fn remove(&self) {
        if Path::new("/sys/class/net").join(self.bridge()).exists() {
            let _ = run(None, "ip", &["link", "delete", &self.bridge()]);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A host with a network of its own; it ends on drop.
#[derive(Debug)]
pub struct Machine {
    anchor: ManagedProcess,
    address: IpAddr,
    /// This machine's end of its cable.
    outside: String,
    _wire: Arc<Wire>,
}

impl Machine {
    /// Makes a host and plugs it in.
    pub async fn start(wire: &Arc<Wire>, name: &str) -> Result<Self> {
        let number = wire.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        if number == u8::MAX {
            return Err(Error::Unsupported("a wire has room for 253 hosts".to_owned()));
        }
        let address = wire.host(number);
        let log = wire.scratch.join(format!("{name}.log"));
        let spec = ProcessSpec::new(format!("{name} network"), "/usr/bin/unshare", log).args([
            "--net".as_ref(),
            "--".as_ref(),
            tools::path("pause")?.as_os_str(),
        ]);
        let anchor = ManagedProcess::start(spec)?;
        let own = std::fs::read_link("/proc/self/ns/net").doing("read this process's network namespace")?;
        wait::eventually("the host's network namespace", START_LIMIT, async || {
            if let Err(error) = anchor.check_running() {
                return Ok(Err(error));
            }
            match std::fs::read_link(format!("/proc/{}/ns/net", anchor.pid())) {
                Ok(there) if there != own => Ok(Ok(())),
                other => Err(format!("{other:?}")),
            }
        })
        .await??;
        let outside = format!("aw{}h{number}", wire.number);
        let machine = Self { anchor, address, outside, _wire: Arc::clone(wire) };
        let (outside, pid) = (machine.outside.clone(), machine.anchor.pid().to_string());
        // The kernel takes its time to remove what was the last owner's.
        machine.unplug();
        run(None, "ip", &["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        run(None, "ip", &["link", "set", &outside, "master", &wire.bridge(), "up"])?;
        for args in [
            &["addr", "add", &format!("{address}/24"), "dev", "eth0"][..],
            &["link", "set", "lo", "up"],
            &["link", "set", "eth0", "up"],
        ] {
            machine.run("ip", args)?;
        }
        Ok(machine)
    }

    fn unplug(&self) {
        if Path::new("/sys/class/net").join(&self.outside).exists() {
            let _ = run(None, "ip", &["link", "delete", &self.outside]);
        }
    }

    /// Its address on the wire.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Cuts its link to a server, which may be any host on the wire; connections stay open and silent.
    pub fn cut(&self, server: SocketAddr, direction: Direction) -> Result<()> {
        let (ip, port) = (server.ip().to_string(), server.port().to_string());
        if direction != Direction::In {
            self.drop_packets("OUTPUT", &["-d", &ip, "-p", "tcp", "--dport", &port])?;
        }
        if direction != Direction::Out {
            self.drop_packets("INPUT", &["-s", &ip, "-p", "tcp", "--sport", &port])?;
        }
        Ok(())
    }

    fn drop_packets(&self, chain: &str, which: &[&str]) -> Result<()> {
        self.run("iptables", &[&["-w", "-A", chain], which, &["-j", "DROP"]].concat())
    }

    /// Mends all its links.
    pub fn mend(&self) -> Result<()> {
        self.run("iptables", &["-w", "-F"])
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        run(Some(self.anchor.pid()), program, args)
    }

    /// The words that come before a command line so that it runs on this host.
    pub(crate) fn enter(&self) -> [String; 4] {
        ["--target".to_owned(), self.anchor.pid().to_string(), "--net".to_owned(), "--".to_owned()]
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.unplug();
    }
}

/// Runs a program to its end, in the network namespace of a process if given.
pub(crate) fn run(network_of: Option<i32>, program: &str, args: &[&str]) -> Result<()> {
    let mut command = match network_of {
        None => Command::new(program),
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.args(["--target", &pid.to_string(), "--net", "--", program]);
            command
        }
    };
    let output = command.args(args).output().doing(format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("{program} {}", args.join(" ")),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
