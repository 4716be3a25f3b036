//! A hub that says what a test tells it to: one gateway with real TLS, and everything that the agent said.

#![allow(dead_code, reason = "each test program uses its own part")]

pub mod site;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::Pin as Pinned;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_wire::pin::Pin;
use atoll_wire::token::{JoinToken, RANDOM_BYTES};
use atoll_wire::v1::gateway_server::{Gateway, GatewayServer};
use atoll_wire::v1::{
    AgentMessage, Grant, HubMessage, JoinRequest, JoinResponse, RenewRequest, RenewResponse, Slice, SliceKey,
    SyncComplete, Welcome, agent_message, hub_message,
};
use atoll_wire::wallet::{Statement, WalletKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, PublicKeyData as _,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

const LIMIT: Duration = Duration::from_secs(30);

struct Shared {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    token: JoinToken,
    joins: AtomicBool,
    known: Mutex<HashSet<String>>,
    ended: AtomicBool,
    granting: AtomicBool,
    out: Mutex<Option<mpsc::Sender<Result<HubMessage, Status>>>>,
    heard: mpsc::UnboundedSender<agent_message::Message>,
}

/// The hub.
pub struct Hub {
    shared: Arc<Shared>,
    /// Where its gateway listens.
    pub address: SocketAddr,
    heard: mpsc::UnboundedReceiver<agent_message::Message>,
}

impl Hub {
    pub fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = params.self_signed(&key).unwrap();
        let token = JoinToken::generate(&[7; RANDOM_BYTES], Pin::of_certificate(ca.der()).unwrap());
        let issuer = Issuer::from_ca_cert_der(ca.der(), key).unwrap();
        let server_key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(format!("{}{}", server.pem(), ca.pem()), server_key.serialize_pem()))
            .client_ca_root(Certificate::from_pem(ca.pem()))
            .client_auth_optional(true);
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let (heard, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            issuer,
            ca_pem: ca.pem(),
            token,
            joins: AtomicBool::new(true),
            known: Mutex::default(),
            ended: AtomicBool::new(false),
            granting: AtomicBool::new(true),
            out: Mutex::new(None),
            heard,
        });
        let service = GatewayServer::new(Served(shared.clone()));
        let server = Server::builder().tls_config(tls).unwrap().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        Self { shared, address, heard: receiver }
    }

    pub fn token(&self) -> String {
        self.shared.token.to_string()
    }

    /// The pin of its CA.
    pub fn pin(&self) -> Pin {
        self.shared.token.pin()
    }

    /// Whether certificates have ended when they are given.
    pub fn give_ended(&self, ended: bool) {
        self.shared.ended.store(ended, Ordering::SeqCst);
    }

    /// Whether heartbeats are answered.
    pub fn grant(&self, granting: bool) {
        self.shared.granting.store(granting, Ordering::SeqCst);
    }

    pub async fn say(&self, message: hub_message::Message) {
        let out = self.shared.out.lock().unwrap().clone().expect("a session");
        out.send(Ok(HubMessage { message: Some(message) })).await.expect("the session lasts");
    }

    pub async fn say_slice(&self, key: &SliceKey, generation: i64, spec: &serde_json::Value) {
        let spec_json = spec.to_string().into_bytes();
        self.say(hub_message::Message::Slice(Slice { key: Some(key.clone()), generation, spec_json })).await;
    }

    pub async fn say_synced(&self, slices: &[&SliceKey]) {
        let slices = slices.iter().map(|key| (*key).clone()).collect();
        self.say(hub_message::Message::SyncComplete(SyncComplete { slices })).await;
    }

    /// The first thing heard that `pick` makes something of.
    pub async fn hear<T>(&mut self, what: &str, mut pick: impl FnMut(agent_message::Message) -> Option<T>) -> T {
        let mut last = None;
        tokio::time::timeout(LIMIT, async {
            loop {
                let message = self.heard.recv().await.expect("the hub lives");
                if !matches!(message, agent_message::Message::Heartbeat(_)) {
                    last = Some(message.clone());
                }
                if let Some(found) = pick(message) {
                    return found;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("the agent did not say {what}; its last words: {last:?}"))
    }
}

struct Served(Arc<Shared>);

#[tonic::async_trait]
impl Gateway for Served {
    type SessionStream = Pinned<Box<dyn Stream<Item = Result<HubMessage, Status>> + Send>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let csr = CertificateSigningRequestParams::from_der(&request.csr_der.as_slice().into()).unwrap();
        let key = Pin::of_spki(&csr.public_key.subject_public_key_info());
        if let Some(wallet) = &request.wallet {
            let statement = Statement {
                hub: self.0.token.pin(),
                key,
                signed_at: wallet.signed_at,
                region: &request.region,
                display_name: &request.display_name,
            };
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap();
            let signer = WalletKey::new(&wallet.public_key).unwrap();
            signer.verify(&statement, &wallet.signature, now).map_err(|e| Status::unauthenticated(e.to_string()))?;
        } else if request.token.is_empty() {
            if !self.0.known.lock().unwrap().contains(&key.site_name()) {
                return Err(Status::unauthenticated("no such key"));
            }
        } else if request.token != self.0.token.presented().to_string() || !self.0.joins.swap(false, Ordering::SeqCst) {
            return Err(Status::unauthenticated("no such token"));
        }
        self.0.known.lock().unwrap().insert(key.site_name());
        let mut params = CertificateParams::default();
        if self.0.ended.load(Ordering::SeqCst) {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(Response::new(JoinResponse {
            site: key.site_name(),
            certificate_pem: params.signed_by(&csr.public_key, &self.0.issuer).unwrap().pem(),
            ca_pem: self.0.ca_pem.clone(),
        }))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if request.peer_certs().is_none_or(|certificates| certificates.is_empty()) {
            return Err(Status::unauthenticated("no certificate"));
        }
        let mut inbound = request.into_inner();
        let (out, outbound) = mpsc::channel(16);
        let shared = self.0.clone();
        *shared.out.lock().unwrap() = Some(out.clone());
        tokio::spawn(async move {
            let welcome = Welcome { session: 1, want_full_inventory: true };
            let _ = out.send(Ok(HubMessage { message: Some(hub_message::Message::Welcome(welcome)) })).await;
            while let Some(Ok(AgentMessage { message: Some(message) })) = inbound.next().await {
                let granting = shared.granting.load(Ordering::SeqCst);
                if let (true, agent_message::Message::Heartbeat(beat)) = (granting, &message) {
                    let grant = Grant { sequence: beat.sequence, next_heartbeat_ms: 200 };
                    let _ = out.send(Ok(HubMessage { message: Some(hub_message::Message::Grant(grant)) })).await;
                }
                let _ = shared.heard.send(message);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }
}
