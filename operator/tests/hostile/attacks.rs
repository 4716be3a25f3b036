//! What an attacker does, with a certificate of its own Site or with something else.

use std::time::Duration;

use atoll_wire::limits::{MAX_MESSAGE_BYTES, MAX_SLICES};
use atoll_wire::v1::{self, agent_message::Message as ToHub, hub_message::Message as FromHub};
use atoll_wire_client::{Call, Endpoint, Identity, Incoming, JOIN, Link, LinkError, RENEW, SESSION, frame, message};
use bytes::Bytes;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _};
use tokio::time::timeout;

use super::world::{OTHERS, key};

/// How long anything may take that the gateway should answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was done and seen.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests of any kind.
    pub requests: u64,
    /// Reports and nodes that must have been refused, each counted by the gateway.
    pub reports: u64,
    pub nodes: u64,
    /// Sessions that ended as they should have: for a broken protocol, for a frame.
    pub protocol: u64,
    /// Sessions that began.
    pub sessions: u64,
    /// Messages of the gateway that were looked at.
    pub looked_at: u64,
}

impl Tally {
    pub fn plus(mut self, other: &Self) -> Self {
        self.requests += other.requests;
        self.reports += other.reports;
        self.nodes += other.nodes;
        self.protocol += other.protocol;
        self.sessions += other.sessions;
        self.looked_at += other.looked_at;
        self
    }
}

/// An attacker with a Site of its own.
pub struct Attacker {
    pub endpoint: Endpoint,
    pub identity: Identity,
    /// What its own slice is called after.
    pub mark: String,
    /// Other Sites.
    pub others: Vec<String>,
    pub random: StdRng,
    pub tally: Tally,
}

struct Session {
    _link: Link,
    call: Call,
    sequence: u64,
}

impl Attacker {
    /// Attacks until so many requests were made.
    pub async fn run(mut self, requests: u64) -> Tally {
        while self.tally.requests < requests {
            let Some(mut session) = self.begin().await else { continue };
            // Most of an attack is cheap: messages in a session that lives.
            for _ in 0..self.random.random_range(1..40) {
                if self.tally.requests >= requests || !self.messages(&mut session).await {
                    break;
                }
            }
            self.break_off(session).await;
            self.beside().await;
        }
        self.tally
    }

    /// A session by the rules, whose welcome is read.
    async fn begin(&mut self) -> Option<Session> {
        self.tally.requests += 1;
        let link = timeout(PATIENCE, self.endpoint.connect(Some(&self.identity))).await.expect("an answer").ok()?;
        let mut call = link.open(SESSION).await.ok()?;
        let slices = [key(OTHERS), key(&self.mark), v1::SliceKey::default()].map(|key| {
            let digest = self.random.random::<[u8; 32]>().to_vec();
            v1::SliceDigest { key: Some(key), digest }
        });
        let hello = v1::Hello { boot_id: self.word(20), slices: slices.to_vec(), ..v1::Hello::default() };
        say(&mut call, ToHub::Hello(hello)).ok()?;
        loop {
            match self.next(&mut call.incoming).await {
                Some(FromHub::SyncComplete(_)) => break,
                Some(FromHub::Goodbye(_)) | None => return None,
                Some(_) => {}
            }
        }
        self.tally.sessions += 1;
        Some(Session { _link: link, call, sequence: 0 })
    }

    /// Lies in a session, then a heartbeat whose grant says that all of them were read; whether the session lives.
    async fn messages(&mut self, session: &mut Session) -> bool {
        let count = 64;
        for _ in 0..count {
            self.tally.requests += 1;
            let lie = self.lie();
            if say(&mut session.call, lie).is_err() {
                return false;
            }
        }
        self.tally.requests += 1;
        session.sequence += self.random.random_range(1..1_000);
        if say(&mut session.call, ToHub::Heartbeat(v1::Heartbeat { sequence: session.sequence })).is_err() {
            return false;
        }
        loop {
            match self.next(&mut session.call.incoming).await {
                Some(FromHub::Grant(grant)) if grant.sequence == session.sequence => return true,
                Some(FromHub::Slice(_) | FromHub::SliceDeleted(_) | FromHub::Grant(_)) => {}
                other => panic!("a session by the rules ended: {other:?}"),
            }
        }
    }

    /// Something that is not its own, or cannot be; counted as what the gateway must refuse it as.
    fn lie(&mut self) -> ToHub {
        if self.random.random_bool(0.3) {
            self.tally.nodes += 1;
            return ToHub::Inventory(v1::InventoryDelta { nodes: vec![self.node()], ..v1::InventoryDelta::default() });
        }
        if self.random.random_bool(0.1) {
            // Of others; nothing is known of such nodes here, so there is nothing to remove.
            let other = self.others.choose(&mut self.random).cloned().unwrap_or_default();
            let removed = vec![format!("n-{OTHERS}"), format!("{other}.n-{OTHERS}"), format!("../{other}")];
            return ToHub::Inventory(v1::InventoryDelta { removed, ..v1::InventoryDelta::default() });
        }
        self.tally.reports += 1;
        ToHub::SliceReport(self.report())
    }

