//! Names of keys: the pin of the hub's CA, and the name of a Site.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Bytes of a Site's name.
pub const SITE_NAME_BYTES: usize = "site-".len() + 16;

/// SHA-256 of a public key (its DER `SubjectPublicKeyInfo`). Written as base64url without padding, 43 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

/// Why something is not a pin, or has none.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PinError {
    /// The text is not 32 bytes in base64url.
    #[error("a pin is 43 characters of base64url")]
    Text,
    /// The bytes are not an X.509 certificate.
    #[error("not an X.509 certificate")]
    Certificate,
}

impl Pin {
    /// The pin of a public key, given as DER `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn of_spki(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// The pin of a certificate's key, given as DER.
    pub fn of_certificate(der: &[u8]) -> Result<Self, PinError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| PinError::Certificate)?;
        Ok(Self::of_spki(certificate.public_key().raw))
    }

    /// The pin of the key of the first certificate in a PEM text.
    pub fn of_certificate_pem(pem: &str) -> Result<Self, PinError> {
        let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| PinError::Certificate)?;
        Self::of_certificate(&block.contents)
    }

    /// The hash itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The name of the Site that has this key: "site-" and 16 hex digits.
    #[must_use]
    pub fn site_name(&self) -> String {
        format!("site-{}", hex::encode(&self.0[..8]))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| PinError::Text)?;
        bytes.try_into().map(Self).map_err(|_| PinError::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_survives_its_text_and_names_the_key_and_not_the_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let pin = Pin::of_spki(&spki);
        assert_eq!(pin.to_string().len(), 43);
        assert_eq!(pin.to_string().parse(), Ok(pin));
        for name in ["a", "b"] {
            let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
            assert_eq!(Pin::of_certificate(certificate.der()), Ok(pin));
            assert_eq!(Pin::of_certificate_pem(&certificate.pem()), Ok(pin));
        }
        assert_eq!(pin.site_name().len(), SITE_NAME_BYTES);
    }

    #[test]
    fn what_is_not_a_pin_is_refused() {
        for text in ["", "abc", "*", &"A".repeat(44)] {
            assert_eq!(text.parse::<Pin>(), Err(PinError::Text), "{text}");
        }
        assert_eq!(Pin::of_certificate(b"junk"), Err(PinError::Certificate));
        assert_eq!(Pin::of_certificate_pem("junk"), Err(PinError::Certificate));
    }
}
