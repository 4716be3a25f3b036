//! Hosts with networks of their own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atoll_testkit::{Direction, Machine, ManagedProcess, ProcessSpec, Wire, require, wait::eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(20);
/// What is on its way when a link is cut arrives within this.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

/// Sends a byte 20 times a second, and logs what comes back.
const CLIENT: &str = r#"exec 3<>"/dev/tcp/$1/$2"; cat <&3 & while :; do printf x >&3; sleep 0.05; done"#;

#[tokio::test]
async fn a_link_is_cut_in_one_direction_or_both_and_mended() {
    require!(Machines);
    let wire = Wire::new().unwrap();
    let machine = Machine::start(&wire, "client").await.unwrap();
    let listener = TcpListener::bind((wire.address(), 0)).await.unwrap();
    let server = listener.local_addr().unwrap();
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&arrived);
    tokio::spawn(async move {
        let (mut stream, peer) = listener.accept().await.unwrap();
        assert_eq!(stream.local_addr().unwrap().port(), server.port());
        assert!(matches!(peer, SocketAddr::V4(_)));
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            count.fetch_add(read, Ordering::Relaxed);
            if stream.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let args = ["-c", CLIENT, "client", &server.ip().to_string(), &server.port().to_string()];
    let spec = ProcessSpec::new("client", "/bin/bash", &log).args(args).on(Some(&machine));
    let client = ManagedProcess::start(spec).unwrap();
    let there = || arrived.load(Ordering::Relaxed);
    let back = || std::fs::metadata(&log).map_or(0, |data| data.len());
    let more = async |what: &str, number: &dyn Fn() -> u64| {
        let before = number();
        let grown = async || if number() > before { Ok(()) } else { Err(client.log_tail(3)) };
        eventually(what, LIMIT, grown).await.unwrap();
    };
    more("answers", &back).await;

    machine.cut(server, Direction::In).unwrap();
    tokio::time::sleep(ON_ITS_WAY).await;
    let (heard, sent) = (back(), there());
    tokio::time::sleep(ON_ITS_WAY).await;
    assert_eq!(back(), heard, "answers are dropped");
    assert!(sent > 1, "requests arrived");

    machine.mend().unwrap();
    more("answers after the link was mended", &back).await;
    machine.cut(server, Direction::Out).unwrap();
    tokio::time::sleep(ON_ITS_WAY).await;
    let sent = there();
    tokio::time::sleep(ON_ITS_WAY).await;
    assert_eq!(there(), sent, "requests are dropped");
    machine.mend().unwrap();
    more("requests after the link was mended", &|| u64::try_from(there()).unwrap()).await;
}
