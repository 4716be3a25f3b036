//! A well-behaved agent beside the attackers: it must never notice them.

use std::time::Duration;

use atoll_wire::v1::{self, agent_message::Message as ToHub, hub_message::Message as FromHub};
use atoll_wire_client::{Endpoint, Identity, SESSION, message};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// What it saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub grants: u64,
    pub slowest: Duration,
}

/// One session with a heartbeat every second until `stop`; it panics when its session ends or a lease does not come.
pub async fn run(endpoint: Endpoint, identity: Identity, mut stop: watch::Receiver<bool>) -> Seen {
    let link = endpoint.connect(Some(&identity)).await.unwrap();
    let mut call = link.open(SESSION).await.unwrap();
    let say = |message| v1::AgentMessage { message: Some(message) };
    // Another digest than the hub's would have it ask for the inventory, which is not what this is about.
    let node =
        v1::Node { name: format!("n-{}", super::world::OTHERS), allocatable: 8, ready: true, ..v1::Node::default() };
    let hello = v1::Hello {
        boot_id: "honest".to_owned(),
        inventory_digest: atoll_wire::digest::inventory([&node]).to_vec(),
        ..v1::Hello::default()
    };
    call.message(&say(ToHub::Hello(hello))).unwrap();
    let mut seen = Seen::default();
    while !*stop.borrow_and_update() {
        seen.grants += 1;
        let asked = Instant::now();
        call.message(&say(ToHub::Heartbeat(v1::Heartbeat { sequence: seen.grants }))).unwrap();
        loop {
            let next = timeout(Duration::from_secs(8), call.incoming.next()).await.expect("a lease in time");
            let next = next.expect("a session that lives on").expect("a session that lives on");
            match message::<v1::HubMessage>(&next).unwrap().message {
                Some(FromHub::Grant(grant)) if grant.sequence == seen.grants => break,
                Some(FromHub::Welcome(welcome)) => assert!(!welcome.want_full_inventory, "the inventory is known"),
                Some(FromHub::Slice(_) | FromHub::SyncComplete(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        seen.slowest = seen.slowest.max(asked.elapsed());
        drop(timeout(Duration::from_secs(1), stop.changed()).await);
    }
    seen
}
