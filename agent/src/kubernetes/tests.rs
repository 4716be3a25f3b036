use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use atoll_api::conditions::member_reason;
use atoll_api::gang::{GangNode, GangPhase, GangStatus};
use atoll_api::names;
use atoll_core::lease::Times;
use atoll_core::member::{Action, Member, Mode, Phase, Verdict, Wanted};
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt as _;
use serde_json::json;

use super::{KubernetesRuntime, objects, views};
use crate::fixtures::{slice_id, slice_spec};
use crate::metrics::Metrics;
use crate::runtime::{MemberRuntime as _, SliceSpec};

fn slice() -> (Wanted, SliceSpec) {
    let spec = slice_spec(|spec| spec["phase"] = "Reserve".into());
    crate::convert::slice(&slice_id(), 1, spec.to_string().as_bytes()).unwrap()
}

#[test]
fn a_gang_tells_all_that_a_new_agent_must_know() {
    let (wanted, slice) = slice();
    let mut object = objects::gang(&slice_id(), &slice, 2).unwrap();
    object.metadata.resource_version = Some("77".into());
    object.metadata.generation = Some(3);
    let (found, version, gang) = views::gang(&object).unwrap();
    assert_eq!((found, version), (slice_id(), 77));
    assert_eq!((gang.epoch, gang.mode, gang.times), (4, Mode::Hold, Times::from_seconds(60, 90)));
    assert_eq!((gang.members, gang.stopped_incarnation), (wanted.members, 2));
    assert_eq!((gang.verdict, gang.stopping), (Verdict::Pending, false));
    assert_eq!(object.spec.shapes.len(), 1);
    let autonomous = objects::gang(&slice_id(), &SliceSpec { times: Times::Never, ..slice }, 0).unwrap();
    assert_eq!(autonomous.annotations()[names::ANNOTATION_FENCE], "none");
    assert_eq!(views::gang(&autonomous).unwrap().2.times, Times::Never);
}

#[test]
fn a_verdict_counts_for_its_own_generation_and_binding_for_ever() {
    let mut object = objects::gang(&slice_id(), &slice().1, 0).unwrap();
    object.metadata.generation = Some(2);
    let mut status = GangStatus {
        observed_generation: Some(1),
        phase: Some(GangPhase::Bound),
        message: Some("old".into()),
        nodes: vec![GangNode { pod: "train-0-3".into(), node: "a".into() }],
        ..GangStatus::default()
    };
    object.status = Some(status.clone());
    let bound = Member { rank: 0, incarnation: 3 };
    let (_, _, gang) = views::gang(&object).unwrap();
    assert_eq!((gang.verdict, gang.message), (Verdict::Pending, None));
    assert!(gang.bound.contains(&bound));
    status.observed_generation = Some(2);
    object.status = Some(status.clone());
    assert_eq!(views::gang(&object).unwrap().2.verdict, Verdict::Bound);
    status.phase = Some(GangPhase::Reserved);
    object.status = Some(status);
    let (_, _, gang) = views::gang(&object).unwrap();
    assert_eq!(gang.verdict, Verdict::Reserved);
    assert!(gang.bound.is_empty(), "held is not bound");
}

#[test]
fn objects_of_others_are_not_ours() {
    let mut object = objects::gang(&slice_id(), &slice().1, 0).unwrap();
    object.metadata.namespace = Some("elsewhere".into());
    assert!(views::gang(&object).is_none());
    object.metadata.namespace = Some(slice_id().site_namespace());
    object.metadata.annotations = None;
    assert!(views::gang(&object).is_none());
    let mut namespace = objects::namespace(&slice_id());
    assert_eq!(views::namespace(&namespace), Some(("uid".into(), false)));
    namespace.metadata.name = Some("kube-system".into());
    assert_eq!(views::namespace(&namespace), None);
}

#[test]
fn a_namespace_enforces_restricted_pods_and_the_service_is_headless() {
    let namespace = objects::namespace(&slice_id());
    let labels: BTreeMap<String, String> = namespace.metadata.labels.unwrap();
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
    assert_eq!(objects::service_account(&slice_id()).automount_service_account_token, Some(false));
    let service = objects::service(&slice_id(), "train").spec.unwrap();
    assert_eq!((service.cluster_ip.as_deref(), service.publish_not_ready_addresses), (Some("None"), Some(true)));
}

