//! Joins at a steady pace, from the first byte until the session is in step; and suspensions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atoll_api::Site;
use atoll_wire::pin::Pin;
use atoll_wire::token::{JoinToken, KEY_EXPIRES, KEY_HASH, KEY_SUPPLIER, KEY_TRUST, RANDOM_BYTES};
use atoll_wire::v1;
use atoll_wire_client::{Endpoint, Identity, JOIN};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::agent::{Agent, End};
use crate::hub::{Hub, SYSTEM};

/// How long one may take before it counts as failed.
const LIMIT: Duration = Duration::from_mins(1);

/// A Site that has joined, and its session.
pub struct Joined {
    pub site: String,
    session: JoinHandle<Result<(), End>>,
}

/// So many joins a second; how long each took from its first byte until its session was in step.
pub async fn measure(hub: &Hub, pace: u32, length: Duration) -> Result<(Vec<Duration>, Vec<Joined>)> {
    let count = usize::try_from(u64::from(pace) * length.as_secs())?;
    let mut tokens = tokens(hub, count).await?.into_iter();
    let endpoint = hub.endpoint()?;
    let (done, mut all) = mpsc::unbounded_channel();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / pace);
    for token in tokens.by_ref() {
        ticks.tick().await;
        let (endpoint, done) = (endpoint.clone(), done.clone());
        tokio::spawn(async move {
            let result = tokio::time::timeout(LIMIT, join(endpoint, token)).await;
            drop(done.send(result.map_err(anyhow::Error::from).and_then(|result| result)));
        });
    }
    drop(done);
    let (mut times, mut joined) = (Vec::new(), Vec::new());
    while let Some(result) = all.recv().await {
        let (time, site) = result?;
        times.push(time);
        joined.push(site);
    }
    Ok((times, joined))
}

async fn tokens(hub: &Hub, count: usize) -> Result<Vec<String>> {
    let secrets: Api<Secret> = Api::namespaced(hub.plane.client(), SYSTEM);
    let pin = Pin::of_certificate_pem(&hub.ca_pem)?;
    let expires = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_mins(15))?.to_string();
    let make = async |number: usize| -> Result<String> {
        let mut random = [0; RANDOM_BYTES];
        random[..8].copy_from_slice(&number.to_be_bytes());
        let made = JoinToken::generate(&random, pin);
        let token = made.presented();
        let secret = Secret {
            metadata: ObjectMeta { name: Some(token.secret_name()), ..ObjectMeta::default() },
            string_data: Some(BTreeMap::from([
                (KEY_HASH.to_owned(), token.secret_hash()),
                (KEY_SUPPLIER.to_owned(), "acme".to_owned()),
                (KEY_TRUST.to_owned(), "Contracted".to_owned()),
                (KEY_EXPIRES.to_owned(), expires.clone()),
            ])),
            ..Secret::default()
        };
        secrets.create(&PostParams::default(), &secret).await?;
        Ok(token.to_string())
    };
    stream::iter(0..count).map(make).buffer_unordered(32).try_collect().await
}

async fn join(endpoint: Endpoint, token: String) -> Result<(Duration, Joined)> {
    let key = KeyPair::generate()?;
    let csr_der = CertificateParams::default().serialize_request(&key)?.der().to_vec();
    let began = Instant::now();
    let request = v1::JoinRequest {
        token,
        csr_der,
        display_name: "Bench".to_owned(),
        region: "eu-west".to_owned(),
        agent_version: "bench".to_owned(),
        wallet: None,
    };
    let link = endpoint.connect(None).await?;
    let answer: v1::JoinResponse = link.unary(JOIN, &request).await?;
    drop(link);
    let identity = Identity {
        site: answer.site.clone(),
        certificate: CertificateDer::from_pem_slice(answer.certificate_pem.as_bytes())?,
        key: PrivatePkcs8KeyDer::from(key.serialize_der()),
    };
    let (told, synced) = oneshot::channel();
    let session = tokio::spawn(async move {
        Agent::new(endpoint, identity)
            .session(|| {
                let _: Result<(), Instant> = told.send(Instant::now());
            })
            .await
    });
    match synced.await {
        Ok(at) => Ok((at - began, Joined { site: answer.site, session })),
        Err(_) => bail!("{}: {:?}", answer.site, session.await?),
    }
}

/// How long sessions live on after their Sites are suspended, one Site after another.
pub async fn suspend(hub: &Hub, joined: &mut [Joined]) -> Result<Vec<Duration>> {
    let sites: Api<Site> = Api::all(hub.plane.client());
    let mut times = Vec::new();
    for Joined { site, session } in joined {
        let began = Instant::now();
        let patch = json!({ "spec": { "suspended": true } });
        sites.patch(site, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        let ended = tokio::time::timeout(LIMIT, session).await.with_context(|| format!("{site} lives on"))??;
        if !matches!(ended, Err(End::Goodbye(_))) {
            bail!("{site} ended otherwise: {ended:?}");
        }
        times.push(began.elapsed());
    }
    Ok(times)
}
