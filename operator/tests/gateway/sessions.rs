//! Reports of one session and of the next.

use super::*;

#[tokio::test]
async fn what_a_live_session_said_stands_and_is_never_written_over_what_a_newer_one_said() {
    require!(Core);
    let mut hub = Hub::start().await;
    let gateway = hub.gateway("gw-words", &[]).await;
    let (identity, site) = hub.joined(&gateway).await;
    hub.create_slice("train-1", &site).await;
    let mut session = identity.session(hello(&nodes(0), vec![])).await.unwrap();
    session.welcome().await;
    let (slices, ..) = session.synced().await;
    let key = slices[0].key.clone().unwrap();

    // Somebody changes the slice while a report is on its way: it is decided again on what that left.
    let touch = Patch::Merge(json!({"metadata": {"labels": {"touched": "yes"}}}));
    let report_ready = FromAgent::SliceReport(report(&key, v1::member::Phase::Ready));
    let slices = hub.slices();
    let params = PatchParams::default();
    let (touched, ()) = tokio::join!(slices.patch("train-1", &params, &touch), session.send(report_ready.clone()));
    touched.unwrap();
    let is_ready = |slice: &ClusterSlice| ready(slice) && slice.status.as_ref().unwrap().session == 1;
    wait_for(&hub.slices(), "train-1", "to be ready", LIMIT, is_ready).await.unwrap();

    // What an older session said is written late.
    let late = Patch::Merge(json!({"status": {"session": 0, "reservation": "Pending", "members": []}}));
    hub.slices().patch_status("train-1", &PatchParams::default(), &late).await.unwrap();
    wait_for(&hub.slices(), "train-1", "to be ready again", LIMIT, is_ready).await.unwrap();

    // A newer session has said something, which this gateway has not seen begin.
    let newer = Patch::Merge(json!({"status": {"session": 9, "reservation": "Pending", "members": []}}));
    hub.slices().patch_status("train-1", &PatchParams::default(), &newer).await.unwrap();
    session.send(report_ready).await;
    hub.create_slice("train-2", &site).await;
    let Some(ToAgent::Slice(other)) = session.next().await.unwrap() else { panic!("no slice") };
    let other = other.key.unwrap();
    session.send(FromAgent::SliceReport(report(&other, v1::member::Phase::Ready))).await;
    wait_for(&hub.slices(), "train-2", "to be ready", LIMIT, is_ready).await.unwrap();
    assert_eq!(hub.slices().get("train-1").await.unwrap().status.unwrap().session, 9);
    gateway.process.terminate(LIMIT).await.unwrap();
    assert_eq!(hub.slices().get("train-1").await.unwrap().status.unwrap().session, 9, "all was written or dropped");
}
