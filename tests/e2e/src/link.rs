//! A TCP connection's way from a Site to the hub, which a test can cut.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Forwards connections to a target until it is cut.
///
/// Cut, it neither answers nor closes anything, as a network does whose cable was pulled: both ends find out by
/// their own timeouts.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    up: watch::Sender<bool>,
    _forwarder: AbortOnDropHandle<()>,
}

impl Link {
    /// Listens on a free port of the loopback and forwards to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("open a link's port")?;
        let address = listener.local_addr().context("read a link's port")?;
        let (up, state) = watch::channel(true);
        let forwarder = AbortOnDropHandle::new(tokio::spawn(accept(listener, target, state)));
        Ok(Self { address, up, _forwarder: forwarder })
    }

    /// Where the Site connects to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pulls the cable.
    pub fn cut(&self) {
        self.up.send_replace(false);
    }

    /// Plugs it in again; connections from before are closed.
    pub fn restore(&self) {
        self.up.send_replace(true);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<bool>) {
    while let Ok((inbound, _)) = listener.accept().await {
        tokio::spawn(forward(inbound, target, state.clone()));
    }
}

async fn forward(mut inbound: TcpStream, target: SocketAddr, mut state: watch::Receiver<bool>) {
    if *state.borrow() {
        let Ok(mut outbound) = TcpStream::connect(target).await else { return };
        // Frames are small and latency is what is measured: do not wait for more to send.
        if inbound.set_nodelay(true).is_err() || outbound.set_nodelay(true).is_err() {
            return;
        }
        tokio::select! {
            // Either end hanging up ends it; there is nobody to tell of an error.
            _ = copy_bidirectional(&mut inbound, &mut outbound) => return,
            _ = state.wait_for(|up| !up) => {}
        }
        // Both sockets are kept open and silent until the cable is back.
        if state.wait_for(|up| *up).await.is_err() {
            return;
        }
        drop(outbound);
    } else if state.wait_for(|up| *up).await.is_err() {
        return;
    }
    drop(inbound);
}
