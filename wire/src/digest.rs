//! Digests that both ends compare at a reconnect, so that only differences are sent.

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::v1::Node;

/// Digest of a slice's specification: SHA-256 of `Slice.spec_json`, byte for byte.
#[must_use]
pub fn spec(spec_json: &[u8]) -> [u8; 32] {
    Sha256::digest(spec_json).into()
}

/// Digest of an inventory: SHA-256 of its nodes, length-delimited, in order of their names. The order given does not
/// matter. An empty inventory has a digest too.
///
/// An end that knows a newer field of `Node` than the other gets another digest; all that costs is a full inventory.
#[must_use]
pub fn inventory<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> [u8; 32] {
    let mut nodes: Vec<&Node> = nodes.into_iter().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = Sha256::new();
    for node in nodes {
        hash.update(node.encode_length_delimited_to_vec());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, allocatable: u32) -> Node {
        Node { name: name.to_owned(), allocatable, ..Node::default() }
    }

    #[test]
    fn the_order_of_nodes_does_not_matter_but_each_of_their_fields_does() {
        let (a, b) = (node("a", 8), node("b", 4));
        assert_eq!(inventory([&a, &b]), inventory([&b, &a]));
        assert_ne!(inventory([&a, &b]), inventory([&a]));
        assert_ne!(inventory([&a]), inventory([&node("a", 7)]));
        assert_ne!(inventory([&a]), inventory([&Node { ready: true, ..a.clone() }]));
    }

    #[test]
    fn bytes_cannot_move_between_nodes_without_notice() {
        assert_ne!(inventory([&node("ab", 0), &node("c", 0)]), inventory([&node("a", 0), &node("bc", 0)]));
    }
}
