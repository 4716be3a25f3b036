//! Joining by a supplier's wallet: what is signed, how it is checked, and the wallet's address.
//!
//! A wallet is an Ed25519 key, as Solana has them; its address is the key in base58. Its owner signs a [`Statement`] that
//! binds one hub, one key and one moment, so that a signature is of no use to another hub or for another key.

use std::fmt;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use crate::pin::Pin;
use crate::v1;

/// Seconds before and after `signed_at` in which a gateway takes a signature.
pub const SIGNATURE_SECONDS: u64 = 15 * 60;

/// No transaction of a chain begins like this: 0xff is not a version of Solana's messages.
const DOMAIN: &[u8] = b"\xffatoll: this key may join a hub for my wallet, v1\n";
const PUBLIC_KEY_BYTES: usize = 32;
const SEED_BYTES: usize = 32;
/// Names of suppliers that came by themselves begin like this.
const SUPPLIER_PREFIX: &str = "wallet-";

/// What a wallet signs so that a Site may join for it.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// The hub, by the pin that the Site checked.
    pub hub: Pin,
    /// The Site's key, as its certificate signing request names it.
    pub key: Pin,
    /// When it is signed, seconds since the Unix epoch.
    pub signed_at: i64,
    /// Region of the Site.
    pub region: &'a str,
    /// Name of the Site for people.
    pub display_name: &'a str,
}

/// A wallet's public key; never one for which anybody could make signatures.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WalletKey([u8; PUBLIC_KEY_BYTES]);

/// A wallet that can sign.
pub struct WalletSigner(Ed25519KeyPair);

/// Why a wallet's signature is not taken.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WalletError {
    /// The public key is not 32 bytes, or is one of the few for which anybody can make signatures.
    #[error("this is not the public key of a wallet")]
    Key,
    /// It was signed too long ago, or is to be signed in the future.
    #[error(
        "this was signed {0} s from the hub's present time, more than {SIGNATURE_SECONDS} s; check the clock and sign anew"
    )]
    Moment(u64),
    /// The signature is not the wallet's, or for something else.
    #[error("the wallet's signature is not for this hub, key, region and name")]
    Signature,
}

/// Why a text is not a wallet's file.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a wallet's file holds 64 numbers from 0 to 255, as the Solana CLI writes it, of which the last 32 are the public key of the first 32"
)]
pub struct WalletFileError;

impl Statement<'_> {
    /// The bytes that are signed. Each part has a fixed length or is preceded by its own.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = DOMAIN.to_vec();
        bytes.extend_from_slice(self.hub.as_bytes());
        bytes.extend_from_slice(self.key.as_bytes());
        bytes.extend_from_slice(&self.signed_at.to_be_bytes());
        for text in [self.region, self.display_name] {
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }
}

impl WalletKey {
    /// The key of these bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, WalletError> {
        let key: [u8; PUBLIC_KEY_BYTES] = bytes.try_into().map_err(|_| WalletError::Key)?;
        if is_weak(&key) { Err(WalletError::Key) } else { Ok(Self(key)) }
    }

    /// The wallet's address.
    #[must_use]
    pub fn address(&self) -> String {
        bs58::encode(self.0).into_string()
    }

    /// The address for people: its beginning and end.
    #[must_use]
    pub fn short_address(&self) -> String {
        let address = self.address();
        let (start, end) = (address.get(..4).unwrap_or_default(), address.get(address.len().saturating_sub(4)..));
        format!("{start}…{}", end.unwrap_or_default())
    }

    /// Name of the Supplier that this wallet is.
    #[must_use]
    pub fn supplier_name(&self) -> String {
        format!("{SUPPLIER_PREFIX}{}", hex::encode(&Sha256::digest(self.0)[..8]))
    }

    /// Whether this wallet signed the statement, near `now` (seconds since the Unix epoch).
    pub fn verify(&self, statement: &Statement<'_>, signature: &[u8], now: i64) -> Result<(), WalletError> {
        let away = now.abs_diff(statement.signed_at);
        if away > SIGNATURE_SECONDS {
            return Err(WalletError::Moment(away));
        }
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(&statement.bytes(), signature)
            .map_err(|_| WalletError::Signature)
    }
}

