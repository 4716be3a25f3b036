//! What Clusters hold: their commit, and what their slices have not let go of yet.

use std::collections::BTreeMap;

use atoll_api::{Cluster, ClusterSlice, MemberPhase};
use atoll_core::inventory::Holding;

/// Everything that a Cluster holds, ordered by rank and incarnation: the members of its committed placement, and those
/// members of `slices` (all slices of this Cluster) that their Site has not reported as ended.
///
/// A placed member holds its GPUs even after its end, until a commit says otherwise: the commit alone decides what is
/// taken. A slice counts as long as it exists, whatever was deleted meanwhile: its finalizer goes when the Site has
/// confirmed the stop or the fence has expired.
#[must_use]
pub fn holdings(cluster: &Cluster, slices: &[ClusterSlice]) -> Vec<Holding> {
    let mut held = held_by_slices(slices);
    if let Some(placement) = cluster.status.as_ref().and_then(|status| status.placement.as_ref()) {
        for site in &placement.sites {
            for node in &site.nodes {
                for rank in node.rank..node.rank.saturating_add(node.count) {
                    hold(&mut held, rank, node.incarnation, &site.site, &node.name, placement.gpus);
                }
            }
        }
    }
    held.into_values().collect()
}

/// What the slices of a Cluster hold that is gone itself.
#[must_use]
pub fn slice_holdings(slices: &[ClusterSlice]) -> Vec<Holding> {
    held_by_slices(slices).into_values().collect()
}

/// A member's process is one thing on one node; the Site says where it really is.
type Held = BTreeMap<(u32, u64), Holding>;

fn held_by_slices(slices: &[ClusterSlice]) -> Held {
    let mut held = Held::new();
    for slice in slices {
        let spec = &slice.spec;
        for member in &spec.members {
            hold(&mut held, member.rank, member.incarnation, &spec.site, &member.node, spec.gpus);
        }
        for member in slice.status.iter().flat_map(|status| &status.members) {
            let key = (unsigned(member.rank), unsigned_long(member.incarnation));
            if has_ended(member.phase) {
                held.remove(&key);
            } else if let Some(node) = &member.node {
                held.insert(key, holding(key, &spec.site, node, spec.gpus));
            }
        }
    }
    held
}

const fn has_ended(phase: MemberPhase) -> bool {
    match phase {
        MemberPhase::Succeeded | MemberPhase::Failed | MemberPhase::Lost => true,
        MemberPhase::Pending | MemberPhase::Starting | MemberPhase::Ready | MemberPhase::Stopping => false,
    }
}

fn hold(held: &mut Held, rank: i32, incarnation: i64, site: &str, node: &str, gpus: i32) {
    let key = (unsigned(rank), unsigned_long(incarnation));
    held.entry(key).or_insert_with(|| holding(key, site, node, gpus));
}

fn holding((rank, incarnation): (u32, u64), site: &str, node: &str, gpus: i32) -> Holding {
    Holding { rank, incarnation, site: site.to_owned(), node: node.to_owned(), gpus: unsigned(gpus) }
}

/// The CRDs allow no negative numbers in these fields.
fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

fn unsigned_long(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(nodes: &serde_json::Value) -> Cluster {
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "c", "uid": "u"},
            "spec": {"type": "Pods", "members": {"count": 3},
                     "template": {"spec": {"containers": [{"name": "m", "image": "i"}]}}},
            "status": {"epoch": 2, "placement": {"epoch": 2, "term": 1, "gpus": 2,
                "fence": {"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120},
                "sites": [{"site": "a", "nodes": nodes}]}},
        }))
        .unwrap()
    }

    fn slice(site: &str, members: &serde_json::Value, status: &serde_json::Value) -> ClusterSlice {
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "ClusterSlice", "metadata": {"name": "c-0"},
            "spec": {"site": site, "cluster": "c", "clusterUid": "u", "epoch": 2, "term": 1, "phase": "Run",
                     "type": "Pods", "members": members, "gpus": 2,
                     "rendezvous": {"worldSize": 3, "leaderIncarnation": 1},
                     "fence": {"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120},
                     "template": {"spec": {"containers": [{"name": "m", "image": "i"}]}}},
            "status": {"members": status},
        }))
        .unwrap()
    }

    fn shown(holdings: &[Holding]) -> Vec<String> {
        holdings.iter().map(|h| format!("{}/{}@{}.{}x{}", h.rank, h.incarnation, h.site, h.node, h.gpus)).collect()
    }

    #[test]
    fn a_commit_holds_every_rank_of_its_nodes() {
        let cluster = cluster(&json!([{"name": "n1", "rank": 0, "count": 2, "incarnation": 1},
                                      {"name": "n2", "rank": 2, "count": 1, "incarnation": 2}]));
        assert_eq!(shown(&holdings(&cluster, &[])), ["0/1@a.n1x2", "1/1@a.n1x2", "2/2@a.n2x2"]);
    }

    #[test]
    fn a_member_that_left_the_commit_is_held_until_its_site_reports_its_end() {
        let cluster = cluster(&json!([{"name": "n2", "rank": 0, "count": 1, "incarnation": 2}]));
        let old = json!([{"rank": 0, "node": "n1", "incarnation": 1}]);
        for (phase, held) in [
            (None, true),
            (Some("Pending"), true),
            (Some("Starting"), true),
            (Some("Ready"), true),
            (Some("Stopping"), true),
            (Some("Succeeded"), false),
            (Some("Failed"), false),
            (Some("Lost"), false),
        ] {
            let status = phase.map_or(json!([]), |phase| json!([{"rank": 0, "incarnation": 1, "phase": phase}]));
            let shown = shown(&holdings(&cluster, &[slice("b", &old, &status)]));
            assert_eq!(shown.contains(&"0/1@b.n1x2".to_owned()), held, "{phase:?}");
            assert!(shown.contains(&"0/2@a.n2x2".to_owned()), "{phase:?}");
        }
    }

    #[test]
    fn a_placed_member_that_ended_is_held_until_a_commit_leaves_it_out() {
        let cluster = cluster(&json!([{"name": "n1", "rank": 0, "count": 1, "incarnation": 1}]));
        let slice = slice(
            "a",
            &json!([{"rank": 0, "node": "n1", "incarnation": 1}]),
            &json!([{"rank": 0, "incarnation": 1, "phase": "Succeeded", "node": "n1"}]),
        );
        assert_eq!(shown(&holdings(&cluster, &[slice])), ["0/1@a.n1x2"]);
    }

    #[test]
    fn a_member_that_a_site_still_stops_is_held_though_no_spec_names_it() {
        let stopping = slice("b", &json!([]), &json!([{"rank": 4, "incarnation": 1, "phase": "Stopping", "node": "n9"}]));
        assert_eq!(shown(&slice_holdings(&[stopping])), ["4/1@b.n9x2"]);
    }

    #[test]
    fn a_member_is_held_once_and_where_its_site_says() {
        let cluster = cluster(&json!([{"name": "n1", "rank": 0, "count": 1, "incarnation": 1}]));
        let slice = slice(
            "a",
            &json!([{"rank": 0, "node": "n1", "incarnation": 1}]),
            &json!([{"rank": 0, "incarnation": 1, "phase": "Ready", "node": "n7"}]),
        );
        assert_eq!(shown(&holdings(&cluster, &[slice])), ["0/1@a.n7x2"]);
    }
}
