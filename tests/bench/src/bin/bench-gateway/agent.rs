//! An agent as a gateway sees it: hello, heartbeats, the same node always, and each slice Ready as soon as it comes.

use std::collections::HashMap;
use std::time::Duration;

use atoll_runtime::backoff::Backoff;
use atoll_wire::v1::{self, agent_message::Message as ToHub, hub_message::Message as FromHub};
use atoll_wire::{digest, v1::member::Phase};
use atoll_wire_client::{Call, Endpoint, Identity, LinkError, SESSION, message};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// As the real agent's.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// As the real agent's.
const WELCOME: Duration = Duration::from_mins(2);
/// As the real agent's.
const CONNECT: Duration = Duration::from_secs(10);
/// A session without a grant for so long is given up.
const NO_GRANT: Duration = Duration::from_secs(30);

/// Where an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No session.
    Away,
    /// The hub has said all it lists.
    Synced,
}

/// What ends a session.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the gateway closed the stream")]
    Closed,
    #[error("the gateway does not answer")]
    Silent,
    #[error("the gateway said goodbye: {0}")]
    Goodbye(String),
}

/// One Site's agent.
pub struct Agent {
    endpoint: Endpoint,
    identity: Identity,
    held: HashMap<v1::SliceKey, Vec<u8>>,
}

/// The one node of every Site, as the agent says it.
pub fn node() -> v1::Node {
    v1::Node {
        name: "n-0".to_owned(),
        product: "NVIDIA-H100-80GB-HBM3".to_owned(),
        memory_mib: 81_559,
        allocatable: 8,
        ready: true,
        driver: "570.86.15".to_owned(),
        ..v1::Node::default()
    }
}

impl Agent {
    pub fn new(endpoint: Endpoint, identity: Identity) -> Self {
        Self { endpoint, identity, held: HashMap::new() }
    }

    /// Sessions for as long as `on` says so, one after another; `tell` hears of the state.
    pub async fn run(mut self, mut on: watch::Receiver<bool>, tell: impl Fn(State)) {
        let backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            if on.wait_for(|on| *on).await.is_err() {
                return;
            }
            let mut synced = false;
            let ended = tokio::select! {
                ended = self.session(|| {
                    synced = true;
                    tell(State::Synced);
                }) => Some(ended),
                _ = on.wait_for(|on| !*on) => None,
            };
            if synced {
                tell(State::Away);
                backoff.reset(&());
            }
            match ended {
                Some(Err(end)) => {
                    if std::env::var_os("BENCH_DEBUG").is_some() {
                        eprintln!("{}: {end}", self.identity.site);
                    }
                    tokio::time::sleep(backoff.next(&())).await;
                }
                Some(Ok(())) | None => backoff.reset(&()),
            }
        }
    }

    /// One session, until it ends.
    pub async fn session(&mut self, synced: impl FnOnce()) -> Result<(), End> {
        let connecting = timeout(CONNECT, self.endpoint.connect(Some(&self.identity)));
        let link = connecting.await.map_err(|_| End::Silent)??;
        let mut call = link.open(SESSION).await?;
        let slices =
            self.held.iter().map(|(key, digest)| v1::SliceDigest { key: Some(key.clone()), digest: digest.clone() });
        let hello = v1::Hello {
            agent_version: "bench".to_owned(),
            boot_id: "8c6a1b7e-0a53-4f4e-9a44-4c5b1f0e7d21".to_owned(),
            inventory_digest: digest::inventory([&node()]).to_vec(),
            slices: slices.collect(),
            availability: 0,
        };
        say(&mut call, ToHub::Hello(hello))?;
        let first = timeout(WELCOME, call.incoming.next()).await.map_err(|_| End::Silent)??;
        match message::<v1::HubMessage>(&first.ok_or(End::Closed)?)?.message {
            Some(FromHub::Welcome(welcome)) if welcome.want_full_inventory => {
                let delta = v1::InventoryDelta { full: true, nodes: vec![node()], ..v1::InventoryDelta::default() };
                say(&mut call, ToHub::Inventory(delta))?;
            }
            Some(FromHub::Welcome(_)) => {}
            Some(FromHub::Goodbye(goodbye)) => return Err(End::Goodbye(goodbye.message)),
            _ => return Err(End::Closed),
        }
        self.converse(&mut call, synced).await
    }

    async fn converse(&mut self, call: &mut Call, synced: impl FnOnce()) -> Result<(), End> {
        let (mut sequence, mut beat, mut granted) = (0, Instant::now(), Instant::now());
        let mut interval = Duration::from_secs(5);
        let mut synced = Some(synced);
        loop {
            let came = tokio::select! {
                came = call.incoming.next() => came?.ok_or(End::Closed)?,
                () = sleep_until(beat) => {
                    if granted.elapsed() > NO_GRANT {
                        return Err(End::Silent);
                    }
                    sequence += 1;
                    say(call, ToHub::Heartbeat(v1::Heartbeat { sequence }))?;
                    beat = Instant::now() + interval;
                    continue;
                }
            };
            match message::<v1::HubMessage>(&came)?.message {
                Some(FromHub::Grant(grant)) => {
                    interval = Duration::from_millis(grant.next_heartbeat_ms.into());
                    granted = Instant::now();
                    beat = granted + interval;
                }
                Some(FromHub::Slice(slice)) => {
                    beat = Instant::now();
                    let Some(key) = slice.key else { continue };
                    self.held.insert(key.clone(), digest::spec(&slice.spec_json).to_vec());
                    say(call, ToHub::SliceReport(ready(key, slice.generation)))?;
                }
                Some(FromHub::SliceDeleted(deleted)) => {
                    let Some(key) = deleted.key else { continue };
                    self.held.remove(&key);
                    let report = v1::SliceReport { key: Some(key), gone: true, ..v1::SliceReport::default() };
                    say(call, ToHub::SliceReport(report))?;
                }
                Some(FromHub::SyncComplete(_)) => {
                    if let Some(synced) = synced.take() {
                        synced();
                    }
                }
                Some(FromHub::Goodbye(goodbye)) => return Err(End::Goodbye(goodbye.message)),
                Some(FromHub::Welcome(_)) | None => {}
            }
        }
    }
}

fn ready(key: v1::SliceKey, generation: i64) -> v1::SliceReport {
    let member = v1::Member {
        incarnation: 1,
        phase: Phase::Ready.into(),
        node: "n-0".to_owned(),
        address: "10.0.0.1".to_owned(),
        ..v1::Member::default()
    };
    v1::SliceReport {
        key: Some(key),
        observed_epoch: 1,
        observed_generation: generation,
        reservation: v1::Reservation::Reserved.into(),
        members: vec![member],
        ..v1::SliceReport::default()
    }
}

fn say(call: &mut Call, what: ToHub) -> Result<(), LinkError> {
    call.message(&v1::AgentMessage { message: Some(what) })
}
