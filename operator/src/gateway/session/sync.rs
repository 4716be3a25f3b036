//! What an agent is sent of its Site's slices: at the beginning only what differs from what it holds, then changes.

use std::collections::HashMap;

use atoll_api::ClusterSlice;
use atoll_api::conditions;
use atoll_wire::limits::MAX_SPEC_BYTES;
use atoll_wire::{digest, v1};
use kube::api::ObjectMeta;

use super::super::cache::{key_of, version_of};

/// What was sent of a slice, or found to be there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    key: v1::SliceKey,
    uid: Option<String>,
    generation: i64,
    deleted: bool,
}

impl Sent {
    /// Its key on the wire.
    #[must_use]
    pub fn key(&self) -> &v1::SliceKey {
        &self.key
    }
}

/// What is to be sent of a slice.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// The slice as it is.
    Slice(v1::Slice),
    /// That it is being deleted.
    Deleted(v1::SliceDeleted),
}

/// A slice that cannot be sent, which the CRD's bounds do not allow.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// It cannot be written as JSON.
    #[error("cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is too large.
    #[error("{0} bytes are more than the {MAX_SPEC_BYTES} of the protocol")]
    Size(usize),
}

/// The canonical bytes of a slice's specification: fields in the order of the type, maps in the order of their keys.
fn spec_json(slice: &ClusterSlice) -> Result<Vec<u8>, SliceError> {
    let bytes = serde_json::to_vec(&slice.spec)?;
    if bytes.len() > MAX_SPEC_BYTES { Err(SliceError::Size(bytes.len())) } else { Ok(bytes) }
}

fn wire_key(slice: &ClusterSlice) -> v1::SliceKey {
    v1::SliceKey {
        namespace: slice.metadata.namespace.clone().unwrap_or_default(),
        name: slice.metadata.name.clone().unwrap_or_default(),
        cluster_uid: slice.spec.cluster_uid.clone(),
    }
}

/// Whether the hub lists a slice for its Site: it is not being deleted.
#[must_use]
pub fn is_listed(slice: &ClusterSlice) -> bool {
    slice.metadata.deletion_timestamp.is_none()
}

/// What the agent holds, by key of the hub; the digests of its hello.
#[must_use]
pub fn held(hello: &v1::Hello) -> HashMap<v1::SliceKey, &[u8]> {
    hello.slices.iter().filter_map(|slice| Some((slice.key.clone()?, slice.digest.as_slice()))).collect()
}

/// What to send of a slice to an agent that begins a session and holds it with this digest (None: it does not hold it).
///
/// A slice that is being deleted is always named, because the hub waits for the word that nothing of it is left; only
/// where that was said already there is nothing to say.
pub fn first(
    slice: &ClusterSlice,
    held: &HashMap<v1::SliceKey, &[u8]>,
) -> Result<(Sent, Option<Delivery>), SliceError> {
    let key = wire_key(slice);
    let sent = Sent {
        key: key.clone(),
        uid: slice.metadata.uid.clone(),
        generation: slice.metadata.generation.unwrap_or(0),
        deleted: !is_listed(slice),
    };
    if sent.deleted {
        let delivery = (!is_stopped(slice)).then_some(Delivery::Deleted(v1::SliceDeleted { key: Some(key) }));
        return Ok((sent, delivery));
    }
    let spec_json = spec_json(slice)?;
    let same = held.get(&key).is_some_and(|held| *held == digest::spec(&spec_json));
    let delivery =
        (!same).then_some(Delivery::Slice(v1::Slice { key: Some(key), generation: sent.generation, spec_json }));
    Ok((sent, delivery))
}

/// What to send of a slice that changed or vanished, and what is to be remembered of it.
pub fn next(sent: Option<&Sent>, slice: Option<&ClusterSlice>) -> Result<(Option<Sent>, Option<Delivery>), SliceError> {
    let Some(slice) = slice else {
        let delivery = sent
            .filter(|sent| !sent.deleted)
            .map(|sent| Delivery::Deleted(v1::SliceDeleted { key: Some(sent.key.clone()) }));
        return Ok((None, delivery));
    };
    let (now, delivery) = match sent.filter(|sent| sent.uid == slice.metadata.uid) {
        Some(sent) if sent.deleted || is_listed(slice) && slice.metadata.generation == Some(sent.generation) => {
            return Ok((Some(sent.clone()), None));
        }
        _ => first(slice, &HashMap::new())?,
    };
    Ok((Some(now), delivery))
}

fn is_stopped(slice: &ClusterSlice) -> bool {
    slice.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, conditions::slice::STOPPED))
}

