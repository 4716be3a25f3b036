//! Asks the agent how old the Site's lease is, and tells it what runs on this node.

use std::path::PathBuf;
use std::time::Duration;

use atoll_core::watchdog::{Answer, Clocks, Pod};
use atoll_wire::limits::MAX_WATCHDOG_MESSAGE_BYTES;
use atoll_wire::mac::{MIN_KEY_BYTES, Sealed as _};
use atoll_wire::watchdog::leases_client::LeasesClient;
use atoll_wire::watchdog::{AskRequest, RunningMember};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::clocks;

/// Between two requests.
const PERIOD: Duration = Duration::from_secs(2);
/// Between two requests when what runs changes: the agent waits for members to be gone.
const PERIOD_AT_CHANGES: Duration = Duration::from_millis(100);
/// An answer that takes longer is none; the connection is given up, since whoever was at its end may be elsewhere now.
const LIMIT: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The key cannot be read.
    #[error("cannot read the key that the agent knows this Site's watchdogs by, {}: {source}", .file.display())]
    Key {
        /// Its file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key is too short.
    #[error("the key in {} has {length} bytes, {MIN_KEY_BYTES} are needed", .file.display())]
    ShortKey {
        /// Its file.
        file: PathBuf,
        /// How many it has.
        length: usize,
    },
    /// The agent's address is none.
    #[error("{address} is no address of an agent, which reads http://host:port: {source}")]
    Address {
        /// What was given.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// Nobody is there.
    #[error("cannot connect to the agent: {0}")]
    Connect(#[source] tonic::transport::Error),
    /// It refused.
    #[error("the agent refuses: {}", .0.message())]
    Refused(Box<tonic::Status>),
    /// It does not answer.
    #[error("the agent does not answer within {LIMIT:?}")]
    Silent,
    /// The answer is another's.
    #[error("the answer was not made with this Site's key, or answers another request: it is ignored")]
    Forged,
}

/// Where and how the agent is asked.
#[derive(Debug)]
pub struct Asker {
    node: String,
    boot_id: String,
    endpoint: Endpoint,
    key_file: PathBuf,
    client: Option<LeasesClient<Channel>>,
}

/// An answer, and the clocks when its request was sent.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When the request was sent.
    pub at: Clocks,
    /// The answer.
    pub answer: Answer,
}

impl Asker {
    /// Asks the agent at `address` in the name of `node`.
    pub fn new(node: String, address: &str, key_file: PathBuf, boot_id: String) -> Result<Self, AskError> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|source| AskError::Address { address: address.to_owned(), source })?;
        Ok(Self { node, boot_id, endpoint: endpoint.connect_timeout(LIMIT), key_file, client: None })
    }

    /// Asks once.
    pub async fn ask(&mut self, running: Vec<RunningMember>) -> Result<Asked, AskError> {
        let asked = timeout(LIMIT, self.try_ask(running)).await.unwrap_or(Err(AskError::Silent));
        if asked.is_err() {
            self.client = None;
        }
        asked
    }

    async fn try_ask(&mut self, running: Vec<RunningMember>) -> Result<Asked, AskError> {
        let key = self.key()?;
        if self.client.is_none() {
            let channel = self.endpoint.connect().await.map_err(AskError::Connect)?;
            self.client = Some(LeasesClient::new(channel).max_decoding_message_size(MAX_WATCHDOG_MESSAGE_BYTES));
        }
        let Some(client) = self.client.as_mut() else { return Err(AskError::Silent) };
        let nonce = rand::random::<[u8; 16]>().to_vec();
        let request = AskRequest {
            node: self.node.clone(),
            nonce: nonce.clone(),
            running,
            mac: Vec::new(),
            boot_id: self.boot_id.clone(),
        };
        let request = request.seal(&key);
        let at = clocks();
        let response = client.ask(request).await.map_err(|status| AskError::Refused(Box::new(status)))?.into_inner();
        let response = response.open(&key).filter(|response| response.nonce == nonce).ok_or(AskError::Forged)?;
        let age = response.granted.then(|| Duration::from_millis(response.age_milliseconds));
        Ok(Asked { at, answer: Answer { age, kill: response.kill } })
    }

    fn key(&self) -> Result<Vec<u8>, AskError> {
        let file = || self.key_file.clone();
        let key = std::fs::read(&self.key_file).map_err(|source| AskError::Key { file: file(), source })?;
        if key.len() < MIN_KEY_BYTES {
            return Err(AskError::ShortKey { file: file(), length: key.len() });
        }
        Ok(key)
    }
}

/// What an answer needs to say of a member that runs here.
#[must_use]
pub fn running(uid: &str, pod: &Pod) -> RunningMember {
    RunningMember {
        pod_uid: uid.to_owned(),
        cluster_uid: pod.cluster_uid.clone(),
        rank: pod.member.rank,
        incarnation: pod.member.incarnation,
    }
}

/// Asks every two seconds, and when what runs changes. As long as nobody knows what runs (`None`), nobody is asked: a node
/// that says that nothing runs is believed.
pub async fn keep_asking(
    mut asker: Asker,
    mut what_runs: watch::Receiver<Option<Vec<RunningMember>>>,
    answered: mpsc::Sender<Result<Asked, AskError>>,
    stop: CancellationToken,
) {
    let asking = async {
        loop {
            let next = Instant::now() + PERIOD;
            let running = what_runs.borrow_and_update().clone();
            if let Some(running) = running
                && answered.send(asker.ask(running).await).await.is_err()
            {
                return;
            }
            sleep(PERIOD_AT_CHANGES).await;
            tokio::select! {
                () = sleep_until(next) => {}
                changed = what_runs.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = asking => {}
    }
}