    fn report(&mut self) -> v1::SliceReport {
        let member = v1::Member { rank: 0, incarnation: 5, phase: 5, ..v1::Member::default() };
        let own = v1::SliceReport {
            key: Some(key(&self.mark)),
            observed_epoch: 5,
            members: vec![member.clone()],
            ..v1::SliceReport::default()
        };
        match self.random.random_range(0..11) {
            // Another Site's, in all honesty.
            0 => v1::SliceReport { key: Some(key(OTHERS)), ..own },
            // Another Site's is said to be gone.
            1 => v1::SliceReport { key: Some(key(OTHERS)), gone: true, members: Vec::new(), ..own },
            // Its own by name, another's by Cluster, and the other way round.
            2 => v1::SliceReport {
                key: Some(v1::SliceKey { cluster_uid: key(OTHERS).cluster_uid, ..key(&self.mark) }),
                ..own
            },
            3 => v1::SliceReport { key: Some(v1::SliceKey { name: key(OTHERS).name, ..key(&self.mark) }), ..own },
            // Keys that are paths.
            4 => {
                let name = [
                    format!("../default/slice-{OTHERS}"),
                    format!("slice-{OTHERS}/status"),
                    "\u{0}".to_owned(),
                    self.word(300),
                ];
                let name = name.choose(&mut self.random).cloned().unwrap_or_default();
                v1::SliceReport { key: Some(v1::SliceKey { name, ..key(&self.mark) }), ..own }
            }
            5 => v1::SliceReport { key: None, ..own },
            // From the future.
            6 => v1::SliceReport { observed_epoch: self.random.random_range(6..=u64::MAX), ..own },
            7 => v1::SliceReport { members: vec![v1::Member { incarnation: 6, ..member }], ..own },
            // Twice, of no phase, at no address.
            8 => v1::SliceReport { members: vec![member.clone(), member], ..own },
            9 => v1::SliceReport { members: vec![v1::Member { phase: 77, ..member }], ..own },
            _ => v1::SliceReport { members: vec![v1::Member { address: self.word(12), ..member }], ..own },
        }
    }

    fn node(&mut self) -> v1::Node {
        let node = v1::Node { name: "n-1".to_owned(), allocatable: 8, ready: true, ..v1::Node::default() };
        let other = self.others.choose(&mut self.random).cloned().unwrap_or_default();
        match self.random.random_range(0..8) {
            0 => v1::Node { name: format!("../{other}.n-{OTHERS}"), ..node },
            1 => v1::Node { name: format!("{other}/n-{OTHERS}"), ..node },
            2 => v1::Node { name: "N".repeat(self.random.random_range(1..400)), ..node },
            3 => v1::Node { name: String::new(), ..node },
            4 => v1::Node { driver: "\u{1b}[2J".to_owned(), ..node },
            5 => v1::Node { allocatable: self.random.random_range(1_025..=u32::MAX), ..node },
            6 => v1::Node { price_per_gpu_hour: self.word(9), ..node },
            _ => v1::Node { devices: vec![v1::Device::default(); 40], ..node },
        }
    }

    /// Ends the session by breaking the rules in it.
    async fn break_off(&mut self, mut session: Session) {
        self.tally.requests += 1;
        let call = &mut session.call;
        // Before any heartbeat none is too late.
        let first = u8::from(session.sequence == 0);
        let sent = match self.random.random_range(first..7) {
            0 => say(call, ToHub::Heartbeat(v1::Heartbeat { sequence: session.sequence })),
            1 => say(call, ToHub::Hello(v1::Hello::default())),
            2 => {
                let delta = v1::InventoryDelta { removed: vec![String::new(); 1_001], ..v1::InventoryDelta::default() };
                say(call, ToHub::Inventory(delta))
            }
            // A frame that says it is larger than any may be; refused before any of it is kept.
            3 => call.bytes(Bytes::from([&[0][..], &u32::MAX.to_be_bytes(), b"begin"].concat())),
            4 => call.bytes(Bytes::from_static(&[1, 0, 0, 0, 1, 0])),
            // Not protobuf: a length that is longer than the message.
            5 => call.bytes(Bytes::from_static(&[0, 0, 0, 0, 3, 0x0a, 0x7f, 0x00])),
            // Bytes by chance, in a frame by the rules.
            _ => {
                let mut bytes = vec![0; self.random.random_range(1..200)];
                self.random.fill_bytes(&mut bytes);
                // A first byte that no field begins with.
                bytes[0] = 0x07;
                call.bytes(framed(&bytes))
            }
        };
        if sent.is_err() {
            return;
        }
        self.tally.protocol += 1;
        // It ends: with a goodbye, or with a status.
        while self.next(&mut session.call.incoming).await.is_some() {}
    }

