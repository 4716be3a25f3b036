//! How objects travel: in an envelope that names their kind, alone, in lists, or as events of a watch.

use prost::Message;
use prost::bytes::Bytes;

use super::meta::ListMeta;

/// Media type of one object, or one list, in its envelope.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Media type of a watch: [`WatchEvent`]s without envelopes, each after its length in four bytes, big end first.
pub const CONTENT_TYPE_WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// First bytes of an envelope.
const MAGIC: &[u8] = b"k8s\0";

/// What is no object in an envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It begins otherwise; such as JSON, which an API server falls back to for kinds without protobuf.
    #[error("no protobuf of Kubernetes: it does not begin with \"k8s\\0\"")]
    Magic,
    /// It cannot be decoded.
    #[error("protobuf that cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeMeta {
    #[prost(string, tag = "1")]
    pub api_version: String,
    #[prost(string, tag = "2")]
    pub kind: String,
}

/// An object whose kind is known from its envelope only.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unknown {
    #[prost(message, optional, tag = "1")]
    pub type_meta: Option<TypeMeta>,
    /// The object itself.
    #[prost(bytes = "bytes", tag = "2")]
    pub raw: Bytes,
}

impl Unknown {
    /// Kind of the object; empty when the envelope does not say.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.type_meta.as_ref().map_or("", |meta| &meta.kind)
    }

    /// The object, taken as this message; a [`Status`] for instance when [`Unknown::kind`] says so.
    pub fn object<M: Message + Default>(&self) -> Result<M, EnvelopeError> {
        Ok(M::decode(self.raw.clone())?)
    }
}

/// One event of a watch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchEvent {
    /// ADDED, MODIFIED, DELETED, BOOKMARK or ERROR (then the object is a [`Status`]).
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// The object in its envelope, see [`open`].
    #[prost(message, optional, tag = "2")]
    pub object: Option<RawExtension>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RawExtension {
    #[prost(bytes = "bytes", tag = "1")]
    pub raw: Bytes,
}

/// A list of any kind. The items stay encoded, so that one after the other can be read and dropped.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPage {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ListMeta>,
    /// The items, without envelopes.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub items: Vec<Bytes>,
}

/// What the API server answers to a refused request, and to those that have nothing else to answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    #[prost(string, tag = "2")]
    pub status: String,
    #[prost(string, tag = "3")]
    pub message: String,
    #[prost(string, tag = "4")]
    pub reason: String,
    #[prost(message, optional, tag = "5")]
    pub details: Option<StatusDetails>,
    #[prost(int32, tag = "6")]
    pub code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusDetails {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub kind: String,
    #[prost(message, repeated, tag = "4")]
    pub causes: Vec<StatusCause>,
    #[prost(int32, tag = "5")]
    pub retry_after_seconds: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusCause {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(string, tag = "3")]
    pub field: String,
}

/// Opens an envelope. The object shares the bytes.
pub fn open(mut bytes: Bytes) -> Result<Unknown, EnvelopeError> {
    if !bytes.starts_with(MAGIC) {
        return Err(EnvelopeError::Magic);
    }
    Ok(Unknown::decode(bytes.split_off(MAGIC.len()))?)
}

/// Opens an envelope and reads what is in it as this message, whatever its kind.
pub fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, EnvelopeError> {
    open(bytes)?.object()
}

/// An object in its envelope, as the body of a request.
#[must_use]
pub fn wrap<M: Message>(api_version: &str, kind: &str, object: &M) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() }),
        raw: Bytes::from(object.encode_to_vec()),
    };
    let mut bytes = Vec::with_capacity(MAGIC.len() + unknown.encoded_len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&unknown.encode_to_vec());
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::{Binding, ObjectMeta};
    use super::*;

    #[test]
    fn a_binding_is_a_few_bytes_in_an_envelope_and_comes_out_again() {
        let binding = Binding::to_node("ns", "pod-1", "uid-1", "node-7");
        let bytes = wrap(Binding::API_VERSION, Binding::KIND, &binding);
        // Written out by hand from the message definitions.
        let expected: &[u8] = b"k8s\0\x0a\x0d\x0a\x02v1\x12\x07Binding\x12\x24\x0a\x12\x0a\x05pod-1\x1a\x02ns\x2a\x05uid-1\x12\x0e\x0a\x04Node\x1a\x06node-7";
        assert_eq!(bytes.len(), expected.len());
        assert_eq!(bytes, expected);
        let unknown = open(Bytes::from(bytes)).unwrap();
        assert_eq!(unknown.kind(), "Binding");
        assert_eq!(unknown.object::<Binding>().unwrap(), binding);
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        assert!(matches!(open(Bytes::from_static(b"{\"kind\":\"Pod\"}")), Err(EnvelopeError::Magic)));
        assert!(matches!(open(Bytes::new()), Err(EnvelopeError::Magic)));
        assert!(matches!(open(Bytes::from_static(b"k8s\0\x0a\x7f")), Err(EnvelopeError::Decode(_))));
    }

    #[test]
    fn lists_of_every_kind_give_their_items_one_by_one() {
        let item = ObjectMeta { name: "a".to_owned(), ..ObjectMeta::default() };
        let page = ListPage {
            metadata: Some(ListMeta { resource_version: "7".to_owned(), ..ListMeta::default() }),
            items: vec![Bytes::from(item.encode_to_vec()); 2],
        };
        let page: ListPage = decode(Bytes::from(wrap("v1", "PodList", &page))).unwrap();
        assert_eq!(page.metadata.unwrap().resource_version, "7");
        assert_eq!(page.items.len(), 2);
        assert_eq!(ObjectMeta::decode(page.items[0].clone()).unwrap(), item);
    }

    #[test]
    fn fields_that_are_not_read_are_skipped() {
        // A WatchEvent with a field 9 that does not exist.
        let event = WatchEvent::decode(&b"\x0a\x05ADDED\x4a\x03abc\x12\x03\x0a\x01x"[..]).unwrap();
        assert_eq!((event.r#type.as_str(), &event.object.unwrap().raw[..]), ("ADDED", &b"x"[..]));
    }
}
