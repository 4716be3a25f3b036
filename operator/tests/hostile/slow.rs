//! Who says nothing, says it slowly, does not listen, or comes too often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_wire::v1::{self, agent_message::Message as ToHub};
use atoll_wire_client::{Call, Identity, SESSION, frame};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::world::World;

/// How long any of them may hold what it has.
const LIMIT: Duration = Duration::from_mins(1);
/// Of each kind at once.
const MANY: usize = 50;

/// All of it at once, some of it as these Sites; how many requests that was.
pub async fn run(world: Arc<World>, [of_drip, of_deaf, of_crowd]: [Identity; 3]) -> u64 {
    let (mute, nameless, drip, deaf, crowd) = tokio::join!(
        mute(&world),
        nameless(&world),
        drip(&world, &of_drip),
        deaf(&world, &of_deaf),
        crowd(&world, &of_crowd)
    );
    mute + nameless + drip + deaf + crowd
}

/// Connections without a handshake.
async fn mute(world: &World) -> u64 {
    let mut open = Vec::new();
    for _ in 0..MANY {
        open.push(TcpStream::connect(world.address).await.unwrap());
    }
    for mut stream in open {
        assert_eq!(timeout(LIMIT, stream.read(&mut [0; 64])).await.expect("it is closed").unwrap_or(0), 0);
    }
    MANY as u64
}

/// TLS without a certificate and without HTTP/2, or with something else than HTTP/2.
async fn nameless(world: &World) -> u64 {
    let mut open = Vec::new();
    for number in 0..MANY {
        let mut stream = world.endpoint().tls(None).await.unwrap();
        if number % 2 == 0 {
            drop(stream.write_all(b"GET /etc/passwd HTTP/1.1\r\n\r\n").await);
            drop(stream.flush().await);
        }
        open.push(stream);
    }
    for mut stream in open {
        let closed = timeout(LIMIT, async { while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} });
        closed.await.expect("it is closed");
    }
    MANY as u64
}

/// A hello that comes byte by byte.
async fn drip(world: &World, identity: &Identity) -> u64 {
    let link = world.endpoint().connect(Some(identity)).await.unwrap();
    let mut call = link.open(SESSION).await.unwrap();
    let hello = v1::AgentMessage {
        message: Some(ToHub::Hello(v1::Hello { boot_id: "b".repeat(100), ..v1::Hello::default() })),
    };
    let bytes = frame(&hello);
    let began = Instant::now();
    let mut sent = 0;
    for byte in &bytes {
        if call.bytes(Bytes::copy_from_slice(&[*byte])).is_err() || began.elapsed() > LIMIT {
            break;
        }
        sent += 1;
        sleep(Duration::from_millis(250)).await;
    }
    assert!(ended(&mut call).await && began.elapsed() < LIMIT, "a hello of {sent} bytes was waited for");
    sent
}

/// A session that sends heartbeats and reads no grant.
async fn deaf(world: &World, identity: &Identity) -> u64 {
    let link = world.endpoint().reading(1_024).connect(Some(identity)).await.unwrap();
    let mut call = link.open(SESSION).await.unwrap();
    call.message(&v1::AgentMessage { message: Some(ToHub::Hello(v1::Hello::default())) }).unwrap();
    let began = Instant::now();
    let mut sequence = 0;
    while began.elapsed() < LIMIT {
        sequence += 1;
        let beat = v1::AgentMessage { message: Some(ToHub::Heartbeat(v1::Heartbeat { sequence })) };
        if call.message(&beat).is_err() {
            return sequence;
        }
        // More than the gateway's window is kept here, which is not what this is about.
        if sequence > 10_000 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    panic!("a session that reads nothing lives after {LIMIT:?}");
}

/// More connections than a Site may have.
async fn crowd(world: &World, identity: &Identity) -> u64 {
    let mut links = Vec::new();
    let mut refused = 0;
    for _ in 0..10 {
        match world.endpoint().connect(Some(identity)).await {
            Ok(link) => match link.open(SESSION).await {
                Ok(call) => links.push((link, call)),
                Err(_) => refused += 1,
            },
            Err(_) => refused += 1,
        }
    }
    let mut alive = 0;
    for (_, call) in &mut links {
        // Those that were refused end at once, the others wait for a hello.
        alive += u64::from(timeout(Duration::from_secs(2), call.incoming.next()).await.is_err());
    }
    assert!(alive <= 4, "{alive} connections of one Site, {refused} refused");
    10
}

async fn ended(call: &mut Call) -> bool {
    let end = async { while let Ok(Some(_)) = call.incoming.next().await {} };
    timeout(LIMIT, end).await.is_ok()
}
