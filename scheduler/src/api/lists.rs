//! Lists in protobuf, item by item as they arrive, so that a large one is never in memory as a whole.

use prost::Message;
use prost::bytes::{Buf, Bytes, BytesMut};

use crate::proto::ListMeta;

const MAGIC: &[u8] = b"k8s\0";
/// No single item of a list is larger; etcd takes 1.5 MiB.
pub(super) const MAX_OBJECT: usize = 64 << 20;

/// The field of the envelope that has the list.
const ENVELOPE_RAW: u64 = 2;
/// Fields of every list.
const LIST_META: u64 = 1;
const LIST_ITEM: u64 = 2;

/// Wire type of strings, bytes and messages.
const DELIMITED: u64 = 2;

/// What is no list in an envelope.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// It begins otherwise.
    #[error("the answer is no protobuf of Kubernetes")]
    Magic,
    /// A field that is not delimited, or far too long.
    #[error("the answer is no list in protobuf")]
    Field,
    /// A part of it cannot be decoded.
    #[error("protobuf that cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
}

/// A part of a list.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    /// Version of the list, and where it goes on.
    Meta(ListMeta),
    /// One item, without an envelope.
    Item(Bytes),
}

/// Takes a list apart.
#[derive(Debug, Default)]
pub(super) struct ListReader {
    buffer: BytesMut,
    within: Within,
}

#[derive(Clone, Copy, Debug, Default)]
enum Within {
    #[default]
    Start,
    Envelope,
    /// So many bytes of the list itself are left.
    List(u64),
}

impl ListReader {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the list was there to its end.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.within, Within::Envelope) && self.buffer.is_empty()
    }

    /// The next part that arrived in full.
    pub(super) fn next(&mut self) -> Result<Option<Part>, ListError> {
        loop {
            match self.within {
                Within::Start => {
                    if self.buffer.len() < MAGIC.len() {
                        return Ok(None);
                    }
                    if !self.buffer.starts_with(MAGIC) {
                        return Err(ListError::Magic);
                    }
                    self.buffer.advance(MAGIC.len());
                    self.within = Within::Envelope;
                }
                Within::List(0) => self.within = Within::Envelope,
                Within::Envelope => {
                    let Some(field) = Field::at(&self.buffer)? else { return Ok(None) };
                    if field.number == ENVELOPE_RAW {
                        self.buffer.advance(field.header);
                        self.within = Within::List(field.length);
                        continue;
                    }
                    if self.take(field)?.is_none() {
                        return Ok(None);
                    }
                }
                Within::List(left) => {
                    let Some(field) = Field::at(&self.buffer)? else { return Ok(None) };
                    let Some((bytes, taken)) = self.take(field)? else { return Ok(None) };
                    self.within = Within::List(left.checked_sub(taken).ok_or(ListError::Field)?);
                    match field.number {
                        LIST_META => return Ok(Some(Part::Meta(ListMeta::decode(bytes)?))),
                        LIST_ITEM => return Ok(Some(Part::Item(bytes))),
                        _ => {}
                    }
                }
            }
        }
    }

    /// The field's content, and how many bytes the whole field had; `None` as long as some are missing.
    fn take(&mut self, field: Field) -> Result<Option<(Bytes, u64)>, ListError> {
        let length = usize::try_from(field.length).ok().filter(|length| *length <= MAX_OBJECT);
        let whole = field.header + length.ok_or(ListError::Field)?;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let mut bytes = self.buffer.split_to(whole).freeze();
        bytes.advance(field.header);
        Ok(Some((bytes, field.length.saturating_add(u64::try_from(field.header).unwrap_or(u64::MAX)))))
    }
}

/// A delimited field.
#[derive(Clone, Copy)]
struct Field {
    number: u64,
    length: u64,
    /// Bytes before its content.
    header: usize,
}

impl Field {
    /// The field that begins here; `None` when its beginning did not arrive in full.
    fn at(bytes: &[u8]) -> Result<Option<Self>, ListError> {
        let Some((key, key_bytes)) = varint(bytes)? else { return Ok(None) };
        if key & 7 != DELIMITED {
            return Err(ListError::Field);
        }
        let Some((length, length_bytes)) = varint(bytes.get(key_bytes..).unwrap_or_default())? else { return Ok(None) };
        Ok(Some(Self { number: key >> 3, length, header: key_bytes + length_bytes }))
    }
}

/// A number and how many bytes it has.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, ListError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 10 { Ok(None) } else { Err(ListError::Field) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ListPage, wrap};

    #[test]
    fn a_list_comes_out_the_same_however_it_is_cut() {
        let meta = ListMeta { resource_version: "812".into(), r#continue: "more".into(), ..ListMeta::default() };
        let items = vec![Bytes::from_static(b"first"), Bytes::new(), Bytes::from(vec![7; 70_000])];
        let page = ListPage { metadata: Some(meta.clone()), items: items.clone() };
        let bytes = wrap("v1", "PodList", &page);
        for size in [1, 2, 3, 5, 7, 1000, bytes.len()] {
            let mut reader = ListReader::default();
            let mut parts = Vec::new();
            for piece in bytes.chunks(size) {
                reader.push(piece);
                while let Some(part) = reader.next().unwrap() {
                    parts.push(part);
                }
            }
            let mut expected = vec![Part::Meta(meta.clone())];
            expected.extend(items.iter().cloned().map(Part::Item));
            assert_eq!(parts, expected, "in pieces of {size}");
            assert!(reader.is_complete());
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (bytes, what) in [
            (&b"{\"kind\":\"PodList\"}"[..], "JSON"),
            (b"k8s\0\x08\x01", "a number"),
            (b"k8s\0\x12\x03\x12\x7f", "an item longer than its list"),
            (b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "a length that nothing has"),
            (b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "no number"),
        ] {
            let mut reader = ListReader::default();
            reader.push(bytes);
            reader.push(&[0; 200]);
            let error = loop {
                match reader.next() {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            assert!(error.is_err(), "{what}: {error:?}");
        }
    }
}
