//! What a gateway does with fences, and with what suppliers want.

use atoll_api::{Availability, FencedCluster};

use super::*;

impl Hub {
    async fn patch_status(&self, site: &str, status: serde_json::Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.sites().patch_status(site, &PatchParams::default(), &patch).await.unwrap();
    }
}

fn availability(site: &Site) -> Option<Availability> {
    site.status.as_ref().and_then(|status| status.availability)
}

#[tokio::test]
async fn a_fenced_slice_is_not_delivered_and_a_session_keeps_what_is_fenced() {
    require!(Core);
    let mut hub = Hub::start().await;
    let gateway = hub.gateway("gw-fence", &["--suspect-after=3s", "--heartbeat=1s"]).await;
    let (identity, site) = hub.joined(&gateway).await;
    hub.create_slice("train-1", &site).await;
    let mut session = identity.session(hello(&nodes(0), vec![])).await.unwrap();
    session.welcome().await;
    let (slices, _, complete) = session.synced().await;
    assert_eq!((slices.len(), complete.slices.len()), (1, 1));
    let key = slices[0].key.clone().unwrap();
    session.heartbeat().await;

    // It falls silent: the age of its last grant is written.
    let granted = Instant::now();
    drop(session);
    let lost = hub.wait_site(&site, "to be lost", |site| connected(site).is_some_and(|(live, _)| !live)).await;
    let ended = lost.status.unwrap().session.unwrap();
    let age = Duration::from_millis(ended.last_grant_age_milliseconds.unwrap().try_into().unwrap());
    assert!(age >= Duration::from_secs(2) && age <= granted.elapsed(), "{age:?} of {:?}", granted.elapsed());

    // Fenced meanwhile, it is told of nothing when it comes back, and what it says of the slice is not believed.
    let fenced = [FencedCluster { cluster_uid: "uid-train".to_owned(), epoch: 1 }];
    hub.patch_status(&site, json!({ "fenced": fenced })).await;
    let mut session = identity.session(hello(&nodes(0), vec![])).await.unwrap();
    session.welcome().await;
    let (slices, deleted, complete) = session.synced().await;
    assert_eq!((slices.len(), deleted.len(), complete.slices.len()), (0, 0, 0));
    let back = hub.wait_site(&site, "to be back", |site| connected(site).is_some_and(|(live, _)| live)).await;
    let status = back.status.unwrap();
    assert_eq!(status.fenced, fenced);
    assert_eq!(status.session.unwrap().last_grant_age_milliseconds, None);
    session.send(FromAgent::SliceReport(report(&key, v1::member::Phase::Ready))).await;
    session.heartbeat().await;

    // A later epoch is delivered, also when the fence is gone by then; an earlier one never again in this session.
    hub.patch_status(&site, json!({ "fenced": null })).await;
    let touch = json!({"metadata": {"labels": {"seen": "again"}}, "spec": {"gpus": 2}});
    hub.slices().patch("train-1", &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
    session.heartbeat().await;
    let later = json!({"spec": {"epoch": 2}});
    hub.slices().patch("train-1", &PatchParams::default(), &Patch::Merge(later)).await.unwrap();
    let Some(ToAgent::Slice(slice)) = session.next().await.unwrap() else { panic!("no slice") };
    assert!(String::from_utf8(slice.spec_json).unwrap().contains("\"epoch\":2"));
    assert!(hub.slices().get("train-1").await.unwrap().status.is_none(), "no stale report was taken");
}

#[tokio::test]
async fn what_a_supplier_wants_is_written_with_the_session_and_when_it_changes() {
    require!(Core);
    let mut hub = Hub::start().await;
    let gateway = hub.gateway("gw-wants", &[]).await;
    let (identity, site) = hub.joined(&gateway).await;
    let hello = v1::Hello { availability: v1::Availability::Paused.into(), ..hello(&nodes(0), vec![]) };
    let mut session = identity.session(hello).await.unwrap();
    session.welcome().await;
    assert_eq!(availability(&hub.sites().get(&site).await.unwrap()), Some(Availability::Paused));
    for (said, wanted) in
        [(v1::Availability::Draining, Availability::Draining), (v1::Availability::Accepting, Availability::Accepting)]
    {
        let change = v1::AvailabilityChange { availability: said.into() };
        session.send(FromAgent::Availability(change)).await;
        session.send(FromAgent::Availability(change)).await;
        hub.wait_site(&site, "to say what is wanted", |site| availability(site) == Some(wanted)).await;
    }
    session.synced().await;
    session.heartbeat().await;
}
