//! Who issues certificates now, and whose certificates are trusted: one CA, and while one follows another also the other.

use atoll_api::hub_ca::{self, CERTIFICATE, CROSS, Data, KEY, NEXT_CERTIFICATE, PREVIOUS};
use atoll_wire::pin::Pin;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::pki::{HubCa, PkiError, ServerCertificate, SiteKey};

/// Certificates cannot be issued or verified with what the Secret holds.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A part is missing, or is not text.
    #[error("there is no text under {0:?}")]
    Missing(&'static str),
    /// A part cannot be used.
    #[error("{0:?}: {1}")]
    Pki(&'static str, PkiError),
}

/// The CAs as they are at one moment.
pub struct Authority {
    issuing: HubCa,
    /// The one before, or the one to come.
    other: Option<Other>,
    /// The issuing CA's key certified by the one before.
    cross: Option<CertificateDer<'static>>,
}

struct Other {
    pem: String,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// What the Secret's data say. They hold for one moment: see [`hub_ca::advance`].
    pub fn of(data: &Data) -> Result<Self, AuthorityError> {
        let text = |key| hub_ca::text(data, key).ok_or(AuthorityError::Missing(key));
        let issuing = HubCa::from_pem(text(CERTIFICATE)?.to_owned(), text(KEY)?)
            .map_err(|e| AuthorityError::Pki(CERTIFICATE, e))?;
        let other = [NEXT_CERTIFICATE, PREVIOUS].into_iter().find(|key| data.contains_key(*key));
        let other = other.map(|key| {
            let pem = text(key)?.to_owned();
            Ok(Other { certificate: certificate(key, &pem)?, pem })
        });
        let cross = data.contains_key(PREVIOUS).then(|| certificate(CROSS, text(CROSS)?));
        Ok(Self { issuing, other: other.transpose()?, cross: cross.transpose()? })
    }

    /// Certificates of all CAs that are trusted, PEM, the issuing one first.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        let other = self.other.as_ref().map_or("", |other| other.pem.as_str());
        format!("{}{other}", self.issuing.certificate_pem())
    }

    /// The CAs whose certificates are trusted.
    pub fn trusted(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(self.issuing.certificate()).chain(self.other.iter().map(|other| &other.certificate))
    }

    /// Whether a Site that checked this pin has checked this hub.
    #[must_use]
    pub fn pins(&self) -> Vec<Pin> {
        self.trusted().filter_map(|certificate| Pin::of_certificate(certificate).ok()).collect()
    }

    /// A certificate for a gateway, with a chain that ends at the issuing CA and at the one before.
    pub fn issue_server(&self, names: &[String], now: Timestamp) -> Result<ServerCertificate, PkiError> {
        let mut issued = self.issuing.issue_server(names, now)?;
        if let (Some(cross), Some(other)) = (&self.cross, &self.other) {
            // The former CA itself comes along because pins are looked for in the chain.
            issued.chain.extend([cross.clone(), other.certificate.clone()]);
        }
        Ok(issued)
    }

    /// A certificate in PEM for a Site.
    pub fn issue_client(&self, site: &SiteKey, now: Timestamp) -> Result<String, PkiError> {
        self.issuing.issue_client(site, now)
    }

    /// Makes the CA that follows the present one, in `data`.
    pub fn stage_next(&self, data: &mut Data, now: Timestamp) -> Result<(), PkiError> {
        let (next, key) = HubCa::generate(now)?;
        let cross = self.issuing.certify(&next, now)?;
        hub_ca::put_next(data, next.certificate_pem(), &key, &cross, now);
        Ok(())
    }
}

