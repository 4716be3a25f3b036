//! What a leader that stood still wants to write when another one leads.

use atoll_api::names::TERM_IS_OVER;
use kube::api::Preconditions;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_former_leader_decided_is_taken_however_unchanged_the_object_is() {
    require!(Core);
    let mut hub = Hub::start(1).await;
    hub.site("site-a", 1, 2).await;
    hub.apply("mine", &json!({})).await;
    hub.running("mine").await;
    let operator = client(&hub.plane, "atoll-operator").await;
    let clusters: Api<Cluster> = Api::namespaced(operator.clone(), TENANT);
    let slices: Api<ClusterSlice> = Api::namespaced(operator, TENANT);

    // What it decided on has changed: its term alone would let it through.
    let known = slices.list(&ListParams::default()).await.unwrap().items.remove(0);
    let name = known.name_any();
    let term = known.spec.term;
    hub.apply("mine", &json!({"members": {"count": 2, "gpus": 1}})).await;
    hub.reaches("mine", "to grow", |s| s.ready == 2).await;
    let conflict = |result: Result<(), kube::Error>| match result {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 409, "{status}"),
        other => panic!("{other:?}"),
    };
    let post = PostParams::default();
    conflict(slices.replace(&name, &post, &known).await.map(drop));
    let seen = Preconditions { uid: known.uid(), resource_version: known.resource_version() };
    let delete = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
    conflict(slices.delete(&name, &delete).await.map(drop));

    // Another one leads. What the former one decided on has not changed.
    hub.operators[0].kill9().await.unwrap();
    let (cluster, slice) = (clusters.get("mine").await.unwrap(), slices.get(&name).await.unwrap());
    assert_eq!((cluster.status.as_ref().unwrap().term, slice.spec.term), (term, term));
    hub.start_operator(1);
    hub.apply("next", &json!({})).await;
    let next = hub.reaches("next", "to be decided about", |s| s.state.is_some()).await;
    assert!(next.term > term);
    let refused = |result: Result<(), kube::Error>, what: &str| {
        let error = result.expect_err(what).to_string();
        assert!(error.contains(TERM_IS_OVER), "{what}: {error}");
    };
    assert_eq!(clusters.get("mine").await.unwrap().resource_version(), cluster.resource_version(), "at rest");
    let mut late = cluster.clone();
    late.status.as_mut().unwrap().epoch += 1;
    refused(clusters.replace_status("mine", &post, &late).await.map(drop), "a commit");
    let mut late = slice.clone();
    late.spec.epoch += 1;
    refused(slices.replace(&name, &post, &late).await.map(drop), "a slice");
    let mut late = ClusterSlice::new("of-nobody", slice.spec.clone());
    late.metadata.namespace = Some(TENANT.to_owned());
    refused(slices.create(&post, &late).await.map(drop), "a new slice");
    let release = Patch::Merge(json!({"metadata": {"finalizers": []}}));
    refused(slices.patch(&name, &PatchParams::default(), &release).await.map(drop), "a slice's finalizer");
    // The present leader goes on with what the former one made.
    hub.clusters().delete("mine", &DeleteParams::default()).await.unwrap();
    wait_gone(&hub.clusters(), "mine", LIMIT).await.unwrap();
    wait_gone(&hub.slices(), &name, LIMIT).await.unwrap();
}
