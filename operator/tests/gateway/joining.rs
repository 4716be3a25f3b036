//! Who may join and stay: wallets, known keys, suspended suppliers, CAs that follow each other, limits at the door.

use std::time::{Duration, Instant};

use atoll_api::conditions::site_reason;
use atoll_api::hub_ca::{self, CERTIFICATE, ISSUE_FROM, NEXT_KEY, PREVIOUS, RETIRE_AT, ROTATE, Stage};
use atoll_api::names::HUB_CA_SECRET;
use atoll_api::{Supplier, Trust};
use atoll_testkit::require;
use atoll_testkit::wait::{eventually, wait_for};
use atoll_wire::pin::Pin;
use atoll_wire::v1;
use atoll_wire::v1::goodbye::Reason;
use atoll_wire::wallet::WalletSigner;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tonic::{Code, Status};

use super::client::SiteIdentity;
use super::{Hub, LIMIT, RunningGateway, SYSTEM, connected, get, hello, in_seconds};

/// The wallet whose seed is all sevens.
const WALLET: &str = "[7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,\
    234,74,108,99,226,156,82,10,190,245,80,123,19,46,197,249,149,71,118,174,190,190,123,146,66,30,234,105,20,70,210,44]";

fn wallet() -> WalletSigner {
    WalletSigner::from_file_text(WALLET).unwrap()
}

fn code<T>(result: Result<T, Status>) -> Option<Code> {
    result.err().map(|status| status.code())
}

impl Hub {
    fn pin(&self) -> Pin {
        Pin::of_certificate_pem(&self.ca_pem).unwrap()
    }

