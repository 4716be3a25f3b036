mod asks;
mod gangs;
mod golden;
mod requests;
mod volumes;
mod whole;

use std::collections::BTreeMap;

use super::*;
use prost::bytes::Bytes;

use crate::proto::{
    Amount, Container, ContainerStatus, Entry, Pod, PodSpec, PodStatus, Quantity, ResourceRequirements,
};

type Pairs<'a> = &'a [(&'a str, &'a str)];

const US: &str = "atoll-scheduler";

fn map(pairs: Pairs) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn quantities(pairs: Pairs) -> Vec<Amount> {
    let amount = |(resource, text): &(&str, &str)| Amount {
        resource: (*resource).to_owned(),
        quantity: Some(Quantity { string: (*text).to_owned() }),
    };
    pairs.iter().map(amount).collect()
}

fn entries(pairs: Pairs) -> Vec<Entry> {
    pairs.iter().map(|(key, value)| Entry { key: (*key).to_owned(), value: (*value).to_owned() }).collect()
}

/// What protobuf keeps as it was read.
fn raw(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// None where nothing is asked.
fn resources(pairs: Pairs) -> Option<ResourceRequirements> {
    let requests = quantities(pairs);
    if requests.is_empty() { None } else { Some(ResourceRequirements { requests, claims: Vec::new() }) }
}

fn container(name: &str, requests: Pairs) -> Container {
    Container { name: raw(name), resources: resources(requests), ..Container::default() }
}

fn sidecar(name: &str, requests: Pairs) -> Container {
    Container { restart_policy: Some(raw("Always")), ..container(name, requests) }
}

fn containers(containers: Vec<Container>) -> PodSpec {
    PodSpec { containers, ..PodSpec::default() }
}

/// Status of a container: promised, given.
fn status(name: &str, promised: Pairs, given: Pairs) -> ContainerStatus {
    ContainerStatus { name: raw(name), allocated_resources: quantities(promised), resources: resources(given) }
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta { name: name.to_owned(), namespace: "ns".to_owned(), uid: "u".to_owned(), ..ObjectMeta::default() }
}

/// A pod of ours.
fn facts(spec: PodSpec, status: PodStatus) -> PodFacts {
    facts_with(meta("p"), spec, status)
}

fn facts_with(meta: ObjectMeta, spec: PodSpec, status: PodStatus) -> PodFacts {
    let spec = PodSpec { scheduler_name: raw(US), ..spec };
    PodFacts::of(Pod { metadata: Some(meta), spec: Some(spec), status: Some(status) }, US, &Interner::default())
}

fn of_spec(spec: PodSpec) -> PodFacts {
    facts(spec, PodStatus::default())
}

#[test]
fn times_round_trip_in_whole_seconds() {
    let time = Duration::from_secs(1_800_000_001);
    assert_eq!(since_epoch(&api_time(time).0), time);
    assert_eq!(instant(Time { seconds: 1_800_000_001, nanos: 5 }), time + Duration::from_nanos(5));
    assert_eq!(instant(Time { seconds: -62_135_596_800, nanos: 0 }), Duration::ZERO);
}
