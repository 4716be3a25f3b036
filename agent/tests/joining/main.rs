//! `atoll-agent join` as a process, with a directory for its identity, against a scripted hub.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../hub/mod.rs"]
mod hub;

use std::path::Path;

use atoll_testkit::scratch::Scratch;
use atoll_wire::pin::Pin;
use hub::Hub;
use tokio::process::Command;

/// The wallet whose seed is all sevens.
const WALLET: &str = "[7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,\
    234,74,108,99,226,156,82,10,190,245,80,123,19,46,197,249,149,71,118,174,190,190,123,146,66,30,234,105,20,70,210,44]";

struct Ran {
    fine: bool,
    out: String,
    err: String,
}

async fn join(hub: &Hub, directory: &Path, more: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_atoll-agent"))
        .args(["join", "--region=eu-west", "--display-name=Basement"])
        .arg(format!("--hub={}", hub.address))
        .arg(format!("--identity-dir={}", directory.display()))
        .args(more)
        .env_remove("ATOLL_JOIN_TOKEN")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    Ran {
        fine: output.status.success(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn read(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap()
}

#[tokio::test]
async fn a_token_or_a_wallet_makes_an_identity_that_is_kept_and_the_next_command_is_printed() {
    let hub = Hub::start();
    let scratch = Scratch::new("joining").unwrap();
    let directory = scratch.join("by-token");
    let ran = join(&hub, &directory, &["--token", &hub.token()]).await;
    assert!(ran.fine, "{}", ran.err);
    let site = read(&directory, "site");
    assert!(ran.out.contains(&format!("This is the Site {site}")), "{}", ran.out);
    let next = format!("--identity-dir={}", directory.display());
    assert!(ran.out.lines().last().unwrap().ends_with(&next), "{}", ran.out);
    // Again: it has joined, and the token is used up.
    let key = read(&directory, "tls.key");
    let ran = join(&hub, &directory, &["--token", &hub.token()]).await;
    assert!(ran.fine && ran.out.contains(&site), "{}", ran.err);
    assert_eq!(read(&directory, "tls.key"), key);

    let file = scratch.join("wallet.json");
    std::fs::write(&file, WALLET).unwrap();
    let file = format!("--wallet-file={}", file.display());
    let directory = scratch.join("by-wallet");
    let ran = join(&hub, &directory, &[&file, &format!("--hub-pin={}", hub.pin())]).await;
    assert!(ran.fine && ran.out.contains("in quarantine"), "{}{}", ran.out, ran.err);
    for entry in std::fs::read_dir(&directory).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("7,7,7"), "the wallet is not kept");
    }
}

#[tokio::test]
async fn what_the_hub_refuses_ends_with_its_words() {
    let hub = Hub::start();
    let scratch = Scratch::new("refused").unwrap();
    let directory = scratch.join("identity");
    let token = hub.token();
    assert!(join(&hub, &scratch.join("first"), &["--token", &token]).await.fine);
    let ran = join(&hub, &directory, &["--token", &token]).await;
    assert!(!ran.fine && ran.err.contains("no such token"), "{}", ran.err);
    let missing = scratch.join("no-such-file");
    let ran = join(&hub, &directory, &["--token-file", missing.to_str().unwrap()]).await;
    assert!(!ran.fine && ran.err.contains("has not joined a hub yet"), "{}", ran.err);
    let wallet = format!("--wallet-file={}", missing.display());
    let ran = join(&hub, &directory, &[&wallet, &format!("--hub-pin={}", Pin::of_spki(b"hub"))]).await;
    assert!(!ran.fine && ran.err.contains("no-such-file"), "{}", ran.err);
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_replaced_without_a_person() {
    let hub = Hub::start();
    let scratch = Scratch::new("ended").unwrap();
    let directory = scratch.join("identity");
    hub.give_ended(true);
    assert!(join(&hub, &directory, &["--token", &hub.token()]).await.fine);
    let (site, ended) = (read(&directory, "site"), read(&directory, "tls.crt"));
    hub.give_ended(false);
    // The token is used up and its file gone, as it is when an agent starts again.
    let missing = scratch.join("no-such-file");
    let ran = join(&hub, &directory, &["--token-file", missing.to_str().unwrap()]).await;
    assert!(ran.fine, "{}", ran.err);
    assert_eq!(read(&directory, "site"), site);
    assert_ne!(read(&directory, "tls.crt"), ended);

    // Only of the hub that it joined: another one is not asked.
    let stranger = Hub::start();
    std::fs::write(directory.join("tls.crt"), ended).unwrap();
    let flags = ["--token-file", missing.to_str().unwrap()];
    let asking = join(&stranger, &directory, &flags);
    let ran = tokio::time::timeout(std::time::Duration::from_secs(3), asking).await;
    assert!(ran.is_err(), "it tries for as long as it is let");
}
