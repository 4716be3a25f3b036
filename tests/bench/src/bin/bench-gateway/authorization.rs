//! What it takes to know who asks and whether it may: the gateway's own steps, in this process, among few Sites and many.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_api::{ClusterSlice, Site};
use atoll_operator::gateway::cache::{Cache, key_of};
use atoll_operator::gateway::registry::Registry;
use atoll_operator::gateway::{pki, reports};
use atoll_wire::v1;
use atoll_wire_client::{Authority, Validity};
use jiff::Timestamp;
use kube::runtime::watcher::Event;
use serde_json::json;

/// Certificates that take turns, so that parsing one is not remembered.
const CERTIFICATES: usize = 256;

/// The p99 of a request's authorization among so many Sites, in rounds so that the machine's mood shows less.
pub fn among(sites: usize, requests: usize) -> Result<Duration> {
    let authority = Authority::forged("Atoll hub CA")?;
    let identities = (0..CERTIFICATES).map(|_| authority.site(Validity::Now)).collect::<Result<Vec<_>, _>>()?;
    let (known, slices, registry) = (Cache::<Site>::default(), Cache::<ClusterSlice>::default(), Registry::default());
    let mut sessions = Vec::new();
    for number in 0..sites {
        let name = identities.get(number).map_or_else(|| format!("site-{number:016x}"), |known| known.site.clone());
        known.apply(Event::Apply(site(&name)?));
        slices.apply(Event::Apply(slice(&name)?));
        sessions.push(registry.begin(&name));
    }
    let here: Vec<_> = identities.iter().take(sites).collect();
    let mut times = Vec::with_capacity(requests);
    for request in 0..requests {
        let identity = here.get(request % here.len()).context("no Site")?;
        let stranger = here.get((request + 1) % here.len()).context("no Site")?;
        let reports = [report(&identity.site), report(&stranger.site)];
        let began = Instant::now();
        let name = pki::site_of(&identity.certificate)?;
        let allowed = known.get(&name).is_some_and(|site| !site.spec.suspended) && registry.keeps(&name);
        let [own, foreign] = reports.each_ref().map(|report| {
            let slice = report.key.as_ref().and_then(|key| slices.get(&reports::cache_key(key)));
            reports::status(report, &name, 1, slice.as_deref(), Timestamp::UNIX_EPOCH)
        });
        times.push(began.elapsed());
        ensure!(allowed && own.is_ok() && foreign.is_err(), "authorization is wrong for {name}");
    }
    Ok(atoll_bench::percentile(&times, 99))
}

fn site(name: &str) -> Result<Site> {
    let site = json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": { "name": name, "resourceVersion": "1" },
        "spec": { "supplier": "acme", "region": "eu-west", "trust": "Contracted" },
    });
    Ok(serde_json::from_value(site)?)
}

fn slice(site: &str) -> Result<ClusterSlice> {
    let slice = json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "ClusterSlice",
        "metadata": { "name": format!("train-{site}"), "namespace": "default", "resourceVersion": "1" },
        "spec": {
            "site": site, "cluster": "train", "clusterUid": "uid-train", "epoch": 1, "term": 1, "phase": "Run",
            "type": "Pods", "gpus": 1, "rendezvous": { "worldSize": 1, "leaderIncarnation": 1 },
            "members": [{ "rank": 0, "node": "n-0", "incarnation": 1 }],
            "fence": { "stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120 },
            "template": { "spec": { "containers": [{ "name": "main", "image": "example.com/train" }] } },
        },
    });
    let slice: ClusterSlice = serde_json::from_value(slice)?;
    ensure!(key_of(&slice.metadata).starts_with("default/"), "a slice without its namespace");
    Ok(slice)
}

fn report(site: &str) -> v1::SliceReport {
    let key = v1::SliceKey {
        namespace: "default".to_owned(),
        name: format!("train-{site}"),
        cluster_uid: "uid-train".to_owned(),
    };
    let member = v1::Member { incarnation: 1, phase: 3, node: "n-0".to_owned(), ..v1::Member::default() };
    v1::SliceReport { key: Some(key), observed_epoch: 1, members: vec![member], ..v1::SliceReport::default() }
}
