//! What things are called on the Site, and which slice they belong to.

use std::collections::BTreeMap;

use atoll_api::names;
use atoll_core::member::Member;
use atoll_wire::v1::SliceKey;
use sha2::{Digest as _, Sha256};

/// Name of the `ServiceAccount` of member pods in each Cluster's namespace; it has no rights and no token.
pub const SERVICE_ACCOUNT: &str = "member";

/// Which slice of the hub something belongs to. Ordered by Cluster first, so that a Cluster's slices are neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceId {
    /// UID of the Cluster.
    pub cluster_uid: String,
    /// Namespace on the hub.
    pub namespace: String,
    /// Name of the `ClusterSlice`, and of its Gang.
    pub name: String,
}

impl SliceId {
    /// The id that a key on the wire stands for; `None` when the key is absent or cannot be that of a slice.
    #[must_use]
    pub fn from_wire(key: Option<SliceKey>) -> Option<Self> {
        let SliceKey { namespace, name, cluster_uid } = key?;
        let uid = !cluster_uid.is_empty() && cluster_uid.len() <= 63 && is_label_value(&cluster_uid);
        (uid && is_name(&name) && is_name(&namespace)).then_some(Self { cluster_uid, namespace, name })
    }

    /// The key of the slice on the wire.
    #[must_use]
    pub fn to_wire(&self) -> SliceKey {
        SliceKey { namespace: self.namespace.clone(), name: self.name.clone(), cluster_uid: self.cluster_uid.clone() }
    }

    /// The namespace on the Site of the slice's Cluster.
    #[must_use]
    pub fn site_namespace(&self) -> String {
        site_namespace(&self.cluster_uid)
    }

    /// The slice that an object of the agent's belongs to, by its labels and annotations.
    #[must_use]
    pub fn of_object(
        name: &str,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> Option<Self> {
        Self::from_wire(Some(SliceKey {
            namespace: annotations.get(names::ANNOTATION_HUB_NAMESPACE)?.clone(),
            name: name.to_owned(),
            cluster_uid: labels.get(names::LABEL_CLUSTER_UID)?.clone(),
        }))
    }
}

/// The namespace on a Site of a Cluster: opaque, so that a Site does not learn the tenant's names from it.
#[must_use]
pub fn site_namespace(cluster_uid: &str) -> String {
    format!("{}{}", names::MEMBER_NAMESPACE_PREFIX, hex::encode(&Sha256::digest(cluster_uid.as_bytes())[..8]))
}

/// The member that a pod of this name is, see [`names::member_pod_name`].
#[must_use]
pub fn member_of_pod_name(name: &str) -> Option<Member> {
    let (rest, incarnation) = name.rsplit_once('-')?;
    let (_, rank) = rest.rsplit_once('-')?;
    Some(Member { rank: rank.parse().ok()?, incarnation: incarnation.parse().ok()? })
}

/// Whether this can name an object: lower case letters, digits, dashes and dots, beginning and ending with one of the
/// first two, at most 253 bytes.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 253
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || c == '-' || c == '.')
}

/// Whether this can be one label of a DNS name.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    is_name(text) && text.len() <= 63 && !text.contains('.')
}

fn is_label_value(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(edge) && text.ends_with(edge) && text.chars().all(|c| edge(c) || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_name_tells_its_member_whatever_the_cluster_is_called() {
        for cluster in ["a", "my-cluster-7", "1-2"] {
            let name = names::member_pod_name(cluster, 3, 12);
            assert_eq!(member_of_pod_name(&name), Some(Member { rank: 3, incarnation: 12 }));
        }
        for other in ["", "a", "a-1", "a-b-1", "a-1-b", "a--1-"] {
            assert_eq!(member_of_pod_name(other), None, "{other}");
        }
    }

    #[test]
    fn keys_that_no_object_can_have_are_no_slices() {
        let key = |namespace: &str, name: &str, uid: &str| {
            SliceId::from_wire(Some(SliceKey {
                namespace: namespace.into(),
                name: name.into(),
                cluster_uid: uid.into(),
            }))
        };
        let id = key("team-a", "train-0011aabb-0", "3f1c").expect("a slice");
        assert_eq!(SliceId::from_wire(Some(id.to_wire())), Some(id.clone()));
        assert!(is_dns_label(&id.site_namespace()));
        assert!(names::is_member_namespace(&id.site_namespace()));
        for (namespace, name, uid) in
            [("", "a", "u"), ("a", "", "u"), ("a", "a", ""), ("a", "A/b", "u"), ("a", "b", "x y")]
        {
            assert_eq!(key(namespace, name, uid), None, "{namespace} {name} {uid}");
        }
        assert_eq!(SliceId::from_wire(None), None);
    }
}