    /// What needs no session.
    async fn beside(&mut self) {
        self.tally.requests += 1;
        let Ok(link) = self.endpoint.connect(Some(&self.identity)).await else { return };
        let choice = self.random.random_range(0..7);
        let path = match choice {
            5 => JOIN,
            6 => RENEW,
            _ => SESSION,
        };
        let Ok(mut call) = link.open(path).await else { return };
        let sent = match choice {
            // More slices than there can be.
            0 => {
                let slices = vec![v1::SliceDigest { key: Some(key(OTHERS)), digest: Vec::new() }; MAX_SLICES + 1];
                say(&mut call, ToHub::Hello(v1::Hello { slices, ..v1::Hello::default() }))
            }
            1 => say(&mut call, ToHub::Hello(v1::Hello { boot_id: self.word(5_000), ..v1::Hello::default() })),
            2 => say(
                &mut call,
                ToHub::SliceReport(v1::SliceReport { key: Some(key(OTHERS)), ..v1::SliceReport::default() }),
            ),
            // Larger than a message may be, and really sent.
            3 => call.bytes(framed(&vec![0; MAX_MESSAGE_BYTES + 1])),
            // Reset at once, again and again.
            4 => {
                for _ in 0..50 {
                    self.tally.requests += 1;
                    let Ok(mut call) = link.open(SESSION).await else { break };
                    call.send.send_reset(h2::Reason::CANCEL);
                }
                Ok(())
            }
            // A token by chance; a certificate for a key of another.
            5 => {
                let token = format!("{}.{}", self.word(8), self.word(30));
                call.bytes(frame(&v1::JoinRequest { token, ..v1::JoinRequest::default() }))
            }
            _ => {
                let key = rcgen::KeyPair::generate().unwrap();
                let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
                call.bytes(frame(&v1::RenewRequest { csr_der: request.der().to_vec() }))
            }
        };
        if choice == 4 {
            return;
        }
        if path != SESSION {
            drop(call.send.send_data(Bytes::new(), true));
            let answer = timeout(PATIENCE, call.incoming.next()).await.expect("an answer");
            assert!(sent.is_err() || !matches!(answer, Ok(Some(_))), "{path} was granted");
            return;
        }
        while let Some(message) = self.next(&mut call.incoming).await {
            assert!(matches!(message, FromHub::Goodbye(_)), "a session began with {choice}: {message:?}");
        }
    }

    /// The next message of the gateway, which must say nothing of others; None when there is none any more.
    async fn next(&mut self, incoming: &mut Incoming) -> Option<FromHub> {
        let bytes = timeout(PATIENCE, incoming.next()).await.expect("the gateway answers or ends").ok()??;
        self.tally.looked_at += 1;
        for secret in self.others.iter().map(String::as_str).chain([OTHERS]) {
            assert!(!contains(&bytes, secret.as_bytes()), "{secret} in {bytes:?}");
        }
        let message = message::<v1::HubMessage>(&bytes).expect("a message").message;
        let own = key(&self.mark);
        let keys: Vec<&v1::SliceKey> = match &message {
            Some(FromHub::Slice(slice)) => slice.key.iter().collect(),
            Some(FromHub::SliceDeleted(slice)) => slice.key.iter().collect(),
            Some(FromHub::SyncComplete(sync)) => sync.slices.iter().collect(),
            _ => Vec::new(),
        };
        assert!(keys.iter().all(|key| **key == own), "{message:?}");
        message
    }

    fn word(&mut self, length: usize) -> String {
        (0..length).map(|_| char::from(self.random.random_range(b'a'..=b'z'))).collect()
    }
}

fn say(call: &mut Call, message: ToHub) -> Result<(), LinkError> {
    call.message(&v1::AgentMessage { message: Some(message) })
}

fn framed(bytes: &[u8]) -> Bytes {
    let length = u32::try_from(bytes.len()).unwrap();
    Bytes::from([&[0][..], &length.to_be_bytes(), bytes].concat())
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Whoever this is must not get a session nor a renewal.
pub async fn shut_out(endpoint: &Endpoint, identity: Option<&Identity>) -> u64 {
    let Ok(Ok(link)) = timeout(PATIENCE, endpoint.connect(identity)).await else { return 1 };
    let mut requests = 1;
    for path in [SESSION, RENEW] {
        requests += 1;
        let Ok(mut call) = link.open(path).await else { continue };
        let hello = v1::AgentMessage { message: Some(ToHub::Hello(v1::Hello::default())) };
        drop(call.send.send_data(frame(&hello), path == RENEW));
        let answer = timeout(PATIENCE, call.incoming.next()).await.expect("an answer");
        // One of a key that the hub does not know is told so.
        let granted = match &answer {
            Ok(Some(bytes)) => !matches!(
                v1::HubMessage::decode(bytes.clone()).map(|message| message.message),
                Ok(Some(FromHub::Goodbye(_)))
            ),
            _ => false,
        };
        assert!(!granted, "{path} was granted: {answer:?}");
    }
    requests
}
