//! Leader election on a real API server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use atoll_runtime::leader::{LeaderArgs, LeaderError, Leadership, LeaseName};
use atoll_testkit::wait::wait_for;
use atoll_testkit::{ControlPlane, ControlPlaneOptions, require};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const NAME: &str = "contended";
const SECONDS: u32 = 3;
const LEASE: Duration = Duration::from_secs(SECONDS as u64);
const LIMIT: Duration = Duration::from_secs(20);

struct Contest {
    plane: ControlPlane,
    lease: Api<Lease>,
}

type Candidate = JoinHandle<Result<Leadership, LeaderError>>;

impl Contest {
    async fn start() -> Self {
        let plane = ControlPlane::start(ControlPlaneOptions::bare("leader")).await.unwrap();
        let lease = Api::namespaced(plane.client(), "default");
        Self { plane, lease }
    }

    fn candidate(&self, identity: &str, shutdown: &CancellationToken) -> Candidate {
        let (client, identity, shutdown) = (self.plane.client(), identity.to_owned(), shutdown.clone());
        let name = LeaseName { namespace: "default".to_owned(), name: NAME.to_owned() };
        let args = LeaderArgs { leader_lease_seconds: SECONDS };
        tokio::spawn(async move { Leadership::acquire(client, name, identity, &args, &shutdown).await })
    }

    /// Waits for so many changes of the Lease.
    async fn changes(&self, count: usize) {
        let mut versions = Vec::new();
        let changed = |lease: &Lease| {
            let version = lease.resource_version();
            if versions.last() != Some(&version) {
                versions.push(version);
            }
            versions.len() > count
        };
        wait_for(&self.lease, NAME, "to be renewed", LIMIT, changed).await.unwrap();
    }

    async fn patch(&self, patch: serde_json::Value) {
        self.lease.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }
}

async fn won(candidate: Candidate) -> Leadership {
    tokio::time::timeout(LIMIT, candidate).await.expect("leads in time").unwrap().unwrap()
}

async fn lost(leadership: &Leadership) {
    tokio::time::timeout(LIMIT, leadership.lost().cancelled()).await.expect("notices in time");
    assert!(!leadership.may_write());
    tokio::time::timeout(LIMIT, leadership.lapsed()).await.expect("lapses with it");
}

#[tokio::test]
async fn one_leads_at_a_time_and_terms_grow_whatever_happens_to_the_lease() {
    require!(Core);
    let contest = Contest::start().await;
    let on = CancellationToken::new();

    // Of two, one leads, and the other does not while the first renews, for longer than a lease.
    let first = contest.candidate("a", &on);
    wait_for(&contest.lease, NAME, "to be held", LIMIT, |_| true).await.unwrap();
    let a = won(first).await;
    assert_eq!((a.term(), a.may_write()), (1, true));
    let second = contest.candidate("b", &on);
    let since = Instant::now();
    while since.elapsed() <= LEASE {
        contest.changes(1).await;
        assert!(a.may_write() && !a.lost().is_cancelled());
    }
    assert!(!second.is_finished(), "a leader renews");

    // A release hands over at once.
    let released = Instant::now();
    a.release().await;
    let b = won(second).await;
    assert!(released.elapsed() < LEASE / 2, "{:?}", released.elapsed());
    assert_eq!((b.term(), b.may_write()), (2, true));

    // The version of the Lease changes without a change of holder, as when an answer is lost: nothing is lost.
    contest.patch(json!({"metadata": {"labels": {"touched": "true"}}})).await;
    contest.changes(2).await;
    assert!(b.may_write() && !b.lost().is_cancelled());

    // A leader whose Lease was taken stops; whoever took it is silent, and is waited for.
    contest.patch(json!({"spec": {"holderIdentity": "thief", "leaseTransitions": 7}})).await;
    let taken = Instant::now();
    let third = contest.candidate("c", &on);
    lost(&b).await;
    let c = won(third).await;
    assert!(taken.elapsed() >= LEASE, "{:?}", taken.elapsed());
    assert_eq!((c.term(), c.may_write()), (8, true));

    // A Lease that is deleted is not taken at once, since its holder does not know yet; and terms go on growing.
    let off = CancellationToken::new();
    let fourth = contest.candidate("d", &on);
    let fifth = contest.candidate("e", &off);
    contest.changes(2).await;
    contest.lease.delete(NAME, &DeleteParams::default()).await.unwrap();
    lost(&c).await;
    // Who is told to end stops waiting.
    off.cancel();
    let ended = tokio::time::timeout(LIMIT, fifth).await.unwrap().unwrap();
    assert!(matches!(ended, Err(LeaderError::Shutdown)));
    let d = won(fourth).await;
    assert_eq!((d.term(), d.may_write()), (9, true));

    // One that is dropped is given back too.
    drop(d);
    let nobody = |lease: &Lease| lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_deref() == Some(""));
    wait_for(&contest.lease, NAME, "to be given back", LIMIT, nobody).await.unwrap();
}