/// Whether the cached slices of a Site are older than a list of them: then what the agent would be told to stop, or to
/// start, is not what the hub says now.
pub fn is_behind<'a>(
    cached: impl IntoIterator<Item = &'a ClusterSlice>,
    listed: impl IntoIterator<Item = &'a ObjectMeta>,
    list_version: u64,
) -> bool {
    let cached: HashMap<String, &ObjectMeta> =
        cached.into_iter().map(|slice| (key_of(&slice.metadata), &slice.metadata)).collect();
    let mut in_list = 0;
    for meta in listed {
        match cached.get(&key_of(meta)) {
            Some(known) if version_of(known) >= version_of(meta) => in_list += 1,
            _ => return true,
        }
    }
    // What is cached and not listed is either newer than the list or gone.
    let newer = cached.values().filter(|meta| version_of(meta) > list_version).count();
    cached.len() > in_list + newer
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::super::super::fixtures;
    use super::*;

    fn slice(name: &str, generation: i64) -> ClusterSlice {
        let mut slice = fixtures::slice("default", name, "site-a", generation);
        slice.metadata.generation = Some(generation);
        slice
    }

    fn deleting(mut slice: ClusterSlice, stopped: bool) -> ClusterSlice {
        slice.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        slice.metadata.generation = slice.metadata.generation.map(|generation| generation + 1);
        let mut status = atoll_api::ClusterSliceStatus::default();
        let now = Timestamp::UNIX_EPOCH;
        conditions::set_condition(&mut status.conditions, conditions::slice::STOPPED, stopped, "R", "", None, now);
        slice.status = Some(status);
        slice
    }

    fn hello(slices: &[(&ClusterSlice, Vec<u8>)]) -> v1::Hello {
        let slices = slices
            .iter()
            .map(|(slice, digest)| v1::SliceDigest { key: Some(wire_key(slice)), digest: digest.clone() })
            .collect();
        v1::Hello { slices, ..v1::Hello::default() }
    }

    fn digest_of(slice: &ClusterSlice) -> Vec<u8> {
        digest::spec(&spec_json(slice).unwrap()).to_vec()
    }

    fn kind(delivery: Option<&Delivery>) -> &'static str {
        match delivery {
            None => "nothing",
            Some(Delivery::Slice(_)) => "slice",
            Some(Delivery::Deleted(_)) => "deleted",
        }
    }

    #[test]
    fn at_the_beginning_only_differences_are_sent() {
        let (new, old) = (slice("a", 2), slice("a", 1));
        let recreated = {
            let mut slice = slice("a", 2);
            slice.spec.cluster_uid = "uid-of-another".to_owned();
            slice
        };
        for (what, slice, holds, sent) in [
            ("not held", &new, None, "slice"),
            ("the same", &new, Some((&new, digest_of(&new))), "nothing"),
            ("an older one", &new, Some((&new, digest_of(&old))), "slice"),
            ("found members only", &new, Some((&new, Vec::new())), "slice"),
            ("of an older Cluster of that name", &new, Some((&recreated, digest_of(&new))), "slice"),
            ("being deleted", &deleting(new.clone(), false), Some((&new, digest_of(&new))), "deleted"),
            ("being deleted, not held", &deleting(new.clone(), false), None, "deleted"),
            ("being deleted, confirmed", &deleting(new.clone(), true), None, "nothing"),
        ] {
            let hello = hello(holds.as_slice());
            let (_, delivery) = first(slice, &held(&hello)).unwrap();
            assert_eq!(kind(delivery.as_ref()), sent, "{what}");
        }
    }

    #[test]
    fn later_each_generation_is_sent_once_and_a_deletion_once() {
        let one = slice("a", 1);
        let (sent, delivery) = next(None, Some(&one)).unwrap();
        assert_eq!(kind(delivery.as_ref()), "slice");
        let mut reported = one.clone();
        reported.status = Some(atoll_api::ClusterSliceStatus::default());
        let (sent, delivery) = next(sent.as_ref(), Some(&reported)).unwrap();
        assert_eq!(kind(delivery.as_ref()), "nothing", "a status is no news for the agent");
        let (sent, delivery) = next(sent.as_ref(), Some(&slice("a", 2))).unwrap();
        assert_eq!(kind(delivery.as_ref()), "slice");
        let (sent, delivery) = next(sent.as_ref(), Some(&deleting(slice("a", 2), false))).unwrap();
        assert_eq!(kind(delivery.as_ref()), "deleted");
        let (sent, delivery) = next(sent.as_ref(), Some(&deleting(slice("a", 2), true))).unwrap();
        assert_eq!(kind(delivery.as_ref()), "nothing");
        assert_eq!(next(sent.as_ref(), None).unwrap(), (None, None));
    }

    #[test]
    fn a_slice_that_vanishes_or_is_made_anew_is_told() {
        let one = slice("a", 1);
        let (sent, _) = next(None, Some(&one)).unwrap();
        let (gone, delivery) = next(sent.as_ref(), None).unwrap();
        assert_eq!((gone, kind(delivery.as_ref())), (None, "deleted"));
        let mut again = one.clone();
        again.metadata.uid = Some("another".to_owned());
        let (_, delivery) = next(sent.as_ref(), Some(&again)).unwrap();
        assert_eq!(kind(delivery.as_ref()), "slice");
    }

    #[test]
    fn the_digest_depends_on_the_specification_only() {
        let one = slice("a", 1);
        let mut same = one.clone();
        same.metadata.resource_version = Some("77".to_owned());
        same.status = Some(atoll_api::ClusterSliceStatus::default());
        assert_eq!(digest_of(&one), digest_of(&same));
        same.spec.epoch = 9;
        assert_ne!(digest_of(&one), digest_of(&same));
    }

    #[test]
    fn a_cache_is_behind_when_it_lacks_or_keeps_what_the_list_does_not() {
        let at = |name: &str, version: u64| {
            let mut slice = slice(name, 1);
            slice.metadata.resource_version = Some(version.to_string());
            slice
        };
        for (what, cached, listed, behind) in [
            ("equal", vec![at("a", 5)], vec![at("a", 5)], false),
            ("ahead", vec![at("a", 12)], vec![at("a", 5)], false),
            ("older object", vec![at("a", 4)], vec![at("a", 5)], true),
            ("not seen yet", vec![], vec![at("a", 5)], true),
            ("gone by now", vec![at("a", 5), at("b", 6)], vec![at("a", 5)], true),
            ("made after the list", vec![at("a", 5), at("b", 11)], vec![at("a", 5)], false),
            ("deleted after the list", vec![], vec![], false),
        ] {
            let metas: Vec<_> = listed.iter().map(|slice| slice.metadata.clone()).collect();
            assert_eq!(is_behind(&cached, &metas, 10), behind, "{what}");
        }
    }
}
