//! The watchdog of a node that says what a test tells it to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_wire::mac::Sealed as _;
use atoll_wire::watchdog::leases_client::LeasesClient;
use atoll_wire::watchdog::{AskRequest, AskResponse, RunningMember};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Endpoint;

const LIMIT: Duration = Duration::from_secs(30);
const PERIOD: Duration = Duration::from_millis(100);

pub struct Watchdog {
    node: String,
    nonces: Arc<AtomicU64>,
    running: Arc<Mutex<Vec<RunningMember>>>,
    answers: watch::Receiver<Vec<AskResponse>>,
    task: JoinHandle<()>,
}

impl Watchdog {
    /// Asks from now on; returns when it was answered with a lease.
    pub async fn start(address: &str, node: &str, key: &[u8]) -> Self {
        let (nonces, running) = (Arc::new(AtomicU64::default()), Arc::new(Mutex::<Vec<RunningMember>>::default()));
        let (answered, answers) = watch::channel(Vec::new());
        let (address, node, key) = (address.to_owned(), node.to_owned(), key.to_vec());
        let task = tokio::spawn({
            let (nonces, running, node) = (nonces.clone(), running.clone(), node.clone());
            async move {
                loop {
                    let said = running.lock().unwrap().clone();
                    let request = request(&node, &nonces, said);
                    let nonce = request.nonce.clone();
                    if let Ok(answer) = ask(&address, request.seal(&key)).await {
                        let answer = answer.open(&key).expect("the agent has the key");
                        assert_eq!(answer.nonce, nonce);
                        answered.send_modify(|answers| answers.push(answer));
                    }
                    tokio::time::sleep(PERIOD).await;
                }
            }
        });
        let mut granted = answers.clone();
        let lease = granted.wait_for(|answers| answers.last().is_some_and(|answer| answer.granted));
        tokio::time::timeout(LIMIT, lease).await.expect("a lease in time").expect("it asks on");
        Self { node, nonces, running, answers, task }
    }

    /// What it says from the next request on.
    pub fn say(&self, running: Vec<RunningMember>) {
        *self.running.lock().unwrap() = running;
    }

    /// The next so many answers.
    pub async fn answers(&self, count: usize) -> Vec<AskResponse> {
        let mut answers = self.answers.clone();
        let before = answers.borrow().len();
        let more = answers.wait_for(|answers| answers.len() >= before + count);
        tokio::time::timeout(LIMIT, more).await.expect("answers in time").expect("it asks on")[before..].to_vec()
    }

    /// A request of its own, not signed.
    pub fn request(&self) -> AskRequest {
        request(&self.node, &self.nonces, self.running.lock().unwrap().clone())
    }

    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn request(node: &str, nonces: &AtomicU64, running: Vec<RunningMember>) -> AskRequest {
    let nonce = u128::from(nonces.fetch_add(1, Ordering::SeqCst)).to_be_bytes().to_vec();
    AskRequest { node: node.to_owned(), nonce, running, mac: Vec::new(), boot_id: "boot".into() }
}

pub fn running(pod_uid: &str, cluster_uid: &str, rank: u32, incarnation: u64) -> RunningMember {
    RunningMember { pod_uid: pod_uid.to_owned(), cluster_uid: cluster_uid.to_owned(), rank, incarnation }
}

/// Asks once.
pub async fn ask(address: &str, request: AskRequest) -> Result<AskResponse, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(LeasesClient::new(channel).ask(request).await?.into_inner())
}