impl fmt::Debug for WalletKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

impl WalletSigner {
    /// The wallet of a file as the Solana CLI writes it: a JSON list of 64 numbers.
    pub fn from_file_text(text: &str) -> Result<Self, WalletFileError> {
        let list = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(WalletFileError)?;
        let bytes: Vec<u8> = list
            .split(',')
            .map(|number| number.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| WalletFileError)?;
        if bytes.len() != SEED_BYTES + PUBLIC_KEY_BYTES {
            return Err(WalletFileError);
        }
        let (seed, public) = bytes.split_at(SEED_BYTES);
        Ed25519KeyPair::from_seed_and_public_key(seed, public).map(Self).map_err(|_| WalletFileError)
    }

    /// Its public key.
    #[must_use]
    pub fn address(&self) -> String {
        bs58::encode(self.0.public_key()).into_string()
    }

    /// What `JoinRequest.wallet` holds for this statement.
    #[must_use]
    pub fn sign(&self, statement: &Statement<'_>) -> v1::Wallet {
        v1::Wallet {
            public_key: self.0.public_key().as_ref().to_vec(),
            signature: self.0.sign(&statement.bytes()).as_ref().to_vec(),
            signed_at: statement.signed_at,
        }
    }
}

// Logs get this by accident; the key must not come along.
impl fmt::Debug for WalletSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WalletSigner").field(&self.address()).finish()
    }
}

/// Whether a key is a point of small order: for these, signatures can be made that fit many messages, without a private key.
fn is_weak(key: &[u8; PUBLIC_KEY_BYTES]) -> bool {
    let mut key = *key;
    // The sign of x: each of these points is as weak with the other one.
    key[PUBLIC_KEY_BYTES - 1] &= 0x7f;
    WEAK.contains(&key) || P_AND_ABOVE.contains(&key[0]) && key[1..31] == [0xff; 30] && key[31] == 0x7f
}

/// First bytes of p - 1, p and p + 1, of which only the first is a canonical encoding.
const P_AND_ABOVE: std::ops::RangeInclusive<u8> = 0xec..=0xee;