fn certificate(key: &'static str, pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| AuthorityError::Pki(key, PkiError::Stored(error.to_string())))
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use k8s_openapi::ByteString;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, pki_types::UnixTime};

    use super::*;

    /// The Secret of a new CA.
    pub fn settled(now: Timestamp) -> Data {
        let (ca, key) = HubCa::generate(now).unwrap();
        [(CERTIFICATE, ca.certificate_pem()), (KEY, &key)]
            .map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec())))
            .into()
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3_600).unwrap()
    }

    fn unix(now: Timestamp) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now.as_second()).unwrap()))
    }

    fn roots(pem: &str) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        Arc::new(roots)
    }

    /// Whether a Site with this bundle takes the gateway for its hub.
    fn site_accepts(bundle: &str, gateway: &ServerCertificate, now: Timestamp) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(bundle), provider).build().unwrap();
        let (leaf, chain) = gateway.chain.split_first().unwrap();
        verifier.verify_server_cert(leaf, chain, &"hub.example".try_into().unwrap(), &[], unix(now)).is_ok()
    }

    fn gateway_accepts(authority: &Authority, site_pem: &str, now: Timestamp) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let bundle = roots(&authority.bundle_pem());
        let verifier = WebPkiClientVerifier::builder_with_provider(bundle, provider).build().unwrap();
        let certificate = CertificateDer::from_pem_slice(site_pem.as_bytes()).unwrap();
        verifier.verify_client_cert(&certificate, &[], unix(now)).is_ok()
    }

    fn site_key() -> SiteKey {
        let key = rcgen::KeyPair::generate().unwrap();
        SiteKey::from_csr(rcgen::CertificateParams::default().serialize_request(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn one_ca_follows_another_and_at_no_hour_anybody_is_shut_out() {
        let mut data = settled(at(-100));
        Authority::of(&data).unwrap().stage_next(&mut data, at(0)).unwrap();
        let key = site_key();
        let end = 24 + 30 * 24;
        // What Sites hold that renewed at some hour: the bundle, their certificate and when they got it.
        let mut sites: Vec<(i64, String, String)> = Vec::new();
        let mut pins = Vec::new();
        for hour in (-13..=end + 30).step_by(11) {
            let now = at(hour);
            let mut stored = data.clone();
            if hour < 0 {
                stored = settled_of(&data);
            }
            hub_ca::advance(&mut stored, now);
            let authority = Authority::of(&stored).unwrap();
            let gateway = authority.issue_server(&["hub.example".to_owned()], now).unwrap();
            for (since, bundle, certificate) in &sites {
                let age = hour - since;
                assert_eq!(gateway_accepts(&authority, certificate, now), age < 24, "at {hour} of {since}");
                // Who was there before the next CA was made is accepted for as long as the former one is shown.
                let knows = *since >= 0 || hour < end;
                assert_eq!(site_accepts(bundle, &gateway, now), knows, "at {hour} of {since}");
            }
            // A token that was made just before is still good.
            if let Some(last) = pins.last() {
                let shown = gateway.chain.iter().any(|part| Pin::of_certificate(part).is_ok_and(|pin| pin == *last));
                assert!(shown || hour >= end, "at {hour}");
            }
            pins.push(authority.pins()[0]);
            sites.push((hour, authority.bundle_pem(), authority.issue_client(&key, now).unwrap()));
        }
        assert_ne!(pins.first(), pins.last());
        let strange = Authority::of(&settled(at(0))).unwrap();
        assert!(sites.iter().all(|(_, _, certificate)| !gateway_accepts(&strange, certificate, at(0))));
    }

    /// Before the rotation was asked for.
    fn settled_of(data: &Data) -> Data {
        data.iter()
            .filter(|(key, _)| [CERTIFICATE, KEY].contains(&key.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let mut data = settled(at(0));
        Authority::of(&data).unwrap().stage_next(&mut data, at(0)).unwrap();
        hub_ca::advance(&mut data, at(24));
        for key in [CERTIFICATE, KEY, CROSS, PREVIOUS] {
            let mut broken = data.clone();
            broken.insert(key.to_owned(), ByteString(b"junk".to_vec()));
            assert!(Authority::of(&broken).is_err(), "{key}");
        }
        let mut broken = data.clone();
        broken.remove(KEY);
        assert!(matches!(Authority::of(&broken), Err(AuthorityError::Missing(KEY))));
    }
}
