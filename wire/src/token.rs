//! Join tokens: `atoll1.<id>.<secret>.<pin>`.
//!
//! The hub keeps a Secret per token that holds the hash of `<secret>` only; see the `KEY_` constants. The token can be
//! used once: who uses it deletes that Secret.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::pin::{Pin, PinError};

/// Random bytes that a token is made of.
pub const RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;

/// Key in a token's Secret: SHA-256 of the token's `<secret>` as text, in hex.
pub const KEY_HASH: &str = "sha256";
/// Key in a token's Secret: name of the Supplier whose Site joins.
pub const KEY_SUPPLIER: &str = "supplier";
/// Key in a token's Secret: trust of the Site that joins (`Untrusted`, `Contracted`, `Attested`).
pub const KEY_TRUST: &str = "trust";
/// Key in a token's Secret: when it ends, RFC 3339.
pub const KEY_EXPIRES: &str = "expires";

const VERSION: &str = "atoll1";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// A join token as its Site gets it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    presented: PresentedToken,
    pin: Pin,
}

/// The part of a join token that the Site shows to the hub: `<id>.<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct PresentedToken {
    id: String,
    secret: String,
}

/// Why a text is not a join token.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// It does not have the parts of a token.
    #[error("a join token reads `atoll1.<id>.<secret>.<pin>`; this text has other parts")]
    Parts,
    /// It starts with another version.
    #[error("this join token is of a version that this program does not know; it knows `atoll1`")]
    Version,
    /// The id is not 16 lower-case hex digits.
    #[error("the id of this join token is not 16 hex digits")]
    Id,
    /// The secret is not 32 bytes in base64url.
    #[error("the secret of this join token is incomplete or has characters that do not belong there")]
    Secret,
    /// The pin is not one.
    #[error("the pin of this join token is wrong: {0}")]
    Pin(#[from] PinError),
}

impl JoinToken {
    /// A token of the given random bytes, for the hub whose CA has this pin.
    #[must_use]
    pub fn generate(random: &[u8; RANDOM_BYTES], pin: Pin) -> Self {
        let (id, secret) = random.split_at(ID_BYTES);
        Self { presented: PresentedToken { id: hex::encode(id), secret: URL_SAFE_NO_PAD.encode(secret) }, pin }
    }

    /// What is shown to the hub in `JoinRequest.token`.
    #[must_use]
    pub fn presented(&self) -> &PresentedToken {
        &self.presented
    }

    /// The pin of the hub's CA.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }
}

impl PresentedToken {
    /// The id, which is no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Name of the token's Secret.
    #[must_use]
    pub fn secret_name(&self) -> String {
        format!("join-token-{}", self.id)
    }

    /// What the Secret holds under [`KEY_HASH`].
    #[must_use]
    pub fn secret_hash(&self) -> String {
        hex::encode(Sha256::digest(self.secret.as_bytes()))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}", self.presented, self.pin)
    }
}

impl fmt::Display for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

// Logs get these types by accident; the secret must not come along.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.presented.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresentedToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (version, rest) = text.trim().split_once('.').ok_or(TokenError::Parts)?;
        if version != VERSION {
            return Err(TokenError::Version);
        }
        let (presented, pin) = rest.rsplit_once('.').ok_or(TokenError::Parts)?;
        Ok(Self { presented: presented.parse()?, pin: pin.parse()? })
    }
}

impl FromStr for PresentedToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (id, secret) = text.split_once('.').ok_or(TokenError::Parts)?;
        if id.len() != 2 * ID_BYTES || !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(TokenError::Id);
        }
        match URL_SAFE_NO_PAD.decode(secret) {
            Ok(bytes) if bytes.len() == SECRET_BYTES => Ok(Self { id: id.to_owned(), secret: secret.to_owned() }),
            _ => Err(TokenError::Secret),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        let mut random = [0; RANDOM_BYTES];
        for (byte, value) in random.iter_mut().zip(0..) {
            *byte = value;
        }
        JoinToken::generate(&random, Pin::of_spki(b"a key"))
    }

    #[test]
    fn a_token_survives_its_text() {
        let text = token().to_string();
        assert!(text.starts_with("atoll1.0001020304050607.CAkKCwwNDg"), "{text}");
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
        assert_eq!(token().presented().to_string().parse().as_ref(), Ok(token().presented()));
        assert_eq!(token().presented().secret_name(), "join-token-0001020304050607");
        assert_eq!(token().presented().secret_hash().len(), 64);
    }

    #[test]
    fn what_is_not_a_token_is_refused_for_what_is_wrong_with_it() {
        let text = token().to_string();
        let pin = token().pin().to_string();
        let cases = [
            ("", TokenError::Parts),
            ("atoll1", TokenError::Parts),
            ("atoll1.0001020304050607", TokenError::Parts),
            (&text.replace("atoll1", "atoll2"), TokenError::Version),
            (&text.replace("0001020304050607", "00010203040506"), TokenError::Id),
            (&text.replace("0001020304050607", "000102030405060G"), TokenError::Id),
            (&text.replace("CAkKCwwNDg", ""), TokenError::Secret),
            (&text.replace(&pin, &pin[1..]), TokenError::Pin(PinError::Text)),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<JoinToken>(), Err(error), "{text}");
        }
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let text = format!("{:?} {:?}", token(), token().presented());
        assert!(!text.contains("CAkKCwwNDg"), "{text}");
    }
}