/// y of the points whose order divides 8, except -1.
const WEAK: [[u8; PUBLIC_KEY_BYTES]; 4] = [
    [0; PUBLIC_KEY_BYTES],
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// The file of the wallet with this seed.
    fn file(seed: [u8; SEED_BYTES]) -> String {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let numbers: Vec<String> = seed.iter().chain(pair.public_key().as_ref()).map(u8::to_string).collect();
        format!("[{}]\n", numbers.join(","))
    }

    fn signer(seed: u8) -> WalletSigner {
        WalletSigner::from_file_text(&file([seed; SEED_BYTES])).unwrap()
    }

    fn statement() -> Statement<'static> {
        Statement {
            hub: Pin::of_spki(b"hub"),
            key: Pin::of_spki(b"site"),
            signed_at: NOW,
            region: "eu-west",
            display_name: "Basement",
        }
    }

    #[test]
    fn only_the_wallet_s_signature_of_this_very_statement_is_taken() {
        let wallet = signer(1).sign(&statement());
        let key = WalletKey::new(&wallet.public_key).unwrap();
        assert_eq!(key.verify(&statement(), &wallet.signature, NOW), Ok(()));
        let other = WalletKey::new(&signer(2).sign(&statement()).public_key).unwrap();
        assert_eq!(other.verify(&statement(), &wallet.signature, NOW), Err(WalletError::Signature), "another wallet");
        for (what, changed) in [
            ("another hub", Statement { hub: Pin::of_spki(b"other"), ..statement() }),
            ("another key", Statement { key: Pin::of_spki(b"other"), ..statement() }),
            ("another moment", Statement { signed_at: NOW + 1, ..statement() }),
            ("another region", Statement { region: "eu-west1", ..statement() }),
            ("another name", Statement { display_name: "", ..statement() }),
            ("text moved over", Statement { region: "eu-westB", display_name: "asement", ..statement() }),
        ] {
            assert_eq!(key.verify(&changed, &wallet.signature, NOW), Err(WalletError::Signature), "{what}");
        }
        for bit in 0..wallet.signature.len() * 8 {
            let mut forged = wallet.signature.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.verify(&statement(), &forged, NOW), Err(WalletError::Signature), "bit {bit}");
        }
        for length in [0, 63, 65] {
            let forged = vec![0; length];
            assert_eq!(key.verify(&statement(), &forged, NOW), Err(WalletError::Signature), "{length} bytes");
        }
    }

    #[test]
    fn a_signature_is_taken_for_a_quarter_of_an_hour_to_both_sides() {
        let wallet = signer(1).sign(&statement());
        let key = WalletKey::new(&wallet.public_key).unwrap();
        for (now, fine) in [
            (NOW - 901, false),
            (NOW - 900, true),
            (NOW, true),
            (NOW + 900, true),
            (NOW + 901, false),
            (i64::MIN, false),
        ] {
            assert_eq!(key.verify(&statement(), &wallet.signature, now).is_ok(), fine, "{now}");
        }
    }

    #[test]
    fn keys_for_which_anybody_signs_are_no_wallets() {
        let identity: Vec<u8> = WEAK[1].to_vec();
        let forged = [identity, vec![0; 32]].concat();
        for weak in WEAK {
            // Of eight statements one or more fit a signature that nobody made.
            let fits = (0..64).any(|second| {
                let statement = Statement { signed_at: NOW + second, ..statement() };
                UnparsedPublicKey::new(&ED25519, weak).verify(&statement.bytes(), &forged).is_ok()
            });
            assert!(fits, "{} is not weak", hex::encode(weak));
            for sign in [0, 0x80] {
                let mut weak = weak;
                weak[31] |= sign;
                assert_eq!(WalletKey::new(&weak), Err(WalletError::Key));
            }
        }
        for first in 0xec..=0xee {
            let mut key = [0xff; 32];
            (key[0], key[31]) = (first, 0x7f);
            assert_eq!(WalletKey::new(&key), Err(WalletError::Key));
        }
        for length in [0, 31, 33] {
            assert_eq!(WalletKey::new(&vec![7; length]), Err(WalletError::Key));
        }
    }

    #[test]
    fn addresses_and_names_follow_from_the_key() {
        let key = WalletKey::new(&signer(1).sign(&statement()).public_key).unwrap();
        assert_eq!(key.address(), signer(1).address());
        assert_eq!(bs58::decode(key.address()).into_vec().unwrap(), key.0);
        assert!((32..=44).contains(&key.address().len()));
        assert_eq!(key.short_address().chars().count(), 9);
        assert_eq!(key.supplier_name().len(), SUPPLIER_PREFIX.len() + 16);
        let other = WalletKey::new(&signer(2).sign(&statement()).public_key).unwrap();
        assert_ne!(key.supplier_name(), other.supplier_name());
    }

    #[test]
    fn a_wallet_s_file_is_a_matching_pair() {
        let good = file([1; SEED_BYTES]);
        assert!(WalletSigner::from_file_text(&good).is_ok());
        let spaced = good.replace(',', ", ");
        assert!(WalletSigner::from_file_text(&spaced).is_ok());
        for bad in [
            "",
            "[]",
            "[1,2,3]",
            &good.replace("[1,", "[2,"),
            &good.replace("[1,", "[256,"),
            &good.replace(']', ",1]"),
            good.trim().trim_start_matches('['),
        ] {
            assert_eq!(WalletSigner::from_file_text(bad).err(), Some(WalletFileError), "{bad}");
        }
    }

    #[test]
    fn debug_output_holds_no_private_key() {
        assert_eq!(format!("{:?}", signer(1)), format!("WalletSigner({:?})", signer(1).address()));
    }
}
