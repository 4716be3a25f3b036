//! Requests that were answered already.

use std::collections::{BTreeMap, VecDeque};

/// Nonces kept of each node: at a request every two seconds, the last 17 minutes. Who sends an older request again says for
/// a moment what the watchdog's next one contradicts, and it takes two in a row to count a member as gone.
const KEPT: usize = 512;

/// A nonce.
pub(super) type Nonce = [u8; 16];

/// The newest nonces of each node.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    of: BTreeMap<String, VecDeque<Nonce>>,
}

impl Nonces {
    /// Takes in the nonce of a request that is the node's. False: there was such a request before.
    pub(super) fn take(&mut self, node: &str, nonce: Nonce) -> bool {
        let seen = self.of.entry(node.to_owned()).or_default();
        if seen.contains(&nonce) {
            return false;
        }
        if seen.len() == KEPT {
            seen.pop_front();
        }
        seen.push_back(nonce);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_counts_once_for_each_node_and_memory_is_bounded() {
        let nonce = |number: usize| -> Nonce { (number as u128).to_be_bytes() };
        let mut nonces = Nonces::default();
        assert!(nonces.take("a", nonce(0)) && !nonces.take("a", nonce(0)));
        assert!(nonces.take("b", nonce(0)), "another node's");
        for number in 1..KEPT {
            assert!(nonces.take("a", nonce(number)));
        }
        assert!(!nonces.take("a", nonce(0)), "the oldest that is kept");
        nonces.take("a", nonce(KEPT));
        assert_eq!(nonces.of["a"].len(), KEPT);
    }
}
