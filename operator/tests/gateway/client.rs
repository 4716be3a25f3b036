//! A Site's end of the protocol, as much as these tests need.

use std::time::Duration;

use atoll_wire::pin::Pin;
use atoll_wire::v1::gateway_client::GatewayClient;
use atoll_wire::v1::{self, agent_message::Message as FromAgent, hub_message::Message as ToAgent};
use atoll_wire::wallet::{Statement, WalletSigner};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Status, Streaming};

const LIMIT: Duration = Duration::from_secs(20);

/// A Site's key, and its certificate once it has one.
pub struct SiteIdentity {
    port: u16,
    ca_pem: String,
    key: KeyPair,
    certificate_pem: Option<String>,
}

impl SiteIdentity {
    pub fn new(port: u16, ca_pem: &str) -> Self {
        Self { port, ca_pem: ca_pem.to_owned(), key: KeyPair::generate().unwrap(), certificate_pem: None }
    }

    /// The same Site at another gateway.
    pub fn at(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    fn csr(&self) -> Vec<u8> {
        CertificateParams::default().serialize_request(&self.key).unwrap().der().to_vec()
    }

    async fn client(&self) -> GatewayClient<Channel> {
        GatewayClient::new(self.connect().await.unwrap())
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca_pem)).domain_name("localhost");
        if let Some(certificate) = &self.certificate_pem {
            tls = tls.identity(Identity::from_pem(certificate, self.key.serialize_pem()));
        }
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{}", self.port)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await
    }

    pub async fn join(&mut self, token: &str) -> Result<String, Status> {
        let request = v1::JoinRequest { token: token.to_owned(), ..self.request() };
        self.ask(request).await
    }

    /// A request that shows nothing for itself but the key.
    pub fn request(&self) -> v1::JoinRequest {
        v1::JoinRequest {
            token: String::new(),
            csr_der: self.csr(),
            display_name: "Test".to_owned(),
            region: "eu-west".to_owned(),
            agent_version: "test".to_owned(),
            wallet: None,
        }
    }

    /// Joins by a wallet, for the hub with this pin.
    pub async fn join_by_wallet(&mut self, wallet: &WalletSigner, hub: Pin) -> Result<String, Status> {
        let request = self.request();
        let statement = Statement {
            hub,
            key: Pin::of_spki(&self.key.subject_public_key_info()),
            signed_at: jiff::Timestamp::now().as_second(),
            region: &request.region,
            display_name: &request.display_name,
        };
        let wallet = Some(wallet.sign(&statement));
        self.ask(v1::JoinRequest { wallet, ..request }).await
    }

    /// Sends a request without a certificate and keeps what it brings.
    pub async fn ask(&mut self, request: v1::JoinRequest) -> Result<String, Status> {
        self.certificate_pem = None;
        let joined = self.client().await.join(request).await?.into_inner();
        self.certificate_pem = Some(joined.certificate_pem);
        self.ca_pem = joined.ca_pem;
        Ok(joined.site)
    }

    pub async fn renew(&mut self) -> Result<(), Status> {
        let renewed = self.client().await.renew(v1::RenewRequest { csr_der: self.csr() }).await?.into_inner();
        self.certificate_pem = Some(renewed.certificate_pem);
        self.ca_pem = renewed.ca_pem;
        Ok(())
    }

    /// The hub's CAs as this Site knows them.
    pub fn bundle(&self) -> &str {
        &self.ca_pem
    }

    /// The same Site as it was when it knew this much of the hub.
    pub fn knowing(&self, ca_pem: &str) -> Self {
        let key = KeyPair::from_pem(&self.key.serialize_pem()).unwrap();
        Self { port: self.port, ca_pem: ca_pem.to_owned(), key, certificate_pem: self.certificate_pem.clone() }
    }

    /// Whether a connection can be made.
    pub async fn reaches(&self) -> bool {
        self.connect().await.is_ok()
    }

    pub async fn session(&self, hello: v1::Hello) -> Result<AgentSession, Status> {
        let (sender, queue) = mpsc::channel(1_000);
        let mut session = AgentSession { sender, inbound: None, sequence: 0 };
        session.send(FromAgent::Hello(hello)).await;
        session.inbound = Some(self.client().await.session(ReceiverStream::new(queue)).await?.into_inner());
        Ok(session)
    }
}

/// An open stream.
pub struct AgentSession {
    sender: mpsc::Sender<v1::AgentMessage>,
    inbound: Option<Streaming<v1::HubMessage>>,
    sequence: u64,
}

impl AgentSession {
    pub async fn send(&self, message: FromAgent) {
        self.sender.send(v1::AgentMessage { message: Some(message) }).await.unwrap();
    }

    pub async fn next(&mut self) -> Result<Option<ToAgent>, Status> {
        let message = tokio::time::timeout(LIMIT, self.inbound.as_mut().unwrap().message()).await.unwrap()?;
        Ok(message.map(|message| message.message.unwrap()))
    }

    pub async fn welcome(&mut self) -> v1::Welcome {
        match self.next().await.unwrap() {
            Some(ToAgent::Welcome(welcome)) => welcome,
            other => panic!("{other:?} is not a welcome"),
        }
    }

    /// Everything until the end of the first synchronisation.
    pub async fn synced(&mut self) -> (Vec<v1::Slice>, Vec<v1::SliceDeleted>, v1::SyncComplete) {
        let (mut slices, mut deleted) = (Vec::new(), Vec::new());
        loop {
            match self.next().await.unwrap() {
                Some(ToAgent::Slice(slice)) => slices.push(slice),
                Some(ToAgent::SliceDeleted(gone)) => deleted.push(gone),
                Some(ToAgent::SyncComplete(complete)) => return (slices, deleted, complete),
                other => panic!("{other:?} while synchronising"),
            }
        }
    }

    pub async fn heartbeat(&mut self) -> v1::Grant {
        self.sequence += 1;
        self.send(FromAgent::Heartbeat(v1::Heartbeat { sequence: self.sequence })).await;
        match self.next().await.unwrap() {
            Some(ToAgent::Grant(grant)) => {
                assert_eq!(grant.sequence, self.sequence);
                grant
            }
            other => panic!("{other:?} is not a grant"),
        }
    }

    pub async fn goodbye(&mut self) -> v1::goodbye::Reason {
        loop {
            match self.next().await.unwrap() {
                Some(ToAgent::Goodbye(goodbye)) => return goodbye.reason(),
                Some(ToAgent::Grant(_)) => {}
                other => panic!("{other:?} is not a goodbye"),
            }
        }
    }
}
