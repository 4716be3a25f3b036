//! What Clusters hold: their commit, and what their slices have not let go of yet.

use std::collections::BTreeMap;

use atoll_api::{Cluster, ClusterSlice};
use atoll_core::inventory::Holding;

use crate::state::{committed, is_stopped, unsigned, unsigned_long};

/// Everything that a Cluster holds, ordered by rank and incarnation: the members of its committed placement, and those
/// members of `slices` (all slices of this Cluster) that their Site has not reported as ended. A member is where its
/// Site says it is, else where the hub put it.
///
/// A placed member holds its GPUs even after its end, until a commit leaves it out: the commit alone decides what is
/// taken. A slice counts as long as it exists, also when its Cluster is gone (None): its finalizer goes when the Site
/// has confirmed the stop or the fence has expired.
#[must_use]
pub fn holdings<'a>(cluster: Option<&Cluster>, slices: impl IntoIterator<Item = &'a ClusterSlice>) -> Vec<Holding> {
    let mut held: BTreeMap<(u32, u64), Holding> = BTreeMap::new();
    for slice in slices.into_iter().filter(|slice| !is_stopped(slice)) {
        let spec = &slice.spec;
        let holding = |key: (u32, u64), node: &str| Holding {
            rank: key.0,
            incarnation: key.1,
            site: spec.site.clone(),
            node: node.to_owned(),
            gpus: unsigned(spec.gpus),
        };
        for member in &spec.members {
            let key = (unsigned(member.rank), unsigned_long(member.incarnation));
            held.entry(key).or_insert_with(|| holding(key, &member.node));
        }
        for member in slice.status.iter().flat_map(|status| &status.members) {
            let key = (unsigned(member.rank), unsigned_long(member.incarnation));
            if member.phase.has_ended() {
                held.remove(&key);
            } else if let Some(node) = &member.node {
                held.insert(key, holding(key, node));
            }
        }
    }
    if let Some(cluster) = cluster {
        let placement = cluster.status.as_ref().and_then(|status| status.placement.as_ref());
        let gpus = placement.map_or(0, |placement| unsigned(placement.gpus));
        for member in committed(cluster) {
            let (rank, incarnation) = (member.rank, member.incarnation);
            held.entry((rank, incarnation)).or_insert(Holding {
                rank,
                incarnation,
                site: member.site,
                node: member.node,
                gpus,
            });
        }
    }
    held.into_values().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cluster(nodes: &Value) -> Cluster {
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

    fn slice(site: &str, members: &Value, status: &Value) -> ClusterSlice {
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
        assert_eq!(shown(&holdings(Some(&cluster), &[])), ["0/1@a.n1x2", "1/1@a.n1x2", "2/2@a.n2x2"]);
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
            let shown = shown(&holdings(Some(&cluster), &[slice("b", &old, &status)]));
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
        assert_eq!(shown(&holdings(Some(&cluster), &[slice])), ["0/1@a.n1x2"]);
    }

    #[test]
    fn a_member_that_a_site_still_stops_is_held_though_no_spec_names_it() {
        let stopping =
            slice("b", &json!([]), &json!([{"rank": 4, "incarnation": 1, "phase": "Stopping", "node": "n9"}]));
        assert_eq!(shown(&holdings(None, &[stopping])), ["4/1@b.n9x2"]);
    }

    #[test]
    fn a_slice_whose_site_confirmed_the_stop_holds_nothing() {
        let mut slice = slice("b", &json!([{"rank": 0, "node": "n1", "incarnation": 1}]), &json!([]));
        slice.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(shown(&holdings(None, [&slice])), ["0/1@b.n1x2"]);
        slice.status.as_mut().unwrap().conditions = serde_json::from_value(json!([
            {"type": "Stopped", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        ]))
        .unwrap();
        assert_eq!(holdings(None, [&slice]), []);
    }

    #[test]
    fn a_member_is_held_once_and_where_its_site_says() {
        let cluster = cluster(&json!([{"name": "n1", "rank": 0, "count": 1, "incarnation": 1}]));
        let slice = slice(
            "a",
            &json!([{"rank": 0, "node": "n1", "incarnation": 1}]),
            &json!([{"rank": 0, "incarnation": 1, "phase": "Ready", "node": "n7"}]),
        );
        assert_eq!(shown(&holdings(Some(&cluster), &[slice])), ["0/1@a.n7x2"]);
    }
}
