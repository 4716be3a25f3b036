//! What binds a pod to a node.

use super::meta::ObjectMeta;

/// Body of a POST to `pods/<name>/binding`. Annotations go over to the pod; its UID is a precondition when given.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Binding {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub target: Option<ObjectReference>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ObjectReference {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub uid: String,
    #[prost(string, tag = "5")]
    pub api_version: String,
}

impl Binding {
    /// `apiVersion` of a binding.
    pub const API_VERSION: &str = "v1";
    /// `kind` of a binding.
    pub const KIND: &str = "Binding";

    /// Binds the pod of this name, and of this UID, to a node.
    #[must_use]
    pub fn to_node(namespace: &str, pod: &str, uid: &str, node: &str) -> Self {
        Self {
            metadata: Some(ObjectMeta {
                name: pod.to_owned(),
                namespace: namespace.to_owned(),
                uid: uid.to_owned(),
                ..ObjectMeta::default()
            }),
            target: Some(ObjectReference {
                kind: "Node".to_owned(),
                name: node.to_owned(),
                ..ObjectReference::default()
            }),
        }
    }
}
