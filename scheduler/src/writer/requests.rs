//! What each write sends.

use std::time::Duration;

use atoll_api::names::FIELD_MANAGER_SCHEDULER;
use atoll_api::{GROUP, VERSION};
use k8s_openapi::api::core::v1::ObjectReference;
use prost::bytes::Bytes;
use serde_json::{Value, json};

use crate::api::Method;
use crate::cycle::{Action, Nominate, Object, ObjectKind};
use crate::objects::{ObjectKey, api_time};

/// Reason of the conditions of pods and pod groups that wait.
pub(super) const REASON_UNSCHEDULABLE: &str = "Unschedulable";
const POD_GROUP_VERSION: &str = "scheduling.k8s.io/v1beta1";

/// A request to the API server.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Bytes,
}

/// The write of an action, at this time; `None` for those that are no status.
pub(super) fn request(action: &Action, now: Duration) -> Option<Request> {
    Some(match action {
        Action::GangStatus { gang, uid, status } => {
            let ObjectKey { namespace, name } = gang;
            let manager = FIELD_MANAGER_SCHEDULER;
            let body = json!({
                "apiVersion": format!("{GROUP}/{VERSION}"),
                "kind": "Gang",
                "metadata": { "name": &**name, "uid": &**uid },
                "status": status,
            });
            Request {
                method: Method::Apply,
                path: format!(
                    "/apis/{GROUP}/{VERSION}/namespaces/{namespace}/gangs/{name}/status?fieldManager={manager}&force=true"
                ),
                body: Bytes::from(body.to_string()),
            }
        }
        Action::PodGroupStatus { group, uid, generation, scheduled, turned, reason, message } => {
            let ObjectKey { namespace, name } = group;
            let status = if *scheduled { "True" } else { "False" };
            let mut condition = condition("PodGroupInitiallyScheduled", status, reason, message, turned.then_some(now));
            condition["observedGeneration"] = Value::from(*generation);
            let path = format!("/apis/{POD_GROUP_VERSION}/namespaces/{namespace}/podgroups/{name}/status");
            status_patch(&path, uid, json!({ "conditions": [condition] }))
        }
        Action::Unschedulable { pod, uid, message, turned, nominate, .. } => {
            let since = turned.then_some(now);
            let condition = condition("PodScheduled", "False", REASON_UNSCHEDULABLE, message, since);
            let mut status = json!({ "conditions": [condition] });
            match nominate {
                Nominate::Leave => {}
                Nominate::Clear => status["nominatedNodeName"] = Value::Null,
                Nominate::Node(node) => status["nominatedNodeName"] = Value::from(&**node),
            }
            status_patch(&format!("{}/status", pod_path(pod)), uid, status)
        }
        Action::Bind(_) | Action::Tell { .. } | Action::Evict { .. } => return None,
    })
}

/// Says in a pod's status that it is to go for one of higher priority.
pub(crate) fn disruption(pod: &ObjectKey, uid: &str, message: &str, now: Duration) -> Request {
    let condition = condition("DisruptionTarget", "True", "PreemptionByScheduler", message, Some(now));
    status_patch(&format!("{}/status", pod_path(pod)), uid, json!({ "conditions": [condition] }))
}

/// Deletes exactly this pod, with the time to end that it asks for.
pub(crate) fn deletion(pod: &ObjectKey, uid: &str) -> Request {
    let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } });
    Request { method: Method::Delete, path: pod_path(pod), body: Bytes::from(options.to_string()) }
}

/// The object of an event.
pub(super) fn reference(on: &Object) -> ObjectReference {
    let (kind, version) = match on.kind {
        ObjectKind::Pod => ("Pod", "v1".to_owned()),
        ObjectKind::Gang => ("Gang", format!("{GROUP}/{VERSION}")),
        ObjectKind::PodGroup => ("PodGroup", POD_GROUP_VERSION.to_owned()),
    };
    ObjectReference {
        api_version: Some(version),
        kind: Some(kind.to_owned()),
        namespace: Some(on.key.namespace.to_string()),
        name: Some(on.key.name.to_string()),
        uid: Some(on.uid.to_string()),
        ..ObjectReference::default()
    }
}

/// The UID is a precondition: a patch with another one than the object's is refused.
fn status_patch(path: &str, uid: &str, status: Value) -> Request {
    let mut body = json!({ "metadata": { "uid": uid } });
    body["status"] = status;
    Request {
        method: Method::StrategicPatch,
        path: format!("{path}?fieldManager={FIELD_MANAGER_SCHEDULER}"),
        body: Bytes::from(body.to_string()),
    }
}

/// Without `since` the condition keeps the time of its last transition: the API server merges conditions by their type.
fn condition(kind: &str, status: &str, reason: &str, message: &str, since: Option<Duration>) -> Value {
    let mut condition = json!({ "type": kind, "status": status, "reason": reason, "message": message });
    if let Some(since) = since {
        condition["lastTransitionTime"] = json!(api_time(since));
    }
    condition
}

fn pod_path(pod: &ObjectKey) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name)
}
