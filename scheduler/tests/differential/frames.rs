//! What `kube-filters generate` writes; tests/controlplane/cmd/filters/frames.go says how.

use std::io::{BufReader, Read};

/// Kinds of records.
pub const NAMES: u8 = 0;
pub const WORLD: u8 = 1;
pub const NAMESPACE: u8 = 2;
pub const NODE: u8 = 3;
pub const PERSISTENT_VOLUME: u8 = 4;
pub const PERSISTENT_VOLUME_CLAIM: u8 = 5;
pub const STORAGE_CLASS: u8 = 6;
pub const CSI_NODE: u8 = 7;
pub const BOUND: u8 = 8;
pub const POD: u8 = 9;
pub const VERDICTS: u8 = 10;

/// The frames of one stream.
pub struct Frames<R>(BufReader<R>);

impl<R: Read> Frames<R> {
    pub fn new(stream: R) -> Self {
        Self(BufReader::with_capacity(1 << 18, stream))
    }

    /// The first frame: names of the filters.
    pub fn names(&mut self) -> Vec<String> {
        let frame = self.next().expect("a first frame");
        let (kind, content) = records(&frame).next().expect("a record");
        assert_eq!(kind, NAMES);
        let text = std::str::from_utf8(content).expect("names are text");
        text.lines().map(str::to_owned).collect()
    }

    /// The next frame, until there is none.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut frame = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut frame).expect("a whole frame");
        Some(frame)
    }
}

/// The records of a frame: kind and content.
pub fn records(mut frame: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, rest) = frame.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>().expect("a length");
        let (content, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        frame = rest;
        Some((*kind, content))
    })
}

/// One verdict per node: which filters say no, by their number.
pub fn verdicts(content: &[u8]) -> Vec<u32> {
    content.as_chunks::<4>().0.iter().map(|verdict| u32::from_le_bytes(*verdict)).collect()
}
