//! A TCP connection's way from a Site to the hub, which a test can cut, slow down or make lossy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What a lost packet costs: TCP sends it again after so long, and after twice as long each time that is lost too.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// How long a target may take to answer before the next one is tried.
const CONNECT: Duration = Duration::from_secs(1);

/// What happens to what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weather {
    up: bool,
    delay: Duration,
    loss_percent: u8,
}

const FAIR: Weather = Weather { up: true, delay: Duration::ZERO, loss_percent: 0 };

/// Forwards connections to one of its targets until it is cut.
///
/// Cut, it neither answers nor closes anything, as a network does whose cable was pulled: both ends find out by
/// their own timeouts.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    _forwarder: AbortOnDropHandle<()>,
}

impl Link {
    /// Listens on a free port of the loopback and forwards to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::balance(Ipv4Addr::LOCALHOST.into(), vec![target]).await
    }

    /// Listens on a free port of an address and forwards each connection to the next of these that can be reached.
    pub async fn balance(listen: IpAddr, targets: Vec<SocketAddr>) -> Result<Self> {
        ensure!(!targets.is_empty(), "a link leads somewhere");
        let listener = TcpListener::bind((listen, 0)).await.context("open a link's port")?;
        let address = listener.local_addr().context("read a link's port")?;
        let (weather, state) = watch::channel(FAIR);
        let forwarder = AbortOnDropHandle::new(tokio::spawn(accept(listener, targets, state)));
        Ok(Self { address, weather, _forwarder: forwarder })
    }

    /// Where the Site connects to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pulls the cable.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.up = false);
    }

    /// Everything takes this much longer each way, and so many of 100 packets are lost and sent again.
    pub fn slow(&self, delay: Duration, loss_percent: u8) {
        self.weather.send_modify(|weather| (weather.delay, weather.loss_percent) = (delay, loss_percent.min(90)));
    }

    /// Plugs it in again, in fair weather; connections from before a cut are closed.
    pub fn restore(&self) {
        self.weather.send_replace(FAIR);
    }
}

async fn accept(listener: TcpListener, targets: Vec<SocketAddr>, state: watch::Receiver<Weather>) {
    let next = AtomicUsize::new(0);
    while let Ok((inbound, _)) = listener.accept().await {
        let mut order = targets.clone();
        order.rotate_left(next.fetch_add(1, Ordering::Relaxed) % targets.len());
        tokio::spawn(forward(inbound, order, state.clone()));
    }
}

async fn forward(inbound: TcpStream, targets: Vec<SocketAddr>, mut state: watch::Receiver<Weather>) {
    if !state.borrow().up {
        // Whoever waits finds out when the cable is back.
        let _ = state.wait_for(|weather| weather.up).await;
        return;
    }
    let Some(outbound) = connect(&targets).await else { return };
    // Frames are small and latency is what is measured: do not wait for more to send.
    if inbound.set_nodelay(true).is_err() || outbound.set_nodelay(true).is_err() {
        return;
    }
    let ((mut from_site, mut to_site), (mut from_hub, mut to_hub)) = (inbound.into_split(), outbound.into_split());
    let both = async {
        // Either end failing ends it; there is nobody to tell of an error.
        let _ = tokio::try_join!(
            pump(&mut from_site, &mut to_hub, state.clone()),
            pump(&mut from_hub, &mut to_site, state.clone())
        );
    };
    let mut cut = state.clone();
    tokio::select! {
        () = both => return,
        _ = cut.wait_for(|weather| !weather.up) => {}
    }
    // Both sockets are kept open and silent until the cable is back.
    let _ = state.wait_for(|weather| weather.up).await;
}

async fn connect(targets: &[SocketAddr]) -> Option<TcpStream> {
    for target in targets {
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await {
            return Some(stream);
        }
    }
    None
}

async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    state: watch::Receiver<Weather>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let weather = *state.borrow();
        if weather != FAIR {
            tokio::time::sleep(weather.delay + lost(weather.loss_percent)).await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default()).await?;
    }
}

/// What losses add to one packet's way.
fn lost(percent: u8) -> Duration {
    let mut wait = Duration::ZERO;
    let mut again = RETRANSMISSION;
    while rand::random_range(0..100) < percent {
        wait += again;
        again *= 2;
    }
    wait
}
