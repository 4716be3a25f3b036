//! How the watchdog of a node and its Site's agent know that a message is the other's: HMAC-SHA256 with a key that both
//! have.

use hmac::{Hmac, Mac as _};
use prost::Message;
use sha2::Sha256;

use crate::watchdog::{AskRequest, AskResponse};

/// Bytes of a key at least.
pub const MIN_KEY_BYTES: usize = 32;

/// The MAC of `bytes`.
#[must_use]
pub fn sign(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    keyed(key, bytes).finalize().into_bytes().into()
}

/// Whether `mac` is the MAC of `bytes`; takes as long wherever they differ.
#[must_use]
pub fn verify(key: &[u8], bytes: &[u8], mac: &[u8]) -> bool {
    keyed(key, bytes).verify_slice(mac).is_ok()
}

/// A message that carries the MAC of its own encoding, made with an empty MAC.
pub trait Sealed: Message + Clone {
    /// Where it carries it.
    fn mac(&mut self) -> &mut Vec<u8>;

    /// With its MAC.
    #[must_use]
    fn seal(mut self, key: &[u8]) -> Self {
        self.mac().clear();
        *self.mac() = sign(key, &self.encode_to_vec()).to_vec();
        self
    }

    /// Without its MAC, if that is right.
    #[must_use]
    fn open(mut self, key: &[u8]) -> Option<Self> {
        let mac = std::mem::take(self.mac());
        verify(key, &self.encode_to_vec(), &mac).then_some(self)
    }
}

impl Sealed for AskRequest {
    fn mac(&mut self) -> &mut Vec<u8> {
        &mut self.mac
    }
}

impl Sealed for AskResponse {
    fn mac(&mut self) -> &mut Vec<u8> {
        &mut self.mac
    }
}

#[allow(clippy::expect_used)]
fn keyed(key: &[u8], bytes: &[u8]) -> Hmac<Sha256> {
    // HMAC hashes keys that are longer than a block and fills up those that are shorter.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(bytes);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_hmac_sha256() {
        // RFC 4231, test case 2.
        let mac = sign(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hex::encode(mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn another_key_message_or_mac_is_none() {
        let mac = sign(&[7; MIN_KEY_BYTES], b"a");
        assert!(verify(&[7; MIN_KEY_BYTES], b"a", &mac));
        assert!(!verify(&[8; MIN_KEY_BYTES], b"a", &mac));
        assert!(!verify(&[7; MIN_KEY_BYTES], b"b", &mac));
        assert!(!verify(&[7; MIN_KEY_BYTES], b"a", &mac[..31]));
        assert!(!verify(&[7; MIN_KEY_BYTES], b"a", &[]));
    }

    #[test]
    fn a_sealed_message_opens_as_it_was_and_in_no_other_way() {
        let (key, other) = ([7; MIN_KEY_BYTES], [8; MIN_KEY_BYTES]);
        let ask = AskRequest { node: "n".into(), nonce: vec![1; 16], ..AskRequest::default() };
        let sealed = ask.clone().seal(&key);
        assert_eq!(sealed.clone().open(&key), Some(ask.clone()));
        assert_eq!(sealed.clone().seal(&key), sealed, "sealed again it is the same");
        assert_eq!(sealed.clone().open(&other), None);
        assert_eq!(AskRequest { node: "m".into(), ..sealed }.open(&key), None);
        assert_eq!(ask.open(&key), None, "without a MAC");
        let answer = AskResponse { granted: true, age_milliseconds: 7, ..AskResponse::default() }.seal(&key);
        assert!(answer.clone().open(&key).is_some());
        assert_eq!(AskResponse { age_milliseconds: 6, ..answer }.open(&key), None);
    }
}
