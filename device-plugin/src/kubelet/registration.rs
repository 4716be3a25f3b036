//! Keeps one resource registered with whatever kubelet there is.
//!
//! What to do follows from how things stand, not from what happened: which kubelet's socket is there, which one the
//! last registration was with, and whether somebody follows the list. So a missed event costs time and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::api::v1beta1::RegisterRequest;
use super::api::v1beta1::device_plugin_server::DevicePluginServer;
use super::api::v1beta1::registration_client::RegistrationClient;
use super::api::{KUBELET_SOCKET, VERSION};
use super::dial::dial;
use super::directory::{SocketId, new_name};
use super::resources::ResourceName;
use super::service::{Followers, Service, Shared};
use super::{Prepare, Registered};

/// The kubelet connects to the plugin before it answers, for which it allows itself 10 s.
const REGISTER_LIMIT: Duration = Duration::from_secs(15);
/// Until then after a registration the kubelet has to follow the list.
const FOLLOW_LIMIT: Duration = Duration::from_secs(5);
/// A registration that held so long was no accident: the next failure is the first again.
const HELD_LONG: Duration = Duration::from_secs(10);
/// The first wait after a failure; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// A kubelet whose socket refuses connections is starting, or dead.
const LONGEST_WAIT_CONNECT: Duration = Duration::from_millis(500);
/// A kubelet that says no will mostly say it again.
const LONGEST_WAIT_REFUSED: Duration = Duration::from_secs(10);
/// How long connections may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Why a registration failed.
#[derive(Debug, Error)]
enum RegisterError {
    #[error("cannot connect to the kubelet: {0}")]
    Connect(tonic::transport::Error),
    #[error("cannot listen at {0}: {1}")]
    Listen(PathBuf, io::Error),
    #[error("the kubelet refused: {}", .0.message())]
    Refused(Box<tonic::Status>),
}

/// One resource and what it takes to register it.
pub(super) struct Plugin<P> {
    pub resource: ResourceName,
    pub dir: PathBuf,
    pub shared: Arc<Shared<P>>,
    pub registered: watch::Sender<BTreeMap<String, Registered>>,
}

impl<P: Prepare> Plugin<P> {
    /// Registers, and again whenever it is needed, until `stop`. `folder` counts up when the folder changed.
    pub async fn run(self, mut folder: watch::Receiver<u64>, stop: CancellationToken) {
        let mut session: Option<Session> = None;
        let mut wait = FIRST_WAIT;
        let mut tried: Option<SocketId> = None;
        let mut warned = String::new();
        let mut earliest = Instant::now();
        while !stop.is_cancelled() {
            // Before looking, so that a change during the look wakes.
            folder.borrow_and_update();
            let kubelet = SocketId::of(&self.dir.join(KUBELET_SOCKET));
            self.report(session.as_ref().is_some_and(Session::followed), 0);
            if kubelet.is_some() && kubelet != tried {
                (wait, earliest, tried) = (FIRST_WAIT, Instant::now(), kubelet);
            }
            let due = match &session {
                Some(session) => session.due(kubelet),
                None => kubelet.map(|_| Instant::now()),
            };
            if let Some(kubelet) = kubelet.filter(|_| due.is_some_and(|due| due.max(earliest) <= Instant::now())) {
                if session.as_ref().is_some_and(|session| session.since.elapsed() > HELD_LONG) {
                    wait = FIRST_WAIT;
                }
                let longest = match self.register(kubelet, &stop).await {
                    Ok(new) => {
                        tracing::info!(resource = %self.resource, socket = %new.socket.display(), "registered with the kubelet");
                        self.report(new.followed(), 1);
                        warned.clear();
                        if let Some(old) = session.replace(new) {
                            tokio::spawn(old.end());
                        }
                        LONGEST_WAIT_REFUSED
                    }
                    Err(error) => {
                        let text = error.to_string();
                        if warned != text {
                            tracing::warn!(resource = %self.resource, %error, "cannot register with the kubelet; trying again");
                            warned = text;
                        }
                        if matches!(error, RegisterError::Connect(_)) {
                            LONGEST_WAIT_CONNECT
                        } else {
                            LONGEST_WAIT_REFUSED
                        }
                    }
                };
                earliest = Instant::now() + wait;
                wait = (wait * 2).min(longest);
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                changed = folder.changed() => if changed.is_err() { break },
                () = followers_changed(session.as_mut()) => {}
                () = sleep_until(due.map(|due| due.max(earliest))) => {}
            }
        }
        if let Some(session) = session {
            session.end().await;
        }
        self.registered.send_if_modified(|all| all.remove(self.resource.as_str()).is_some());
    }

