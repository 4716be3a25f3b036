//! `ca`: the hub's CA, and its rotation.

use std::time::Duration;

use atoll_api::hub_ca::{self, Data, ROTATE, Stage};
use atoll_api::names::{HUB_CA_SECRET, SYSTEM_NAMESPACE};
use atoll_wire::pin::Pin;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::error::Error;
use crate::render::print;
use crate::token::FIELD_MANAGER;
use crate::verdict::Verdict;

/// How often a gateway's answer is looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How often in all.
const LOOKS: usize = 60;

/// The hub's CA as it holds now: the pin of the key that issues, and how far a rotation is.
pub async fn present(client: &Client, now: Timestamp) -> Result<(Pin, Stage), Error> {
    let (_, data) = read(client, now).await?;
    Ok((pin(&data)?, hub_ca::stage(&data)))
}

/// Says which CA the hub has.
pub async fn show(client: &Client, now: Timestamp) -> Result<Verdict, Error> {
    let (pin, stage) = present(client, now).await?;
    print(&format!("Pin: {pin}\n{}\n", words(stage)));
    Ok(Verdict::Fits)
}

/// Asks the gateways for the next CA, and waits until one has made it.
pub async fn rotate(client: &Client, now: Timestamp) -> Result<Verdict, Error> {
    let (stored, data) = read(client, now).await?;
    match hub_ca::stage(&data) {
        Stage::Settled => {
            let wish = ByteString(format!("{now:.0}").into_bytes());
            let patch = json!({
                "metadata": { "resourceVersion": stored.resource_version() },
                "data": { ROTATE: wish },
            });
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            api(client).patch(HUB_CA_SECRET, &params, &Patch::Merge(&patch)).await?;
        }
        // Asked for before; what is missing is a gateway.
        Stage::Wanted => {}
        stage => return Err(Error::Rotating(words(stage))),
    }
    for _ in 0..LOOKS {
        let (_, stage) = present(client, Timestamp::now()).await?;
        if stage != Stage::Wanted {
            print(&format!("{}\n", words(stage)));
            return Ok(Verdict::Fits);
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Error::NoGateway)
}

fn api(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), SYSTEM_NAMESPACE)
}

/// The Secret as it is stored, and its data as they hold now.
async fn read(client: &Client, now: Timestamp) -> Result<(Secret, Data), Error> {
    let stored = api(client).get_opt(HUB_CA_SECRET).await?.ok_or_else(|| Error::NoCa(name()))?;
    let mut data = stored.data.clone().unwrap_or_default();
    hub_ca::advance(&mut data, now);
    Ok((stored, data))
}

fn pin(data: &Data) -> Result<Pin, Error> {
    let pem = hub_ca::text(data, hub_ca::CERTIFICATE).ok_or_else(|| Error::NoCa(name()))?;
    Pin::of_certificate_pem(pem).map_err(|error| Error::BadCa(name(), error))
}

fn name() -> String {
    format!("{SYSTEM_NAMESPACE}/{HUB_CA_SECRET}")
}

fn words(stage: Stage) -> String {
    match stage {
        Stage::Settled => "No rotation is under way.".to_owned(),
        Stage::Wanted => "A new CA is asked for; a gateway makes it.".to_owned(),
        Stage::Staged(until) => {
            format!("The next CA is trusted and handed out; it issues from {until:.0}. Nothing is left to do.")
        }
        Stage::Following(until) => {
            format!("The CA is new; the one before it is trusted until {until:.0}. Nothing is left to do.")
        }
        Stage::Damaged(key) => format!("The rotation stands still: Secret {} has no date under {key:?}.", name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_is_that_of_the_ca_that_issues_at_that_moment() {
        let pem = || {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
        };
        let (old, new) = (pem(), pem());
        let at = |hours: i64| Timestamp::from_second(1_800_000_000 + hours * 3_600).unwrap();
        let mut data = Data::from([(hub_ca::CERTIFICATE.to_owned(), ByteString(old.clone().into_bytes()))]);
        hub_ca::put_next(&mut data, &new, "key", "cross", at(0));
        for (hours, issuing) in [(0, &old), (23, &old), (24, &new), (9_999, &new)] {
            let mut then = data.clone();
            hub_ca::advance(&mut then, at(hours));
            assert_eq!(pin(&then).unwrap(), Pin::of_certificate_pem(issuing).unwrap(), "{hours}");
        }
        assert!(matches!(pin(&Data::new()), Err(Error::NoCa(_))));
    }
}