    fn suppliers(&self) -> Api<Supplier> {
        Api::all(self.plane.client())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.plane.client(), SYSTEM)
    }

    async fn suspend(&self, supplier: &str, suspended: bool) {
        let patch = json!({ "spec": { "suspended": suspended } });
        self.suppliers().patch(supplier, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// What gateways wrote since, but for Leases.
    fn writes_since(&self, mark: atoll_testkit::audit::Mark) -> Vec<String> {
        let writes = self.plane.audit().writes_since(mark).unwrap();
        let ours = writes.into_iter().filter(|event| event.resource != "leases" && event.resource != "events");
        ours.map(|event| format!("{} {}", event.verb, event.resource)).collect()
    }
}

#[tokio::test]
async fn a_wallet_s_site_comes_into_quarantine_and_a_known_key_gets_its_certificate_again() {
    require!(Core);
    let mut hub = Hub::start().await;
    let gateway = hub.gateway("gw-wallet", &[]).await;
    let mark = hub.plane.audit().mark().unwrap();

    let mut first = SiteIdentity::new(gateway.port(), &hub.ca_pem);
    let name = first.join_by_wallet(&wallet(), hub.pin()).await.unwrap();
    assert_eq!(hub.writes_since(mark), ["create suppliers", "create sites"]);
    let site = hub.sites().get(&name).await.unwrap();
    assert!(site.spec.quarantined && site.spec.trust == Trust::Untrusted, "{:?}", site.spec);
    let supplier = hub.suppliers().get(&site.spec.supplier).await.unwrap();
    assert_eq!(supplier.spec.wallet, Some(wallet().address()));
    assert!(site.spec.supplier.starts_with("wallet-") && supplier.spec.contact.is_none());
    let mut session = first.session(hello(&[], vec![])).await.unwrap();
    assert_eq!(session.welcome().await.session, 1);

    // Another Site of the wallet, and the same once more.
    let mark = hub.plane.audit().mark().unwrap();
    let mut second = SiteIdentity::new(gateway.port(), &hub.ca_pem);
    let other = second.join_by_wallet(&wallet(), hub.pin()).await.unwrap();
    assert_eq!(hub.sites().get(&other).await.unwrap().spec.supplier, site.spec.supplier);
    assert_eq!(second.join_by_wallet(&wallet(), hub.pin()).await.unwrap(), other);
    assert_eq!(hub.writes_since(mark), ["create sites"]);

    // Signed for another hub, or for another key.
    let mark = hub.plane.audit().mark().unwrap();
    let mut thief = SiteIdentity::new(gateway.port(), &hub.ca_pem);
    assert_eq!(code(thief.join_by_wallet(&wallet(), Pin::of_spki(b"another hub")).await), Some(Code::Unauthenticated));
    // A key of another supplier is not taken over.
    let (mut theirs, _) = hub.joined(&gateway).await;
    assert_eq!(code(theirs.join_by_wallet(&wallet(), hub.pin()).await), Some(Code::FailedPrecondition));
    // A key that never joined.
    assert_eq!(code(thief.ask(thief.request()).await), Some(Code::Unauthenticated));
    let writes = hub.writes_since(mark);
    assert!(!writes.iter().any(|write| write.contains("suppliers")), "{writes:?}");

    // With its key alone a Site gets a certificate again, and nothing is written for it.
    let mark = hub.plane.audit().mark().unwrap();
    assert_eq!(first.ask(first.request()).await.unwrap(), name);
    // Whoever copied the request cannot use it: the certificate is for the key. And it must be signed by the key.
    let mut forged = first.request();
    *forged.csr_der.last_mut().unwrap() ^= 1;
    assert_eq!(code(thief.ask(forged).await), Some(Code::InvalidArgument));
    assert_eq!(hub.writes_since(mark), Vec::<String>::new());
    let mut again = first.session(hello(&[], vec![])).await.unwrap();
    assert_eq!(again.welcome().await.session, 2);

    // Not when the Site is suspended, its Supplier gone, or it itself.
    let patch = json!({ "spec": { "suspended": true } });
    hub.sites().patch(&other, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    refused(async || second.knowing(&hub.ca_pem).ask(second.request()).await, Code::PermissionDenied).await;
    assert_eq!(code(second.join_by_wallet(&wallet(), hub.pin()).await), Some(Code::PermissionDenied));
    hub.suppliers().delete(&site.spec.supplier, &DeleteParams::default()).await.unwrap();
    refused(async || first.knowing(&hub.ca_pem).ask(first.request()).await, Code::FailedPrecondition).await;
    hub.sites().delete(&name, &DeleteParams::default()).await.unwrap();
    refused(async || first.knowing(&hub.ca_pem).ask(first.request()).await, Code::Unauthenticated).await;

    let denied: Vec<_> = hub.plane.audit().events().unwrap().into_iter().filter(|event| event.code == 403).collect();
    assert!(denied.is_empty(), "{denied:?}");
    gateway.process.terminate(LIMIT).await.unwrap();
}

/// Waits until a request is refused with this code; watches take a moment.
async fn refused<T>(mut ask: impl AsyncFnMut() -> Result<T, Status>, wanted: Code) {
    eventually("the refusal", LIMIT, async || match code(ask().await) {
        Some(code) if code == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_sessions_of_a_suspended_supplier_are_dead_within_two_seconds_and_none_begins() {
    require!(Core);
    let mut hub = Hub::start().await;
    let gateway = hub.gateway("gw-suspend", &[]).await;
    let (mut one, site) = hub.joined(&gateway).await;
    let (two, _) = hub.joined(&gateway).await;
    let mut stranger = SiteIdentity::new(gateway.port(), &hub.ca_pem);
    stranger.join_by_wallet(&wallet(), hub.pin()).await.unwrap();
    let mut sessions = Vec::new();
    for identity in [&one, &two, &stranger] {
        let mut session = identity.session(hello(&[], vec![])).await.unwrap();
        session.welcome().await;
        session.synced().await;
        session.heartbeat().await;
        sessions.push(session);
    }
    let mut others = sessions.pop().unwrap();

    let suspended = Instant::now();
    hub.suspend("acme", true).await;
    for session in &mut sessions {
        assert_eq!(session.goodbye().await, Reason::Suspended);
    }
    let dead = suspended.elapsed();
    println!("from suspending a Supplier to its sessions dead: {dead:?}");
    assert!(dead < Duration::from_secs(2), "{dead:?}");
    hub.wait_site(&site, "to be called suspended", |site| {
        connected(site) == Some((false, site_reason::SUPPLIER_SUSPENDED.to_owned()))
    })
    .await;
    others.heartbeat().await;

    let mut session = one.session(hello(&[], vec![])).await.unwrap();
    assert_eq!(session.goodbye().await, Reason::Suspended);
    for refusal in [one.renew().await.unwrap_err(), one.ask(one.request()).await.unwrap_err()] {
        assert_eq!(refusal.code(), Code::PermissionDenied);
        assert!(refusal.message().contains("supplier acme"), "{refusal:?}");
    }
    // The token is not used up by a refusal.
    let token = hub.token(in_seconds(600)).await.presented().to_string();
    let mut new = SiteIdentity::new(gateway.port(), &hub.ca_pem);
    assert_eq!(code(new.join(&token).await), Some(Code::PermissionDenied));
    hub.suspend("acme", false).await;
    eventually("the supplier's return", LIMIT, async || new.join(&token).await.map_err(|status| status.to_string()))
        .await
        .unwrap();
    one.ask(one.request()).await.unwrap();
    let mut session = one.session(hello(&[], vec![])).await.unwrap();
    session.welcome().await;
    gateway.process.terminate(LIMIT).await.unwrap();
}

async fn stage(hub: &Hub, what: &str, holds: impl Fn(Stage) -> bool) -> Secret {
    let there = |secret: &Secret| holds(hub_ca::stage(secret.data.as_ref().unwrap()));
    wait_for(&hub.secrets(), HUB_CA_SECRET, what, LIMIT, there).await.unwrap()
}

async fn set_date(hub: &Hub, key: &str, at: jiff::Timestamp) {
    let patch = json!({ "stringData": { key: at.to_string() } });
    hub.secrets().patch(HUB_CA_SECRET, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

/// Waits until this gateway hands out a bundle like this at a renewal.
async fn bundle(identity: &mut SiteIdentity, what: &str, like: impl Fn(&str) -> bool) {
    eventually(what, LIMIT, async || {
        identity.renew().await.map_err(|status| status.to_string())?;
        if like(identity.bundle()) { Ok(()) } else { Err(identity.bundle().to_owned()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_hub_s_ca_is_replaced_under_running_gateways_and_nobody_joins_anew() {
    require!(Core);
    let mut hub = Hub::start().await;
    let one = hub.gateway("gw-ca-1", &[]).await;
    let two = hub.gateway("gw-ca-2", &[]).await;
    let old_pin = hub.pin();
    let (mut site, _) = hub.joined(&one).await;
    let old = site.bundle().to_owned();
    let mut session = site.session(hello(&[], vec![])).await.unwrap();
    session.welcome().await;
    session.synced().await;

    set_date(&hub, ROTATE, jiff::Timestamp::now()).await;
    let staged = stage(&hub, "the next CA", |stage| matches!(stage, Stage::Staged(_))).await;
    let data = staged.data.unwrap();
    let next = hub_ca::text(&data, hub_ca::NEXT_CERTIFICATE).unwrap().to_owned();
    for gateway in [&one, &two] {
        site = site.at(gateway.port());
        let both = |bundle: &str| bundle == format!("{old}{next}");
        bundle(&mut site, "a bundle of both", both).await;
    }
    // A Site that was away since before knows the old CA only.
    let away = site.knowing(&old);
    let mut knows_both = site;

    // Time passes.
    set_date(&hub, ISSUE_FROM, in_seconds(-1)).await;
    let following = stage(&hub, "the change of CAs", |stage| matches!(stage, Stage::Following(_))).await;
    let data = following.data.unwrap();
    assert_eq!(hub_ca::text(&data, CERTIFICATE), Some(next.as_str()));
    assert_eq!(hub_ca::text(&data, PREVIOUS), Some(old.as_str()));
    assert!(!data.contains_key(NEXT_KEY), "the old key is gone");
    for gateway in [&one, &two] {
        knows_both = knows_both.at(gateway.port());
        bundle(&mut knows_both, "the next CA first", |bundle| bundle == format!("{next}{old}")).await;
        let mut away = away.knowing(&old).at(gateway.port());
        assert!(away.reaches().await, "with the old CA and the old certificate");
        away.ask(away.request()).await.unwrap();
        assert_eq!(away.bundle(), format!("{next}{old}"));
    }
    // Who signed or was given a token just before.
    let mut new = SiteIdentity::new(one.port(), &old);
    new.join_by_wallet(&wallet(), old_pin).await.unwrap();
    assert_eq!(session.heartbeat().await.sequence, 1, "its session never ended");

    set_date(&hub, RETIRE_AT, in_seconds(-1)).await;
    stage(&hub, "the end of the old CA", |stage| stage == Stage::Settled).await;
    for gateway in [&one, &two] {
        knows_both = knows_both.at(gateway.port());
        bundle(&mut knows_both, "the next CA alone", |bundle| bundle == next).await;
        assert!(!away.knowing(&old).at(gateway.port()).reaches().await, "the old CA is of no use any more");
    }
    session.heartbeat().await;
    let denied: Vec<_> = hub.plane.audit().events().unwrap().into_iter().filter(|event| event.code == 403).collect();
    assert!(denied.is_empty(), "{denied:?}");
    for gateway in [one, two] {
        gateway.process.terminate(LIMIT).await.unwrap();
    }
}

async fn metric(gateway: &RunningGateway, line: &str) -> u64 {
    let page = get(&format!("127.0.0.1:{}", gateway.http.number()), "/metrics").await.unwrap();
    let value = page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{line} is not in {page}"))
}

#[tokio::test]
async fn a_source_that_comes_too_often_is_turned_away_and_counted() {
    require!(Core);
    let mut hub = Hub::start().await;
    let flags = ["--source-joins-per-minute=5", "--source-handshakes-per-second=2"];
    let gateway = hub.gateway("gw-door", &flags).await;
    let mut identity = SiteIdentity::new(gateway.port(), &hub.ca_pem);
    for attempt in 0..6 {
        let refusal = identity.join("junk").await.unwrap_err();
        let wanted = if attempt < 5 { Code::Unauthenticated } else { Code::ResourceExhausted };
        assert_eq!(refusal.code(), wanted, "{attempt}: {refusal:?}");
    }
    let mut request = identity.request();
    request.wallet = Some(v1::Wallet::default());
    assert_eq!(code(identity.ask(request).await), Some(Code::ResourceExhausted), "by a wallet too");

    let mut reached = 0;
    while identity.reaches().await {
        reached += 1;
        assert!(reached < 200, "nobody is turned away");
    }
    assert!(reached >= 10, "{reached}");
    let line = |what: &str| format!("atoll_gateway_turned_away_total{{reason=\"source\",what=\"{what}\"}}");
    assert_eq!(metric(&gateway, &line("join")).await, 2);
    assert!(metric(&gateway, &line("handshake")).await >= 1);
    // It comes back by itself.
    eventually(
        "the door to open",
        LIMIT,
        async || if identity.reaches().await { Ok(()) } else { Err("shut".to_owned()) },
    )
    .await
    .unwrap();
    gateway.process.terminate(LIMIT).await.unwrap();
}