    fn report(&self, connected: bool, more: u64) {
        self.registered.send_if_modified(|all| {
            let own = all.entry(self.resource.as_str().to_owned()).or_default();
            let now = Registered { times: own.times + more, connected };
            std::mem::replace(own, now) != now
        });
    }

    /// Serves a new socket and tells the kubelet of it.
    async fn register(&self, kubelet: SocketId, stop: &CancellationToken) -> Result<Session, RegisterError> {
        // First, so that a dead kubelet's socket costs no socket of ours.
        let channel = dial(&self.dir.join(KUBELET_SOCKET), REGISTER_LIMIT).await.map_err(RegisterError::Connect)?;
        let name = new_name();
        let session = Session::serve(self, &name, kubelet, stop)?;
        let request = RegisterRequest {
            version: VERSION.to_owned(),
            endpoint: name,
            resource_name: self.resource.as_str().to_owned(),
            options: Some(self.shared.options()),
        };
        match RegistrationClient::new(channel).register(request).await {
            Ok(_) => Ok(session),
            Err(status) => {
                session.end().await;
                Err(RegisterError::Refused(Box::new(status)))
            }
        }
    }
}

async fn followers_changed(session: Option<&mut Session>) {
    if let Some(session) = session
        && session.followers.changed().await.is_ok()
    {
        return;
    }
    // Without a session, or when its server has ended, which the session itself tells.
    std::future::pending::<()>().await;
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// A socket that is served, and the kubelet that it was meant for.
struct Session {
    kubelet: SocketId,
    since: Instant,
    socket: PathBuf,
    followers: watch::Receiver<Followers>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Session {
    fn serve<P: Prepare>(
        plugin: &Plugin<P>,
        name: &str,
        kubelet: SocketId,
        stop: &CancellationToken,
    ) -> Result<Self, RegisterError> {
        let socket = plugin.dir.join(name);
        let listener = UnixListener::bind(&socket).map_err(|error| RegisterError::Listen(socket.clone(), error))?;
        let (sender, followers) = watch::channel(Followers::default());
        let stop = stop.child_token();
        let service = Service {
            resource: plugin.resource.clone(),
            shared: Arc::clone(&plugin.shared),
            followers: sender,
            stop: stop.clone(),
        };
        let serving = Server::builder()
            .add_service(DevicePluginServer::new(service))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.clone().cancelled_owned());
        let server = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::warn!(%error, "a device plugin socket is no longer served");
            }
        });
        Ok(Self { kubelet, since: Instant::now(), socket, followers, stop, server })
    }

    fn followed(&self) -> bool {
        self.followers.borrow().now > 0
    }

    /// When to register anew, as things stand; None: not at all.
    fn due(&self, kubelet: Option<SocketId>) -> Option<Instant> {
        let followers = *self.followers.borrow();
        let left = followers.ever > 0 || self.server.is_finished();
        if kubelet? != self.kubelet || (left && followers.now == 0) {
            Some(self.since)
        } else if followers.now == 0 {
            Some(self.since + FOLLOW_LIMIT)
        } else {
            None
        }
    }

    /// Ends the list, then the connections, and removes the socket.
    async fn end(mut self) {
        self.stop.cancel();
        remove(&self.socket);
        if tokio::time::timeout(END_LIMIT, &mut self.server).await.is_err() {
            self.server.abort();
        }
    }
}

fn remove(socket: &Path) {
    match std::fs::remove_file(socket) {
        // A kubelet that started has removed it.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(socket = %socket.display(), %error, "cannot remove a socket");
        }
        _ => {}
    }
}
