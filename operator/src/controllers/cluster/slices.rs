//! `ClusterSlice` objects that follow a commit.

use std::fmt::Write;

use atoll_api::names::{LABEL_CLUSTER, LABEL_CLUSTER_UID, LABEL_SITE, SLICE_FINALIZER};
use atoll_api::{
    Cluster, ClusterSlice, ClusterSliceSpec, DisconnectionPolicy, PlacementStatus, Rendezvous, SliceMember, SlicePhase,
};
use atoll_core::cluster::{self as core, Phase};
use kube::Resource;
use kube::api::ObjectMeta;
use sha2::{Digest, Sha256};

/// What a slice is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its Site.
    pub site: String,
    /// Which ranks.
    pub index: u32,
    /// Epoch of the commit that it follows.
    pub epoch: u64,
    /// What the Site is told to do.
    pub phase: Phase,
    /// Its members, by rank.
    pub members: Vec<core::SliceMember>,
}

/// Name of a slice: the same for the same Cluster, Site and ranks, so that making it twice is one slice.
#[must_use]
pub fn name(cluster: &str, uid: &str, site: &str, index: u32) -> String {
    let hash = Sha256::new().chain_update(uid).chain_update(site).finalize();
    let mut name = format!("{cluster}-");
    for byte in &hash[..4] {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    let _ = write!(name, "-{index}");
    name
}

/// The object that a leader of this term writes. None for a Cluster that the API server did not make (without name or UID).
#[must_use]
pub fn build(cluster: &Cluster, placement: &PlacementStatus, wanted: Wanted, term: i64) -> Option<ClusterSlice> {
    let owner = cluster.controller_owner_ref(&())?;
    let rank_0 = placement.sites.iter().flat_map(|site| &site.nodes).find(|node| node.rank == 0);
    let world: i32 = placement.sites.iter().flat_map(|site| &site.nodes).map(|node| node.count).sum();
    let spec = ClusterSliceSpec {
        site: wanted.site.clone(),
        cluster: owner.name.clone(),
        cluster_uid: owner.uid.clone(),
        epoch: i64::try_from(wanted.epoch).ok()?,
        term,
        phase: match wanted.phase {
            Phase::Reserve => SlicePhase::Reserve,
            Phase::Run => SlicePhase::Run,
        },
        type_: cluster.spec.type_,
        members: wanted
            .members
            .into_iter()
            .filter_map(|member| {
                Some(SliceMember {
                    rank: i32::try_from(member.rank).ok()?,
                    node: member.node,
                    incarnation: i64::try_from(member.incarnation).ok()?,
                })
            })
            .collect(),
        gpus: placement.gpus,
        rendezvous: Rendezvous { world_size: world, leader_incarnation: rank_0.map_or(0, |node| node.incarnation) },
        fence: placement.fence.clone(),
        autonomous: cluster.spec.disconnection.policy == Some(DisconnectionPolicy::Autonomous),
        checkpoint_store: cluster.spec.checkpoint.as_ref().map(|checkpoint| checkpoint.store.clone()),
        template: cluster.spec.template.clone(),
    };
    let labels = [(LABEL_SITE, &wanted.site), (LABEL_CLUSTER, &owner.name), (LABEL_CLUSTER_UID, &owner.uid)];
    let metadata = ObjectMeta {
        name: Some(name(&owner.name, &owner.uid, &wanted.site, wanted.index)),
        namespace: cluster.metadata.namespace.clone(),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()),
        finalizers: Some(vec![SLICE_FINALIZER.to_owned()]),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Some(ClusterSlice { metadata, spec, status: None })
}

/// `slice` in the place of `known`, written on that very version. What others have put on it stays.
#[must_use]
pub fn instead(known: &ClusterSlice, slice: ClusterSlice) -> ClusterSlice {
    let mut metadata = ObjectMeta { managed_fields: None, ..known.metadata.clone() };
    metadata.labels.get_or_insert_default().extend(slice.metadata.labels.unwrap_or_default());
    metadata.owner_references = slice.metadata.owner_references;
    let finalizers = metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|name| name == SLICE_FINALIZER) {
        finalizers.push(SLICE_FINALIZER.to_owned());
    }
    ClusterSlice { metadata, spec: slice.spec, status: None }
}

#[cfg(test)]
mod tests {
    use atoll_api::cluster_slice::MAX_SLICE_MEMBERS;
    use atoll_api::{DisconnectionTimes, PlacedNode, PlacedSite};
    use serde_json::json;

    use super::*;

    fn cluster() -> Cluster {
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Cluster",
            "metadata": {"name": "train", "namespace": "team", "uid": "0b6f5c1e-0000-4000-8000-000000000001"},
            "spec": {"type": "Torch", "members": {"count": 10_000},
                     "template": {"spec": {"containers": [{"name": "m", "image": "i"}]}}}
        }))
        .unwrap()
    }

    #[test]
    fn names_differ_by_site_and_index_and_are_short_enough() {
        let name = |site, index| super::name(&"c".repeat(40), "uid", site, index);
        assert_eq!(name("a", 0), name("a", 0));
        assert_ne!(name("a", 0), name("b", 0));
        assert_ne!(name("a", 0), name("a", 1));
        assert!(name("a", 199).len() <= 63);
    }

    #[test]
    fn the_largest_slice_is_below_a_megabyte_and_carries_what_its_site_needs() {
        let nodes = (0..10_000)
            .map(|rank| PlacedNode { name: format!("node-{rank}"), rank, count: 1, incarnation: 3 })
            .collect();
        let placement = PlacementStatus {
            epoch: 4,
            term: 2,
            gpus: 8,
            fence: DisconnectionTimes::default(),
            sites: vec![PlacedSite { site: "site-a".to_owned(), price: None, nodes }],
            ..PlacementStatus::default()
        };
        let members =
            (500..1_000).map(|rank| core::SliceMember { rank, node: format!("node-{rank}"), incarnation: 3 }).collect();
        let wanted = Wanted { site: "site-a".to_owned(), index: 1, epoch: 4, phase: Phase::Run, members };
        let slice = build(&cluster(), &placement, wanted, 7).unwrap();
        assert_eq!(slice.spec.term, 7, "of who writes, not of who committed");
        assert_eq!(slice.spec.members.len(), MAX_SLICE_MEMBERS);
        assert_eq!(MAX_SLICE_MEMBERS, core::SLICE_RANKS as usize);
        assert_eq!(slice.spec.rendezvous, Rendezvous { world_size: 10_000, leader_incarnation: 3 });
        assert_eq!(slice.metadata.finalizers.as_deref(), Some(&[SLICE_FINALIZER.to_owned()][..]));
        assert!(serde_json::to_vec(&slice).unwrap().len() < 1 << 20);

        let mut known = slice.clone();
        known.metadata.resource_version = Some("41".to_owned());
        known.metadata.finalizers = Some(vec!["example.com/theirs".to_owned()]);
        known.metadata.labels.get_or_insert_default().insert("seen".to_owned(), "yes".to_owned());
        let again = instead(&known, slice);
        assert_eq!(again.metadata.resource_version.as_deref(), Some("41"), "refused if it has changed");
        assert_eq!(again.metadata.finalizers.unwrap(), ["example.com/theirs", SLICE_FINALIZER]);
        assert_eq!(again.metadata.labels.unwrap().len(), 4);
    }
}