#[test]
fn pods_are_as_far_as_their_status_says() {
    let view = |pod: serde_json::Value| views::pod(&serde_json::from_value::<core::Pod>(pod).unwrap());
    let on = json!({"nodeName": "a", "containers": []});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
    let cases = [
        (json!({"spec": {"containers": []}}), Phase::Waiting),
        (json!({"spec": on, "status": {"phase": "Pending"}}), Phase::Starting),
        (json!({"spec": on, "status": {"phase": "Running"}}), Phase::Starting),
        (json!({"spec": on, "status": {"phase": "Running", "conditions": ready}}), Phase::Ready),
        (json!({"spec": on, "status": {"phase": "Succeeded"}}), Phase::Succeeded),
        (json!({"spec": on, "status": {"phase": "Failed"}}), Phase::Failed),
        (json!({"spec": on, "status": {"phase": "Failed", "reason": "Evicted"}}), Phase::Lost),
        (json!({"spec": on, "status": {"phase": "Failed", "reason": "OutOfnvidia.com/gpu"}}), Phase::Lost),
        (json!({"metadata": deleted, "spec": on, "status": {"phase": "Succeeded"}}), Phase::Lost),
        (json!({"metadata": deleted, "spec": on, "status": {"phase": "Failed"}}), Phase::Lost),
        (
            json!({"spec": on, "status": {"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}]}}),
            Phase::Lost,
        ),
    ];
    for (pod, phase) in cases {
        assert_eq!(view(pod.clone()).phase, phase, "{pod}");
    }
    // Whoever cleans up after a node knows nothing of its containers.
    let collected = json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}]);
    let running = json!([{"name": "main", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]);
    for status in [
        json!({"phase": "Failed", "conditions": collected}),
        json!({"phase": "Succeeded", "containerStatuses": running}),
    ] {
        assert_eq!(view(json!({"spec": on, "status": status})).phase, Phase::Starting, "{status}");
    }
    let killed = view(json!({"metadata": deleted, "spec": on, "status": {"phase": "Running", "conditions": ready}}));
    assert!(killed.stopping && killed.killed && killed.phase == Phase::Ready);
    let told = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 29});
    assert!(!view(json!({"metadata": told, "spec": on, "status": {"phase": "Running"}})).killed);
}

#[test]
fn a_failure_says_which_container_and_how() {
    let pod = json!({"spec": {"nodeName": "a", "containers": []}, "status": {"phase": "Failed", "containerStatuses": [{
        "name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }]}});
    let view = views::pod(&serde_json::from_value(pod).unwrap());
    assert_eq!(view.reason.as_deref(), Some(member_reason::CONTAINERS_FAILED));
    assert_eq!(view.message.as_deref(), Some("container main ended with exit code 137 (OOMKilled)"));
}

#[test]
fn an_image_that_cannot_be_pulled_is_told_once() {
    let told = |reason: &str| {
        let pod = json!({"spec": {"nodeName": "a", "containers": []}, "status": {"phase": "Pending", "containerStatuses": [{
            "name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": "changes all the time"}},
        }]}});
        views::pod(&serde_json::from_value(pod).unwrap())
    };
    assert_eq!(told("ErrImagePull"), told("ImagePullBackOff"));
    assert_eq!(told("ImagePullBackOff").reason.as_deref(), Some("ImagePullBackOff"));
    assert_eq!(told("ContainerCreating").reason, None);
}

/// A Site whose API server answers everything with this code, and what it was asked.
fn site(code: u16) -> (KubernetesRuntime, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let requests = asked.clone();
    let server = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let requests = requests.clone();
        async move {
            let asked = format!("{} {}", request.method(), request.uri().path());
            let body = request.into_body().collect_bytes().await.expect("a body");
            requests.lock().unwrap().push(format!("{asked} {}", String::from_utf8_lossy(&body)));
            let status = if code < 300 { "Success" } else { "Failure" };
            let answer =
                json!({"kind": "Status", "apiVersion": "v1", "status": status, "code": code, "message": "policy"});
            let body = kube::client::Body::from(answer.to_string().into_bytes());
            http::Response::builder().status(code).body(body)
        }
    });
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    (KubernetesRuntime::new(kube::Client::new(server, "default"), "cluster.local".into(), metrics), asked)
}

#[tokio::test]
async fn what_is_to_be_made_can_be_refused_and_what_is_to_stop_cannot() {
    let spec = Arc::new(slice().1);
    let member = Member { rank: 0, incarnation: 3 };
    for (action, refused) in [
        (Action::Furnish, true),
        (Action::ApplyGang, true),
        (Action::CreatePod(member), true),
        (Action::MarkStopped(3), false),
        (Action::DeletePod { member, kill: false }, false),
        (Action::DeleteGang, false),
    ] {
        let outcome = site(403).0.apply(slice_id(), Some(spec.clone()), 0, vec![action.clone()]).await;
        assert_eq!((outcome.refused.is_some(), outcome.failed.is_some()), (refused, !refused), "{action:?}");
        assert!(!outcome.progressed());
    }
}

#[tokio::test]
async fn a_killed_pod_stays_until_it_has_stopped() {
    let (runtime, asked) = site(200);
    let member = Member { rank: 0, incarnation: 3 };
    let kill = Action::DeletePod { member, kill: true };
    let outcome = runtime.apply(slice_id(), Some(Arc::new(slice().1)), 0, vec![kill]).await;
    assert_eq!(outcome.deleted, [(member, true)], "{outcome:?}");
    let first = asked.lock().unwrap()[0].clone();
    assert!(first.starts_with("DELETE ") && first.contains(r#""gracePeriodSeconds":1"#), "{first}");
    let (runtime, asked) = site(200);
    let outcome = runtime.apply(slice_id(), Some(Arc::new(slice().1)), 0, vec![Action::RemovePod(member)]).await;
    assert_eq!(outcome.deleted, [(member, true)], "{outcome:?}");
    let first = asked.lock().unwrap()[0].clone();
    assert!(first.contains(r#""gracePeriodSeconds":0"#), "one of which nothing runs does not: {first}");
}
