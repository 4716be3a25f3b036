//! Joining by a wallet: without anybody's leave, and so into quarantine.

use atoll_api::{Site, Supplier, SupplierSpec, Trust};
use atoll_wire::pin::Pin;
use atoll_wire::v1;
use atoll_wire::wallet::{Statement, WalletError, WalletKey};
use jiff::Timestamp;
use tonic::Status;

use super::super::pki::SiteKey;
use super::{Joiner, Wanted, in_good_standing, others_key, post, standing, unavailable};

/// The most Sites of one wallet that wait in quarantine.
const QUARANTINED_OF_WALLET: usize = 64;
/// The most Sites that wait in quarantine: wallets cost nothing, and Sites take room in the hub's store.
const QUARANTINED: usize = 10_000;

/// A wallet that signed for the key of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalletProof {
    wallet: WalletKey,
}

impl WalletProof {
    /// Checks the signature. The Site may have checked this hub by the pin of any CA that is trusted now.
    pub(super) fn of(
        wallet: &v1::Wallet,
        request: &v1::JoinRequest,
        key: &SiteKey,
        pins: &[Pin],
        now: Timestamp,
    ) -> Result<Self, Status> {
        let refused = |error: WalletError| Status::unauthenticated(error.to_string());
        let signer = WalletKey::new(&wallet.public_key).map_err(refused)?;
        let mut result = Err(WalletError::Signature);
        for hub in pins.iter().copied() {
            let statement = Statement {
                hub,
                key: key.pin(),
                signed_at: wallet.signed_at,
                region: &request.region,
                display_name: &request.display_name,
            };
            result = signer.verify(&statement, &wallet.signature, now.as_second());
            if result.is_ok() {
                break;
            }
        }
        result.map_err(refused)?;
        Ok(Self { wallet: signer })
    }
}

impl Joiner {
    pub(super) async fn join_by_wallet(&self, wanted: &Wanted, proof: &WalletProof) -> Result<(), Status> {
        let name = proof.wallet.supplier_name();
        let known = self.supplier(&name).await?;
        if let Some(supplier) = &known {
            theirs(supplier, proof)?;
        }
        if let Some(site) = self.sites.get_opt(wanted.key.name()).await.map_err(unavailable)? {
            // Again: the answer was lost, or the certificate with it.
            return if site.spec.supplier == name { standing(&site, known.as_deref()) } else { Err(others_key(&site)) };
        }
        let waiting = |site: &Site| site.spec.quarantined;
        let of_wallet = |site: &Site| site.spec.quarantined && site.spec.supplier == name;
        if self.known_sites.count(of_wallet) >= QUARANTINED_OF_WALLET {
            return Err(Status::resource_exhausted(format!(
                "{QUARANTINED_OF_WALLET} Sites of this wallet wait in quarantine; have some of them promoted or deleted first"
            )));
        }
        if self.known_sites.count(waiting) >= QUARANTINED {
            return Err(Status::resource_exhausted("too many Sites wait in quarantine at this hub; try again later"));
        }
        if known.is_none() {
            match self.suppliers.create(&post(), &new_supplier(&name, proof)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    theirs(&self.suppliers.get(&name).await.map_err(unavailable)?, proof)?;
                }
                Err(error) => return Err(unavailable(error)),
            }
        }
        match self.sites.create(&post(), &wanted.site(&name, Trust::Untrusted, true)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                Err(Status::unavailable("this key joins twice at this moment; try again"))
            }
            Err(error) => Err(unavailable(error)),
        }
    }
}

/// Whether a Supplier is this wallet's and in good standing. Its name holds a part of a hash only.
fn theirs(supplier: &Supplier, proof: &WalletProof) -> Result<(), Status> {
    if supplier.spec.wallet.as_ref() != Some(&proof.wallet.address()) {
        return Err(Status::failed_precondition(
            "the supplier of this wallet's name has another wallet; ask the operators of the hub",
        ));
    }
    in_good_standing(supplier)
}

fn new_supplier(name: &str, proof: &WalletProof) -> Supplier {
    Supplier::new(
        name,
        SupplierSpec {
            display_name: proof.wallet.short_address(),
            contact: None,
            wallet: Some(proof.wallet.address()),
            suspended: false,
        },
    )
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_wallet_s_supplier_is_its_own_and_may_not_be_suspended() {
        let proof = WalletProof { wallet: WalletKey::new(&[9; 32]).unwrap() };
        let name = proof.wallet.supplier_name();
        let good = new_supplier(&name, &proof);
        assert!(theirs(&good, &proof).is_ok());
        assert!(good.spec.contact.is_none());
        let mut suspended = good.clone();
        suspended.spec.suspended = true;
        assert_eq!(theirs(&suspended, &proof).unwrap_err().code(), Code::PermissionDenied);
        for wallet in [None, Some(WalletKey::new(&[8; 32]).unwrap().address())] {
            let mut other = good.clone();
            other.spec.wallet = wallet;
            assert_eq!(theirs(&other, &proof).unwrap_err().code(), Code::FailedPrecondition);
        }
    }
}
