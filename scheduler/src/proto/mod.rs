//! The parts of Kubernetes' protobuf that a scheduler reads and writes.
//!
//! Kubernetes serves its own types in protobuf, which costs API server and reader a fraction of what JSON costs. Of each
//! message only the fields that are looked at are here, with the tags of `k8s.io/api` 1.37 and `k8s.io/apimachinery`;
//! the others are skipped over. Fields that are pointers there, and whose absence means something, are `Option`s.
//! Everything else that is absent is empty, as for Kubernetes itself.
#![allow(missing_docs, reason = "messages and fields are Kubernetes' own and named as in its API reference")]

mod binding;
mod envelope;
mod meta;

pub use binding::{Binding, ObjectReference};
pub use envelope::{
    CONTENT_TYPE, CONTENT_TYPE_WATCH, EnvelopeError, ListPage, RawExtension, Status, StatusCause, StatusDetails,
    TypeMeta, Unknown, WatchEvent, decode, open, wrap,
};
pub use meta::{LabelSelector, LabelSelectorRequirement, ListMeta, ObjectMeta, OwnerReference, Quantity, Time};
