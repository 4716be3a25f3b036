use super::*;

const KEY: [u8; 32] = [7; 32];

fn request(nonce: u8) -> AskRequest {
    let running = vec![RunningMember { pod_uid: "p".into(), cluster_uid: "c".into(), rank: 1, incarnation: 2 }];
    AskRequest { node: "n".into(), nonce: vec![nonce; 16], running, mac: vec![], boot_id: "b".into() }
}

/// A service whose manager answers with a lease of this age, and its metrics.
fn service(age: Option<Duration>) -> (Service, Metrics) {
    let (asks, mut asked) = mpsc::channel::<Ask>(1);
    tokio::spawn(async move {
        while let Some(ask) = asked.recv().await {
            assert_eq!((ask.node.as_str(), ask.running[0].member), ("n", Member { rank: 1, incarnation: 2 }));
            let _ = ask.answer.send(Answer { age, kill: vec!["p".into()] });
        }
    });
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    (Service::new(Key::new(KEY.to_vec()).unwrap(), asks, metrics.clone()), metrics)
}

#[tokio::test]
async fn a_watchdog_is_answered_with_its_nonce_and_the_age_of_the_lease() {
    for (age, granted, told) in [(None, false, 0), (Some(Duration::from_micros(1_999)), true, 2)] {
        let (service, metrics) = service(age);
        let answer = service.ask(Request::new(request(1).seal(&KEY))).await.unwrap().into_inner();
        let answer = answer.open(&KEY).expect("the Site's MAC");
        assert_eq!((answer.nonce, answer.granted, answer.age_milliseconds), (vec![1; 16], granted, told));
        assert_eq!(answer.kill, ["p"]);
        assert_eq!(metrics.watchdog_asks.get(), 1);
    }
}

#[tokio::test]
async fn forged_replayed_and_malformed_requests_are_refused_and_counted() {
    let (service, metrics) = service(None);
    let long = AskRequest { node: "n".repeat(MAX_NODE_NAME_BYTES + 1), ..request(2) };
    let nameless = AskRequest { node: String::new(), ..request(2) };
    let crowd = AskRequest { running: vec![RunningMember::default(); MAX_RUNNING_MEMBERS + 1], ..request(2) };
    let uid = AskRequest { running: vec![RunningMember::default()], ..request(2) };
    let short = AskRequest { nonce: vec![1; 15], ..request(2) };
    for (what, request, reason, count) in [
        ("no MAC", request(1), "mac", 1),
        ("another key", request(1).seal(&[8; 32]), "mac", 2),
        ("changed on its way", AskRequest { boot_id: "x".into(), ..request(1).seal(&KEY) }, "mac", 3),
        ("a long name", long.seal(&KEY), "malformed", 1),
        ("no name", nameless.seal(&KEY), "malformed", 2),
        ("too many members", crowd.seal(&KEY), "malformed", 3),
        ("a member without UIDs", uid.seal(&KEY), "malformed", 4),
        ("a short nonce", short.seal(&KEY), "malformed", 5),
    ] {
        let status = service.ask(Request::new(request)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{what}");
        assert_eq!(metrics.watchdog_refused.with_label_values(&[reason]).get(), count, "{what}");
    }
    assert!(service.ask(Request::new(request(1).seal(&KEY))).await.is_ok(), "what was refused uses no nonce up");
    assert!(service.ask(Request::new(request(1).seal(&KEY))).await.is_err(), "the same again");
    assert_eq!(metrics.watchdog_refused.with_label_values(&["replayed"]).get(), 1);
    assert_eq!(metrics.watchdog_asks.get(), 1);
}
